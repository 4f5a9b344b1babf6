package codec

import (
	"fmt"
	"strings"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Markdown returns the results as a table.
func (r *Results) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; generators from seed %d. Bytes a point by points a frame, and ns a point at %s.\n\n",
		r.Machine, r.Seed, report.Whole(sizes[len(sizes)-1]))
	fmt.Fprint(&w, "| trace | codec |")
	for _, size := range sizes {
		fmt.Fprintf(&w, " %s |", report.Whole(size))
	}
	fmt.Fprint(&w, " encode | decode |\n|---|---|"+strings.Repeat("---|", len(sizes)+2)+"\n")
	for k := range r.Rows {
		row := &r.Rows[k]
		if row.Points == sizes[0] {
			fmt.Fprintf(&w, "| %s | %s |", row.Trace, row.Codec)
		}
		fmt.Fprintf(&w, " %s |", report.Format(row.BytesPerPoint))
		if row.Points == sizes[len(sizes)-1] {
			fmt.Fprintf(&w, " %s | %s |\n", report.Format(row.EncodeNS), report.Format(row.DecodeNS))
		}
	}
	fmt.Fprint(&w, notes)
	return w.String()
}

const notes = `
occupancy is a recorded office (6 series, a reading a minute); g1 a pump station (30 at 1 Hz with jitter: walks of 0.01,
counters, strings, bursts), g2 drifting doubles with noise in the last digits, g3 random bits. Averages of 20 frames of 10,000
points (occupancy's overlap, it has 123,360), 200 of 300 and 1,000 of the smaller ones, all of consecutive points. Sapflow's
bytes are whole frames with epoch, sequence numbers and checksums: as stored, with all names in each; and on a line, where names and what the
frames before have taught are told once. The peers carry a small number a
series, whole milliseconds (Sapflow: nanoseconds) and neither sequence numbers nor a checksum, and are packed by zstd's best
level where that is smaller. XOR is one chunk of Prometheus 0.316.0 a series, which gives up the order between series; it holds
counters as floats, strings lie beside the chunks as JSON.
`
