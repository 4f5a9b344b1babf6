package driver_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

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

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gateway = "gw"

// world is a gateway with a log on a real server, and a manager.
type world struct {
	*testing.T
	bus     *bus.Instance
	manager *driver.Manager
	clock   bus.Clock
	stop    func() // of the manager; waits

	mu     sync.Mutex
	merged []frame.Entry // all that became state
}

func newWorld(t *testing.T, kinds ...driver.Kind) *world {
	t.Helper()
	nc, js := natstest.JetStream(t)
	s, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamEdge, subject.LogsOf(subject.StreamEdge)))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t}
	log, err := journal.Open(t.Context(), journal.Config{Store: journal.NewStore(js, s, subject.LogEdge(gateway)), Author: gateway, Now: w.clock.Now, Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.bus = bus.New(bus.Config{
		Author: gateway, Root: gateway, RootType: point.NodeGateway, State: state.New(), Clock: &w.clock, Conn: nc, Forget: true,
		OnMerge: func(e *frame.Entry) {
			w.manager.Changed(e)
			w.mu.Lock()
			defer w.mu.Unlock()
			c := *e
			c.Data = slices.Clone(e.Data)
			w.merged = append(w.merged, c)
		},
	})
	w.manager = driver.New(driver.Config{
		Instance: w.bus, Kinds: kinds, Now: w.clock.Now,
		Settle: 5 * time.Millisecond, ReportEvery: 50 * time.Millisecond, RetryLeast: 20 * time.Millisecond,
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
	})
	w.bus.Attach(log)
	w.run(log.Run)
	w.stop = w.run(w.manager.Run)
	return w
}

// run runs a part until it is stopped or the test ends, and waits for it.
func (w *world) run(part func(context.Context) error) (stop func()) {
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

// eventually waits until a condition holds.
func (w *world) eventually(what string, ok func() bool) {
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

// hub merges points as they come from the hub.
func (w *world) hub(points ...point.Point) {
	w.Helper()
	f := &frame.Frame{Kind: frame.Heads, Now: w.clock.Now()}
	w.bus.View(func(st *state.State, _ *tree.Tree) {
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
	w.bus.Apply(f)
}

// value returns a point of a Go value.
func value(node, typ string, v any) point.Point {
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

// node returns the points of a new node with settings.
func node(up, id, typ string, settings map[string]any) []point.Point {
	list := point.Edge(up, id, typ)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		list = append(list, value(id, name, settings[name]))
	}
	return list
}

// set sets a setting at the hub.
func (w *world) set(node, typ string, v any) { w.Helper(); w.hub(value(node, typ, v)) }

// remove takes a node from above.
func (w *world) remove(up, id string) {
	w.Helper()
	var n uint64
	w.bus.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(point.Series{Up: up, Node: id, Type: point.TypeTombstone, Key: point.NoKey}); h != nil {
			n, _ = h.Uint64()
		}
	})
	w.hub(point.Point{Series: point.Series{Up: up, Node: id, Type: point.TypeTombstone, Key: point.NoKey}, DataType: point.Uint, Data: point.UintData(n + 1)})
}

// add puts a node that was there below another.
func (w *world) add(up, id, typ string, tombstone uint64) {
	w.Helper()
	e := point.Edge(up, id, typ)
	e[1].Data = point.UintData(tombstone)
	w.hub(e...)
}

func (w *world) head(node, typ, key string) *point.Point {
	var p *point.Point
	w.bus.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(point.Series{Node: node, Type: typ, Key: key}); h != nil && !h.Removed() {
			c := h.Point
			p = &c
		}
	})
	return p
}

// number returns the present value, -1 if there is none.
func (w *world) number(node, typ string) float64 {
	if p := w.head(node, typ, point.NoKey); p != nil {
		if v, ok := p.Number(); ok {
			return v
		}
	}
	return -1
}

func (w *world) text(node, typ string) string {
	if p := w.head(node, typ, point.NoKey); p != nil {
		return p.Text()
	}
	return ""
}

// applied returns the answer to the present value of a setting, nil if that
// is not answered.
func (w *world) applied(node, setting string) *api.Applied {
	p, head := w.head(node, point.TypeApplied, setting+"/"+point.NoKey), w.head(node, setting, point.NoKey)
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

// answered waits for the answer to a setting, and compares its code: "" is ok.
func (w *world) answered(node, setting, code string) (reason string) {
	w.Helper()
	var a *api.Applied
	w.eventually(node+" answers "+setting, func() bool { a = w.applied(node, setting); return a != nil && a.Code == code })
	if a.OK != (code == "") {
		w.Fatalf("%s %s: %+v", node, setting, a)
	}
	return a.Reason
}

// of returns what a series became, in order.
func (w *world) of(node, typ string) (list []frame.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.merged {
		if e.Node == node && e.Type == typ && !e.IsEdge() {
			list = append(list, e)
		}
	}
	return list
}

// running returns the nodes whose drivers run.
func (w *world) running() []string { return w.manager.Live() }
