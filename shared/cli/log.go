package cli

import (
	"io"
	"time"

	"github.com/rs/zerolog"
)

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// Logger returns the log of a process: lines for people on a terminal, JSON
// otherwise. level is debug, info, warn or error, and SetLevel changes it. Main
// calls it once: it sets zerolog's time format.
func Logger(w io.Writer, level string) (zerolog.Logger, error) {
	if err := SetLevel(level); err != nil {
		return zerolog.Nop(), err
	}
	zerolog.TimeFieldFormat = timeFormat
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
	if IsTerminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: timeFormat}
	}
	return zerolog.New(w).With().Timestamp().Logger(), nil
}

// SetLevel says which lines the log of the process has from now on.
func SetLevel(level string) error {
	l, err := parseLevel(level)
	if err == nil {
		zerolog.SetGlobalLevel(l)
	}
	return err
}

// CheckLevel tells whether the setting logLevel is one.
func CheckLevel(level string) error {
	_, err := parseLevel(level)
	return err
}

func parseLevel(level string) (zerolog.Level, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		return l, BadSetting("logLevel", "%q is not known: use debug, info, warn or error", level)
	}
	return l, nil
}
