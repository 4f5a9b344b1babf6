package figures

import (
	"context"
	"fmt"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

const (
	megabyte = 1 << 20
	// settleFor is how long memory may settle before it is read.
	settleFor = 3 * time.Second
)

// ingest measures a new hub and gateway: start, memory, the whole trace as
// fast as it goes, and start again with it.
func ingest(ctx context.Context, b *bench) error {
	for range b.Config.runs {
		err := b.inLab(func(l *lab.Lab) error { return b.ingestOnce(ctx, l) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) ingestOnce(ctx context.Context, l *lab.Lab) error {
	hub, gateway, err := l.Pair(ctx)
	if err != nil {
		return err
	}
	if err := b.restart(ctx, hub, gateway, "with nothing stored", "SimpleIoT 0.25: 315-358 ms (from memory)"); err != nil {
		return err
	}
	if err := b.memory(ctx, hub, gateway, "idle, nothing stored", "SimpleIoT 0.25: 33 MB (from memory)"); err != nil {
		return err
	}
	if err := b.replay(ctx, hub, gateway); err != nil {
		return err
	}
	if err := b.memory(ctx, hub, gateway, "after the replay", ""); err != nil {
		return err
	}
	for _, i := range []*lab.Instance{hub, gateway} {
		i.Crash() // with the state of before the replay in its newest snapshot
		took, err := i.Start(ctx)
		if err != nil {
			return err
		}
		b.add("start to first answer, "+role(i, hub)+", after SIGKILL with the trace in its log", "ms", ms(took), "the snapshot is older than the trace")
	}
	if err := gateway.CaughtUp(ctx); err != nil {
		return err
	}
	return b.restart(ctx, hub, gateway, "with the trace stored", "")
}

func role(i, hub *lab.Instance) string {
	if i == hub {
		return "hub"
	}
	return "agent"
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// restart stops both and measures how long they take to the first answer.
func (b *bench) restart(ctx context.Context, hub, gateway *lab.Instance, when, note string) error {
	for _, i := range []*lab.Instance{hub, gateway} {
		if err := i.Stop(); err != nil {
			return err
		}
		took, err := i.Start(ctx)
		if err != nil {
			return err
		}
		b.add("start to first answer, "+role(i, hub)+", "+when, "ms", ms(took), note)
	}
	return gateway.CaughtUp(ctx)
}

func (b *bench) memory(ctx context.Context, hub, gateway *lab.Instance, when, note string) error {
	if err := lab.Pause(ctx, settleFor); err != nil {
		return err
	}
	for _, i := range []*lab.Instance{hub, gateway} {
		rss, err := i.RSS()
		if err != nil {
			return err
		}
		b.add("resident memory, "+role(i, hub)+", "+when, "MB", float64(rss)/megabyte, note)
	}
	return nil
}

// replay feeds the trace and waits until the hub has nothing more to do, node
// streams included.
func (b *bench) replay(ctx context.Context, hub, gateway *lab.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	hubBefore, err := hub.Quiet(ctx)
	if err != nil {
		return err
	}
	agentBefore, err := gateway.CPU()
	if err != nil {
		return err
	}
	began := time.Now()
	r, err := gateway.Replay(ctx, b.Trace)
	if err != nil {
		return err
	}
	if err := gateway.CaughtUp(ctx); err != nil {
		return err
	}
	atHub := time.Since(began)
	hubAfter, err := hub.Quiet(ctx)
	if err != nil {
		return err
	}
	agentAfter, err := gateway.CPU()
	if err != nil {
		return err
	}
	points := float64(r.Sent)
	b.add("replay of the trace, durable at the agent", perSecond, r.PointsPerSecond, fmt.Sprintf("%s points, hub connected", report.Format(points)))
	b.add("replay of the trace, stored at the hub", perSecond, points/atHub.Seconds(), "from the start of the replay to the last ack")
	b.add("points per second of the hub's processor time", "", points/(hubAfter-hubBefore).Seconds(), "state, EDGE log and two streams a node, to the end of all work")
	b.add("points per second of the agent's processor time", "", points/(agentAfter-agentBefore).Seconds(), "taken in, made durable and sent")
	return nil
}

// children of the node that is read.
const children = 100

// read measures how long a node with many children takes to be read with
// their state, at both ends.
func read(ctx context.Context, b *bench) error {
	return b.inLab(func(l *lab.Lab) error {
		hub, gateway, err := l.Pair(ctx)
		if err != nil {
			return err
		}
		nodes, err := gateway.AddSensors(ctx, children)
		if err != nil {
			return err
		}
		c, err := gateway.Dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		for i, n := range nodes {
			err := c.SetGroup(ctx, []api.Write{
				{Node: n, Type: "temperature", Value: fmt.Appendf(nil, "%.2f", 20+float64(i)/7)},
				{Node: n, Type: "humidity", Value: fmt.Appendf(nil, "%.2f", 40+float64(i)/9)},
			})
			if err != nil {
				return err
			}
		}
		if err := gateway.CaughtUp(ctx); err != nil {
			return err
		}
		for range b.Config.runs {
			for _, i := range []*lab.Instance{hub, gateway} {
				if err := b.readOnce(ctx, i, gateway.ID, role(i, hub)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bench) readOnce(ctx context.Context, i *lab.Instance, node, where string) error {
	c, err := i.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var list []float64
	for range b.reads {
		began := time.Now()
		nodes, err := c.Nodes(ctx, node, api.NodesRequest{Depth: 1})
		if err != nil {
			return err
		}
		list = append(list, ms(time.Since(began)))
		if len(nodes) != children+1 {
			return fmt.Errorf("read %d nodes, not %d", len(nodes), children+1)
		}
	}
	b.add("read of a node with 100 children and their state, "+where, "ms", report.Median(list),
		fmt.Sprintf("p50 of %d, 3 points a child; SimpleIoT 0.25: 1.23 ms p50 (from memory)", b.reads))
	return nil
}
