package history_test

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
)

var walksFlag = flag.Int("walks", 4, "random walks of TestWalk")

// TestWalk takes random walks: logs get points, late ones and repeats, chunks
// are written, imported, removed, the store fails at any step and the archive
// starts again. Whatever happens, every question is answered as a sorted map in
// memory answers it.
func TestWalk(t *testing.T) {
	r := newRand(t)
	js := startJS(t)
	for range *walksFlag {
		history.SetSizes(t, pick(r, 4, 16, 50), pick(r, 300, 2000, 60000), pick(r, 800, 2000, 6000))
		w := newWorld(t, r, js)
		w.tail = pick(r, 50, 300, 1<<20)
		w.open()
		w.populate(2 + r.IntN(24))
		for range 60 {
			w.step()
		}
		w.settle()
		for _, s := range w.series {
			w.check(s)
		}
		w.checkGaps()
		w.checkStore()
	}
}

// step does one thing and then asks.
func (w *world) step() {
	w.t.Helper()
	r := w.r
	switch r.IntN(16) {
	case 0, 1, 2:
		w.write(1 + r.IntN(20))
	case 3, 4, 5:
		w.write(1 + r.IntN(500))
	case 6:
		w.must("sync", w.archive.Sync(w.t.Context()))
	case 7, 8:
		w.settle()
	case 9:
		w.must("flush", w.archive.Flush(w.t.Context()))
	case 10:
		w.imports()
	case 11:
		w.open()
	case 12, 13:
		w.fail(func() error { return w.archive.Settle(w.t.Context()) })
	case 14:
		w.settle()
		if r.IntN(2) == 0 {
			w.fail(w.remove)
			w.miscounts = true
		} else {
			w.must("remove", w.remove())
		}
		w.forget()
	default:
		w.fail(func() error { return w.archive.Flush(w.t.Context()) })
	}
	w.check(pick(r, w.series...))
	if r.IntN(4) == 0 {
		w.checkPages(pick(r, w.series...))
	}
	if r.IntN(4) == 0 {
		w.checkGaps()
	}
}

// settle makes chunks of all.
func (w *world) settle() {
	w.t.Helper()
	w.must("settle", w.archive.Settle(w.t.Context()))
	w.admit()
}

// fail does something while the store fails at some step. Then the archive
// starts again, as after a crash, or goes on.
func (w *world) fail(do func() error) {
	w.t.Helper()
	w.fault.arm(1+w.r.IntN(1+w.r.IntN(60)), w.r.IntN(2) == 0)
	err := do()
	w.fault.disarm()
	if err != nil && !errors.Is(err, errCrash) {
		w.t.Fatalf("got %v, want the error of the store", err)
	}
	if w.r.IntN(3) > 0 {
		w.open()
	}
}

// remove removes some of the oldest chunks.
func (w *world) remove() error {
	before, _ := w.span()
	need := w.r.Uint64N(20000)
	_, err := w.archive.Remove(w.t.Context(), need, w.r.Uint64N(1+need), pick(w.r, 0, 0, before))
	return err
}

// imports brings points of other times into history, and again where it fails.
func (w *world) imports() {
	columns := map[history.Key]*frame.Column{}
	var list []history.Sample
	for range 1 + w.r.IntN(4) {
		s := pick(w.r, w.series...)
		k := history.Key{Series: s.Series, Author: pick(w.r, s.author, hub)}
		c := &frame.Column{}
		at := max(w.floors[k], s.next-min(s.next, w.r.Uint64N(s.period*300)))
		for range w.r.IntN(300) {
			p := s.point(at | 1)
			c.Append(&p)
			list = append(list, history.Sample{Point: p, Author: k.Author})
			if step := 2 + w.r.Uint64N(2*s.period); at+step < math.MaxUint64-4 && at+step > at {
				at += step
				continue
			}
			break
		}
		columns[k] = history.Union(columns[k], c)
	}
	if !w.imported(columns) {
		return
	}
	for _, s := range list {
		w.set(s.Author, s.Point)
	}
}

// imported imports columns, again where the store fails, unless there is no room
// for what is so old.
func (w *world) imported(columns map[history.Key]*frame.Column) bool {
	refused := false
	do := func() error {
		err := w.archive.Import(w.t.Context(), columns)
		if refused = errors.Is(err, history.ErrRemoved); refused {
			return nil
		}
		return err
	}
	for range w.r.IntN(3) {
		w.fail(do)
	}
	if w.must("import", do()); !refused {
		return true
	}
	for k, c := range columns {
		if number, ok := w.number(k); ok && c.Len() > 0 && c.Times[0] < w.archive.Floor(number) {
			return false
		}
	}
	w.t.Fatal("points of a time that there is room for are refused")
	return false
}

// check asks everything about a series.
func (w *world) check(s *profile) {
	w.t.Helper()
	w.must("sync", w.archive.Sync(w.t.Context()))
	w.admit()
	keys, numbers := w.keysOf(s.Series), w.numbersOf(s.Series)
	if len(keys) > len(numbers) {
		w.t.Fatalf("%s: the archive has %d columns, want %d", s.Series, len(numbers), len(keys))
	}
	from, to := w.span()
	want := w.of(keys, history.Place{Time: from}, to)
	what := fmt.Sprintf("%s from %d to %d", s.Series, from, to)
	var got []history.Sample
	for _, number := range numbers {
		for _, summed := range []bool{false, true} {
			k := w.archive.Name(number)
			list, err := w.read(number, from, to, summed)
			if err != nil {
				w.t.Fatalf("read %s by %s: %v", what, k.Author, err)
			}
			if d := diff(list, w.of([]history.Key{k}, history.Place{Time: from}, to)); d != "" {
				w.t.Fatalf("read %s by %s, summed %t: %s", what, k.Author, summed, d)
			}
		}
	}
	list, more, err := w.archive.Points(w.t.Context(), numbers, history.Place{Time: from}, to, len(want)+1)
	if w.must("points", err); more {
		w.t.Fatalf("%s: more than %d points", what, len(want)+1)
	}
	if d := diff(list, want); d != "" {
		w.t.Fatalf("%s: %s", what, d)
	}
	err = w.archive.Merged(w.t.Context(), numbers, history.Place{Time: from}, to, func(number int, p *history.Piece) error {
		list, err := w.piece(number, p)
		got = append(got, list...)
		return err
	})
	w.must("merged", err)
	if d := diff(got, want); d != "" {
		w.t.Fatalf("merged %s: %s", what, d)
	}
	n, err := w.archive.Count(w.t.Context(), numbers, from, to)
	if w.must("count", err); n != len(want) {
		w.t.Fatalf("count %s: got %d, want %d", what, n, len(want))
	}
	w.checkNewest(keys, numbers, to)
	w.checkBuckets(s, keys, numbers)
}

// read reads a column piece by piece.
func (w *world) read(number int, from, to uint64, summed bool) (list []history.Sample, err error) {
	err = w.archive.Read(w.t.Context(), number, from, to, summed, func(p *history.Piece) error {
		points, err := w.piece(number, p)
		list = append(list, points...)
		return err
	})
	return list, err
}

// piece returns the points of a piece, in either way, and checks what it says
// about itself.
func (w *world) piece(number int, p *history.Piece) (list []history.Sample, err error) {
	count, from, to := p.Count(), p.From(), p.To()
	c := &frame.Column{}
	if w.r.IntN(2) == 0 {
		data, n, err := p.Encoded(w.t.Context())
		if err != nil {
			return nil, err
		}
		if err := c.Decode(data); err != nil {
			return nil, err
		}
		if n != c.Len() {
			return nil, fmt.Errorf("a piece says that it encodes %d points, and encodes %d", n, c.Len())
		}
	} else if c, err = p.Points(w.t.Context()); err != nil {
		return nil, err
	}
	n := c.Len()
	if n != count || n == 0 || c.Times[0] != from || c.Times[n-1] != to {
		return nil, fmt.Errorf("a piece of %d points from %d to %d has %d", count, from, to, n)
	}
	if s := p.Summary; s != nil {
		if sum := c.Summary(0, n); !sum.Equal(s) {
			return nil, fmt.Errorf("a piece has the summary %+v, want %+v", s, sum)
		}
	}
	k := w.archive.Name(number)
	for i := range n {
		s := history.Sample{Point: c.Point(i), Author: k.Author}
		s.Series = k.Series
		list = append(list, s)
	}
	return list, nil
}

// checkNewest asks from when on columns have so many points.
func (w *world) checkNewest(keys []history.Key, numbers []int, before uint64) {
	w.t.Helper()
	n := 1 + w.r.IntN(1+w.r.IntN(400))
	want := uint64(0)
	for _, k := range keys {
		if list := w.of([]history.Key{k}, history.Place{}, before); len(list) >= n {
			want = max(want, list[len(list)-n].Time)
		}
	}
	got, err := w.archive.Newest(w.t.Context(), numbers, before, n)
	if w.must("newest", err); got != want {
		w.t.Fatalf("newest %d of %v before %d: got from %d, want from %d", n, keys, before, got, want)
	}
}

// checkBuckets asks for buckets, page by page.
func (w *world) checkBuckets(s *profile, keys []history.Key, numbers []int) {
	w.t.Helper()
	zone, err := time.LoadLocation(pick(w.r, zones...))
	w.must("zone", err)
	width := pick(w.r, widths...)
	for width < time.Duration(s.period)*2 {
		width *= 2
	}
	grid := history.NewGrid(width, zone)
	from, to := w.span()
	var want []*bucket
	for _, p := range w.of(keys, history.Place{Time: from}, to) {
		if p.Removed() {
			continue
		}
		start, end := grid.Span(p.Time)
		if n := len(want); n == 0 || want[n-1].start != start {
			want = append(want, &bucket{start: start, end: end, min: math.NaN(), max: math.NaN()})
		}
		want[len(want)-1].add(p)
	}
	what := fmt.Sprintf("buckets of %s in %s, %s from %d to %d", width, zone, s.Series, from, to)
	limit := 1 + w.r.IntN(max(1, pick(w.r, 3, len(want)+2)))
	var got []history.Bucket
	for pos := from; ; {
		until := time.Now().Add(time.Hour)
		if w.r.IntN(20) == 0 {
			until = time.Time{} // out of time at once
		}
		list, next, err := w.archive.Buckets(w.t.Context(), numbers, pos, to, grid, limit, until)
		w.must(what, err)
		if got = append(got, list...); next == 0 {
			break
		}
		if len(list) == 0 || len(list) > limit || next <= list[len(list)-1].Start {
			w.t.Fatalf("%s: a page of %d, and on at %d", what, len(list), next)
		}
		pos = next
	}
	for i := range min(len(got), len(want)) {
		if d := want[i].diff(&got[i]); d != "" {
			w.t.Fatalf("%s: bucket %d: %s", what, i, d)
		}
	}
	if len(got) != len(want) {
		w.t.Fatalf("%s: got %d, want %d", what, len(got), len(want))
	}
}

// bucket is what a bucket should say, added up point by point.
type bucket struct {
	start, end  uint64
	count, nan  int
	numbers     int
	min, max    float64
	sum, size   float64 // size is the sum of absolute values
	first, last history.Sample
}

func (b *bucket) add(s history.Sample) {
	if b.count == 0 {
		b.first = s
	}
	b.count, b.last = b.count+1, s
	v, ok := s.Number()
	if !ok {
		return
	}
	if math.IsNaN(v) {
		b.nan++
		return
	}
	b.numbers++
	if !(b.min <= v) {
		b.min = v
	}
	if !(b.max >= v) {
		b.max = v
	}
	b.sum, b.size = b.sum+v, b.size+math.Abs(v)
}

func (b *bucket) diff(got *history.Bucket) string {
	same := func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
	mean := math.NaN()
	if b.numbers > 0 {
		mean = b.sum / float64(b.numbers)
	}
	switch {
	case got.Start != b.start || got.End != b.end:
		return fmt.Sprintf("got %d to %d, want %d to %d", got.Start, got.End, b.start, b.end)
	case got.Count != b.count || got.NaN != b.nan:
		return fmt.Sprintf("at %d: got %d points, %d NaN, want %d, %d", b.start, got.Count, got.NaN, b.count, b.nan)
	case !same(got.Min, b.min) || !same(got.Max, b.max):
		return fmt.Sprintf("at %d: got min %v, max %v, want %v, %v", b.start, got.Min, got.Max, b.min, b.max)
	case !same(got.Mean(), mean) && !(math.Abs(got.Mean()-mean) <= 1e-12*b.size/float64(b.numbers)):
		return fmt.Sprintf("at %d: got mean %v, want %v", b.start, got.Mean(), mean)
	}
	return diff([]history.Sample{got.First, got.Last}, []history.Sample{b.first, b.last})
}

// checkPages reads a series in small pages while it gets points, late ones too:
// every point that was there is found once, and those that come behind the
// cursor.
func (w *world) checkPages(s *profile) {
	w.t.Helper()
	keys := w.keysOf(s.Series)
	from, to := w.span()
	cursor := history.Place{Time: from}
	limit := 1 + w.r.IntN(40)
	var got, want []history.Sample
	for range 400 {
		w.must("sync", w.archive.Sync(w.t.Context()))
		w.admit()
		page, more, err := w.archive.Points(w.t.Context(), w.numbersOf(s.Series), cursor, to, limit)
		if w.must("points", err); more && len(page) != limit || len(page) > limit {
			w.t.Fatalf("page of %d, more %t, limit %d", len(page), more, limit)
		}
		ahead := w.of(w.keysOf(s.Series), cursor, to)
		want = append(want, ahead[:min(limit, len(ahead))]...)
		if got = append(got, page...); !more {
			break
		}
		cursor = placeOf(page[len(page)-1]).Next()
		if w.r.IntN(8) == 0 {
			w.write(1 + w.r.IntN(30))
		}
		if w.r.IntN(30) == 0 {
			w.must("flush", w.archive.Flush(w.t.Context()))
		}
	}
	if d := diff(got, want); d != "" {
		w.t.Fatalf("pages of %d of %s from %d to %d by %v: %s", limit, s.Series, from, to, keys, d)
	}
	if !slices.IsSortedFunc(got, func(a, b history.Sample) int { return placeOf(a).Compare(placeOf(b)) }) {
		w.t.Fatalf("pages of %s are out of order", s.Series)
	}
}

// checkGaps asks what is missing: of logs, and of what had to make room.
func (w *world) checkGaps() {
	w.t.Helper()
	w.settle()
	for _, s := range w.series {
		numbers := w.numbersOf(s.Series)
		from, to := w.span()
		var want []history.Gap
		add := func(g history.Gap) {
			if g.End >= from && g.Start < to {
				want = append(want, g)
			}
		}
		authors := map[string]bool{}
		for _, n := range numbers {
			authors[w.archive.Name(n).Author] = true
		}
		for _, g := range w.gaps {
			if len(numbers) == 0 || authors[g.Author] {
				add(g)
			}
		}
		for _, n := range numbers {
			if g := w.removed[w.archive.Name(n)]; g != nil {
				add(*g)
			}
		}
		got := w.archive.Gaps(numbers, from, to)
		if w.miscounts {
			removed := func(g history.Gap) bool { return g.Reason == history.Removed }
			got, want = slices.DeleteFunc(got, removed), slices.DeleteFunc(want, removed)
		}
		slices.SortFunc(got, compareGaps)
		slices.SortFunc(want, compareGaps)
		if !slices.Equal(got, want) {
			w.t.Fatalf("gaps of %s from %d to %d: got %+v, want %+v", s.Series, from, to, got, want)
		}
	}
	total := uint64(0)
	for _, g := range w.removed {
		total += g.Count
	}
	if got := w.archive.RemovedPoints(); got != total && !w.miscounts {
		w.t.Fatalf("got %d points that made room, want %d", got, total)
	}
}

// checkStore checks the chunks themselves.
func (w *world) checkStore() {
	w.t.Helper()
	report, err := history.Check(w.t.Context(), w.js, w.chunks)
	w.must("check", err)
	n := len(w.of(w.keys(), history.Place{}, math.MaxUint64))
	if len(report.Problems) > 0 || report.Points != uint64(n) {
		w.t.Fatalf("check: %d points, want %d; problems %q", report.Points, n, report.Problems)
	}
}
