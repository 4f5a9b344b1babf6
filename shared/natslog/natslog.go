// Package natslog holds what the two embedded NATS servers (hub/internal/natsd
// and agent/internal/leaf) share: their log lines as zerolog events, the
// listen address, what a loss of power leaves in their files, and the wait
// until a started server is ready.
//
// It does not import nats-server, so that only those two packages do. Debug
// and trace lines, the only ones that could show credentials, never pass.
package natslog

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// A server whose peer refuses it logs on every attempt; a gateway that is
// refused for a month must not fill its flash with that.
const (
	maxLines = 20
	window   = 10 * time.Minute
)

// Logger is a nats-server logger that writes zerolog events: notices become
// debug events, warnings and errors keep their level. At most 20 warnings and
// errors pass in 10 minutes; the first one after that says how many did not.
type Logger struct {
	log   zerolog.Logger
	fatal chan error // capacity 1, never closed; later ones are dropped

	mu      sync.Mutex
	start   time.Time
	lines   int
	dropped int
}

// New returns a Logger that writes to log with the component "nats".
func New(log zerolog.Logger) *Logger {
	return &Logger{
		log:   log.With().Str("component", "nats").Logger(),
		fatal: make(chan error, 1),
	}
}

// Noticef logs what nats-server calls information at debug level.
func (l *Logger) Noticef(format string, v ...any) { l.event(l.log.Debug(), format, v) }

// Warnf logs a warning.
func (l *Logger) Warnf(format string, v ...any) {
	if l.pass() {
		l.event(l.log.Warn(), format, v)
	}
}

// Errorf logs an error.
func (l *Logger) Errorf(format string, v ...any) {
	if l.pass() {
		l.event(l.log.Error(), format, v)
	}
}

// Fatalf logs an error and hands it to Await; it does not end the process.
func (l *Logger) Fatalf(format string, v ...any) {
	l.event(l.log.Error(), format, v)
	select {
	case l.fatal <- fmt.Errorf(format, v...):
	default:
	}
}

// Debugf drops the line.
func (l *Logger) Debugf(string, ...any) {}

// Tracef drops the line.
func (l *Logger) Tracef(string, ...any) {}

func (l *Logger) event(e *zerolog.Event, format string, v []any) {
	e.Str("text", strings.TrimSpace(fmt.Sprintf(format, v...))).Msg("nats server")
}

// pass counts a line and tells whether it may be written.
func (l *Logger) pass() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.start) >= window {
		if l.dropped > 0 {
			l.log.Warn().Int("lines", l.dropped).Msg("nats server lines dropped")
		}
		l.start, l.lines, l.dropped = now, 0, 0
	}
	l.lines++
	if l.lines > maxLines {
		l.dropped++
		return false
	}
	return true
}
