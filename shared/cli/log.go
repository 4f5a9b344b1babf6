package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
)

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// Logger returns the log of a process: lines for people on a terminal, JSON
// otherwise. level is debug, info, warn or error. Main calls it once: it sets
// zerolog's time format.
func Logger(w io.Writer, level string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		return zerolog.Nop(), fmt.Errorf("log level %q is not known: use debug, info, warn or error", level)
	}
	zerolog.TimeFieldFormat = timeFormat
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	if IsTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: timeFormat}
	}
	return zerolog.New(w).Level(l).With().Timestamp().Logger(), nil
}
