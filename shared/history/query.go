package history

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Sample is a point of history and who authored it.
type Sample struct {
	point.Point
	Author string
}

// Place is a point's place in the order of results of one series.
type Place struct {
	Time   uint64
	Author string
}

// Compare orders places by time, then author.
func (p Place) Compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Time, q.Time), cmp.Compare(p.Author, q.Author))
}

// Next returns the place behind a place.
func (p Place) Next() Place { return Place{p.Time, p.Author + "\x00"} }

// Points returns the first points of some columns from a place on and before a
// time, in the order of their places; more tells whether there are any behind
// them.
func (a *Archive) Points(ctx context.Context, numbers []int, from Place, to uint64, limit int) (list []Sample, more bool, err error) {
	err = a.Merged(ctx, numbers, from, to, func(number int, p *Piece) error {
		c, err := p.Points(ctx)
		if err != nil {
			return err
		}
		key := a.nameOf(number)
		for i := range c.Len() {
			if len(list) == limit {
				more = true
				return errStop
			}
			list = append(list, key.sample(c.Point(i)))
		}
		return nil
	})
	if err == errStop {
		err = nil
	}
	return list, more, err
}

// Newest returns the time from which on some columns together have at least n
// points before a time, 0 if they have fewer.
func (a *Archive) Newest(ctx context.Context, numbers []int, before uint64, n int) (from uint64, err error) {
	for _, number := range numbers {
		t, err := a.newest(ctx, number, before, n)
		if err != nil {
			return 0, err
		}
		from = max(from, t)
	}
	return from, nil
}

// Count returns how many points some columns have from a time on and before
// another.
func (a *Archive) Count(ctx context.Context, numbers []int, from, to uint64) (n int, err error) {
	for _, number := range numbers {
		err := a.Read(ctx, number, from, to, true, func(p *Piece) error {
			if p.Summary != nil {
				n += p.Summary.Count
				return nil
			}
			c, err := p.Points(ctx)
			if err == nil {
				n += c.Len()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// newest counts back from the end. A point that is in a chunk and in memory
// counts twice there, so it looks again if they were too few.
func (a *Archive) newest(ctx context.Context, number int, before uint64, n int) (uint64, error) {
	for want := n; ; want *= 2 {
		from, err := a.countBack(ctx, number, before, want)
		if err != nil {
			return 0, err
		}
		var times []uint64
		err = a.Read(ctx, number, from, before, false, func(p *Piece) error {
			c, err := p.Points(ctx)
			if err == nil {
				times = append(times, c.Times...)
				times = times[max(0, len(times)-n):]
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		if len(times) == n {
			return times[0], nil
		}
		if from == 0 { // these were all
			return 0, nil
		}
	}
}

// countBack returns a time from which on a column has about n points or more, 0
// if it may have fewer.
func (a *Archive) countBack(ctx context.Context, number int, before uint64, n int) (from uint64, err error) {
	if c := a.inMemory(number); c != nil {
		i, _ := slices.BinarySearch(c.Times, before)
		if i >= n {
			return c.Times[i-n], nil
		}
		n -= i
	}
	key, group := a.nameOf(number), number/groupColumns
	first, closed := uint64(0), uint64(0)
	for _, level := range []subject.HistoryLevel{subject.HistoryPoints, subject.HistorySummaries} {
		chain := chainName{level, group}
		starts, err := a.startsOf(ctx, chain)
		if err != nil {
			return 0, err
		}
		if level == subject.HistoryPoints && len(starts) > 0 { // the open leaf; summaries tell of the others
			first, closed = starts[0], starts[len(starts)-1]
			starts = starts[len(starts)-1:]
		}
		for i := len(starts) - 1; i >= 0; i-- {
			next := uint64(forever)
			if i+1 < len(starts) {
				next = starts[i+1]
			}
			l, err := a.load(ctx, chain, starts[i], &key)
			if err != nil && !errors.Is(err, ErrDamaged) {
				return 0, err
			}
			if l == nil || l.column(key) == nil {
				continue
			}
			segs := l.column(key).segs
			for k := len(segs) - 1; k >= 0; k-- {
				s := &segs[k]
				if s.From >= before || s.From >= next || level == subject.HistorySummaries && (s.From >= closed || s.From < first) {
					continue
				}
				if s.To < before { // else some of them, nobody knows how many
					n -= s.Count
				}
				if n <= 0 {
					return s.From, nil
				}
			}
		}
	}
	return 0, nil
}

// Bucket summarises the points of one span of time. Min, Max and Mean are
// over the numbers that are not NaN, and NaN themselves if there is none.
type Bucket struct {
	Start, End uint64 // ns, End not included
	Count      int    // all points that are not removals
	NaN        int
	Min, Max   float64
	First      Sample
	Last       Sample

	sum     frame.Sum
	numbers int
}

// Mean returns the mean of the numbers.
func (b *Bucket) Mean() float64 {
	if b.numbers == 0 {
		return math.NaN()
	}
	return b.sum.Value() / float64(b.numbers)
}

// Grid parts time into buckets.
type Grid interface {
	// Span returns the bucket that a time lies in, ns.
	Span(t uint64) (start, end uint64)
}

// Buckets returns the first buckets that have points of some columns, taken
// together, from a time on and before another. next is where to go on, 0 if
// there are no more. It ends early when it has worked for a while.
func (a *Archive) Buckets(ctx context.Context, numbers []int, from, to uint64, grid Grid, limit int, until time.Time) (list []Bucket, next uint64, err error) {
	next = to
	start, end := grid.Span(from)
	summed := end-start >= finest
	var all []Bucket
	for _, n := range numbers {
		g := &gather{ctx: ctx, key: a.nameOf(n), grid: grid, limit: limit, until: until}
		err := a.Read(ctx, n, from, next, summed, g.piece)
		if err == errStop { // the last bucket is not whole
			next = g.list[len(g.list)-1].Start
			g.list = g.list[:len(g.list)-1]
		} else if err != nil {
			return nil, 0, err
		}
		all = append(all, g.list...)
	}
	slices.SortStableFunc(all, func(b, c Bucket) int { return cmp.Compare(b.Start, c.Start) })
	for i := range all {
		b := &all[i]
		if b.Start >= next {
			break
		}
		if n := len(list); n > 0 && list[n-1].Start == b.Start {
			list[n-1].join(b)
			continue
		}
		if len(list) == limit {
			next = b.Start
			break
		}
		list = append(list, *b)
	}
	if next == to {
		next = 0
	}
	return list, next, nil
}

// finest is the width of buckets, in ns, from which on summaries are read
// before points: narrower ones need most of the points.
const finest = 900 * second

// gather collects the buckets of one column.
type gather struct {
	ctx   context.Context
	key   Key
	grid  Grid
	limit int
	until time.Time
	list  []Bucket
}

// piece takes what a piece has. It returns errStop when the last bucket is one
// too many, or when it is time; then there are two at least.
func (g *gather) piece(p *Piece) error {
	if s := p.Summary; s != nil && s.Plain {
		if start, end := g.span(s.From); s.To < end {
			b, err := g.bucket(start, end)
			if err != nil {
				return err
			}
			b.summary(s, g.key)
			return nil
		}
	}
	c, err := p.Points(g.ctx)
	if err != nil {
		return err
	}
	for i := 0; i < c.Len(); {
		start, end := g.span(c.Times[i])
		j := i + 1
		for j < c.Len() && c.Times[j] < end {
			j++
		}
		for i < j && c.Removed(i) {
			i++
		}
		if i < j {
			b, err := g.bucket(start, end)
			if err != nil {
				return err
			}
			b.points(c, i, j, g.key)
		}
		i = j
	}
	return nil
}

// span returns the bucket of a time, mostly the one before.
func (g *gather) span(t uint64) (start, end uint64) {
	if n := len(g.list); n > 0 && g.list[n-1].Start <= t && t < g.list[n-1].End {
		return g.list[n-1].Start, g.list[n-1].End
	}
	return g.grid.Span(t)
}

func (g *gather) bucket(start, end uint64) (*Bucket, error) {
	n := len(g.list)
	if n > 0 && g.list[n-1].Start == start {
		return &g.list[n-1], nil
	}
	g.list = append(g.list, Bucket{Start: start, End: end, Min: math.NaN(), Max: math.NaN()})
	if n >= g.limit || n > 0 && time.Now().After(g.until) {
		return nil, errStop
	}
	return &g.list[n], nil
}

// summary takes a whole segment.
func (b *Bucket) summary(s *frame.Summary, k Key) {
	if b.Count == 0 {
		b.First = k.sample(s.First())
	}
	b.Count += s.Count
	b.Last = k.sample(s.Last())
	b.NaN += s.NaN
	if n := s.Count - s.NaN; n > 0 {
		b.number(s.Min(), s.Max(), s.Sum, n)
	}
}

// points takes points i to j of a column.
func (b *Bucket) points(c *frame.Column, i, j int, k Key) {
	last := -1
	for ; i < j; i++ {
		if c.Removed(i) {
			continue
		}
		if b.Count == 0 {
			b.First = k.sample(c.Point(i))
		}
		b.Count, last = b.Count+1, i
		if v, ok := c.Number(i); ok && math.IsNaN(v) {
			b.NaN++
		} else if ok {
			b.number(v, v, v, 1)
		}
	}
	if last >= 0 {
		b.Last = k.sample(c.Point(last))
	}
}

// number takes n numbers with their least, greatest and sum.
func (b *Bucket) number(least, greatest, sum float64, n int) {
	if b.numbers == 0 {
		b.Min, b.Max = least, greatest
	}
	b.Min, b.Max = min(b.Min, least), max(b.Max, greatest)
	b.sum.Add(sum)
	b.numbers += n
}

// join takes what the same bucket of another column has.
func (b *Bucket) join(c *Bucket) {
	b.Count, b.NaN = b.Count+c.Count, b.NaN+c.NaN
	if c.numbers > 0 {
		b.number(c.Min, c.Max, c.sum.Value(), c.numbers)
	}
	if byPlace(c.First, b.First) < 0 {
		b.First = c.First
	}
	if byPlace(c.Last, b.Last) > 0 {
		b.Last = c.Last
	}
}

func (k Key) sample(p point.Point) Sample {
	p.Series = k.Series
	return Sample{p, k.Author}
}

// byPlace orders samples.
func byPlace(a, b Sample) int { return Place{a.Time, a.Author}.Compare(Place{b.Time, b.Author}) }
