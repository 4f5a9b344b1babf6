package figures

import (
	"fmt"
	"strings"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// value returns a figure, 0 if it was not measured.
func (r *Results) value(part, name string) float64 {
	for i := range r.Figures {
		if f := &r.Figures[i]; f.Part == part && f.Name == name {
			return f.Value
		}
	}
	return 0
}

func ratio(a, b float64) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// Markdown returns the results as tables.
func (r *Results) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s, %d cores, %s, %s; writing 4 KB with fsync takes %d us. Medians of %d runs. All processes, those that\nmeasure too, share the cores. SimpleIoT's figures are from memory, of other runs: they show the order of magnitude only.\n",
		r.Date, r.Machine.Cores, r.Machine.OS, r.Machine.Go, r.Machine.SyncUS, r.Runs)
	r.writesTable(&w)
	r.otherTable(&w)
	return w.String()
}

// simpleIoT holds what SimpleIoT 0.25 stored in points/s, unsynced, by number
// of clients; from memory.
var simpleIoT = map[int]string{1: "3,300", 8: "5,900", 32: "6,400"}

func (r *Results) writesTable(w *strings.Builder) {
	fmt.Fprint(w, "\n### Acked writes, one point each, per second\n\n"+
		"| clients | agent, durable | plain JetStream, sync always | bare NATS echo | agent / JetStream | agent / echo | SimpleIoT 0.25, unsynced (from memory) |\n|---|---|---|---|---|---|---|\n")
	for _, n := range clientCounts {
		a, j, e := r.value(partWrites, nameAgent(n)), r.value(partWrites, nameStock(n)), r.value(partWrites, nameEcho(n))
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %s |\n", n, report.Format(a), report.Format(j), report.Format(e), ratio(a, j), ratio(a, e), simpleIoT[n])
	}
	fmt.Fprintf(w, "\nThe agent has no hub in sight here; with one connected on the same cores 32 clients get %s/s.\n", report.Format(r.value(partWrites, nameConnected)))
}

func (r *Results) otherTable(w *strings.Builder) {
	fmt.Fprint(w, "\n### The rest\n\n| | | |\n|---|---|---|\n")
	for i := range r.Figures {
		f := &r.Figures[i]
		if f.Part == partWrites && !strings.HasPrefix(f.Name, "without reply") {
			continue
		}
		fmt.Fprintf(w, "| %s | %s %s | %s |\n", f.Name, report.Format(f.Value), f.Unit, f.Note)
	}
}
