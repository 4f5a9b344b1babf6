package bus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the random runs; 0 takes the clock")
	stepsFlag = flag.Int("steps", 1500, "steps of the random run")
)

const gw = "gw"

// winners is what state must be, from all points that count.
type winners map[point.Series]frame.Entry

func (w winners) add(f *frame.Frame) {
	for _, e := range f.Entries {
		if f.Future(&e) {
			continue
		}
		if old, ok := w[e.Series]; !ok || state.Compare(&e, &old) > 0 {
			w[e.Series] = e
		}
	}
}

// gate is a gateway's instance on a real store, without its processes.
type gate struct {
	*testing.T
	rng        *rand.Rand
	dir        string
	edge, down *journal.JetStream
	wall       time.Time
	steady     time.Duration

	clock  *bus.Clock
	bus    *bus.Instance
	log    *journal.Log
	in     *journal.Replica
	keeper *journal.Keeper
	max    uint64

	model   winners                 // of durable points
	used    map[frame.Cursor]string // places of the own log
	written map[string]uint64       // durable points, by stream
	saves   int                     // snapshots since one was damaged
	counts  map[string]int
}

// boot starts from what is on disk.
func (g *gate) boot(clean bool) {
	g.Helper()
	ctx := g.Context()
	restored, meta, err := bus.Load(g.dir)
	if err != nil {
		g.counts["older snapshots"]++
	}
	g.clock = &bus.Clock{Wall: func() time.Time { return g.wall }, Steady: func() time.Duration { return g.steady }}
	g.log, err = journal.Open(ctx, journal.Config{
		Store: g.edge, Author: gw, Clean: clean, Known: meta.Chains[subject.LogEdge(gw)], Now: g.clock.Now, Every: time.Hour, Notify: g.committed,
	})
	if err != nil {
		g.Fatal(err)
	}
	g.bus = bus.New(bus.Config{
		Author: gw, Root: gw, RootType: point.NodeGateway, State: restored, Clock: g.clock, Interest: func(string) bool { return false },
	})
	for name, r := range map[string]struct {
		store  *journal.JetStream
		author string
	}{subject.StreamEdge: {g.edge, gw}, subject.StreamDown: {g.down, state.Hub}} {
		if err := g.bus.Replay(ctx, name, r.store, meta.Streams[name], func(string) string { return r.author }); err != nil {
			g.Fatal(err)
		}
	}
	g.clock.Resume(g.bus.Newest())
	if g.in, err = journal.OpenReplica(ctx, g.down); err != nil {
		g.Fatal(err)
	}
	g.bus.Attach(g.log)
	g.keep(meta.Removed)
	g.check()
}

func (g *gate) keep(spans map[string]journal.Span) {
	g.keeper = journal.NewKeeper(journal.KeeperConfig{
		Shelves: []journal.Shelf{
			{
				Name: subject.StreamEdge, Store: g.edge,
				Acked: func(string) frame.Cursor { return frame.Cursor{} },
				Safe:  func() uint64 { return g.bus.Covered(subject.StreamEdge) },
			},
			{
				Name: subject.StreamDown, Store: g.down,
				Safe: func() uint64 { return g.bus.Covered(subject.StreamDown) },
			},
		},
		Max: g.max, Free: func() (uint64, uint64) { return 1, 0 }, Spans: spans, Save: g.save,
	})
}

// committed takes a durable frame of the own log into the model.
func (g *gate) committed(c journal.Committed) {
	for i := range c.Frame.Entries {
		e := &c.Frame.Entries[i]
		if old, ok := g.used[e.At]; ok {
			g.Errorf("place %v was used for %s, now for %s", e.At, old, e.Series)
		}
		g.used[e.At] = fmt.Sprintf("%s %d %x", e.Series, e.Time, e.Data)
	}
	g.model.add(c.Frame)
	g.written[subject.StreamEdge] += c.Frame.Points()
	g.bus.Committed(subject.StreamEdge, c)
}

func (g *gate) save() error {
	g.saves++
	g.counts["snapshots"]++
	return g.bus.Save(g.dir, func(m *bus.Meta) {
		m.Removed = g.keeper.Planned()
		m.Chains = map[string][]journal.Run{subject.LogEdge(gw): g.log.Chain()}
	})
}

func (g *gate) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

// point returns a random point: now, late, or a little ahead.
func (g *gate) point() point.Point {
	at := uint64(0)
	switch now := g.clock.Now(); g.rng.IntN(4) {
	case 0:
		at = now - g.rng.Uint64N(uint64(48*time.Hour))
	case 1:
		at = now + g.rng.Uint64N(uint64(5*time.Minute))
	}
	return point.Point{
		Series: point.Series{Node: fmt.Sprint("n", g.rng.IntN(3)), Type: "v", Key: fmt.Sprint(g.rng.IntN(6))},
		Time:   at, DataType: point.Uint, Data: binary.LittleEndian.AppendUint64(nil, g.rng.Uint64()),
	}
}

func (g *gate) write() {
	list := make([]point.Point, 1+g.rng.IntN(5))
	for i := range list {
		list[i] = g.point()
	}
	g.counts["writes"]++
	if g.rng.IntN(2) == 0 {
		g.must(g.bus.Write(list, nil, nil))
		return
	}
	durable := false
	g.must(g.bus.Write(list, nil, func(err error) { durable = err == nil }))
	g.must(g.log.Commit(g.Context()))
	if !durable {
		g.Fatal("a writer who waits was not told")
	}
}

// hear stores a frame of the hub, as the uplink does.
func (g *gate) hear() {
	pos := g.in.Position()
	f := &frame.Frame{
		Kind: frame.Log, Now: g.clock.Now(), Epoch: 1 << 40, Prev: pos.Seq, First: pos.Seq + 1, Base: pos.Sum,
	}
	for range 1 + g.rng.IntN(4) {
		p := g.point()
		if p.Time == 0 {
			p.Time = f.Now
		}
		if g.rng.IntN(8) == 0 {
			p.Time = f.Now + uint64(25*time.Hour) // history only
		}
		f.Entries = append(f.Entries, frame.Entry{Point: p})
	}
	f.Seal()
	f, err := frame.Decode(f.Encode(), state.Hub)
	g.must(err)
	applied := g.bus.Storing(subject.StreamDown)
	seq, err := g.in.Append(g.Context(), f)
	g.must(err)
	g.bus.Apply(f)
	applied(seq)
	g.model.add(f)
	g.written[subject.StreamDown] += f.Points()
	g.counts["foreign frames"]++
}

// restart ends the run: a clean one commits and saves, another loses what was
// not committed. Sometimes the newest snapshot is damaged after it.
func (g *gate) restart() {
	clean := g.rng.IntN(3) == 0
	if clean {
		g.counts["clean restarts"]++
		g.must(g.save())
	} else {
		g.counts["unclean restarts"]++
	}
	if g.saves > 1 && g.rng.IntN(3) == 0 {
		g.saves = 0
		g.must(os.WriteFile(filepath.Join(g.dir, "state.snap"), []byte("damaged"), 0o600))
	}
	g.boot(clean)
}

// check compares state and logs with the model.
func (g *gate) check() {
	g.Helper()
	have := 0
	g.bus.View(func(s *state.State, _ *tree.Tree) {
		have = s.Len()
		for series, want := range g.model {
			got := s.Get(series)
			if got == nil || state.Compare(got, &want) != 0 {
				g.Errorf("state of %s is %+v, want %+v", series, got, want)
			}
		}
	})
	if have != len(g.model) {
		g.Errorf("state has %d series, want %d", have, len(g.model))
	}
	for name, s := range map[string]*journal.JetStream{subject.StreamEdge: g.edge, subject.StreamDown: g.down} {
		held := uint64(0)
		for seq := uint64(1); ; {
			m, err := s.Next(g.Context(), seq)
			if errors.Is(err, journal.ErrEmpty) {
				break
			}
			g.must(err)
			f, err := frame.Decode(m.Data, gw)
			g.must(err)
			held, seq = held+f.Points(), m.Seq+1
		}
		removed := uint64(0)
		for _, span := range g.keeper.Spans() {
			if span.Stream == name {
				removed += span.Points
			}
		}
		if held+removed != g.written[name] {
			g.Errorf("%s: %d points held and %d removed, want %d together", name, held, removed, g.written[name])
		}
	}
	if g.Failed() {
		g.FailNow()
	}
}

func (g *gate) step() {
	switch n := g.rng.IntN(100); {
	case n < 50:
		g.write()
	case n < 70:
		g.hear()
	case n < 76:
		g.must(g.save())
	case n < 84:
		g.counts["removals"]++
		g.max = 1000 + g.rng.Uint64N(6000)
		g.keep(g.keeper.Spans())
		g.must(g.keeper.Tidy(g.Context()))
	case n < 88:
		g.counts["leaps"]++
		g.wall = g.wall.Add(time.Duration(g.rng.Int64N(int64(48*time.Hour))) - 24*time.Hour)
	case n < 94:
		g.must(g.log.Commit(context.WithoutCancel(g.Context())))
		g.check()
	default:
		g.restart()
	}
	tick := time.Duration(g.rng.IntN(5000)) * time.Millisecond
	g.wall, g.steady = g.wall.Add(tick), g.steady+tick
}

// TestDurable interleaves writes, points of the hub, snapshots, removal,
// restarts and clock leaps: state is what the durable points make it, a head
// outlives its frame, every number is held or in a span, and none is used
// twice.
func TestDurable(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -seed %d", seed)
	_, js := natstest.JetStream(t)
	g := &gate{
		T: t, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), wall: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		model: winners{}, used: map[frame.Cursor]string{}, written: map[string]uint64{}, counts: map[string]int{},
	}
	for name, s := range map[string]**journal.JetStream{subject.StreamEdge: &g.edge, subject.StreamDown: &g.down} {
		stream, err := journal.Ensure(t.Context(), js, journal.LogStream(name, subject.LogsOf(name)))
		g.must(err)
		*s = journal.NewStore(js, stream, map[string]string{subject.StreamEdge: subject.LogEdge(gw), subject.StreamDown: subject.LogDown(gw)}[name])
	}
	g.boot(false)
	for i := range 3 {
		s := point.Series{Up: gw, Node: fmt.Sprint("n", i), Type: point.TypeNodeType, Key: point.NoKey}
		g.must(g.bus.Write([]point.Point{{Series: s, DataType: point.String, Data: []byte("sensor")}}, nil, nil))
	}
	g.must(g.log.Commit(t.Context()))
	for range *stepsFlag {
		g.step()
	}
	t.Log(g.counts, g.written)
}
