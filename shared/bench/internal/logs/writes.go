package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// alone returns a running gateway that knows its hub, which has stopped.
func alone(ctx context.Context, l *lab.Lab) (*lab.Instance, error) {
	hub := l.Hub()
	if _, err := hub.Start(ctx); err != nil {
		return nil, err
	}
	g, err := l.Enrol(ctx, hub, "gateway")
	if err != nil {
		return nil, err
	}
	if _, err := drain(ctx, []*lab.Instance{g}); err != nil {
		return nil, err
	}
	return g, hub.Stop()
}

// sensors makes nodes below a gateway and returns the subject that writes a
// value of the n-th.
func sensors(ctx context.Context, g *lab.Instance, n int) (func(int) string, error) {
	c, err := g.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	subjects := make([]string, n)
	for i := range subjects {
		id, err := c.NodeAdd(ctx, g.ID, "sensor", fmt.Sprintf("sensor-%03d", i+1))
		if err != nil {
			return nil, err
		}
		subjects[i] = subject.Point(point.Series{Node: id, Type: "temperature", Key: point.NoKey})
	}
	return func(i int) string { return subjects[i%n] }, nil
}

// writerCounts are how many clients wait for their answers side by side.
var writerCounts = [...]int{1, 32}

// writes measures acked writes of one point each.
func writes(ctx context.Context, b *bench) error {
	window := 2 * time.Second
	if b.Quick {
		window = 500 * time.Millisecond
	}
	return b.inLab(func(l *lab.Lab) (err error) {
		g, err := alone(ctx, l)
		if err != nil {
			return err
		}
		subjects, err := sensors(ctx, g, writerCounts[len(writerCounts)-1])
		if err != nil {
			return err
		}
		url, err := g.URL()
		if err != nil {
			return err
		}
		synced, syncedURL, err := peer.StartStock(ctx, peer.StockConfig{Dir: filepath.Join(l.Dir, "synced"), SyncAlways: true})
		if err != nil {
			return err
		}
		defer synced.Kill()
		plain, plainURL, err := peer.StartStock(ctx, peer.StockConfig{Dir: filepath.Join(l.Dir, "plain")})
		if err != nil {
			return err
		}
		defer plain.Kill()
		db, err := peer.OpenSQLite(filepath.Join(l.Dir, "points.db"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		for range b.Runs {
			for _, n := range writerCounts {
				rate := map[string]float64{}
				for _, t := range []struct {
					name string
					peer.Target
				}{
					{"agent", peer.Target{URL: url, Subject: subjects, Payload: peer.Sample}},
					{"synced", peer.Target{URL: syncedURL, Subject: peer.Stored, Payload: peer.Sample}},
					{"plain", peer.Target{URL: plainURL, Subject: peer.Stored, Payload: peer.Sample}},
					{"echo", peer.Target{URL: syncedURL, Subject: peer.Echo, Payload: peer.Sample}},
				} {
					a, err := peer.Request(ctx, t.Target, n, window)
					if err != nil {
						return fmt.Errorf("%s: %w", t.name, err)
					}
					rate[t.name] = a.PerSecond
				}
				a, err := peer.Write(ctx, n, window, func(n int, v float64) error {
					return db.Insert(n, time.Now().UnixNano(), peer.Sample(v))
				})
				if err != nil {
					return fmt.Errorf("SQLite: %w", err)
				}
				rate["sqlite"] = a.PerSecond
				b.addWrites(n, rate)
			}
		}
		return nil
	})
}

func (b *bench) addWrites(clients int, rate map[string]float64) {
	by := fmt.Sprintf(", %d clients", clients)
	if clients == 1 {
		by = ", 1 client"
	}
	r := row{name: "acked durable writes" + by, unit: "/s", note: "one point each; JetStream: sync always; SQLite: WAL, synchronous FULL, a transaction a write, one connection inside the writers' process, so without a round trip"}
	b.add(r, stock, rate["synced"])
	b.add(r, sqlite, rate["sqlite"])
	b.add(r, sapflow, rate["agent"])
	b.add(row{name: "not durable, default sync" + by, unit: "/s", note: "synced every 2 min"}, stock, rate["plain"])
	b.add(row{name: "bare request echo" + by, unit: "/s", note: "nothing is stored"}, stock, rate["echo"])
	if clients == 1 {
		b.add(row{name: "agent / synced JetStream" + by, target: ">= 0.75"}, sapflow, rate["agent"]/rate["synced"])
	} else {
		b.add(row{name: "agent / bare echo" + by, target: ">= 0.5"}, sapflow, rate["agent"]/rate["echo"])
	}
}

const (
	// syncedPoints are published with each one synced, a part of the trace:
	// it would take too long.
	syncedPoints = 20_000
	// rowsATransaction of SQLite.
	rowsATransaction = 10_000
	// asyncWindow is how many messages of JetStream wait for their acks.
	asyncWindow = 4096
	// stallWait bounds the wait for room in it.
	stallWait = 30 * time.Second
)

// replays measures a trace at full speed until all of it is durable.
func replays(ctx context.Context, b *bench) error {
	return b.inLab(func(l *lab.Lab) error {
		g, err := alone(ctx, l)
		if err != nil {
			return err
		}
		if _, err := g.Replay(ctx, b.Trace); err != nil { // makes the nodes
			return err
		}
		for run := range b.Runs {
			r, err := g.Replay(ctx, b.Trace)
			if err != nil {
				return err
			}
			what := row{
				"replay into the agent, until durable", "/s", ">= 300,000",
				fmt.Sprintf("%d points of 6 series, read from a packed file by a process of its own, no hub in sight; JetStream: a message a point, published async, %d unacked, default sync (not durable for 2 min); SQLite: WAL, FULL, %d rows a transaction", r.Sent, asyncWindow, rowsATransaction),
			}
			b.add(what, sapflow, r.PointsPerSecond)
			for _, synced := range []bool{false, true} {
				n := r.Sent
				if synced {
					n = syncedPoints
				}
				rate, err := publishAll(ctx, filepath.Join(l.Dir, fmt.Sprintf("stock-%d-%t", run, synced)), synced, n)
				if err != nil {
					return err
				}
				if synced {
					b.add(row{name: "the same, each message synced", unit: "/s", note: fmt.Sprintf("%d points", n)}, stock, rate)
				} else {
					b.add(what, stock, rate)
				}
			}
			rate, err := insertAll(filepath.Join(l.Dir, fmt.Sprintf("points-%d.db", run)), r.Sent)
			if err != nil {
				return err
			}
			b.add(what, sqlite, rate)
		}
		return nil
	})
}

// publishAll publishes points to a new stock server and returns how many a
// second were acked.
func publishAll(ctx context.Context, dir string, synced bool, n int) (float64, error) {
	p, url, err := peer.StartStock(ctx, peer.StockConfig{Dir: dir, SyncAlways: synced})
	if err != nil {
		return 0, err
	}
	defer p.Kill()
	nc, err := nats.Connect(url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	return publishAsync(ctx, nc, n)
}

// publishAsync publishes points to a stock server and returns how many a
// second were acked.
func publishAsync(ctx context.Context, nc *nats.Conn, n int) (float64, error) {
	failed := make(chan error, 1)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(asyncWindow), jetstream.WithPublishAsyncErrHandler(
		func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			select {
			case failed <- err:
			default: // one is enough
			}
		}))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for i := range n {
		if _, err := js.PublishAsync(peer.Stored(i%6), peer.Sample(float64(i)), jetstream.WithStallWait(stallWait)); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	took := time.Since(began)
	select {
	case err := <-failed:
		return 0, fmt.Errorf("publish: %w", err)
	default:
		return float64(n) / took.Seconds(), nil
	}
}

// insertAll inserts points into a new SQLite database.
func insertAll(path string, n int) (float64, error) {
	db, err := peer.OpenSQLite(path)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for at := 0; at < n && err == nil; at += rowsATransaction {
		err = db.InsertAll(min(rowsATransaction, n-at), func(i int) (int, int64, []byte) {
			return (at + i) % 6, int64(at + i), peer.Sample(float64(at + i))
		})
	}
	took := time.Since(began)
	return float64(n) / took.Seconds(), errors.Join(err, db.Close())
}
