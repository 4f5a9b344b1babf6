package history

import (
	"context"
	"encoding/json"
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
		b, err := json.Marshal(list)
		if err == nil {
			err = a.store.put(ctx, subject.HistoryGaps(author), b)
		}
		if err != nil {
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

// removal is what was removed of a group, the oldest leaves first. It is what
// decides: the stream may bring older versions of a leaf back after a crash,
// because the server notes removals by its limit nowhere (nats-server 2.15.2).
type removal struct {
	Floor   uint64       `json:"floor"`   // ns: nothing from before is kept any more
	Columns map[int]*Gap `json:"columns"` // by number
}

// floor returns from which time on a group keeps points. mu is held.
func (a *Archive) floor(group int) uint64 {
	if r := a.removed[group]; r != nil {
		return r.Floor
	}
	return 0
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
// newest chunk of a group stays, a little of it if even must is not free else.
// Queries tell what is gone. What a crash left in chunks and a log has as well
// must be settled before.
func (a *Archive) Remove(ctx context.Context, need, must, before uint64) (freed uint64, err error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	if !a.settled {
		return 0, nil
	}
	for {
		group, end, err := a.oldest(ctx)
		if err != nil || group < 0 && freed >= must || group >= 0 && freed >= need && end > before {
			return freed, err
		}
		if group < 0 {
			if some, err := a.halve(ctx); !some || err != nil {
				return freed, err
			}
			continue
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

// leastLeaf is how small a leaf gets to make room, in bytes.
const leastLeaf = 4 << 10

// halve parts the only leaf of every group, so that the older half may go. It
// tells whether there was one to part.
func (a *Archive) halve(ctx context.Context) (some bool, err error) {
	a.mu.Lock()
	groups := (len(a.names) + groupColumns - 1) / groupColumns
	a.mu.Unlock()
	for g := range groups {
		chain := chainName{subject.HistoryPoints, g}
		starts, err := a.startsOf(ctx, chain)
		if err != nil {
			return some, err
		}
		if len(starts) == 0 {
			continue
		}
		l, err := a.leafFor(ctx, chain, starts[0])
		if err != nil {
			return some, err
		}
		if n := l.bytes(); n > leastLeaf {
			if err := a.replace(ctx, chain, l, n*2/3); err != nil {
				return some, err
			}
			starts, err = a.startsOf(ctx, chain)
			some = some || err == nil && len(starts) > 1
		}
	}
	return some, nil
}

// removeFirst removes the first leaf of a group and what summarises it.
func (a *Archive) removeFirst(ctx context.Context, group int) (freed uint64, err error) {
	points := chainName{subject.HistoryPoints, group}
	starts, err := a.startsOf(ctx, points)
	if err != nil {
		return 0, err
	}
	start, end := starts[0], starts[1]
	l, err := a.leafFor(ctx, points, start) // a crash may have left in it what the next one has
	if err != nil {
		return 0, err
	}
	freed = uint64(l.bytes())
	if err := a.countRemoved(ctx, group, l); err != nil {
		return 0, err
	}
	if err := a.drop(ctx, points, start); err != nil {
		return 0, err
	}
	sums := chainName{subject.HistorySummaries, group}
	for {
		starts, err := a.startsOf(ctx, sums)
		if err != nil || sums.dead(starts, end) == 0 {
			return freed, err
		}
		if err := a.drop(ctx, sums, starts[0]); err != nil {
			return freed, err
		}
	}
}

// dead returns how many leaves of a chain have nothing from a time on.
func (c chainName) dead(starts []uint64, floor uint64) (n int) {
	for n < len(starts) && (c.level == subject.HistoryPoints && starts[n] < floor || n+1 < len(starts) && starts[n+1] <= floor) {
		n++
	}
	return n
}

func (a *Archive) drop(ctx context.Context, chain chainName, start uint64) error {
	if err := a.store.remove(ctx, subject.HistoryChunk(chain.level, chain.group, start)); err != nil {
		a.unsure(chain)
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
	}
	for _, c := range l.cols {
		n, ok := a.find(c.key)
		if !ok || len(c.segs) == 0 {
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
	r.Floor = max(l.start, l.last()) + 1
	a.mu.Unlock()
	b, err := json.Marshal(r)
	if err == nil {
		err = a.store.put(ctx, subject.HistoryRemoved(group), b)
	}
	if err != nil { // it may have been noted all the same
		have := &removal{}
		if a.loadJSON(ctx, subject.HistoryRemoved(group), have) == nil && have.Floor > 0 {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.removed[group] = have
			delete(a.chains, chainName{subject.HistoryPoints, group}) // the leaf is dead, and goes when they are listed
		}
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
// included.
func (a *Archive) Gaps(numbers []int, from, to uint64) (list []Gap) {
	add := func(g Gap) {
		if g.End >= from && g.Start < to {
			list = append(list, g)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	authors := map[string]bool{}
	for _, n := range numbers {
		authors[a.names[n].Author] = true
	}
	for _, author := range slices.Sorted(maps.Keys(a.gaps)) {
		if len(numbers) > 0 && !authors[author] {
			continue // of a log that the columns are not from
		}
		for _, g := range a.gaps[author] {
			add(g)
		}
	}
	if len(list) > maxGaps { // the oldest become one
		n := len(list) - maxGaps
		for _, g := range list[:n] {
			list[n].Count, list[n].Start = list[n].Count+g.Count, min(list[n].Start, g.Start)
		}
		list = list[n:]
	}
	for _, n := range numbers {
		if r := a.removed[n/groupColumns]; r != nil && r.Columns[n] != nil {
			add(*r.Columns[n])
		}
	}
	return list
}
