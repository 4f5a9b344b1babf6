package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/client"
)

// storedPoints are in the log, or in the peer's stream, when it is killed.
const storedPoints = 1_000_000

// starts measures what an instance that was killed takes from the start of its
// process to the first answer.
func starts(ctx context.Context, b *bench) error {
	want := storedPoints
	if b.Quick {
		want /= 5
	}
	return b.inLab(func(l *lab.Lab) error {
		g, err := l.Alone(ctx)
		if err != nil {
			return err
		}
		points := 0
		for points < want {
			r, err := g.Replay(ctx, b.Trace)
			if err != nil {
				return err
			}
			points += r.Sent
		}
		for range b.Runs {
			if err := b.startAgent(ctx, g, points); err != nil {
				return err
			}
			r, err := g.Replay(ctx, b.Trace) // the end of the log is another at each crash
			if err != nil {
				return err
			}
			points += r.Sent
		}
		if err := g.Stop(); err != nil {
			return err
		}
		return b.startStock(ctx, filepath.Join(l.Dir, "stock"), want)
	})
}

// startAgent kills the agent, starts it and measures when it tells a value,
// and when it has read its log and tells the newest.
func (b *bench) startAgent(ctx context.Context, g *lab.Instance, points int) error {
	last, err := newest(ctx, g)
	if err != nil {
		return err
	}
	g.Crash()
	began := time.Now()
	if _, err := g.Start(ctx); err != nil {
		return err
	}
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	err = lab.Until(ctx, "the agent tells a value", time.Millisecond, func() (bool, error) {
		_, err := value(ctx, c, last)
		return err == nil, nil // the snapshot may be older than the node
	})
	if err != nil {
		return err
	}
	first := time.Since(began)
	if err := lab.Ready(ctx, c); err != nil {
		return err
	}
	ready := time.Since(began)
	if at, err := value(ctx, c, last); err != nil || at != last.Time {
		return fmt.Errorf("the agent tells the value of %s, not of %s: %w", at, last.Time, errors.Join(err))
	}
	note := fmt.Sprintf("%d points in the log, after SIGKILL; read from the newest snapshot", points)
	b.Add(row{Name: startName, Unit: "s", Target: "<= 0.3 s", Note: note}, sapflow, first.Seconds())
	b.Add(row{Name: "the same, until the log is read, the newest value told and writes taken", Unit: "s", Note: "up to 250,000 points behind the snapshot"}, sapflow, ready.Seconds())
	return nil
}

const startName = "start after SIGKILL to the first answer with a value, 1,000,000 points"

// newest returns the newest point below a gateway.
func newest(ctx context.Context, g *lab.Instance) (p api.Point, err error) {
	c, err := g.Dial(ctx)
	if err != nil {
		return p, err
	}
	defer c.Close()
	nodes, err := c.Nodes(ctx, g.ID, api.NodesRequest{Depth: 1})
	if err != nil {
		return p, err
	}
	var list []api.Point
	for _, n := range nodes {
		for _, p := range n.Points {
			if p.Type != "description" && n.ID != g.ID {
				p.Node = n.ID
				list = append(list, p)
			}
		}
	}
	if len(list) == 0 {
		return p, errors.New("the gateway has no values")
	}
	return slices.MaxFunc(list, func(a, b api.Point) int { return cmp.Compare(a.Time, b.Time) }), nil
}

// value returns the time of the value that an instance tells for a series.
func value(ctx context.Context, c *client.Client, of api.Point) (at string, err error) {
	nodes, err := c.Nodes(ctx, of.Node, api.NodesRequest{})
	if err != nil {
		return "", err
	}
	for _, n := range nodes {
		for _, p := range n.Points {
			if p.Type == of.Type && p.Key == of.Key {
				return p.Time, nil
			}
		}
	}
	return "", fmt.Errorf("%s of %s has no value", of.Type, of.Node)
}

// startStock measures the same of a stock server with a message a point.
func (b *bench) startStock(ctx context.Context, dir string, points int) error {
	cfg := peer.StockConfig{Dir: dir}
	p, url, err := peer.StartStock(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { p.Kill() }() // the newest one
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	_, err = publishSamples(ctx, nc, points)
	nc.Close()
	if err != nil {
		return err
	}
	for range b.Runs {
		p.Kill()
		began := time.Now()
		again, url, err := peer.StartStock(ctx, cfg)
		if err != nil {
			return err
		}
		p = again
		if err := lastMessage(ctx, url); err != nil {
			return err
		}
		b.Add(row{Name: startName, Unit: "s"}, stock, time.Since(began).Seconds())
	}
	return nil
}

func lastMessage(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, peer.Stream)
	if err != nil {
		return err
	}
	_, err = s.GetLastMsgForSubject(ctx, peer.Stored(0))
	return err
}

// memory measures what an agent takes that has run for a while, beside a stock
// server with a message a point: as many of both as there are runs, at the
// same time.
func memory(ctx context.Context, b *bench) error {
	if os.Getenv("GOMEMLIMIT") != "" {
		return errors.New("GOMEMLIMIT is set, which the agents would take over; unset it")
	}
	window := time.Minute
	if b.Quick {
		window = 15 * time.Second
	}
	return b.inLab(func(l *lab.Lab) error {
		l.Plan = "lte"
		hub := l.Hub()
		if _, err := hub.Start(ctx); err != nil {
			return err
		}
		var agents, stocks []*lab.Process
		var feeds []feed
		for i := range b.Runs {
			g, err := l.Enrol(ctx, hub, fmt.Sprintf("gateway-%d", i+1))
			if err != nil {
				return err
			}
			if _, err := drain(ctx, []*lab.Instance{g}); err != nil {
				return err
			}
			subjects, err := sensors(ctx, g, feedNodes)
			if err != nil {
				return err
			}
			url, err := g.URL()
			if err != nil {
				return err
			}
			p, stockURL, err := peer.StartStock(ctx, peer.StockConfig{Dir: filepath.Join(l.Dir, fmt.Sprintf("stock-%d", i+1))})
			if err != nil {
				return err
			}
			defer p.Kill()
			agents, stocks = append(agents, g.Process), append(stocks, p)
			feeds = append(feeds, feed{url, subjects}, feed{stockURL, func(n int) string { return peer.Stored(n % feedNodes) }})
		}
		running, cancel := context.WithTimeout(ctx, window)
		defer cancel()
		group, running := errgroup.WithContext(running)
		for _, f := range feeds {
			group.Go(func() error { return f.run(running) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		r := row{Name: "resident memory, 30 nodes, 30 points/s", Unit: "MB", Target: "<= 32 MB", Note: fmt.Sprintf("VmRSS after %s, plan lte, hub connected, GOMEMLIMIT set by the agent itself; JetStream: a message a point", window)}
		for i := range agents {
			for column, p := range map[string]*lab.Process{sapflow: agents[i], stock: stocks[i]} {
				rss, err := p.RSS()
				if err != nil {
					return err
				}
				b.Add(r, column, float64(rss)/(1<<20))
			}
		}
		return ctx.Err()
	})
}

// feedNodes have a point a second each.
const feedNodes = 30

// feed is who gets a point of one node after the other.
type feed struct {
	url     string
	subject func(n int) string
}

// run publishes without asking for an answer until ctx ends.
func (f feed) run(ctx context.Context) error {
	nc, err := nats.Connect(f.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	ticker := time.NewTicker(time.Second / feedNodes)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := nc.Publish(f.subject(n), peer.Sample(20+float64(n%7)/10)); err != nil {
				return err
			}
		}
	}
}
