package carrier

import (
	"context"
	"errors"
	"net"
	"time"
)

const (
	// firstWait and longestWait bound the wait between two tries, which doubles
	// each time. Half of it is random, so that a fleet does not return as one.
	firstWait   = 2 * time.Second
	longestWait = 5 * time.Minute
	// refusedWait is the least after maxRefusals: a credential that is known to
	// be bad costs the radio and the hub.
	refusedWait = 2 * time.Minute
	maxRefusals = 3
	// useful is how long a connection lives that was of use in any case: longer
	// than a hub waits for a credential, and the link for the answer to its
	// hello.
	useful = 30 * time.Second
	// lookEvery is how soon a network is seen that came up.
	lookEvery = 2 * time.Second
	// At most the first quietTries and then every reportTries, about one an
	// hour, make a line in the log.
	quietTries, reportTries = 3, 15
)

// connect returns a connection to the hub, however long that takes.
func (c *Carrier) connect(ctx context.Context) (*line, error) {
	for {
		if err := c.wait(ctx); err != nil {
			return nil, err
		}
		l, err := c.dial(ctx)
		if err == nil {
			err = c.connected(l)
		}
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c.failed(err)
	}
}

// wait waits until the hub may be dialled. All waits go by the monotonic clock.
func (c *Carrier) wait(ctx context.Context) error {
	timer := time.NewTimer(c.pause())
	defer timer.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			c.begin()
			return nil
		case <-c.wake:
			c.forget(true)
			c.begin()
			return nil
		case <-look.C:
			if c.look() {
				// What failed before says little about this network, whose
				// routes may come a moment after its address.
				c.forget(false)
				c.begin()
				return nil
			}
		}
	}
}

// pause returns how long to wait before the next try.
func (c *Carrier) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tries == 0 {
		return 0
	}
	full := longestWait
	if n := c.tries - 1; n < 16 {
		full = min(full, firstWait<<n)
	}
	if c.refusals >= maxRefusals {
		full = max(full, refusedWait)
	}
	wait := full/2 + c.random(full/2)
	c.info.State, c.info.NextTry = Waiting, time.Now().Add(wait)
	return wait
}

// begin notes a try, and the networks it can use.
func (c *Carrier) begin() {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.info.State, c.info.NextTry = Connecting, time.Time{}
	c.info.Dials++
}

// forget makes the next waits short again.
func (c *Carrier) forget(refusals bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries = 0
	if refusals {
		c.refusals = 0
	}
}

// look tells whether a network came up since it was called last.
func (c *Carrier) look() bool {
	list, err := c.cfg.Networks()
	if err != nil {
		return false // the timer is still there
	}
	now, up := make(map[string]bool, len(list)), false
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range list {
		now[n] = true
		up = up || !c.networks[n]
	}
	c.networks = now
	return up
}

// networks lists the addresses by which this machine can reach others. An
// interface without a cable may keep its address, but is not running.
func networks() ([]string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, i := range interfaces {
		if i.Flags&net.FlagRunning == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue // it is gone
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				list = append(list, i.Name+" "+n.String())
			}
		}
	}
	return list, nil
}

// connected takes a new connection, unless the carrier closes.
func (c *Carrier) connected(l *line) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = l.raw.Close()
		return errHere
	}
	select {
	case <-c.wake: // whoever asked for it has it
	default:
	}
	if c.refusals < maxRefusals {
		c.cfg.Log.Info().Str("address", l.raw.RemoteAddr().String()).Int("tries", c.tries+1).Msg("connected to the hub")
	}
	c.line, c.info.State, c.info.Address = l, Connected, l.raw.RemoteAddr().String()
	return nil
}

// failed counts a try that led nowhere.
func (c *Carrier) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	c.info.State, c.info.LastError = Connecting, err.Error()
	c.report("hub not reached")
}

// ended counts a connection that is over.
func (c *Carrier) ended(l *line, lived time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.cut {
		err = errHere
	}
	var r refusal
	switch refused := errors.As(err, &r); {
	case lived >= useful, l.used && !refused && !l.cut:
		c.tries, c.refusals = 0, 0
	case refused, errors.Is(err, errClosed):
		c.refusals++
	}
	c.tries++
	c.line, c.info.State, c.info.LastError = nil, Connecting, err.Error()
	if !c.closed {
		c.report("connection to the hub ended")
	}
}

// report writes a line about the last error, and few while all goes on
// failing.
func (c *Carrier) report(msg string) {
	if c.tries <= quietTries || c.tries%reportTries == 0 {
		c.cfg.Log.Warn().Str("error", c.info.LastError).Int("tries", c.tries).Msg(msg)
	}
}
