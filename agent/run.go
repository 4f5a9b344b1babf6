package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/config"
	"github.com/sapflow/sapflow/agent/internal/identity"
	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/agent/internal/uplink"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// snapshotEvery is how often state is written besides at a stop; it costs
	// flash, and bounds how much of the logs a start after a crash reads.
	snapshotEvery = 10 * time.Minute
)

// agent is a running agent:
//
//	programs, drivers --> bus --> EDGE log --> uplink ==leaf==> hub
//	                       |
//	                       +--> state, up.*, history
//	                       |
//	                  DOWN log <-- uplink <==leaf== hub
type agent struct {
	cfg    config.Config
	dir    *daemon.Dir
	stages *daemon.Stages
	log    zerolog.Logger

	id    *identity.Identity
	nats  *leaf.Server
	conns map[string]*nats.Conn // by account
	js    jetstream.JetStream
	meta  bus.Meta // of the snapshot
	clock bus.Clock

	edge, down jetstream.Stream
	out        *journal.Log
	bus        *bus.Instance
	uplink     *uplink.Uplink
	settings   *settings.Settings
}

// Run runs an agent until ctx ends.
func Run(ctx context.Context, cfg config.Config) (err error) {
	a := &agent{cfg: cfg, log: cfg.Log, conns: map[string]*nats.Conn{}}
	if a.dir, err = daemon.Open(cfg.Data); err != nil {
		return err
	}
	asked := ctx
	ctx, a.stages = daemon.NewStages(asked)
	started := time.Now()
	err = a.start(ctx)
	if err == nil {
		a.log.Info().Str("id", a.id.ID()).Str("listen", a.nats.ListenAddr()).Dur("start_ms", time.Since(started)).Msg("agent is ready")
		<-ctx.Done()
		a.log.Info().Msg("agent stops")
	}
	if asked.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // asked to stop before it was ready
	}
	err = errors.Join(err, a.stages.Stop())
	return errors.Join(err, a.dir.Close(err == nil))
}

// start builds every part and starts it in the order of dependence; what is
// started here stops in reverse.
func (a *agent) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.openIdentity, a.startNATS, a.startBus, a.startUplink, a.startServing, a.announce,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) openIdentity(context.Context) (err error) {
	if a.id, err = identity.Load(a.dir.Path); errors.Is(err, identity.ErrNotEnrolled) {
		return fmt.Errorf("%w; add it at the hub with `sapflow-hub device add NAME` and paste the enrol line here", err)
	}
	return err
}

func (a *agent) startNATS(ctx context.Context) (err error) {
	a.nats, err = leaf.Start(ctx, leaf.Config{
		Dir: a.dir.Path, NodeID: a.id.ID(), ServerName: a.id.ServerName(),
		Listen: a.cfg.Listen, ListenFallback: !a.cfg.ListenGiven,
		LeafURL: a.id.LeafURL(), Sign: a.id.Sign, RootCAs: a.id.RootCAs(),
		Proxy: a.cfg.Proxy, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.stages.OnStop(a.nats.Close)
	for _, account := range []string{leaf.STORE, leaf.UPLINK, leaf.LOCAL} {
		nc, err := a.nats.Connect(account, "agent")
		if err != nil {
			return err
		}
		a.conns[account] = nc
		a.stages.OnStop(nc.Close)
	}
	if a.js, err = jetstream.New(a.conns[leaf.STORE]); err != nil {
		return err
	}
	for name, s := range map[string]*jetstream.Stream{subject.StreamEdge: &a.edge, subject.StreamDown: &a.down} {
		if *s, err = journal.Ensure(ctx, a.js, journal.LogStream(name, subject.LogsOf(name))); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) edgeStore() journal.Store {
	return journal.NewStore(a.js, a.edge, subject.LogEdge(a.id.ID()))
}

func (a *agent) downStore() journal.Store {
	return journal.NewStore(a.js, a.down, subject.LogDown(a.id.ID()))
}

func (a *agent) self(string) string { return a.id.ID() }

func hub(string) string { return state.Hub }

// startBus restores the state and the gateway's log.
func (a *agent) startBus(ctx context.Context) error {
	restored, meta, err := bus.Load(a.dir.Path)
	if err != nil {
		a.log.Warn().Err(err).Msg("snapshot damaged, an older one or the logs are used")
	}
	if meta.Session != a.id.Nonce() { // enrolled anew: what another box did under this id is no clone
		meta.Acked = nil
	}
	a.meta = meta
	a.out, err = journal.Open(ctx, journal.Config{
		Store: a.edgeStore(), Author: a.id.ID(), Clean: a.dir.Clean,
		Now: a.clock.Now, Log: a.log.With().Str("component", "log").Logger(),
		Notify: func(c journal.Committed) {
			if a.bus == nil {
				return // an unfinished repeat goes on while the log opens; Replay reads it
			}
			a.bus.SetCovered(subject.StreamEdge, c.Stream)
			if a.uplink != nil {
				a.uplink.Appended()
			}
		},
		Queued: func() {
			if a.uplink != nil {
				a.uplink.Appended()
			}
		},
		Moved: func(list []frame.Entry) { // places decide ties
			if a.bus != nil {
				a.bus.Apply(&frame.Frame{Kind: frame.Heads, Now: a.clock.Now(), Entries: list})
			}
		},
	})
	if err != nil {
		return err
	}
	a.bus = bus.New(bus.Config{
		Author: a.id.ID(), Root: a.id.ID(), RootType: point.NodeGateway,
		State: restored, Log: a.out, Clock: &a.clock, Forget: true,
		Conn: a.conns[leaf.LOCAL], Interest: a.nats.Interest,
		History: func() []history.Source {
			return []history.Source{{Store: a.edgeStore(), Author: a.self}, {Store: a.downStore(), Author: hub}}
		},
		Status: a.status,
		OnMerge: func(e *frame.Entry) {
			if a.uplink != nil { // not while the logs are replayed
				a.settings.Changed(e)
				a.uplink.Changed(e)
			}
		},
		Logger: a.log.With().Str("component", "bus").Logger(),
	})
	if err := a.bus.Replay(ctx, subject.StreamEdge, a.edgeStore(), meta.Streams[subject.StreamEdge], a.self); err != nil {
		return err
	}
	if err := a.bus.Replay(ctx, subject.StreamDown, a.downStore(), meta.Streams[subject.StreamDown], hub); err != nil {
		return err
	}
	a.clock.Resume(a.bus.Newest())
	return nil
}

func (a *agent) startUplink(ctx context.Context) error {
	in, err := journal.OpenReplica(ctx, a.downStore())
	if err != nil {
		return err
	}
	a.uplink = uplink.New(uplink.Config{
		ID: a.id.ID(), Leaf: a.nats, Conn: a.conns[leaf.UPLINK], Instance: a.bus, Out: a.out, In: in,
		Acked: a.meta.Acked[a.id.ID()], Usage: a.meta.Usage, Commit: a.cfg.CommitEvery, Bytes: a.nats.Bytes,
		Clock: &a.clock, Save: a.save, Log: a.log,
	})
	a.settings = settings.New(settings.Config{
		Node: a.id.ID(), Instance: a.bus, Settings: a.uplink.Settings(),
		Log: a.log.With().Str("component", "settings").Logger(),
	})
	return nil
}

// save writes a snapshot with what every part must know after a restart.
func (a *agent) save() error {
	return a.bus.Save(a.dir.Path, func(m *bus.Meta) {
		m.Session = a.id.Nonce()
		m.Acked = map[string]frame.Position{a.id.ID(): a.uplink.Acked()}
		m.Usage = a.uplink.Usage()
	})
}

func (a *agent) startServing(context.Context) error {
	a.stages.OnStop(func() { // after the log has committed the rest
		if err := a.save(); err != nil {
			a.log.Error().Err(err).Msg("snapshot not written")
		}
	})
	a.stages.Start("log", a.out.Run)
	a.stages.Start("snapshots", func(ctx context.Context) error {
		return daemon.Every(ctx, snapshotEvery, func() {
			if err := a.save(); err != nil {
				a.log.Error().Err(err).Msg("snapshot not written")
			}
		})
	})
	a.stages.Start("uplink", a.uplink.Run)
	a.stages.Start("bus", a.bus.Serve)
	a.stages.Start("settings", a.settings.Run)
	return nil
}

// announce tells programs of this machine where the agent is.
func (a *agent) announce(context.Context) error {
	a.stages.OnStop(func() { _ = client.RemoveRunning(a.dir.Path) })
	return client.Running{ID: a.id.ID(), Listen: a.nats.ListenAddr(), PID: os.Getpid()}.Write(a.dir.Path)
}

func (a *agent) status(s *api.Status) {
	s.Version, s.Listen = a.cfg.Version, a.nats.ListenAddr()
	st := a.uplink.Status()
	s.Connected, s.Link = st.Phase == link.Open, st.Phase.String()
	if st.Halted != "" {
		s.Link = st.Halted
	} else if socket := a.nats.Link(); !s.Connected && socket.LastError != "" {
		s.Link = socket.State + ": " + socket.LastError
		if wait := time.Until(socket.NextTry); wait > 0 {
			s.Link += fmt.Sprintf("; next try in %s", wait.Round(time.Second))
		}
	}
	s.BacklogPoints = a.out.Lag(st.Acked)
	s.TxBytes, s.RxBytes, s.MonthBytes, s.MonthForecast = a.uplink.Bytes()
	s.LinkBytes = a.uplink.ByClass()
	s.Rate, s.RoundTrip = st.Rate, st.RoundTrip.Milliseconds()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, stream := range []jetstream.Stream{a.edge, a.down} {
		if info, err := stream.Info(ctx); err == nil {
			s.StoreBytes += info.State.Bytes
		}
	}
	if len(st.Aside) > 0 {
		if s.Counters == nil {
			s.Counters = map[string]int{}
		}
		for reason, n := range st.Aside {
			s.Counters["aside_"+reason] += n
		}
	}
}
