package main

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/daemon"
)

// openStore opens the store of a stopped agent: its server without listeners
// and without the hub.
func openStore(ctx context.Context, path string) (_ *cli.Stopped, err error) {
	dir, err := daemon.Open(path)
	if err != nil {
		return nil, err
	}
	ctx, stages := daemon.NewStages(ctx)
	stop := func() error { return errors.Join(stages.Stop(), dir.Close(dir.Clean)) } // as it was
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	server, err := leaf.Start(ctx, leaf.Config{Dir: path, NodeID: "store", ServerName: "store"})
	if err != nil {
		return nil, err
	}
	stages.OnStop(server.Close)
	if err := errors.Join(server.OpenStore(), server.OpenChunks()); err != nil {
		return nil, err
	}
	var stores []jetstream.JetStream
	for _, account := range []string{leaf.STORE, leaf.CHUNKS} {
		nc, err := server.Connect(account, "store")
		if err != nil {
			return nil, err
		}
		stages.OnStop(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			return nil, err
		}
		stores = append(stores, js)
	}
	return &cli.Stopped{Stores: stores, Purpose: func(string) string { return "other" }, Close: stop}, nil
}
