// Package uplink connects the gateway's logs with the hub: it finds out when
// the leaf is up, carries the link's messages over it, and stores and applies
// what the hub sends.
//
// The protocol itself is package link.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// lookEvery is how often the leaf is looked at; a connection that was lost
// and made again in between is found by the link's own waits.
const lookEvery = 200 * time.Millisecond

// Leaf is the connection to the hub.
type Leaf interface {
	// Linked tells whether somebody at the hub listens on the subject.
	Linked(subject string) bool
	// CutLeaf closes the connection; a new one is made.
	CutLeaf()
}

// Config says what the uplink connects. All fields but Usage,
// Commit and Log must be set.
type Config struct {
	ID       string
	Leaf     Leaf
	Conn     *nats.Conn // in the uplink account
	Instance *bus.Instance
	Out      *journal.Log           // EDGE
	In       *journal.Replica       // DOWN
	Acked    frame.Position         // from the snapshot
	Usage    map[string]uint64      // from the snapshot
	Commit   time.Duration          // commit interval of this machine's configuration, 0 for none
	Bytes    func() (tx, rx uint64) // of the socket to the hub, since the start
	Clock    *bus.Clock
	Save     func() error // writes a snapshot
	// Reached is told where the hub stands in Out, and Telling that it is
	// about to be told of a gap there before a frame; its error puts that off.
	Reached func(at frame.Cursor)
	Telling func(at frame.Cursor, f *frame.Frame) error
	// Credential is given what the hub says about a new credential.
	Credential func(data []byte)
	Log        zerolog.Logger
}

// Uplink is the gateway's end of the link.
type Uplink struct {
	cfg      Config
	peer     *link.Peer
	rules    rules
	usage    *usage
	ahead    ahead
	settings map[string]settings.Setting // of the link, by type
	skew     time.Duration               // as reported last; used by the peer only

	mu    sync.Mutex
	acked frame.Position
}

// New returns an uplink that is not connected.
func New(cfg Config) *Uplink {
	cfg.Log = cfg.Log.With().Str("component", "uplink").Logger()
	u := &Uplink{cfg: cfg, acked: cfg.Acked, usage: newUsage(cfg.Usage, cfg.Bytes)}
	u.rules = rules{plan: plans[DefaultPlan], local: cfg.Commit, pace: paceEven, waits: waitsLive}
	u.peer = link.NewPeer(link.Config{
		Gateway: true, Out: cfg.Out, In: cfg.In, Author: state.Hub, Acked: cfg.Acked,
		Send: func(verb string, data []byte) error {
			return cfg.Conn.Publish(subject.FromGateway(cfg.ID, verb), data)
		},
		Store: u.store, Merge: u.merge, Live: u.live, LiveSent: u.liveSent,
		Pace: u.rules.pacing, Afford: u.afford, Spent: u.usage.spent,
		Heads:     func(ctx context.Context, _ bool) ([]frame.Entry, error) { return cfg.Instance.HeadsBelow(ctx, cfg.ID) },
		HeadsSent: func() {},
		Cut:       cfg.Leaf.CutLeaf,
		OnAcked:   u.setAcked,
		OnGap:     cfg.Telling,
		OnTime:    u.setTime,
		Now:       cfg.Clock.Now, Random: journal.RandomBits, Log: cfg.Log,
	})
	u.settings = u.newSettings()
	cfg.Out.SetEvery(u.rules.commitEvery())
	return u
}

// skewStep is by how much a wrong clock must have moved to be told again.
const skewStep = time.Minute

// setTime learns the hub's time, and tells when the local clock is wrong.
func (u *Uplink) setTime(ns uint64) {
	skew := u.cfg.Clock.HubTime(ns)
	if (skew == 0) == (u.skew == 0) && (skew-u.skew).Abs() < skewStep {
		return
	}
	u.skew = skew
	u.cfg.Log.Warn().Dur("ahead_ms", skew).Msg("the clock of this machine is wrong, stamps are corrected by the hub's")
	p := point.Point{
		Series:   point.Series{Node: u.cfg.ID, Type: point.TypeClockSkew, Key: point.NoKey},
		DataType: point.Float, Data: point.FloatData(skew.Seconds()),
	}
	if err := u.cfg.Instance.Write([]point.Point{p}, nil, nil); err != nil {
		u.cfg.Log.Warn().Err(err).Msg("clock skew not reported")
	}
}

// afford returns how long bytes of a class have to wait for the budget.
func (u *Uplink) afford(class link.Class, n int) time.Duration {
	u.rules.mu.Lock()
	budget, pace, waits := u.rules.budget, u.rules.pace, u.rules.waits
	u.rules.mu.Unlock()
	if waits == waitsNothing || class < link.Live || class == link.Live && waits != waitsLive {
		return 0
	}
	return u.usage.affords(u.now(), budget, pace, n)
}

func (u *Uplink) now() time.Time { return point.TimeOf(u.cfg.Clock.Now()) }

// report writes what the line costs, as points, until ctx ends.
func (u *Uplink) report(ctx context.Context) {
	last := time.Now()
	look := time.NewTicker(10 * time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if time.Since(last) < u.rules.reportEvery() {
			continue
		}
		last = time.Now()
		if err := u.cfg.Instance.Write(u.usage.points(u.cfg.ID, u.now()), nil, nil); err != nil {
			u.cfg.Log.Warn().Err(err).Msg("bytes not reported")
		}
	}
}

// Usage returns what a snapshot keeps of the bytes of the line.
func (u *Uplink) Usage() map[string]uint64 {
	_, _ = u.usage.total(u.now())
	return u.usage.save()
}

// Bytes returns all bytes of the line each way, over restarts; of this month,
// and what the month will have at that rate.
func (u *Uplink) Bytes() (tx, rx, month, forecast uint64) {
	tx, rx = u.usage.total(u.now())
	month, forecast = u.usage.inMonth(u.now())
	return tx, rx, month, forecast
}

// ByClass returns the bytes of messages each way, by class. What is missing
// to all bytes is TLS, NATS and connections.
func (u *Uplink) ByClass() map[string]uint64 {
	return u.usage.byClass()
}

// Appended tells that the EDGE log has more, or will have with its next
// commit.
func (u *Uplink) Appended() { u.peer.Appended() }

// Run carries messages until ctx ends.
func (u *Uplink) Run(ctx context.Context) error {
	sub, err := u.cfg.Conn.Subscribe(subject.ToGateway(u.cfg.ID, "*"), func(m *nats.Msg) {
		verb := m.Subject[len(subject.ToGateway(u.cfg.ID, "")):]
		if verb == subject.Cred {
			u.cfg.Credential(m.Data)
			return
		}
		u.peer.Deliver(verb, m.Data)
	})
	if err != nil {
		return fmt.Errorf("subscribe to the hub: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = u.peer.Run(ctx) }) // ends with ctx
	wg.Go(func() { u.report(ctx) })
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	hello, up, told := subject.FromGateway(u.cfg.ID, subject.Hello), false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if now := u.cfg.Leaf.Linked(hello); now != up {
			up = now
			u.cfg.Log.Info().Bool("connected", up).Msg("link changed")
			u.peer.SetConnected(up)
			told = false
		}
		if up && !told && u.peer.Status().Halted != "" {
			told = u.cfg.Conn.Publish(subject.FromGateway(u.cfg.ID, subject.Clone), nil) == nil
		}
	}
}

// store keeps a frame of the DOWN log and applies it.
func (u *Uplink) store(ctx context.Context, f *frame.Frame) ([]link.AsideCount, error) {
	if f.Kind == frame.Heads || !f.Verify() {
		return nil, errors.New("frame is not what the hub sends")
	}
	applied := u.cfg.Instance.Storing(subject.StreamDown)
	seq, err := u.cfg.In.Append(ctx, f)
	if err != nil {
		if applied(0); errors.Is(err, journal.ErrDiskFull) {
			u.cfg.Instance.Apply(f) // in force at once; the hub sends it again until it is kept
		}
		return nil, err
	}
	u.cfg.Instance.Apply(f)
	applied(seq)
	return nil, nil
}

// merge takes the hub's winners; a snapshot makes them durable before the ack.
func (u *Uplink) merge(_ context.Context, f *frame.Frame, live bool) error {
	if u.cfg.Instance.Apply(f); live {
		return nil
	}
	return u.cfg.Save()
}

// setAcked remembers what the hub holds. The first ack is kept at once: from
// then on an unknown epoch at the hub means a clone.
func (u *Uplink) setAcked(pos frame.Position) {
	u.mu.Lock()
	first := u.acked == (frame.Position{}) && pos != u.acked
	u.acked = pos
	u.mu.Unlock()
	u.cfg.Reached(pos.Cursor)
	if first {
		if err := u.cfg.Save(); err != nil {
			u.cfg.Log.Warn().Err(err).Msg("snapshot not written")
		}
	}
}

// Acked returns the end of the EDGE log at the hub.
func (u *Uplink) Acked() frame.Position {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acked
}

// Status returns what the link does.
func (u *Uplink) Status() link.Status { return u.peer.Status() }
