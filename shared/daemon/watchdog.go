package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Watchdog returns a stage that tells systemd that the process is ready, then
// at a third of WatchdogSec that it lives, as long as alive returns nil, and
// at the end that it stops. When alive returns an error or does not return,
// systemd ends the process with a dump of what it was doing, and starts it
// anew. Without systemd it does nothing.
func Watchdog(alive func() error, log zerolog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // nobody to tell is no error
		defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) }()
		within, err := daemon.SdWatchdogEnabled(false)
		if err != nil || within == 0 {
			<-ctx.Done()
			return nil
		}
		return Every(ctx, within/3, nil, func() {
			if err := alive(); err != nil {
				log.Error().Err(err).Msg("no progress, the watchdog is not told")
				return
			}
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		})
	}
}

const (
	// maxOverdue is more than attempts on the slowest disk take, each of which is
	// bounded.
	maxOverdue = 90 * time.Second
	// answerWait is for one question to the own process.
	answerWait = 20 * time.Second
)

// Progress tells what no longer goes on in an instance: commits, of which the
// oldest is overdue for some time, or answers on a subject.
func Progress(overdue time.Duration, conn *nats.Conn, subject string) error {
	if overdue > maxOverdue {
		return fmt.Errorf("no commit has ended for %s", overdue.Round(time.Second))
	}
	if _, err := conn.Request(subject, nil, answerWait); err != nil {
		return fmt.Errorf("no answer to a question for the status: %w", err)
	}
	return nil
}
