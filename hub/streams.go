package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/hub/internal/natsd"
	"github.com/sapflow/sapflow/hub/internal/streams"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/daemon"
)

// streamsCmd are the commands below `streams`.
type streamsCmd struct {
	Rebuild streamsRebuild `cmd:"" help:"Make the node streams of a stopped hub anew, in the same layout or another."`
}

// streamsRebuild is the command `streams rebuild`.
type streamsRebuild struct {
	Data          *string `env:"SAPFLOW_DATA" placeholder:"DIR" help:"Directory of the hub."`
	Config        string  `env:"SAPFLOW_CONFIG" placeholder:"FILE" help:"Settings of the hub in YAML; flags and environment count before it."`
	Layout        string  `enum:"node,shard,none" required:"" help:"node: two streams for every node; shard: a fixed number that nodes share; none: no streams."`
	MaxPerSubject *int    `env:"SAPFLOW_NODE_STREAMS_MAX_PER_SUBJECT" placeholder:"1000" help:"Points of each series that streams keep; give what serve gets."`
	JSON          bool    `name:"json" help:"Print JSON."`
}

// Help tells what happens, with an example.
func (streamsRebuild) Help() string {
	return "The hub must be stopped. Removes its node streams and fills new ones from the logs, which hold the last day and more if there was no time to make chunks of it; consumers of the old ones are lost. " +
		"If it is interrupted, the next start of the hub, or this command again, goes on.\n\nExample:\n\n" +
		"    sapflow-hub streams rebuild --layout shard --data ./hub"
}

// progressEvery is how often a person is told how far long work is.
const progressEvery = 2 * time.Second

// Run rebuilds.
func (r streamsRebuild) Run(ctx context.Context, out *cli.Out) error {
	s := config.Settings{Data: r.Data, NodeStreams: config.NodeStreamsSettings{Layout: &r.Layout, MaxPerSubject: r.MaxPerSubject}}
	cfg, err := s.Load(r.Config)
	if err == nil {
		cfg.Log, err = cli.Logger(out.Err, "warn")
	}
	if err != nil {
		return cli.Usage(err)
	}
	began, told := time.Now(), time.Now()
	filled, err := Rebuild(ctx, cfg, func(done, all uint64) {
		if time.Since(told) >= progressEvery {
			told = time.Now()
			out.Notef("%d of %d frames", done, all)
		}
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	if r.JSON {
		return out.JSON(struct {
			Layout string `json:"layout"`
			streams.Filled
			Seconds float64 `json:"seconds"`
		}{r.Layout, filled, took.Seconds()})
	}
	return out.Println(fmt.Sprintf("layout   %s\nstreams  %d\npoints   %d\ntime     %s", r.Layout, filled.Streams, filled.Points, took.Round(time.Millisecond)))
}

// Rebuild makes the node streams of a stopped hub anew in the layout of cfg.
// The layout is recorded first: whatever ends this early, the next start
// removes what is not of it, and fills what is missing.
func Rebuild(ctx context.Context, cfg config.Config, progress func(done, all uint64)) (filled streams.Filled, err error) {
	layout, err := streams.ParseLayout(cfg.NodeStreams.Layout)
	if err != nil {
		return filled, err
	}
	rec, err := readRecord(cfg.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return filled, fmt.Errorf("there is no hub in %s; give its directory by --data, or start a new one: sapflow-hub serve --node-streams-layout %s", cfg.Data, layout)
	}
	if err != nil {
		return filled, err
	}
	cfg.Listen, cfg.Leaf, cfg.TLSCert, cfg.TLSKey = "", "", "", "" // nobody connects
	h := newHub(cfg)
	if h.dir, err = daemon.Open(cfg.Data); err != nil {
		return filled, err
	}
	ctx, h.stages = daemon.NewStages(ctx)
	defer func() {
		err = errors.Join(err, h.stages.Stop())
		err = errors.Join(err, h.dir.Close(h.dir.Clean && err == nil)) // as it was
	}()
	if layout.String() != rec.NodeStreams.String() {
		rec.NodeStreams = layout
		if err := rec.write(h.dir); err != nil {
			return filled, err
		}
	}
	if err := h.openIdentity(ctx); err != nil {
		return filled, err
	}
	if err := os.Remove(h.dir.Join(streams.CheckpointFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return filled, fmt.Errorf("remove checkpoints: %w", err)
	}
	if _, err := natsd.RemoveStreams(h.dir.Path, h.keys, streams.Owned); err != nil {
		return filled, err
	}
	for _, step := range []func(context.Context) error{h.startNATS, h.openStreams, h.startBus} {
		if err := step(ctx); err != nil {
			return filled, err
		}
	}
	return h.nodeStreams(h.sources()).Fill(ctx, progress)
}
