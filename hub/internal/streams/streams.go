// Package streams owns the node streams: for every node the points that
// gateways authored and those that the hub authored, one message a point, for
// any NATS client to consume, source or replay. A Layout says which streams
// these are: two for each node, or some that nodes share.
//
// They are a view of the EDGE and HUB logs, rebuilt from them where a stream
// is missing or has lost more than a checkpoint covers, and not the history
// store: a limit per subject keeps heads and the newest points. Each stream
// holds the points of its side once and in the log's order; those of a node
// that left the tree go, and are brought again, behind what came meanwhile,
// when it returns.
package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/view"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

const (
	// batchPoints is after how many points the server must have answered for
	// every stream that got one.
	batchPoints = 1000
	// checkpointEvery is the least time between two checkpoints on disk, and
	// checkpointsKept how many are kept: the server flushes these streams
	// late, so the newest may be ahead of what a crash left.
	checkpointEvery = 2 * time.Second
	checkpointsKept = 8
	// ackWait bounds the wait for the server's answers to a batch.
	ackWait = 20 * time.Second
	// manyNodes is from where on two streams a node make the server slow: it
	// compares each new stream with all others.
	manyNodes = 1000
)

// Config says what the view connects.
type Config struct {
	Conn          *nats.Conn // in the core account, required
	JS            jetstream.JetStream
	Edge, Hub     view.Source
	Instance      *bus.Instance
	Layout        Layout
	Dir           string // the data directory, where the checkpoint file is
	MaxPerSubject int    // messages kept per subject; 1000 by default
	Wake          <-chan struct{}
	Room          func() error // why streams must not grow now, nil if they may
	Log           zerolog.Logger
}

// place is how far the two logs are published.
type place struct {
	Edge uint64 `json:"edge"`
	Hub  uint64 `json:"hub"`
}

func (p *place) of(side subject.Side) *uint64 {
	if side == subject.HubSide {
		return &p.Hub
	}
	return &p.Edge
}

// checkpoint says which sequence each stream had when the logs were published
// up to Place.
type checkpoint struct {
	Place place             `json:"place"`
	Seqs  map[string]uint64 `json:"seqs"` // by stream name
	at    time.Time         // when it was taken, or read
}

// nodeStream is what the view knows of one stream.
type nodeStream struct {
	name string
	side subject.Side
	last uint64 // sequence of its newest message
	from uint64 // log place up to which it has everything
	skip uint64 // points behind from that it has as well
}

// View is the view.
type View struct {
	cfg   Config
	place place
	known map[string]*nodeStream // nil: look what the server has
	kept  []checkpoint           // newest last
	saved time.Time
	acks  *nats.Subscription

	gone   map[string]bool // nodes that left: what streams hold of them is incomplete
	left   map[string]bool // of these, the ones of which streams may hold something
	looked bool            // none of gone has returned since
	warned bool            // that there are many nodes

	published uint64

	mu    sync.Mutex
	since []since // of checkpoints, for Safe; oldest first
	asked bool    // Safe was called since the last checkpoint
	spare *place  // while there is no room: what only streams made anew need
}

// since is a place and when the streams had all before it.
type since struct {
	place
	at time.Time
}

// flushed is after how long the server has surely made durable what a stream
// that it flushes late was given: it does so every two minutes.
const flushed = 150 * time.Second

// Safe returns up to which messages of EDGE and HUB no start needs, unless a
// stream has to be made anew. Woken after that, the view takes a checkpoint,
// for the next one who asks.
func (v *View) Safe() (edge, hub uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = true
	v.prune()
	switch {
	case len(v.since) > 0 && time.Since(v.since[0].at) > flushed:
		return v.since[0].Edge, v.since[0].Hub
	case v.spare != nil:
		return v.spare.Edge, v.spare.Hub
	}
	return 0, 0
}

// await waits until there is room. A stream that is made anew does not keep
// the oldest frames in the logs meanwhile, else there never was any.
func (v *View) await(ctx context.Context) error {
	err := v.cfg.Room()
	if err == nil {
		return nil
	}
	v.cfg.Log.Warn().Err(err).Msg("node streams wait for room, those made anew may lack the oldest points")
	spare := &place{Edge: math.MaxUint64, Hub: math.MaxUint64}
	if len(v.kept) > 0 {
		*spare = v.kept[0].Place
	}
	v.setSpare(spare)
	defer v.setSpare(nil)
	tick := time.NewTicker(view.Retry)
	defer tick.Stop()
	for v.cfg.Room() != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func (v *View) setSpare(p *place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spare = p
}

// file is what the checkpoint file holds.
type file struct {
	Checkpoints []checkpoint    `json:"checkpoints"`
	Gone        map[string]bool `json:"gone,omitempty"`
}

// New returns a view that has not started.
func New(cfg Config) *View {
	if cfg.MaxPerSubject == 0 {
		cfg.MaxPerSubject = 1000
	}
	cfg.Log = cfg.Log.With().Str("component", "streams").Logger()
	return &View{cfg: cfg}
}

// Run provisions and fills the node streams until ctx ends.
func (v *View) Run(ctx context.Context) error {
	view.Run(ctx, v.cfg.Wake, v.cfg.Log, func(ctx context.Context) error { return v.work(ctx, func() {}) })
	if v.known != nil && len(v.left) == 0 {
		v.checkpoint()
	}
	return nil
}

// work brings the streams to the end of the logs; after each batch it calls
// progress.
func (v *View) work(ctx context.Context, progress func()) (err error) {
	defer func() {
		if err != nil {
			v.known = nil // look again at what the server has
		}
	}()
	if v.known == nil {
		if err := v.recover(ctx); err != nil {
			return err
		}
	}
	if v.cfg.Layout.None {
		return nil // what there was is removed
	}
	for more := true; more; {
		if more, err = v.batch(ctx); err != nil {
			return err
		}
		if err := v.refill(ctx); err != nil {
			return err
		}
		if !more || time.Since(v.saved) >= checkpointEvery {
			if err := v.tidy(ctx); err != nil {
				return err
			}
		}
		if time.Since(v.saved) >= checkpointEvery || !more && v.wasAsked() {
			v.checkpoint()
		}
		progress()
	}
	if v.caughtUp() {
		return nil
	}
	if err := v.abandon(); err != nil {
		return err
	}
	return v.work(ctx, progress) // from the beginning, which always catches up
}

// abandon forgets the streams that hold more than the logs can tell, as when
// a frame was damaged after it was published: from here on they would take
// new points for old ones.
func (v *View) abandon() error {
	for name, s := range v.known {
		if s.skip > 0 || s.from > *v.place.of(s.side) {
			v.forget(name)
		}
	}
	v.known = nil
	return v.write(daemon.WriteFile)
}

// Filled is what Fill has done.
type Filled struct {
	Streams int    `json:"streams"`
	Points  uint64 `json:"points"`
}

// Fill brings the streams to the end of the logs once. progress is told how
// many frames of the logs are done, of how many.
func (v *View) Fill(ctx context.Context, progress func(done, all uint64)) (Filled, error) {
	all := v.cfg.Edge.Covered() + v.cfg.Hub.Covered()
	if err := v.work(ctx, func() { progress(v.place.Edge+v.place.Hub, all) }); err != nil {
		return Filled{}, err
	}
	v.checkpoint()
	return Filled{Streams: len(v.known), Points: v.published}, nil
}

// CheckpointFile is the file in a data directory that says how far the
// streams are; without it they are made anew.
const CheckpointFile = "streams.json"

func (v *View) path() string { return filepath.Join(v.cfg.Dir, CheckpointFile) }

// load reads the checkpoint file.
func (v *View) load() error {
	var f file
	if b, err := os.ReadFile(v.path()); err == nil {
		if err := json.Unmarshal(b, &f); err != nil {
			v.cfg.Log.Warn().Err(err).Msg("checkpoint is damaged, streams are rebuilt from the logs")
			f = file{}
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	v.kept, v.gone, v.left, v.looked = f.Checkpoints, f.Gone, map[string]bool{}, false
	if v.gone == nil {
		v.gone = map[string]bool{}
	}
	for i := range v.kept {
		v.kept[i].at = time.Now()
	}
	v.place = place{}
	if n := len(v.kept); n > 0 {
		v.place = v.kept[n-1].Place
	}
	v.mu.Lock()
	v.since = nil
	v.mu.Unlock()
	return nil
}

// recover finds out what each stream has: the newest checkpoint that it
// reaches, and how many points behind that. A stream that reaches none is
// made anew and filled from the beginning of the log; so is one that is
// missing. What no node needs, or belongs to another layout, goes.
func (v *View) recover(ctx context.Context) error {
	if err := v.load(); err != nil {
		return err
	}
	have := map[string]*jetstream.StreamInfo{}
	list := v.cfg.JS.ListStreams(ctx)
	for info := range list.Info() {
		if Owned(info.Config.Name) {
			have[info.Config.Name] = info
		}
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list node streams: %w", err)
	}
	want := v.want()
	v.known = map[string]*nodeStream{}
	for name, info := range have {
		w, ok := want[name]
		if ok {
			s, reached := v.resume(name, w.side, info.State.LastSeq)
			if ok = reached; ok {
				v.known[name] = s
				if err := v.configure(ctx, w.config(name, v.cfg.MaxPerSubject), &info.Config); err != nil {
					return err
				}
				continue
			}
			v.cfg.Log.Warn().Str("stream", name).Uint64("last_seq", info.State.LastSeq).Msg("stream and checkpoints do not fit, rebuilding")
		}
		if err := v.remove(ctx, name); err != nil {
			return err
		}
		if _, node, isNode := subject.ParseNodeStream(name); isNode && v.cfg.Layout == (Layout{}) && want[name] == (listening{}) {
			v.gone[node] = true
		}
	}
	if err := v.provision(ctx, want, place{}); err != nil {
		return err
	}
	for _, s := range v.known { // publishing goes on where the stream that lacks most stands
		p := v.place.of(s.side)
		*p = min(*p, s.from)
	}
	if v.acks != nil {
		_ = v.acks.Unsubscribe() // late answers to what failed
	}
	var err error
	if v.acks, err = v.cfg.Conn.SubscribeSync(nats.NewInbox()); err != nil {
		return fmt.Errorf("subscribe for answers: %w", err)
	}
	return nil
}

// resume returns where a stream with this last sequence goes on: behind the
// newest checkpoint that it reaches. Without one nothing says what it holds.
func (v *View) resume(name string, side subject.Side, last uint64) (*nodeStream, bool) {
	s := &nodeStream{name: name, side: side, last: last}
	for i := len(v.kept) - 1; i >= 0; i-- {
		c := &v.kept[i]
		if seq, ok := c.Seqs[name]; ok && seq <= last {
			s.from, s.skip = *c.Place.of(side), last-seq
			return s, true
		}
	}
	return s, last == 0
}

// want returns the streams that must exist now. Nodes that are gone get
// theirs when they are filled.
func (v *View) want() map[string]listening {
	if v.cfg.Layout != (Layout{}) {
		return v.cfg.Layout.want(nil) // the same for any nodes
	}
	var nodes []string
	v.cfg.Instance.View(func(_ *state.State, t *tree.Tree) {
		for _, n := range t.Subtree(t.Root()) {
			if !v.gone[n] {
				nodes = append(nodes, n)
			}
		}
	})
	many := len(nodes) > manyNodes
	if many && !v.warned {
		v.cfg.Log.Warn().Int("nodes", len(nodes)).
			Str("run", "sapflow-hub streams rebuild --layout shard --data "+v.cfg.Dir).
			Msgf("more than %d nodes with two streams each make start and changes slow; stop the hub and run the command", manyNodes)
	}
	v.warned = many
	return v.cfg.Layout.want(nodes)
}

// provision makes the streams that are missing. They are filled from a place
// on: at a start from the beginning of the logs, later their node is new.
func (v *View) provision(ctx context.Context, want map[string]listening, from place) error {
	for name, w := range want {
		if v.known[name] != nil {
			continue
		}
		if err := v.configure(ctx, w.config(name, v.cfg.MaxPerSubject), nil); err != nil {
			return err
		}
		v.forget(name) // what an earlier stream of that name had
		v.known[name] = &nodeStream{name: name, side: w.side, from: *from.of(w.side)}
	}
	return nil
}

// configure makes a stream, or brings it from what it has to its
// configuration.
func (v *View) configure(ctx context.Context, want jetstream.StreamConfig, have *jetstream.StreamConfig) error {
	if have != nil && have.MaxMsgsPerSubject == want.MaxMsgsPerSubject && have.SubjectTransform != nil && *have.SubjectTransform == *want.SubjectTransform {
		return nil
	}
	if have == nil {
		if err := v.await(ctx); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// What is given up goes on in the server, which must not stop meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackWait)
	defer cancel()
	if _, err := v.cfg.JS.CreateOrUpdateStream(ctx, want); err != nil {
		return fmt.Errorf("create stream %s: %w", want.Name, err)
	}
	return nil
}

func (v *View) remove(ctx context.Context, name string) error {
	if err := v.cfg.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove stream %s: %w", name, err)
	}
	delete(v.known, name)
	return nil
}

// forget makes no checkpoint tell of a stream: a crash from now on has it
// made anew.
func (v *View) forget(name string) {
	for i := range v.kept {
		delete(v.kept[i].Seqs, name)
	}
}

// piece is a frame of one side.
type piece struct {
	side subject.Side
	view.Item
}

// collect reads the frames of both logs behind a place and up to end, about
// batchPoints points, and returns the place behind them.
func (v *View) collect(ctx context.Context, from, end place) (pieces []piece, next place, err error) {
	next = from
	sources := []struct {
		side subject.Side
		src  *view.Source
	}{{subject.HubSide, &v.cfg.Hub}, {subject.EdgeSide, &v.cfg.Edge}}
	for points, progress := 0, true; progress && points < batchPoints; {
		progress = false
		for _, s := range sources {
			if *next.of(s.side) >= *end.of(s.side) {
				continue
			}
			item, ok, err := s.src.Next(ctx, *next.of(s.side), v.cfg.Log)
			if err != nil {
				return nil, next, err
			}
			if !ok || item.Seq > *end.of(s.side) {
				continue
			}
			progress = true
			points += len(item.Frame.Entries)
			*next.of(s.side) = item.Seq
			pieces = append(pieces, piece{s.side, item})
		}
	}
	return pieces, next, nil
}

// batch publishes the next frames of both logs and waits until every stream
// has what it should. more is false when there were none.
func (v *View) batch(ctx context.Context) (more bool, err error) {
	end := place{Edge: v.cfg.Edge.Covered(), Hub: v.cfg.Hub.Covered()}
	pieces, next, err := v.collect(ctx, v.place, end)
	if err != nil || len(pieces) == 0 {
		return false, err
	}
	if err := v.follow(ctx, pieces); err != nil {
		return false, err
	}
	var msgs []message
	for _, p := range pieces {
		for i := range p.Frame.Entries {
			msgs = v.add(msgs, p.side, p.Seq, &p.Frame.Entries[i].Point)
		}
	}
	if err := v.publish(ctx, msgs); err != nil {
		return false, err
	}
	v.place = next
	return true, nil
}

// follow does what the edges in some frames mean for the streams: new nodes
// get theirs, and nodes that are not in the tree are gone. That must be on
// disk before anything of them is removed, else a crash would let them return
// without it.
func (v *View) follow(ctx context.Context, pieces []piece) error {
	edges, news := false, false
	v.cfg.Instance.View(func(_ *state.State, t *tree.Tree) {
		for _, p := range pieces {
			for i := range p.Frame.Entries {
				e := &p.Frame.Entries[i]
				if len(v.gone) > 0 && v.gone[e.Holder()] {
					v.left[e.Holder()] = true // a late point
				}
				if !e.IsEdge() {
					continue
				}
				edges = true
				for _, n := range t.Subtree(e.Node) {
					if !t.Has(n) {
						news = news || !v.gone[n]
						v.gone[n], v.left[n] = true, true
					}
				}
			}
		}
	})
	if !edges {
		return nil
	}
	v.looked = false
	if news {
		if err := v.write(daemon.WriteFile); err != nil {
			return err
		}
	}
	return v.provision(ctx, v.want(), v.place)
}

// tidy removes what streams hold of nodes that left. It comes before a
// checkpoint, from which a restart would not see them leave again.
func (v *View) tidy(ctx context.Context) error {
	for node := range v.left {
		for _, side := range []subject.Side{subject.EdgeSide, subject.HubSide} {
			if err := v.drop(ctx, side, node); err != nil {
				return err
			}
		}
		delete(v.left, node)
	}
	return nil
}

// drop removes one side of a node.
func (v *View) drop(ctx context.Context, side subject.Side, node string) error {
	name := v.cfg.Layout.stream(side, node)
	if v.cfg.Layout.Shards == 0 {
		return v.remove(ctx, name)
	}
	s, err := v.cfg.JS.Stream(ctx, name)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(subject.NodeStored(node)))
	}
	if err != nil {
		return fmt.Errorf("remove %s from stream %s: %w", node, name, err)
	}
	return nil
}

// refill brings again the points of nodes that left and came back, once the
// streams have caught up: what the logs have of them up to here. A crash
// meanwhile has the streams made anew that hold them.
func (v *View) refill(ctx context.Context) error {
	if v.looked || !v.caughtUp() {
		return nil
	}
	back := map[string]bool{}
	v.cfg.Instance.View(func(_ *state.State, t *tree.Tree) {
		for n := range v.gone {
			if t.Has(n) {
				back[n] = true
			}
		}
	})
	v.looked = true
	if len(back) == 0 {
		return nil
	}
	for n := range back {
		v.left[n] = true
		for _, side := range []subject.Side{subject.EdgeSide, subject.HubSide} {
			v.forget(v.cfg.Layout.stream(side, n))
		}
		delete(v.gone, n)
	}
	if err := v.write(daemon.WriteFile); err != nil {
		return err
	}
	if err := v.tidy(ctx); err != nil {
		return err
	}
	if err := v.provision(ctx, v.want(), v.place); err != nil {
		return err
	}
	for at := (place{}); ; {
		pieces, next, err := v.collect(ctx, at, v.place)
		if err != nil {
			return err
		}
		if len(pieces) == 0 {
			break
		}
		var msgs []message
		for _, p := range pieces {
			for i := range p.Frame.Entries {
				if e := &p.Frame.Entries[i]; back[e.Holder()] {
					msgs = v.append(msgs, v.at(p.side, e.Holder()), &e.Point)
				}
			}
		}
		if err := v.publish(ctx, msgs); err != nil {
			return err
		}
		at = next
	}
	v.checkpoint()
	return nil
}

// message is a point on its way into a stream.
type message struct {
	to      *nodeStream
	subject string
	payload []byte
}

// at returns the stream with one side of a node, nil if there is none.
func (v *View) at(side subject.Side, node string) *nodeStream {
	return v.known[v.cfg.Layout.stream(side, node)]
}

// add appends a point of log message seq unless its stream has it already or
// its node has left and its stream with it.
func (v *View) add(msgs []message, side subject.Side, seq uint64, p *point.Point) []message {
	s := v.at(side, p.Holder())
	if s == nil || seq <= s.from {
		return msgs
	}
	if s.skip > 0 {
		s.skip--
		return msgs
	}
	return v.append(msgs, s, p)
}

func (v *View) append(msgs []message, s *nodeStream, p *point.Point) []message {
	s.last++
	return append(msgs, message{s, v.cfg.Layout.in(s.side, p.Series), point.AppendPayload(nil, p)})
}

// publish sends messages, asks for an answer to the last one of each stream,
// and compares the sequences: a stream that lost one answers with less.
func (v *View) publish(ctx context.Context, msgs []message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := v.await(ctx); err != nil {
		return err
	}
	last := map[*nodeStream]int{}
	for i := range msgs {
		last[msgs[i].to] = i
	}
	for i := range msgs {
		m := &nats.Msg{Subject: msgs[i].subject, Data: msgs[i].payload}
		if last[msgs[i].to] == i {
			m.Reply = v.acks.Subject
		}
		if err := v.cfg.Conn.PublishMsg(m); err != nil {
			return fmt.Errorf("publish to %s: %w", msgs[i].to.name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for waiting := len(last); waiting > 0; waiting-- {
		m, err := v.acks.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("wait for %d node streams: %w", waiting, err)
		}
		var ack struct {
			Stream string          `json:"stream"`
			Seq    uint64          `json:"seq"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error != nil {
			return fmt.Errorf("node stream refused a point: %s", m.Data)
		}
		if s := v.known[ack.Stream]; s == nil || s.last != ack.Seq {
			return fmt.Errorf("stream %s stands at %d, not where it should", ack.Stream, ack.Seq)
		}
	}
	v.published += uint64(len(msgs))
	return nil
}

// caughtUp tells whether all streams stand at the place.
func (v *View) caughtUp() bool {
	for _, s := range v.known {
		if s.skip > 0 || s.from > *v.place.of(s.side) {
			return false
		}
	}
	return true
}

// checkpoint notes where the streams stand. While they still catch up the
// older checkpoints hold. It is not synced: after a power cut an older or a
// damaged one costs a rebuild.
func (v *View) checkpoint() {
	if !v.caughtUp() {
		return
	}
	c := checkpoint{Place: v.place, Seqs: make(map[string]uint64, len(v.known))}
	for name, s := range v.known {
		c.Seqs[name] = s.last
	}
	v.saved = time.Now()
	v.keep(c)
	v.reached()
	if err := v.write(replace); err != nil {
		v.cfg.Log.Warn().Err(err).Msg("checkpoint not written")
	}
}

func (v *View) wasAsked() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

// keep adds a checkpoint to those that are kept. The oldest one stays until the
// next one is old enough that the streams were surely durable then.
func (v *View) keep(c checkpoint) {
	c.at = time.Now()
	if v.kept = append(v.kept, c); len(v.kept) <= checkpointsKept {
		return
	}
	i := 2
	if time.Since(v.kept[1].at) > flushed {
		i = 0
	}
	v.kept = slices.Delete(v.kept, i, i+1)
}

// reached notes, for Safe, that a checkpoint has the streams up to v.place.
func (v *View) reached() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = false
	if n := len(v.since); n > 0 && v.since[n-1].place == v.place {
		return
	}
	v.since = append(v.since, since{v.place, time.Now()})
	v.prune()
}

// prune leaves one of the places that are flushed.
func (v *View) prune() {
	for len(v.since) > 1 && time.Since(v.since[1].at) > flushed {
		v.since = v.since[1:]
	}
}

func (v *View) write(to func(path string, data []byte) error) error {
	b, err := json.Marshal(file{v.kept, v.gone})
	if err != nil {
		return err
	}
	return to(v.path(), b)
}

// replace writes a file without waiting for the disk.
func replace(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
