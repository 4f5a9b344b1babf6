package history

import (
	"context"
	"errors"
	"slices"
	"sort"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Piece is a part of a column: a whole segment that nothing has to be added
// to, or points.
type Piece struct {
	Summary *frame.Summary // of a whole segment; nil for points
	load    func(context.Context) (*frame.Column, error)
	encoded []byte
	points  *frame.Column
}

// Points returns the points of a piece.
func (p *Piece) Points(ctx context.Context) (*frame.Column, error) {
	if p.points == nil && p.load != nil {
		var err error
		if p.points, err = p.load(ctx); err != nil {
			return nil, err
		}
	}
	return p.points, nil
}

// Encoded returns the points of a piece as an encoded column, and how many
// they are.
func (p *Piece) Encoded(ctx context.Context) (data []byte, points int, err error) {
	if p.encoded != nil && frame.Intact(p.encoded) {
		return p.encoded, p.Summary.Count, nil
	}
	c, err := p.Points(ctx)
	if err != nil {
		return nil, 0, err
	}
	return c.Quick(0, c.Len()), c.Len(), nil
}

// Skip takes the first points of a piece away, but not all of them.
func (p *Piece) Skip(ctx context.Context, n int) error {
	c, err := p.Points(ctx)
	if err == nil {
		*p = Piece{points: part(c, min(n, c.Len()), c.Len())}
	}
	return err
}

// From returns the time of its first point.
func (p *Piece) From() uint64 {
	if p.Summary != nil {
		return p.Summary.From
	}
	return p.points.Times[0]
}

// Count returns how many points it has.
func (p *Piece) Count() int {
	if p.Summary != nil {
		return p.Summary.Count
	}
	return p.points.Len()
}

// To returns the time of its last point.
func (p *Piece) To() uint64 {
	if p.Summary != nil {
		return p.Summary.To
	}
	return p.points.Times[p.points.Len()-1]
}

// Sync reads what the logs have got since, so that what is durable there is
// found.
func (a *Archive) Sync(ctx context.Context) error {
	for {
		err := a.pull(ctx, 4*a.cfg.Tail)
		if !errors.Is(err, errBusy) {
			return err
		}
		// Far behind, as after an update from a version without chunks: the
		// question pays for some of it.
		if err := a.Flush(ctx); err != nil {
			return err
		}
	}
}

// Columns returns the numbers of the columns of a series, one for each author.
func (a *Archive) Columns(s point.Series) []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.numbers[s])
}

// ColumnsOf returns the numbers of the columns of all series that match, by
// series and author.
func (a *Archive) ColumnsOf(match func(point.Series) bool) []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []int
	for s, numbers := range a.numbers {
		if match(s) {
			list = append(list, numbers...)
		}
	}
	slices.SortFunc(list, func(i, j int) int { return a.names[i].Compare(a.names[j]) })
	return list
}

// Name returns what a column is.
func (a *Archive) Name(number int) Key { return a.nameOf(number) }

// inMemory returns what the tails have of a column, nil for nothing.
func (a *Archive) inMemory(number int) *frame.Column {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, now := a.frozen.take(number), a.tail.take(number)
	switch {
	case old == nil:
		return now
	case now == nil:
		return old
	}
	return Union(old, now)
}

// walk is one pass over a column.
type walk struct {
	*Archive
	number   int
	key      Key
	from, to uint64
	visit    func(*Piece) error
	tail     *frame.Column
	next     int    // the point of the tail that was not visited yet
	last     *leaf  // of points that was read; it holds the column only
	summing  bool   // the last leaf was one of summaries
	done     uint64 // what is before that was visited
}

// errStop ends a walk.
var errStop = errors.New("enough")

// Read visits what a column has at from or later, before to, in the order of
// time, until visit returns an error. With summed it prefers not to read
// points: then a piece with a summary may have to load them.
func (a *Archive) Read(ctx context.Context, number int, from, to uint64, summed bool, visit func(*Piece) error) error {
	a.mu.Lock()
	from = max(from, a.floor(number/groupColumns)) // what is older in memory has no room
	a.mu.Unlock()
	w := &walk{Archive: a, number: number, key: a.nameOf(number), from: from, to: to, visit: visit}
	if w.tail = a.inMemory(number); w.tail == nil { // before the chunks: what moves there is found twice, not never
		w.tail = &frame.Column{}
	}
	w.next = w.tailAt(from)
	group := number / groupColumns
	for pos := from; pos < to; {
		end, err := w.leaf(ctx, group, pos, summed)
		if err != nil {
			return err
		}
		pos = end
	}
	return w.memory(to)
}

func (w *walk) tailAt(time uint64) int {
	return sort.Search(w.tail.Len(), func(i int) bool { return w.tail.Times[i] >= time })
}

// memory visits the points of the tail before a time.
func (w *walk) memory(end uint64) error {
	i, j := w.next, max(w.next, w.tailAt(min(end, w.to)))
	if w.next = j; i == j {
		return nil
	}
	return w.points(part(w.tail, i, j))
}

// points visits points, not too many at once.
func (w *walk) points(c *frame.Column) error {
	for i := 0; i < c.Len(); {
		to := c.Fit(i, min(c.Len(), i+segmentPoints), segmentText)
		if err := w.visit(&Piece{points: part(c, i, to)}); err != nil {
			return err
		}
		i = to
	}
	return nil
}

// leaf visits what one leaf has from pos on, and returns where the next one
// begins.
func (w *walk) leaf(ctx context.Context, group int, pos uint64, summed bool) (end uint64, err error) {
	points := chainName{subject.HistoryPoints, group}
	starts, err := w.startsOf(ctx, points)
	if err != nil {
		return 0, err
	}
	i := sort.Search(len(starts), func(i int) bool { return starts[i] > pos })
	if i == 0 { // before all leaves
		if len(starts) == 0 {
			return forever, nil
		}
		return starts[0], nil
	}
	// Summaries may be parted elsewhere than points: one must not begin within.
	if closed := starts[len(starts)-1]; summed && i < len(starts) && (w.summing || pos == starts[i-1]) {
		end, ok, err := w.summaries(ctx, group, pos, closed)
		if w.summing = ok; ok || err != nil {
			return end, err
		}
	}
	next := uint64(forever)
	if i < len(starts) {
		next = starts[i]
	}
	l := w.last
	if l == nil || l.start != starts[i-1] {
		l, err = w.load(ctx, points, starts[i-1], &w.key)
		if errors.Is(err, ErrDamaged) {
			w.cfg.Log.Error().Err(err).Msg("a chunk cannot be read")
			w.lost([]Gap{{Author: w.key.Author, Start: starts[i-1], End: next, Reason: Damaged}})
			l, err = nil, nil
		}
		if err != nil {
			return 0, err
		}
		w.last = l
	}
	if l == nil || l.end <= pos { // it was removed, is damaged, or the one behind it was lost
		return next, nil
	}
	end = min(l.end, next) // a crash in a split leaves what the next one has
	if c := l.column(w.key); c != nil {
		load := func(s *segment) func(context.Context) (*frame.Column, error) {
			return func(context.Context) (*frame.Column, error) { return w.decode(s), nil }
		}
		return end, w.segments(ctx, c, pos, end, end, load)
	}
	return end, nil
}

// decode returns the points of a segment, none if it is damaged.
func (w *walk) decode(s *segment) *frame.Column {
	c := &frame.Column{}
	if err := c.Decode(s.data); err != nil {
		w.cfg.Log.Error().Err(err).Str("series", w.key.String()).Msg("a segment of history cannot be read")
		w.lost([]Gap{{Author: w.key.Author, Start: s.From, End: s.To, Count: uint64(s.Count), Reason: Damaged}})
	}
	return c
}

// summaries visits what a leaf of summaries tells from pos on, as far as
// leaves of points are closed. ok is false if there is none.
func (w *walk) summaries(ctx context.Context, group int, pos, closed uint64) (end uint64, ok bool, err error) {
	chain := chainName{subject.HistorySummaries, group}
	start, next, ok, err := w.at(ctx, chain, pos)
	if !ok || err != nil {
		return 0, false, err
	}
	l, err := w.load(ctx, chain, start, &w.key)
	if l == nil || errors.Is(err, ErrDamaged) || err == nil && l.end <= pos {
		return 0, false, nil // the points tell
	}
	if err != nil {
		return 0, false, err
	}
	end = min(l.end, next, closed)
	c := l.column(w.key)
	if c == nil {
		return end, true, nil
	}
	load := func(s *segment) func(context.Context) (*frame.Column, error) {
		return func(ctx context.Context) (*frame.Column, error) { return w.between(ctx, group, s.From, s.To) }
	}
	return end, true, w.segments(ctx, c, pos, end, forever, load)
}

// between returns the points of chunks in a span of time, both ends included.
func (w *walk) between(ctx context.Context, group int, from, to uint64) (*frame.Column, error) {
	all := &frame.Column{}
	v := &walk{Archive: w.Archive, number: w.number, key: w.key, from: from, to: to + 1, tail: &frame.Column{}, last: w.last}
	defer func() { w.last = v.last }()
	v.visit = func(p *Piece) error {
		c, err := p.Points(ctx)
		if err == nil {
			all.AppendFrom(c, 0, c.Len())
		}
		return err
	}
	for pos := from; pos <= to; {
		end, err := v.leaf(ctx, group, pos, false)
		if err != nil {
			return nil, err
		}
		pos = end
	}
	return all, nil
}

// segments visits the segments of a column that reach beyond pos and begin
// before end, up to a time, with what the tail has between and within them. After
// a crash those of points and of summaries may be others: each time is visited
// once.
func (w *walk) segments(ctx context.Context, c *column, pos, end, until uint64, load func(*segment) func(context.Context) (*frame.Column, error)) error {
	to := min(w.to, until)
	for i := c.after(max(pos, w.done)); i < len(c.segs) && c.segs[i].From < min(to, end); i++ {
		s, from := &c.segs[i], max(w.from, w.done)
		w.done = min(s.To, to-1) + 1
		if err := w.memory(s.From); err != nil {
			return err
		}
		j := w.tailAt(min(s.To, to-1) + 1)
		whole := s.From >= from && s.To < to
		if j <= w.next && whole {
			if err := w.visit(&Piece{Summary: &s.Summary, encoded: s.data, load: load(s)}); err != nil {
				return err
			}
			continue
		}
		col, err := load(s)(ctx)
		if err != nil {
			return err
		}
		if j > w.next {
			col = Union(col, part(w.tail, w.next, j))
			w.next = j
		}
		if err := w.points(clip(col, from, to)); err != nil {
			return err
		}
	}
	return nil
}

// clip returns the points of a column from a time until another.
func clip(c *frame.Column, from, to uint64) *frame.Column {
	i, _ := slices.BinarySearch(c.Times, from)
	j, _ := slices.BinarySearch(c.Times, to)
	if i == 0 && j == c.Len() {
		return c
	}
	return part(c, i, max(i, j))
}
