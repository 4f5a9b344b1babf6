package driver_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/agent/internal/driver/drivertest"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	w := drivertest.New(t, l.kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "a", "probe", nil)...)
	w.Hub(drivertest.Node(drivertest.Gateway, "grp", "group", nil)...)
	w.Eventually("a measures", func() bool { return w.Number("a", "value") > 3 })

	w.Set("a", "disabled", true)
	w.Answered("a", "disabled", "")
	w.Eventually("a stands", func() bool { return l.running("a") == 0 })
	w.Set("a", "disabled", false)
	w.Eventually("a runs again", func() bool { return l.running("a") == 1 })

	// Moved within the gateway it goes on.
	move := append(point.Edge("grp", "a", "probe"), point.Point{Series: point.Series{Up: drivertest.Gateway, Node: "a", Type: point.TypeTombstone, Key: point.NoKey}, DataType: point.Uint, Data: point.UintData(1)})
	w.Hub(move...)
	before := w.Number("a", "value")
	w.Eventually("a goes on", func() bool { return w.Number("a", "value") > before })
	if n := w.Number("a", "value"); n < before {
		t.Errorf("a was started again: %g after %g", n, before)
	}

	w.Remove("grp", "a")
	w.Eventually("a is gone", func() bool { return l.running("a") == 0 && w.Head("a", "value", point.NoKey) == nil })
	w.Add("grp", "a", "probe", 2)
	w.Eventually("a is back", func() bool { return l.running("a") == 1 && w.Number("a", "value") > 0 })

	w.Stop()
	if n := l.running("a"); n != 0 {
		t.Errorf("%d drivers outlive the manager", n)
	}
}

// Whatever one driver does, another goes on; one that failed is started
// again, and at once when a setting changes.
func TestFaults(t *testing.T) {
	l := &lab{}
	w := drivertest.New(t, l.kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "good", "probe", nil)...)
	for _, fault := range []string{"error", "panic", "hang"} {
		w.Hub(drivertest.Node(drivertest.Gateway, fault, "probe", map[string]any{"fault": fault})...)
		w.Answered(fault, "fault", "")
	}
	w.Eventually("errors are told", func() bool { return w.Number("error", "errors") > 1 && w.Number("panic", "errors") > 1 })
	if e, p := w.Text("error", "error"), w.Text("panic", "error"); e != "no device" || p != "the driver fell over: a hole in the driver" {
		t.Errorf("told %q and %q", e, p)
	}
	before := w.Number("good", "value")
	w.Eventually("the good one goes on", func() bool { return w.Number("good", "value") > before+3 })
	if n := w.Number("good", "errors"); n != -1 {
		t.Errorf("the good one has %g errors", n)
	}
	for _, fault := range []string{"error", "panic"} {
		w.Set(fault, "fault", "")
		w.Eventually(fault+" is mended", func() bool { return w.Number(fault, "value") > 0 })
		w.Eventually(fault+" tells so", func() bool { return w.Text(fault, "error") == "" })
	}
	w.Remove(drivertest.Gateway, "hang")
	w.Eventually("one that hangs ends", func() bool { return l.running("hang") == 0 })
}

func TestAnswers(t *testing.T) {
	l := &lab{}
	w := drivertest.New(t, l.kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "a", "probe", map[string]any{"period": 7, "port": "good", "perod": 3, "description": "A"})...)
	w.Answered("a", "period", "")
	w.Answered("a", "port", "")
	if r := w.Answered("a", "perod", schema.CodeUnknown); r != "a probe has no setting perod; do you mean period?" {
		t.Errorf("reason %q", r)
	}
	w.Set("a", "period", 1001)
	if r := w.Answered("a", "period", schema.CodeRange); r != "must be between 1 and 1000" {
		t.Errorf("reason %q", r)
	}
	w.Set("a", "period", "fast")
	w.Answered("a", "period", schema.CodeType)

	// What the gateway sets itself is in force, and no answer.
	if err := w.Bus.Write([]point.Point{drivertest.Value("a", "deadBand", 0.5)}, nil, nil); err != nil {
		t.Fatal(err)
	}
	w.Eventually("it is in force", func() bool { return w.Number("a", "reduced") >= 0 || w.Number("a", "value") > 1 })
	if a := w.Applied("a", "deadBand"); a != nil {
		t.Errorf("answered %+v", a)
	}
	// What was in force is not refused later.
	w.Set("a", "port", "bad")
	w.Answered("a", "port", "")
}

// Of a storm the last value is in force, answered once; nobody misses a
// reading.
func TestStorm(t *testing.T) {
	l := &lab{}
	w := drivertest.New(t, l.kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "a", "probe", nil)...)
	w.Eventually("a measures", func() bool { return w.Number("a", "value") > 0 })
	for i := range 500 {
		w.Set("a", "period", 1+i%20)
	}
	w.Answered("a", "period", "")
	w.Eventually("a measures still", func() bool { return w.Number("a", "value") > 20 })
	w.Stop()
	answers := w.Of("a", point.TypeApplied)
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
	for i, e := range w.Of("a", "value") {
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
	w := drivertest.New(t, l.kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "a", "probe", map[string]any{"deadBand": 9.5})...)
	w.Eventually("it tells", func() bool { return w.Number("a", "reduced") >= 45 && w.Number("a", "rate") > 0 })
	w.Set("a", "deadBand", 0)
	w.Set("a", "window", 0.05)
	w.Set("a", "windowValue", "all")
	w.Eventually("windows come", func() bool {
		return w.Head("a", "value", "max") != nil && w.Head("a", "value", "min") != nil
	})
	w.Stop() // the last window comes, too
	values := w.Of("a", "value")
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
	left := w.Number("a", "reduced")
	w.Manager = driver.New(driver.Config{Instance: w.Bus, Kinds: []driver.Kind{l.kind()}, Now: w.Clock.Now, Settle: time.Millisecond, ReportEvery: 20 * time.Millisecond})
	w.Start(w.Manager.Run)
	w.Eventually("more is left out", func() bool { return w.Number("a", "reduced") > left })
	if !slices.IsSortedFunc(w.Of("a", "reduced"), func(a, b frame.Entry) int {
		x, _ := a.Uint64()
		y, _ := b.Uint64()
		return int(x) - int(y)
	}) {
		t.Error("the counter went back")
	}
}
