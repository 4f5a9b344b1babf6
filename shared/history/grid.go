package history

import (
	"math"
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

// NewGrid returns buckets of a width, aligned to the clock of a place: those
// of whole days begin at midnight, also where a day has 23 or 25 hours, those
// of more than an hour that part a day begin there too, and all others are
// counted from 1970. Where the clock is put forward or back, a bucket is as
// much shorter or longer, or is cut there if the others are counted anew.
func NewGrid(width time.Duration, zone *time.Location) Grid {
	const day = 24 * time.Hour
	if width%day == 0 || width > time.Hour && day%width == 0 {
		return walls{int64(width / time.Second), zone}
	}
	return fixed{uint64(width), zone}
}

// fixed are buckets of the same width, counted from 1970 on the clock of a
// place.
type fixed struct {
	width uint64
	zone  *time.Location
}

// Span implements Grid.
func (f fixed) Span(t uint64) (start, end uint64) {
	at := point.TimeOf(t).In(f.zone)
	past := (t%f.width + ahead(at, f.width)) % f.width
	if start = t - past; past > t {
		start = 0
	}
	if end = t + (f.width - past); end < t {
		end = forever
	}
	return point.Nanos(putBefore(at, point.TimeOf(start), f.width)), point.Nanos(putAfter(at, point.TimeOf(end), f.width))
}

// walls are buckets that begin when the clock on the wall shows a multiple of
// a width in seconds, which parts a day or is whole days.
type walls struct {
	width int64
	zone  *time.Location
}

// Span implements Grid.
func (w walls) Span(t uint64) (start, end uint64) {
	at := point.TimeOf(t).In(w.zone)
	_, offset := at.Zone()
	shown := at.Unix() + int64(offset)
	n := shown / w.width
	if shown%w.width < 0 {
		n--
	}
	// Put back, the clock shows again what it has shown in another bucket.
	first, next := w.begin(n), w.begin(n+1)
	for first.After(at) {
		n--
		first, next = w.begin(n), first
	}
	for !next.After(at) {
		n++
		first, next = next, w.begin(n+1)
	}
	return point.Nanos(first), point.Nanos(next)
}

// begin returns the first instant at which the clock shows the beginning of
// bucket n, or a later time.
func (w walls) begin(n int64) time.Time {
	const most = 26 * time.Hour // that clocks are apart
	wall := time.Unix(n*w.width, 0).In(w.zone)
	for t := wall.Add(-most); ; {
		_, offset := t.Zone()
		first := wall.Add(-time.Duration(offset) * time.Second)
		if first.Before(t) { // it was put forward, past the beginning
			first = t
		}
		if t = putAfter(t, wall.Add(2*most), math.MaxInt64); first.Before(t) {
			return first
		}
	}
}

// ahead returns by how much a clock is ahead of UTC, as far as buckets of a
// width notice.
func ahead(t time.Time, width uint64) uint64 {
	_, offset := t.Zone()
	n := int64(width)
	return uint64((int64(offset)*second%n + n) % n)
}

// putAfter returns when a clock is next put forward or back so that buckets of
// a width notice, limit if that is sooner.
func putAfter(t, limit time.Time, width uint64) time.Time {
	before := ahead(t, width)
	for t.Before(limit) {
		_, next := t.ZoneBounds()
		switch {
		case next.IsZero():
			return limit
		case !next.After(t): // on the last day of a leap year (Go 1.26)
			next = t.Add(24 * time.Hour)
		case next.Before(limit) && ahead(next, width) != before:
			return next
		}
		t = next
	}
	return limit
}

// putBefore returns when a clock was last put forward or back so that buckets
// of a width notice, limit if that is later.
func putBefore(t, limit time.Time, width uint64) time.Time {
	after := ahead(t, width)
	for t.After(limit) {
		put, _ := t.ZoneBounds()
		if put.IsZero() {
			return limit
		}
		t = put.Add(-1)
		if put.After(limit) && ahead(t, width) != after {
			return put
		}
	}
	return limit
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
