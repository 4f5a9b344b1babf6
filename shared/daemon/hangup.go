package daemon

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Hangup are the SIGHUPs of the process, which no longer end it.
type Hangup chan os.Signal // capacity 1: several at once are one

// Hangups begins to collect SIGHUPs.
func Hangups() Hangup {
	h := make(Hangup, 1)
	signal.Notify(h, syscall.SIGHUP)
	return h
}

// Stop ends it.
func (h Hangup) Stop() { signal.Stop(h) }

// Each returns a stage that calls work for each.
func (h Hangup) Each(work func()) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-h:
				work()
			}
		}
	}
}
