package history

import (
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

// NewGrid returns buckets of a width, aligned to the clock of a place: those
// of whole days begin at midnight, also where a day has 23 or 25 hours, those
// that part a day begin there too, and all others are counted from 1970.
func NewGrid(width time.Duration, zone *time.Location) Grid {
	const day = 24 * time.Hour
	switch {
	case width%day == 0:
		return days{int64(width / day), zone}
	case width > time.Hour && day%width == 0:
		return hours{width, zone}
	}
	return fixed{uint64(width), zone}
}

// fixed are buckets of the same width, counted from the epoch in local time.
type fixed struct {
	width uint64
	zone  *time.Location
}

// Span implements Grid.
func (f fixed) Span(t uint64) (start, end uint64) {
	_, offset := point.TimeOf(t).In(f.zone).Zone()
	local := t + uint64(offset)*second // wraps for a time near 1970, and back
	past := local % f.width
	if past > t {
		return 0, t - past + f.width
	}
	if end = t - past + f.width; end < t {
		end = forever
	}
	return t - past, end
}

// days are whole days, n at a time.
type days struct {
	n    int64
	zone *time.Location
}

// Span implements Grid.
func (d days) Span(t uint64) (start, end uint64) {
	y, m, day := point.TimeOf(t).In(d.zone).Date()
	since := time.Date(y, m, day, 0, 0, 0, 0, time.UTC).Unix() / (24 * 3600)
	first := int(since - since%d.n)
	at := func(n int) uint64 { return nanos(time.Date(1970, 1, 1+n, 0, 0, 0, 0, d.zone)) }
	return at(first), at(first + int(d.n))
}

// hours part the day by the clock on the wall.
type hours struct {
	width time.Duration
	zone  *time.Location
}

// Span implements Grid.
func (h hours) Span(t uint64) (start, end uint64) {
	local := point.TimeOf(t).In(h.zone)
	y, m, day := local.Date()
	since := time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute + time.Duration(local.Second())*time.Second
	n := since / h.width
	at := func(n time.Duration) uint64 {
		return nanos(time.Date(y, m, day, 0, 0, int(n*h.width/time.Second), 0, h.zone))
	}
	return at(n), at(n + 1)
}

// nanos returns a time in ns, 0 for one before 1970.
func nanos(t time.Time) uint64 {
	if t.Before(time.Unix(0, 0)) {
		return 0
	}
	return point.Nanos(t)
}

// niceWidths are the widths of buckets that people like to see.
var niceWidths = []time.Duration{
	time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 28 * 24 * time.Hour,
	91 * 24 * time.Hour, 364 * 24 * time.Hour,
}

// NiceWidth returns the width that parts a span into at most n buckets.
func NiceWidth(span uint64, n int) time.Duration {
	for _, w := range niceWidths {
		if span/uint64(w) < uint64(n) {
			return w
		}
	}
	return niceWidths[len(niceWidths)-1]
}
