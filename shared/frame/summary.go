package frame

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sapflow/sapflow/shared/point"
)

// Summary is what consecutive points of a column amount to.
type Summary struct {
	From, To uint64 // times of the first and the last point, ns
	Count    int
	// Plain tells that all are numbers of one kind and none is a removal. Only
	// then the rest is set.
	Plain bool
	NaN   int
	Sum   float64 // of those that are not NaN

	kind                  kind
	min, max, first, last uint64 // bits; min and max are of no use if all are NaN
}

// Min returns the least number, NaN if there is none.
func (s *Summary) Min() float64 { return s.extreme(s.min) }

// Max returns the greatest number, NaN if there is none.
func (s *Summary) Max() float64 { return s.extreme(s.max) }

func (s *Summary) extreme(bits uint64) float64 {
	if s.NaN == s.Count {
		return math.NaN()
	}
	return s.kind.number(bits)
}

// Last returns the last point but for its series.
func (s *Summary) Last() point.Point { return s.kind.point(s.To, s.last) }

// First returns the first point but for its series.
func (s *Summary) First() point.Point { return s.kind.point(s.From, s.first) }

// Equal tells whether two summaries say the same.
func (s *Summary) Equal(t *Summary) bool {
	a, b := *s, *t
	if math.IsNaN(a.Sum) && math.IsNaN(b.Sum) {
		a.Sum, b.Sum = 0, 0
	}
	return a == b
}

// number returns the value of a number.
func (k *kind) number(bits uint64) float64 {
	switch k.dataType {
	case point.Float:
		return float(bits, k.length)
	case point.Uint:
		return float64(bits)
	default:
		return float64(integer(bits, *k))
	}
}

// point returns a point that is a number.
func (k *kind) point(time, bits uint64) point.Point {
	data := binary.LittleEndian.AppendUint64(make([]byte, 0, 8), bits)[:k.length]
	return point.Point{Time: time, DataType: k.dataType, Tombstone: k.tombstone, Origin: k.origin, Data: data}
}

// Summary summarises the points from to to, at least one.
func (c *Column) Summary(from, to int) Summary {
	s := Summary{From: c.Times[from], To: c.Times[to-1], Count: to - from}
	k := c.kind(from)
	if k.length == 0 || k.tombstone&1 == 1 {
		return s
	}
	for i := from; i < to && c.of != nil; i++ {
		if c.of[i] != c.of[from] {
			return s
		}
	}
	s.Plain, s.kind, s.first, s.last, s.min, s.max = true, *k, c.words[from], c.words[to-1], c.words[from], c.words[from]
	var sum Sum
	least, greatest := math.NaN(), math.NaN()
	for _, w := range c.words[from:to] {
		v := k.number(w)
		if math.IsNaN(v) {
			s.NaN++
			continue
		}
		sum.Add(v)
		if !(v >= least) { // or the first
			least, s.min = v, w
		}
		if !(v <= greatest) {
			greatest, s.max = v, w
		}
	}
	if s.Sum = sum.Value(); math.IsNaN(s.Sum) {
		s.Sum = math.NaN() // the same bits on every machine
	}
	return s
}

// Sum adds numbers up, and keeps what rounding takes away.
type Sum struct{ sum, rest float64 }

// Add adds a number.
func (s *Sum) Add(v float64) {
	t := s.sum + v
	if math.Abs(s.sum) >= math.Abs(v) {
		s.rest += s.sum - t + v
	} else {
		s.rest += v - t + s.sum
	}
	s.sum = t
}

// Value returns the sum.
func (s *Sum) Value() float64 {
	if v := s.sum + s.rest; !math.IsNaN(v) {
		return v
	}
	return s.sum // infinite: the rest is not a number
}

// summaries is the state of coding a list of summaries.
type summaries struct {
	*model
	ends, least, most, sum *track // first and last numbers, and each of the others
	count                  int
	from, to               uint64
}

func newSummaries(m *model) *summaries {
	s := &summaries{model: m}
	for _, t := range []**track{&s.ends, &s.least, &s.most, &s.sum} {
		*t = &track{odd: wayNone}
	}
	s.sum.kind = kind{dataType: point.Float, length: 8}
	return s
}

// EncodeSummaries returns the bytes of summaries in the order of their times.
func EncodeSummaries(list []Summary) []byte {
	m := borrow()
	defer giveBack(m)
	c := encoder(append(make([]byte, 0, 64+12*len(list)), codedColumn))
	if m.count(c, len(list)); len(list) > 0 {
		times := make([]uint64, 0, 2*len(list))
		for i := range list {
			times = append(times, list[i].From, list[i].To)
		}
		m.timing(c, times)
	}
	k := newSummaries(m)
	for _, s := range list { // copies: a coder writes what it returns
		k.code(c, &s)
	}
	return seal(c.finish())
}

// DecodeSummaries reads what EncodeSummaries wrote.
func DecodeSummaries(b []byte) ([]Summary, error) {
	version, b, err := openColumn(b)
	switch {
	case err != nil:
		return nil, err
	case version != codedColumn:
		return nil, fmt.Errorf("%w: summaries %d, this program reads %d", ErrVersion, version, codedColumn)
	}
	c, m := decoder(b), borrow()
	defer giveBack(m)
	n := m.count(c, 0)
	if n > MaxColumn {
		return nil, ErrTooLarge
	}
	if n > 0 {
		m.timing(c, nil)
	}
	list := make([]Summary, 0, min(n, 16*len(b)))
	k := newSummaries(m)
	for range n {
		var s Summary
		k.code(c, &s)
		if c.failed || s.Count < 1 || s.NaN > s.Count || s.To < s.From || len(list) > 0 && s.From <= list[len(list)-1].To {
			return nil, damaged("summaries")
		}
		list = append(list, s)
	}
	if c.failed || !c.spent() {
		return nil, damaged("summaries")
	}
	return list, nil
}

// code codes one summary.
func (k *summaries) code(c *coder, s *Summary) {
	span := k.to - k.from
	s.From = k.distance(c, s.From, k.to, &k.spread)
	s.To = k.distance(c, s.To, s.From+span, &k.sum.late)
	s.Count = k.count + int(k.p.seq.signed(c, int64(s.Count-k.count), 4))
	k.from, k.to, k.count = s.From, s.To, s.Count
	if s.Plain = c.flag(&k.p.whole, s.Plain); !s.Plain {
		return
	}
	s.kind = k.what(c, s.kind, k.ends)
	if s.kind.length == 0 || s.kind.tombstone&1 == 1 {
		c.fail()
		return
	}
	k.least.kind, k.most.kind = s.kind, s.kind
	s.NaN = int(k.p.tomb.unsigned(c, uint64(s.NaN), 0))
	s.first = k.word(c, s.first, k.ends)
	s.last = k.word(c, s.last, k.ends)
	s.min = k.word(c, s.min, k.least)
	s.max = k.word(c, s.max, k.most)
	s.Sum = math.Float64frombits(k.word(c, math.Float64bits(s.Sum), k.sum))
}

// word codes a number of a track.
func (k *summaries) word(c *coder, bits uint64, t *track) uint64 {
	t.bits = k.number(c, bits, t)
	t.seen = true
	return t.bits
}
