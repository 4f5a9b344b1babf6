package streams

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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

func start(t *testing.T) *world {
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
		Conn: w.nc, JS: w.js, Edge: edge, Hub: own, Instance: w.bus, Dir: w.dir, MaxPerSubject: 100_000,
		Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	w.write(append(point.Edge("root", "gw", point.NodeGateway), point.Edge("gw", "pump", "pump")...))
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

// feed stores n points of the gateway, numbered from the count so far.
func (w *world) feed(from, n int) {
	w.Helper()
	for i := from; i < from+n; i++ {
		e := frame.Entry{Point: point.Point{
			Series: point.Series{Node: "pump", Type: "v", Key: fmt.Sprint(i % 3)}, Time: uint64(i + 1),
			DataType: point.Float, Data: point.FloatData(float64(i)),
		}}
		if err := w.edge.Add([]frame.Entry{e}, nil); err != nil {
			w.Fatal(err)
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
	if err := v.work(w.Context()); err != nil {
		w.Fatal(err)
	}
	return v
}

// check reads a stream whole: exactly the points 0..n-1, each once, in order.
func (w *world) check(n int) {
	w.Helper()
	s, err := w.js.Stream(w.Context(), subject.NodeStream(subject.EdgeSide, "pump"))
	if err != nil {
		w.Fatal(err)
	}
	info, err := s.Info(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if int(info.State.Msgs) != n {
		w.Fatalf("stream has %d messages, want %d", info.State.Msgs, n)
	}
	for i := range n {
		m, err := s.GetMsg(w.Context(), info.State.FirstSeq+uint64(i))
		if err != nil {
			w.Fatal(err)
		}
		var p point.Point
		if err := point.DecodePayload(m.Data, &p); err != nil {
			w.Fatal(err)
		}
		if want := fmt.Sprintf("p.pump.v.%d", i%3); m.Subject != want || p.Time != uint64(i+1) {
			w.Fatalf("message %d is %s at %d, want %s at %d", i, m.Subject, p.Time, want, i+1)
		}
	}
}

func TestExactlyOnceOverRestarts(t *testing.T) {
	w := start(t)
	w.feed(0, 2500)
	v := w.view()
	v.save(true)
	w.check(2500)
	w.feed(2500, 1500)
	v.batch(t.Context()) // some of it, and no checkpoint of that: a crash
	w.view()
	w.check(4000)
	for name := range v.known {
		if _, err := w.js.Stream(t.Context(), name); err != nil {
			t.Errorf("stream %s: %v", name, err)
		}
	}
}

// A stream that has less than the newest checkpoint says, as after a power
// cut, goes on from an older one; without any it is made anew.
func TestLostTail(t *testing.T) {
	w := start(t)
	w.feed(0, 1200)
	v := w.view()
	v.save(true)
	w.feed(1200, 800)
	v.work(t.Context())
	v.save(true)
	name := subject.NodeStream(subject.EdgeSide, "pump")
	s, err := w.js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	// A server cannot lose a tail on demand: a copy without it stands in.
	cfg := s.CachedInfo().Config
	var kept [][2]any
	for i := uint64(1); i <= 1500; i++ {
		m, err := s.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, [2]any{m.Subject, m.Data})
	}
	if err := w.js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, m := range kept {
		subj := "n.e." + m[0].(string)[2:]
		if _, err := w.js.Publish(t.Context(), subj, m[1].([]byte)); err != nil {
			t.Fatal(err)
		}
	}
	w.view()
	w.check(2000)

	if err := w.js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	w.view()
	w.check(2000)

	for _, content := range []string{"{", `{"checkpoints":[]}`} {
		if err := os.WriteFile(filepath.Join(w.dir, "streams.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		w.view().save(true)
		w.check(2000)
	}
}

// The streams of a node that leaves the tree go, and come back whole.
func TestNodeLeavesAndReturns(t *testing.T) {
	w := start(t)
	w.feed(0, 1000)
	v := w.view()
	v.save(true)
	tombstone := func(v byte) []point.Point {
		return []point.Point{{Series: point.Series{Up: "gw", Node: "pump", Type: point.TypeTombstone, Key: "0"}, DataType: point.Uint, Data: []byte{v}}}
	}
	w.write(tombstone(1))
	if err := v.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.Stream(t.Context(), subject.NodeStream(subject.EdgeSide, "pump")); err == nil {
		t.Error("the stream of a removed node is still there")
	}
	w.write(tombstone(2))
	w.feed(1000, 500)
	if err := v.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(1500)
	v.save(true)
	w.feed(1500, 100)
	w.view()
	w.check(1600)
}

// The default keeps exactly the newest of each subject.
func TestLimitPerSubject(t *testing.T) {
	w := start(t)
	w.cfg.MaxPerSubject = 100
	w.feed(0, 1500)
	w.view()
	s, err := w.js.Stream(t.Context(), subject.NodeStream(subject.EdgeSide, "pump"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		subj := fmt.Sprintf("p.pump.v.%d", i)
		if got := info.State.Subjects[subj]; got != 100 {
			t.Errorf("%s has %d messages, want 100", subj, got)
		}
	}
	if info.State.FirstSeq != 1201 {
		t.Errorf("first message kept is %d, want 1201", info.State.FirstSeq)
	}
}

func TestCheckpointFileIsSmall(t *testing.T) {
	w := start(t)
	v := w.view()
	for range 3 * checkpointsKept {
		v.save(true)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "streams.json"))
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
}
