package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/subject"
)

// ErrRemoved is returned for points older than what had to make room.
var ErrRemoved = errors.New("points of that time had to make room")

// Import puts points into chunks that no log has: of years before, say. A
// crash leaves some of them; importing them again does no harm.
func (a *Archive) Import(ctx context.Context, columns map[Key]*frame.Column) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	t := tail{columns: map[int]*growing{}}
	a.mu.Lock()
	for k, c := range columns {
		n := a.name(k)
		if c.Len() > 0 && c.Times[0] < a.floor(n/groupColumns) {
			a.mu.Unlock()
			return fmt.Errorf("%s at %s: %w", k.Series, timeText(c.Times[0]), ErrRemoved)
		}
		t.columns[n] = &growing{col: c}
	}
	a.mu.Unlock()
	groups := t.groups()
	if err := a.noteImport(ctx, groups); err != nil {
		return err
	}
	err := a.write(ctx, groups)
	a.cut = a.cut || err != nil
	return err
}

// importing is where imports have written since the last start, by group:
// first and last time, ns. No log repeats what they write, so a crash between a
// chunk and its summaries must be made good from the chunks.
type importing map[int][2]uint64

// noteImport makes durable where an import is about to write. writing is held.
func (a *Archive) noteImport(ctx context.Context, groups map[int]map[int]*frame.Column) error {
	more := maps.Clone(a.importing)
	if more == nil {
		more = importing{}
	}
	for group, columns := range groups {
		span, ok := more[group]
		for _, c := range columns {
			n := c.Len()
			if n == 0 {
				continue
			}
			first, last := c.Times[0], c.Times[n-1]
			if !ok {
				span, ok = [2]uint64{first, last}, true
			}
			if first < span[0] || last > span[1] { // with room, so that it is not written each time
				room := (span[1] - span[0]) + 24*3600*second
				span = [2]uint64{min(span[0], first-min(first, room)), max(span[1], last+min(room, forever-1-last))}
			}
		}
		if ok {
			more[group] = span
		}
	}
	if maps.Equal(more, a.importing) {
		return nil
	}
	b, err := json.Marshal(more)
	if err == nil {
		err = a.store.put(ctx, subject.HistoryImport, b)
	}
	if err == nil {
		a.importing = more
	}
	return err
}

// repair has summaries tell again what chunks have where imports were writing
// at a crash.
func (a *Archive) repair(ctx context.Context) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	for group, span := range a.importing {
		chain := chainName{subject.HistoryPoints, group}
		starts, err := a.startsOf(ctx, chain)
		if err != nil {
			return err
		}
		for i := 1; i < len(starts); i++ {
			if starts[i] <= span[0] || starts[i-1] > span[1] {
				continue
			}
			l, err := a.leafFor(ctx, chain, starts[i-1])
			if err == nil {
				err = a.summarise(ctx, group, l)
			}
			if err != nil {
				return err
			}
		}
	}
	a.cut = false
	return a.importDone(ctx)
}

func (a *Archive) loadImport(ctx context.Context) error {
	return a.loadJSON(ctx, subject.HistoryImport, &a.importing)
}

// importDone notes that no import is being written. writing is held.
func (a *Archive) importDone(ctx context.Context) error {
	if len(a.importing) == 0 || a.cut {
		return nil
	}
	if err := a.store.put(ctx, subject.HistoryImport, []byte("{}")); err != nil {
		return err
	}
	a.importing = nil
	return nil
}
