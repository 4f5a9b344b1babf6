package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/hub/internal/door"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/hub/internal/manage"
	"github.com/sapflow/sapflow/hub/internal/natsd"
	"github.com/sapflow/sapflow/hub/internal/relay"
	"github.com/sapflow/sapflow/hub/internal/streams"
	"github.com/sapflow/sapflow/hub/internal/view"
	"github.com/sapflow/sapflow/hub/internal/watch"
	"github.com/sapflow/sapflow/hub/internal/web"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/gauge"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natslog"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// snapshotEvery is how often state is written besides at a stop: it bounds
// how much of the logs a start after a crash reads.
const snapshotEvery = 5 * time.Minute

// connStreams is the connection of the node streams: frames that gateways wait
// for must not queue behind a thousand messages.
const connStreams = "streams"

// inspectEvery is how often the connections of gateways are looked at.
const inspectEvery = 5 * time.Second

// commitEvery is how long a write that asked for no reply may wait.
const commitEvery = time.Second

// hub is a running hub:
//
//	gateways ==leaf==> door --> EDGE log --+--> state, up.*      (bus)
//	                    ^                  +--> node streams     (streams)
//	                    |                  +--> DOWN logs        (relay)
//	people, programs --> bus --> HUB log --+
//	                    DOWN logs --> door ==leaf==> gateways
type hub struct {
	cfg    config.Config
	dir    *daemon.Dir
	stages *daemon.Stages
	log    zerolog.Logger

	root   string
	layout streams.Layout
	keys   *cred.Keys
	nats   *natsd.Server
	conns  map[string]*nats.Conn // by account, and connStreams
	js     jetstream.JetStream
	meta   bus.Meta // of the snapshot
	clock  bus.Clock

	edge, down, own jetstream.Stream
	chunks          jetstream.Stream
	bell            view.Bell
	bus             *bus.Instance
	changed         []string // settings, since the last start
	leafTLS         bool
	httpTLS         bool
	pin             string // of the own certificate, "" if it is not used
	audit           *audit.Log
	fleet           *fleet.Registry
	manage          *manage.Service
	watch           *watch.Watch
	door            *door.Door
	relay           *relay.Relay
	streams         *streams.View
	out             *journal.Log // HUB
	guard           journal.Guard
	keeper          *journal.Keeper
	history         *history.Archive
	gauges          *gauge.Server
	httpAddr        string
	announced       bool // the start is complete
	saved           bool // the last snapshot, at the stop of a hub that was ready
}

func newHub(cfg config.Config) *hub {
	return &hub{cfg: cfg, log: cfg.Log, conns: map[string]*nats.Conn{}}
}

// Run runs a hub until ctx ends.
func Run(ctx context.Context, cfg config.Config) (err error) {
	h := newHub(cfg)
	hangup := daemon.Hangups()
	defer hangup.Stop()
	if h.dir, err = daemon.Open(cfg.Data); err != nil {
		return err
	}
	asked := ctx
	ctx, h.stages = daemon.NewStages(asked)
	started := time.Now()
	err = h.start(ctx)
	if err == nil {
		h.stages.Start("reload", hangup.Each(h.reload))
		h.log.Info().Str("id", h.root).Str("http", h.httpAddr).Str("listen", h.nats.ListenAddr()).
			Str("leaf", h.nats.LeafAddr()).Dur("start_ms", time.Since(started)).Msg("hub is ready")
		<-ctx.Done()
		h.log.Info().Msg("hub stops")
	}
	if asked.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // asked to stop before it was ready
	}
	err = errors.Join(err, h.stages.Stop())
	return errors.Join(err, h.dir.Close(err == nil && h.saved))
}

// start builds every part and starts it in the order of dependence; what is
// started here stops in reverse.
func (h *hub) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		h.openIdentity, h.startGauges, h.startNATS, h.openStreams, h.startBus, h.openHistory, h.startFleet, h.startViews, h.startDoor, h.startHTTP, h.announce, h.showGauges,
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

// openIdentity loads or makes what names this hub: its keys and its root.
func (h *hub) openIdentity(context.Context) (err error) {
	if h.keys, err = cred.OpenFrom(h.dir.Join(keysDir), keySource(h.cfg.KeysFile)); err != nil {
		return err
	}
	creds, err := h.keys.LocalCreds()
	if err != nil {
		return err
	}
	name := h.dir.Join(client.CredsFile)
	if have, err := os.ReadFile(name); err != nil || !bytes.Equal(have, creds) {
		if err := daemon.WriteFile(name, creds); err != nil {
			return err
		}
	}
	rec, err := openRecord(h.dir, h.cfg.NodeStreams.Layout)
	if err != nil {
		return fmt.Errorf("identity of the hub: %w", err)
	}
	operator, err := h.keys.OperatorID()
	if err != nil {
		return err
	}
	if h.changed, err = rec.owned(h.dir, operator, h.cfg.Told()); err != nil {
		return fmt.Errorf("identity of the hub: %w", err)
	}
	h.root, h.layout = rec.Root, rec.NodeStreams
	return nil
}

// tlsConfig returns the TLS of a listener, nil for none: with the certificate
// that was given, else with the hub's own where others could listen in.
func (h *hub) tlsConfig(address string) (*tls.Config, error) {
	if h.cfg.TLSCert == "" && h.cfg.TLSKey == "" {
		host, _, _ := net.SplitHostPort(address) // checked with the settings
		if !h.cfg.TLSOwn && natslog.Loopback(host) {
			return nil, nil
		}
		if h.cfg.Insecure {
			h.log.Warn().Str("address", address).Msg("no TLS: others on the way see tokens and points")
			return nil, nil
		}
		pair, pin, err := h.keys.Certificate()
		h.pin = pin
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, err
	}
	pair, err := tls.LoadX509KeyPair(h.cfg.TLSCert, h.cfg.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func (h *hub) startNATS(ctx context.Context) error {
	tlsConfig, err := h.tlsConfig(h.cfg.Leaf)
	if err != nil {
		return err
	}
	h.leafTLS = tlsConfig != nil
	h.nats, err = natsd.Start(ctx, natsd.Config{
		Dir: h.dir.Path, Keys: h.keys, TLS: tlsConfig, Leaf: h.cfg.Leaf, Insecure: h.cfg.Insecure,
		Listen: h.cfg.Listen, ListenFallback: !h.cfg.ListenGiven, Log: h.log,
	})
	if err != nil {
		return err
	}
	h.stages.OnStop(h.nats.Close)
	for name, account := range map[string]string{
		cred.CORE: cred.CORE, cred.DEVICES: cred.DEVICES, cred.PEOPLE: cred.PEOPLE, connStreams: cred.CORE,
	} {
		nc, err := h.nats.Connect(account, "hub")
		if err != nil {
			return err
		}
		h.conns[name] = nc
		h.stages.OnStop(nc.Close)
	}
	h.js, err = jetstream.New(h.conns[cred.CORE])
	return err
}

func (h *hub) openStreams(ctx context.Context) (err error) {
	for name, s := range map[string]*jetstream.Stream{
		subject.StreamEdge: &h.edge, subject.StreamDown: &h.down, subject.StreamHub: &h.own,
	} {
		if *s, err = journal.Ensure(ctx, h.js, journal.LogStream(name, subject.LogsOf(name))); err != nil {
			return err
		}
	}
	return nil
}

func (h *hub) store(s jetstream.Stream, subject string) *journal.JetStream {
	return journal.NewStore(h.js, s, subject)
}

// written returns a store that is written to.
func (h *hub) written(s jetstream.Stream, subject string) journal.Store {
	return h.guard.Of(h.store(s, subject))
}

// shelves are the logs that the keeper may take from.
func (h *hub) shelves() []journal.Shelf {
	viewed := func(stream string, of func() (edge, hub uint64)) uint64 {
		edge, hub := of()
		if stream == subject.StreamHub {
			return hub
		}
		return edge
	}
	shelf := func(stream, subjects string) journal.Shelf {
		return journal.Shelf{
			Name: stream, Store: h.store(h.stream(stream), subjects),
			Chunked: func() uint64 { return h.history.Done(stream) },
			Safe: func() uint64 {
				defer h.bell.Ring() // for a checkpoint of the node streams
				return min(h.bus.Covered(stream), viewed(stream, h.relay.Done), viewed(stream, h.streams.Safe))
			},
		}
	}
	edge, own := shelf(subject.StreamEdge, subject.LogsOf(subject.StreamEdge)), shelf(subject.StreamHub, subject.LogHub)
	own.Single = true
	return []journal.Shelf{edge, own, {
		Name: subject.StreamDown, Store: h.store(h.down, subject.LogsOf(subject.StreamDown)), Spare: true,
		Acked: func(s string) frame.Cursor { return h.door.Acked(subject.ParseLog(s)) },
		Safe:  func() uint64 { return all },
	}}
}

// all is what DOWN does without: what is state here other logs hold.
const all = math.MaxUint64

// savedUpTo returns, by stream, up to where views and the snapshots that there are
// need no frame.
func (h *hub) savedUpTo() map[string]uint64 {
	saved := bus.SavedUpTo(h.dir.Path, func(m *bus.Meta) map[string]uint64 {
		edge, own := relay.DoneIn(m)
		return map[string]uint64{
			subject.StreamEdge: min(m.Streams[subject.StreamEdge], edge),
			subject.StreamHub:  min(m.Streams[subject.StreamHub], own),
		}
	})
	edge, own := h.streams.Safe()
	return map[string]uint64{
		subject.StreamEdge: min(saved[subject.StreamEdge], edge),
		subject.StreamHub:  min(saved[subject.StreamHub], own),
		subject.StreamDown: all,
	}
}

func (h *hub) stream(name string) jetstream.Stream {
	if name == subject.StreamHub {
		return h.own
	}
	return h.edge
}

func author(string) string { return state.Hub }

// startBus restores the state, the hub's log and the public subjects. Serve
// comes later, when everything that it tells of is there.
func (h *hub) startBus(ctx context.Context) error {
	restored, meta, err := bus.Load(h.dir.Path)
	if err != nil {
		h.log.Warn().Err(err).Msg("snapshot damaged, an older one or the logs are used")
	}
	h.meta = meta
	h.keeper = journal.NewKeeper(journal.KeeperConfig{
		Shelves: h.shelves(), Max: h.cfg.Store.Max, MaxAge: h.cfg.Store.MaxAge, Free: h.dir.Free, Now: h.clock.Now, Spans: meta.Removed, Save: h.save, Saved: h.savedUpTo,
		Log: h.log.With().Str("component", "keeper").Logger(),
	})
	h.guard = journal.Guard{Free: h.dir.Free, Full: h.keeper.Kick, Revive: h.nats.ReopenStore}
	h.out, err = journal.Open(ctx, journal.Config{
		Store: h.written(h.own, subject.LogHub), Author: state.Hub, Clean: h.dir.Clean && !meta.Fresh[subject.LogHub], Known: meta.Chains[subject.LogHub],
		Every: commitEvery, Now: h.clock.Now, Log: h.log.With().Str("component", "log").Logger(),
		Notify: func(c journal.Committed) {
			if h.bus == nil {
				return // while the log opens; Replay reads it
			}
			h.bus.Committed(subject.StreamHub, c)
			h.keeper.Grew(c.Bytes)
			h.bell.Ring()
		},
	})
	if err != nil {
		return err
	}
	people := h.conns[cred.PEOPLE]
	h.bus = bus.New(bus.Config{
		Author: state.Hub, Root: h.root, RootType: point.NodeRoot, State: restored, Dropped: meta.Dropped, Log: h.out, Clock: &h.clock,
		Conn:     people,
		Interest: func(s string) bool { return h.nats.Interest(cred.PEOPLE, s) },
		History:  func() *history.Archive { return h.history },
		Status:   h.status,
		OnMerge: func(e *frame.Entry) {
			if h.watch != nil { // not while the hub starts: nobody writes then
				h.watch.Merged(e)
			}
		},
		Logger: h.log.With().Str("component", "bus").Logger(),
	})
	for _, r := range []struct {
		stream string
		store  journal.Store
		author func(string) string
	}{
		{subject.StreamEdge, h.store(h.edge, subject.LogsOf(subject.StreamEdge)), subject.ParseLog},
		{subject.StreamHub, h.store(h.own, subject.LogHub), author},
	} {
		if err := h.bus.Replay(ctx, r.stream, r.store, meta.Streams[r.stream], r.author); err != nil {
			return err
		}
	}
	h.clock.Resume(h.bus.Newest())
	h.stages.OnStop(func() { // after the log has committed the rest
		err := h.save()
		if h.saved = err == nil && h.announced; err != nil {
			h.log.Error().Err(err).Msg("snapshot not written")
		}
	})
	h.stages.Start("hub log", h.out.Run)
	return nil
}

// openHistory opens the chunks, once the logs are.
func (h *hub) openHistory(ctx context.Context) (err error) {
	if h.chunks, err = journal.Ensure(ctx, h.js, history.Stream()); err != nil {
		return err
	}
	h.history, err = history.Open(ctx, history.Config{
		JetStream: h.js, Stream: h.chunks, Tail: h.cfg.Store.Tail, Guard: h.guard.Chunks(),
		Sources: []history.Source{
			{Name: subject.StreamEdge, Store: h.store(h.edge, subject.LogsOf(subject.StreamEdge)), Author: subject.ParseLog},
			{Name: subject.StreamHub, Store: h.store(h.own, subject.LogHub), Author: author},
		},
		Log: h.log.With().Str("component", "history").Logger(),
	})
	h.keeper.Attach(h.history)
	return err
}

// save writes a snapshot with what every part must know after a restart.
func (h *hub) save() error {
	return h.bus.Save(h.dir.Path, func(m *bus.Meta) {
		if h.door == nil || h.relay == nil { // a start that failed: what was there still holds
			m.Acked, m.Heads, m.Views, m.Chains, m.Removed, m.Fresh = h.meta.Acked, h.meta.Heads, h.meta.Views, h.meta.Chains, h.meta.Removed, h.meta.Fresh
			return
		}
		m.Chains = map[string][]journal.Run{subject.LogHub: h.out.Chain()}
		m.Fresh = map[string]bool{subject.LogHub: h.out.Fresh()}
		m.Removed = h.keeper.Planned()
		h.relay.Fill(m) // before the door: a node that arrives meanwhile is in both or replayed
		h.door.Fill(m)
	})
}

func (h *hub) leafURL() string {
	if h.cfg.LeafAdvertise != "" {
		return h.cfg.LeafAdvertise
	}
	if h.leafTLS {
		return "tls://" + h.nats.LeafAddr()
	}
	return "nats-leaf://" + h.nats.LeafAddr()
}

func (h *hub) startFleet(ctx context.Context) (err error) {
	if h.audit, err = audit.Open(ctx, h.js, nil, h.log); err != nil {
		return err
	}
	if len(h.changed) > 0 {
		h.audit.Note(ctx, audit.ConfigChanged, "hub", h.changed...)
	}
	h.fleet, err = fleet.Open(ctx, fleet.Config{
		JetStream: h.js, Issuer: h.keys, Server: h.nats, LeafURL: h.leafURL(), Audit: h.audit, Log: h.log,
		LeafPin: h.pin, KeyTTL: h.cfg.CredentialTTL, Reenroll: h.cfg.Reenroll, NewID: client.NewID,
		Make: func(ctx context.Context, d fleet.Device, parent string) error { return h.manage.Make(ctx, d, parent) },
		Send: func(id string, data []byte) error {
			return h.conns[cred.DEVICES].Publish(subject.ToGateway(id, subject.Cred), data)
		},
		Enrolled: func(id string) { // a new box lacks the winners
			if g := h.door.Gate(id); g != nil {
				g.Lacks(id)
			}
		},
	})
	if err != nil {
		return err
	}
	h.door = door.New(door.Config{
		Conn: h.conns[cred.DEVICES], Instance: h.bus, Clock: &h.clock, Clean: h.dir.Clean,
		Edge:  func(id string) journal.Store { return h.written(h.edge, subject.LogEdge(id)) },
		Down:  func(id string) journal.Store { return h.written(h.down, subject.LogDown(id)) },
		Acked: h.meta.Acked, Heads: h.meta.Heads, Chains: h.meta.Chains, Fresh: h.meta.Fresh,
		Kick: h.nats.KickDevice, Other: h.other, Stored: h.bell.Ring, Save: h.save, Log: h.log,
		Reached: func(id string, at frame.Cursor) { h.keeper.Reached(subject.LogDown(id), at) },
		Telling: func(id string, at frame.Cursor, f *frame.Frame) { h.keeper.Telling(subject.LogDown(id), at, f) },
		Refused: h.refused,
		Limits: door.Limits{
			Limits: bus.Limits{Nodes: h.cfg.Limits.Nodes, Series: h.cfg.Limits.Series},
			Bytes:  h.cfg.Limits.Bytes, Points: h.cfg.Limits.Points,
		},
	})
	devices, err := h.fleet.List(ctx)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if _, err := h.door.Admit(ctx, d.ID); err != nil {
			return err
		}
	}
	h.watch = watch.New(watch.Config{Server: h.nats, Registry: h.fleet, Audit: h.audit, Log: h.log})
	h.manage = manage.New(manage.Config{
		Conn: h.conns[cred.PEOPLE], Root: h.root, Registry: h.fleet, Audit: h.audit, Instance: h.bus, Door: h.door,
		Enroll: h.enrollLine, Online: h.online, Log: h.log.With().Str("component", "manage").Logger(),
	})
	return nil
}

// other takes what gateways say besides the link.
func (h *hub) other(id, verb string) bool {
	switch verb {
	case subject.Renew:
		h.fleet.Renew(id)
	case subject.Clone:
		h.watch.Told(id)
	default:
		return false
	}
	return true
}

func (h *hub) source(name string, s jetstream.Stream, subject string, author func(string) string) view.Source {
	return view.Source{
		Name: name, Store: h.store(s, subject), Author: author,
		Covered: func() uint64 { return h.bus.Covered(name) },
	}
}

// sources returns the logs that views follow.
func (h *hub) sources() (edge, own view.Source) {
	return h.source(subject.StreamEdge, h.edge, subject.LogsOf(subject.StreamEdge), subject.ParseLog),
		h.source(subject.StreamHub, h.own, subject.LogHub, author)
}

func (h *hub) startViews(context.Context) error {
	edge, own := h.sources()
	h.relay = relay.New(relay.Config{
		Hub: own, Edge: edge, Instance: h.bus, Door: h.door, Done: h.meta.Views, Wake: h.bell.Listen(), Log: h.log,
	})
	h.stages.Start("relay", h.relay.Run)
	h.streams = h.nodeStreams(edge, own)
	h.stages.Start("node streams", h.streams.Run)
	h.stages.Start("keeper", h.keeper.Run)
	h.stages.Start("history", h.history.Run)
	h.stages.Start("snapshots", func(ctx context.Context) error {
		return daemon.Every(ctx, snapshotEvery, nil, func() {
			if err := h.save(); err != nil {
				h.log.Error().Err(err).Msg("snapshot not written")
			}
		})
	})
	return nil
}

// nodeStreams returns the view of the logs that fills the node streams.
func (h *hub) nodeStreams(edge, own view.Source) *streams.View {
	js, _ := jetstream.New(h.conns[connStreams]) // fails for options only
	return streams.New(streams.Config{
		Conn: h.conns[connStreams], JS: js, Edge: edge, Hub: own, Instance: h.bus, Layout: h.layout, Dir: h.dir.Path,
		MaxPerSubject: h.cfg.NodeStreams.MaxPerSubject, Wake: h.bell.Listen(), Room: h.guard.Room, Log: h.log,
	})
}

func (h *hub) startDoor(ctx context.Context) error {
	ready := make(chan struct{})
	h.stages.Start("door", func(ctx context.Context) error { return h.door.Run(ctx, func() { close(ready) }) })
	select {
	case <-ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	stop, err := h.nats.Watch(h.leafEvent)
	if err != nil {
		return err
	}
	h.stages.OnStop(stop)
	h.stages.Start("leafs", func(ctx context.Context) error {
		return daemon.Every(ctx, inspectEvery, nil, h.inspectLeafs)
	})
	h.stages.Start("bus", h.bus.Serve)
	h.stages.Start("credentials", h.fleet.Run)
	h.stages.Start("watch", h.watch.Run)
	h.stages.Start("manage", h.manage.Run)
	return nil
}

// leafEvent counts what the server refused, by gateway where it knows which.
func (h *hub) leafEvent(e natsd.Event) {
	if e.What == natsd.Opened && h.foreignName(e) {
		e.What = "name"
		h.nats.Kick(e.CID)
	}
	h.watch.Saw(e)
	if e.Refused() && (e.ID == "" || !h.door.Count(e.ID, e.What)) {
		h.bus.Count("leaf_refused_"+e.What, 1)
	}
}

// inspectLeafs closes connections that no honest gateway has. One that has
// just opened may escape leafEvent: the server tells of it before it is there.
func (h *hub) inspectLeafs() {
	h.nats.Overhearing(h.leafEvent)
	for _, l := range h.nats.Leafs() {
		h.leafEvent(natsd.Event{What: natsd.Opened, ID: l.ID, PublicKey: l.PublicKey, CID: l.CID, ServerName: l.ServerName})
	}
}

// foreignName tells whether a gateway calls itself as another does: of two
// with one name the server drops the first. What they add to their id nobody
// else knows, so this finds those who try.
func (h *hub) foreignName(e natsd.Event) bool {
	id := e.ServerName
	if i := strings.LastIndexByte(id, '-'); i >= 0 && h.door.Gate(id) == nil {
		id = id[:i]
	}
	return id != e.ID && h.door.Gate(id) != nil
}

// refused is told what gateways are refused, once a minute at most for each
// gateway and thing.
func (h *hub) refused(id, what string, n int) {
	h.log.Warn().Str("node_id", id).Str("what", what).Int("times", n).Msg("gateway refused")
	h.watch.Refused(id, what, n)
}

func (h *hub) online(id string) bool {
	return slices.ContainsFunc(h.nats.Leafs(), func(l natsd.LeafInfo) bool { return l.ID == id })
}

// enrollLine is what an installer pastes at the gateway. A gateway whose key
// is registered needs no token.
func (h *hub) enrollLine(token string) string {
	line := "sapflow-agent enroll " + h.url()
	if token != "" {
		line += " --token " + token
	} else {
		line += " --key"
	}
	if h.pin != "" && h.httpTLS {
		line += " --pin " + h.pin
	}
	return line + " --data /var/lib/sapflow"
}

// url is where gateways enrol.
func (h *hub) url() string {
	if h.cfg.HTTPAdvertise != "" {
		return h.cfg.HTTPAdvertise
	}
	address := h.httpAddr
	if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host).IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			address = net.JoinHostPort(name, port)
		}
	}
	if h.httpTLS {
		return "https://" + address
	}
	return "http://" + address
}

// adminFile holds the token of administrators.
const adminFile = "admin.token"

// httpTimeouts fit a gateway on a slow line, and end a silent connection.
const (
	httpHeaderWait = 20 * time.Second
	httpBodyWait   = time.Minute
	httpStopWait   = 5 * time.Second
)

func (h *hub) startHTTP(context.Context) error {
	tlsConfig, err := h.tlsConfig(h.cfg.HTTP)
	if err != nil {
		return err
	}
	h.httpTLS = tlsConfig != nil
	l, err := net.Listen("tcp", h.cfg.HTTP)
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w; free the port or give another --http", err)
	}
	h.httpAddr = l.Addr().String()
	token, err := cred.AdminToken(h.dir.Join(adminFile))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(fleet.EnrollPath, fleet.Handler(h.fleet, h.log))
	mux.Handle("GET /readyz", h.gauges)
	mux.Handle(web.Path, web.Handler(web.Config{Do: h.manage.Do, Token: token, Audit: h.audit, Log: h.log}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	srv := &http.Server{Handler: mux, TLSConfig: tlsConfig, ReadHeaderTimeout: httpHeaderWait, ReadTimeout: httpBodyWait, WriteTimeout: httpBodyWait}
	srv.ErrorLog = stdlog.New(debugLines{h.log.With().Str("component", "http").Logger()}, "", 0)
	h.stages.Start("http", func(ctx context.Context) error {
		stopped := context.AfterFunc(ctx, func() {
			stop, cancel := context.WithTimeout(context.Background(), httpStopWait)
			defer cancel()
			_ = srv.Shutdown(stop)
		})
		defer stopped()
		serve := srv.Serve
		if tlsConfig != nil {
			serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
		}
		if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// debugLines logs what the HTTP server says: whoever finds the port makes it
// speak.
type debugLines struct{ log zerolog.Logger }

// Write logs a line.
func (d debugLines) Write(line []byte) (int, error) {
	d.log.Debug().Str("text", string(bytes.TrimSpace(line))).Msg("http server")
	return len(line), nil
}

// announce tells programs of this machine where the hub is.
func (h *hub) announce(context.Context) error {
	h.stages.OnStop(func() { _ = client.RemoveRunning(h.dir.Path) })
	running := client.Running{ID: h.root, Listen: h.nats.ListenAddr(), HTTP: h.httpAddr, Metrics: h.gauges.Addr(), Leaf: h.nats.LeafAddr(), PID: os.Getpid()}
	h.announced = true
	if err := running.Write(h.dir.Path); err != nil {
		h.log.Warn().Err(err).Msg("commands of this machine do not find the hub; give them --url and --creds")
	}
	return nil
}

func (h *hub) status(s *api.Status) {
	s.StoreMax = h.keeper.Max()
	s.Version, s.Listen, s.Connected = h.cfg.Version, h.nats.ListenAddr(), true
	for _, l := range h.nats.Leafs() {
		s.RxBytes += uint64(l.InBytes)
		s.TxBytes += uint64(l.OutBytes)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, stream := range []jetstream.Stream{h.edge, h.down, h.own, h.chunks} {
		if info, err := stream.Info(ctx); err == nil {
			s.StoreBytes += info.State.Bytes
		}
	}
	for name, n := range map[string]int{"door_refused": h.door.Refused(), "audit_not_stored": h.audit.Failed()} {
		if n > 0 && s.Counters == nil {
			s.Counters = map[string]int{}
		}
		if n > 0 {
			s.Counters[name] = n
		}
	}
}
