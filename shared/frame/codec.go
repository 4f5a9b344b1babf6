package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/sapflow/sapflow/shared/point"
)

// Version is the newest frame version that this program reads and writes.
const Version = 2

// MaxPoints bounds the points of a frame, those set aside included, and the
// names in its tables. It is above what a log or a link puts into one frame.
const MaxPoints = 1 << 15

// MaxBody bounds what the body of a frame unpacks to, so that a small frame
// cannot ask for much memory. It is far above the largest group.
const MaxBody = 1 << 20

// Errors of decoding.
var (
	// ErrDamaged is returned when bytes are missing, left over, or do not
	// match their checksum.
	ErrDamaged = errors.New("frame is damaged")
	// ErrVersion is returned for a frame of a version that is not known.
	ErrVersion = errors.New("frame version is not known")
	// ErrTooLarge is returned for a frame whose body exceeds MaxBody, or that
	// has more than MaxPoints points.
	ErrTooLarge = errors.New("frame is too large")
	// ErrSession is returned for a frame that goes on from frames which this
	// end of the session has not read.
	ErrSession = errors.New("frame continues another session")
	// ErrCut is returned where a frame cannot be cut or merged.
	ErrCut = errors.New("frame cannot be cut there")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zstdEncoder and zstdDecoder are safe for concurrent use and hold no state
// between calls; a small window keeps their memory low at a gateway.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // options are constant
		}
		return e
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBody), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(err)
		}
		return d
	})
)

// unpack returns the n bytes that packed stands for.
func unpack(packed []byte, n int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil || h.HasFCS && h.FrameContentSize != uint64(n) {
		return nil, damaged("zstd header")
	}
	data, err := zstdDecoder().DecodeAll(packed, make([]byte, 0, min(n, 64*len(packed))))
	if err != nil || len(data) != n {
		return nil, damaged("zstd body")
	}
	return data, nil
}

// table numbers distinct values in the order of their first use.
type table[K comparable] struct {
	index map[K]int
	list  []K
}

func (t *table[K]) number(k K) int {
	if i, ok := t.index[k]; ok {
		return i
	}
	if t.index == nil {
		t.index = map[K]int{}
	}
	t.index[k] = len(t.list)
	t.list = append(t.list, k)
	return len(t.list) - 1
}

func damaged(what string) error { return fmt.Errorf("%w: %s", ErrDamaged, what) }

// Flags beside the kind.
const (
	kindMask     = 0x0f
	flagSession  = 1 << 4 // part of a session: what the other end knows is left out
	flagContinue = 1 << 5 // and goes on with what its frames before have taught
)

const (
	headBytes  = 2
	checkBytes = 4
)

// models are kept for frames that stand alone.
var models = sync.Pool{New: func() any { return new(model) }}

func borrow() *model { return models.Get().(*model) }

func giveBack(m *model) {
	m.reset()
	models.Put(m)
}

// Encode returns the bytes of the frame, which can be decoded alone.
func (f *Frame) Encode() []byte {
	m := borrow()
	defer giveBack(m)
	return f.encode(m, 0, nil)
}

// Decode reads a frame that stands alone; author is who wrote the log it
// belongs to, which a Log frame does not name. Values may share memory with b.
func Decode(b []byte, author string) (*Frame, error) {
	if len(b) > 0 && b[0] == 1 {
		return decodeV1(b, author)
	}
	if len(b) > 1 && b[1]&flagSession != 0 {
		return nil, ErrSession
	}
	m := borrow()
	defer giveBack(m)
	return decode(b, author, m, nil)
}

// DecodeHeader reads a frame that stands alone without its entries; it checks
// the checksum.
func DecodeHeader(b []byte) (*Frame, error) {
	if len(b) > 0 && b[0] == 1 {
		f, _, err := decodeFixed(b)
		return f, err
	}
	f, c, err := open(b)
	if err != nil {
		return nil, err
	}
	if b[1]&flagSession != 0 {
		return nil, ErrSession
	}
	if err := f.verify(b, nil); err != nil {
		return nil, err
	}
	m := borrow()
	defer giveBack(m)
	n, _ := m.header(c, f, nil, false)
	f.Aside = nil
	return f, headed(c, f, n)
}

// Session codes the frames that two ends exchange in one connection, in
// order: what the other end has learnt from the frames before is not said
// again. Both ends reset it when a frame has not surely been read. The zero
// Session is ready; it is not safe for concurrent use.
type Session struct {
	m    *model
	past past
}

// past is what both ends of a session have in common besides the model.
type past struct {
	end   Position // of the last log frame
	check uint32   // of the last frame, which the next one's covers: a lost frame is found
}

// Reset begins the session anew.
func (s *Session) Reset() { *s = Session{} }

// Encode returns the bytes of f in a version that the other end reads.
func (s *Session) Encode(f *Frame, version uint8) []byte {
	if version < Version {
		return f.encodeV1()
	}
	flags := byte(flagSession | flagContinue)
	if s.m == nil || s.m.bytes > maxKept/4 {
		s.m, s.past, flags = new(model), past{}, flagSession
	}
	b := f.encode(s.m, flags, &s.past)
	s.moved(f, b)
	return b
}

// Decode reads a frame. After any error the session begins anew.
func (s *Session) Decode(b []byte, author string) (f *Frame, err error) {
	if len(b) < 2 || b[0] == 1 || b[1]&flagSession == 0 {
		return Decode(b, author)
	}
	if b[1]&flagContinue == 0 {
		s.m, s.past = new(model), past{}
	} else if s.m == nil {
		return nil, ErrSession
	}
	if f, err = decode(b, author, s.m, &s.past); err != nil {
		s.Reset()
		return nil, err
	}
	s.moved(f, b)
	return f, nil
}

func (s *Session) moved(f *Frame, b []byte) {
	s.m.arena = nil
	s.past.check = binary.LittleEndian.Uint32(b[len(b)-checkBytes:])
	if f.Kind != Heads {
		s.past.end = f.End()
	}
}

// encode returns the bytes of f; before is where the session stands, nil for
// a frame that stands alone.
func (f *Frame) encode(m *model, flags byte, before *past) []byte {
	c := encoder(append(make([]byte, 0, 64+4*len(f.Entries)), Version, byte(f.Kind)|flags))
	m.begin()
	// A coder returns what it is given: here it goes to copies, as others may
	// read the frame meanwhile.
	head := *f
	m.header(c, &head, before, len(f.Aside) > 0)
	if len(f.Entries) > 0 {
		unit := unitOf(f.Entries)
		m.params(c, unit, m.periodOf(f.Entries, unit))
	}
	for i := range f.Entries {
		e := f.Entries[i]
		m.entry(c, &e, f.Kind != Log)
	}
	b := c.finish()
	return binary.LittleEndian.AppendUint32(b, f.check(b, before))
}

// check is the checksum of a frame: over its bytes, and in a session also
// over the frame before and the places that are left out.
func (f *Frame) check(b []byte, before *past) uint32 {
	sum := crc32.Checksum(b, castagnoli)
	if before == nil {
		return sum
	}
	implied := binary.LittleEndian.AppendUint32(nil, before.check)
	if f.Kind != Heads {
		implied = Position{Cursor{f.Epoch, f.Prev}, f.Base}.Append(f.End().Append(implied))
	}
	return crc32.Update(sum, castagnoli, implied)
}

func (f *Frame) verify(b []byte, before *past) error {
	n := len(b) - checkBytes
	if f.check(b[:n], before) != binary.LittleEndian.Uint32(b[n:]) {
		return damaged("checksum does not match")
	}
	return nil
}

// open reads what stands before the coded part.
func open(b []byte) (*Frame, *coder, error) {
	if len(b) < headBytes+checkBytes {
		return nil, nil, damaged("too short")
	}
	if b[0] != Version {
		return nil, nil, fmt.Errorf("%w: %d, this program reads up to %d", ErrVersion, b[0], Version)
	}
	f := &Frame{Kind: Kind(b[1] & kindMask)}
	flags := b[1] &^ kindMask
	if f.Kind < Log || f.Kind > Heads || flags&^(flagSession|flagContinue) != 0 || flags == flagContinue {
		return nil, nil, damaged("kind or flags not known")
	}
	return f, decoder(b[headBytes : len(b)-checkBytes]), nil
}

func decode(b []byte, author string, m *model, before *past) (*Frame, error) {
	f, c, err := open(b)
	if err != nil {
		return nil, err
	}
	if before == nil { // before the work: what is damaged is found at once
		if err := f.verify(b, nil); err != nil {
			return nil, err
		}
	}
	m.begin()
	n, implied := m.header(c, f, before, false)
	if err := headed(c, f, n); err != nil {
		return nil, err
	}
	if n > 0 {
		m.params(c, 0, 0)
		f.Entries = make([]Entry, 0, min(n, 64+8*len(b)))
	}
	for range n {
		var e Entry
		if m.entry(c, &e, f.Kind != Log); c.failed {
			return nil, damaged("entries")
		}
		f.Entries = append(f.Entries, e)
	}
	if c.failed || !c.spent() {
		return nil, damaged("body")
	}
	if err := f.number(author); err != nil {
		return nil, err
	}
	if implied {
		f.Sum = sumOver(f.Base, f.Entries)
	}
	if before != nil {
		return f, f.verify(b, before)
	}
	return f, nil
}

// headed tells whether a header that was read is possible.
func headed(c *coder, f *Frame, n int) error {
	if n > MaxPoints || f.Kind != Heads && f.Points() > MaxPoints {
		return fmt.Errorf("%w: %d points", ErrTooLarge, max(uint64(n), f.Points()))
	}
	if c.failed {
		return damaged("header")
	}
	return nil
}

// begin makes a model ready for the next frame.
func (m *model) begin() { m.body = 0 }

// header codes what a frame says about itself. It returns the number of
// entries, and whether the checksum at the end is to be computed.
func (m *model) header(c *coder, f *Frame, before *past, explicit bool) (n int, implied bool) {
	h := &m.p.header
	fresh := m.now == 0
	middle := 14
	if fresh {
		middle = 41
	}
	const ms = 1_000_000
	if c.flag(&m.p.nowWhole, f.Now%ms == 0) {
		f.Now = (m.now/ms + uint64(h.signed(c, int64(f.Now/ms-m.now/ms), middle))) * ms
	} else {
		f.Now = c.u64(f.Now)
	}
	if m.now = f.Now; m.time == 0 {
		m.time = f.Now
	}
	count := func(v uint64) uint64 { return m.p.count.unsigned(c, v, 6) }
	n = len(f.Entries)
	if f.Kind == Heads {
		return int(min(count(uint64(n)), MaxPoints+1)), false
	}
	at := Position{Cursor{f.Epoch, f.Prev}, f.Base}
	if before != nil && c.flag(&m.p.continues, at == before.end) {
		at = before.end
	} else {
		at.Epoch, at.Seq, at.Sum = Epoch(c.u64(uint64(at.Epoch))), count(at.Seq), c.u64(at.Sum)
	}
	gap, points := count(f.Gap()), count(f.Points())
	f.Epoch, f.Prev, f.Base = at.Epoch, at.Seq, at.Sum
	f.First = f.Prev + gap + 1
	f.Last = f.First + points - 1
	if f.First <= f.Prev || f.Last+1 < f.First {
		c.fail()
	}
	if f.Kind == Relay {
		f.Covers.Edge = m.covers.Edge + uint64(h.signed(c, int64(f.Covers.Edge-m.covers.Edge), 2))
		f.Covers.Hub = m.covers.Hub + uint64(h.signed(c, int64(f.Covers.Hub-m.covers.Hub), 2))
		m.covers = f.Covers
	}
	if c.flag(&m.p.before, f.Before != Position{}) {
		f.Before = Position{Cursor{Epoch(c.u64(uint64(f.Before.Epoch))), count(f.Before.Seq)}, c.u64(f.Before.Sum)}
	}
	if c.flag(&m.p.again, f.Again != Cursor{}) {
		f.Again = Cursor{Epoch(c.u64(uint64(f.Again.Epoch))), count(f.Again.Seq)}
	}
	if implied = c.flag(&m.p.implied, before != nil && !explicit); !implied {
		f.Sum = c.u64(f.Sum)
	}
	return m.aside(c, f, points), implied && before != nil
}

// aside codes the points set aside and returns how many are left.
func (m *model) aside(c *coder, f *Frame, points uint64) int {
	if c.flag(&m.p.whole, len(f.Aside) == 0) {
		return int(min(points, MaxPoints+1))
	}
	n := m.p.count.unsigned(c, uint64(len(f.Aside)), 2)
	if n > min(points, MaxPoints) {
		c.fail()
		return 0
	}
	last := f.First - 1
	for i := range int(n) {
		var a Aside
		if !c.decoding {
			a = f.Aside[i]
		}
		a.Seq = last + m.p.count.unsigned(c, a.Seq-last, 1)
		a.Reason = Reason(c.tree(m.p.reason[:], 8, uint(a.Reason)))
		if last = a.Seq; c.decoding {
			f.Aside = append(f.Aside, a)
		}
		if c.failed {
			return 0
		}
	}
	return int(min(points-n, MaxPoints+1))
}

// params codes the unit and the period of the times of a frame.
func (m *model) params(c *coder, unit, period uint64) {
	if c.flag(&m.p.params, unit == m.unit && period == m.period) {
		if m.unit == 0 {
			c.fail()
			m.unit = 1
		}
		return
	}
	zeros := c.plain(uint64(digits(unit)), 4)
	m.unit = 1
	for range zeros {
		m.unit *= 10
	}
	m.period = m.p.header.unsigned(c, period/m.unit, 10) * m.unit
	if m.period > maxPeriod {
		c.fail()
		m.period = 0
	}
}

const (
	maxUnit   = 1_000_000_000 // ns
	maxPeriod = 1 << 52       // ns, 52 days
)

func digits(unit uint64) (n int) {
	for ; unit > 1; unit /= 10 {
		n++
	}
	return n
}

// unitOf returns the largest power of ten, up to a second, that all times are
// multiples of.
func unitOf(entries []Entry) uint64 {
	unit := uint64(maxUnit)
	for i := range entries {
		unit = dividing(unit, entries[i].Time)
	}
	return unit
}

// dividing returns the largest power of ten up to unit that a time is a
// multiple of.
func dividing(unit, time uint64) uint64 {
	for time%unit != 0 {
		unit /= 10
	}
	return unit
}

// periodOf guesses at which period the series of a frame are sampled, 0 for
// none: the one of a few candidates that leaves the least to say about a
// series that comes often.
func (m *model) periodOf(entries []Entry, unit uint64) uint64 {
	var times []uint64
	for _, i := range []int{0, len(entries) / 2, len(entries) - 1} {
		if t := m.timesOf(entries, entries[i].Series); len(t) > len(times) {
			times = t
		}
	}
	return period(times, m.period, unit)
}

// period guesses at which period a series was sampled at these times, when
// the last guess was another; 0 for none.
func period(times []uint64, last, unit uint64) uint64 {
	if len(times) < 2 {
		return last
	}
	span := times[len(times)-1] - times[0]
	mean := (span/uint64(len(times)-1) + unit/2) / unit * unit
	best, least := uint64(0), cost(times, 0, unit)
	for _, p := range []uint64{last, mean, round(mean, 100), round(mean, 10)} {
		if p == 0 || p%unit != 0 || p > maxPeriod {
			continue
		}
		if n := cost(times, p, unit); n < least {
			best, least = p, n
		}
	}
	return best
}

// round returns v with as many leading digits as limit has zeros.
func round(v, limit uint64) uint64 {
	unit := uint64(1)
	for v/unit >= limit {
		unit *= 10
	}
	return (v + unit/2) / unit * unit
}

// timesOf returns up to 64 times of a series, with the last one before.
func (m *model) timesOf(entries []Entry, s point.Series) (times []uint64) {
	if t := m.index[s]; t != nil {
		times = append(times, t.time)
	}
	for i := range entries {
		if entries[i].Series == s && len(times) < 64 {
			times = append(times, entries[i].Time)
		}
	}
	return times
}

// cost is about how many bits the times of a series take with a period.
func cost(times []uint64, period, unit uint64) int {
	t := track{time: times[0], even: times[0], count: 1, seen: true}
	n := 0
	for i, time := range times[1:] {
		due := t.time + uint64(t.step)
		if period > 0 {
			steps := t.steps(time, period)
			if steps != t.step && i > 0 {
				n += 6
			}
			t.step = steps
			due = t.even + uint64(steps)*period
		} else if i > 0 {
			t.step = int64(time - t.time)
		}
		n += bits.Len64(abs(int64(time-due)) / unit)
		t.arrived(time, period)
	}
	return n
}

// number gives the entries of a log frame their sequence numbers and checks
// that they fill First..Last together with those set aside.
func (f *Frame) number(author string) error {
	if n := len(f.Entries); n > 0 && f.Entries[n-1].More {
		return damaged("last group is open")
	}
	if f.Kind == Heads {
		if len(f.Aside) > 0 {
			return damaged("heads frame with points set aside")
		}
		return nil
	}
	if uint64(len(f.Entries)+len(f.Aside)) != f.Points() {
		return damaged("number of points")
	}
	seq, aside := f.First, f.Aside
	for i := range f.Entries {
		for len(aside) > 0 && aside[0].Seq == seq {
			seq, aside = seq+1, aside[1:]
		}
		if f.Kind == Log {
			f.Entries[i].Author, f.Entries[i].At = author, Cursor{f.Epoch, seq}
		}
		seq++
	}
	for len(aside) > 0 && aside[0].Seq == seq {
		seq, aside = seq+1, aside[1:]
	}
	if len(aside) > 0 {
		return damaged("points set aside")
	}
	return nil
}
