package main

import (
	"context"
	"errors"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/hub/internal/streams"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/subject"
)

// openStore opens the store of a stopped hub: its server without listeners.
func openStore(ctx context.Context, path string) (_ *cli.Stopped, err error) {
	rec, err := readRecord(path)
	if err != nil {
		return nil, err
	}
	h := newHub(config.Config{Data: path})
	if h.dir, err = daemon.Open(path); err != nil {
		return nil, err
	}
	ctx, h.stages = daemon.NewStages(ctx)
	stop := func() error { return errors.Join(h.stages.Stop(), h.dir.Close(h.dir.Clean)) } // as it was
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	if h.keys, err = cred.OpenFrom(h.dir.Join(keysDir), keySource(os.Getenv("SAPFLOW_KEYS_FILE"))); err != nil {
		return nil, err
	}
	if err := h.startNATS(ctx); err != nil {
		return nil, err
	}
	return &cli.Stopped{
		Stores: []jetstream.JetStream{h.js}, Purpose: purpose, Close: stop,
		Views: func(ctx context.Context, ends map[string]uint64) ([]string, error) {
			return streams.Check(ctx, h.js, rec.NodeStreams, path, ends[subject.StreamEdge], ends[subject.StreamHub])
		},
	}, nil
}

func purpose(stream string) string {
	switch {
	case streams.Owned(stream):
		return "node streams"
	case stream == jetstreamBucket+fleet.Bucket:
		return "registry of gateways"
	}
	return "other"
}

// jetstreamBucket begins the name of the stream of a key-value bucket.
const jetstreamBucket = "KV_"
