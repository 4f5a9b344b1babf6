package uplink

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// ahead knows which own values should reach the hub before the log brings
// them. It holds at most one entry a series.
type ahead struct {
	mu      sync.Mutex
	urgent  map[point.Series]bool // go at once
	changed map[point.Series]bool // go while the log is behind
	sending map[point.Series]bool // in flight
}

// maxAhead bounds the values that go in one frame.
const maxAhead = 500

// note takes in a value that changed.
func (a *ahead) note(s point.Series, urgent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := &a.changed
	if urgent {
		m = &a.urgent
	}
	if *m == nil {
		*m = map[point.Series]bool{}
	}
	(*m)[s] = true
}

// take returns what goes now: what was under way before, what is urgent, and
// with all also what has changed.
func (a *ahead) take(all bool) []point.Series {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sending == nil {
		a.sending = map[point.Series]bool{}
	}
	move := func(from map[point.Series]bool) {
		for s := range from {
			if len(a.sending) >= maxAhead {
				return
			}
			a.sending[s] = true
			delete(from, s)
		}
	}
	if move(a.urgent); all {
		move(a.changed)
	}
	return slices.SortedFunc(maps.Keys(a.sending), point.Series.Compare)
}

// sent forgets what was under way.
func (a *ahead) sent() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.sending)
}

// live returns own winners that should reach the hub now and that the log has
// not brought there yet.
func (u *Uplink) live(ctx context.Context, all bool) ([]frame.Entry, error) {
	acked := u.Acked()
	list, err := u.cfg.Instance.HeadsOf(ctx, u.ahead.take(all))
	list = slices.DeleteFunc(list, func(e frame.Entry) bool { return e.Author != u.cfg.ID || !acked.Less(e.At) })
	return list, err
}

// Changed tells of a point that became state. It does not block.
func (u *Uplink) Changed(e *frame.Entry) {
	if e.Author != u.cfg.ID {
		return
	}
	urgent := e.Type == point.TypeApplied || u.isSetting(&e.Point) || u.rules.isAlarm(&e.Point)
	u.ahead.note(e.Series, urgent)
	if urgent {
		u.peer.LiveDue()
	}
}

// isSetting tells whether a point is a setting of the gateway itself, changed
// here.
func (u *Uplink) isSetting(p *point.Point) bool {
	return p.Node == u.cfg.ID && !p.IsEdge() && u.settings[p.Type]
}
