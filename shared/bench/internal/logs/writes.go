package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// sensors makes nodes below a gateway and returns the subject that writes a
// value of the n-th.
func sensors(ctx context.Context, g *lab.Instance, n int) (func(int) string, error) {
	nodes, err := g.AddSensors(ctx, n)
	if err != nil {
		return nil, err
	}
	subjects := make([]string, n)
	for i, id := range nodes {
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
		g, err := l.Alone(ctx)
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
	r := row{Name: "acked durable writes" + by, Unit: "/s", Note: "one point each; JetStream: sync always; SQLite: WAL, synchronous FULL, a transaction a write, one connection inside the writers' process, so without a round trip"}
	b.Add(r, stock, rate["synced"])
	b.Add(r, sqlite, rate["sqlite"])
	b.Add(r, sapflow, rate["agent"])
	b.Add(row{Name: "not durable, default sync" + by, Unit: "/s", Note: "synced every 2 min"}, stock, rate["plain"])
	b.Add(row{Name: "bare request echo" + by, Unit: "/s", Note: "nothing is stored"}, stock, rate["echo"])
	if clients == 1 {
		b.Add(row{Name: "agent / synced JetStream" + by, Target: ">= 0.75"}, sapflow, rate["agent"]/rate["synced"])
	} else {
		b.Add(row{Name: "agent / bare echo" + by, Target: ">= 0.5"}, sapflow, rate["agent"]/rate["echo"])
	}
}

const (
	// syncedPoints are published with each one synced, a part of the trace:
	// it would take too long.
	syncedPoints = 20_000
	// rowsATransaction of SQLite.
	rowsATransaction = 10_000
)

// replays measures a trace at full speed until all of it is durable.
func replays(ctx context.Context, b *bench) error {
	return b.inLab(func(l *lab.Lab) error {
		g, err := l.Alone(ctx)
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
				Name: "replay into the agent, until durable", Unit: "/s", Target: ">= 300,000",
				Note: fmt.Sprintf("%d points of 6 series, read from a packed file by a process of its own, no hub in sight; JetStream: a message a point, published async, %d unacked, default sync (not durable for 2 min); SQLite: WAL, FULL, %d rows a transaction", r.Sent, peer.AsyncWindow, rowsATransaction),
			}
			b.Add(what, sapflow, r.PointsPerSecond)
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
					b.Add(row{Name: "the same, each message synced", Unit: "/s", Note: fmt.Sprintf("%d points", n)}, stock, rate)
				} else {
					b.Add(what, stock, rate)
				}
			}
			rate, err := insertAll(filepath.Join(l.Dir, fmt.Sprintf("points-%d.db", run)), r.Sent)
			if err != nil {
				return err
			}
			b.Add(what, sqlite, rate)
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
	return publishSamples(ctx, nc, n)
}

// publishSamples publishes points to a stock server and returns how many a
// second were acked.
func publishSamples(ctx context.Context, nc *nats.Conn, n int) (float64, error) {
	took, err := peer.PublishAll(ctx, nc, func(yield func(string, []byte) bool) {
		for i := 0; i < n && yield(peer.Stored(i%6), peer.Sample(float64(i))); i++ {
		}
	})
	return float64(n) / took.Seconds(), err
}

// insertAll inserts points into a new SQLite database.
func insertAll(path string, n int) (float64, error) {
	db, err := peer.OpenSQLite(path)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for at := 0; at < n && err == nil; at += rowsATransaction {
		err = db.InsertAll(min(rowsATransaction, n-at), func(i int) (int, int64, any) {
			return (at + i) % 6, int64(at + i), peer.Sample(float64(at + i))
		})
	}
	took := time.Since(began)
	return float64(n) / took.Seconds(), errors.Join(err, db.Close())
}
