package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

// Bounds of Serve.
const (
	// mailbox holds messages that wait to be handled; when it is full the
	// client library drops what comes and Serve counts it.
	mailbox = 64 << 10
	// queries is how many questions are answered side by side; so many more wait.
	queries        = 4
	waitingQueries = 1024
	// waitingImports is how many imports wait, of up to a message each.
	waitingImports = 4
	// queryWait bounds the work for one question.
	queryWait = 2 * time.Minute
)

// inboxPrefix begins the only subjects that are answered: a reply subject is
// a weapon in the hand of who may not publish there.
const inboxPrefix = "_INBOX"

// Serve answers the public subjects until ctx ends. What needs a log waits until
// there is one.
func (b *Instance) Serve(ctx context.Context) error {
	msgs := make(chan *nats.Msg, mailbox) // written by the client library, never closed
	var subs []*nats.Subscription
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}()
	for _, s := range []string{
		subject.Write, subject.Write + ".>", subject.WriteJSON, subject.WriteJSON + ".>", subject.Query + ".>", subject.ImportAny,
	} {
		sub, err := b.cfg.Conn.ChanSubscribe(s, msgs)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", s, err)
		}
		subs = append(subs, sub)
	}
	if err := b.cfg.Conn.Flush(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	ask := b.answerer(ctx, queries, waitingQueries)
	askStatus := b.answerer(ctx, 1, waitingQueries) // people look when questions take long
	defer ask.group.Wait()
	defer askStatus.group.Wait()
	imports := b.answerer(ctx, 1, waitingImports)
	defer imports.group.Wait()
	handle := func(m *nats.Msg) {
		switch {
		case !isQuestion(m):
			b.handleWrite(m)
		case m.Subject == subject.Instance(verbStatus):
			askStatus.put(m)
		case isImport(m):
			imports.put(m)
		default:
			ask.put(m)
		}
	}
	ready, early := b.ready, []*nats.Msg(nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			for _, m := range early {
				handle(m)
			}
			ready, early = nil, nil
		case m := <-msgs:
			if ready != nil && len(early) < mailbox && b.holds(m) {
				early = append(early, m)
				continue
			}
			handle(m)
		}
	}
}

// answerer answers questions, some side by side. Writes go on meanwhile.
type answerer struct {
	b     *Instance
	queue chan *nats.Msg
	group sync.WaitGroup
}

func (b *Instance) answerer(ctx context.Context, workers, waiting int) *answerer {
	a := &answerer{b: b, queue: make(chan *nats.Msg, waiting)}
	for range workers {
		a.group.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-a.queue:
					ctx, cancel := context.WithTimeout(ctx, queryWait)
					b.reply(m, b.answer(ctx, m))
					cancel()
				}
			}
		})
	}
	return a
}

// put has a question answered, or refused if too many wait.
func (a *answerer) put(m *nats.Msg) {
	select {
	case a.queue <- m:
	default:
		err := api.Errorf(api.CodeBusy, "try again later, or ask for less at once", "%d questions wait", cap(a.queue))
		_ = a.b.refuse(err)
		a.b.reply(m, api.Encode(nil, err))
	}
}

// verbStatus is the question about the instance itself.
const verbStatus = "status"

func isQuestion(m *nats.Msg) bool {
	return strings.HasPrefix(m.Subject, subject.Query+".") || isImport(m)
}

func isImport(m *nats.Msg) bool {
	_, ok := subject.ParseImport(m.Subject)
	return ok
}

// holds tells whether a message has to wait until there is a log: writes, and
// questions whose answer the logs might change.
func (b *Instance) holds(m *nats.Msg) bool {
	return !isQuestion(m) || isImport(m) || !b.cfg.Complete && m.Subject != subject.Instance(verbStatus)
}

func (b *Instance) reply(m *nats.Msg, data []byte) {
	if m.Reply == "" {
		return
	}
	if !strings.HasPrefix(m.Reply, inboxPrefix) {
		b.Count("reply_refused", 1)
		return
	}
	if limit := b.cfg.Conn.MaxPayload(); int64(len(data)) > limit {
		data = api.Encode(nil, api.Errorf(api.CodeTooLarge, "ask for less, or connect to the hub", "the answer has %d bytes, a message at most %d", len(data), limit))
	}
	if err := b.cfg.Conn.Publish(m.Reply, data); err != nil {
		b.Count("reply_failed", 1)
	}
}

// okReply is the answer to a write that is durable.
var okReply = []byte(`{}`)

func (b *Instance) handleWrite(m *nats.Msg) {
	points, err := b.parseWrite(m)
	var expect *uint64
	if err == nil {
		expect, err = parseExpect(m.Header.Get(api.HeaderExpect))
	}
	if err != nil {
		_ = b.refuse(err)
		b.reply(m, api.Encode(nil, err))
		return
	}
	var done func(error)
	if m.Reply != "" {
		done = func(err error) {
			if err != nil {
				code, hint := api.CodeBusy, "the value is in force but would not survive a power cut yet"
				if errors.Is(err, journal.ErrDiskFull) {
					code, hint = api.CodeDiskFull, hint+"; free space on the disk"
				}
				b.reply(m, api.Encode(nil, api.Errorf(code, hint, "not durable yet: %s", err)))
				return
			}
			b.reply(m, okReply)
		}
	}
	if err := b.Write(points, expect, done); err != nil {
		b.reply(m, api.Encode(nil, err))
	}
}

func parseExpect(s string) (*uint64, error) {
	if s == "" {
		return nil, nil
	}
	if ns, err := strconv.ParseUint(s, 10, 64); err == nil {
		return &ns, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "give the time of the head as RFC 3339 or ns", "%s %q is not a time", api.HeaderExpect, s)
	}
	ns := point.Nanos(t)
	return &ns, nil
}

func (b *Instance) parseWrite(m *nats.Msg) ([]point.Point, error) {
	verb, tokens, single := strings.Cut(m.Subject, ".")
	if verb == subject.Write && len(m.Data) > 2*point.MaxGroupBytes {
		return nil, api.Errorf(api.CodeTooLarge, "split it, or store a reference", "message has %d bytes, a value or group at most %d", len(m.Data), point.MaxGroupBytes)
	}
	var series point.Series
	if single {
		var ok bool
		if series, ok = subject.ParseSeries(tokens); !ok {
			return nil, api.Errorf(api.CodeInvalid, "write to p.<node>.<type>.<key> or p.<up>.<down>.<type>.<key>", "subject %q has the wrong number of tokens", m.Subject)
		}
		if err := point.CheckSeries(series); err != nil {
			return nil, err
		}
	}
	switch {
	case verb == subject.Write && single:
		points := []point.Point{{Series: series}}
		return points, point.DecodePayload(m.Data, &points[0])
	case verb == subject.Write:
		return DecodeGroup(m.Data)
	case single:
		var w api.Write
		if !longForm(m.Data, &w) {
			w = api.Write{Value: m.Data}
		}
		p, err := b.fromJSON(series, &w)
		return []point.Point{p}, err
	}
	return b.groupFromJSON(m.Data)
}

// rawReply is an answer that is no JSON.
type rawReply []byte

func (b *Instance) answer(ctx context.Context, m *nats.Msg) []byte {
	result, err := b.ask(ctx, m)
	if raw, ok := result.(rawReply); ok && err == nil {
		return raw
	}
	if err != nil && api.CodeOf(err) == api.CodeInternal {
		b.cfg.Logger.Error().Err(err).Str("subject", m.Subject).Msg("question failed")
	}
	return api.Encode(result, err)
}

func (b *Instance) ask(ctx context.Context, m *nats.Msg) (any, error) {
	if node, ok := subject.ParseImport(m.Subject); ok {
		return b.importAt(ctx, node, m.Data)
	}
	node, verb, ok := strings.Cut(strings.TrimPrefix(m.Subject, subject.Query+"."), ".")
	if !ok {
		if node != verbStatus {
			return nil, api.Errorf(api.CodeInvalid, "ask q.<node>.nodes, tree or history, or q.status", "no question %q", m.Subject)
		}
		return b.Status(), nil
	}
	if err := point.CheckID(node); err != nil {
		return nil, err
	}
	var err error
	b.View(func(_ *state.State, t *tree.Tree) {
		if !t.Known(node) {
			err = b.noNode(node)
		}
	})
	if err != nil {
		return nil, err
	}
	switch verb {
	case "nodes":
		var r api.NodesRequest
		if err := decodeRequest(m.Data, &r); err != nil {
			return nil, err
		}
		return b.nodes(node, &r)
	case "tree":
		var r api.TreeRequest
		if err := decodeRequest(m.Data, &r); err != nil {
			return nil, err
		}
		return b.branches(node, &r)
	case "history":
		var r api.HistoryRequest
		if err := decodeRequest(m.Data, &r); err != nil {
			return nil, err
		}
		return b.historyOf(ctx, node, &r)
	}
	return nil, api.Errorf(api.CodeInvalid, "ask nodes, tree or history", "no question %q about a node", verb)
}

func decodeRequest(data []byte, r any) error {
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, r); err != nil {
		return api.Errorf(api.CodeInvalid, "see API.md for the request", "request is not valid: %s", err)
	}
	return nil
}

// Status tells about the running instance.
func (b *Instance) Status() *api.Status {
	s := &api.Status{ID: b.cfg.Root}
	if !b.attached() {
		s.Link = "starting"
		return s
	}
	s.LossWindow, s.DroppedPoints = b.log.Every().String(), b.Dropped()
	b.mu.RLock()
	if len(b.counters) > 0 {
		s.Counters = make(map[string]int, len(b.counters))
		for k, n := range b.counters {
			s.Counters[k] = n
		}
	}
	b.mu.RUnlock()
	if b.cfg.Status != nil {
		b.cfg.Status(s)
	}
	return s
}

// pageBytes bounds the JSON of a page well below a message: the rest is room
// for one large value more.
func (b *Instance) pageBytes() int { return int(b.cfg.Conn.MaxPayload() * 2 / 5) }

func (b *Instance) nodes(top string, r *api.NodesRequest) (*api.NodesReply, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.levels(top, r.Depth)
	i, err := start(list, r.Cursor)
	if err != nil {
		return nil, err
	}
	reply := &api.NodesReply{Nodes: []api.Node{}}
	size := 0
	for ; i < len(list); i++ {
		if r.Type != "" && b.tree.Type(list[i]) != r.Type {
			continue
		}
		n := b.node(list[i], r.Edges)
		size += 200 * len(n.Edges)
		size += 200 + 40*len(n.Children)
		for k := range n.Points {
			size += 200 + len(n.Points[k].Value)
		}
		if len(reply.Nodes) > 0 && size > b.pageBytes() {
			reply.Next = list[i]
			break
		}
		reply.Nodes = append(reply.Nodes, n)
	}
	return reply, nil
}

// levels returns node and those below it in breadth-first order, down to a
// depth; -1 for all.
func (b *Instance) levels(top string, depth int) []string {
	if depth < 0 {
		return b.tree.Subtree(top)
	}
	list, seen := []string{top}, map[string]bool{top: true}
	level := list
	for ; depth > 0 && len(level) > 0; depth-- {
		var next []string
		for _, n := range level {
			for _, c := range b.tree.Children(n) {
				if !seen[c] {
					seen[c] = true
					next = append(next, c)
				}
			}
		}
		list, level = append(list, next...), next
	}
	return list
}

// start returns where a page begins: at the node that the cursor names. If it
// has gone meanwhile the list is read from the beginning by the caller.
func start(list []string, cursor string) (int, error) {
	if cursor == "" {
		return 0, nil
	}
	for i, n := range list {
		if n == cursor {
			return i, nil
		}
	}
	return 0, api.Errorf(api.CodeConflict, "ask again from the first page", "the tree has changed since the page before")
}

// node describes a node; with edges it lists the points of the edges below
// it, removed edges included.
func (b *Instance) node(id string, edges bool) api.Node {
	n := api.Node{ID: id, NodeType: b.tree.Type(id), Parents: b.tree.Parents(id), Points: []api.Point{}, Children: []api.Child{}, Removed: !b.tree.Has(id)}
	if n.Parents == nil {
		n.Parents = []string{}
	}
	for _, h := range b.state.Heads(id) {
		switch {
		case h.IsEdge() && edges:
			p := toAPI(h)
			p.Up, p.Down = h.Up, h.Node
			n.Edges = append(n.Edges, p)
		case !h.IsEdge() && !h.Removed():
			n.Points = append(n.Points, toAPI(h))
		}
	}
	for _, c := range b.tree.Children(id) {
		e, _ := b.tree.Edge(id, c)
		n.Children = append(n.Children, api.Child{ID: c, NodeType: e.NodeType})
	}
	return n
}

func toAPI(h *frame.Entry) api.Point {
	return api.Point{
		Type: h.Type, Key: h.Key, Time: point.TimeOf(h.Time).Format(time.RFC3339Nano), DataType: h.DataType.String(),
		Value: h.AppendJSON(nil), Origin: h.Origin, Author: h.Author,
	}
}

func (b *Instance) branches(top string, r *api.TreeRequest) (*api.TreeReply, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.tree.Subtree(top)
	i, err := start(list, r.Cursor)
	if err != nil {
		return nil, err
	}
	reply := &api.TreeReply{}
	size := 0
	for ; i < len(list); i++ {
		br := api.Branch{ID: list[i], NodeType: b.tree.Type(list[i]), Parents: b.tree.Parents(list[i])}
		if h := b.state.Get(point.Series{Node: list[i], Type: point.TypeDescription, Key: point.NoKey}); h != nil && !h.Removed() && h.DataType == point.String {
			br.Description = string(h.Data)
		}
		size += 120 + len(br.Description) + 66*len(br.Parents)
		if len(reply.Nodes) > 0 && size > b.pageBytes() {
			reply.Next = list[i]
			break
		}
		reply.Nodes = append(reply.Nodes, br)
	}
	return reply, nil
}
