package figures

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
)

// StockCommand runs a stock nats-server, for this program's own use: it is a
// process of its own as the agent is.
const StockCommand = "stock"

// Subjects of the stock server: stored with every message synced, and echoed
// by a connection in the server's process, which is what answers at the agent.
const (
	stockStored = "stored"
	stockEcho   = "echo"
)

// RunStock runs a stock server on the directory args[0] until ctx ends.
func RunStock(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("give a directory")
	}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: args[0], SyncAlways: true,
	})
	if err != nil {
		return err
	}
	ns.Start()
	defer ns.WaitForShutdown()
	defer ns.Shutdown()
	if !ns.ReadyForConnections(10 * time.Second) {
		return errors.New("stock server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{stockStored + ".>"}}); err != nil {
		return err
	}
	ok := []byte("{}")
	if _, err := nc.Subscribe(stockEcho+".>", func(m *nats.Msg) { _ = m.Respond(ok) }); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(args[0], urlFile), []byte(ns.ClientURL()), 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

const urlFile = "url"

// startStock starts a stock server as a process and returns its address.
func startStock(ctx context.Context, dir string) (p *lab.Process, url string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("start stock server: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("start stock server: %w", err)
	}
	if p, err = lab.Launch("stock server", dir+".log", self, StockCommand, dir); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = lab.Until(ctx, "the stock server answers", 5*time.Millisecond, func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(dir, urlFile))
		url = string(b)
		return err == nil && url != "", nil
	})
	if err != nil {
		p.Kill()
	}
	return p, url, err
}
