package history

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/subject"
)

// Reason tells why points are missing.
type Reason string

// The reasons of gaps. They are stored.
const (
	Missing Reason = "gap"     // they never came here
	Removed Reason = "removed" // they were here and had to make room
	Damaged Reason = "damaged" // they were here and cannot be read
)

// Gap is a span of what this instance does not have, of whatever series.
type Gap struct {
	Author string      `json:"author"`
	Epoch  frame.Epoch `json:"epoch,omitempty"` // of a log, with From and To: sequence numbers, both missing
	From   uint64      `json:"from,omitempty"`
	To     uint64      `json:"to,omitempty"`
	Count  uint64      `json:"count"` // points, 0 if nobody knows
	Start  uint64      `json:"start"` // when, ns: of the points, or of the frames around a Missing one
	End    uint64      `json:"end"`
	Reason Reason      `json:"reason"`
}

// maxGaps bounds the gaps that are told apart for one author; then the oldest
// become one.
const maxGaps = 1000

// addGap notes a gap. mu is held.
func (a *Archive) addGap(g Gap) {
	list := a.gaps[g.Author]
	known := func(h Gap) bool {
		if g.Reason == Missing { // read again after a crash
			return h.Epoch == g.Epoch && h.From == g.From && h.To == g.To
		}
		return h == g
	}
	if slices.ContainsFunc(list, known) {
		return
	}
	if list = append(list, g); len(list) > maxGaps {
		list[1].Count += list[0].Count
		list[1].Start = list[0].Start
		list[1].From, list[1].To = 0, 0
		list = list[1:]
	}
	a.gaps[g.Author], a.dirty[g.Author] = list, true
}

// lost notes what could not be read of chunks.
func (a *Archive) lost(list []Gap) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range list {
		a.addGap(g)
	}
}

func (a *Archive) loadGaps(ctx context.Context) error {
	list, err := a.store.list(ctx, subject.HistoryGapsAll)
	if err != nil {
		return err
	}
	for _, name := range list {
		var gaps []Gap
		if err := a.loadJSON(ctx, name, &gaps); err != nil {
			return err
		}
		a.gaps[lastToken(name)] = gaps
	}
	return nil
}

// loadJSON reads a record. One that is damaged counts as missing: others tell
// most of what it did.
func (a *Archive) loadJSON(ctx context.Context, name string, v any) error {
	b, err := a.store.get(ctx, name)
	if err != nil || b == nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		a.cfg.Log.Error().Err(err).Str("subject", name).Msg("a record of history is damaged and passed over")
	}
	return nil
}

func (a *Archive) putJSON(ctx context.Context, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.store.put(ctx, name, b)
}

func lastToken(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// writeGaps makes new gaps durable. writing is held.
func (a *Archive) writeGaps(ctx context.Context) error {
	a.mu.Lock()
	gaps := map[string][]Gap{}
	for author := range a.dirty {
		gaps[author] = slices.Clone(a.gaps[author])
	}
	clear(a.dirty)
	a.mu.Unlock()
	for author, list := range gaps {
		if err := a.putJSON(ctx, subject.HistoryGaps(author), list); err != nil {
			a.mu.Lock()
			for author := range gaps {
				a.dirty[author] = true
			}
			a.mu.Unlock()
			return err
		}
	}
	return nil
}

// removal is what was removed of a group, the oldest leaves first.
type removal struct {
	Start   uint64       `json:"start"` // the last leaf that was counted
	End     uint64       `json:"end"`
	Columns map[int]*Gap `json:"columns"` // by number
}

func (a *Archive) loadRemoved(ctx context.Context) error {
	list, err := a.store.list(ctx, subject.HistoryRemovedAll)
	if err != nil {
		return err
	}
	for _, name := range list {
		r := &removal{}
		if err := a.loadJSON(ctx, name, r); err != nil {
			return err
		}
		if group, err := strconv.Atoi(lastToken(name)); err == nil {
			a.removed[group] = r
		}
	}
	return nil
}

// Bytes returns what the archive takes in its stream.
func (a *Archive) Bytes(ctx context.Context) (uint64, error) { return a.store.bytes(ctx) }

// Remove removes the oldest chunks until so many bytes are free, or nothing
// older than a time in ns is left if that is more; it returns the bytes. The
// newest chunk of a group stays. Queries tell what is gone.
func (a *Archive) Remove(ctx context.Context, need, before uint64) (freed uint64, err error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	for {
		group, end, err := a.oldest(ctx)
		if group < 0 || err != nil || freed >= need && end > before {
			return freed, err
		}
		n, err := a.removeFirst(ctx, group)
		if err != nil {
			return freed, err
		}
		freed += n
	}
}

// oldest returns the group whose first leaf ends first, -1 if no leaf may go.
func (a *Archive) oldest(ctx context.Context) (group int, end uint64, err error) {
	a.mu.Lock()
	groups := (len(a.names) + groupColumns - 1) / groupColumns
	a.mu.Unlock()
	group, end = -1, forever
	for g := range groups {
		starts, err := a.startsOf(ctx, chainName{subject.HistoryPoints, g})
		if err != nil {
			return -1, 0, err
		}
		if len(starts) > 1 && starts[1] < end {
			group, end = g, starts[1]
		}
	}
	return group, end, nil
}

// removeFirst removes the first leaf of a group and what summarises it.
func (a *Archive) removeFirst(ctx context.Context, group int) (freed uint64, err error) {
	points := chainName{subject.HistoryPoints, group}
	starts, err := a.startsOf(ctx, points)
	if err != nil {
		return 0, err
	}
	start, end := starts[0], starts[1]
	l, err := a.load(ctx, points, start, nil)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return 0, err
	}
	if l != nil {
		freed = uint64(l.bytes())
		if err := a.countRemoved(ctx, group, l); err != nil {
			return 0, err
		}
	}
	if err := a.drop(ctx, points, start); err != nil {
		return 0, err
	}
	sums := chainName{subject.HistorySummaries, group}
	for {
		starts, err := a.startsOf(ctx, sums)
		if err != nil || len(starts) < 2 || starts[1] > end {
			return freed, err
		}
		if err := a.drop(ctx, sums, starts[0]); err != nil {
			return freed, err
		}
	}
}

func (a *Archive) drop(ctx context.Context, chain chainName, start uint64) error {
	if err := a.store.remove(ctx, subject.HistoryChunk(chain.level, chain.group, start)); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chains[chain] = slices.DeleteFunc(slices.Clone(a.chains[chain]), func(s uint64) bool { return s == start })
	return nil
}

// countRemoved notes durably what is about to go.
func (a *Archive) countRemoved(ctx context.Context, group int, l *leaf) error {
	a.mu.Lock()
	r := &removal{Columns: map[int]*Gap{}}
	if old := a.removed[group]; old != nil {
		for n, g := range old.Columns {
			c := *g
			r.Columns[n] = &c
		}
		r.Start, r.End = old.Start, old.End
	}
	again := r.Start == l.start && r.End == l.end // a crash came before it was removed
	for _, c := range l.cols {
		n, ok := a.find(c.key)
		if !ok || again || len(c.segs) == 0 {
			continue
		}
		g := r.Columns[n]
		if g == nil {
			g = &Gap{Author: c.key.Author, Start: c.segs[0].From, Reason: Removed}
			r.Columns[n] = g
		}
		for i := range c.segs {
			g.Count += uint64(c.segs[i].Count)
			g.Start, g.End = min(g.Start, c.segs[i].From), max(g.End, c.segs[i].To)
		}
	}
	r.Start, r.End = l.start, l.end
	a.mu.Unlock()
	if again {
		return nil
	}
	if err := a.putJSON(ctx, subject.HistoryRemoved(group), r); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removed[group] = r
	return nil
}

// RemovedPoints returns how many points had to make room.
func (a *Archive) RemovedPoints() (n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.removed {
		for _, g := range r.Columns {
			n += g.Count
		}
	}
	return n
}

// Gaps returns what may be missing of some columns in a span of time, to not
// included, 0 for no end.
func (a *Archive) Gaps(numbers []int, from, to uint64) (list []Gap) {
	add := func(g Gap) {
		if g.End >= from && (to == 0 || g.Start < to) {
			list = append(list, g)
		}
	}
	for i := range a.cfg.Sources {
		src := &a.cfg.Sources[i]
		if src.Removed == nil {
			continue
		}
		spans := src.Removed()
		for _, log := range slices.Sorted(maps.Keys(spans)) {
			if s := spans[log]; s.Points > 0 {
				add(Gap{Author: src.Author(log), Count: s.Points, Start: s.From, End: s.To, Reason: Removed})
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, author := range slices.Sorted(maps.Keys(a.gaps)) {
		for _, g := range a.gaps[author] {
			add(g)
		}
	}
	for _, n := range numbers {
		if r := a.removed[n/groupColumns]; r != nil && r.Columns[n] != nil {
			add(*r.Columns[n])
		}
	}
	return list
}
