package logs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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
// of their sites. Each run begins with a copy of the same hub and gateways.
func ingest(ctx context.Context, b *bench) error {
	return b.inLab(func(l *lab.Lab) error {
		w, err := b.backlog(ctx, l)
		if err != nil {
			return err
		}
		for range b.Runs {
			for _, layout := range []string{"shard", "node", "none"} {
				if err := b.ingestOnce(ctx, w, layout); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// waiting is a stopped hub with gateways whose points it lacks.
type waiting struct {
	hub      *lab.Instance
	gateways []*lab.Instance
	site     string // of the first
	points   int
	dirs     []string // of all of them
}

// backlog makes a hub and gateways that hold a trace each.
func (b *bench) backlog(ctx context.Context, l *lab.Lab) (w *waiting, err error) {
	w = &waiting{hub: l.Hub()}
	if _, err := w.hub.Start(ctx); err != nil {
		return nil, err
	}
	n := sites
	if b.Quick {
		n = 2
	}
	if w.gateways, w.site, err = build(ctx, l, w.hub, n); err != nil {
		return nil, err
	}
	if err := w.hub.Stop(); err != nil {
		return nil, err
	}
	w.dirs = []string{w.hub.Dir}
	for _, g := range w.gateways {
		w.dirs = append(w.dirs, g.Dir)
		if _, err := g.Start(ctx); err != nil {
			return nil, err
		}
		r, err := g.Replay(ctx, b.Trace)
		if err != nil {
			return nil, err
		}
		w.points += r.Sent
		if err := g.Stop(); err != nil { // what dials in vain waits longer and longer
			return nil, err
		}
	}
	for _, dir := range w.dirs {
		if err := copyDir(ctx, dir, dir+savedSuffix); err != nil {
			return nil, err
		}
	}
	return w, nil
}

const savedSuffix = ".saved"

// restore puts everything back to where it was.
func (w *waiting) restore(ctx context.Context) error {
	for _, dir := range w.dirs {
		if err := copyDir(ctx, dir+savedSuffix, dir); err != nil {
			return err
		}
	}
	return nil
}

// copyDir makes to a copy of from, with modes: keys are read by their owner
// only.
func copyDir(ctx context.Context, from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

func (b *bench) ingestOnce(ctx context.Context, w *waiting, layout string) error {
	if err := w.restore(ctx); err != nil {
		return err
	}
	if _, err := w.hub.Run(ctx, "streams", "rebuild", "--layout", layout); err != nil {
		return err
	}
	if _, err := w.hub.Start(ctx); err != nil {
		return err
	}
	heard, unsubscribe, err := listen(w.hub, w.site)
	if err != nil {
		return err
	}
	defer unsubscribe()
	before, err := w.hub.Quiet(ctx)
	if err != nil {
		return err
	}
	took, err := drain(ctx, w.gateways)
	if err != nil {
		return err
	}
	after, err := w.hub.Quiet(ctx)
	if err != nil {
		return err
	}
	if heard.Load() == 0 {
		return fmt.Errorf("nothing was heard of the site")
	}
	rss, err := w.hub.RSS()
	if err != nil {
		return err
	}
	for _, i := range append(w.gateways, w.hub) {
		if err := i.Stop(); err != nil {
			return err
		}
	}
	frames, err := framesOf(ctx, w.hub.Dir, layout, w.points)
	if err != nil {
		return err
	}
	target, with := ">= 60,000", ", node streams in "+layout
	if layout == "none" {
		target, with = ">= 150,000", ", without node streams"
	}
	b.Add(row{
		Name: "points per second of the hub's processor time" + with, Target: target,
		Note: fmt.Sprintf("log, state, `up.` (%d sites, one of them listened on, depth 4), to the end of all work; %d points in frames of %d", len(w.gateways), w.points, w.points/frames),
	}, sapflow, float64(w.points)/(after-before).Seconds())
	b.Add(row{Name: "points per second of wall time, stored and acked" + with, Note: fmt.Sprintf("%d gateways on the same cores", len(w.gateways))}, sapflow, float64(w.points)/took.Seconds())
	b.Add(row{Name: "resident memory of the hub after it" + with, Unit: "MB"}, sapflow, float64(rss)/(1<<20))
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
func framesOf(ctx context.Context, dir, layout string, points int) (frames int, err error) {
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
	if layout != "none" && filled < uint64(points) {
		return 0, fmt.Errorf("node streams got %d points of %d", filled, points)
	}
	return frames, nil
}
