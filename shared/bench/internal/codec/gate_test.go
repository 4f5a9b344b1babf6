package codec

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/frame"
)

// TestBytesAreKept holds the bytes of Sapflow's frames to those of codec.json,
// within 1 %: they are what the line costs, and the traces are fixed. A codec
// that became better is measured again with make bench-codec.
func TestBytesAreKept(t *testing.T) {
	text, err := os.ReadFile("../../codec.json")
	if err != nil {
		t.Fatal(err)
	}
	var kept Results
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	office, err := trace.Occupancy("../../testdata/occupancy.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	traces := map[string][]frame.Entry{"occupancy": office}
	for _, g := range trace.All(kept.Seed) {
		traces[g.Name] = g.Points(leastFrames * sizes[len(sizes)-1])
	}
	checked := 0
	for name, entries := range traces {
		for _, c := range codecs(number(entries))[:2] { // Sapflow's
			for _, row := range kept.Rows {
				if row.Trace != name || row.Codec != c.name {
					continue
				}
				got, err := measure(&c, entries, row.Points, row.Frames)
				if err != nil {
					t.Fatal(err)
				}
				checked++
				if math.Abs(got.BytesPerPoint-row.BytesPerPoint) > row.BytesPerPoint/100 {
					t.Errorf("%s, %s, %d points: %.3f B a point, %.3f are recorded", name, c.name, row.Points, got.BytesPerPoint, row.BytesPerPoint)
				}
			}
		}
	}
	if want := len(traces) * 2 * len(sizes); checked != want {
		t.Errorf("%d figures are recorded, want %d", checked, want)
	}
}
