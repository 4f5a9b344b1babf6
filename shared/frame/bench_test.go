package frame_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// trace returns a frame of n points as a gateway writes them: 30 series at
// 1 Hz with 20 ms of jitter, walks quantised to 0.01. It is the same in every
// run, so that B/point can be compared.
func trace(n int) *frame.Frame {
	r := rand.New(rand.NewPCG(1, 2))
	const series = 30
	var level [series]float64
	f := frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, Prev: 1_000_000, First: 1_000_001, Base: 1}
	for i := range n {
		k := i % series
		level[k] += math.Round(r.NormFloat64()*5) / 100
		v := math.Round((20+float64(k)+level[k])*100) / 100
		e := float(fmt.Sprintf("sensor-%02d-k7f2m9", k), "temp", i/series, v)
		e.Time += uint64(r.IntN(40_000_000))
		f.Entries = append(f.Entries, e)
	}
	f.Seal()
	return &f
}

func benchmarkSizes(b *testing.B, run func(b *testing.B, f *frame.Frame, enc []byte)) {
	for _, n := range []int{1, 300, 10_000} {
		b.Run(fmt.Sprintf("points=%d", n), func(b *testing.B) {
			f := trace(n)
			enc := f.Encode()
			b.ReportAllocs()
			run(b, f, enc)
			b.ReportMetric(float64(len(enc))/float64(n), "B/point")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/point")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, f *frame.Frame, _ []byte) {
		for b.Loop() {
			f.Encode()
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, _ *frame.Frame, enc []byte) {
		for b.Loop() {
			if _, err := frame.Decode(enc, author); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAddSum is what the running checksum costs a point.
func BenchmarkAddSum(b *testing.B) {
	p := point.Point{Series: point.Series{Node: "sensor-00-k7f2m9", Type: "temp", Key: "0"}, DataType: point.Float, Data: point.FloatData(1)}
	b.ReportAllocs()
	var sum uint64
	var scratch []byte
	for b.Loop() {
		sum, scratch = frame.AddSum(sum, &p, scratch)
	}
}
