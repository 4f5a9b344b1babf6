package logs

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// sites have a gateway each: root, site, gateway and node are the four
	// that somebody may listen on for a point.
	sites = 10
	// drainWait bounds how long the sites' points take to the hub.
	drainWait = 3 * time.Minute
)

// ingest measures what a point costs the hub: ten gateways have a backlog
// when they connect, so that frames are large, and one program listens on one
// of their sites.
func ingest(ctx context.Context, b *bench) error {
	for range b.Runs {
		for _, layout := range []string{"shard", "node"} {
			if err := b.inLab(func(l *lab.Lab) error { return b.ingestOnce(ctx, l, layout) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) ingestOnce(ctx context.Context, l *lab.Lab, layout string) error {
	hub := l.Hub("--node-streams-layout", layout)
	if _, err := hub.Start(ctx); err != nil {
		return err
	}
	n := sites
	if b.Quick {
		n = 2
	}
	gateways, first, err := build(ctx, l, hub, n)
	if err != nil {
		return err
	}
	if err := hub.Stop(); err != nil {
		return err
	}
	points := 0
	for _, g := range gateways {
		if _, err := g.Start(ctx); err != nil {
			return err
		}
		r, err := g.Replay(ctx, b.Trace)
		if err != nil {
			return err
		}
		points += r.Sent
		if err := g.Stop(); err != nil { // what dials in vain waits longer and longer
			return err
		}
	}
	if _, err := hub.Start(ctx); err != nil {
		return err
	}
	heard, unsubscribe, err := listen(hub, first)
	if err != nil {
		return err
	}
	defer unsubscribe()
	before, err := hub.Quiet(ctx)
	if err != nil {
		return err
	}
	took, err := drain(ctx, gateways)
	if err != nil {
		return err
	}
	after, err := hub.Quiet(ctx)
	if err != nil {
		return err
	}
	if heard.Load() == 0 {
		return fmt.Errorf("nothing was heard of the site")
	}
	rss, err := hub.RSS()
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	frames, err := framesOf(ctx, hub.Dir, points)
	if err != nil {
		return err
	}
	b.add("points per second of the hub's processor time, node streams in "+layout, "", float64(points)/(after-before).Seconds(),
		fmt.Sprintf("target 60,000, 150,000 without node streams; log, state, `up.` (%d sites, one of them listened on, depth 4) and node streams, to the end of all work; %d points in frames of %d", n, points, points/frames))
	b.add("points per second of wall time, stored and acked, node streams in "+layout, "", float64(points)/took.Seconds(), fmt.Sprintf("%d gateways on the same cores", n))
	b.add("resident memory of the hub after it, node streams in "+layout, "MB", float64(rss)/(1<<20), "")
	return nil
}

// build makes sites with an enrolled gateway each, connected once so that
// both ends agree where it is, and returns the gateways and the first site.
func build(ctx context.Context, l *lab.Lab, hub *lab.Instance, n int) (gateways []*lab.Instance, first string, err error) {
	c, err := hub.Dial(ctx)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	for i := range n {
		site, err := c.NodeAdd(ctx, hub.ID, "site", fmt.Sprintf("site-%d", i+1))
		if err != nil {
			return nil, "", err
		}
		if i == 0 {
			first = site
		}
		g, err := l.Enrol(ctx, hub, fmt.Sprintf("gateway-%d", i+1))
		if err != nil {
			return nil, "", err
		}
		if err := c.NodeMove(ctx, g.ID, hub.ID, site); err != nil {
			return nil, "", err
		}
		gateways = append(gateways, g)
	}
	if _, err := drain(ctx, gateways); err != nil {
		return nil, "", err
	}
	for _, g := range gateways {
		if err := g.Stop(); err != nil {
			return nil, "", err
		}
	}
	return gateways, first, nil
}

// listen counts what happens below a node, as a program would hear it.
func listen(hub *lab.Instance, node string) (heard *atomic.Int64, stop func(), err error) {
	r, err := client.ReadRunning(hub.Dir)
	if err != nil {
		return nil, nil, err
	}
	nc, err := nats.Connect("nats://"+r.Listen, nats.UserCredentials(hub.Dir+"/"+client.CredsFile))
	if err != nil {
		return nil, nil, err
	}
	heard = &atomic.Int64{}
	if _, err = nc.Subscribe(subject.UpAll(node), func(*nats.Msg) { heard.Add(1) }); err == nil {
		err = nc.Flush()
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return heard, nc.Close, nil
}

// drain starts gateways and returns how long it takes until the hub has all
// that they hold.
func drain(ctx context.Context, gateways []*lab.Instance) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range gateways {
		group.Go(func() error {
			if _, err := g.Start(ctx); err != nil {
				return err
			}
			c, err := g.Dial(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			return lab.Until(ctx, g.Name+" catches up", 20*time.Millisecond, func() (bool, error) {
				points, connected, err := lab.Behind(ctx, c)
				return connected && points == 0, err
			})
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// framesOf returns how many frames of gateways a stopped hub holds, and makes
// sure that its node streams have got all their points.
func framesOf(ctx context.Context, dir string, points int) (frames int, err error) {
	js, stop, err := open(dir)
	if err != nil {
		return 0, err
	}
	defer stop()
	filled := uint64(0)
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		name, state := info.Config.Name, info.State
		_, _, isNode := subject.ParseNodeStream(name)
		switch {
		case name == subject.StreamEdge:
			frames = int(state.Msgs)
		case isNode || subject.IsShardStream(name):
			filled += state.LastSeq
		}
	}
	if err := list.Err(); err != nil {
		return 0, err
	}
	if filled < uint64(points) {
		return 0, fmt.Errorf("node streams got %d points of %d", filled, points)
	}
	return frames, nil
}
