package archive

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// imports measures how fast points of the past go into a new gateway, and how
// long one who writes to it waits meanwhile.
func imports(ctx context.Context, b *bench) error {
	window := 20 * time.Second
	if b.Quick {
		window = 3 * time.Second
	}
	for range b.Runs {
		if err := b.inLab(func(l *lab.Lab) error { return b.importOnce(ctx, l, window) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) importOnce(ctx context.Context, l *lab.Lab, window time.Duration) error {
	g, err := l.Alone(ctx)
	if err != nil {
		return err
	}
	nodes, err := fixture.AddStation(ctx, g)
	if err != nil {
		return err
	}
	writer, err := g.AddSensors(ctx, 1)
	if err != nil {
		return err
	}
	url, err := g.URL()
	if err != nil {
		return err
	}
	written := subject.Point(point.Series{Node: writer[0], Type: "temperature", Key: point.NoKey})
	target := peer.Target{URL: url, Subject: func(int) string { return written }, Payload: peer.Sample}
	alone, err := peer.Request(ctx, target, 1, window/4)
	if err != nil {
		return err
	}
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	points, began := 0, time.Now()
	var took time.Duration
	var beside peer.Answered
	group, importing := errgroup.WithContext(ctx)
	group.Go(func() error {
		from := point.Nanos(began)/second*second - 365*day
		past := func(yield func(*frame.Entry) bool) {
			for e := range fixture.Station(from, 365*24*3600) {
				if e.Node == nodes[0] && time.Since(began) > window || !yield(e) { // looks once a second of the trace
					return
				}
			}
		}
		err := fixture.Import(importing, c, g.ID, func(n int) { points += n }, past)
		took = time.Since(began)
		return err
	})
	group.Go(func() (err error) {
		beside, err = peer.Request(importing, target, 1, window)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	peak, err := g.PeakRSS()
	if err != nil {
		return err
	}
	b.Add(row{Name: "import through the client", Unit: "/s", Note: fmt.Sprintf("%s points of g1 at a new gateway, in hours of all series; each is durable", report.Whole(points))}, sapflow, float64(points)/took.Seconds())
	b.Add(row{Name: "most resident memory of the agent after it", Unit: "MB"}, sapflow, float64(peak)/(1<<20))
	for _, q := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		b.Add(row{Name: "acked write of one client meanwhile, " + q.name, Unit: "ms", Note: fmt.Sprintf("%.2f ms with nothing beside", milliseconds(alone.Delay(q.q)))}, sapflow, milliseconds(beside.Delay(q.q)))
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
