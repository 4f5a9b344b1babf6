package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sapflow/sapflow/shared/api"
)

const (
	// An instance that is busy or restarts is waited for.
	retries    = 40
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Retry repeats f with growing pauses while the instance is busy.
func Retry(ctx context.Context, f func() error) error {
	delay := retryFirst
	for n := 0; ; n++ {
		err := f()
		if api.CodeOf(err) != api.CodeBusy || n == retries {
			return err
		}
		timer := time.NewTimer(delay/2 + rand.N(delay))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		delay = min(2*delay, retryMost)
	}
}

// Refused tells whether an error is about what was sent and not about the
// instance.
func Refused(err error) bool {
	switch api.CodeOf(err) {
	case api.CodeInvalid, api.CodeTooLarge, api.CodeTime, api.CodeNotFound, api.CodeAmbiguous,
		api.CodeForeign, api.CodeConflict, api.CodeCycle, api.CodeNested:
		return true
	}
	return false
}
