package bus

import (
	"sync"
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

// maxSkew is how far the local clock may be off before stamps are corrected
// from the hub's time.
const maxSkew = 5 * time.Minute

// built is a time that a set clock cannot be before.
var built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// Clock estimates hub time: the local clock, corrected once the hub has told
// that it is more than 5 min off. A clock that is not set goes on from the
// newest time that was stored. The zero Clock uses the system's clock.
type Clock struct {
	Wall func() time.Time // time.Now by default

	mu     sync.Mutex
	offset time.Duration // added to the local clock
	newest uint64        // newest time stored, for a clock that is not set
	since  time.Time     // when newest was set
}

func (c *Clock) wall() time.Time {
	if c.Wall != nil {
		return c.Wall()
	}
	return time.Now()
}

// Now returns the estimate in ns.
func (c *Clock) Now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wall()
	if c.offset == 0 && w.Before(built) {
		if c.since.IsZero() {
			c.since = w
		}
		return max(c.newest, point.Nanos(built)) + uint64(w.Sub(c.since).Abs())
	}
	return point.Nanos(w.Add(c.offset))
}

// Resume tells the newest time that is stored.
func (c *Clock) Resume(newest uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest, c.since = newest, c.wall()
}

// HubTime tells the hub's time, and returns how far the local clock is off if
// that is too much, else 0.
func (c *Clock) HubTime(ns uint64) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off := point.TimeOf(ns).Sub(c.wall()); off.Abs() > maxSkew {
		c.offset = off
	} else {
		c.offset = 0
	}
	return c.offset
}
