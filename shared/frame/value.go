package frame

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/sapflow/sapflow/shared/point"
)

// way is how a number is coded: as a whole number of a decimal scale (0 for
// integers), or by the order of its bits.
type way int8

const (
	wayNone   way = -2
	wayBits   way = -1
	maxScale  way = 22 // 10^22 is the largest power of ten that a float64 holds exactly
	scaleBits     = 5
	// nearScale is how many digits more a value may have to set the scale of
	// its series; a longer one is taken for a mean among readings.
	nearScale = 3
)

var pow10 = func() (t [maxScale + 1]float64) {
	for i := range t {
		t[i] = math.Pow10(i)
	}
	return t
}()

// numberLength returns the length of a value that is a number, else 0.
func numberLength(t point.DataType, length int) int {
	switch t {
	case point.Float:
		if length == 4 || length == 8 {
			return length
		}
	case point.Int, point.Uint:
		switch length {
		case 1, 2, 4, 8:
			return length
		}
	}
	return 0
}

// value codes a value: the bits of a number, or the data of what is none.
func (m *model) value(c *coder, bits uint64, data []byte, t *track) (uint64, []byte) {
	if t.seen {
		if c.flag(&m.p.still[t.still&7], !c.decoding && t.holds(bits, data)) {
			if t.still = t.still<<1 | 1; t.length == 0 {
				m.unpacked(c, len(t.text))
			}
			return t.bits, t.text
		}
		t.still <<= 1
	}
	if t.length == 0 {
		return 0, m.blob(c, data, t)
	}
	t.bits = m.number(c, bits, t)
	return t.bits, nil
}

// holds tells whether the last value of the series was this one.
func (t *track) holds(bits uint64, data []byte) bool {
	if t.length > 0 {
		return t.bits == bits
	}
	return t.text != nil && bytes.Equal(t.text, data)
}

func word(data []byte) uint64 {
	switch len(data) {
	case 8:
		return binary.LittleEndian.Uint64(data)
	case 4:
		return uint64(binary.LittleEndian.Uint32(data))
	case 2:
		return uint64(binary.LittleEndian.Uint16(data))
	case 1:
		return uint64(data[0])
	}
	return 0
}

// arenaBytes is how much memory for numbers is taken at a time.
const arenaBytes = 4 << 10

// bytesOf returns a number as data, cut from a larger piece of memory.
func (m *model) bytesOf(v uint64, n int) []byte {
	if cap(m.arena)-len(m.arena) < 8 {
		m.arena = make([]byte, 0, arenaBytes)
	}
	from := len(m.arena)
	m.arena = binary.LittleEndian.AppendUint64(m.arena, v)[:from+n]
	return m.arena[from : from+n : from+n]
}

// number codes a number by how far it is from the best forecast.
func (m *model) number(c *coder, v uint64, t *track) uint64 {
	w, x := way(0), integer(v, t.kind)
	if t.dataType == point.Float {
		w, x = m.float(c, v, t)
	}
	t.rebase(w)
	ctx, middle, best := contexts-1, firstMiddle, 0
	if t.seen {
		for i := range t.missed {
			if t.missed[i] < t.missed[best] {
				best = i
			}
		}
		ctx, middle = context(t.missed[best] / 4)
	}
	forecasts := t.forecasts()
	x = forecasts[best] + of(&m.p.value, ctx).signed(c, x-forecasts[best], middle)
	for i, f := range forecasts {
		if settle(&t.missed[i], abs(x-f)); !t.seen {
			t.missed[i] = 4 * m.usual
		}
	}
	m.usual = t.missed[best] / 4
	if !t.seen {
		t.last[0] = x
	}
	t.last = [2]int64{x, t.last[0]}
	return t.number(x)
}

// firstMiddle is the class expected of the first number of a series.
const firstMiddle = 14

// forecasts are the next number if it stays, goes on, or goes half the way.
func (t *track) forecasts() [3]int64 {
	d := t.last[0] - t.last[1]
	return [...]int64{t.last[0], t.last[0] + d, t.last[0] + d/2}
}

// float codes the way of a floating point number and returns its whole number.
func (m *model) float(c *coder, v uint64, t *track) (way, int64) {
	w, x := wayBits, order(v, t.length)
	if !c.decoding {
		if s, d, ok := decimal(v, t); ok {
			w, x = s, d
		}
	}
	if !t.seen {
		t.scale, t.way = m.scale, m.scale
	}
	if !c.flag(&m.p.decimal[way01(t.way >= 0)|way01(t.seen)<<1], w >= 0) {
		return wayBits, x
	}
	if c.flag(&m.p.fits[way01(t.odd != wayNone)|way01(t.seen)<<1], w == t.scale) {
		t.odd = wayNone
		return t.scale, x
	}
	w = way(c.tree(m.p.scale[:], scaleBits, uint(w)))
	if w > maxScale {
		c.fail()
		return 0, 0
	}
	if !t.seen || w <= t.scale+nearScale || w == t.odd {
		t.scale, m.scale = w, w
	}
	t.odd = w
	return w, x
}

func way01(b bool) int {
	if b {
		return 1
	}
	return 0
}

// decimal finds the scale at which a floating point number is a whole number,
// exactly: at the scale of its series, else with the fewest digits.
func decimal(bits uint64, t *track) (scale way, x int64, ok bool) {
	v := float(bits, t.length)
	if t.seen && t.scale >= 0 {
		if x, ok := scaled(bits, v, t.scale, t.length); ok {
			if t.scale <= nearScale {
				return t.scale, x, true
			}
			if _, ok := scaled(bits, v, t.scale-nearScale-1, t.length); !ok {
				return t.scale, x, true
			}
		}
	}
	for s := way(0); s <= maxScale; s++ {
		if x, ok := scaled(bits, v, s, t.length); ok {
			return s, x, true
		}
		if math.Abs(v)*pow10[s] >= maxExact || t.seen && t.way == wayBits && s == nearScale {
			break
		}
	}
	return 0, 0, false
}

// maxExact bounds the whole numbers that a float64 holds exactly.
const maxExact = 1 << 53

// scaled tells whether v is a whole number at a scale, bit for bit.
func scaled(bits uint64, v float64, s way, length int) (int64, bool) {
	y := math.RoundToEven(v * pow10[s])
	if !(math.Abs(y) < maxExact) {
		return 0, false
	}
	x := int64(y)
	return x, fromScale(x, s, length) == bits
}

// fromScale returns the bits of the floating point number x / 10^s.
func fromScale(x int64, s way, length int) uint64 {
	v := float64(x) / pow10[s]
	if length == 4 {
		return uint64(math.Float32bits(float32(v)))
	}
	return math.Float64bits(v)
}

func float(bits uint64, length int) float64 {
	if length == 4 {
		return float64(math.Float32frombits(uint32(bits)))
	}
	return math.Float64frombits(bits)
}

// order maps the bits of a floating point number to a whole number that grows
// with it. It is its own inverse.
func order(bits uint64, length int) int64 {
	if length == 4 {
		i := int32(bits)
		return int64(i ^ i>>31&math.MaxInt32)
	}
	i := int64(bits)
	return i ^ i>>63&math.MaxInt64
}

// integer returns the value of an integer.
func integer(bits uint64, k kind) int64 {
	shift := 64 - 8*k.length
	if k.dataType == point.Uint {
		return int64(bits << shift >> shift)
	}
	return int64(bits<<shift) >> shift
}

// number returns the bits of a number that was coded in the present way.
func (t *track) number(x int64) uint64 { return t.unscale(x, t.way) }

// unscale returns the bits of a number that was coded in a way.
func (k *kind) unscale(x int64, w way) uint64 {
	switch {
	case w == wayBits:
		x = order(uint64(x), k.length)
	case k.dataType == point.Float:
		return fromScale(x, w, k.length)
	}
	shift := 64 - 8*k.length
	return uint64(x) << shift >> shift
}

// rebase expresses what is known of a series in another way.
func (t *track) rebase(w way) {
	if w == t.way || !t.seen {
		t.way = w
		return
	}
	last := integer(t.bits, t.kind)
	switch {
	case w == wayBits:
		last = order(t.bits, t.length)
	case t.dataType == point.Float:
		last = 0
		if y := math.RoundToEven(float(t.bits, t.length) * pow10[w]); math.Abs(y) < maxExact {
			last = int64(y)
		}
	}
	for i := range t.missed {
		switch {
		case w == wayBits || t.way == wayBits:
			t.missed[i] = 1 << 40
		case w > t.way:
			t.missed[i] = min(t.missed[i], 1<<40) * uint64(pow10[min(w-t.way, 6)])
		default:
			t.missed[i] /= uint64(pow10[t.way-w])
		}
	}
	t.last, t.way = [2]int64{last, last}, w
}

// blob codes a value that is no number: one seen lately, or how it differs
// from the last one of its series.
func (m *model) blob(c *coder, data []byte, t *track) []byte {
	i := -1
	if !c.decoding {
		i = slices.IndexFunc(m.texts, func(s []byte) bool { return bytes.Equal(s, data) })
	}
	if c.flag(&m.p.knownText, i >= 0) {
		n := m.p.pick.unsigned(c, uint64(i), 2)
		if n >= uint64(len(m.texts)) {
			c.fail()
			return nil
		}
		i = int(n)
		data = m.texts[i]
		m.unpacked(c, len(data))
		m.texts = slices.Delete(m.texts, i, i+1)
	} else {
		data = m.unlike(c, data, t.text)
	}
	m.bytes -= len(t.text)
	if t.text = nil; len(data) <= keepText {
		m.kept(c, len(data))
		t.text = bytes.Clone(data)
		if t.text == nil {
			t.text = []byte{}
		}
		m.texts = slices.Insert(m.texts, 0, t.text)
		m.texts = m.texts[:min(len(m.texts), keepTexts)]
	}
	return data
}

// unlike codes a text by what its beginning and end share with another.
func (m *model) unlike(c *coder, data, like []byte) []byte {
	if len(like) == 0 {
		return m.literal(c, data, m.unpacked)
	}
	begin, end := 0, 0
	if !c.decoding {
		for begin < min(len(data), len(like)) && data[begin] == like[begin] {
			begin++
		}
		for end < min(len(data), len(like))-begin && data[len(data)-1-end] == like[len(like)-1-end] {
			end++
		}
	}
	begin = int(m.p.size.unsigned(c, uint64(begin), 3))
	end = int(m.p.size.unsigned(c, uint64(end), 3))
	if uint(begin) > keepText || uint(end) > keepText || begin+end > len(like) {
		c.fail()
		return nil
	}
	m.unpacked(c, begin+end)
	if !c.decoding {
		m.literal(c, data[begin:len(data)-end], m.unpacked)
		return data
	}
	return slices.Concat(like[:begin], m.literal(c, nil, m.unpacked), like[len(like)-end:])
}

// unpacked counts the texts of a frame; more than it may have is no frame of
// ours.
func (m *model) unpacked(c *coder, n int) {
	if m.body += n; m.body > MaxBody {
		c.fail()
	}
}

// packFrom is the length from which a text may be shorter with zstd.
const packFrom = 200

// literal codes a text of which nothing is known; count takes its length, and
// fails if that is too much.
func (m *model) literal(c *coder, data []byte, count func(*coder, int)) []byte {
	n := int(min(m.p.size.unsigned(c, uint64(len(data)), 4), MaxBody+1))
	if count(c, n); c.failed || n > MaxBody {
		c.fail()
		return nil
	}
	if n >= packFrom {
		if packed := m.pack(c, data); c.flag(&m.p.packed, len(packed) > 0) {
			return m.packed(c, packed, data, n)
		}
	}
	if c.decoding {
		data = make([]byte, 0, min(n, 4*(len(c.in)+64)))
	}
	before := byte(0)
	for i := 0; i < n && !c.failed; i++ {
		var b byte
		if !c.decoding {
			b = data[i]
		}
		b = byte(c.tree(m.p.chars[before>>5][:], 8, uint(b)))
		if c.decoding {
			data = append(data, b)
		}
		before = b
	}
	return data
}

// pack returns data with zstd if that is much smaller.
func (m *model) pack(c *coder, data []byte) []byte {
	if c.decoding {
		return nil
	}
	packed := zstdEncoder().EncodeAll(data, nil)
	if len(packed) > len(data)*5/8 {
		return nil
	}
	return packed
}

// packed codes data of n bytes that zstd made small.
func (m *model) packed(c *coder, packed, data []byte, n int) []byte {
	k := int(min(m.p.size.unsigned(c, uint64(len(packed)), 8), MaxBody))
	if c.decoding {
		if k > len(c.in) {
			c.fail()
			return nil
		}
		packed = make([]byte, k)
	}
	for i := range packed {
		packed[i] = byte(c.plain(uint64(packed[i]), 8))
	}
	if c.decoding {
		var err error
		if data, err = unpack(packed, n); err != nil {
			c.fail()
		}
	}
	return data
}
