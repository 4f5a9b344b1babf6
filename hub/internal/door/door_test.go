package door_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/hub/internal/door"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gw = "gw"

// eventually waits until a condition holds, for 30 s at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within 30 s", what)
		case <-tick.C:
		}
	}
}

// store returns the logs of a stream, which is made if it is missing.
func store(t *testing.T, js jetstream.JetStream, stream string) *journal.JetStream {
	t.Helper()
	s, err := journal.Ensure(t.Context(), js, journal.LogStream(stream, subject.LogsOf(stream)))
	if err != nil {
		t.Fatal(err)
	}
	return journal.NewStore(js, s, subject.LogsOf(stream))
}

// hub is a door and a keeper of what goes to gateways, on a real server.
type hub struct {
	*testing.T
	nc              *nats.Conn
	edge, down, own *journal.JetStream
	dir             string
	relayed         uint64 // points

	keeper *journal.Keeper
	door   *door.Door
	gate   *door.Gate
	stop   func()
}

func newHub(t *testing.T) *hub {
	t.Helper()
	nc, js := natstest.JetStream(t)
	h := &hub{
		T: t, nc: nc, dir: t.TempDir(),
		edge: store(t, js, subject.StreamEdge), down: store(t, js, subject.StreamDown), own: store(t, js, subject.StreamHub),
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) start() {
	h.Helper()
	restored, meta, err := bus.Load(h.dir)
	if err != nil {
		h.Fatal(err)
	}
	clock := &bus.Clock{}
	own, err := journal.Open(h.Context(), journal.Config{Store: h.own.Of(subject.LogHub), Author: state.Hub, Now: clock.Now})
	if err != nil {
		h.Fatal(err)
	}
	instance := bus.New(bus.Config{
		Author: state.Hub, Root: "root", RootType: point.NodeRoot, State: restored, Log: own, Clock: clock, Conn: h.nc,
	})
	var d *door.Door
	var keeper *journal.Keeper
	save := func() error {
		return instance.Save(h.dir, func(m *bus.Meta) {
			m.Removed = keeper.Planned()
			d.Fill(m)
		})
	}
	all := func() uint64 { return 1 << 60 }
	keeper = journal.NewKeeper(journal.KeeperConfig{
		Shelves: []journal.Shelf{{
			Name: subject.StreamDown, Store: h.down, Spare: true,
			Acked: func(s string) frame.Cursor { return d.Acked(subject.ParseLog(s)) }, Safe: all,
		}},
		Max: 1, Free: func() (uint64, uint64) { return 1, 0 }, Spans: meta.Removed, Save: save,
	})
	d = door.New(door.Config{
		Conn: h.nc, Instance: instance, Clock: clock,
		Edge:  func(id string) journal.Store { return h.edge.Of(subject.LogEdge(id)) },
		Down:  func(id string) journal.Store { return h.down.Of(subject.LogDown(id)) },
		Acked: meta.Acked, Heads: meta.Heads, Chains: meta.Chains, Fresh: meta.Fresh,
		Kick: func(string) {}, Stored: func() {}, Save: save,
		Reached: func(id string, at frame.Cursor) { keeper.Reached(subject.LogDown(id), at) },
		Telling: func(id string, at frame.Cursor, f *frame.Frame) { keeper.Telling(subject.LogDown(id), at, f) },
		Log:     zerolog.New(zerolog.NewTestWriter(h.T)),
	})
	if h.gate, err = d.Admit(h.Context(), gw); err != nil {
		h.Fatal(err)
	}
	h.keeper, h.door = keeper, d
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Run(ctx, func() { close(ready) }) }()
	<-ready
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.Error(err)
		}
	})
}

// crash starts again from what is on disk.
func (h *hub) crash() {
	h.Helper()
	h.stop()
	h.start()
}

// relay puts frames of 10 points into the gateway's log.
func (h *hub) relay(frames int) {
	h.Helper()
	for range frames {
		list := make([]frame.Entry, 10)
		for i := range list {
			h.relayed++
			list[i] = frame.Entry{
				Point:  point.Point{Series: point.Series{Node: gw, Type: "limit", Key: point.NoKey}, Time: h.relayed, DataType: point.Uint, Data: []byte{1}},
				Author: state.Hub, At: frame.Cursor{Epoch: 1 << 40, Seq: h.relayed},
			}
		}
		if err := h.gate.Down.Relay(h.Context(), list, uint64(time.Now().UnixNano()), frame.Covers{Hub: h.relayed}); err != nil {
			h.Fatal(err)
		}
		h.gate.Appended()
	}
}

// tidy removes all that the gateway holds, but the last frame.
func (h *hub) tidy() journal.Span {
	h.Helper()
	if err := h.keeper.Tidy(h.Context()); err != nil {
		h.Fatal(err)
	}
	return h.span()
}

func (h *hub) span() journal.Span { return h.keeper.Spans()[subject.LogDown(gw)] }

// box is a gateway.
type box struct {
	*testing.T
	hub     *hub
	out     *journal.Log
	in      *journal.Replica
	missing atomic.Uint64 // points, by the gaps that it was told of
	mute    atomic.Bool   // its acks are lost
}

func newBox(h *hub) *box {
	h.Helper()
	_, js := natstest.JetStream(h.T)
	b := &box{T: h.T, hub: h}
	var err error
	if b.in, err = journal.OpenReplica(h.Context(), store(h.T, js, subject.StreamDown).Of(subject.LogDown(gw))); err != nil {
		h.Fatal(err)
	}
	b.out, err = journal.Open(h.Context(), journal.Config{
		Store: store(h.T, js, subject.StreamEdge).Of(subject.LogEdge(gw)), Author: gw, Now: func() uint64 { return 1 },
	})
	if err != nil {
		h.Fatal(err)
	}
	return b
}

// connect connects the box until the returned function is called.
func (b *box) connect() (cut func()) {
	b.Helper()
	peer := link.NewPeer(link.Config{
		Gateway: true, Out: b.out, In: b.in, Author: state.Hub,
		Send: func(verb string, data []byte) error {
			if verb == subject.Ack && b.mute.Load() {
				return nil
			}
			return b.hub.nc.Publish(subject.FromGateway(gw, verb), data)
		},
		Store: func(ctx context.Context, f *frame.Frame) ([]link.AsideCount, error) {
			if _, err := b.in.Append(ctx, f); err != nil {
				return nil, err
			}
			b.missing.Add(f.Gap())
			return nil, nil
		},
		Merge:     func(context.Context, *frame.Frame, bool) error { return nil },
		Heads:     func(context.Context, bool) ([]frame.Entry, error) { return nil, nil },
		HeadsSent: func() {}, Cut: func() {}, OnAcked: func(frame.Position) {},
		Now: func() uint64 { return 1 }, Random: journal.RandomBits, Log: zerolog.New(zerolog.NewTestWriter(b.T)),
	})
	sub, err := b.hub.nc.Subscribe(subject.ToGateway(gw, "*"), func(m *nats.Msg) {
		peer.Deliver(m.Subject[len(subject.ToGateway(gw, "")):], m.Data)
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- peer.Run(ctx) }()
	peer.SetConnected(true)
	return sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, sub.Unsubscribe()); err != nil {
			b.Error(err)
		}
	})
}

// follow connects the box until it holds all that is for it, and the hub
// knows.
func (b *box) follow() {
	b.Helper()
	defer b.connect()()
	eventually(b.T, "the gateway holds its log", func() bool {
		end := b.hub.gate.Down.Tail()
		return b.in.Position() == end && b.hub.door.Acked(gw) == end.Cursor
	})
}

// TestCountsWhatGatewaysWereTold: what a new box lacks of its log is what it
// was told of as gaps, over crashes of the hub, lost acks and one more box.
func TestCountsWhatGatewaysWereTold(t *testing.T) {
	h := newHub(t)
	first := newBox(h)
	for range 2 { // two epochs
		h.relay(20)
		first.follow()
		h.crash()
	}
	h.relay(20)
	first.follow()
	if s := h.tidy(); s.Points == 0 || s.Unsent > 0 {
		t.Fatalf("%d points removed, %d of them unsent; want some, and none unsent", s.Points, s.Unsent)
	}

	second := newBox(h)
	second.follow()
	lacks := second.missing.Load()
	if s := h.span(); lacks == 0 || s.Unsent != lacks {
		t.Fatalf("%d of %d removed points unsent, the new box lacks %d", s.Unsent, s.Points, lacks)
	}
	h.relay(20)
	second.follow()
	if s := h.tidy(); s.Points <= lacks || s.Unsent != lacks {
		t.Errorf("%d of %d removed points unsent, the box lacks %d", s.Unsent, s.Points, lacks)
	}

	third := newBox(h)
	third.mute.Store(true)
	cut := third.connect()
	eventually(t, "the gateway is told of a gap", func() bool { return third.missing.Load() > 0 })
	cut()
	h.crash()
	third.mute.Store(false)
	h.relay(1)
	third.follow()
	if s := h.span(); s.Unsent != third.missing.Load() || s.Unsent <= lacks {
		t.Errorf("%d of %d removed points unsent, the third box lacks %d", s.Unsent, s.Points, third.missing.Load())
	}
}
