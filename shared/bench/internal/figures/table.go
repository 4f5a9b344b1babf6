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
	r.costTable(&w)
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

// seconds of a month of 30 days, and points of 30 sensors at 1 Hz.
const monthPoints = 30 * 86400 * sensors

func mbPerMonth(bytesPerPoint float64) string {
	return report.Format(bytesPerPoint * monthPoints / 1e6)
}

func (r *Results) costTable(w *strings.Builder) {
	fmt.Fprintf(w, "\n### What %d sensors at 1 Hz cost\n\n| | B a point | MB a month | |\n|---|---|---|---|\n", sensors)
	row := func(name string, least, most float64, note string) {
		b, mb := report.Format(least), mbPerMonth(least)
		if most > least {
			b, mb = b+"-"+report.Format(most), mb+"-"+mbPerMonth(most)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", name, b, mb, note)
	}
	row("NATS sources over a leaf, a pair a node", 367, 0, "measured, nats-server 2.15.2")
	row("NATS sources over a leaf, a pair a gateway", 169, 0, "measured, nats-server 2.15.2")
	row("SimpleIoT 0.25", 340, 387, "from memory")
	for _, every := range commitIntervals {
		v := r.value(partCost, nameCost(every))
		row(fmt.Sprintf("Sapflow, a frame every %d s", int(every.Seconds())), v, 0, fmt.Sprintf("this run; %s B up, %s B down a frame",
			report.Format(r.value(partCost, nameUp(every))), report.Format(r.value(partCost, nameDown(every)))))
	}
	fmt.Fprintf(w, "\nBytes of the TCP connection in both directions, acks included, without the headers of TCP and IP. %d series that walk by\nsteps of 0.01, sampled every second within 20 ms, sent faster than that: a frame goes when the one before is acked, so frames\nhave the shape that they have in real time. Pings of an idle connection are not in it.\n", sensors)
}

func (r *Results) otherTable(w *strings.Builder) {
	fmt.Fprint(w, "\n### The rest\n\n| | | |\n|---|---|---|\n")
	for i := range r.Figures {
		f := &r.Figures[i]
		if f.Part == partCost || f.Part == partWrites && !strings.HasPrefix(f.Name, "without reply") {
			continue
		}
		fmt.Fprintf(w, "| %s | %s %s | %s |\n", f.Name, report.Format(f.Value), f.Unit, f.Note)
	}
}
