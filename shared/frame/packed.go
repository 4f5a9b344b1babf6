package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/sapflow/sapflow/shared/point"
)

// A packed column is quicker to read than decisions, by a factor of six, and
// takes as much for a sensor that is read at a steady rate: how likely each
// size of a step is stands in front, and does not change. FORMAT.md tells its
// layout.
const (
	// minPacked is how many points pay for what stands in front.
	minPacked = 64
	// slotBits is the precision of how likely a token is.
	slotBits = 11
	slots    = 1 << slotBits
	// stateLow bounds the state of a coder, which gets another 16 bits below.
	stateLow = 1 << 16
	// tokens is how many sizes of a step are told apart.
	tokens    = 2 + 2*63
	tokenBits = 7
	// freqBits holds the number of bits of a frequency, freqTop how many of
	// them below the leading one are told.
	freqBits = 4
	freqTop  = 3
	// evenShift: a time is due as a mean over 1<<evenShift says.
	evenShift = 4
)

// forecast is how a value is expected: as the last one, as far on again, or
// half as far.
type forecast byte

const (
	forecastStay forecast = iota
	forecastGoOn
	forecastHalf
	forecasts
)

// token returns the size of a step, as a number for itself and in how many
// bits the rest follows: 0, 1, then two for each class. The last bit of the
// rest is the sign.
func token(d int64) (t int, rest uint64, n uint) {
	m := abs(d)
	k := uint(bits.Len64(m))
	if k == 0 {
		return 0, 0, 0
	}
	t, n = 1, 1
	if k > 1 {
		t, n = int(2*k-2|uint(m>>(k-2)&1)), k-1
	}
	return t, m&(1<<(n-1)-1)<<1 | uint64(d)>>63, n
}

// sizes tells by token the size of a step without the rest, and the bits of
// the rest.
var sizes = func() (t [tokens]struct {
	base uint64
	rest uint
},
) {
	t[1].base, t[1].rest = 1, 1
	for i := 2; i < tokens; i++ {
		k := uint(i/2 + 1)
		t[i].base, t[i].rest = (2|uint64(i&1))<<(k-2), k-1
	}
	return t
}()

// packing is a column that is being packed.
type packing struct {
	bits []byte // tables, then the rests
	free uint   // bits of the last byte that are not used
}

// put appends the lowest n bits of v.
func (p *packing) put(v uint64, n uint) {
	for n > 0 {
		if p.free == 0 {
			p.bits, p.free = append(p.bits, 0), 8
		}
		k := min(n, p.free)
		p.bits[len(p.bits)-1] |= byte(v&(1<<k-1)) << (8 - p.free)
		v, n, p.free = v>>k, n-k, p.free-k
	}
}

// odds are how likely each token is, in 1/slots, and where its slots begin.
type odds struct {
	freq, from [tokens]uint16
}

// learn finds how often each token comes, and appends that: the first
// token that comes, how many follow up to the last, which of them is the most
// frequent, and the frequency of each but that one, which has the slots that
// are left. ok is false if there are none.
func (t *odds) learn(p *packing, count *[tokens]int) (ok bool) {
	first, last, most, all := tokens-1, 0, 0, 0
	for i, n := range count {
		if n == 0 {
			continue
		}
		if all += n; n > count[most] {
			most = i
		}
		first, last = min(first, i), i
	}
	p.put(uint64(first), tokenBits)
	p.put(uint64(last-first), tokenBits)
	p.put(uint64(most-first), tokenBits)
	left := slots
	for i := first; i <= last; i++ {
		if i == most {
			continue
		}
		f := uint(0)
		if count[i] > 0 {
			f = uint(max(1, count[i]*slots/all))
		}
		k := uint(bits.Len(f))
		cut := k - min(k, 1+freqTop)
		f = f >> cut << cut
		p.put(uint64(k), freqBits)
		if k > 1 {
			p.put(uint64(f>>cut), k-1-cut)
		}
		t.freq[i] = uint16(f)
		left -= int(f)
	}
	if left < 1 {
		return false
	}
	t.freq[most] = uint16(left)
	for i := 1; i < tokens; i++ {
		t.from[i] = t.from[i-1] + t.freq[i-1]
	}
	return true
}

// clock tells when the next time is due: a period behind a mean over the last.
// Times are in units from the first.
type clock struct{ period, even int64 }

func (c *clock) due() int64 { return (c.even>>(evenShift-1)+1)>>1 + c.period }

// arrived takes in a time that was off by d.
func (c *clock) arrived(time, d int64) {
	if abs(d) > uint64(c.period) {
		c.even = time << evenShift
	} else {
		c.even += c.period<<evenShift + d
	}
}

// next returns a forecast by the last value and its step.
func (f forecast) next(last, step int64) int64 {
	switch f {
	case forecastGoOn:
		return last + step
	case forecastHalf:
		return last + step>>1
	}
	return last
}

// off returns by how much a forecast misses each value but the first.
func (f forecast) off(values []int64) (off []int64, cost int) {
	off = make([]int64, len(values)-1)
	step := int64(0)
	for i, last := range values[:len(values)-1] {
		off[i] = values[i+1] - f.next(last, step)
		cost += bits.Len64(abs(off[i]))
		step = values[i+1] - last
	}
	return off, cost
}

// pack returns the points from to to as a packed column; nil if they are too
// few, or not numbers of one kind that are whole in one decimal scale.
func (c *Column) pack(from, to int) []byte {
	n := to - from
	if n < minPacked || c.of != nil && c.several(from, to) {
		return nil
	}
	k := c.kind(from)
	values, scale, ok := k.whole(c.words[from:to])
	if !ok {
		return nil
	}
	times := c.Times[from:to]
	unit, period := rhythm(times)
	first := times[0] / unit
	clock := clock{period: int64(period / unit)}
	late := make([]int64, n-1)
	for i, t := range times[1:] {
		at := int64(t/unit - first)
		late[i] = at - clock.due()
		clock.arrived(at, late[i])
	}
	best, off, least := forecastStay, []int64(nil), 0
	for f := range forecasts {
		if o, cost := f.off(values); off == nil || cost < least {
			best, off, least = f, o, cost
		}
	}
	b := append(make([]byte, 0, 64+2*n), packedColumn)
	b = binary.AppendUvarint(b, uint64(n))
	b = append(b, byte(k.dataType), byte(k.length), k.tombstone)
	b = binary.AppendUvarint(b, uint64(len(k.origin)))
	b = append(b, k.origin...)
	b = append(b, byte(digits(unit)), byte(scale), byte(best))
	b = binary.AppendUvarint(b, uint64(clock.period))
	b = binary.AppendUvarint(b, first)
	b = binary.AppendVarint(b, values[0])
	if b, ok = appendSteps(b, late, off); !ok {
		return nil
	}
	return seal(b)
}

// several tells whether the points from to to are not all of one kind.
func (c *Column) several(from, to int) bool {
	return slices.ContainsFunc(c.of[from:to], func(k uint32) bool { return k != c.of[from] })
}

// whole turns numbers into whole ones of a decimal scale.
func (k *kind) whole(words []uint64) (values []int64, scale way, ok bool) {
	values = make([]int64, len(words))
	switch {
	case k.length == 0:
		return nil, 0, false
	case k.dataType != point.Float:
		for i, v := range words {
			values[i] = integer(v, *k)
		}
		return values, 0, true
	}
	for i := 0; i < len(words); {
		values[i], ok = scaled(words[i], float(words[i], k.length), scale, k.length)
		if i++; ok {
			continue
		}
		if scale++; scale > maxScale {
			return nil, 0, false
		}
		i = 0
	}
	return values, scale, true
}

// appendSteps appends how late each time is and how far off each value.
func appendSteps(b []byte, late, off []int64) ([]byte, bool) {
	steps := [...][]int64{late, off}
	var p packing
	var tables [len(steps)]odds
	for k := range steps {
		var count [tokens]int
		for _, d := range steps[k] {
			t, _, _ := token(d)
			count[t]++
		}
		if !tables[k].learn(&p, &count) {
			return nil, false
		}
	}
	for i := range late {
		for k := range steps {
			_, rest, n := token(steps[k][i])
			p.put(rest, n)
		}
	}
	// A coder gives back last what it was given first.
	states := [len(steps)]uint64{stateLow, stateLow}
	var words []byte
	for i := len(late) - 1; i >= 0; i-- {
		for k := len(steps) - 1; k >= 0; k-- {
			t, _, _ := token(steps[k][i])
			x, f := states[k], uint64(tables[k].freq[t])
			if x >= f<<(32-slotBits) {
				words = append(words, byte(x>>8), byte(x))
				x >>= 16
			}
			states[k] = x/f<<slotBits + x%f + uint64(tables[k].from[t])
		}
	}
	b = binary.AppendUvarint(b, uint64(len(p.bits)))
	b = append(b, p.bits...)
	for _, x := range states {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	slices.Reverse(words)
	return append(b, words...), true
}

// unpacking is a column that is being unpacked.
type unpacking struct {
	reader

	bits []byte // tables and rests, with zeros behind
	at   uint   // bits that were read
	late [slots]slot
	off  [slots]slot
}

// slot is a token (7 bits), its frequency less 1 and the number of the slot
// among those of the token.
type slot uint32

// unpackings are used again: each has 16 KB of tables.
var unpackings = sync.Pool{New: func() any { return new(unpacking) }}

// padding is how far behind the end of the bits reading goes before it is
// noticed.
const padding = 24

// get returns the next n bits, at most 57.
func (u *unpacking) get(n uint) uint64 {
	if u.at > 8*uint(len(u.bits)-padding) {
		u.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(u.bits[u.at>>3:]) >> (u.at & 7) & (1<<n - 1)
	u.at += n
	return v
}

// table reads how likely each token is.
func (u *unpacking) table(t *[slots]slot) {
	first, more, most := int(u.get(tokenBits)), int(u.get(tokenBits)), int(u.get(tokenBits))
	if first+more >= tokens || most > more {
		u.fail()
		return
	}
	var freq [tokens]uint
	left := uint(slots)
	for i := range more + 1 {
		if i == most {
			continue
		}
		k := uint(u.get(freqBits))
		f := min(k, 1)
		if k > 1 {
			top := min(k-1, freqTop)
			f = (1<<top | uint(u.get(top))) << (k - 1 - top)
		}
		if freq[i] = f; f >= left {
			u.fail()
			return
		}
		left -= f
	}
	freq[most] = left
	at := 0
	for i := range more + 1 {
		for n := range freq[i] {
			t[at] = slot(uint(first+i)<<(2*slotBits) | (freq[i]-1)<<slotBits | n)
			at++
		}
	}
}

// step returns what comes next, and the state of its coder after it.
func (u *unpacking) step(x uint32, t *[slots]slot) (uint32, int64) {
	s := t[x%slots]
	x = uint32(s>>slotBits%slots+1)*(x>>slotBits) + uint32(s%slots)
	if x < stateLow {
		if len(u.b) < 2 {
			u.fail()
			return x, 0
		}
		x = x<<16 | uint32(u.b[0]) | uint32(u.b[1])<<8
		u.b = u.b[2:]
	}
	size := &sizes[s>>(2*slotBits)]
	rest := binary.LittleEndian.Uint64(u.bits[u.at>>3:]) >> (u.at & 7)
	if u.at += size.rest; size.rest > 57 {
		rest |= uint64(u.bits[(u.at-size.rest)>>3+8]) << 8 << (56 - (u.at-size.rest)&7)
	}
	rest &= 1<<size.rest - 1
	sign := -int64(rest & 1)
	return x, int64(size.base|rest>>1) ^ sign - sign
}

// unpack adds the points of a packed column.
func (c *Column) unpack(b []byte) error {
	u := unpackings.Get().(*unpacking)
	defer unpackings.Put(u)
	u.reader, u.at = reader{b: b}, 0
	n := u.uvarint()
	if n > MaxColumn {
		return fmt.Errorf("%w: column of %d points", ErrTooLarge, n)
	}
	k := kind{dataType: point.DataType(u.u8()), length: int(u.u8()), tombstone: u.u8()}
	k.origin = string(u.bytes())
	zeros, scale, f := u.u8(), way(u.u8()), forecast(u.u8())
	clock := clock{period: int64(u.uvarint())}
	first := u.uvarint()
	value := u.varint()
	u.bits = append(append(u.bits[:0], u.bytes()...), make([]byte, padding)...)
	states := u.u64()
	if u.failed || n == 0 || zeros > 9 || k.length == 0 || numberLength(k.dataType, k.length) == 0 || scale < 0 || scale > maxScale || f >= forecasts {
		return damaged("column")
	}
	unit := uint64(pow10[zeros])
	latest := math.MaxUint64 / unit
	if u.table(&u.late); !u.failed {
		u.table(&u.off)
	}
	if u.failed || first > latest {
		return damaged("column")
	}
	d := *c
	other := c.of != nil || len(c.kinds) > 0 && c.kinds[0] != k
	if other {
		d = Column{}
	}
	if len(d.kinds) == 0 {
		d.kinds = []kind{k}
	}
	d.Grow(int(n))
	d.Times, d.words = append(d.Times, first*unit), append(d.words, k.unscale(value, scale))
	x, y := uint32(states), uint32(states>>32)
	double := k.dataType == point.Float && k.length == 8
	last, end, step := first, 8*uint(len(u.bits)-padding), int64(0)
	for range n - 1 {
		var late, off int64
		x, late = u.step(x, &u.late)
		y, off = u.step(y, &u.off)
		at := clock.due() + late
		clock.arrived(at, late)
		time := first + uint64(at)
		if u.failed || u.at > end || time <= last || time > latest {
			return damaged("column")
		}
		last = time
		next := f.next(value, step) + off
		step, value = next-value, next
		word := uint64(0)
		if double {
			word = math.Float64bits(float64(value) / pow10[scale])
		} else {
			word = k.unscale(value, scale)
		}
		d.Times, d.words = append(d.Times, time*unit), append(d.words, word)
	}
	if x != stateLow || y != stateLow || len(u.b) > 0 || (u.at+7)/8 != end/8 {
		return damaged("column")
	}
	if other {
		c.AppendFrom(&d, 0, d.Len())
	} else {
		*c = d
	}
	return nil
}
