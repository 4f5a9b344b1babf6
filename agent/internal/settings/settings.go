// Package settings answers the hub's settings of the agent itself: each one
// that changes is put in force or refused, and answered once with a point
// `applied`.
//
// Drivers answer theirs the same way, by Answer.
package settings

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// Codes of a refused setting.
const (
	CodeRange = schema.CodeRange
	CodeType  = schema.CodeType
)

// Refused is a setting that cannot be put in force.
type Refused = schema.Refused

// Setting is one setting: it puts a value in force or refuses it. Without a
// value (nil) the default holds again.
type Setting func(p *point.Point) *Refused

// Config says which settings there are.
type Config struct {
	Node     string // the gateway
	Instance *bus.Instance
	Settings map[string]Setting // by type of the point, key 0
	Log      zerolog.Logger
}

// Settings watches and answers settings.
type Settings struct {
	cfg  Config
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	changed map[string]bool // types to look at
}

// New returns settings that look at each value once when they start.
func New(cfg Config) *Settings {
	s := &Settings{cfg: cfg, wake: make(chan struct{}, 1), changed: map[string]bool{}}
	for t := range cfg.Settings {
		s.changed[t] = true
	}
	s.wake <- struct{}{}
	return s
}

// Changed tells of a point that became state. It does not block; of a storm
// only the last value is looked at.
func (s *Settings) Changed(e *frame.Entry) {
	if e.IsEdge() || e.Node != s.cfg.Node || e.Key != point.NoKey || s.cfg.Settings[e.Type] == nil {
		return
	}
	s.mu.Lock()
	s.changed[e.Type] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run answers settings until ctx ends.
func (s *Settings) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		s.mu.Lock()
		changed := s.changed
		s.changed = map[string]bool{}
		s.mu.Unlock()
		for t := range changed {
			s.look(t)
		}
	}
}

// look puts the present value of a setting in force, and answers it if the
// hub wrote it.
func (s *Settings) look(typ string) {
	var head *frame.Entry
	series := point.Series{Node: s.cfg.Node, Type: typ, Key: point.NoKey}
	s.cfg.Instance.View(func(st *state.State, _ *tree.Tree) { head = copyOf(st.Get(series)) })
	if head == nil {
		return
	}
	value := &head.Point
	if head.Removed() {
		value = nil
	}
	r := s.cfg.Settings[typ](value)
	if head.Author == state.Hub {
		Answer(s.cfg.Instance, series, head.Time, r, s.cfg.Log)
	}
}

// Answer tells whether the value of a time of a setting is in force, unless
// that has been told already. What was in force is not called refused later:
// what fails then is no matter of the setting. It returns false if the answer
// could not be written.
func Answer(to *bus.Instance, setting point.Series, at uint64, r *Refused, log zerolog.Logger) bool {
	a := api.Applied{Time: point.TimeOf(at).Format(time.RFC3339Nano), OK: true}
	if r != nil {
		a.OK, a.Code, a.Reason = false, r.Code, r.Reason
	}
	before, series := Answered(to, setting), answerTo(setting)
	if before == a || before.OK && before.Time == a.Time {
		return true
	}
	data, err := json.Marshal(a)
	if err == nil {
		// A reply is asked so that the answer goes out at once.
		err = to.Write([]point.Point{{Series: series, DataType: point.JSON, Data: data}}, nil, func(error) {})
	}
	if err != nil {
		log.Warn().Err(err).Str("node_id", setting.Node).Str("setting", setting.Type).Msg("setting not answered")
		return false
	}
	log.Info().Str("node_id", setting.Node).Str("setting", setting.Type).Bool("ok", a.OK).Str("code", a.Code).Msg("setting answered")
	return true
}

// Answered returns the last answer to a setting, empty if there is none.
func Answered(to *bus.Instance, setting point.Series) (a api.Applied) {
	to.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(answerTo(setting)); h == nil || h.Removed() || json.Unmarshal(h.Data, &a) != nil {
			a = api.Applied{}
		}
	})
	return a
}

func answerTo(setting point.Series) point.Series {
	return point.Series{Node: setting.Node, Type: point.TypeApplied, Key: setting.Type + "/" + setting.Key}
}

func copyOf(e *frame.Entry) *frame.Entry {
	if e == nil {
		return nil
	}
	c := *e
	return &c
}

// OneOf returns a setting that accepts one of several words.
func OneOf(words []string, standard string, apply func(string)) Setting {
	return func(p *point.Point) *Refused {
		if p == nil {
			apply(standard)
			return nil
		}
		if p.DataType != point.String {
			return &Refused{Code: CodeType, Reason: "must be a string"}
		}
		for _, w := range words {
			if string(p.Data) == w {
				apply(w)
				return nil
			}
		}
		return &Refused{Code: CodeRange, Reason: "must be " + schema.OneOf(words)}
	}
}

// Text returns a setting that accepts a string that apply does not refuse.
func Text(apply func(string) *Refused) Setting {
	return func(p *point.Point) *Refused {
		if p == nil {
			return apply("")
		}
		if p.DataType != point.String {
			return &Refused{Code: CodeType, Reason: "must be a string"}
		}
		return apply(string(p.Data))
	}
}

// Number returns a setting that accepts a number between two bounds, both
// included.
func Number(least, most, standard float64, apply func(float64)) Setting {
	return bounded(least, most, standard, "", apply)
}

// Seconds is Number for a number of seconds.
func Seconds(least, most float64, standard time.Duration, apply func(time.Duration)) Setting {
	return bounded(least, most, standard.Seconds(), " seconds", func(v float64) { apply(time.Duration(v * float64(time.Second))) })
}

func bounded(least, most, standard float64, unit string, apply func(float64)) Setting {
	return func(p *point.Point) *Refused {
		v := standard
		if p != nil {
			var ok bool
			if v, ok = p.Number(); !ok {
				return &Refused{Code: CodeType, Reason: "must be a number"}
			}
			if !(v >= least && v <= most) {
				return &Refused{Code: CodeRange, Reason: fmt.Sprintf("must be between %g and %g%s", least, most, unit)}
			}
		}
		apply(v)
		return nil
	}
}
