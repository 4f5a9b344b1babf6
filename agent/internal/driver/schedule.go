package driver

import (
	"context"
	"time"
)

// schedule tells when to poll: at the multiples of a period of hub time, so
// that times of readings are round and compress well.
type schedule struct {
	period uint64 // ns
	last   uint64 // the last poll, 0 for none
	fresh  bool   // the period is not that of the last poll
}

// set changes the period.
func (s *schedule) set(period time.Duration) {
	if p := uint64(max(period, time.Millisecond)); p != s.period {
		s.period, s.fresh = p, true
	}
}

// next returns the first poll after now that was not yet.
func (s *schedule) next(now uint64) uint64 {
	at := now - now%s.period + s.period
	if s.last >= at && s.last-at < s.period { // a timer was early
		at = s.last - s.last%s.period + s.period
	}
	return at
}

// due tells whether the poll that was planned at is to be done now, and for
// when: the clock may have leapt while it was waited for. missed is how many
// polls there should have been since the last one.
func (s *schedule) due(at, now uint64) (when uint64, missed uint64) {
	if now >= at+s.period || now+s.period < at {
		at = now - now%s.period
	}
	if s.last > 0 && at > s.last && at-s.last < uint64(time.Hour) && !s.fresh {
		missed = max((at-s.last)/s.period, 1) - 1
	}
	s.fresh = false
	s.last = at
	return at, missed
}

// Poll is the life of a driver that polls. It calls change, which tells the
// period, at the beginning and whenever settings have changed, always between
// two polls, and poll at each multiple of the period of hub time, until ctx
// ends or one of them returns an error.
func (p *Port) Poll(ctx context.Context, change func() (time.Duration, error), poll func(at uint64) error) error {
	var s schedule
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed := true
	for {
		if changed {
			period, err := change()
			if err != nil {
				return err
			}
			s.set(period)
		}
		now := p.Now()
		at := s.next(now)
		timer.Reset(time.Duration(at - now))
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
			changed = true
			continue
		case <-timer.C:
			changed = false
		}
		when, missed := s.due(at, p.Now())
		p.miss(missed)
		if err := poll(when); err != nil {
			return err
		}
	}
}
