package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// pullEvery is how often the logs are read if nobody asks.
	pullEvery = 10 * time.Second
	// tailAge is after how long a tail is written that has not filled up: it is
	// read from the logs again at every start.
	tailAge = 6 * time.Hour
)

// Run makes chunks of the logs until ctx ends.
func (a *Archive) Run(ctx context.Context) error {
	if err := a.repair(ctx); err != nil && ctx.Err() == nil {
		a.cfg.Log.Error().Err(err).Msg("summaries of an import that was cut off are not made good")
	}
	return daemon.Every(ctx, pullEvery, a.kick, func() {
		if err := a.work(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Error().Err(err).Msg("history is not written, trying again")
		}
	})
}

// work reads the logs to their ends and writes every tail that is full.
func (a *Archive) work(ctx context.Context) error {
	for {
		err := a.pull(ctx, a.cfg.Tail)
		if err != nil && !errors.Is(err, errBusy) {
			return err
		}
		if !a.due() {
			return nil
		}
		if err := a.Flush(ctx); err != nil {
			return err
		}
	}
}

func (a *Archive) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen != nil || a.tail.points >= a.cfg.Tail || a.tail.points > 0 && time.Since(a.tail.since) > tailAge
}

// Flush writes all that was read of the logs into chunks. A crash at any step
// leaves every chunk as it was or as it becomes, and the tail in the logs.
func (a *Archive) Flush(ctx context.Context) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	if g := a.cfg.Guard; g != nil { // before anything is touched
		if err := g.Put(func() error { return nil }); err != nil {
			return err
		}
	}
	f, caught := a.freeze()
	a.settled = false
	if err := a.write(ctx, f.groups()); err != nil {
		return err
	}
	if err := a.writeGaps(ctx); err != nil {
		return err
	}
	if err := a.importDone(ctx); err != nil {
		return err
	}
	done := progress{map[string]uint64{}, f.before}
	for i := range a.cfg.Sources {
		done.Streams[a.cfg.Sources[i].Name] = f.next[i] - 1
	}
	if err := a.writeDone(ctx, done); err != nil {
		return err
	}
	a.settled = caught
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frozen, a.done = nil, done
	return nil
}

// Settle makes chunks of all that the logs have.
func (a *Archive) Settle(ctx context.Context) error {
	if err := a.Sync(ctx); err != nil {
		return err
	}
	return a.Flush(ctx)
}

// writeDone notes how far the logs are in chunks.
func (a *Archive) writeDone(ctx context.Context, done progress) error {
	a.mu.Lock()
	same := maps.Equal(done.Streams, a.done.Streams)
	a.mu.Unlock()
	if same {
		return nil
	}
	b, err := json.Marshal(done)
	if err != nil {
		return err
	}
	return a.store.put(ctx, subject.HistoryDone, b)
}

// Done returns up to which message of a stream all frames are in chunks.
func (a *Archive) Done(stream string) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done.Streams[stream]
}

// freeze takes the tail to be written; one that could not be written before is
// written with it. caught tells whether the logs have been read to their ends
// since the start.
func (a *Archive) freeze() (t *tail, caught bool) {
	a.pulling.Lock()
	next, before, caught := slices.Clone(a.next), maps.Clone(a.before), a.caught
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pulling.Unlock()
	t = &tail{}
	*t, a.tail = a.tail, tail{}
	if old := a.frozen; old != nil {
		for number := range old.columns {
			c := old.take(number)
			if newer := t.take(number); newer != nil {
				c = Union(c, newer)
			}
			if t.columns == nil {
				t.columns = map[int]*growing{}
			}
			t.columns[number] = &growing{col: c}
		}
		t.points += old.points
	}
	for _, g := range t.columns {
		g.settle()
	}
	t.next, t.before = next, before
	a.frozen = t
	return t, caught
}

// groups returns the columns of a tail by group and number.
func (t *tail) groups() map[int]map[int]*frame.Column {
	groups := map[int]map[int]*frame.Column{}
	for number, g := range t.columns {
		n := number / groupColumns
		if groups[n] == nil {
			groups[n] = map[int]*frame.Column{}
		}
		groups[n][number] = g.col
	}
	return groups
}

// write merges columns into the chunks of their groups. writing is held.
func (a *Archive) write(ctx context.Context, groups map[int]map[int]*frame.Column) error {
	if err := a.writeNewNames(ctx); err != nil {
		return err
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if err := a.writeGroup(ctx, group, groups[group]); err != nil {
			return err
		}
	}
	return nil
}

// writeNewNames makes durable which columns there are, before they are used.
func (a *Archive) writeNewNames(ctx context.Context) error {
	a.mu.Lock()
	n := len(a.names)
	a.mu.Unlock()
	if n == a.named {
		return nil
	}
	if err := a.writeNames(ctx, a.named); err != nil {
		return err
	}
	a.named = n
	return nil
}

// writeGroup merges columns of a group into its leaves, one leaf after the
// other.
func (a *Archive) writeGroup(ctx context.Context, group int, columns map[int]*frame.Column) error {
	chain := chainName{subject.HistoryPoints, group}
	a.mu.Lock()
	floor := a.floor(group)
	a.mu.Unlock()
	for number, c := range columns { // what is older had to make room
		columns[number] = clip(c, floor, forever)
		if n := c.Len() - columns[number].Len(); n > 0 {
			a.cfg.Log.Warn().Int("points", n).Str("series", a.nameOf(number).String()).Msg("late points are older than what there is room for")
		}
	}
	recent := uint64(forever)
	for _, c := range columns {
		if n := c.Len(); n > 0 {
			recent = min(recent, c.Times[n-1])
		}
	}
	for {
		first := uint64(forever)
		for _, c := range columns {
			if c.Len() > 0 {
				first = min(first, c.Times[0])
			}
		}
		if first == forever {
			return nil
		}
		l, err := a.leafFor(ctx, chain, first)
		if err != nil {
			return err
		}
		for number, c := range columns {
			n := sort.Search(c.Len(), func(i int) bool { return c.Times[i] >= l.end })
			a.lost(l.merge(a.nameOf(number), part(c, 0, n)))
			columns[number] = part(c, n, c.Len())
		}
		l.recent = recent
		if err := a.replace(ctx, chain, l, leafBytes); err != nil {
			return err
		}
	}
}

func (a *Archive) nameOf(number int) Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names[number]
}

// leafFor returns the leaf of a chain that a time belongs to, an empty one if
// there is none yet. Its end is where the next one begins.
func (a *Archive) leafFor(ctx context.Context, chain chainName, time uint64) (*leaf, error) {
	start, next, ok, err := a.at(ctx, chain, time)
	if err != nil {
		return nil, err
	}
	l := &leaf{start: start, end: start}
	if !ok {
		a.mu.Lock()
		l.start = a.floor(chain.group)
		a.mu.Unlock()
		l.end = l.start
	} else {
		have, err := a.load(ctx, chain, start, nil)
		switch {
		case errors.Is(err, ErrDamaged):
			a.cfg.Log.Error().Err(err).Msg("a chunk cannot be read and begins anew")
		case err != nil:
			return nil, err
		case have != nil:
			l = have
		}
	}
	switch {
	case l.end > next: // a crash between the two halves of a split
		a.lost(l.trim(next))
		return l, nil
	case chain.level == subject.HistorySummaries:
		err = a.resummarise(ctx, chain.group, l, l.end, next)
	case ok && l.end < next: // it was damaged, or the one behind it lost
		a.lost([]Gap{{Author: a.nameOf(chain.group * groupColumns).Author, Start: l.end, End: next, Reason: Damaged}})
	}
	l.end = next
	return l, err
}

// resummarise has a leaf of summaries tell what closed leaves of points have
// in a span of time.
func (a *Archive) resummarise(ctx context.Context, group int, l *leaf, from, to uint64) error {
	chain := chainName{subject.HistoryPoints, group}
	starts, err := a.startsOf(ctx, chain)
	if err != nil {
		return err
	}
	for i := 1; i < len(starts) && starts[i-1] < to; i++ {
		if starts[i] <= from {
			continue
		}
		p, err := a.load(ctx, chain, starts[i-1], nil)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		if p != nil {
			l.substitute(p, max(from, p.start), min(to, starts[i]))
		}
	}
	return nil
}

// at returns the start of the leaf that a time belongs to and of the next one.
// If there is none, ok is false: it would begin where the one before ends.
func (a *Archive) at(ctx context.Context, chain chainName, time uint64) (start, next uint64, ok bool, err error) {
	starts, err := a.startsOf(ctx, chain)
	if err != nil {
		return 0, 0, false, err
	}
	i := sort.Search(len(starts), func(i int) bool { return starts[i] > time })
	next = forever
	if i < len(starts) {
		next = starts[i]
	}
	if i == 0 {
		return 0, next, false, nil
	}
	return starts[i-1], next, true, nil
}

// startsOf returns the starts of the leaves of a chain, which nobody changes.
func (a *Archive) startsOf(ctx context.Context, chain chainName) ([]uint64, error) {
	a.mu.Lock()
	starts, ok := a.chains[chain]
	a.mu.Unlock()
	if ok {
		return starts, nil
	}
	starts, err := a.store.starts(ctx, chain.level, chain.group)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	dead := chain.dead(starts, a.floor(chain.group))
	a.mu.Unlock()
	for _, start := range starts[:dead] { // a crash brought them back
		if err := a.store.remove(ctx, subject.HistoryChunk(chain.level, chain.group, start)); err != nil {
			return nil, err
		}
	}
	starts = starts[dead:]
	a.mu.Lock()
	defer a.mu.Unlock()
	if have, ok := a.chains[chain]; ok { // somebody was faster, and may have added to it
		return have, nil
	}
	a.chains[chain] = starts
	return starts, nil
}

// load reads a leaf, nil if there is none. With a key, it has that column only.
func (a *Archive) load(ctx context.Context, chain chainName, start uint64, only *Key) (*leaf, error) {
	b, err := a.store.get(ctx, subject.HistoryChunk(chain.level, chain.group, start))
	if err != nil || b == nil {
		return nil, err
	}
	l, err := decodeLeaf(b, start, only)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject.HistoryChunk(chain.level, chain.group, start), err)
	}
	return l, nil
}

// replace writes a leaf in place of what has its start. A leaf that is larger
// than limit becomes several, and the newest one is parted where it is full, so
// that it is not written again; the last one first: who has read the old one has
// all of them, and who reads the new one finds where it goes on. What is
// closed, and so summarised in a chain of its own, is told there before.
func (a *Archive) replace(ctx context.Context, chain chainName, l *leaf, limit int) error {
	list := []*leaf{l}
	for i := 0; i < len(list); {
		r, lost := list[i].split(limit)
		if a.lost(lost); r == nil {
			i++
			continue
		}
		list = slices.Insert(list, i+1, r)
	}
	if chain.level == subject.HistoryPoints {
		newest := list[len(list)-1]
		if r, lost := newest.splitAt(newest.full(limit)); r != nil {
			a.lost(lost)
			list = append(list, r)
		}
		closed := list
		if n := len(list) - 1; list[n].end == forever {
			closed = list[:n]
		}
		if err := a.summarise(ctx, chain.group, closed...); err != nil {
			return err
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		l := list[i]
		if err := a.store.put(ctx, subject.HistoryChunk(chain.level, chain.group, l.start), l.encode()); err != nil {
			a.unsure(chain)
			return err
		}
		a.mu.Lock()
		a.chains[chain] = inserted(a.chains[chain], l.start)
		a.mu.Unlock()
	}
	return nil
}

// unsure has the starts of a chain listed again: a write that failed may have
// been done all the same.
func (a *Archive) unsure(chain chainName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.chains, chain)
}

// inserted returns a sorted list with a value in it.
func inserted(list []uint64, v uint64) []uint64 {
	i, found := slices.BinarySearch(list, v)
	if found {
		return list
	}
	if i == len(list) {
		return append(list, v)
	}
	return slices.Insert(slices.Clone(list), i, v)
}

// summarise has the chain of summaries of a group tell what closed leaves have
// that follow one another. Where its leaves are several the last one is first: a
// crash leaves times that are told twice, which a reader passes over, and none
// that are not told.
func (a *Archive) summarise(ctx context.Context, group int, list ...*leaf) error {
	if len(list) == 0 {
		return nil
	}
	all := &leaf{start: list[0].start, end: list[len(list)-1].end}
	for _, l := range list {
		for _, c := range l.cols {
			to := all.column(c.key)
			if to == nil {
				to = &column{key: c.key}
				all.cols = append(all.cols, to)
			}
			to.segs = append(to.segs, c.segs...)
		}
	}
	chain := chainName{subject.HistorySummaries, group}
	for to := all.end; to > all.start; {
		s, err := a.leafFor(ctx, chain, to-1)
		if err != nil {
			return err
		}
		from := max(s.start, all.start)
		if from >= to {
			return nil // below the floor there is nothing to tell
		}
		s.substitute(all, from, to)
		if err := a.replace(ctx, chain, s, leafBytes/16); err != nil { // the newest is written each time
			return err
		}
		to = from
	}
	return nil
}

// substitute takes the summaries of l for the time from to to.
func (s *leaf) substitute(l *leaf, from, to uint64) {
	for _, c := range l.cols {
		if s.column(c.key) == nil {
			s.cols = append(s.cols, &column{key: c.key})
		}
	}
	first := func(segs []segment, time uint64) int {
		return sort.Search(len(segs), func(i int) bool { return segs[i].From >= time })
	}
	for _, c := range s.cols {
		var segs []segment
		if d := l.column(c.key); d != nil {
			for _, g := range d.segs[first(d.segs, from):first(d.segs, to)] {
				segs = append(segs, segment{Summary: g.Summary})
			}
		}
		c.segs = slices.Replace(c.segs, first(c.segs, from), first(c.segs, to), segs...)
		c.raw = nil
	}
	s.cols = slices.DeleteFunc(s.cols, func(c *column) bool { return len(c.segs) == 0 })
}

// trim takes out of a leaf what comes from a time on.
func (l *leaf) trim(end uint64) (lost []Gap) {
	for _, c := range l.cols {
		_, gone := c.splitAt(end)
		lost = append(lost, gone...)
	}
	l.cols = slices.DeleteFunc(l.cols, func(c *column) bool { return len(c.segs) == 0 })
	l.end = end
	return lost
}
