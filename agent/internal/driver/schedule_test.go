package driver

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Polls are at multiples of the period, in order, each once, and those left
// out are counted.
func TestSchedule(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s schedule
		s.set(100 * time.Millisecond)
		now, last, polls, missed := uint64(1e18), uint64(0), uint64(0), uint64(0)
		first := uint64(0)
		for range 200 {
			at := s.next(now)
			if at <= last || at > now+2e8 {
				t.Fatalf("seed %d: at %d, now %d, last %d", seed, at, now, last)
			}
			now = at - 5e5 + r.Uint64N(1e6) // timers are early and late
			when, n := s.due(at, now)
			if when <= last || when%1e8 != 0 {
				t.Fatalf("seed %d: poll of %d after %d", seed, when, last)
			}
			if first == 0 {
				first = when
			}
			polls, missed, last = polls+1, missed+n, when
			now += r.Uint64N(2.5e8) // how long it takes
		}
		if want := (last-first)/1e8 + 1; polls+missed != want {
			t.Errorf("seed %d: %d polls and %d missed, of %d", seed, polls, missed, want)
		}
	}
}

// A clock that leaps, and a period that changes, count nothing as missed.
func TestScheduleLeaps(t *testing.T) {
	const base = uint64(1e18)
	var s schedule
	s.set(time.Second)
	check := func(what string, at, now, want uint64) {
		t.Helper()
		if when, missed := s.due(at, now); when != want || missed != 0 {
			t.Errorf("%s: poll of base+%d, %d missed; want base+%d", what, int64(when-base), missed, int64(want-base))
		}
	}
	check("as planned", s.next(base), base+1e9, base+1e9)
	check("a year ahead", s.next(base+1e9), base+3e16, base+3e16)
	check("back", s.next(base+3e16), base+5e9+3e8, base+5e9)
	s.set(10 * time.Millisecond)
	check("ten seconds to ten ms", s.next(base+6e9), base+6e9+1e7, base+6e9+1e7)
}
