package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/subject"
)

// slowDisk is what a start may read of a slow disk, bytes a second.
const slowDisk = 40_000_000

// starts measures what an agent with months of history takes from the start of
// its process to the first answers, after SIGKILL.
func starts(ctx context.Context, b *bench) error {
	for range b.Runs {
		err := b.onFixture(ctx, func(f *fixture.Fixture, g *lab.Instance) error {
			for _, s := range []start{
				{what: "after SIGKILL"},
				{what: "after SIGKILL, index lost", lost: true},
				{what: "after SIGKILL, index lost, page cache dropped", lost: true, cold: true},
				{what: "after SIGKILL, index lost, page cache dropped, 40 MB/s", lost: true, cold: true, slow: true},
			} {
				if err := b.start(ctx, f, g, s); err != nil {
					return fmt.Errorf("%s: %w", s.what, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// start is a way to start.
type start struct {
	what             string
	lost, cold, slow bool
}

func (b *bench) start(ctx context.Context, f *fixture.Fixture, g *lab.Instance, s start) (err error) {
	g.Crash()
	if s.lost {
		chunks, err := fixture.Stream(g.Dir, subject.StreamHistory)
		if err != nil {
			return err
		}
		if err := os.Remove(filepath.Join(chunks, "msgs", "index.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if s.slow {
		limit, err := lab.NewReadLimit(g.Dir, slowDisk)
		if err != nil {
			return b.without(ctx, g, s, err)
		}
		g.Limit = limit
		defer func() {
			g.Limit = nil
			err = errors.Join(err, limit.Close())
		}()
	}
	if s.cold {
		if err := lab.DropCaches(); err != nil {
			return b.without(ctx, g, s, err)
		}
	}
	began := time.Now()
	if _, err := g.Start(ctx); err != nil {
		return err
	}
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	sensor := f.Series(sampled)
	err = lab.Until(ctx, "the agent tells a value", time.Millisecond, func() (bool, error) {
		nodes, err := c.Nodes(ctx, sensor.Node, api.NodesRequest{})
		return err == nil && slices.ContainsFunc(nodes[0].Points, func(p api.Point) bool { return p.Type == sensor.Type }), nil
	})
	if err != nil {
		return err
	}
	value := time.Since(began)
	asked := &gateway{c: c, node: sensor.Node}
	err = lab.Until(ctx, "the agent tells of the past", time.Millisecond, func() (bool, error) {
		t, err := asked.values(ctx, oldOf(f))
		if err == nil && t.values != 3600 {
			return false, fmt.Errorf("an hour has %d values", t.values)
		}
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	old := time.Since(began)
	read, err := g.Read()
	if err != nil {
		return err
	}
	b.Add(row{Name: "start " + s.what + ", to the first answer to get", Unit: "s", Note: fmt.Sprintf("%d days", f.Days)}, sapflow, value.Seconds())
	b.Add(row{Name: "start " + s.what + ", to the first answer about the past", Unit: "s", Note: fmt.Sprintf("an hour from %d days ago", ago(f))}, sapflow, old.Seconds())
	if s.cold {
		b.Add(row{Name: "start " + s.what + ", read from the disk by then", Unit: "MB", Note: "with its program"}, sapflow, float64(read)/1e6)
	}
	return nil
}

// without tells that a start cannot be measured, and starts.
func (b *bench) without(ctx context.Context, g *lab.Instance, s start, reason error) error {
	fmt.Fprintf(b.Progress, "start %s is not measured: %s\n", s.what, reason)
	_, err := g.Start(ctx)
	return err
}
