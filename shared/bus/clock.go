package bus

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sapflow/sapflow/shared/point"
)

// maxSkew is how far the local clock may be from hub time before hub time
// counts.
const maxSkew = 5 * time.Minute

// trust is for how long hub time counts without being told again: the counter
// that goes on from there drifts by seconds a day.
const trust = 30 * 24 * time.Hour

// built is a time that a set clock cannot be before.
var built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// Clock estimates hub time: the local clock, unless it is more than 5 min from
// what the hub has told in the last month, counted on from there, so that a
// local clock may leap as it likes. A clock that is not set, and was told nothing
// in that month, goes on from the newest time that was stored, given or told. The
// zero Clock uses the system's clock.
type Clock struct {
	// Wall and Steady are for tests; time.Now and the time since boot, suspend
	// included, by default. Steady never leaps.
	Wall   func() time.Time
	Steady func() time.Duration

	mu     sync.Mutex
	told   time.Time     // hub time when Steady was at; zero before the first
	at     time.Duration // of Steady, when told was
	newest uint64        // no time given or told until at was later
}

func (c *Clock) wall() time.Time {
	if c.Wall != nil {
		return c.Wall()
	}
	return time.Now().Round(0) // only what the clock says
}

func (c *Clock) steady() time.Duration {
	if c.Steady != nil {
		return c.Steady()
	}
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // fails for no clock that there is
	return time.Duration(t.Nano())
}

// Now returns the estimate in ns.
func (c *Clock) Now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() uint64 {
	w := c.wall()
	if !c.told.IsZero() && c.steady()-c.at < trust {
		if hub := c.hub(); w.Sub(hub).Abs() > maxSkew {
			w = hub
		}
		return point.Nanos(w)
	}
	if w.Before(built) {
		return max(c.newest, point.Nanos(built)) + uint64(c.steady()-c.at)
	}
	return point.Nanos(w)
}

// hub returns what the hub's clock shows by now.
func (c *Clock) hub() time.Time { return c.told.Add(c.steady() - c.at) }

// Resume tells the newest time that is stored.
func (c *Clock) Resume(newest uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest, c.at = newest, c.steady()
}

// HubTime tells the hub's time, and returns how far the local clock is ahead
// of it if that is too much, else 0.
func (c *Clock) HubTime(ns uint64) (skew time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = max(c.newest, c.now(), ns)
	c.told, c.at = point.TimeOf(ns), c.steady()
	if skew = c.wall().Sub(c.told); skew.Abs() <= maxSkew {
		return 0
	}
	return skew
}

// Skew returns how far the local clock is ahead of the hub's now, as far as
// that is known, if that is too much, else 0.
func (c *Clock) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told.IsZero() {
		return 0
	}
	if skew := c.wall().Sub(c.hub()); skew.Abs() > maxSkew {
		return skew
	}
	return 0
}
