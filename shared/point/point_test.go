package point_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

func TestSeries(t *testing.T) {
	for _, c := range []struct {
		s      point.Series
		text   string
		holder string
		edge   bool
	}{
		{point.Series{Node: "n1", Type: "temp", Key: "0"}, "n1.temp.0", "n1", false},
		{point.Series{Up: "a", Node: "b", Type: "tombstone", Key: "0"}, "a.b.tombstone.0", "a", true},
	} {
		if got := c.s.String(); got != c.text {
			t.Errorf("String: got %q, want %q", got, c.text)
		}
		if got := string(c.s.Append([]byte("p."))); got != "p."+c.text {
			t.Errorf("Append: got %q, want %q", got, "p."+c.text)
		}
		if got := c.s.Holder(); got != c.holder || c.s.IsEdge() != c.edge {
			t.Errorf("%s: holder %q, edge %v, want %q, %v", c.text, got, c.s.IsEdge(), c.holder, c.edge)
		}
	}
}

// TestLongestSubject holds the longest subject that Check lets through below
// what a frame's table, a checksum (u16) and a NATS protocol line (4096 bytes,
// the prefix up.<ancestor> and a reply included) take.
func TestLongestSubject(t *testing.T) {
	id, typ := strings.Repeat("i", point.MaxIDLen), strings.Repeat("t", point.MaxTypeLen)
	for _, c := range []struct {
		s    point.Series
		want int
	}{
		{point.Series{Node: id, Type: typ, Key: strings.Repeat("k", point.MaxKeyLen)}, 63 + 1 + 48 + 1 + 64},
		{point.Series{Up: id, Node: id, Type: typ, Key: strings.Repeat("k", point.MaxKeyLen)}, 63 + 1 + 63 + 1 + 48 + 1 + 64},
		{point.Series{Up: id, Node: id, Type: point.TypeApplied, Key: strings.Repeat("k", point.MaxAppliedKeyLen)}, 63 + 1 + 63 + 1 + 7 + 1 + 113},
	} {
		if err := point.CheckSeries(c.s); err != nil {
			t.Errorf("longest names: %v", err)
		}
		if got := len(c.s.String()); got != c.want || got > 255 {
			t.Errorf("%s has %d bytes, want %d, at most 255", c.s, got, c.want)
		}
		if n := strings.Count(c.s.String(), "."); n != 2 && !c.s.IsEdge() || n != 3 && c.s.IsEdge() {
			t.Errorf("%s has %d dots, want as many as between its names", c.s, n)
		}
	}
}

func TestSeriesCompare(t *testing.T) {
	sorted := []point.Series{
		{Node: "a", Type: "t", Key: "0"},
		{Node: "a", Type: "t", Key: "1"},
		{Node: "a", Type: "u", Key: "0"},
		{Up: "x", Node: "a", Type: "t", Key: "0"},
		{Up: "y", Node: "a", Type: "t", Key: "0"},
		{Node: "b", Type: "t", Key: "0"},
	}
	for i, a := range sorted {
		for j, b := range sorted {
			got := a.Compare(b)
			if got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("Compare(%s, %s): got %d, want the order of the list", a, b, got)
			}
		}
	}
	r := newRand(t)
	list := slices.Clone(sorted)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortFunc(list, point.Series.Compare)
	if !slices.Equal(list, sorted) {
		t.Errorf("sorted: got %v, want %v", list, sorted)
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		t    time.Time
		want uint64
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(0, 1), 1},
		{time.Unix(-1, 999_999_999), 0},
		{time.Time{}, 0},
		{time.Unix(1_700_000_000, 123_456_789), 1_700_000_000_123_456_789},
		{time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC), 9_223_372_800_000_000_000}, // beyond int64
		{time.Unix(18_446_744_073, 709_551_615), math.MaxUint64},
		{time.Unix(18_446_744_073, 709_551_616), math.MaxUint64},
		{time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxUint64}, // must not come out as 2015
		{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxUint64},
	} {
		if got := point.Nanos(c.t); got != c.want {
			t.Errorf("Nanos(%v): got %d, want %d", c.t, got, c.want)
		}
	}
	r := newRand(t)
	for range 10_000 {
		ns := r.Uint64()
		if got := point.Nanos(point.TimeOf(ns)); got != ns {
			t.Fatalf("Nanos(TimeOf(%d)): got %d", ns, got)
		}
	}
	p := point.Point{Time: math.MaxUint64}
	if got := p.At(); got.Location() != time.UTC || got.Year() != 2554 {
		t.Errorf("At: got %v, want the year 2554 in UTC", got)
	}
}

func TestRemoved(t *testing.T) {
	for tombstone := range 256 {
		p := point.Point{Tombstone: uint8(tombstone)}
		if got, want := p.Removed(), tombstone&1 == 1; got != want {
			t.Errorf("tombstone %d: removed %v, want %v", tombstone, got, want)
		}
	}
}
