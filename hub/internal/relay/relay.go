// Package relay repeats in each gateway's DOWN log what concerns its subtree:
// what the hub authored and what other gateways authored about nodes they
// share with it.
//
// It is a view of the HUB and EDGE logs. Every relay frame says how far it
// covers them, so that nothing is repeated twice after a crash; when a node
// comes below a gateway it asks for the heads that the log will not bring.
package relay

import (
	"context"
	"fmt"
	"sync"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/door"
	"github.com/sapflow/sapflow/hub/internal/view"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// Names of the relay's places in a snapshot.
const (
	viewHub  = "relay.hub"
	viewEdge = "relay.edge"
)

// Config says what a relay connects. All fields but Log must be set.
type Config struct {
	Hub, Edge view.Source
	Instance  *bus.Instance
	Door      *door.Door
	Done      map[string]uint64 // places from the snapshot
	Wake      <-chan struct{}
	Log       zerolog.Logger
}

// Relay is the view.
type Relay struct {
	cfg Config

	mu   sync.Mutex
	done frame.Covers // places up to which everything is relayed
}

// New returns a relay that goes on where the snapshot says.
func New(cfg Config) *Relay {
	cfg.Log = cfg.Log.With().Str("component", "relay").Logger()
	return &Relay{cfg: cfg, done: frame.Covers{Hub: cfg.Done[viewHub], Edge: cfg.Done[viewEdge]}}
}

// Fill adds the relay's places to a snapshot.
func (r *Relay) Fill(meta *bus.Meta) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if meta.Views == nil {
		meta.Views = map[string]uint64{}
	}
	meta.Views[viewHub], meta.Views[viewEdge] = r.done.Hub, r.done.Edge
}

// Done returns up to which messages of EDGE and HUB everything is relayed.
func (r *Relay) Done() (edge, hub uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done.Edge, r.done.Hub
}

// DoneIn returns what Done was when a snapshot was written.
func DoneIn(meta *bus.Meta) (edge, hub uint64) { return meta.Views[viewEdge], meta.Views[viewHub] }

// Run relays until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	view.Run(ctx, r.cfg.Wake, r.cfg.Log, r.work)
	return nil
}

// work relays all there is, what people wrote first.
func (r *Relay) work(ctx context.Context) error {
	for ctx.Err() == nil {
		covers := r.done
		item, ok, err := r.cfg.Hub.Next(ctx, covers.Hub, r.cfg.Log)
		if err != nil {
			return err
		}
		place := func(c *frame.Covers) *uint64 { return &c.Hub }
		if !ok {
			item, ok, err = r.cfg.Edge.Next(ctx, covers.Edge, r.cfg.Log)
			if err != nil {
				return err
			}
			if !ok {
				return nil
			}
			place = func(c *frame.Covers) *uint64 { return &c.Edge }
		}
		if err := r.relay(ctx, item, place); err != nil {
			return err
		}
		r.mu.Lock()
		*place(&r.done) = item.Seq
		r.mu.Unlock()
	}
	return nil
}

// share is what one gateway gets of a frame.
type share struct {
	entries []frame.Entry
	arrived []string // nodes that came below it
}

func (r *Relay) relay(ctx context.Context, item view.Item, place func(*frame.Covers) *uint64) error {
	for id, s := range r.split(item.Frame) {
		g := r.cfg.Door.Gate(id)
		if g == nil {
			continue // a gateway that is not registered (any more)
		}
		if covers := g.Down.Covers(); len(s.entries) > 0 && *place(&covers) < item.Seq {
			*place(&covers) = item.Seq
			if err := g.Down.Relay(ctx, s.entries, item.Frame.Now, covers); err != nil {
				return fmt.Errorf("relay to %s: %w", id, err)
			}
			g.Appended()
		}
		for _, node := range s.arrived {
			g.Lacks(node)
		}
	}
	return nil
}

// split tells what of a frame concerns which gateway.
func (r *Relay) split(f *frame.Frame) map[string]*share {
	shares := map[string]*share{}
	r.cfg.Instance.View(func(st *state.State, t *tree.Tree) {
		gateways := map[string][]string{} // by holder
		for i := range f.Entries {
			e := &f.Entries[i]
			list, ok := gateways[e.Holder()]
			if !ok {
				list = t.Gateways(e.Holder())
				gateways[e.Holder()] = list
			}
			for _, id := range list {
				if id == e.Author {
					continue
				}
				s := shares[id]
				if s == nil {
					s = &share{}
					shares[id] = s
				}
				s.add(e)
				if e.IsEdge() && arrives(st, t, e, f) {
					s.arrived = append(s.arrived, e.Node)
				}
			}
		}
	})
	for _, s := range shares { // of a group whose rest concerns others
		if n := len(s.entries); n > 0 {
			s.entries[n-1].More = false
		}
	}
	return shares
}

// add appends an entry; a group stays one where its points follow each other.
func (s *share) add(e *frame.Entry) {
	if n := len(s.entries); n > 0 && s.entries[n-1].More && s.entries[n-1].At.Seq+1 != e.At.Seq {
		s.entries[n-1].More = false
	}
	s.entries = append(s.entries, *e)
}

// arrives tells whether the edge of e brings a node that has heads which are
// not in this frame or behind it in the same log.
func arrives(st *state.State, t *tree.Tree, e *frame.Entry, f *frame.Frame) bool {
	if e.Type != point.TypeNodeType && e.Type != point.TypeTombstone {
		return false
	}
	if edge, ok := t.Edge(e.Up, e.Node); !ok || edge.Removed {
		return false
	}
	for _, n := range t.Subtree(e.Node) {
		for _, h := range st.Heads(n) {
			if h.Author != e.Author || h.At.Epoch != f.Epoch || h.At.Seq < f.First {
				return true
			}
		}
	}
	return false
}
