package streams

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/view"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// world is a hub with one gateway, without the processes: real streams, logs
// and state; the test is the door.
type world struct {
	*testing.T
	nc   *nats.Conn
	js   jetstream.JetStream
	dir  string
	bus  *bus.Instance
	own  *journal.Log
	edge *journal.Log
	cfg  Config
}

// layouts runs a test for each layout; three shards make nodes share.
func layouts(t *testing.T, test func(*testing.T, *world)) {
	for _, l := range []Layout{{}, {Shards: 3}} {
		t.Run(l.String(), func(t *testing.T) { test(t, start(t, l)) })
	}
}

func start(t *testing.T, layout Layout) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir()}
	w.nc, w.js = natstest.JetStream(t)
	open := func(name, subj, author string, notify func(journal.Committed)) (*journal.Log, view.Source) {
		s, err := journal.Ensure(t.Context(), w.js, journal.LogStream(name, subject.LogsOf(name)))
		if err != nil {
			t.Fatal(err)
		}
		store := journal.NewStore(w.js, s, subj)
		l, err := journal.Open(t.Context(), journal.Config{Store: store, Author: author, Now: func() uint64 { return 1 << 60 }, Notify: notify})
		if err != nil {
			t.Fatal(err)
		}
		return l, view.Source{
			Name: name, Store: store, Author: func(string) string { return author },
			Covered: func() uint64 { return w.bus.Covered(name) },
		}
	}
	clock := &bus.Clock{}
	var own, edge view.Source
	w.own, own = open(subject.StreamHub, subject.LogHub, state.Hub, func(c journal.Committed) { w.bus.SetCovered(subject.StreamHub, c.Stream) })
	w.edge, edge = open(subject.StreamEdge, subject.LogEdge("gw"), "gw", func(c journal.Committed) {
		w.bus.Apply(c.Frame)
		w.bus.SetCovered(subject.StreamEdge, c.Stream)
	})
	w.bus = bus.New(bus.Config{
		Author: state.Hub, Root: "root", RootType: point.NodeRoot, State: state.New(), Log: w.own, Clock: clock, Conn: w.nc,
	})
	w.cfg = Config{
		Conn: w.nc, JS: w.js, Edge: edge, Hub: own, Instance: w.bus, Layout: layout, Dir: w.dir, MaxPerSubject: 100_000,
		Room: func() error { return nil }, Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	w.write(slices.Concat(point.Edge("root", "gw", point.NodeGateway), point.Edge("gw", "pump", "pump"), point.Edge("gw", "valve", "valve")))
	return w
}

// write authors points at the hub, durably.
func (w *world) write(points []point.Point) {
	w.Helper()
	if err := w.bus.Write(points, nil, nil); err != nil {
		w.Fatal(err)
	}
	if err := w.own.Commit(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// feed stores n points of two nodes each, numbered from the count so far.
func (w *world) feed(from, n int) {
	w.Helper()
	for i := from; i < from+n; i++ {
		for _, node := range []string{"pump", "valve"} {
			e := frame.Entry{Point: point.Point{
				Series: point.Series{Node: node, Type: "v", Key: fmt.Sprint(i % 3)}, Time: uint64(i + 1),
				DataType: point.Float, Data: point.FloatData(float64(i)),
			}}
			if err := w.edge.Add([]frame.Entry{e}, nil); err != nil {
				w.Fatal(err)
			}
		}
		if i%700 == 0 {
			if err := w.edge.Commit(w.Context()); err != nil {
				w.Fatal(err)
			}
		}
	}
	if err := w.edge.Commit(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// view runs a new view until it has published everything, as after a start.
func (w *world) view() *View {
	w.Helper()
	v := New(w.cfg)
	w.work(v)
	return v
}

// work lets a view publish everything.
func (w *world) work(v *View) {
	w.Helper()
	if err := v.work(w.Context(), func() {}); err != nil {
		w.Fatal(err)
	}
}

// stream returns the stream with a node's points of gateways.
func (w *world) stream(node string) jetstream.Stream {
	w.Helper()
	s, err := w.js.Stream(w.Context(), w.cfg.Layout.stream(subject.EdgeSide, node))
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// count returns how many messages the streams hold of a node.
func (w *world) count(node string) int {
	w.Helper()
	s, err := w.js.Stream(w.Context(), w.cfg.Layout.stream(subject.EdgeSide, node))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0
	}
	if err != nil {
		w.Fatal(err)
	}
	info, err := s.Info(w.Context(), jetstream.WithSubjectFilter(subject.NodeStored(node)))
	if err != nil {
		w.Fatal(err)
	}
	n := 0
	for _, of := range info.State.Subjects {
		n += int(of)
	}
	return n
}

// check reads what the streams hold of both nodes: exactly the points 0..n-1,
// each once, in order.
func (w *world) check(n int) {
	w.Helper()
	for _, node := range []string{"pump", "valve"} {
		if got := w.count(node); got != n {
			w.Fatalf("%d messages of %s, want %d", got, node, n)
		}
		s, seq := w.stream(node), uint64(1)
		for i := range n {
			m, err := s.GetMsg(w.Context(), seq, jetstream.WithGetMsgSubject(subject.NodeStored(node)))
			if err != nil {
				w.Fatal(err)
			}
			var p point.Point
			if err := point.DecodePayload(m.Data, &p); err != nil {
				w.Fatal(err)
			}
			if want := fmt.Sprintf("p.%s.v.%d", node, i%3); m.Subject != want || p.Time != uint64(i+1) {
				w.Fatalf("message %d is %s at %d, want %s at %d", i, m.Subject, p.Time, want, i+1)
			}
			seq = m.Sequence + 1
		}
	}
}

// tombstone removes a node from the gateway, or puts it back: odd or even.
func (w *world) tombstone(node string, v byte) {
	w.Helper()
	w.write([]point.Point{{Series: point.Series{Up: "gw", Node: node, Type: point.TypeTombstone, Key: "0"}, DataType: point.Uint, Data: []byte{v}}})
}

func TestExactlyOnceOverRestarts(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 2500)
		v := w.view()
		v.checkpoint()
		w.check(2500)
		w.feed(2500, 1500)
		if _, err := v.batch(t.Context()); err != nil { // some of it, and no checkpoint of that: a crash
			t.Fatal(err)
		}
		w.view()
		w.check(4000)
		for name := range v.known {
			if _, err := w.js.Stream(t.Context(), name); err != nil {
				t.Errorf("stream %s: %v", name, err)
			}
		}
	})
}

// A stream that has less than the newest checkpoint says, as after a power
// cut, goes on from an older one; without any it is made anew.
func TestLostTail(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 1200)
		v := w.view()
		v.checkpoint()
		w.feed(1200, 800)
		w.work(v)
		v.checkpoint()
		// A server cannot lose a tail on demand: a copy without it stands in.
		s := w.stream("pump")
		cfg, last := s.CachedInfo().Config, s.CachedInfo().State.LastSeq
		var kept [][2]any
		for i := uint64(1); i <= last*3/4; i++ {
			m, err := s.GetMsg(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, [2]any{m.Subject, m.Data})
		}
		if err := w.js.DeleteStream(t.Context(), cfg.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := w.js.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		for _, m := range kept {
			series, ok := subject.ParseSeries(m[0].(string)[2:])
			if !ok {
				t.Fatal(m[0])
			}
			if _, err := w.js.Publish(t.Context(), w.cfg.Layout.in(subject.EdgeSide, series), m[1].([]byte)); err != nil {
				t.Fatal(err)
			}
		}
		w.view()
		w.check(2000)

		if err := w.js.DeleteStream(t.Context(), cfg.Name); err != nil {
			t.Fatal(err)
		}
		w.view()
		w.check(2000)

		for _, content := range []string{"{", `{"checkpoints":[]}`} {
			if err := os.WriteFile(filepath.Join(w.dir, CheckpointFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			w.view().checkpoint()
			w.check(2000)
		}
	})
}

// A stream that holds more than the log tells, as when a frame was damaged
// after it was published, must not take new points for old ones.
func TestStreamHasMoreThanTheLog(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 1000)
		w.view().checkpoint()
		extra := point.Series{Node: "pump", Type: "v", Key: "0"}
		if _, err := w.js.Publish(t.Context(), w.cfg.Layout.in(subject.EdgeSide, extra), []byte("what no frame has")); err != nil {
			t.Fatal(err)
		}
		v := w.view()
		w.feed(1000, 500)
		w.work(v)
		w.check(1500)
		v.checkpoint()
		w.view()
		w.check(1500)
	})
}

// What streams hold of a node that leaves the tree goes, and comes back
// whole, while the other nodes keep theirs.
func TestNodeLeavesAndReturns(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 1000)
		v := w.view()
		v.checkpoint()
		w.tombstone("pump", 1)
		w.work(v)
		if n := w.count("pump"); n != 0 {
			t.Errorf("%d messages of a removed node are still there", n)
		}
		w.feed(1000, 10) // late points
		w.work(v)
		if n := w.count("pump"); n != 0 {
			t.Errorf("%d late messages of a removed node are there", n)
		}
		if n := w.count("valve"); n != 1010 {
			t.Errorf("%d messages of the other node, want 1010", n)
		}
		w.tombstone("pump", 2)
		w.feed(1010, 490)
		w.work(v)
		w.check(1500)
		v.checkpoint()
		w.feed(1500, 100)
		w.view()
		w.check(1600)
	})
}

// A crash at any place between leaving and being whole again.
func TestCrashWhileNodeLeavesOrReturns(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 1000)
		w.view().checkpoint()

		w.tombstone("pump", 1)
		v := New(w.cfg)
		if err := v.recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := v.batch(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := v.tidy(t.Context()); err != nil { // and no checkpoint
			t.Fatal(err)
		}
		w.tombstone("pump", 2) // so that the next start finds it in the tree
		w.feed(1000, 500)
		w.view()
		w.check(1500)

		w.tombstone("pump", 3)
		w.view().checkpoint()
		w.feed(1500, 1500)
		w.tombstone("pump", 4)
		for reads := 0; ; reads++ { // each start reads a frame more before it crashes
			cfg := w.cfg
			cfg.Edge.Store = &failing{Store: cfg.Edge.Store, left: reads}
			if New(cfg).work(t.Context(), func() {}) == nil {
				break
			}
		}
		w.view().checkpoint()
		w.check(3000)
	})
}

// failing is a store whose reads fail after some that succeed.
type failing struct {
	journal.Store
	left int
}

func (f *failing) Next(ctx context.Context, seq uint64) (journal.Message, error) {
	if f.left--; f.left < 0 {
		return journal.Message{}, errors.New("the disk does not answer")
	}
	return f.Store.Next(ctx, seq)
}

// Near a full disk no stream is made or filled, and the logs may lose what only
// streams made anew need. With room all goes on.
func TestNoRoom(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		const reserve = 2 << 20
		var free, asked atomic.Uint64
		guard := &journal.Guard{
			Free: func() (uint64, uint64) { asked.Add(1); return free.Load(), reserve },
			Full: func() {},
		}
		w.cfg.Room = guard.Room
		streams := func() (n int) {
			t.Helper()
			list := w.js.StreamNames(t.Context())
			for name := range list.Name() {
				if Owned(name) {
					n++
				}
			}
			if err := list.Err(); err != nil {
				t.Fatal(err)
			}
			return n
		}
		// waits runs a view, looks once it waits, and returns when it has
		// published all with the room that there is then.
		waits := func(look func(*View)) {
			t.Helper()
			v := New(w.cfg)
			done := make(chan error, 1)
			go func() { done <- v.work(t.Context(), func() {}) }()
			for edge := uint64(0); edge == 0; edge, _ = v.Safe() {
				select {
				case err := <-done:
					t.Fatalf("without room the work is done: %v", err)
				case <-time.After(time.Millisecond):
				}
			}
			look(v)
			free.Store(reserve)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if edge, own := v.Safe(); edge != 0 || own != 0 { // not flushed yet
				t.Errorf("with room the logs may lose what is before %d and %d", edge, own)
			}
			v.checkpoint()
		}
		w.feed(0, 1500)
		free.Store(reserve/2 - 1)
		waits(func(*View) {
			if n := streams(); n > 0 {
				t.Errorf("%d streams were made without room", n)
			}
		})
		w.check(1500)

		had := w.bus.Covered(subject.StreamEdge)
		w.feed(1500, 500)
		free.Store(reserve/2 - 1)
		waits(func(v *View) {
			if edge, _ := v.Safe(); edge > had {
				t.Errorf("the logs may lose what is before %d, where streams have what is before %d", edge, had)
			}
			if n := w.count("pump"); n != 1500 {
				t.Errorf("%d points were published without room, want 1500", n)
			}
		})
		w.check(2000)
		free.Store(0)
		asked.Store(0)
		if w.view(); asked.Load() > 0 {
			t.Error("a view with nothing to do waits for room")
		}
	})
}

// Streams of the other layout, as a change that was interrupted leaves them,
// are replaced.
func TestOtherLayout(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.feed(0, 1500)
		v := w.view()
		v.checkpoint()
		w.tombstone("valve", 1)
		w.work(v)
		v.checkpoint()
		w.tombstone("valve", 2)
		before := w.cfg.Layout
		w.cfg.Layout = Layout{Shards: 3 - before.Shards}
		w.view().checkpoint()
		w.check(1500)
		w.feed(1500, 100)
		w.view()
		w.check(1600)
		if _, err := w.js.Stream(t.Context(), before.stream(subject.EdgeSide, "pump")); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("stream of layout %s: %v, want %v", before, err, jetstream.ErrStreamNotFound)
		}
	})
}

func TestManyNodesWarn(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		var log bytes.Buffer
		w.cfg.Log = zerolog.New(&log)
		var group []point.Point
		for i := range manyNodes {
			if group = append(group, point.Edge("gw", fmt.Sprintf("n%d", i), "sensor")...); len(group) > 200 {
				w.write(group)
				group = nil
			}
		}
		w.write(group)
		v := New(w.cfg)
		v.want()
		v.want()
		want := 1
		if w.cfg.Layout.Shards > 0 {
			want = 0
		}
		if n := strings.Count(log.String(), "sapflow-hub streams rebuild --layout shard --data "+w.dir); n != want {
			t.Errorf("%d warnings, want %d: %s", n, want, &log)
		}
	})
}

// The default keeps exactly the newest of each subject.
func TestLimitPerSubject(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		w.cfg.MaxPerSubject = 100
		w.feed(0, 1500)
		w.view().checkpoint()
		w.checkLimit(100)
		w.cfg.MaxPerSubject = 50
		w.view()
		w.checkLimit(50)
	})
}

func (w *world) checkLimit(want uint64) {
	w.Helper()
	info, err := w.stream("pump").Info(w.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		w.Fatal(err)
	}
	for i := range 3 {
		subj := fmt.Sprintf("p.pump.v.%d", i)
		if got := info.State.Subjects[subj]; got != want {
			w.Errorf("%s has %d messages, want %d", subj, got, want)
		}
	}
}

func TestCheckpointFileIsSmall(t *testing.T) {
	layouts(t, func(t *testing.T, w *world) {
		v := w.view()
		for range 3 * checkpointsKept {
			v.checkpoint()
		}
		b, err := os.ReadFile(filepath.Join(w.dir, CheckpointFile))
		if err != nil {
			t.Fatal(err)
		}
		var f file
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		if len(f.Checkpoints) != checkpointsKept {
			t.Errorf("%d checkpoints, want %d", len(f.Checkpoints), checkpointsKept)
		}
	})
}
