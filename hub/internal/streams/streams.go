// Package streams owns the node streams: for every node one with the points
// that gateways authored and one with those that the hub authored, one
// message a point, for any NATS client to consume, source or replay.
//
// They are a view of the EDGE and HUB logs, rebuilt from them where a stream
// is missing or has lost more than a checkpoint covers, and not the history
// store: a limit per subject keeps heads and the newest points. Each stream
// holds the points of its side once and in the log's order.
package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/view"
	"github.com/sapflow/sapflow/shared/bus"
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
)

// Config says what the view connects.
type Config struct {
	Conn          *nats.Conn // in the core account, required
	JS            jetstream.JetStream
	Edge, Hub     view.Source
	Instance      *bus.Instance
	Dir           string // of the checkpoint file
	MaxPerSubject int    // messages kept per subject; 1000 by default
	Wake          <-chan struct{}
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
}

// nodeStream is what the view knows of one stream.
type nodeStream struct {
	last uint64 // sequence of its newest message
	from uint64 // log place up to which it has everything
	skip uint64 // points behind from that it has as well
}

// View is the view.
type View struct {
	cfg   Config
	place place
	known map[string]*nodeStream // nil: look what the server has
	gone  map[string]bool        // streams that were removed: their nodes need a rebuild when they return
	kept  []checkpoint           // newest last
	saved time.Time
	acks  *nats.Subscription
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
	view.Run(ctx, v.cfg.Wake, v.cfg.Log, v.work)
	if v.known != nil {
		v.save(true)
	}
	return nil
}

func (v *View) work(ctx context.Context) error {
	if v.known == nil {
		if err := v.recover(ctx); err != nil {
			v.known = nil
			return err
		}
	}
	for ctx.Err() == nil {
		more, err := v.batch(ctx)
		if err != nil {
			v.known = nil // look again at what the server has
			return err
		}
		v.save(false)
		if !more {
			return nil
		}
	}
	return nil
}

func (v *View) path() string { return filepath.Join(v.cfg.Dir, "streams.json") }

// recover finds out what each stream has: the newest checkpoint that it
// reaches, and how many points behind that. A stream that reaches none is
// made anew and filled from the beginning of the log.
func (v *View) recover(ctx context.Context) error {
	var f file
	if b, err := os.ReadFile(v.path()); err == nil {
		if err := json.Unmarshal(b, &f); err != nil {
			v.cfg.Log.Warn().Err(err).Msg("checkpoint is damaged, streams are rebuilt from the logs")
			f = file{}
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	v.kept, v.gone, v.known = f.Checkpoints, f.Gone, map[string]*nodeStream{}
	if v.gone == nil {
		v.gone = map[string]bool{}
	}
	if n := len(v.kept); n > 0 {
		v.place = v.kept[n-1].Place
	} else {
		v.place = place{}
	}
	have := map[string]uint64{}
	list := v.cfg.JS.ListStreams(ctx)
	for info := range list.Info() {
		if _, _, ok := subject.ParseNodeStream(info.Config.Name); ok {
			have[info.Config.Name] = info.State.LastSeq
		}
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list node streams: %w", err)
	}
	for name, last := range have {
		side, node, _ := subject.ParseNodeStream(name)
		s, ok := v.resume(name, side, last)
		if !ok {
			v.cfg.Log.Warn().Str("stream", name).Uint64("last_seq", last).Msg("stream is behind its checkpoints, rebuilding")
			if err := v.cfg.JS.DeleteStream(ctx, name); err != nil {
				return fmt.Errorf("rebuild %s: %w", name, err)
			}
			s = &nodeStream{}
		}
		if err := v.create(ctx, side, node); err != nil {
			return err
		}
		v.known[name] = s
	}
	if _, err := v.provision(ctx, true); err != nil {
		return err
	}
	for name, s := range v.known { // publishing goes on where the stream that lacks most stands
		side, _, _ := subject.ParseNodeStream(name)
		*v.place.of(side) = min(*v.place.of(side), s.from)
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
	for i := len(v.kept) - 1; i >= 0; i-- {
		c := &v.kept[i]
		if seq, ok := c.Seqs[name]; ok && seq <= last {
			return &nodeStream{last: last, from: *c.Place.of(side), skip: last - seq}, true
		}
	}
	return &nodeStream{}, last == 0
}

// provision creates the streams of nodes that have none and removes those of
// nodes that left the tree. At the start a new stream is filled from the
// beginning of its log; later its node is new too, unless it had left before:
// then the view must start again.
func (v *View) provision(ctx context.Context, starting bool) (again bool, err error) {
	want := map[string]bool{}
	v.cfg.Instance.View(func(_ *state.State, t *tree.Tree) {
		for _, n := range t.Subtree(t.Root()) {
			want[subject.NodeStream(subject.EdgeSide, n)] = true
			want[subject.NodeStream(subject.HubSide, n)] = true
		}
	})
	for name := range v.known {
		if want[name] {
			continue
		}
		if err := v.cfg.JS.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return false, fmt.Errorf("remove stream %s: %w", name, err)
		}
		delete(v.known, name)
		v.gone[name] = true
	}
	for name := range want {
		if v.known[name] != nil {
			continue
		}
		if v.gone[name] && !starting {
			return true, nil
		}
		side, node, _ := subject.ParseNodeStream(name)
		if err := v.create(ctx, side, node); err != nil {
			return false, err
		}
		for i := range v.kept {
			delete(v.kept[i].Seqs, name) // of an earlier stream of that name
		}
		s := &nodeStream{}
		if !starting {
			s.from = *v.place.of(side)
		}
		delete(v.gone, name)
		v.known[name] = s
	}
	return false, nil
}

// create makes a node stream or brings it to its configuration.
func (v *View) create(ctx context.Context, side subject.Side, node string) error {
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	in := subject.NodeInAll(side, node)
	_, err := v.cfg.JS.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              subject.NodeStream(side, node),
		Subjects:          []string{in},
		SubjectTransform:  &jetstream.SubjectTransformConfig{Source: in, Destination: subject.NodeStored(node)},
		Storage:           jetstream.FileStorage,
		MaxMsgsPerSubject: int64(v.cfg.MaxPerSubject),
		AllowDirect:       true,
		PersistMode:       jetstream.AsyncPersistMode,
	})
	if err != nil {
		return fmt.Errorf("create stream of %s: %w", node, err)
	}
	return nil
}

// piece is a frame of one side.
type piece struct {
	side subject.Side
	view.Item
}

// collect reads the next frames of both logs, about batchPoints points.
func (v *View) collect(ctx context.Context) (pieces []piece, next place, edges bool, err error) {
	next = v.place
	sources := []struct {
		side subject.Side
		src  *view.Source
	}{{subject.HubSide, &v.cfg.Hub}, {subject.EdgeSide, &v.cfg.Edge}}
	for points, progress := 0, true; progress && points < batchPoints; {
		progress = false
		for _, s := range sources {
			item, ok, err := s.src.Next(ctx, *next.of(s.side), v.cfg.Log)
			if err != nil {
				return nil, next, false, err
			}
			if !ok {
				continue
			}
			progress = true
			points += len(item.Frame.Entries)
			*next.of(s.side) = item.Seq
			pieces = append(pieces, piece{s.side, item})
			for i := range item.Frame.Entries {
				edges = edges || item.Frame.Entries[i].IsEdge()
			}
		}
	}
	return pieces, next, edges, nil
}

// batch publishes the next frames of both logs and waits until every stream
// has what it should. more is false when there were none.
func (v *View) batch(ctx context.Context) (more bool, err error) {
	pieces, next, edges, err := v.collect(ctx)
	if err != nil || len(pieces) == 0 {
		return false, err
	}
	if edges {
		again, err := v.provision(ctx, false)
		if err != nil {
			return false, err
		}
		if again {
			v.save(true)
			return true, v.recover(ctx)
		}
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

// message is a point on its way into a stream.
type message struct {
	stream  string
	subject string
	payload []byte
}

// add appends a point of log message seq unless its stream has it already or
// its node has left.
func (v *View) add(msgs []message, side subject.Side, seq uint64, p *point.Point) []message {
	name := subject.NodeStream(side, p.Holder())
	s := v.known[name]
	if s == nil || seq <= s.from {
		return msgs
	}
	if s.skip > 0 {
		s.skip--
		return msgs
	}
	s.last++
	return append(msgs, message{name, subject.NodeIn(side, p.Series), point.AppendPayload(nil, p)})
}

// publish sends messages, asks for an answer to the last one of each stream,
// and compares the sequences: a stream that lost one answers with less.
func (v *View) publish(ctx context.Context, msgs []message) error {
	last := map[string]int{}
	for i := range msgs {
		last[msgs[i].stream] = i
	}
	for i := range msgs {
		m := &nats.Msg{Subject: msgs[i].subject, Data: msgs[i].payload}
		if last[msgs[i].stream] == i {
			m.Reply = v.acks.Subject
		}
		if err := v.cfg.Conn.PublishMsg(m); err != nil {
			return fmt.Errorf("publish to %s: %w", msgs[i].stream, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	for len(last) > 0 {
		m, err := v.acks.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("wait for %d node streams: %w", len(last), err)
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
		delete(last, ack.Stream)
	}
	return nil
}

// save writes the checkpoints, now and then or when it must. It is not
// synced: after a power cut an older or a damaged one costs a rebuild.
func (v *View) save(must bool) {
	if !must && time.Since(v.saved) < checkpointEvery {
		return
	}
	c := checkpoint{Place: v.place, Seqs: make(map[string]uint64, len(v.known))}
	for name, s := range v.known {
		if s.skip > 0 || s.from > *v.place.of(sideOf(name)) {
			return // still catching up: the older checkpoints hold
		}
		c.Seqs[name] = s.last
	}
	v.saved = time.Now()
	if v.kept = append(v.kept, c); len(v.kept) > checkpointsKept {
		v.kept = v.kept[1:]
	}
	b, err := json.Marshal(file{v.kept, v.gone})
	if err == nil {
		tmp := v.path() + ".tmp"
		if err = os.WriteFile(tmp, b, 0o600); err == nil {
			err = os.Rename(tmp, v.path())
		}
	}
	if err != nil {
		v.cfg.Log.Warn().Err(err).Msg("checkpoint not written")
	}
}

func sideOf(name string) subject.Side {
	side, _, _ := subject.ParseNodeStream(name)
	return side
}
