package cli

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/schema"
)

// ReadSettings reads a YAML file into v, a pointer to a struct. An unknown key
// is an error that names the key, its line and the nearest key that there is.
// An empty file sets nothing.
func ReadSettings(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	defer f.Close()
	err = yaml.NewDecoder(f, yaml.Strict()).Decode(v)
	var at yaml.Error
	var unknown *yaml.UnknownFieldError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &unknown) && unknown.Token != nil:
		return fmt.Errorf("%s line %d: %s; do you mean %s?", path, unknown.Token.Position.Line, unknown.Message, nearest(unknown.Token.Value, v))
	case errors.As(err, &at) && at.GetToken() != nil:
		return fmt.Errorf("%s line %d: %s", path, at.GetToken().Position.Line, at.GetMessage())
	}
	return fmt.Errorf("%s: %w", path, err)
}

// SettingError tells what is wrong with the value of a setting.
type SettingError struct {
	Key  string // as in a file: store.tail
	Text string // follows the key
}

// Error returns the key and what is wrong.
func (e *SettingError) Error() string { return e.Key + " " + e.Text }

// BadSetting returns the error of a setting whose value is wrong.
func BadSetting(key, format string, args ...any) error {
	return &SettingError{Key: key, Text: fmt.Sprintf(format, args...)}
}

// Locate adds file and line to the error of a setting that came from the file
// at path, which is one that given, by flags and environment, does not have.
func Locate(path string, given any, err error) error {
	var bad *SettingError
	if !errors.As(err, &bad) || path == "" {
		return err
	}
	for key, value := range Keys(given) {
		if key == bad.Key && !value.IsZero() {
			return err
		}
	}
	file, parseErr := parser.ParseFile(path, 0)
	at, pathErr := yaml.PathString("$." + bad.Key)
	if errors.Join(parseErr, pathErr) != nil {
		return err
	}
	node, findErr := at.FilterFile(file)
	if findErr != nil {
		return err
	}
	return fmt.Errorf("%s line %d: %w", path, node.GetToken().Position.Line, err)
}

// Reloader returns a function that loads the settings in the file at path again
// and tells which keys of it have changed since it was last read. S is what the
// file is read into.
func Reloader[S, C any](path string, load func(path string) (C, error)) func() (C, []string, error) {
	read := func() (s S) {
		if path != "" {
			_ = ReadSettings(path, &s) // load tells what is wrong with it
		}
		return s
	}
	last := read()
	return func() (C, []string, error) {
		c, err := load(path)
		if err != nil {
			return c, nil, err
		}
		now := read()
		before := maps.Collect(Keys(last))
		var changed []string
		for key, value := range Keys(now) {
			if !reflect.DeepEqual(value.Interface(), before[key].Interface()) {
				changed = append(changed, key)
			}
		}
		last = now
		return c, changed, nil
	}
}

// unbound are the settings of agent and hub that change without a restart.
var unbound = []string{"logLevel", "store.max", "store.maxAge"}

// Live is what they say.
type Live struct {
	LogLevel string
	Store    StoreConfig
}

// Reload reads the settings of an instance again and puts those in force that
// change without a restart. read tells which keys have changed, as a Reloader
// does.
func Reload(log zerolog.Logger, read func() (Live, []string, error), limit func(maxBytes uint64, maxAge time.Duration)) {
	now, changed, err := read()
	if err == nil {
		err = SetLevel(now.LogLevel)
	}
	if err != nil {
		log.Error().Err(err).Msg("settings not read again, the old ones hold")
		return
	}
	limit(now.Store.Max, now.Store.MaxAge)
	log.Info().Strs("changed", changed).Msg("settings read again")
	if later := slices.DeleteFunc(changed, func(key string) bool { return slices.Contains(unbound, key) }); len(later) > 0 {
		log.Warn().Strs("settings", later).Msg("these settings need a restart")
	}
}

// Keys returns the settings in a struct, or a pointer to one, by their keys in
// a file: store.max is the field of the tag "max" in that of the tag "store".
func Keys(settings any) iter.Seq2[string, reflect.Value] {
	return func(yield func(string, reflect.Value) bool) {
		walkKeys(reflect.Indirect(reflect.ValueOf(settings)), "", yield)
	}
}

func walkKeys(v reflect.Value, above string, yield func(string, reflect.Value) bool) bool {
	for i := range v.NumField() {
		name, tagged := v.Type().Field(i).Tag.Lookup("yaml")
		switch f := v.Field(i); {
		case !tagged:
		case f.Kind() == reflect.Struct:
			if !walkKeys(f, above+name+".", yield) {
				return false
			}
		case !yield(above+name, f):
			return false
		}
	}
	return true
}

// nearest returns the key of settings whose last part is most like a word.
func nearest(word string, settings any) string {
	keys := map[string]string{} // by their last part
	var words []string
	for key := range Keys(settings) {
		last := key[strings.LastIndex(key, ".")+1:]
		if keys[last] == "" {
			keys[last] = key
			words = append(words, last)
		}
	}
	return keys[schema.Nearest(word, words)]
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
		return BadSetting("store.tail", "is %d, it must be at least 1", c.Tail)
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
		return BadSetting(name, "%q is not host:port, such as 127.0.0.1:8080", address)
	}
	return nil
}
