package driver_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

var probe = &schema.Type{
	Name: "probe", Settings: []schema.Setting{
		{Name: "period", Kind: schema.Integer, Range: &schema.Range{Least: 1, Most: 1000}, Default: 5.},
		{Name: "fault", Kind: schema.Text, Default: ""},
		{Name: "disabled", Kind: schema.Bool, Default: false},
		{Name: "port", Kind: schema.Text, Probed: true},
		{Name: "deadBand", Kind: schema.Number, Default: 0.},
		{Name: "window", Kind: schema.Number, Default: 0.},
		{Name: "windowValue", Kind: schema.Text, Default: "average"},
		{Name: "maxInterval", Kind: schema.Number, Default: 0.},
	},
	Points: []string{"value", "applied", "errors", "error", "rate", "reduced", "missed"},
}

// lab makes drivers that count up, and fail as they are told.
type lab struct {
	mu      sync.Mutex
	started int
	live    map[string]int // drivers that run, by node
}

func (l *lab) kind() driver.Kind {
	return driver.Kind{Type: probe, New: func() driver.Driver { return l }}
}

func (l *lab) note(node string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == nil {
		l.live = map[string]int{}
	}
	l.live[node] += n
	l.started += max(n, 0)
}

func (l *lab) running(node string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live[node]
}

// Run counts its polls.
func (l *lab) Run(ctx context.Context, p *driver.Port) error {
	id := p.Node().ID
	l.note(id, 1)
	defer l.note(id, -1)
	count := 0.
	change := func() (time.Duration, error) {
		n := p.Node()
		switch n.Text("fault") {
		case "error":
			return 0, errors.New("no device")
		case "panic":
			panic("a hole in the driver")
		case "hang":
			<-ctx.Done()
		}
		p.Answer(n, nil, "port")
		if n.Text("port") == "bad" {
			p.Answer(n, errors.New("permission denied"), "port")
		}
		return n.Millis("period"), nil
	}
	return p.Poll(ctx, change, func(at uint64) error {
		count++
		p.Put(driver.Float(id, "value", point.NoKey, at, count))
		return nil
	})
}

func TestLife(t *testing.T) {
	l := &lab{}
	w := newWorld(t, l.kind())
	w.hub(node(gateway, "a", "probe", nil)...)
	w.hub(node(gateway, "grp", "group", nil)...)
	w.eventually("a measures", func() bool { return w.number("a", "value") > 3 })

	w.set("a", "disabled", true)
	w.answered("a", "disabled", "")
	w.eventually("a stands", func() bool { return l.running("a") == 0 })
	w.set("a", "disabled", false)
	w.eventually("a runs again", func() bool { return l.running("a") == 1 })

	// Moved within the gateway it goes on.
	move := append(point.Edge("grp", "a", "probe"), point.Point{Series: point.Series{Up: gateway, Node: "a", Type: point.TypeTombstone, Key: point.NoKey}, DataType: point.Uint, Data: point.UintData(1)})
	w.hub(move...)
	before := w.number("a", "value")
	w.eventually("a goes on", func() bool { return w.number("a", "value") > before })
	if n := w.number("a", "value"); n < before {
		t.Errorf("a was started again: %g after %g", n, before)
	}

	w.remove("grp", "a")
	w.eventually("a is gone", func() bool { return l.running("a") == 0 && w.head("a", "value", point.NoKey) == nil })
	w.add("grp", "a", "probe", 2)
	w.eventually("a is back", func() bool { return l.running("a") == 1 && w.number("a", "value") > 0 })

	w.stop()
	if n := l.running("a"); n != 0 {
		t.Errorf("%d drivers outlive the manager", n)
	}
}

// Whatever one driver does, another goes on; one that failed is started
// again, and at once when a setting changes.
func TestFaults(t *testing.T) {
	l := &lab{}
	w := newWorld(t, l.kind())
	w.hub(node(gateway, "good", "probe", nil)...)
	for _, fault := range []string{"error", "panic", "hang"} {
		w.hub(node(gateway, fault, "probe", map[string]any{"fault": fault})...)
		w.answered(fault, "fault", "")
	}
	w.eventually("errors are told", func() bool { return w.number("error", "errors") > 1 && w.number("panic", "errors") > 1 })
	if e, p := w.text("error", "error"), w.text("panic", "error"); e != "no device" || p != "the driver fell over: a hole in the driver" {
		t.Errorf("told %q and %q", e, p)
	}
	before := w.number("good", "value")
	w.eventually("the good one goes on", func() bool { return w.number("good", "value") > before+3 })
	if n := w.number("good", "errors"); n != -1 {
		t.Errorf("the good one has %g errors", n)
	}
	for _, fault := range []string{"error", "panic"} {
		w.set(fault, "fault", "")
		w.eventually(fault+" is mended", func() bool { return w.number(fault, "value") > 0 })
		w.eventually(fault+" tells so", func() bool { return w.text(fault, "error") == "" })
	}
	w.remove(gateway, "hang")
	w.eventually("one that hangs ends", func() bool { return l.running("hang") == 0 })
}

func TestAnswers(t *testing.T) {
	l := &lab{}
	w := newWorld(t, l.kind())
	w.hub(node(gateway, "a", "probe", map[string]any{"period": 7, "port": "good", "perod": 3, "description": "A"})...)
	w.answered("a", "period", "")
	w.answered("a", "port", "")
	if r := w.answered("a", "perod", schema.CodeUnknown); r != "a probe has no setting perod; do you mean period?" {
		t.Errorf("reason %q", r)
	}
	w.set("a", "period", 1001)
	if r := w.answered("a", "period", schema.CodeRange); r != "must be between 1 and 1000" {
		t.Errorf("reason %q", r)
	}
	w.set("a", "period", "fast")
	w.answered("a", "period", schema.CodeType)

	// What the gateway sets itself is in force, and no answer.
	if err := w.bus.Write([]point.Point{value("a", "deadBand", 0.5)}, nil, nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is in force", func() bool { return w.number("a", "reduced") >= 0 || w.number("a", "value") > 1 })
	if a := w.applied("a", "deadBand"); a != nil {
		t.Errorf("answered %+v", a)
	}
	// What was in force is not refused later.
	w.set("a", "port", "bad")
	w.answered("a", "port", "")
}

// Of a storm the last value is in force, answered once; nobody misses a
// reading.
func TestStorm(t *testing.T) {
	l := &lab{}
	w := newWorld(t, l.kind())
	w.hub(node(gateway, "a", "probe", nil)...)
	w.eventually("a measures", func() bool { return w.number("a", "value") > 0 })
	for i := range 500 {
		w.set("a", "period", 1+i%20)
	}
	w.answered("a", "period", "")
	w.eventually("a measures still", func() bool { return w.number("a", "value") > 20 })
	w.stop()
	answers := w.of("a", point.TypeApplied)
	seen := map[string]bool{}
	for _, e := range answers {
		if seen[string(e.Data)] {
			t.Errorf("answered twice: %s", e.Data)
		}
		seen[string(e.Data)] = true
	}
	if len(answers) > 250 {
		t.Errorf("%d answers to 500 changes", len(answers))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started != 1 {
		t.Errorf("started %d times", l.started)
	}
	// It counts up without a gap, each at its own time.
	var at uint64
	for i, e := range w.of("a", "value") {
		if v, _ := e.Float64(); v != float64(i+1) {
			t.Fatalf("reading %d is %g", i+1, v)
		}
		if e.Time <= at || e.Time%1e6 != 0 {
			t.Fatalf("reading %d is of %d, after %d", i+1, e.Time, at)
		}
		at = e.Time
	}
}

func TestReduceAndReport(t *testing.T) {
	l := &lab{}
	w := newWorld(t, l.kind())
	w.hub(node(gateway, "a", "probe", map[string]any{"deadBand": 9.5})...)
	w.eventually("it tells", func() bool { return w.number("a", "reduced") >= 45 && w.number("a", "rate") > 0 })
	w.set("a", "deadBand", 0)
	w.set("a", "window", 0.05)
	w.set("a", "windowValue", "all")
	w.eventually("windows come", func() bool {
		return w.head("a", "value", "max") != nil && w.head("a", "value", "min") != nil
	})
	w.stop() // the last window comes, too
	values := w.of("a", "value")
	for i, e := range values[:4] {
		if v, _ := e.Float64(); v != float64(1+10*i) {
			t.Errorf("value %d with a dead band is %g", i, v)
		}
	}
	var lo, hi float64
	for _, e := range values {
		v, _ := e.Float64()
		switch e.Key {
		case "min":
			if v != hi+1 && lo != 0 {
				t.Errorf("a window begins with %g, the last ended with %g", v, hi)
			}
			lo = v
		case "max":
			hi = v
		}
	}
	// The counter goes on after a start.
	left := w.number("a", "reduced")
	w.manager = driver.New(driver.Config{Instance: w.bus, Kinds: []driver.Kind{l.kind()}, Now: w.clock.Now, Settle: time.Millisecond, ReportEvery: 20 * time.Millisecond})
	w.run(w.manager.Run)
	w.eventually("more is left out", func() bool { return w.number("a", "reduced") > left })
	if !slices.IsSortedFunc(w.of("a", "reduced"), func(a, b frame.Entry) int {
		x, _ := a.Uint64()
		y, _ := b.Uint64()
		return int(x) - int(y)
	}) {
		t.Error("the counter went back")
	}
}
