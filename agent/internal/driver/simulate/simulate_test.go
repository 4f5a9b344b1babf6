package simulate_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/agent/internal/driver/drivertest"
	"github.com/sapflow/sapflow/agent/internal/driver/simulate"
)

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	drivertest.Contract(t, drivertest.Rig{Kind: simulate.Kind(), Quick: map[string]any{"period": 20}})
}

// The station grows and shrinks while it runs; a pump that somebody removes
// is not made again.
func TestPumps(t *testing.T) {
	w := drivertest.New(t, simulate.Kind())
	w.Hub(drivertest.Node(drivertest.Gateway, "s", "simulate", map[string]any{"period": 10, "pumps": 2})...)
	var pumps []string
	w.Eventually("two pumps measure", func() bool { pumps = w.Below("s"); return len(pumps) == 2 && w.Number(pumps[1], "flow") > 0 })
	w.Set("s", "pumps", 5)
	w.Eventually("five pumps", func() bool { return len(w.Below("s")) == 5 })
	w.Remove("s", pumps[0])
	w.Set("s", "pumps", 6)
	w.Answered("s", "pumps", "")
	before := w.Number(pumps[1], "pressure")
	w.Eventually("the others measure", func() bool { return w.Number(pumps[1], "pressure") != before && len(w.Below("s")) == 5 })
	w.Set("s", "disabled", true)
	w.Eventually("it stands", func() bool { return len(w.Running()) == 0 })
	w.Set("s", "disabled", false)
	before = w.Number(pumps[1], "pressure")
	w.Eventually("a start makes it neither", func() bool { return w.Number(pumps[1], "pressure") != before && len(w.Below("s")) == 5 })
	if n := w.Number("s", "errors"); n > 0 {
		t.Errorf("%g errors: %s", n, w.Text("s", "error"))
	}
}
