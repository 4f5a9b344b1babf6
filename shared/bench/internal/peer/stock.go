// Package peer owns what Sapflow is measured beside: a stock nats-server in a
// process of its own, SQLite, and how writers that wait for an answer are
// counted, the same way for all. What is measured belongs to its callers.
package peer

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
)

// StockCommand runs a stock nats-server, for this program's own use: it is a
// process of its own as the agent is.
const StockCommand = "stock"

// Stream is the stream of a stock server, at Stored.
const Stream = "S"

// Subjects of the stock server: stored, and echoed by a connection in the
// server's process, which is what answers at the agent.
const (
	stored = "stored"
	echo   = "echo"
)

// Stored returns the subject of client n that the stream stores.
func Stored(n int) string { return fmt.Sprintf("%s.n%d.t.0", stored, n) }

// Echo returns the subject of client n that is only answered.
func Echo(n int) string { return fmt.Sprintf("%s.n%d.t.0", echo, n) }

// StockConfig says how a stock server runs.
type StockConfig struct {
	Dir        string // of all that it stores, required
	SyncAlways bool   // each message is synced; else the default, every 2 min

	// Of a server in a cluster only, whose stream the caller makes.
	Name        string
	ClusterPort int    // where it listens for the others
	Routes      string // URLs where all listen, by comma
}

// startWait bounds the start of a stock server.
const startWait = 30 * time.Second

// RunStock runs a stock server until ctx ends. One alone makes its stream.
func RunStock(ctx context.Context, args []string) error {
	var cfg StockConfig
	f := flag.NewFlagSet(StockCommand, flag.ContinueOnError)
	f.StringVar(&cfg.Dir, "dir", "", "")
	f.BoolVar(&cfg.SyncAlways, "sync", false, "")
	f.StringVar(&cfg.Name, "name", "", "")
	f.IntVar(&cfg.ClusterPort, "cluster", 0, "")
	f.StringVar(&cfg.Routes, "routes", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	opts := &server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, ServerName: cfg.Name,
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: cfg.SyncAlways,
	}
	if cfg.ClusterPort != 0 {
		opts.Routes = server.RoutesFromStr(cfg.Routes)
		opts.Cluster = server.ClusterOpts{Name: "bench", Host: opts.Host, Port: cfg.ClusterPort}
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	ns.Start()
	defer ns.WaitForShutdown()
	defer ns.Shutdown()
	if !ns.ReadyForConnections(startWait) {
		return errors.New("stock server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		return err
	}
	defer nc.Close()
	if cfg.ClusterPort == 0 {
		if err := makeStream(ctx, nc); err != nil {
			return err
		}
	}
	ok := []byte("{}")
	if _, err := nc.Subscribe(echo+".>", func(m *nats.Msg) { _ = m.Respond(ok) }); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	if err := os.WriteFile(cfg.Dir+urlSuffix, []byte(ns.ClientURL()), 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func makeStream(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.CreateOrUpdateStream(ctx, StreamConfig(1))
	return err
}

// StreamConfig returns the configuration of the stream, replicated on so many
// servers.
func StreamConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: Stream, Subjects: []string{stored + ".>"}, Replicas: replicas}
}

// urlSuffix ends the name of the file beside a stock server's directory that
// says where it listens, written once it answers.
const urlSuffix = ".url"

// StartStock starts a stock server as a process and returns its address.
func StartStock(ctx context.Context, cfg StockConfig) (p *lab.Process, url string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("start stock server: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("start stock server: %w", err)
	}
	if err := os.Remove(cfg.Dir + urlSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", fmt.Errorf("start stock server: %w", err)
	}
	args := []string{
		StockCommand, "-dir", cfg.Dir, fmt.Sprintf("-sync=%t", cfg.SyncAlways),
		"-name", cfg.Name, "-cluster", strconv.Itoa(cfg.ClusterPort), "-routes", cfg.Routes,
	}
	name := "stock server " + filepath.Base(cfg.Dir)
	if p, err = lab.Launch(name, cfg.Dir+".log", self, args...); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	err = lab.Until(ctx, name+" answers", time.Millisecond, func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("%s ended: %s", name, p.LastWords())
		default:
		}
		b, err := os.ReadFile(cfg.Dir + urlSuffix)
		url = string(b)
		return err == nil && url != "", nil
	})
	if err != nil {
		p.Kill()
	}
	return p, url, err
}
