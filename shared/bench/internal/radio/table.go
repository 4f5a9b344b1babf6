package radio

import (
	"fmt"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

const (
	// monthPoints is what 30 nodes at 1 Hz make in 30 days.
	monthPoints = 30 * 86400 * 30
	dayPoints   = 86400 * 30
)

// Markdown returns the results as tables.
func (r *Results) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; trace g1 from seed %d. Bytes above TCP, both ways together;\nin brackets as billed, with TCP and IP.\n\n", r.Machine, r.Seed)
	fmt.Fprint(&w, "| | idle, B an hour | B a point, 30/s | B a point, 6/min | 20 changes down, B | MB a month, 30/s |\n|---|---|---|---|---|---|\n")
	for _, o := range r.Rows {
		fmt.Fprintf(&w, "| %s | %s | %s (%s) | %s (%s) | %s | %s (%s) |\n", o.What, report.Format(o.IdleBytesPerHour),
			report.Format(o.BytesPerPoint), report.Format(o.BilledPerPoint), report.Format(o.SparseBytes), report.Format(o.SparseBilled),
			report.Format(o.ConfigurationBytes), report.Format(o.BytesPerPoint*monthPoints/1e6), report.Format(o.BilledPerPoint*monthPoints/1e6))
	}
	fmt.Fprintf(&w, "\n| at 50 kbit/s, 150 ms | first point after | drain of %s | MB | drain of a day, 30/s | MB | live value meanwhile, p50 | p99 | B more with %d cuts | |\n|---|---|---|---|---|---|---|---|---|---|\n",
		report.Whole(r.BacklogPoints), r.Cuts)
	day := float64(dayPoints) / float64(r.BacklogPoints)
	for _, o := range r.Rows {
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", o.What,
			seconds(o.FirstSeconds, 1), seconds(o.DrainSeconds, 1), figure(o.DrainBytes, 1e-6), seconds(o.DrainSeconds, day), figure(o.DrainBytes, day*1e-6),
			seconds(o.LiveP50, 1), seconds(o.LiveP99, 1), figure(o.TwiceBytes, 1), o.Note)
	}
	fmt.Fprintf(&w, notes, r.WindowSeconds, r.Scale)
	return w.String()
}

// figure prints what may not exist.
func figure(v *float64, factor float64) string {
	if v == nil {
		return "-"
	}
	return report.Format(*v * factor)
}

func seconds(v *float64, factor float64) string {
	if v == nil {
		return "-"
	}
	d := time.Duration(*v * factor * float64(time.Second))
	switch {
	case d < time.Minute:
		return report.Format(d.Seconds()) + " s"
	case d < 2*time.Hour:
		return report.Format(d.Minutes()) + " min"
	}
	return report.Format(d.Hours()) + " h"
}

const notes = `
One gateway of 30 nodes. The first table is of a line with 150 ms round trip and no bound of rate, over %g s each or two flushes of
the plan where that is longer: idle, scaled to an hour (what comes every few minutes may fall outside); a second of the trace in one
go each second; one point every 10 s, with what the connection says besides; 20 changes, 0.3 s apart, less the idle bytes, which
hides them where idling costs more. MB a month follow from the second column.

The second table is of a new start with the line cut while the points are written; a row that does not drain in half an hour is given
up. Live values, one a second, begin when the first point of the backlog is through. The day is the drain scaled by its number of
points. The last figures are the difference between a smaller backlog without and with cuts, spread evenly over it; what a
connection says at its start is in them. The line ran at %d times its speed: where that is more than 1, the clocks of the programs do
not follow, so their heartbeats weigh less, and their waits weigh more.

Peers run without TLS and without credentials, with the compression that nats-server chooses on a line that is far, and mosquitto
with set_tcp_nodelay. JetStream and MQTT keep points in order, so that a live value waits for the backlog.
`
