// Package simulate is a driver without hardware: a station of pumps whose
// pressure and flow walk at random.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Kind is the type of node that a station is.
func Kind() driver.Kind {
	return driver.Kind{Type: schema.Simulate, New: func() driver.Driver { return &station{random: rand.New(rand.NewPCG(1, 2))} }}
}

// What a pump tells.
const (
	typePressure = "pressure" // bar
	typeFlow     = "flow"     // m3/h
)

type station struct {
	random *rand.Rand
	pumps  []pump
}

type pump struct {
	id             string
	pressure, flow float64
}

// Run measures until ctx ends.
func (s *station) Run(ctx context.Context, p *driver.Port) error {
	return p.Poll(ctx,
		func() (time.Duration, error) {
			n := p.Node()
			return n.Millis("period"), s.build(p, n.Int("pumps"))
		},
		func(at uint64) error {
			p.Put(s.measure(at)...)
			return nil
		})
}

// build makes the station have n pumps. Those that somebody has removed stand
// still, those that are too many too.
func (s *station) build(p *driver.Port, n int) error {
	s.pumps = s.pumps[:min(n, len(s.pumps))]
	for len(s.pumps) < n {
		id, err := p.Child("pump", fmt.Sprintf("pump-%02d", len(s.pumps)+1), math.MaxInt)
		if err != nil && !errors.Is(err, driver.ErrRemoved) {
			return err
		}
		s.pumps = append(s.pumps, pump{id, 3 + s.random.Float64(), 20 + 5*s.random.Float64()})
	}
	return nil
}

// measure walks all values a bit.
func (s *station) measure(at uint64) []point.Point {
	points := make([]point.Point, 0, 2*len(s.pumps))
	for i := range s.pumps {
		p := &s.pumps[i]
		p.pressure += 0.05 * s.random.NormFloat64()
		p.flow += 0.05 * s.random.NormFloat64()
		if p.id != "" {
			points = append(points, driver.Float(p.id, typePressure, point.NoKey, at, p.pressure), driver.Float(p.id, typeFlow, point.NoKey, at, p.flow))
		}
	}
	return points
}
