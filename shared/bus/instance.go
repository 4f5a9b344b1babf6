// Package bus owns the public subjects of an instance (p, j, q and up), the
// same code at the agent and at the hub: it validates, stamps and merges
// writes, hands them to the log, broadcasts what became state and answers
// questions about the tree.
//
// A write is in state and on up at once and durable when the log has
// committed it. Package journal owns the log, package link what crosses to
// the other end; points from there come in through Apply.
package bus

import (
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

// maxAhead is how far in the future a time given by a client may lie.
const maxAhead = uint64(5 * time.Minute)

// Config says what an instance consists of.
type Config struct {
	Author   string // state.Hub, or the gateway's node id
	Root     string // id of the local root
	RootType string // point.NodeRoot or point.NodeGateway
	State    *state.State
	Log      *journal.Log // nil: Attach brings it, and only reading works until then
	Clock    *Clock
	// Complete tells that State has all that the logs have: questions are
	// answered before Attach.
	Complete bool
	// Dropped is that of the snapshot.
	Dropped uint64
	// Forget drops the state of nodes that can no longer be reached from the
	// root: a gateway forgets what was moved away.
	Forget bool
	// Conn is where programs are; Serve listens there and up goes there.
	Conn *nats.Conn
	// Interest tells whether somebody listens on a subject; nil publishes
	// always, which an external server needs.
	Interest func(subject string) bool
	// History returns the history of this instance, nil until it is open.
	History func() *history.Archive
	// Status fills in what q.status tells.
	Status func(*api.Status)
	// OnMerge is called, with the instance locked, for each point that became
	// state. It must not block and not call the instance.
	OnMerge func(*frame.Entry)
	Logger  zerolog.Logger // silent by default
}

// Instance is one end's state with its public face.
type Instance struct {
	cfg    Config
	saving sync.Mutex    // one snapshot at a time
	ready  chan struct{} // closed once there is a log
	log    *journal.Log  // set before ready is closed

	mu       sync.RWMutex
	replayed map[point.Series]bool // what changed before ready, to be broadcast then
	state    *state.State
	tree     *tree.Tree
	counters map[string]int

	marksMu sync.Mutex            // apart from mu: a commit tells while writers wait for the log
	marks   map[string]*watermark // by stream
	// Points of the own log that gave way to a full disk, as far as its frames
	// tell: before this start, and since.
	droppedBefore, dropped uint64
}

// New returns an instance with the tree that its state describes.
func New(cfg Config) *Instance {
	b := &Instance{
		cfg: cfg, state: cfg.State, tree: tree.New(cfg.Root, cfg.RootType),
		marks: map[string]*watermark{}, droppedBefore: cfg.Dropped, counters: map[string]int{},
		ready: make(chan struct{}), replayed: map[point.Series]bool{},
	}
	b.state.All(func(e *frame.Entry) { b.refreshEdge(&e.Point) })
	if cfg.Log != nil {
		b.Attach(cfg.Log)
	}
	return b
}

// Attach gives the instance its log, after the logs have been replayed: from
// now on it takes writes. Who listens on up since before hears what the logs
// have changed.
func (b *Instance) Attach(log *journal.Log) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = log
	for s := range b.replayed {
		if h := b.state.Get(s); h != nil {
			b.broadcast(&h.Point)
		}
	}
	b.replayed = nil
	close(b.ready)
}

func (b *Instance) attached() bool {
	select {
	case <-b.ready:
		return true
	default:
		return false
	}
}

// errStarting is for what needs a log that is not open yet.
var errStarting = api.Errorf(api.CodeBusy, "try again in a second", "the instance is starting")

// refreshEdge brings the tree to what state says about the edge of p.
func (b *Instance) refreshEdge(p *point.Point) {
	if p.IsEdge() && (p.Type == point.TypeNodeType || p.Type == point.TypeTombstone) {
		b.tree.Set(b.edge(p.Up, p.Node))
	}
}

// edge returns the edge as state has it. Without a nodeType it is removed:
// its other half is still on the way.
func (b *Instance) edge(up, down string) tree.Edge {
	e := tree.Edge{Up: up, Down: down, Removed: true}
	if h := b.state.Get(point.Series{Up: up, Node: down, Type: point.TypeNodeType, Key: point.NoKey}); h != nil && !h.Point.Removed() {
		e.NodeType, e.Removed = string(h.Data), false
	}
	if h := b.state.Get(point.Series{Up: up, Node: down, Type: point.TypeTombstone, Key: point.NoKey}); h != nil {
		v, _ := h.Uint64()
		e.Removed = e.Removed || v%2 == 1
		e.Since = h.Time
	}
	return e
}

// merge offers points to the state and broadcasts the winners. The instance
// is locked.
func (b *Instance) merge(entries []frame.Entry) {
	var won []int
	var removed []string
	for i := range entries {
		e := &entries[i]
		if b.state.Merge(e) != state.Won {
			continue
		}
		won = append(won, i)
		if e.IsEdge() {
			b.refreshEdge(&e.Point)
			if edge, ok := b.tree.Edge(e.Up, e.Node); ok && edge.Removed {
				removed = append(removed, e.Node)
			}
		}
	}
	for _, i := range won {
		if b.replayed != nil {
			b.replayed[entries[i].Series] = true
			continue
		}
		b.broadcast(&entries[i].Point)
		if b.cfg.OnMerge != nil {
			b.cfg.OnMerge(&entries[i])
		}
	}
	if b.cfg.Forget {
		for _, node := range removed {
			b.forget(node)
		}
	}
}

// forget drops what can no longer be reached from the root, from node down.
func (b *Instance) forget(node string) {
	for _, n := range b.tree.Subtree(node) {
		if !b.tree.Has(n) {
			b.state.Forget(n)
			b.tree.Drop(n)
		}
	}
}

// broadcast publishes a point that became state, once for each ancestor that
// somebody listens on.
func (b *Instance) broadcast(p *point.Point) {
	var payload []byte
	for _, ancestor := range b.tree.Ancestors(p.Holder()) {
		s := subject.Up(ancestor, p.Series)
		if b.cfg.Interest != nil && !b.cfg.Interest(s) {
			continue
		}
		if payload == nil {
			payload = point.AppendPayload(make([]byte, 0, point.PayloadLen(p)), p)
		}
		if err := b.cfg.Conn.Publish(s, payload); err != nil {
			b.counters["up_failed"]++
		}
	}
}

// Apply merges a frame of another author that is durable here, or that is
// not history at all. Points too far in the future are left out of state.
func (b *Instance) Apply(f *frame.Frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	frame.Groups(f.Entries, func(group []frame.Entry) bool {
		if n += len(group); n > turn {
			b.yield()
			n = 0
		}
		b.merge(b.present(f, group))
		return true
	})
}

// turn is how many points of a frame are looked at before others get theirs:
// 32,000 would hold up all gateways and writers for 40 ms.
const turn = 256

// yield lets others have the lock for once.
func (b *Instance) yield() {
	b.mu.Unlock()
	runtime.Gosched()
	b.mu.Lock()
}

// present returns the points of a group of f that are not too far ahead.
func (b *Instance) present(f *frame.Frame, group []frame.Entry) []frame.Entry {
	if !f.AnyFuture(group) {
		return group
	}
	kept := slices.DeleteFunc(slices.Clone(group), func(e frame.Entry) bool { return f.Future(&e) })
	b.counters["future"] += len(group) - len(kept)
	return kept
}

// Write validates points as one group, stamps those without a time, merges
// them and queues them for the log. done, if not nil, is called once the
// group is durable or could not be made so; without it the log commits at
// its interval. expect, if not nil, is the time that the head of the first
// point must have.
func (b *Instance) Write(points []point.Point, expect *uint64, done func(error)) error {
	entries := make([]frame.Entry, len(points))
	size := 0
	for i := range points {
		if err := point.Check(&points[i]); err != nil {
			return b.refuse(err)
		}
		entries[i].Point = points[i]
		size += len(points[i].Series.String()) + point.PayloadLen(&points[i])
	}
	if !b.attached() {
		return b.refuse(errStarting)
	}
	if len(points) == 0 {
		return b.refuse(api.Errorf(api.CodeInvalid, "send at least one point", "empty group"))
	}
	if size > point.MaxGroupBytes {
		return b.refuse(api.Errorf(api.CodeTooLarge, "split it, or store a reference", "value or group has %d bytes, more than %d", size, point.MaxGroupBytes))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.write(entries, expect, done)
	if err != nil {
		b.count(err)
	}
	return err
}

func (b *Instance) refuse(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(err)
	return err
}

func (b *Instance) count(err error) { b.counters["refused_"+string(api.CodeOf(err))]++ }

func (b *Instance) write(entries []frame.Entry, expect *uint64, done func(error)) error {
	now := b.cfg.Clock.Now()
	if expect != nil {
		var have uint64
		if h := b.state.Get(entries[0].Series); h != nil {
			have = h.Time
		}
		if have != *expect {
			return api.Errorf(api.CodeConflict, "read it again and decide anew", "%s has changed since: its head is of %s", entries[0].Series, point.TimeOf(have).Format(time.RFC3339Nano))
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.Time > now+maxAhead {
			return api.Errorf(api.CodeTime, "check the clock of the writer, or leave the time out", "time %s of %s is more than 5 min in the future", point.TimeOf(e.Time).Format(time.RFC3339), e.Series)
		}
		if e.Time == 0 {
			e.Time = now
			if h := b.state.Get(e.Series); h != nil {
				e.Time = max(now, after(h.Time))
			}
		}
	}
	undo, err := b.tryEdges(entries)
	if err == nil {
		err = b.checkNodes(entries)
	}
	if err == nil {
		err = b.log.Add(entries, done)
	}
	if err != nil {
		undo()
		return writeError(err)
	}
	b.merge(entries)
	return nil
}

// after returns the next time after t, or t at the end of time.
func after(t uint64) uint64 { return max(t, t+1) }

func writeError(err error) error {
	switch err {
	case journal.ErrFull:
		return api.Errorf(api.CodeBusy, "try again in a second", "%s", err)
	case journal.ErrClosed:
		return api.Errorf(api.CodeBusy, "the instance is stopping, try again", "%s", err)
	}
	return err
}

// tryEdges puts the edges of a group into the tree, removals first, and
// checks each that is added. undo takes them out again.
func (b *Instance) tryEdges(entries []frame.Entry) (undo func(), err error) {
	type pair struct{ up, down string }
	changed := map[pair]tree.Edge{}
	var order []pair
	for i := range entries {
		e := &entries[i]
		if !e.IsEdge() {
			continue
		}
		k := pair{e.Up, e.Node}
		edge, ok := changed[k]
		if !ok {
			edge = b.edge(e.Up, e.Node)
			order = append(order, k)
		}
		switch e.Type {
		case point.TypeNodeType:
			edge.NodeType = string(e.Data)
			if h := b.state.Get(point.Series{Up: e.Up, Node: e.Node, Type: point.TypeTombstone, Key: point.NoKey}); h == nil {
				edge.Removed = false
			}
		case point.TypeTombstone:
			v, _ := e.Uint64()
			edge.Removed, edge.Since = v%2 == 1, e.Time
		}
		changed[k] = edge
	}
	var old []tree.Edge
	undo = func() { restore(b.tree, old) }
	for _, adding := range []bool{false, true} {
		for _, k := range order {
			edge := changed[k]
			if edge.Removed == adding {
				continue
			}
			before, known := b.tree.Edge(k.up, k.down)
			if !known {
				before = tree.Edge{Up: k.up, Down: k.down, Removed: true}
			}
			if adding {
				if err := b.checkEdge(edge, before); err != nil {
					return undo, err
				}
			} else if !known {
				return undo, api.Errorf(api.CodeNotFound, "see `tree`", "there is no edge from %s to %s", k.up, k.down)
			}
			old = append(old, before)
			b.tree.Set(edge)
		}
	}
	return undo, nil
}

func (b *Instance) checkEdge(e, before tree.Edge) error {
	if e.NodeType == "" {
		return api.Errorf(api.CodeInvalid, "write nodeType in the same group", "the edge from %s to %s has no nodeType", e.Up, e.Down)
	}
	if e.Down == state.Hub {
		return api.Errorf(api.CodeInvalid, "choose another id", "node id %q is reserved", state.Hub)
	}
	if before.Removed || before.NodeType != e.NodeType {
		// Before Has: a node moved below itself has left the tree by now.
		if err := b.tree.Check(e.Up, e.Down, e.NodeType); err != nil {
			return err
		}
	}
	if !b.tree.Has(e.Up) {
		return b.noNode(e.Up)
	}
	return nil
}

func (b *Instance) noNode(node string) error {
	return api.Errorf(api.CodeNotFound, "see `tree`, or create it with its edge in one group", "there is no node %s", node)
}

// checkNodes tells whether every node that a group is about exists, edges of
// the group included.
func (b *Instance) checkNodes(entries []frame.Entry) error {
	for i := range entries {
		if h := entries[i].Holder(); !b.tree.Has(h) {
			return b.noNode(h)
		}
	}
	return nil
}

// View runs read with the instance locked for reading. read must not keep
// anything of them.
func (b *Instance) View(read func(*state.State, *tree.Tree)) {
	b.mu.Lock() // walks fill the tree's cache
	defer b.mu.Unlock()
	read(b.state, b.tree)
}

// Count adds to a counter that q.status shows.
func (b *Instance) Count(name string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counters[name] += n
}

// HeadsBelow returns copies of all winners held by the given nodes and all
// nodes below them, once each is durable here: what the other end has seen
// must not be lost by a power cut.
func (b *Instance) HeadsBelow(ctx context.Context, nodes ...string) ([]frame.Entry, error) {
	list := b.headsBelow(nodes)
	return list, b.log.Commit(ctx)
}

// HeadsOf returns copies of the winners of some series, likewise durable.
func (b *Instance) HeadsOf(ctx context.Context, list []point.Series) (heads []frame.Entry, err error) {
	b.View(func(s *state.State, _ *tree.Tree) {
		for _, series := range list {
			if h := s.Get(series); h != nil {
				heads = append(heads, *h)
			}
		}
	})
	return heads, b.log.Commit(ctx)
}

func (b *Instance) headsBelow(nodes []string) []frame.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []frame.Entry
	seen := map[string]bool{}
	for _, top := range nodes {
		for _, n := range b.tree.Subtree(top) {
			if seen[n] {
				continue
			}
			seen[n] = true
			for _, h := range b.state.Heads(n) {
				list = append(list, *h)
			}
		}
	}
	return list
}

// Detach returns the points that take a node out of the tree: a tombstone for
// each edge from its parents.
func (b *Instance) Detach(node string) []point.Point {
	b.mu.Lock()
	defer b.mu.Unlock()
	var points []point.Point
	for _, up := range b.tree.Parents(node) {
		s := point.Series{Up: up, Node: node, Type: point.TypeTombstone, Key: point.NoKey}
		p := point.Point{Series: s, DataType: point.Uint, Data: []byte{1}}
		if h := b.state.Get(s); h != nil {
			v, _ := h.Uint64()
			p.Data = binary.LittleEndian.AppendUint64(nil, v|1)
		}
		points = append(points, p)
	}
	return points
}

// Newest returns the newest time in state, 0 for an empty one.
func (b *Instance) Newest() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var newest uint64
	b.state.All(func(e *frame.Entry) { newest = max(newest, e.Time) })
	return newest
}
