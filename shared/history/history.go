// Package history answers what the values of a series were: points by their
// own time, late ones in their place, or buckets of them.
//
// It reads the logs of an instance. It leaves who may ask to its caller.
package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
)

// Source is a stream of logs to read.
type Source struct {
	Store   journal.Store
	Author  func(subject string) string    // who wrote the log of a subject
	Removed func() map[string]journal.Span // what was removed here, by subject; nil for nothing
}

// Query asks for the points of one series.
type Query struct {
	Series point.Series
	From   uint64 // ns, included
	To     uint64 // ns, excluded; 0 for no end
	After  *Place // go on after this point
	Limit  int    // points; 0 for all
}

// Place is a point's place in the order of results.
type Place struct {
	Time   uint64
	Author string
}

func (p Place) compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Time, q.Time), cmp.Compare(p.Author, q.Author))
}

func placeOf(e *frame.Entry) Place { return Place{e.Time, e.Author} }

// Gap is a span of a log that this instance does not have, of whatever series.
type Gap struct {
	Author     string
	Epoch      frame.Epoch // zero where it was removed here
	From, To   uint64      // sequence numbers in the epoch, both missing
	Count      uint64      // points
	Start, End uint64      // when, ns: of the points if they were removed here, else of the frames around
}

// in tells whether the gap may hide points that q asks for.
func (g *Gap) in(q *Query) bool { return g.End >= q.From && (q.To == 0 || g.Start < q.To) }

// Result is what a query found.
type Result struct {
	Entries []frame.Entry // by time, then author
	Gaps    []Gap
	More    bool // the limit cut it
}

// Points runs a query. Of several points of one author with the same time
// the later in the author's log counts.
func Points(ctx context.Context, sources []Source, q Query) (*Result, error) {
	found := map[Place]frame.Entry{}
	r := &Result{}
	missing := func(g Gap) {
		if g.in(&q) {
			r.Gaps = append(r.Gaps, g)
		}
	}
	for _, src := range sources {
		if src.Removed != nil {
			for subject, s := range src.Removed() {
				missing(Gap{Author: src.Author(subject), Count: s.Points, Start: s.From, End: s.To})
			}
		}
		before := map[string]uint64{} // time of the frame before, by author
		err := scan(ctx, src, func(f *frame.Frame, author string) {
			if n := f.Gap(); n > 0 {
				missing(Gap{Author: author, Epoch: f.Epoch, From: f.Prev + 1, To: f.First - 1, Count: n, Start: before[author], End: f.Now})
			}
			before[author] = f.Now
			for i := range f.Entries {
				e := &f.Entries[i]
				if e.Series != q.Series || e.Time < q.From || q.To != 0 && e.Time >= q.To {
					continue
				}
				p := placeOf(e)
				if q.After != nil && p.compare(*q.After) <= 0 {
					continue
				}
				if old, ok := found[p]; !ok || !e.At.Less(old.At) {
					found[p] = *e
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	r.Entries = make([]frame.Entry, 0, len(found))
	for _, e := range found {
		r.Entries = append(r.Entries, e)
	}
	slices.SortFunc(r.Entries, func(a, b frame.Entry) int { return placeOf(&a).compare(placeOf(&b)) })
	if q.Limit > 0 && len(r.Entries) > q.Limit {
		r.Entries, r.More = r.Entries[:q.Limit], true
	}
	return r, nil
}

// scan visits every frame of a source that continues its log.
func scan(ctx context.Context, src Source, visit func(f *frame.Frame, author string)) error {
	for seq := uint64(1); ; {
		m, err := src.Store.Next(ctx, seq)
		if errors.Is(err, journal.ErrEmpty) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read history: %w", err)
		}
		seq = m.Seq + 1
		author := src.Author(m.Subject)
		f, err := frame.Decode(m.Data, author)
		if err != nil {
			continue // reported where the log is followed
		}
		visit(f, author)
	}
}

// Bucket summarises the points of one span of time. Min, Max and Mean are
// over the numbers that are not NaN, and NaN themselves if there is none.
type Bucket struct {
	Start uint64 // ns, aligned to the clock
	Count int    // all points that are not removals
	NaN   int
	Min   float64
	Max   float64
	Mean  float64
	Last  frame.Entry

	sum     float64
	numbers int
}

// Buckets summarises entries in time order into buckets of a width in ns
// that have points.
func Buckets(entries []frame.Entry, width uint64) []Bucket {
	var list []Bucket
	for i := range entries {
		e := &entries[i]
		if e.Removed() {
			continue
		}
		start := e.Time - e.Time%width
		if n := len(list); n == 0 || list[n-1].Start != start {
			list = append(list, Bucket{Start: start, Min: math.NaN(), Max: math.NaN(), Mean: math.NaN()})
		}
		list[len(list)-1].add(e)
	}
	return list
}

func (b *Bucket) add(e *frame.Entry) {
	b.Count++
	b.Last = *e
	v, ok := e.Number()
	if !ok {
		return
	}
	if math.IsNaN(v) {
		b.NaN++
		return
	}
	if b.numbers++; b.numbers == 1 {
		b.Min, b.Max = v, v
	}
	b.Min, b.Max = min(b.Min, v), max(b.Max, v)
	b.sum += v
	b.Mean = b.sum / float64(b.numbers)
}
