package radio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/point"
	subjects "github.com/sapflow/sapflow/shared/subject"
)

// leaf is a stock hub and a stock gateway, connected as a leaf with the
// server's own settings, which include compression on a line that is far.
type leaf struct {
	site        *site
	hub, edge   *server.Server
	atHub, here *nats.Conn
	written     int
}

const startWait = 20 * time.Second

func serve(opts *server.Options) (*server.Server, *nats.Conn, error) {
	opts.Host, opts.NoSigs, opts.NoLog = "127.0.0.1", true, true
	opts.DontListen = true // programs are in this process
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", opts.ServerName, err)
	}
	ns.Start()
	if !ns.ReadyForConnections(startWait) {
		return ns, nil, fmt.Errorf("%s is not ready", opts.ServerName)
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	return ns, nc, err
}

// connect starts both servers and waits for the leaf.
func (l *leaf) connect(ctx context.Context, s *site, jetStream bool) error {
	l.site = s
	options := func(name string) *server.Options {
		return &server.Options{ServerName: name, JetStream: jetStream, JetStreamDomain: name, StoreDir: filepath.Join(s.dir, name)}
	}
	hub := options("hub")
	// Without its advertised address a gateway comes back past the link.
	hub.LeafNode = server.LeafNodeOpts{Host: "127.0.0.1", Port: -1, Advertise: s.link.Addr()}
	var err error
	if l.hub, l.atHub, err = serve(hub); err != nil {
		return err
	}
	s.link.SetTarget(fmt.Sprintf("127.0.0.1:%d", hub.LeafNode.Port))
	edge := options("gateway")
	edge.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: s.link.Addr()}}}}
	if l.edge, l.here, err = serve(edge); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	return lab.Until(ctx, "the leaf is connected", poll, func() (bool, error) { return l.edge.NumLeafNodes() > 0, nil })
}

// listen notes what a connection hears below a prefix.
func listen(nc *nats.Conn, prefix string, a *arrivals) error {
	sub, err := nc.Subscribe(prefix+".>", func(m *nats.Msg) {
		var p point.Point
		tokens := strings.Split(m.Subject, ".")
		if len(tokens) < 4 || point.DecodePayload(m.Data, &p) != nil {
			return
		}
		p.Node = tokens[len(tokens)-3]
		a.add(markOf(&p))
	})
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	return nc.Flush()
}

func (l *leaf) Behind(context.Context) (int, error) { return l.written - l.site.points.count(), nil }

// Configure publishes a change at the hub.
func (l *leaf) Configure(_ context.Context, node string, value float64) error {
	p := setpoint(node, value)
	return l.atHub.Publish("c."+p.Series.String(), point.AppendPayload(nil, &p))
}

// setpoint is a change of a node.
func setpoint(node string, value float64) point.Point {
	return point.Point{
		Series: point.Series{Node: node, Type: "setpoint", Key: point.NoKey}, Time: point.Nanos(time.Now()),
		DataType: point.Float, Data: point.FloatData(value),
	}
}

func (l *leaf) Close() error {
	for _, nc := range []*nats.Conn{l.here, l.atHub} {
		if nc != nil {
			nc.Close()
		}
	}
	for _, ns := range []*server.Server{l.edge, l.hub} {
		if ns != nil {
			ns.Shutdown()
			ns.WaitForShutdown()
		}
	}
	return nil
}

// publish sends each point through the leaf as it is written.
type publish struct{ leaf }

func (s *publish) Start(ctx context.Context, at *site) error {
	if err := s.connect(ctx, at, false); err != nil {
		return err
	}
	if err := listen(s.here, "c", at.changes); err != nil {
		return err
	}
	if err := listen(s.atHub, subjects.Write, at.points); err != nil {
		return err
	}
	// The first points are lost until the gateway knows that the hub listens.
	return lab.Until(ctx, "the hub's interest is known", poll, func() (bool, error) {
		return s.edge.GlobalAccount().Interest(subjects.Write+".x.x.0") > 0, nil
	})
}

func (s *publish) Write(_ context.Context, points []point.Point) error {
	s.written += len(points)
	for i := range points {
		if err := s.here.Publish(subjects.Point(points[i].Series), point.AppendPayload(nil, &points[i])); err != nil {
			return err
		}
	}
	return s.here.Flush()
}

// sources are streams at both ends that source each other.
type sources struct {
	leaf
	perNode bool
	js      jetstream.JetStream // at the gateway
	hubJS   jetstream.JetStream
}

func (s *sources) Start(ctx context.Context, at *site) error {
	if err := s.connect(ctx, at, true); err != nil {
		return err
	}
	var err error
	if s.js, err = jetstream.New(s.here, jetstream.WithPublishAsyncMaxPending(1000)); err != nil {
		return err
	}
	if s.hubJS, err = jetstream.New(s.atHub); err != nil {
		return err
	}
	// What a stream has taken in is published again for this bench, at the
	// end that stored it; the other one does not ask for it.
	if err := listen(s.atHub, "stored", at.points); err != nil {
		return err
	}
	if err := listen(s.here, "changed", at.changes); err != nil {
		return err
	}
	names, below := []string{"all"}, []string{"*"}
	if s.perNode {
		names, below = at.nodes, at.nodes
	}
	for i, name := range names {
		up, down := "UP_"+name, "DOWN_"+name
		for _, stream := range []struct {
			js  jetstream.JetStream
			cfg jetstream.StreamConfig
		}{
			{s.js, jetstream.StreamConfig{Name: up, Subjects: []string{subjects.Write + "." + below[i] + ".>"}}},
			{s.hubJS, jetstream.StreamConfig{Name: up, Sources: from(up, "gateway"), RePublish: again("stored")}},
			{s.hubJS, jetstream.StreamConfig{Name: down, Subjects: []string{"c." + below[i] + ".>"}}},
			{s.js, jetstream.StreamConfig{Name: down, Sources: from(down, "hub"), RePublish: again("changed")}},
		} {
			if _, err := stream.js.CreateStream(ctx, stream.cfg); err != nil {
				return fmt.Errorf("create stream %s: %w", stream.cfg.Name, err)
			}
		}
	}
	return nil
}

func from(stream, domain string) []*jetstream.StreamSource {
	return []*jetstream.StreamSource{{Name: stream, External: &jetstream.ExternalStream{APIPrefix: "$JS." + domain + ".API"}}}
}

func again(prefix string) *jetstream.RePublish {
	return &jetstream.RePublish{Source: ">", Destination: prefix + ".>"}
}

func (s *sources) Write(ctx context.Context, points []point.Point) error {
	s.written += len(points)
	for i := range points {
		if _, err := s.js.PublishAsync(subjects.Point(points[i].Series), point.AppendPayload(nil, &points[i])); err != nil {
			return err
		}
	}
	select {
	case <-s.js.PublishAsyncComplete():
		return nil
	case <-time.After(startWait):
		return errors.New("the gateway does not store")
	case <-ctx.Done():
		return ctx.Err()
	}
}
