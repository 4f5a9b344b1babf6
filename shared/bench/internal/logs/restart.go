package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// fleets are the hubs that start again.
var fleets = [...]fleet{
	{layout: "shard", gateways: 500, nodes: 30, note: "with two streams for each of 15,000 nodes, earlier: 113 s"},
	{layout: "node", gateways: 40, nodes: 24, note: "2,000 node streams"},
}

// fleet is a hub with gateways that have as many nodes each.
type fleet struct {
	layout          string
	gateways, nodes int
	note            string
}

func (f fleet) String() string {
	return fmt.Sprintf("hub with %d gateways of %d nodes, layout %s", f.gateways, f.nodes, f.layout)
}

// pointsANode is what each node has in the log of its gateway.
const pointsANode = 20

// firstFill bounds the first start, which fills the node streams.
const firstFill = 3 * time.Minute

// restarts measures how long hubs with many nodes take from the start of the
// process to the first answer.
func restarts(ctx context.Context, b *bench) error {
	for _, f := range fleets {
		if b.Quick {
			f.gateways /= 10
		}
		if err := b.inLab(func(l *lab.Lab) error { return b.restart(ctx, l, f) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) restart(ctx context.Context, l *lab.Lab, f fleet) error {
	hub := l.Hub("--node-streams-layout", f.layout)
	if _, err := hub.Start(ctx); err != nil {
		return err
	}
	ids, err := enrol(ctx, hub, f.gateways)
	if err != nil {
		return err
	}
	if err := hub.Stop(); err != nil {
		return err
	}
	if err := fillLogs(ctx, hub.Dir, ids, f.nodes); err != nil {
		return err
	}
	if _, err := hub.Start(ctx); err != nil {
		return err
	}
	filling, cancel := context.WithTimeout(ctx, firstFill)
	defer cancel()
	if _, err := hub.Quiet(filling); err != nil {
		return err
	}
	if err := f.check(filling, hub); err != nil {
		return err
	}
	for range b.Runs {
		if err := hub.Stop(); err != nil {
			return err
		}
		if err := b.started(ctx, hub, "start after a stop, "+f.String(), f.note); err != nil {
			return err
		}
		hub.Crash()
		if err := b.started(ctx, hub, "start after SIGKILL, "+f.String(), f.note); err != nil {
			return err
		}
		rss, err := hub.RSS()
		if err != nil {
			return err
		}
		b.Add(row{Name: "resident memory, " + f.String(), Unit: "MB", Note: "after that start"}, sapflow, float64(rss)/(1<<20))
	}
	return nil
}

// check tells whether the hub has all nodes.
func (f fleet) check(ctx context.Context, hub *lab.Instance) error {
	c, err := hub.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	nodes, err := c.Tree(ctx, hub.ID)
	if want := 1 + f.gateways*(1+f.nodes); err == nil && len(nodes) != want {
		return fmt.Errorf("the hub has %d nodes, not %d", len(nodes), want)
	}
	return err
}

// started measures a start to the first answer, and what it takes until the
// hub has nothing more to do.
func (b *bench) started(ctx context.Context, hub *lab.Instance, name, note string) error {
	took, err := hub.Start(ctx)
	if err != nil {
		return err
	}
	cpu, err := hub.Quiet(ctx)
	if err != nil {
		return err
	}
	b.Add(row{Name: name, Unit: "s", Target: "<= 3 s", Note: note}, sapflow, took.Seconds())
	b.Add(row{Name: name + ", processor time", Unit: "s", Note: "until it has nothing more to do"}, sapflow, cpu.Seconds())
	return nil
}

// enrol registers gateways that never connect.
func enrol(ctx context.Context, hub *lab.Instance, n int) (ids []string, err error) {
	c, err := hub.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i := range n {
		d, err := c.DeviceAdd(ctx, api.DeviceAdd{Name: fmt.Sprintf("gateway-%03d", i+1), Plan: "lte"})
		if err != nil {
			return nil, err
		}
		ids = append(ids, d.ID)
	}
	return ids, nil
}

// fillLogs writes into the stopped hub what gateways would have sent: their
// nodes, with points.
func fillLogs(ctx context.Context, dir string, gateways []string, nodes int) error {
	js, stop, err := open(dir)
	if err != nil {
		return err
	}
	defer stop()
	edge, err := js.Stream(ctx, subject.StreamEdge)
	if err != nil {
		return err
	}
	for _, id := range gateways {
		log, err := journal.Open(ctx, journal.Config{
			Store: journal.NewStore(js, edge, subject.LogEdge(id)), Author: id, Clean: true, Now: func() uint64 { return uint64(time.Now().UnixNano()) },
		})
		if err != nil {
			return err
		}
		for range nodes {
			if err := log.Add(sensor(id), nil); err != nil {
				return err
			}
		}
		if err := log.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sensor returns a new node below a gateway with its points.
func sensor(gateway string) (entries []frame.Entry) {
	node, now := client.NewID(), uint64(time.Now().UnixNano())
	points := point.Edge(gateway, node, "sensor")
	for i := range pointsANode {
		points = append(points, point.Point{
			Series:   point.Series{Node: node, Type: "value", Key: fmt.Sprint(i % 4)},
			DataType: point.Float, Data: point.FloatData(float64(i)),
		})
	}
	for i, p := range points {
		p.Time = now - uint64(len(points)-i)*uint64(time.Second)
		entries = append(entries, frame.Entry{Point: p})
	}
	return entries
}

// open runs a server on the streams of a stopped hub.
func open(dir string) (js jetstream.JetStream, stop func(), err error) {
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", subject.StreamEdge))
	if err != nil || len(found) != 1 {
		return nil, nil, fmt.Errorf("open the streams of %s: %d logs found", dir, len(found))
	}
	account := server.NewAccount(filepath.Base(filepath.Dir(filepath.Dir(found[0]))))
	ns, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir,
		Accounts: []*server.Account{account}, Users: []*server.User{{Username: "bench", Password: "bench", Account: account}},
	})
	if err != nil {
		return nil, nil, err
	}
	ns.Start()
	shutdown := func() { ns.Shutdown(); ns.WaitForShutdown() }
	if !ns.ReadyForConnections(time.Minute) {
		shutdown()
		return nil, nil, errors.New("server on the streams of the hub is not ready")
	}
	if account, err = ns.LookupAccount(account.Name); err == nil {
		err = account.EnableJetStream(nil, nil)
	}
	var nc *nats.Conn
	if err == nil {
		nc, err = nats.Connect("", nats.InProcessServer(ns), nats.UserInfo("bench", "bench"))
	}
	if err == nil {
		js, err = jetstream.New(nc)
	}
	if err != nil {
		shutdown()
		return nil, nil, err
	}
	return js, func() { nc.Close(); shutdown() }, nil
}
