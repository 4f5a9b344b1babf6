package gauge

import (
	"math"
	"testing"
)

func TestWriter(t *testing.T) {
	var w Writer
	w.Gauge("a_bytes", "What\nit \\ is.").Set(1e12)
	m := w.Counter("b_total", "Others.")
	m.Set(0.5, "x", "a\"b\\c\nd", "y", "\xff")
	m.Set(math.Inf(1))
	m.Bool(true, "x", "1")
	want := `# HELP sapflow_a_bytes What\nit \\ is.
# TYPE sapflow_a_bytes gauge
sapflow_a_bytes 1e+12
# HELP sapflow_b_total Others.
# TYPE sapflow_b_total counter
sapflow_b_total{x="a\"b\\c\nd",y="` + "\uFFFD" + `"} 0.5
sapflow_b_total +Inf
sapflow_b_total{x="1"} 1
`
	if got := w.buf.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
