package uplink

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// ahead knows which own values should reach the hub before the log brings
// them. It holds at most one entry a series.
type ahead struct {
	mu      sync.Mutex
	urgent  map[point.Series]bool // go at once
	changed map[point.Series]bool // go while the log is behind
}

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

// due returns what should go now, the urgent ones first; with all also what
// has changed.
func (a *ahead) due(all bool) []point.Series {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.SortedFunc(maps.Keys(a.urgent), point.Series.Compare)
	if all {
		list = append(list, slices.SortedFunc(maps.Keys(a.changed), point.Series.Compare)...)
	}
	return list
}

// forget drops series that need not go any more, or were sent.
func (a *ahead) forget(list []point.Series) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range list {
		delete(a.urgent, s)
		delete(a.changed, s)
	}
}

// live returns own winners that should reach the hub now and that the log has
// not brought there yet.
func (u *Uplink) live(ctx context.Context, all bool) ([]frame.Entry, error) {
	acked := u.Acked()
	list, err := u.cfg.Instance.HeadsOf(ctx, u.ahead.due(all))
	var done []point.Series
	list = slices.DeleteFunc(list, func(e frame.Entry) bool {
		ours := e.Author == u.cfg.ID && acked.Less(e.At)
		if !ours { // the log has brought it, or another author's is newer
			done = append(done, e.Series)
		}
		return !ours
	})
	u.ahead.forget(done)
	return list, err
}

// liveSent forgets values that the hub has got, unless there are newer ones.
func (u *Uplink) liveSent(sent []frame.Entry) {
	var done []point.Series
	u.cfg.Instance.View(func(s *state.State, _ *tree.Tree) {
		for i := range sent {
			if h := s.Get(sent[i].Series); h == nil || h.Author != sent[i].Author || h.At == sent[i].At {
				done = append(done, sent[i].Series)
			}
		}
		u.ahead.forget(done) // with the instance locked: nothing newer comes between
	})
}

// Changed tells of a point that became state. It does not block.
func (u *Uplink) Changed(e *frame.Entry) {
	// Edges go with the log only: a group must arrive as one.
	if e.Author != u.cfg.ID || e.IsEdge() {
		return
	}
	urgent := u.urgent(&e.Point)
	u.ahead.note(e.Series, urgent)
	if urgent {
		u.peer.LiveDue()
	}
}

// urgent tells whether people wait for a point: an alarm, an answer to a
// setting, or a setting changed here.
func (u *Uplink) urgent(p *point.Point) bool {
	return p.Type == point.TypeApplied || u.isSetting(p) || u.rules.isAlarm(p)
}

// remind notes urgent values that a crash, or a change of what is urgent, has
// left behind in the log.
func (u *Uplink) remind() {
	acked, found := u.Acked(), false
	u.cfg.Instance.View(func(s *state.State, _ *tree.Tree) {
		s.All(func(e *frame.Entry) {
			if e.Author == u.cfg.ID && !e.IsEdge() && acked.Less(e.At) && u.urgent(&e.Point) {
				u.ahead.note(e.Series, true)
				found = true
			}
		})
	})
	if found {
		u.peer.LiveDue()
	}
}

// isSetting tells whether a point is a setting of the gateway itself, changed
// here.
func (u *Uplink) isSetting(p *point.Point) bool {
	return p.Node == u.cfg.ID && !p.IsEdge() && u.settings[p.Type] != nil
}
