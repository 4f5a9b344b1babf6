package figures

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

var clientCounts = [...]int{1, 8, 32}

func nameAgent(clients int) string { return fmt.Sprintf("acked at the agent, %d clients", clients) }
func nameStock(clients int) string { return fmt.Sprintf("plain JetStream, %d clients", clients) }
func nameEcho(clients int) string  { return fmt.Sprintf("bare echo, %d clients", clients) }

const (
	nameConnected = "acked at the agent, 32 clients, hub connected"
	perSecond     = "/s"
)

// writes measures durable writes of one point, beside what the same machine
// does with a stock server.
func writes(ctx context.Context, b *bench) error {
	return b.inLab(func(l *lab.Lab) error {
		hub, gateway, err := l.Pair(ctx)
		if err != nil {
			return err
		}
		stock, stockURL, err := peer.StartStock(ctx, peer.StockConfig{Dir: filepath.Join(l.Dir, "stock"), SyncAlways: true})
		if err != nil {
			return err
		}
		defer func() { _ = stock.Stop() }() // it measured nothing wrong if it will not stop
		nodes, err := gateway.AddSensors(ctx, clientCounts[len(clientCounts)-1])
		if err != nil {
			return err
		}
		url, err := gateway.URL()
		if err != nil {
			return err
		}
		agent := peer.Target{URL: url, Subject: func(n int) string { return subject.Point(temperature(nodes[n])) }, Payload: peer.Sample}
		for range b.Config.runs {
			if err := b.measure(ctx, agent, 32, nameConnected); err != nil {
				return err
			}
			if err := gateway.CaughtUp(ctx); err != nil {
				return err
			}
		}
		if err := hub.Stop(); err != nil {
			return err
		}
		for range b.Config.runs {
			for _, n := range clientCounts {
				for _, m := range []struct {
					peer.Target
					name string
				}{
					{agent, nameAgent(n)},
					{peer.Target{URL: stockURL, Subject: peer.Stored, Payload: peer.Sample}, nameStock(n)},
					{peer.Target{URL: stockURL, Subject: peer.Echo, Payload: peer.Sample}, nameEcho(n)},
				} {
					if err := b.measure(ctx, m.Target, n, m.name); err != nil {
						return err
					}
				}
			}
			if err := b.unanswered(ctx, gateway, nodes); err != nil {
				return err
			}
		}
		return nil
	})
}

func temperature(node string) point.Series {
	return point.Series{Node: node, Type: "temperature", Key: point.NoKey}
}

// measure counts answered requests of clients that each wait for the answer
// before the next one.
func (b *bench) measure(ctx context.Context, t peer.Target, clients int, name string) error {
	a, err := peer.Request(ctx, t, clients, b.window)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add(name, perSecond, a.PerSecond, "")
	return nil
}

// unanswered publishes points without a reply and measures until all are
// durable: as fast as one connection can, and with a question now and then
// that holds the writer back.
func (b *bench) unanswered(ctx context.Context, gateway *lab.Instance, nodes []string) error {
	c, err := gateway.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	url, err := gateway.URL()
	if err != nil {
		return err
	}
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	for _, braked := range []bool{true, false} {
		before, _, err := lab.Behind(ctx, c)
		if err != nil {
			return err
		}
		began := time.Now()
		for n := range b.unansweredPerRun {
			if err := nc.Publish(subject.Point(temperature(nodes[n%len(nodes)])), peer.Sample(float64(n))); err != nil {
				return err
			}
			if braked && n%b.unansweredPerTurn == 0 {
				if _, err := nc.Request(subject.Instance("status"), nil, 10*time.Second); err != nil {
					return err
				}
			}
		}
		sent := time.Since(began)
		if err := lastWrite(ctx, nc, nodes[0]); err != nil {
			return err
		}
		took := time.Since(began)
		after, _, err := lab.Behind(ctx, c)
		if err != nil {
			return err
		}
		stored := int(after-before) - 1
		if braked {
			b.add("without reply, a question every 10,000", perSecond, float64(stored)/took.Seconds(),
				fmt.Sprintf("durable points, one connection; %d of %d lost", b.unansweredPerRun-stored, b.unansweredPerRun))
			continue
		}
		b.add("without reply, as fast as one connection publishes", perSecond, float64(b.unansweredPerRun)/sent.Seconds(), "what is published")
		b.add("without reply, of that durable", "%", 100*float64(stored)/float64(b.unansweredPerRun), fmt.Sprintf("%d points at once, more than the mailbox and the log's queue hold", b.unansweredPerRun))
	}
	return nil
}

// lastWait bounds one try of lastWrite.
const lastWait = 5 * time.Second

// lastWrite writes a point and waits until it is durable, and all before it.
func lastWrite(ctx context.Context, nc *nats.Conn, node string) error {
	for {
		m, err := nc.Request(subject.Point(temperature(node)), peer.Sample(0), lastWait)
		if errors.Is(err, nats.ErrTimeout) && ctx.Err() == nil {
			continue // the mailbox was full: this one was dropped as well
		}
		if err != nil {
			return err
		}
		err = api.Decode(m.Data, nil)
		if api.CodeOf(err) != api.CodeBusy {
			return err
		}
		if err := lab.Pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}
