// Package watch looks at the connections of gateways for what should not be: a
// key that is used in two places, a credential that is refused, a gateway that
// does what it has no right to; and at settings of gateways that change. It
// tells the registry and the audit.
//
// A clone shows in three ways. With the same name as the other box each of the
// two evicts the other, again and again. With another name both stay. And the
// one whose log is behind finds the other's in its place, stops, and says so.
package watch

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/hub/internal/natsd"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
)

const (
	// lookEvery is how often the live connections are looked at.
	lookEvery = 5 * time.Second
	// together is how long two connections of a key may overlap: a line that
	// broke without a word is found after less.
	together = 30 * time.Second
	// A gateway whose line breaks again and again takes its own place, but waits
	// longer each time: evictions are its own up to takeovers in a window.
	takeovers = 4
	window    = time.Minute
	// maxWaiting bounds the events that wait; the rest are dropped, what they
	// show is seen again.
	maxWaiting = 1024
)

// Ways in which a clone shows.
const (
	Together = "two connections at once"
	PingPong = "connections that take each other's place"
	Behind   = "another box wrote its log: it stopped"
)

// Config says what is watched. All fields but Log and Now must be set.
type Config struct {
	Server   *natsd.Server
	Registry *fleet.Registry
	Audit    *audit.Log
	Now      func() time.Time // default time.Now
	Log      zerolog.Logger
}

// Watch watches connections.
type Watch struct {
	cfg    Config
	log    zerolog.Logger
	events chan func(context.Context) // closed by nobody; bounded by maxWaiting
	seen   sightings
}

// linkSettings are the points of a gateway's node that change how it runs. The
// agent knows them as settings of its link.
var linkSettings = map[string]bool{
	point.TypePlan: true, "flushInterval": true, "commitInterval": true, "bytesPerMonth": true, "pace": true, "mayWait": true, "alarms": true,
}

// New returns a watch that sees nothing yet.
func New(cfg Config) *Watch {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Watch{
		cfg: cfg, log: cfg.Log.With().Str("component", "watch").Logger(), events: make(chan func(context.Context), maxWaiting), seen: newSightings(),
	}
}

// Merged takes a point that became state, and has settings of gateways that
// the hub wrote recorded. It does not block. What finds no room is in the HUB
// log alone.
func (w *Watch) Merged(e *frame.Entry) {
	if e.Author != state.Hub || e.IsEdge() || !linkSettings[e.Type] {
		return
	}
	node, name, value, origin := e.Node, e.Type, e.Text(), e.Origin
	if e.Removed() {
		value = "removed"
	}
	w.put(func(ctx context.Context) {
		w.cfg.Audit.Note(audit.By(ctx, "operator", "hub"), audit.ConfigChanged, node, name, value, "origin", origin)
	})
}

// Told takes the word of a gateway that another one wrote its log. It does not
// block, as Saw and Refused.
func (w *Watch) Told(id string) {
	w.put(func(ctx context.Context) { w.clone(audit.By(ctx, "gateway "+id, "link"), id, Behind) })
}

// Saw takes what happened to a connection.
func (w *Watch) Saw(e natsd.Event) {
	if e.ID != "" && (e.Refused() || e.Evicted()) {
		w.put(func(ctx context.Context) { w.event(ctx, e) })
	}
}

// Refused takes what the door refused a gateway, and how often.
func (w *Watch) Refused(id, what string, n int) {
	w.put(func(ctx context.Context) {
		ctx = audit.By(ctx, "gateway "+id, "link")
		w.cfg.Audit.Refuse(ctx, id, api.Errorf(api.CodeForeign, "", "%s", what), "why", what, "times", strconv.Itoa(n))
	})
}

func (w *Watch) put(do func(context.Context)) {
	select {
	case w.events <- do:
	default:
	}
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case do := <-w.events:
			do(ctx)
		case <-look.C:
			for id, from := range w.seen.live(w.cfg.Server.Leafs(), w.cfg.Now()) {
				w.clone(audit.By(ctx, "gateway "+id, from), id, Together)
			}
		}
	}
}

func (w *Watch) event(ctx context.Context, e natsd.Event) {
	ctx = audit.By(ctx, "gateway "+e.ID, cmp.Or(e.Host, "link"))
	code := api.CodeForeign
	switch {
	case e.Evicted():
		if w.seen.evicted(e.ID, w.cfg.Now()) {
			w.clone(ctx, e.ID, PingPong)
		}
		return
	case e.NotLetIn():
		code = api.CodeUnauthorized
	default:
		w.log.Warn().Str("node_id", e.ID).Str("remote_addr", e.Host).Str("reason", e.Reason).Msg("gateway did what it has no right to")
	}
	w.cfg.Audit.Refuse(ctx, e.ID, api.Errorf(code, "", "%s", cmp.Or(e.Reason, e.What)), "why", cmp.Or(e.Reason, e.What), "key", fleet.KeyID(e.PublicKey))
}

func (w *Watch) clone(ctx context.Context, id, how string) {
	if err := w.cfg.Registry.Clone(ctx, id, how); err != nil && ctx.Err() == nil {
		w.log.Warn().Err(err).Str("node_id", id).Msg("clone not counted")
	}
}

// sightings remembers what was seen of gateways a short while ago.
type sightings struct {
	pairs     map[string]time.Time   // by gateway: since when there are two connections
	evictions map[string][]time.Time // by gateway, in a window
}

func newSightings() sightings {
	return sightings{pairs: map[string]time.Time{}, evictions: map[string][]time.Time{}}
}

// live takes the present connections and returns the gateways that have had two
// for too long, with the address of one.
func (s *sightings) live(leafs []natsd.LeafInfo, now time.Time) map[string]string {
	count, clones := map[string]int{}, map[string]string{}
	for _, l := range leafs {
		if count[l.ID]++; count[l.ID] < 2 {
			continue
		}
		if since, ok := s.pairs[l.ID]; !ok {
			s.pairs[l.ID] = now
		} else if now.Sub(since) >= together {
			clones[l.ID] = l.RemoteAddr
		}
	}
	for id := range s.pairs {
		if count[id] < 2 {
			delete(s.pairs, id)
		}
	}
	for id, times := range s.evictions {
		if now.Sub(times[len(times)-1]) > window {
			delete(s.evictions, id)
		}
	}
	return clones
}

// evicted takes an eviction and tells whether there are too many of them.
func (s *sightings) evicted(id string, now time.Time) bool {
	times := append(s.evictions[id], now)
	for now.Sub(times[0]) > window {
		times = times[1:]
	}
	s.evictions[id] = times[max(0, len(times)-takeovers):]
	return len(times) >= takeovers
}
