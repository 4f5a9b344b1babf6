package history_test

import (
	"math"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/point"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestGrid: where buckets begin and end, by the clock on the wall.
func TestGrid(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		zone  string
		width time.Duration
		at    string // UTC
		start string // on the wall
		long  time.Duration
	}{
		// A day has 23 hours, 25 hours.
		{"Europe/Vienna", day, "2025-03-30T12:00:00Z", "2025-03-30T00:00:00+01:00", 23 * time.Hour},
		{"Europe/Vienna", day, "2025-10-26T12:00:00Z", "2025-10-26T00:00:00+02:00", 25 * time.Hour},
		{"Europe/Vienna", day, "2025-03-29T22:59:59Z", "2025-03-29T00:00:00+01:00", day},
		{"Europe/Vienna", 2 * day, "2025-03-30T12:00:00Z", "2025-03-29T00:00:00+01:00", 47 * time.Hour},
		{"America/New_York", day, "2025-11-02T12:00:00Z", "2025-11-02T00:00:00-04:00", 25 * time.Hour},
		// Parts of such days.
		{"Europe/Vienna", 2 * time.Hour, "2025-03-30T00:30:00Z", "2025-03-30T00:00:00+01:00", 2 * time.Hour},
		{"Europe/Vienna", 2 * time.Hour, "2025-03-30T01:30:00Z", "2025-03-30T03:00:00+02:00", time.Hour},
		{"Europe/Vienna", 2 * time.Hour, "2025-10-26T00:30:00Z", "2025-10-26T02:00:00+02:00", 3 * time.Hour},
		{"Europe/Vienna", 2 * time.Hour, "2025-10-26T01:30:00Z", "2025-10-26T02:00:00+02:00", 3 * time.Hour},
		{"Europe/Vienna", 6 * time.Hour, "2025-10-26T04:00:00Z", "2025-10-26T00:00:00+02:00", 7 * time.Hour},
		{"Europe/Vienna", 6 * time.Hour, "2025-10-26T05:00:00Z", "2025-10-26T06:00:00+01:00", 6 * time.Hour},
		{"Europe/Vienna", 90 * time.Minute, "2025-10-26T01:30:00Z", "2025-10-26T01:30:00+02:00", 150 * time.Minute},
		// A bucket that begins in the hour that comes twice: the first time counts.
		{"Europe/Vienna", 72 * time.Minute, "2025-10-26T00:30:00Z", "2025-10-26T02:24:00+02:00", 132 * time.Minute},
		{"Europe/Vienna", 72 * time.Minute, "2025-10-26T01:10:00Z", "2025-10-26T02:24:00+02:00", 132 * time.Minute},
		{"Europe/Vienna", time.Hour, "2025-10-26T00:30:00Z", "2025-10-26T02:00:00+02:00", time.Hour},
		{"Europe/Vienna", time.Hour, "2025-10-26T01:30:00Z", "2025-10-26T02:00:00+01:00", time.Hour},
		// Midnight that comes twice, and one that does not come.
		{"Asia/Amman", day, "2021-10-28T21:30:00Z", "2021-10-29T00:00:00+03:00", 25 * time.Hour},
		{"Asia/Amman", day, "2021-10-28T22:30:00Z", "2021-10-29T00:00:00+03:00", 25 * time.Hour},
		{"America/Sao_Paulo", day, "2018-11-04T12:00:00Z", "2018-11-04T01:00:00-02:00", 23 * time.Hour},
		{"America/Sao_Paulo", day, "2018-11-04T02:59:59Z", "2018-11-03T00:00:00-03:00", day},
		// Clocks apart by half hours and quarters, put back by half an hour.
		{"Asia/Kolkata", time.Hour, "2025-01-01T00:00:00Z", "2025-01-01T05:00:00+05:30", time.Hour},
		{"Asia/Kolkata", day, "2025-01-01T00:00:00Z", "2025-01-01T00:00:00+05:30", day},
		{"Asia/Kathmandu", 15 * time.Minute, "2025-01-01T00:10:00Z", "2025-01-01T05:45:00+05:45", 15 * time.Minute},
		{"Australia/Lord_Howe", day, "2025-10-05T00:00:00Z", "2025-10-05T00:00:00+10:30", 23*time.Hour + 30*time.Minute},
		{"Australia/Lord_Howe", time.Hour, "2025-10-04T15:40:00Z", "2025-10-05T02:30:00+11:00", 30 * time.Minute},
		{"Australia/Lord_Howe", 2 * time.Hour, "2025-10-04T15:40:00Z", "2025-10-05T02:30:00+11:00", 90 * time.Minute},
		{"America/St_Johns", day, "2006-04-02T12:00:00Z", "2006-04-02T00:00:00-03:30", 23 * time.Hour},                // at 0:01
		{"America/St_Johns", 30 * time.Minute, "2006-04-02T03:45:00Z", "2006-04-02T00:00:00-03:30", 30 * time.Minute}, // 1:00 after that
		// Widths that part neither a day nor an hour are counted from 1970, anew
		// where the clock is put back.
		{"UTC", 7 * time.Minute, "1970-01-01T00:15:00Z", "1970-01-01T00:14:00Z", 7 * time.Minute},
		{"UTC", 5 * time.Hour, "1970-01-02T00:00:00Z", "1970-01-01T20:00:00Z", 5 * time.Hour},
		{"Europe/Vienna", 5 * time.Hour, "1970-01-01T05:00:00Z", "1970-01-01T05:00:00+01:00", 5 * time.Hour},
		{"Europe/Vienna", 5 * time.Hour, "2025-10-26T00:59:59Z", "2025-10-26T02:00:00+02:00", time.Hour},
		{"Europe/Vienna", 5 * time.Hour, "2025-10-26T01:00:00Z", "2025-10-26T02:00:00+01:00", 5 * time.Hour},
		// Before the clock of a place has begun.
		{"America/New_York", day, "1970-01-01T00:00:00Z", "1969-12-31T19:00:00-05:00", 5 * time.Hour},
		{"America/New_York", 7 * day, "1970-01-01T00:00:00Z", "1969-12-31T19:00:00-05:00", 5 * time.Hour},
		{"America/New_York", 7 * time.Minute, "1970-01-01T00:03:00Z", "1969-12-31T19:00:00-05:00", 6 * time.Minute},
	} {
		at := nanos(c.at)
		start, end := history.NewGrid(c.width, zone(t, c.zone)).Span(at)
		got := point.TimeOf(start).In(zone(t, c.zone)).Format(time.RFC3339)
		if long := time.Duration(end - start); got != c.start || long != c.long {
			t.Errorf("%s in %s, buckets of %s: got from %s, %s long, want from %s, %s", c.at, c.zone, c.width, got, long, c.start, c.long)
		}
	}
}

// TestGridParts: buckets part time: each begins where the one before ends, and
// every time lies in its own.
func TestGridParts(t *testing.T) {
	r := newRand(t)
	for range 3000 {
		name := pick(r, append(zones, "America/Sao_Paulo", "Asia/Beirut", "America/Havana", "Asia/Tehran", "Pacific/Apia", "Africa/Casablanca")...)
		z := zone(t, name)
		width := pick(r, append(widths, 72*time.Minute, 4*time.Hour, 12*time.Hour, time.Duration(1+r.Int64N(1e15)))...)
		grid := history.NewGrid(width, z)
		at := pick(r, r.Uint64N(2e18), nanos("2064-12-30T12:00:00Z")+r.Uint64N(48*3600e9), r.Uint64N(1e14), math.MaxUint64-r.Uint64N(1e14), r.Uint64())
		if _, until := point.TimeOf(at).In(z).ZoneBounds(); r.IntN(2) == 0 && !until.IsZero() && until.Unix() > 1e5 && until.Year() < 2500 {
			at = point.Nanos(until) + r.Uint64N(3*3600e9) - 3600e9
		}
		start, end := grid.Span(at)
		for range 20 {
			if start > at || at >= end && end != math.MaxUint64 {
				t.Fatalf("%s, buckets of %s: %d lies in %d to %d", name, width, at, start, end)
			}
			in := []uint64{start, start + (end-start)/2, end - 1, at}
			if d := end - start; d > 1 {
				in = append(in, start+r.Uint64N(d))
			}
			for _, i := range in {
				if s, e := grid.Span(i); s != start || e != end {
					t.Fatalf("%s, buckets of %s: %d lies in %d to %d, %d in %d to %d", name, width, at, start, end, i, s, e)
				}
			}
			if end == math.MaxUint64 {
				break
			}
			at = end
			if start, end = grid.Span(at); start != at {
				t.Fatalf("%s, buckets of %s: one ends at %d, the next begins at %d", name, width, at, start)
			}
		}
	}
}

func TestNiceWidth(t *testing.T) {
	for span := uint64(1); span < 1<<63; span = span*3 + 1 {
		for _, n := range []int{1, 2, 7, 100, 2000} {
			w := history.NiceWidth(span, n)
			if w < 364*24*time.Hour && span/uint64(w) >= uint64(n) {
				t.Errorf("%d ns in %d: got %s, which are more", span, n, w)
			}
		}
	}
	if got := history.NiceWidth(uint64(24*time.Hour), 100); got != 15*time.Minute {
		t.Errorf("a day in 100: got %s, want 15m0s", got)
	}
}
