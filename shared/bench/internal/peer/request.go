package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/point"
)

// Target is where requests go.
type Target struct {
	URL     string
	Subject func(client int) string
	Payload func(v float64) []byte
}

// Sample is the payload of a point without a time.
func Sample(v float64) []byte {
	p := point.Point{DataType: point.Float, Data: point.FloatData(v)}
	return point.AppendPayload(nil, &p)
}

// Answered is what writers got who each wait for the answer before the next
// write.
type Answered struct {
	PerSecond float64
	delays    []time.Duration // sorted
}

// Delay returns a quantile of the time to an answer.
func (a Answered) Delay(q float64) time.Duration { return Quantile(a.delays, q) }

// Quantile returns a quantile of a sorted list, 0 of an empty one.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// requestWait bounds the wait for one answer.
const requestWait = 10 * time.Second

// Request has clients, a connection each, send requests to t over a window.
func Request(ctx context.Context, t Target, clients int, window time.Duration) (Answered, error) {
	conns := make([]*nats.Conn, clients)
	for n := range conns {
		nc, err := nats.Connect(t.URL)
		if err != nil {
			return Answered{}, err
		}
		defer nc.Close()
		conns[n] = nc
	}
	return Write(ctx, clients, window, func(n int, v float64) error {
		m, err := conns[n].Request(t.Subject(n), t.Payload(v), requestWait)
		if err == nil && strings.Contains(string(m.Data), `"error"`) {
			err = fmt.Errorf("refused: %s", m.Data)
		}
		return err
	})
}

// Write has writers call write one after the other over a window, with their
// number and a value that rises.
func Write(ctx context.Context, writers int, window time.Duration, write func(n int, v float64) error) (Answered, error) {
	group, ctx := errgroup.WithContext(ctx)
	start, end := make(chan struct{}), make(chan struct{})
	lists := make([][]time.Duration, writers)
	for n := range writers {
		group.Go(func() error {
			<-start
			for v := 0.0; ; v++ {
				select {
				case <-end:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				default:
				}
				began := time.Now()
				if err := write(n, v); err != nil {
					return err
				}
				lists[n] = append(lists[n], time.Since(began))
			}
		})
	}
	began := time.Now()
	close(start)
	pause := lab.Pause(ctx, window)
	close(end)
	err := errors.Join(group.Wait(), pause)
	took := time.Since(began) // each writer ends with an answer
	a := Answered{delays: slices.Concat(lists...)}
	slices.Sort(a.delays)
	a.PerSecond = float64(len(a.delays)) / took.Seconds()
	return a, err
}
