package frame

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sapflow/sapflow/shared/point"
)

// BenchmarkColumn codes segments of a walk in hundredths at 1 Hz with jitter.
func BenchmarkColumn(b *testing.B) {
	const points, segment = 90_000, 900
	r := rand.New(rand.NewPCG(1, 2))
	var c Column
	v := 500000
	for i := range points {
		v += int(math.Round(r.NormFloat64() * 3))
		p := point.Point{
			Time:     1_700_000_000_000_000_000 + uint64(i)*1_000_000_000 + uint64(r.IntN(41))*1_000_000,
			DataType: point.Float, Data: point.FloatData(float64(v) / 100),
		}
		c.Append(&p)
	}
	var segments [][]byte
	size := 0
	for i := 0; i < points; i += segment {
		segments = append(segments, c.Encode(i, i+segment))
		size += len(segments[len(segments)-1])
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			for i := 0; i < points; i += segment {
				c.Encode(i, i+segment)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/points, "ns/point")
		b.ReportMetric(float64(size)/points, "B/point")
	})
	b.Run("quick", func(b *testing.B) {
		for b.Loop() {
			for i := 0; i < points; i += segment {
				c.Quick(i, i+segment)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/points, "ns/point")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			var d Column
			d.Grow(points)
			for _, s := range segments {
				if err := d.Decode(s); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/points, "ns/point")
	})
}
