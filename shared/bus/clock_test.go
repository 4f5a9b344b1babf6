package bus_test

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

// TestClockLeapsBeforeCommit: what an instance stamped while its clock was wrong
// is state for whoever reads its log, whatever the clock showed at the commit.
func TestClockLeapsBeforeCommit(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	b := newBox(noon)
	w := startWith(t, &b.Clock)
	w.edge("root", "n", "site")
	for i, leap := range []time.Duration{day, -day, 2 * day, -3 * day, year, -year, -2 * year, 2 * year, time.Hour} {
		// Both nodes are written before the leap, one of them after it as well,
		// and the frame is of after it.
		for _, series := range []string{"n.before.0", "n.both.0"} {
			if err := w.nc.Publish("j."+series, fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		w.ask("q.status", nil, nil) // they are taken
		b.mu.Lock()
		b.leap(leap)
		b.mu.Unlock()
		w.must("j.n.both.0", fmt.Sprint(100+i))
	}
	again := bus.New(bus.Config{Author: state.Hub, Root: "root", RootType: point.NodeRoot, State: state.New(), Conn: w.nc})
	if err := again.Replay(t.Context(), subject.StreamHub, w.store, 0, func(string) string { return state.Hub }); err != nil {
		t.Fatal(err)
	}
	var here, there []*frame.Entry
	w.bus.View(func(s *state.State, _ *tree.Tree) { here = s.Heads("n") })
	again.View(func(s *state.State, _ *tree.Tree) { there = s.Heads("n") })
	if !reflect.DeepEqual(here, there) || len(here) < 2 {
		t.Errorf("who reads the log has %v, its author %v", there, here)
	}
}

// box is a machine whose clock somebody moves.
type box struct {
	bus.Clock
	mu     sync.Mutex
	wall   time.Time
	steady time.Duration
}

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func newBox(wall time.Time) *box {
	b := &box{wall: wall}
	b.Clock.Wall = func() time.Time {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.wall
	}
	b.Clock.Steady = func() time.Duration { return b.steady }
	return b
}

// pass lets time go by, leap moves the clock.
func (b *box) pass(d time.Duration) { b.wall, b.steady = b.wall.Add(d), b.steady+d }
func (b *box) leap(d time.Duration) { b.wall = b.wall.Add(d) }

func (b *box) shows(t *testing.T, when string, want time.Time) {
	t.Helper()
	if got := point.TimeOf(b.Now()); !got.Equal(want) {
		t.Errorf("%s it is %s, want %s", when, got, want)
	}
}

func TestClockNotSet(t *testing.T) {
	b := newBox(time.Unix(0, 0))
	b.Resume(point.Nanos(noon)) // the newest time stored
	b.shows(t, "at boot", noon)
	b.pass(time.Minute)
	b.shows(t, "a minute later", noon.Add(time.Minute))
	b.leap(noon.AddDate(0, 0, 1).Sub(b.wall)) // somebody sets it
	b.shows(t, "once it is set", noon.AddDate(0, 0, 1))

	b = newBox(time.Unix(0, 0)) // nothing stored, no hub: not 1970
	if got := point.TimeOf(b.Now()); got.Year() < 2026 {
		t.Errorf("without a clock it is %s", got)
	}
}

func TestClockLeaps(t *testing.T) {
	const day = 24 * time.Hour
	b := newBox(noon)
	if skew := b.HubTime(point.Nanos(noon.Add(time.Minute))); skew != 0 {
		t.Errorf("a minute off is a skew of %s", skew)
	}
	b.shows(t, "the local clock counts", noon)
	for _, leap := range []time.Duration{day, -2 * day, day} { // forward, back, and right again
		b.leap(leap)
		b.pass(time.Hour)
	}
	b.shows(t, "after the leaps", noon.Add(3*time.Hour))
	b.leap(day)
	b.shows(t, "a day ahead, without a line", noon.Add(3*time.Hour+time.Minute))
	if skew := b.HubTime(point.Nanos(noon.Add(3 * time.Hour))); skew != day {
		t.Errorf("a day ahead is a skew of %s", skew)
	}
	b.leap(-day)
	if skew := b.HubTime(point.Nanos(noon.Add(3 * time.Hour))); skew != 0 {
		t.Errorf("put right it is a skew of %s", skew)
	}
	b.shows(t, "put right", noon.Add(3*time.Hour))
}

// TestClockNotSetForLong: a box without a clock that was told the time once
// goes on from there when that is too old to count.
func TestClockNotSetForLong(t *testing.T) {
	const day = 24 * time.Hour
	b := newBox(time.Unix(0, 0))
	b.Resume(point.Nanos(noon))
	b.HubTime(point.Nanos(noon.Add(100 * day))) // it was off for that long
	var last uint64
	for d := range 60 {
		now := b.Now()
		if now < last {
			t.Fatalf("on day %d it is %s, behind %s", d, point.TimeOf(now), point.TimeOf(last))
		}
		b.shows(t, "without a hub", noon.Add(100*day+time.Duration(d)*day))
		last = now
		b.pass(day)
	}
	b.HubTime(point.Nanos(noon)) // the hub's clock was put back
	b.shows(t, "after the word of the hub", noon)
	b.pass(31 * day)
	if now := b.Now(); now < last {
		t.Errorf("a month after it is %s, behind %s", point.TimeOf(now), point.TimeOf(last))
	}
}
