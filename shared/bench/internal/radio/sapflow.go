package radio

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
	subjects "github.com/sapflow/sapflow/shared/subject"
)

// sapflow is a hub and an agent with a plan for their line.
type sapflow struct {
	plan string

	site         *site
	lab          *lab.Lab
	edge         *client.Client
	here, atHub  *nats.Conn
	newest       map[string]mark // the newest point written, by node
	unasked      int             // points since the last question
	gateway, hub *lab.Instance
}

func (s *sapflow) Start(ctx context.Context, at *site) error {
	s.site, s.newest = at, map[string]mark{}
	s.lab = &lab.Lab{Dir: at.dir, Bin: at.bin}
	s.hub = s.lab.Hub("--leaf-advertise", "nats-leaf://"+at.link.Addr())
	if _, err := s.hub.Start(ctx); err != nil {
		return err
	}
	target, err := s.hub.Leaf()
	if err != nil {
		return err
	}
	at.link.SetTarget(target)
	if s.gateway, err = s.lab.Enrol(ctx, s.hub, "gateway"); err != nil {
		return err
	}
	if _, err := s.gateway.Start(ctx); err != nil {
		return err
	}
	if s.edge, err = s.gateway.Dial(ctx); err != nil {
		return err
	}
	if _, err := s.hub.Run(ctx, "set", s.gateway.ID, point.TypePlan, s.plan); err != nil {
		return err
	}
	for i, id := range at.nodes {
		if err := s.edge.NodeCreate(ctx, id, s.gateway.ID, "sensor", fmt.Sprintf("sensor %d", i+1)); err != nil {
			return err
		}
	}
	if s.here, err = listenUp(s.gateway, "setpoint", at.changes); err != nil {
		return err
	}
	s.atHub, err = listenUp(s.hub, "value", at.points, nats.UserCredentials(filepath.Join(s.hub.Dir, client.CredsFile)))
	return err
}

// Restart stops the hub and starts it again, at the same ports.
func (s *sapflow) Restart(ctx context.Context) error {
	s.hub.Crash()
	_, err := s.hub.Start(ctx)
	return err
}

// listenUp notes the live points of a type below an instance's root.
func listenUp(i *lab.Instance, kind string, a *arrivals, opts ...nats.Option) (*nats.Conn, error) {
	url, err := i.URL()
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, err
	}
	_, err = nc.Subscribe(subjects.UpAll(i.ID), func(m *nats.Msg) {
		_, series, ok := subjects.ParseUp(m.Subject)
		p := point.Point{Series: series}
		if ok && series.Type == kind && point.DecodePayload(m.Data, &p) == nil {
			p.Series = series
			a.add(markOf(&p))
		}
	})
	if err != nil {
		return nc, err
	}
	return nc, nc.Flush()
}

const (
	// brake is after how many points a writer waits for an answer, so that it
	// does not overrun the agent's mailbox.
	brake = 1000
	// answerWait bounds a question to a program on this machine.
	answerWait = 20 * time.Second
)

// Write publishes without reply: a point waits for the flush of the plan.
func (s *sapflow) Write(_ context.Context, points []point.Point) error {
	for i := range points {
		p := &points[i]
		if m := markOf(p); m.ms > s.newest[p.Node].ms {
			s.newest[p.Node] = m
		}
		if err := s.here.Publish(subjects.Point(p.Series), point.AppendPayload(nil, p)); err != nil {
			return err
		}
	}
	if s.unasked += len(points); s.unasked < brake {
		return s.here.FlushTimeout(answerWait)
	}
	s.unasked = 0
	_, err := s.here.Request(subjects.Instance("status"), nil, answerWait)
	return err
}

func (s *sapflow) Configure(_ context.Context, node string, value float64) error {
	p := setpoint(node, value)
	m, err := s.atHub.Request(subjects.Point(p.Series), point.AppendPayload(nil, &p), answerWait)
	if err != nil {
		return err
	}
	return api.Decode(m.Data, nil)
}

// Behind trusts the agent, and looks whether the newest point of each node is
// known, so that points which the agent has not taken in yet are not missed.
func (s *sapflow) Behind(ctx context.Context) (int, error) {
	points, connected, err := lab.Behind(ctx, s.edge)
	if err != nil {
		return 0, err
	}
	n := int(points)
	if n == 0 && !connected {
		n = 1
	}
	missing := 0
	for _, m := range s.newest {
		if !s.site.points.has(m) {
			missing++
		}
	}
	return max(n, missing), nil
}

func (s *sapflow) Close() error {
	for _, nc := range []*nats.Conn{s.here, s.atHub} {
		if nc != nil {
			nc.Close()
		}
	}
	if s.edge != nil {
		s.edge.Close()
	}
	return s.lab.Close()
}
