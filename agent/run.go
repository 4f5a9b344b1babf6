package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/config"
	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/agent/internal/identity"
	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/agent/internal/renew"
	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/agent/internal/uplink"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/gauge"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
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
	chunksOpen chan struct{} // closed when history is
	guard      journal.Guard
	keeper     *journal.Keeper
	out        *journal.Log
	history    atomic.Pointer[history.Archive] // nil until it is open
	bus        *bus.Instance
	uplink     *uplink.Uplink
	renew      *renew.Keeper
	settings   *settings.Settings
	drivers    *driver.Manager
	gauges     *gauge.Server
	saved      bool          // the last snapshot, at the stop
	unsaved    atomic.Int64  // points that came since the last snapshot
	saveNow    chan struct{} // capacity 1: they are many
}

// Run runs an agent until ctx ends.
func Run(ctx context.Context, cfg config.Config) (err error) {
	a := &agent{cfg: cfg, log: cfg.Log, conns: map[string]*nats.Conn{}, saveNow: make(chan struct{}, 1), chunksOpen: make(chan struct{})}
	hangup := daemon.Hangups()
	defer hangup.Stop()
	if a.dir, err = daemon.Open(cfg.Data); err != nil {
		return err
	}
	asked := ctx
	ctx, a.stages = daemon.NewStages(asked)
	started := time.Now()
	a.stages.Start("memory limit", limitMemory)
	err = a.start(ctx)
	if err == nil {
		a.stages.Start("reload", hangup.Each(a.reload))
		a.log.Info().Str("id", a.id.ID()).Str("listen", a.nats.ListenAddr()).Dur("start_ms", time.Since(started)).Msg("agent is ready")
		<-ctx.Done()
		a.log.Info().Msg("agent stops")
	}
	if asked.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // asked to stop before it was ready
	}
	err = errors.Join(err, a.stages.Stop())
	return errors.Join(err, a.dir.Close(err == nil && a.saved))
}

// start builds every part and starts it in the order of dependence; what is
// started here stops in reverse.
func (a *agent) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.openIdentity, a.startGauges, a.startNATS, a.startBus, a.announce, a.openStore, a.openLog, a.startUplink, a.newDrivers, a.startServing, a.startDrivers, a.showGauges,
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

// openIdentity loads who this gateway is, or finds out.
func (a *agent) openIdentity(ctx context.Context) (err error) {
	f := &first{data: a.dir.Path, log: a.log.With().Str("component", "first").Logger()}
	a.id, err = identity.Load(a.dir.Path)
	switch {
	case errors.Is(err, identity.ErrNotEnrolled):
		a.id, err = f.contact(ctx)
	case err == nil:
		f.clear()
	}
	return err
}

func (a *agent) startNATS(ctx context.Context) (err error) {
	a.nats, err = leaf.Start(ctx, leaf.Config{
		Dir: a.dir.Path, NodeID: a.id.ID(), ServerName: a.id.ServerName(),
		Listen: a.cfg.Listen, ListenFallback: !a.cfg.ListenGiven,
		LeafURL: a.id.LeafURL(), Sign: a.id.Sign, RootCAs: a.id.RootCAs(), Pin: a.id.LeafPin(),
		Proxy: a.cfg.Proxy, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.stages.OnStop(a.nats.Close)
	for _, account := range []string{leaf.STORE, leaf.CHUNKS, leaf.UPLINK, leaf.LOCAL} {
		nc, err := a.nats.Connect(account, "agent")
		if err != nil {
			return err
		}
		a.conns[account] = nc
		a.stages.OnStop(nc.Close)
	}
	return nil
}

// openStore opens what is on disk.
func (a *agent) openStore(ctx context.Context) (err error) {
	if err := a.nats.OpenStore(); err != nil {
		return err
	}
	if a.js, err = jetstream.New(a.conns[leaf.STORE]); err != nil {
		return err
	}
	for name, s := range map[string]*jetstream.Stream{subject.StreamEdge: &a.edge, subject.StreamDown: &a.down} {
		if *s, err = journal.Ensure(ctx, a.js, journal.LogStream(name, subject.LogsOf(name))); err != nil {
			return err
		}
	}
	shelf := func(stream string, store *journal.JetStream) journal.Shelf {
		return journal.Shelf{
			Name: stream, Store: store, Single: true,
			Chunked: func() uint64 { return a.history.Load().Done(stream) },
			Safe:    func() uint64 { return a.bus.Covered(stream) },
		}
	}
	edge, down := shelf(subject.StreamEdge, a.edgeStore()), shelf(subject.StreamDown, a.downStore())
	edge.Acked = func(string) frame.Cursor { return a.uplink.Acked().Cursor }
	a.keeper = journal.NewKeeper(journal.KeeperConfig{
		Shelves: []journal.Shelf{edge, down},
		Max:     a.cfg.Store.Max, MaxAge: a.cfg.Store.MaxAge, Free: a.dir.Free, Now: a.clock.Now, Spans: a.meta.Removed, Save: a.save,
		Saved: func() map[string]uint64 {
			return bus.SavedUpTo(a.dir.Path, func(m *bus.Meta) map[string]uint64 { return m.Streams })
		},
		Log: a.log.With().Str("component", "keeper").Logger(),
	})
	a.guard = journal.Guard{Free: a.dir.Free, Full: a.keeper.Kick, Revive: a.nats.ReopenStore}
	return nil
}

// historyRetry is when history that could not be opened is tried again.
const historyRetry = time.Minute

// runHistory opens the chunks, which may take its time after a loss of power,
// and keeps them. What is measured goes on without.
func (a *agent) runHistory(ctx context.Context) error {
	for {
		h, err := a.openHistory(ctx)
		if err == nil {
			a.keeper.Attach(h)
			a.history.Store(h)
			close(a.chunksOpen)
			return h.Run(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		a.log.Error().Err(err).Stringer("next_try_in", historyRetry).Msg("history is not open")
		select {
		case <-time.After(historyRetry):
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *agent) openHistory(ctx context.Context) (*history.Archive, error) {
	if err := a.nats.OpenChunks(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(a.conns[leaf.CHUNKS])
	if err != nil {
		return nil, err
	}
	chunks, err := journal.Ensure(ctx, js, history.Stream())
	if err != nil {
		return nil, err
	}
	return history.Open(ctx, history.Config{
		JetStream: js, Stream: chunks, Tail: a.cfg.Store.Tail, Guard: a.guard.Chunks(),
		Sources: []history.Source{
			{Name: subject.StreamEdge, Store: a.edgeStore(), Author: a.self},
			{Name: subject.StreamDown, Store: a.downStore(), Author: hub},
		},
		Log: a.log.With().Str("component", "history").Logger(),
	})
}

func (a *agent) edgeStore() *journal.JetStream {
	return journal.NewStore(a.js, a.edge, subject.LogEdge(a.id.ID()))
}

func (a *agent) downStore() *journal.JetStream {
	return journal.NewStore(a.js, a.down, subject.LogDown(a.id.ID()))
}

func (a *agent) self(string) string { return a.id.ID() }

func hub(string) string { return state.Hub }

// startBus restores the state and answers what it can tell, before the logs
// are read.
func (a *agent) startBus(context.Context) error {
	restored, meta, err := bus.Load(a.dir.Path)
	if err != nil {
		a.log.Warn().Err(err).Msg("snapshot damaged, an older one or the logs are used")
	}
	if meta.Session != a.id.Nonce() { // enrolled anew: what another box did under this id is no clone
		meta.Acked = nil
	}
	a.meta = meta
	a.bus = bus.New(bus.Config{
		Author: a.id.ID(), Root: a.id.ID(), RootType: point.NodeGateway,
		State: restored, Complete: a.dir.Clean && err == nil, Dropped: meta.Dropped, Clock: &a.clock, Forget: true,
		Conn: a.conns[leaf.LOCAL], Interest: a.nats.Interest,
		History: a.history.Load,
		Status:  a.status,
		OnMerge: func(e *frame.Entry) {
			a.settings.Changed(e)
			a.drivers.Changed(e)
			a.uplink.Changed(e)
		},
		Logger: a.log.With().Str("component", "bus").Logger(),
	})
	a.stages.Start("bus", a.bus.Serve)
	return nil
}

// openLog opens the gateway's log and brings the state up to it.
func (a *agent) openLog(ctx context.Context) (err error) {
	log, meta := subject.LogEdge(a.id.ID()), a.meta
	a.out, err = journal.Open(ctx, journal.Config{
		Store: a.guard.Of(a.edgeStore()), Author: a.id.ID(), Clean: a.dir.Clean && !meta.Fresh[log], Known: meta.Chains[log],
		Now: a.clock.Now, Log: a.log.With().Str("component", "log").Logger(),
		Notify: a.committed,
		Queued: func() { a.uplink.Appended() },
		Moved: func(list []frame.Entry) { // places decide ties
			a.bus.Apply(&frame.Frame{Kind: frame.Heads, Now: a.clock.Now(), Entries: list})
		},
	})
	if err != nil {
		return err
	}
	if err := a.bus.Replay(ctx, subject.StreamEdge, a.edgeStore(), meta.Streams[subject.StreamEdge], a.self); err != nil {
		return err
	}
	if err := a.bus.Replay(ctx, subject.StreamDown, a.downStore(), meta.Streams[subject.StreamDown], hub); err != nil {
		return err
	}
	a.clock.Resume(a.bus.Newest())
	return nil
}

// saveAfter is after how many points a snapshot is due early: a start after a
// crash replays them.
const saveAfter = 250_000

// committed notes that a frame of the gateway's log is durable.
func (a *agent) committed(c journal.Committed) {
	if a.uplink == nil {
		return // an unfinished repeat goes on while the log opens; Replay reads it
	}
	a.bus.Committed(subject.StreamEdge, c)
	a.uplink.Appended()
	a.keeper.Grew(c.Bytes)
	if a.unsaved.Add(int64(len(c.Frame.Entries))) >= saveAfter {
		a.unsaved.Store(0)
		select {
		case a.saveNow <- struct{}{}:
		default:
		}
	}
}

func (a *agent) startUplink(ctx context.Context) error {
	in, err := journal.OpenReplica(ctx, a.guard.Of(a.downStore()))
	if err != nil {
		return err
	}
	a.renew = renew.New(renew.Config{
		Identity: a.id, Now: func() time.Time { return point.TimeOf(a.clock.Now()) },
		Linked:   func() bool { return a.uplink.Status().Phase == link.Open },
		Idle:     func() bool { return !a.uplink.Status().Flying },
		Refusals: func() int { return a.nats.Link().Refusals },
		Request: func() error {
			return a.conns[leaf.UPLINK].Publish(subject.FromGateway(a.id.ID(), subject.Renew), nil)
		},
		Swap: func() {
			a.nats.CutLeaf()
			a.nats.DialNow()
		},
		Log: a.log,
	})
	a.uplink = uplink.New(uplink.Config{
		Credential: a.renew.Deliver,
		ID:         a.id.ID(), Leaf: a.nats, Conn: a.conns[leaf.UPLINK], Instance: a.bus, Out: a.out, In: in,
		Acked: a.meta.Acked[a.id.ID()], Usage: a.meta.Usage, Commit: a.cfg.CommitEvery, Bytes: a.nats.Bytes,
		Clock: &a.clock, Save: a.save, Log: a.log,
		Reached: func(at frame.Cursor) { a.keeper.Reached(subject.LogEdge(a.id.ID()), at) },
		Telling: func(at frame.Cursor, f *frame.Frame) error {
			a.keeper.Telling(subject.LogEdge(a.id.ID()), at, f)
			return a.save()
		},
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
		m.Fresh = map[string]bool{subject.LogEdge(a.id.ID()): a.out.Fresh()}
		m.Chains = map[string][]journal.Run{subject.LogEdge(a.id.ID()): a.out.Chain()}
		m.Removed = a.keeper.Planned()
	})
}

// saveOften writes snapshots until ctx ends.
func (a *agent) saveOften(ctx context.Context) error {
	return daemon.Every(ctx, a.cfg.SnapshotEvery, a.saveNow, func() {
		if err := a.save(); err != nil {
			a.log.Error().Err(err).Msg("snapshot not written")
		}
	})
}

func (a *agent) startServing(context.Context) error {
	a.stages.OnStop(func() { // after the log has committed the rest
		err := a.save()
		if a.saved = err == nil; err != nil {
			a.log.Error().Err(err).Msg("snapshot not written")
		}
	})
	a.bus.Attach(a.out)
	a.stages.Start("log", a.out.Run)
	a.stages.Start("snapshots", a.saveOften)
	a.stages.Start("keeper", func(ctx context.Context) error {
		select {
		case <-a.chunksOpen:
			return a.keeper.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	a.stages.Start("history", a.runHistory)
	a.stages.Start("uplink", a.uplink.Run)
	a.stages.Start("renew", a.renew.Run)
	a.stages.Start("settings", a.settings.Run)
	return nil
}

// announce tells programs of this machine where the agent is.
func (a *agent) announce(context.Context) error {
	a.stages.OnStop(func() { _ = client.RemoveRunning(a.dir.Path) })
	if err := (client.Running{ID: a.id.ID(), Listen: a.nats.ListenAddr(), Metrics: a.gauges.Addr(), PID: os.Getpid()}).Write(a.dir.Path); err != nil {
		a.log.Warn().Err(err).Str("listen", a.nats.ListenAddr()).Msg("commands of this machine do not find the agent; give them --url")
	}
	return nil
}

func (a *agent) status(s *api.Status) {
	s.Version, s.Listen = a.cfg.Version, a.nats.ListenAddr()
	st := a.uplink.Status()
	s.Connected, s.Link = st.Phase == link.Open, st.Phase.String()
	if st.Halted != "" {
		s.Link = st.Halted
	} else if socket := a.nats.Link(); !s.Connected && socket.LastError != "" {
		s.Link = socket.State + ": " + socket.LastError
		if reason := a.renew.Reason(); reason != "" {
			s.Link = reason
		}
		if wait := time.Until(socket.NextTry); wait > 0 {
			s.Link += fmt.Sprintf("; next try in %s", wait.Round(time.Second))
		}
	}
	s.BacklogPoints = a.out.Lag(st.Acked)
	s.TxBytes, s.RxBytes, s.MonthBytes, s.MonthForecast = a.uplink.Bytes()
	s.LinkBytes = a.uplink.ByClass()
	s.Rate, s.RoundTrip = st.Rate, st.RoundTrip.Milliseconds()
	s.StoreMax = a.keeper.Max()
	for _, span := range a.keeper.Spans() {
		s.RemovedPoints, s.UnsentPoints = s.RemovedPoints+span.Points, s.UnsentPoints+span.Unsent
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, stream := range []jetstream.Stream{a.edge, a.down} {
		if info, err := stream.Info(ctx); err == nil {
			s.StoreBytes += info.State.Bytes
		}
	}
	if h := a.history.Load(); h != nil {
		s.RemovedPoints += h.RemovedPoints()
		if n, err := h.Bytes(ctx); err == nil {
			s.StoreBytes += n
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
