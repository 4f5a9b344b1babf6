// Package drivertest is for the tests of drivers: a gateway with a log on a real
// server, a hub that sets things there, and the contract that all drivers are
// held to.
package drivertest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

// Gateway is the id of the gateway.
const Gateway = "gw"

// World is a gateway with a log on a real server, and a manager.
type World struct {
	*testing.T
	Bus     *bus.Instance
	Manager *driver.Manager
	Clock   bus.Clock
	Stop    func() // of the manager; waits

	mu     sync.Mutex
	merged []frame.Entry // all that became state
}

// New starts a gateway with drivers.
func New(t *testing.T, kinds ...driver.Kind) *World {
	t.Helper()
	nc, js := natstest.JetStream(t)
	s, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamEdge, subject.LogsOf(subject.StreamEdge)))
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t}
	log, err := journal.Open(t.Context(), journal.Config{Store: journal.NewStore(js, s, subject.LogEdge(Gateway)), Author: Gateway, Now: w.Clock.Now, Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.Bus = bus.New(bus.Config{
		Author: Gateway, Root: Gateway, RootType: point.NodeGateway, State: state.New(), Clock: &w.Clock, Conn: nc, Forget: true,
		OnMerge: func(e *frame.Entry) {
			w.Manager.Changed(e)
			w.mu.Lock()
			defer w.mu.Unlock()
			c := *e
			c.Data = slices.Clone(e.Data)
			w.merged = append(w.merged, c)
		},
	})
	w.Manager = driver.New(driver.Config{
		Instance: w.Bus, Kinds: kinds, Now: w.Clock.Now,
		Settle: 5 * time.Millisecond, ReportEvery: 50 * time.Millisecond, RetryLeast: 20 * time.Millisecond,
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	})
	w.Bus.Attach(log)
	w.Start(log.Run)
	w.Stop = w.Start(w.Manager.Run)
	return w
}

// Start runs a part until it is stopped or the test ends, and waits for it.
func (w *World) Start(part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("part ended: %v", err)
		}
	})
	w.Cleanup(stop)
	return stop
}

// Eventually waits until a condition holds.
func (w *World) Eventually(what string, ok func() bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			w.Fatalf("%s: not within 30 s", what)
		case <-tick.C:
		}
	}
}

// Hub merges points as they come from the hub.
func (w *World) Hub(points ...point.Point) {
	w.Helper()
	f := &frame.Frame{Kind: frame.Heads, Now: w.Clock.Now()}
	w.Bus.View(func(st *state.State, _ *tree.Tree) {
		for i := range points {
			p := points[i]
			if p.Time == 0 {
				p.Time = f.Now
				if h := st.Get(p.Series); h != nil {
					p.Time = max(p.Time, h.Time+1)
				}
			}
			f.Entries = append(f.Entries, frame.Entry{Point: p, Author: state.Hub, More: i < len(points)-1})
		}
	})
	w.Bus.Apply(f)
}

// Value returns a point of a Go value.
func Value(node, typ string, v any) point.Point {
	p := point.Point{Series: point.Series{Node: node, Type: typ, Key: point.NoKey}}
	switch v := v.(type) {
	case string:
		p.DataType, p.Data = point.String, []byte(v)
	case bool:
		p.DataType, p.Data = point.Uint, []byte{0}
		if v {
			p.Data[0] = 1
		}
	case int:
		p.DataType, p.Data = point.Float, point.FloatData(float64(v))
	case float64:
		p.DataType, p.Data = point.Float, point.FloatData(v)
	}
	return p
}

// Node returns the points of a new node with settings.
func Node(up, id, typ string, settings map[string]any) []point.Point {
	list := point.Edge(up, id, typ)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		list = append(list, Value(id, name, settings[name]))
	}
	return list
}

// Set sets a setting at the hub.
func (w *World) Set(node, typ string, v any) { w.Helper(); w.Hub(Value(node, typ, v)) }

// Remove takes a node from above.
func (w *World) Remove(up, id string) {
	w.Helper()
	var n uint64
	w.Bus.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(point.Series{Up: up, Node: id, Type: point.TypeTombstone, Key: point.NoKey}); h != nil {
			n, _ = h.Uint64()
		}
	})
	w.Hub(point.Point{Series: point.Series{Up: up, Node: id, Type: point.TypeTombstone, Key: point.NoKey}, DataType: point.Uint, Data: point.UintData(n + 1)})
}

// Add puts a node that was there below another.
func (w *World) Add(up, id, typ string, tombstone uint64) {
	w.Helper()
	e := point.Edge(up, id, typ)
	e[1].Data = point.UintData(tombstone)
	w.Hub(e...)
}

// Head returns the present point of a series, nil if there is none.
func (w *World) Head(node, typ, key string) *point.Point {
	var p *point.Point
	w.Bus.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(point.Series{Node: node, Type: typ, Key: key}); h != nil && !h.Removed() {
			c := h.Point
			p = &c
		}
	})
	return p
}

// Number returns the present value, -1 if there is none.
func (w *World) Number(node, typ string) float64 {
	if p := w.Head(node, typ, point.NoKey); p != nil {
		if v, ok := p.Number(); ok {
			return v
		}
	}
	return -1
}

// Text returns the present value as text, "" if there is none.
func (w *World) Text(node, typ string) string {
	if p := w.Head(node, typ, point.NoKey); p != nil {
		return p.Text()
	}
	return ""
}

// Applied returns the answer to the present value of a setting, nil if that
// is not answered.
func (w *World) Applied(node, setting string) *api.Applied {
	p, head := w.Head(node, point.TypeApplied, setting+"/"+point.NoKey), w.Head(node, setting, point.NoKey)
	if p == nil || head == nil {
		return nil
	}
	var a api.Applied
	if err := json.Unmarshal(p.Data, &a); err != nil {
		w.Fatal(err)
	}
	if a.Time != head.At().Format(time.RFC3339Nano) {
		return nil
	}
	return &a
}

// Answered waits for the answer to a setting, and compares its code: "" is ok.
func (w *World) Answered(node, setting, code string) (reason string) {
	w.Helper()
	var a *api.Applied
	w.Eventually(node+" answers "+setting, func() bool { a = w.Applied(node, setting); return a != nil && a.Code == code })
	if a.OK != (code == "") {
		w.Fatalf("%s %s: %+v", node, setting, a)
	}
	return a.Reason
}

// Of returns what a series became, in order.
func (w *World) Of(node, typ string) (list []frame.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.merged {
		if e.Node == node && e.Type == typ && !e.IsEdge() {
			list = append(list, e)
		}
	}
	return list
}

// Running returns the nodes whose drivers run.
func (w *World) Running() []string { return w.Manager.Running() }

// Below returns the nodes directly below a node.
func (w *World) Below(node string) (list []string) {
	w.Bus.View(func(_ *state.State, t *tree.Tree) { list = slices.Clone(t.Children(node)) })
	return list
}
