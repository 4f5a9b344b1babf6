// Package door is the only bridge between gateways and the hub's streams: it
// judges every frame that a gateway sends, stores it in the EDGE log and
// applies it, and sends each gateway its DOWN log.
//
// It trusts a message's subject, which the server has checked against the
// gateway's credential, and nothing else in it: headers are dropped and reply
// subjects ignored. What concerns a gateway package relay decides.
package door

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// A gateway that went another way makes the hub repeat its DOWN log; one that
// only says so cannot do it often.
const (
	forkEvery = time.Minute
	forkBurst = 3
)

// floodDrops is how many messages of a gateway find no room before its
// connection is closed. All gateways share the way to the door: one that does
// not wait for its acks fills it, and what others send is lost.
const floodDrops = 1000

// maxKicks is how many gateways wait to be disconnected; more flood on until
// their next chance.
const maxKicks = 64

// Config says what the door connects. All fields but Limits, Refused and
// Log must be set.
type Config struct {
	Conn     *nats.Conn                    // in the gateways' account
	Instance *bus.Instance                 // the hub's
	Clock    *bus.Clock                    // of the hub
	Edge     func(id string) journal.Store // a gateway's log in EDGE
	Down     func(id string) journal.Store // a gateway's log in DOWN
	Clean    bool                          // the last run stopped cleanly
	Acked    map[string]frame.Position     // where gateways stood, from the snapshot
	Chains   map[string][]journal.Run      // epochs of DOWN logs by subject, from the snapshot
	Fresh    map[string]bool               // those whose epoch had no frame, likewise
	Heads    map[string][]string           // whose heads gateways still lack, from the snapshot
	Kick     func(id string)               // closes a gateway's connection
	Other    func(id, verb string) bool    // takes messages that are not of the link; nil if nobody does
	Stored   func()                        // a frame was stored and applied
	Save     func() error                  // writes a snapshot
	Limits   Limits                        // of each gateway; may be zero: no bounds
	// Refused is told that a gateway was refused something, at the first time
	// and then at most once a minute, with how often since; may be nil.
	Refused func(id, what string, n int)
	// Reached is told where a gateway stands in its DOWN log, and Telling that it
	// is about to be told of a gap there before a frame, which a snapshot keeps.
	Reached func(id string, at frame.Cursor)
	Telling func(id string, at frame.Cursor, f *frame.Frame)
	Log     zerolog.Logger
}

// Door holds a gate for every gateway that was admitted.
type Door struct {
	cfg Config
	log zerolog.Logger

	saver *saver
	kicks chan string // gateways to disconnect; bounded: who floods on is here again soon

	mu      sync.Mutex
	gates   map[string]*Gate
	refused int // messages from gateways that were not admitted

	ctx   context.Context // of Run; set before gates run
	group sync.WaitGroup
}

// Gate is one gateway's way in and out.
type Gate struct {
	id   string
	Down *journal.Log
	in   *journal.Replica
	peer *link.Peer
	stop context.CancelFunc

	limit *limiter

	// Of receive alone.
	dropped int            // messages without room
	floods  rate.Sometimes // for the log

	mu      sync.Mutex
	refused map[string]*tally // by what
	heads   []string          // nodes whose heads the gateway still lacks
	sent    []string          // those that are being sent
	acked   frame.Position
	hello   frame.Position // end of the gateway's log as it said
}

// New returns a door without gates.
func New(cfg Config) *Door {
	return &Door{
		cfg: cfg, log: cfg.Log.With().Str("component", "door").Logger(), gates: map[string]*Gate{},
		saver: newSaver(cfg.Save), kicks: make(chan string, maxKicks),
	}
}

// Run receives from gateways until ctx ends. Gates run from Admit to Run's
// end.
func (d *Door) Run(ctx context.Context, ready func()) error {
	d.mu.Lock()
	d.ctx = ctx
	for _, g := range d.gates {
		d.start(g)
	}
	d.mu.Unlock()
	sub, err := d.cfg.Conn.Subscribe(subject.FromAny, d.receive)
	if err != nil {
		return fmt.Errorf("subscribe for gateways: %w", err)
	}
	// The server lets these pass whatever a gateway's rights are. Nothing here
	// hears them but this, which counts.
	acks, err := d.cfg.Conn.Subscribe("$JS.ACK.>", func(*nats.Msg) { d.refuse() })
	if err != nil {
		return fmt.Errorf("subscribe for gateways: %w", err)
	}
	if err := d.cfg.Conn.Flush(); err != nil {
		return fmt.Errorf("subscribe for gateways: %w", err)
	}
	ready()
	for {
		select {
		case id := <-d.kicks: // not by receive, which all wait for
			d.cfg.Kick(id)
		case <-ctx.Done():
			_, _ = sub.Unsubscribe(), acks.Unsubscribe()
			d.group.Wait()
			return nil
		}
	}
}

// receive hands a message to its gate. It is called by the client library, in
// order, and does not block.
func (d *Door) receive(m *nats.Msg) {
	id, verb, ok := subject.ParseFrom(m.Subject)
	d.mu.Lock()
	g := d.gates[id]
	d.mu.Unlock()
	if !ok || g == nil {
		d.refuse()
		return
	}
	if m.Reply != "" {
		d.count(g, refusedReply)
	}
	if len(m.Header) > 0 {
		d.count(g, refusedHeader)
	}
	if isLink := verb == subject.Hello || verb == subject.Frame || verb == subject.Ack; !isLink && d.cfg.Other != nil {
		if !g.limit.others.Allow() {
			d.count(g, refusedRate)
			return
		}
		if d.cfg.Other(id, verb) {
			return
		}
	}
	if verb == subject.Hello {
		if h, err := link.DecodeHello(m.Data); err == nil {
			g.mu.Lock()
			g.hello = h.Out
			g.mu.Unlock()
		}
	}
	if g.peer.Deliver(verb, m.Data) {
		return
	}
	d.count(g, refusedDropped)
	if g.dropped++; g.dropped%floodDrops == 0 {
		g.floods.Do(func() {
			d.log.Warn().Str("node_id", id).Int("dropped", g.dropped).Msg("gateway floods, connection closed")
		})
		select {
		case d.kicks <- id:
			d.count(g, refusedFlood)
		default:
		}
	}
}

// refuse counts a message of nobody who may say it.
func (d *Door) refuse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused++
}

// tally counts what a gateway was refused.
type tally struct {
	count int
	told  int       // of them, to Refused
	at    time.Time // when
}

// tellEvery is how often one thing that a gateway is refused is told.
const tellEvery = time.Minute

func (d *Door) count(g *Gate, what string) {
	g.mu.Lock()
	t := g.refused[what]
	if t == nil {
		t = &tally{}
		g.refused[what] = t
	}
	t.count++
	n := 0
	if now := time.Now(); now.Sub(t.at) >= tellEvery {
		n = t.count - t.told
		t.told, t.at = t.count, now
	}
	g.mu.Unlock()
	if n > 0 && d.cfg.Refused != nil {
		d.cfg.Refused(g.id, what, n)
	}
}

// Count counts that a gateway was refused something elsewhere, and tells
// whether it is known.
func (d *Door) Count(id, what string) bool {
	g := d.Gate(id)
	if g != nil {
		d.count(g, what)
	}
	return g != nil
}

// Admit opens the gate of a gateway.
func (d *Door) Admit(ctx context.Context, id string) (*Gate, error) {
	if err := point.CheckID(id); err != nil {
		return nil, fmt.Errorf("admit gateway: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.gates[id]; g != nil {
		return g, nil
	}
	g := &Gate{
		id: id, heads: d.cfg.Heads[id], acked: d.cfg.Acked[id],
		floods: rate.Sometimes{Interval: time.Minute}, refused: map[string]*tally{},
	}
	g.limit = newLimiter(d.cfg.Limits, func(what string) { d.count(g, what) })
	var err error
	if g.in, err = journal.OpenReplica(ctx, d.cfg.Edge(id)); err != nil {
		return nil, fmt.Errorf("admit gateway %s: %w", id, err)
	}
	log := d.log.With().Str("node_id", id).Logger()
	g.Down, err = journal.Open(ctx, journal.Config{
		Store: d.cfg.Down(id), Author: id, Kind: frame.Relay, Clean: d.cfg.Clean && !d.cfg.Fresh[subject.LogDown(id)], Known: d.cfg.Chains[subject.LogDown(id)],
		Now: d.cfg.Clock.Now, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("admit gateway %s: %w", id, err)
	}
	g.peer = link.NewPeer(link.Config{
		Out: g.Down, In: g.in, Author: id, Acked: g.acked,
		Send:      func(verb string, data []byte) error { return d.cfg.Conn.Publish(subject.ToGateway(id, verb), data) },
		Store:     func(ctx context.Context, f *frame.Frame) ([]link.AsideCount, error) { return d.store(ctx, g, f) },
		Merge:     func(ctx context.Context, f *frame.Frame, live bool) error { return d.merge(ctx, g, f, live) },
		Heads:     func(ctx context.Context, all bool) ([]frame.Entry, error) { return d.heads(ctx, g, all) },
		HeadsSent: g.headsSent,
		Cut:       func() { d.cfg.Kick(id) },
		Forks:     rate.NewLimiter(rate.Every(forkEvery), forkBurst),
		Limit:     g.limit,
		OnAcked: func(pos frame.Position) {
			g.setAcked(pos)
			d.cfg.Reached(id, pos.Cursor)
		},
		OnGap: func(at frame.Cursor, f *frame.Frame) error {
			d.cfg.Telling(id, at, f)
			return d.saver.Save(d.ctx)
		},
		Now: d.cfg.Clock.Now, Random: journal.RandomBits, Log: log,
	})
	if len(g.heads) > 0 {
		g.peer.SendHeads()
	}
	d.gates[id] = g
	if d.ctx != nil {
		d.start(g)
	}
	return g, nil
}

// start runs a gate; the door is locked.
func (d *Door) start(g *Gate) {
	ctx, cancel := context.WithCancel(d.ctx)
	g.stop = cancel
	d.group.Add(1)
	go func() {
		defer d.group.Done()
		_ = g.peer.Run(ctx) // ends with ctx
	}()
}

// Dismiss closes the gate of a gateway. What it holds stays stored.
func (d *Door) Dismiss(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.gates[id]; g != nil && g.stop != nil {
		g.stop()
	}
	delete(d.gates, id)
}

// Gate returns the gate of a gateway, nil if it was not admitted.
func (d *Door) Gate(id string) *Gate {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gates[id]
}

// Acked returns up to where a gateway holds its DOWN log.
func (d *Door) Acked(id string) frame.Cursor {
	g := d.Gate(id)
	if g == nil {
		return frame.Cursor{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.acked.Cursor
}

// Refused returns how many messages came from gateways not admitted, or are
// none that a gateway sends.
func (d *Door) Refused() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

// Fill adds to a snapshot what gates must know after a restart.
func (d *Door) Fill(meta *bus.Meta) {
	d.mu.Lock()
	defer d.mu.Unlock()
	meta.Acked, meta.Heads = map[string]frame.Position{}, map[string][]string{}
	if meta.Chains == nil {
		meta.Chains, meta.Fresh = map[string][]journal.Run{}, map[string]bool{}
	}
	for id, g := range d.gates {
		g.mu.Lock()
		meta.Acked[id] = g.acked
		meta.Chains[subject.LogDown(id)] = g.Down.Chain()
		meta.Fresh[subject.LogDown(id)] = g.Down.Fresh()
		if pending := append(slices.Clone(g.sent), g.heads...); len(pending) > 0 {
			meta.Heads[id] = pending
		}
		g.mu.Unlock()
	}
}

// store judges, stores and applies a frame of a gateway's log.
func (d *Door) store(ctx context.Context, g *Gate, f *frame.Frame) ([]link.AsideCount, error) {
	if f.Kind != frame.Log || len(f.Aside) > 0 || len(f.Entries) > frame.MaxPoints || !f.Verify() {
		return nil, errors.New("frame is not what a gateway sends")
	}
	v := d.cfg.Instance.Judge(g.id, f.Entries, d.cfg.Limits.Limits)
	kept := *f
	kept.Entries, kept.Aside = v.Kept, v.Aside
	applied := d.cfg.Instance.Storing(subject.StreamEdge)
	seq, err := g.in.Append(ctx, &kept)
	if err != nil {
		applied(0)
		return nil, err
	}
	d.cfg.Instance.Apply(&kept)
	applied(seq)
	d.cfg.Stored()
	d.correct(g, &v)
	return count(v.Aside), nil
}

// correct answers edges that were set aside with what holds at the hub.
func (d *Door) correct(g *Gate, v *bus.Verdict) {
	if len(v.Edges) == 0 {
		return
	}
	g.limit.corrected(len(v.Edges))
	if err := d.cfg.Instance.Correct(v.Edges); err != nil {
		d.log.Warn().Err(err).Str("node_id", g.id).Msg("edge not corrected")
	}
}

func count(aside []frame.Aside) []link.AsideCount {
	var list []link.AsideCount
	for _, a := range aside {
		i := slices.IndexFunc(list, func(c link.AsideCount) bool { return c.Reason == a.Reason })
		if i < 0 {
			list = append(list, link.AsideCount{Reason: a.Reason})
			i = len(list) - 1
		}
		list[i].Count++
	}
	return list
}

// merge takes the winners that a gateway holds. They are in no log here, so a
// snapshot makes them durable before the ack; live ones the log brings later.
func (d *Door) merge(ctx context.Context, g *Gate, f *frame.Frame, live bool) error {
	if len(f.Entries) > frame.MaxPoints {
		return errors.New("frame is not what a gateway sends")
	}
	if !live {
		if err := g.limit.save(ctx); err != nil {
			return err
		}
	}
	v := d.cfg.Instance.Judge(g.id, f.Entries, d.cfg.Limits.Limits)
	kept := *f
	kept.Entries = v.Kept
	if d.cfg.Instance.Apply(&kept); live {
		return nil // the log brings all of it, and is what gets answers
	}
	d.correct(g, &v)
	return d.saver.Save(ctx)
}

// heads returns what the gateway should have: all of its subtree, or what came
// below it.
func (d *Door) heads(ctx context.Context, g *Gate, all bool) ([]frame.Entry, error) {
	if all && !g.limit.heads.Allow() { // else it was people who brought a node

		d.count(g, refusedHeads)
		return nil, link.Refusal{Code: link.Rate}
	}
	g.mu.Lock()
	g.sent, g.heads = append(g.sent, g.heads...), nil
	nodes := slices.Clone(g.sent)
	g.mu.Unlock()
	if all || len(nodes) == 0 {
		nodes = append(nodes, g.id)
	}
	return d.cfg.Instance.HeadsBelow(ctx, nodes...)
}

func (g *Gate) headsSent() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sent = nil
}

func (g *Gate) setAcked(pos frame.Position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked = pos
}

// Lacks tells that the gateway lacks the heads of a node and those below it.
func (g *Gate) Lacks(node string) {
	g.mu.Lock()
	if !slices.Contains(g.heads, node) {
		g.heads = append(g.heads, node)
	}
	g.mu.Unlock()
	g.peer.SendHeads()
}

// Appended tells that the DOWN log has more.
func (g *Gate) Appended() { g.peer.Appended() }

// Info is what a gate knows about its gateway.
type Info struct {
	Link      link.Status
	LagPoints uint64 // points that one end has and the other has not acked
	LastSeen  time.Time
	Refused   map[string]int // what the gateway was refused since the start, and how often
}

// Info returns what the gate knows.
func (g *Gate) Info() Info {
	g.mu.Lock()
	acked, hello := g.acked, g.hello
	refused := make(map[string]int, len(g.refused))
	for what, t := range g.refused {
		refused[what] = t.count
	}
	g.mu.Unlock()
	s := g.peer.Status()
	maps.Copy(refused, s.Refused)
	if s.Malformed > 0 {
		refused[refusedMalformed] = s.Malformed
	}
	lag := g.Down.Lag(acked)
	if in := g.in.Position(); hello.Epoch == in.Epoch && hello.Seq > in.Seq {
		lag += hello.Seq - in.Seq
	} else if in.Cursor.Less(hello.Cursor) && hello.Epoch != in.Epoch {
		lag += hello.Seq
	}
	return Info{Link: s, LagPoints: lag, LastSeen: s.LastHeard, Refused: refused}
}
