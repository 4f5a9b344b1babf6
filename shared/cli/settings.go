package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// ReadSettings reads a YAML file into v. An unknown key is an error that names
// the key and its line. An empty file sets nothing.
func ReadSettings(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	defer f.Close()
	err = yaml.NewDecoder(f, yaml.Strict()).Decode(v)
	var at yaml.Error
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &at) && at.GetToken() != nil:
		return fmt.Errorf("%s line %d: %s", path, at.GetToken().Position.Line, at.GetMessage())
	}
	return fmt.Errorf("%s: %w", path, err)
}

// First returns the first of several settings that was given, else def.
func First[T any](def T, given ...*T) T {
	for _, v := range given {
		if v != nil {
			return *v
		}
	}
	return def
}

// Size is a number of bytes, written as such or as 200MB or 1.5GB.
type Size uint64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	digits := strings.TrimRight(strings.ToUpper(string(text)), " KMGTB")
	unit := strings.TrimSuffix(strings.TrimSpace(strings.ToUpper(string(text))[len(digits):]), "B")
	n, err := strconv.ParseFloat(digits, 64)
	scale, known := map[string]float64{"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[unit]
	if err != nil || !known || !(n >= 0 && n*scale < 1<<62) {
		return fmt.Errorf("%q is not a size such as 200MB or 1.5GB", text)
	}
	*s = Size(n * scale)
	return nil
}

// Span is a time that may be given in days.
type Span time.Duration

// UnmarshalText reads a span.
func (s *Span) UnmarshalText(text []byte) error {
	d, err := parseSpan(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a span such as 36h or 730d", text)
	}
	*s = Span(d)
	return nil
}

// StoreSettings are settings of the store, the same at both ends.
type StoreSettings struct {
	Max    *Size `yaml:"max" env:"SAPFLOW_STORE_MAX" placeholder:"SIZE" help:"What logs and history may take, such as 200MB: the oldest history goes first, points that the other end lacks last. As much as the disk holds by default."`
	Tail   *int  `yaml:"tail" env:"SAPFLOW_STORE_TAIL" placeholder:"POINTS" help:"How many points wait in memory to become chunks, 16 B each. More are written less often, and read again at a start."`
	MaxAge *Span `yaml:"maxAge" env:"SAPFLOW_STORE_MAX_AGE" placeholder:"SPAN" help:"How old history gets, such as 730d. As old as there is room by default."`
}

// StoreConfig says how much is stored.
type StoreConfig struct {
	// Max bounds the bytes of logs and history: the oldest history goes first,
	// points that the other end lacks last; default 0, as much as the disk holds.
	Max uint64
	// MaxAge bounds the age of history; default 0, no bound.
	MaxAge time.Duration
	// Tail is how many points wait in memory to become chunks.
	Tail int
}

// Load returns what was given, by flag and environment, else by file.
func (s StoreSettings) Load(file StoreSettings, tail int) StoreConfig {
	return StoreConfig{
		Max: uint64(First(0, s.Max, file.Max)), MaxAge: time.Duration(First(0, s.MaxAge, file.MaxAge)),
		Tail: First(tail, s.Tail, file.Tail),
	}
}

// Check tells what is wrong with the settings.
func (c StoreConfig) Check() error {
	if c.Tail < 1 {
		return fmt.Errorf("store.tail is %d, it must be at least 1", c.Tail)
	}
	return nil
}

// CheckAddress tells whether the setting of a name is host:port.
func CheckAddress(name, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s %q is not host:port, such as 127.0.0.1:8080", name, address)
	}
	return nil
}
