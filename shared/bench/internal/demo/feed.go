package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// station is a pump station: nodes below a gateway that are fed with two
// values each, all of a moment as one group.
type station struct {
	client *client.Client
	pumps  []string  // ids
	values []float64 // of each pump: pressure, flow
	random *rand.Rand

	mu   sync.Mutex
	sent map[uint64][]float64 // acked, by time
	err  error                // why feeding ended
}

// The values of a pump.
const (
	typePressure = "pressure"
	typeFlow     = "flow"
)

func newStation(ctx context.Context, c *client.Client, pumps int) (*station, error) {
	gateway, err := c.Root(ctx)
	if err != nil {
		return nil, err
	}
	s := &station{client: c, random: rand.New(rand.NewPCG(1, 2)), sent: map[uint64][]float64{}}
	for n := range pumps {
		id, err := c.NodeAdd(ctx, gateway, "pump", fmt.Sprintf("pump-%02d", n+1))
		if err != nil {
			return nil, fmt.Errorf("add pump: %w", err)
		}
		s.pumps = append(s.pumps, id)
		s.values = append(s.values, 3+s.random.Float64(), 20+5*s.random.Float64())
	}
	return s, nil
}

// run feeds until ctx ends. A write that is not acked is repeated with the
// same times: then it is the same points.
func (s *station) run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-ticker.C:
			now := point.Nanos(at)
			err := writeAcked(ctx, s.client, s.measure(now), nil)
			s.mu.Lock()
			switch {
			case err == nil:
				s.sent[now] = append([]float64(nil), s.values...)
			case ctx.Err() == nil:
				s.err = err
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
		}
	}
}

// measure walks all values a bit and returns them as points.
func (s *station) measure(now uint64) []point.Point {
	points := make([]point.Point, len(s.values))
	for i := range s.values {
		s.values[i] += 0.05 * s.random.NormFloat64()
		points[i] = float(s.pumps[i/2], []string{typePressure, typeFlow}[i%2], now, s.values[i])
	}
	return points
}

func float(node, pointType string, at uint64, v float64) point.Point {
	return point.Point{
		Series: point.Series{Node: node, Type: pointType, Key: point.NoKey},
		Time:   at, DataType: point.Float, Data: point.FloatData(v),
	}
}

// acked returns what pump n sent as its pressure and was acked, by time.
func (s *station) acked(n int) (map[uint64]float64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make(map[uint64]float64, len(s.sent))
	for at, values := range s.sent {
		list[at] = values[2*n]
	}
	return list, s.err
}

// attemptWait is how long a write may take before it is repeated.
const attemptWait = 2 * time.Second

// writeAcked writes a group until it is acked. repeated, if not nil, is
// called before each attempt but the first.
func writeAcked(ctx context.Context, c *client.Client, points []point.Point, repeated func()) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptWait)
		err := c.Write(attempt, points)
		cancel()
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case api.CodeOf(err) != api.CodeBusy && !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		if err := lab.Pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if repeated != nil {
			repeated()
		}
	}
}

// counter feeds one series from several writers at once and remembers what
// was acked.
type counter struct {
	client *client.Client
	node   string

	mu       sync.Mutex
	last     uint64 // time of the newest point given out
	n        int    // points given out
	repeated int
	acked    map[uint64]float64 // by time
	err      error
}

const typeCounter = "counter"

// next returns a point with a time and value of its own.
func (c *counter) next() (at uint64, v float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, point.Nanos(time.Now()))
	c.n++
	return c.last, float64(c.n)
}

// count returns how many points are acked and how many attempts were
// repeated.
func (c *counter) count() (acked, repeated int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acked), c.repeated, c.err
}

// run feeds with writers until stop is closed; what was begun is finished.
func (c *counter) run(ctx context.Context, writers int, stop <-chan struct{}) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				at, v := c.next()
				err := writeAcked(ctx, c.client, []point.Point{float(c.node, typeCounter, at, v)}, func() {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.repeated++
				})
				c.mu.Lock()
				if err != nil {
					c.err = err
					c.mu.Unlock()
					return
				}
				c.acked[at] = v
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// comparison is what a hub's history holds of what was sent.
type comparison struct{ stored, lost, doubled, wrong int }

func (c *comparison) add(d comparison) {
	c.stored += d.stored
	c.lost += d.lost
	c.doubled += d.doubled
	c.wrong += d.wrong
}

func (c *comparison) ok(sent int) bool { return c.stored == sent && c.lost+c.doubled+c.wrong == 0 }

// compare reads a series from the hub, from the first time sent to the last.
func compare(ctx context.Context, hub *client.Client, node, pointType string, sent map[uint64]float64) (c comparison, err error) {
	seen := map[uint64]bool{}
	err = hub.History(ctx, node, api.HistoryRequest{Type: pointType}, func(r *api.HistoryReply) error {
		for i := range r.Samples {
			s := &r.Samples[i]
			t, err := time.Parse(time.RFC3339Nano, s.Time)
			if err != nil {
				return fmt.Errorf("history of %s: %w", pointType, err)
			}
			at := point.Nanos(t)
			want, known := sent[at]
			v, err := strconv.ParseFloat(client.SampleText(s), 64)
			switch {
			case !known:
				continue // sent while this was read
			case seen[at]:
				c.doubled++
			case err != nil || v != want:
				c.wrong++
			}
			seen[at] = true
			c.stored++
		}
		return nil
	})
	c.lost = len(sent) - len(seen)
	return c, err
}
