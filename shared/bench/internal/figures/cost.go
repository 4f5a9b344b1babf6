package figures

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// sensors at 1 Hz are what the cost is told for.
const sensors = 30

var commitIntervals = [...]time.Duration{time.Second, 10 * time.Second, 60 * time.Second}

func nameCost(every time.Duration) string {
	return fmt.Sprintf("bytes a point, a frame every %d s", int(every.Seconds()))
}

func nameUp(every time.Duration) string {
	return fmt.Sprintf("bytes up a frame, a frame every %d s", int(every.Seconds()))
}

func nameDown(every time.Duration) string {
	return fmt.Sprintf("bytes down a frame, a frame every %d s", int(every.Seconds()))
}

// cost counts what sensors at 1 Hz cost on the line to the hub.
func cost(ctx context.Context, b *bench) error {
	for _, every := range commitIntervals {
		err := b.inLab(func(l *lab.Lab) error {
			link, err := lab.NewLink()
			if err != nil {
				return err
			}
			defer link.Close()
			_, gateway, err := pair(ctx, l, link)
			if err != nil {
				return err
			}
			return b.costOf(ctx, gateway, link, every)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// costOf sends simulated time in frames of one interval each. The points of
// an interval are written without reply but for the last, which commits them
// all; the commit interval itself is set so long that it never does.
func (b *bench) costOf(ctx context.Context, gateway *lab.Instance, link *lab.Link, every time.Duration) error {
	nodes, err := addSensors(ctx, gateway, sensors)
	if err != nil {
		return err
	}
	c, err := gateway.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	setting := point.Series{Node: gateway.ID, Type: "commitInterval", Key: point.NoKey}
	if err := c.Set(ctx, setting, "60", "", ""); err != nil {
		return err
	}
	url, err := gateway.URL()
	if err != nil {
		return err
	}
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	frames := int(b.simulated / every)
	s := newSampler(nodes, time.Now().Add(-b.simulated-time.Minute))
	send := func() error {
		if err := s.interval(ctx, nc, int(every/time.Second)); err != nil {
			return err
		}
		return lab.CaughtUp(ctx, c)
	}
	if err := send(); err != nil { // names of series go with the first frame
		return err
	}
	upBefore, downBefore := link.Bytes()
	for range frames {
		if err := send(); err != nil {
			return err
		}
	}
	up, down := link.Bytes()
	up, down = up-upBefore, down-downBefore
	points := frames * int(every/time.Second) * sensors
	b.add(nameCost(every), "B", float64(up+down)/float64(points), strconv.Itoa(frames)+" frames")
	b.add(nameUp(every), "B", float64(up)/float64(frames), "")
	b.add(nameDown(every), "B", float64(down)/float64(frames), "")
	return b.checkFrames(ctx, c, nodes[0], frames+1, int(every/time.Second))
}

// checkFrames makes sure that all points arrived.
func (b *bench) checkFrames(ctx context.Context, c *client.Client, node string, frames, each int) error {
	n := 0
	err := c.History(ctx, node, api.HistoryRequest{Type: "temperature"}, func(r *api.HistoryReply) error {
		n += len(r.Samples)
		return nil
	})
	if err == nil && n != frames*each {
		err = fmt.Errorf("stored %d points of a series, not %d", n, frames*each)
	}
	return err
}

// sampler makes the values of all sensors, second by second: walks in steps
// of 0.01, each sampled within 20 ms of the second.
type sampler struct {
	nodes  []string
	values []float64
	at     time.Time
	random *rand.Rand
}

func newSampler(nodes []string, start time.Time) *sampler {
	s := &sampler{nodes: nodes, at: start.Truncate(time.Second), random: rand.New(rand.NewPCG(3, 4))}
	for range nodes {
		s.values = append(s.values, 20+math.Round(1000*s.random.Float64())/100)
	}
	return s
}

// interval writes the points of some seconds, the last one with a reply.
func (s *sampler) interval(ctx context.Context, nc *nats.Conn, seconds int) error {
	for n := range seconds {
		s.at = s.at.Add(time.Second)
		for i, node := range s.nodes {
			s.values[i] = math.Round(100*(s.values[i]+0.02*s.random.NormFloat64())) / 100
			jitter := time.Duration((s.random.Float64() - 0.5) * 2 * float64(20*time.Millisecond))
			p := point.Point{Time: point.Nanos(s.at.Add(jitter)), DataType: point.Float, Data: point.FloatData(s.values[i])}
			m := &nats.Msg{Subject: subject.Point(temperature(node)), Data: point.AppendPayload(nil, &p)}
			if n < seconds-1 || i < len(s.nodes)-1 {
				if err := nc.PublishMsg(m); err != nil {
					return err
				}
				continue
			}
			reply, err := nc.RequestMsgWithContext(ctx, m)
			if err != nil {
				return err
			}
			return api.Decode(reply.Data, nil)
		}
	}
	return nil
}
