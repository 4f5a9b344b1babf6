package history_test

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata" // so that the zones are those of Go everywhere

	"github.com/sapflow/sapflow/shared/point"
)

var seedFlag = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")

// newRand returns the random numbers of a test and logs how to get the same
// ones again.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("random test: repeat with -run '^%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// zones are places with clocks of all sorts.
var zones = []string{"UTC", "Europe/Vienna", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Asia/Amman", "Africa/Monrovia", "Asia/Kathmandu"}

var widths = []time.Duration{
	time.Second, 15 * time.Second, time.Minute, 7 * time.Minute, 15 * time.Minute, 50 * time.Minute, time.Hour, 90 * time.Minute,
	2 * time.Hour, 5 * time.Hour, 6 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 1234567 * time.Millisecond,
}

func nanos(s string) uint64 {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err) // it is a constant
	}
	return point.Nanos(t)
}
