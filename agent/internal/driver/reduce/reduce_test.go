package reduce_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sapflow/sapflow/agent/internal/driver/reduce"
)

var nan, inf = math.NaN(), math.Inf(1)

// readings are one a second from 1000 s on.
func run(rule reduce.Rule, values ...float64) (out []reduce.Reading, reduced uint64) {
	f := reduce.Filter{Rule: rule}
	for i, v := range values {
		out = f.Put(out, uint64(1000+i)*1e9, v)
	}
	out = f.Flush(out)
	return out, f.Reduced()
}

func equal(a, b []reduce.Reading) bool {
	return slices.EqualFunc(a, b, func(a, b reduce.Reading) bool {
		return a.At == b.At && a.Is == b.Is && math.Float64bits(a.V) == math.Float64bits(b.V)
	})
}

func TestFilter(t *testing.T) {
	at := func(s uint64, v float64, is ...reduce.Value) reduce.Reading {
		r := reduce.Reading{At: s * 1e9, V: v}
		if is != nil {
			r.Is = is[0]
		}
		return r
	}
	for name, c := range map[string]struct {
		rule    reduce.Rule
		values  []float64
		want    []reduce.Reading
		reduced uint64
	}{
		"everything":                 {reduce.Rule{}, []float64{1, 1, nan, inf}, []reduce.Reading{at(1000, 1), at(1001, 1), at(1002, nan), at(1003, inf)}, 0},
		"dead band":                  {reduce.Rule{DeadBand: 1}, []float64{1, 2, 2.5, 3, 1.5, 1.4}, []reduce.Reading{at(1000, 1), at(1002, 2.5), at(1005, 1.4)}, 3},
		"dead band against creep":    {reduce.Rule{DeadBand: 1}, []float64{0, .6, 1.2, 1.8, 2.4}, []reduce.Reading{at(1000, 0), at(1002, 1.2), at(1004, 2.4)}, 2},
		"dead band, no numbers":      {reduce.Rule{DeadBand: 1}, []float64{1, nan, nan, 1, inf, inf, -inf}, []reduce.Reading{at(1000, 1), at(1001, nan), at(1003, 1), at(1004, inf), at(1006, -inf)}, 2},
		"at least 2 s":               {reduce.Rule{Min: 2e9}, []float64{1, 2, 3, 4, 5}, []reduce.Reading{at(1000, 1), at(1002, 3), at(1004, 5)}, 2},
		"stuck, but every 3 s":       {reduce.Rule{DeadBand: 1, Max: 3e9}, []float64{7, 7, 7, 7, 7, 7, 7}, []reduce.Reading{at(1000, 7), at(1003, 7), at(1006, 7)}, 4},
		"average of 2 s":             {reduce.Rule{Window: 2e9, Average: true}, []float64{1, 2, 5, 6, 9}, []reduce.Reading{at(1002, 1.5), at(1004, 5.5), at(1006, 9)}, 2},
		"least and most":             {reduce.Rule{Window: 4e9, Least: true, Most: true}, []float64{4, 1, 9, 2}, []reduce.Reading{at(1004, 1, reduce.Least), at(1004, 9, reduce.Most)}, 2},
		"a window of no number":      {reduce.Rule{Window: 2e9, Average: true, Most: true}, []float64{nan, nan, 3, nan}, []reduce.Reading{at(1002, nan), at(1002, nan, reduce.Most), at(1004, 3), at(1004, 3, reduce.Most)}, 0},
		"a window, then a dead band": {reduce.Rule{Window: 2e9, Average: true, DeadBand: 1}, []float64{1, 3, 2, 3, 8, 8}, []reduce.Reading{at(1002, 2), at(1006, 8)}, 4},
		"the largest numbers":        {reduce.Rule{Window: 2e9, Average: true}, []float64{math.MaxFloat64, math.MaxFloat64}, []reduce.Reading{at(1002, math.MaxFloat64)}, 1},
	} {
		got, reduced := run(c.rule, c.values...)
		if !equal(got, c.want) || reduced != c.reduced {
			t.Errorf("%s: kept %v, %d left out\nwant %v, %d", name, got, reduced, c.want, c.reduced)
		}
	}
}

// A reading that is older than the last one kept is no repeat of it.
func TestLate(t *testing.T) {
	f := reduce.Filter{Rule: reduce.Rule{DeadBand: 1, Min: 1e9}}
	out := f.Put(nil, 5e9, 1)
	if out = f.Put(out, 3e9, 1); len(out) != 2 {
		t.Errorf("kept %v, want both", out)
	}
}

// Whatever comes: each reading is kept or counted, what is left out is within
// the dead band of what was kept last, and nothing stays silent for Max.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		f := reduce.Filter{Rule: reduce.Rule{DeadBand: r.Float64(), Max: r.Uint64N(20e9)}}
		var kept []reduce.Reading
		at, v := uint64(1e18), 0.
		for n := range 500 {
			at += r.Uint64N(3e9)
			v += r.NormFloat64()
			before := len(kept)
			kept = f.Put(kept, at, v)
			if uint64(len(kept))+f.Reduced() != uint64(n+1) {
				t.Fatalf("seed %d: %d kept and %d left out of %d", seed, len(kept), f.Reduced(), n+1)
			}
			last := kept[len(kept)-1]
			if len(kept) == before && (math.Abs(v-last.V) > f.Rule.DeadBand || f.Rule.Max > 0 && at-last.At >= f.Rule.Max) {
				t.Fatalf("seed %d: %g at %d left out after %+v", seed, v, at, last)
			}
		}
	}
}
