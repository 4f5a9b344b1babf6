package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// Port is what a driver has of the world besides its device. It is safe for
// concurrent use.
type Port struct {
	Log zerolog.Logger

	m       *Manager
	id      string
	changed chan struct{} // capacity 1

	mu    sync.Mutex // never held while the instance is asked
	node  *Node
	sinks map[string]*sink
	told  map[point.Series]told
}

// told is what was answered to a setting that the driver answers itself.
type told struct {
	at   uint64
	text string
}

func newPort(m *Manager, kind *Kind, n *Node) *Port {
	return &Port{
		Log: m.cfg.Log.With().Str("driver", kind.Type.Name).Str("node_id", n.ID).Logger(),
		m:   m, id: n.ID, node: n, changed: make(chan struct{}, 1), sinks: map[string]*sink{}, told: map[point.Series]told{},
	}
}

// Node returns the node as its settings are now.
func (p *Port) Node() *Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node
}

// Changed is sent to after Node has changed. Its capacity is 1: the driver
// looks at the last state only.
func (p *Port) Changed() <-chan struct{} { return p.changed }

// Now returns hub time in ns.
func (p *Port) Now() uint64 { return p.m.cfg.Now() }

// set gives the driver a new state of its node.
func (p *Port) set(n *Node) {
	p.mu.Lock()
	same := p.node.equal(n)
	p.node = n
	p.mu.Unlock()
	if same {
		return
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// equal tells whether two states of a node are the same for a driver.
func (n *Node) equal(m *Node) bool {
	if n.ID != m.ID || len(n.settings) != len(m.settings) || len(n.Parts) != len(m.Parts) {
		return false
	}
	for name := range n.settings {
		if !n.Same(m, name) {
			return false
		}
	}
	return slices.EqualFunc(n.Parts, m.Parts, (*Node).equal)
}

// Pending tells whether a setting that the driver answers itself waits for an
// answer.
func (p *Port) Pending(n *Node, setting string) bool {
	at, ok := n.settings[setting]
	if !ok {
		return false
	}
	p.mu.Lock()
	t := p.told[at.Series]
	p.mu.Unlock()
	if t.at == at.Time {
		return false
	}
	return settings.Answered(p.m.cfg.Instance, at.Series).Time != point.TimeOf(at.Time).Format(time.RFC3339Nano)
}

// Answer tells whether settings of a node are in force that the driver answers
// itself. Those that nobody has made are passed over.
func (p *Port) Answer(n *Node, err error, names ...string) {
	for _, name := range names {
		at, ok := n.settings[name]
		if !ok {
			continue
		}
		t := told{at: at.Time}
		var refused *schema.Refused
		if err != nil && !errors.As(err, &refused) {
			refused = &schema.Refused{Code: schema.CodeDriver, Reason: err.Error()}
		}
		if refused != nil {
			t.text = refused.Code + refused.Reason
		}
		p.mu.Lock()
		before := p.told[at.Series]
		p.mu.Unlock()
		if before == t || before == (told{at: at.Time}) {
			continue
		}
		if settings.Answer(p.m.cfg.Instance, at.Series, at.Time, refused, p.Log) {
			p.mu.Lock()
			p.told[at.Series] = t
			p.mu.Unlock()
		}
	}
}

// Put takes readings. Those without a time are of now. They are durable within
// the commit interval; those that the log has no room for are counted as
// errors. Their nodes are well.
func (p *Port) Put(points ...point.Point) { p.put(points, "", nil) }

// PutWith is Put for readings of a node that lack something.
func (p *Port) PutWith(err error, node string, points ...point.Point) { p.put(points, node, err) }

func (p *Port) put(points []point.Point, node string, err error) {
	now := p.Now()
	for i := range points {
		p.open(points[i].Node)
	}
	p.mu.Lock()
	out := make([]point.Point, 0, len(points))
	for i := range points {
		if points[i].Time == 0 {
			points[i].Time = now
		}
		if s := p.sinks[points[i].Node]; s != nil {
			out = s.put(out, &points[i], now)
			if err == nil || s.node != node {
				out = s.well(out, now)
			}
		}
	}
	p.mu.Unlock()
	p.write(out)
	if err != nil {
		p.Fail(node, err)
	}
}

// Commit returns when all readings so far are durable.
func (p *Port) Commit(ctx context.Context) error {
	_, err := p.m.cfg.Instance.HeadsOf(ctx, nil)
	return err
}

// open makes the sink of a node if there is none.
func (p *Port) open(node string) {
	p.mu.Lock()
	known := p.sinks[node] != nil
	p.mu.Unlock()
	if known {
		return
	}
	s := &sink{node: node, series: map[point.Series]*line{}}
	p.m.cfg.Instance.View(func(st *state.State, t *tree.Tree) {
		var typ *schema.Type
		if w, ok := p.m.watched.Load(node); ok {
			typ = w.(*schema.Type)
		} else {
			typ = schema.Readings
			p.m.watched.Store(node, typ)
		}
		s.setRule((&seen{settings: map[point.Series]bool{}}).read(st, node, typ), nil)
		s.resume(st)
	})
	p.mu.Lock()
	if p.sinks[node] == nil {
		p.sinks[node] = s
	}
	p.mu.Unlock()
	p.m.kick() // settings made before are to be answered
}

// written returns the nodes that were written to.
func (p *Port) written() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.sinks {
		list = append(list, id)
	}
	return list
}

// setRule puts settings of a node in force that are about its readings.
func (p *Port) setRule(node string, n *Node) {
	p.mu.Lock()
	var out []point.Point
	if s := p.sinks[node]; s != nil {
		out = s.setRule(n, nil)
	}
	p.mu.Unlock()
	p.write(out)
}

// Fail counts something that failed at a node. It is told soon if all was well
// before.
func (p *Port) Fail(node string, err error) {
	p.open(node)
	now := p.Now()
	p.mu.Lock()
	out := p.sinks[node].fail(err, now)
	p.mu.Unlock()
	if out != nil {
		p.Log.Warn().Err(err).Str("at", node).Msg("driver fails")
	}
	p.write(out)
}

// Well tells that what failed at a node works. Put does so too.
func (p *Port) Well(node string) {
	now := p.Now()
	p.mu.Lock()
	var out []point.Point
	if s := p.sinks[node]; s != nil {
		out = s.well(nil, now)
	}
	p.mu.Unlock()
	p.write(out)
}

// miss counts polls that were left out.
func (p *Port) miss(n uint64) {
	if n == 0 {
		return
	}
	p.open(p.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sinks[p.id].count[schema.Missed] += n
}

// report writes how the nodes are.
func (p *Port) report() {
	now := p.Now()
	p.mu.Lock()
	var out []point.Point
	for _, s := range p.sinks {
		out = s.report(out, now)
	}
	p.mu.Unlock()
	p.write(out)
}

// flush writes what windows hold.
func (p *Port) flush() {
	p.mu.Lock()
	var out []point.Point
	for _, s := range p.sinks {
		out = s.flush(out)
	}
	p.mu.Unlock()
	p.write(out)
}

// close writes what is left when the driver has ended.
func (p *Port) close() {
	p.flush()
	p.report()
}

// groupBytes bounds the points written at once, well below what the instance
// takes.
const groupBytes = point.MaxGroupBytes * 3 / 4

// write hands points to the instance.
func (p *Port) write(points []point.Point) {
	for len(points) > 0 {
		n, size := 0, 0
		for n < len(points) {
			if size += len(points[n].Series.String()) + point.PayloadLen(&points[n]); n > 0 && size > groupBytes {
				break
			}
			n++
		}
		p.writeGroup(points[:n])
		points = points[n:]
	}
}

func (p *Port) writeGroup(points []point.Point) {
	err := p.m.cfg.Instance.Write(points, nil, nil)
	if err == nil {
		return
	}
	if len(points) > 1 && api.CodeOf(err) != api.CodeBusy {
		for i := range points { // a node that was removed meanwhile costs no other's reading
			p.writeGroup(points[i : i+1])
		}
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range points {
		s := p.sinks[points[i].Node]
		switch {
		case s == nil:
		case api.CodeOf(err) == api.CodeNotFound:
			delete(p.sinks, points[i].Node)
		default:
			s.lose(err)
		}
	}
}

// Child returns the id of a node below the driver's own that the driver makes,
// if it is not there, nobody has removed it, and there are fewer than most
// below already. It is told apart by name, which also describes it until
// somebody does that better.
func (p *Port) Child(nodeType, name string, most int) (string, error) {
	id := childID(p.id, name)
	var has, removed bool
	var count int
	p.m.cfg.Instance.View(func(st *state.State, t *tree.Tree) {
		if has = t.Has(id); has {
			return
		}
		if h := st.Get(point.Series{Up: p.id, Node: id, Type: point.TypeTombstone, Key: point.NoKey}); h != nil {
			v, _ := h.Uint64()
			removed = v%2 == 1
		}
		count = len(t.Children(p.id))
	})
	switch {
	case has:
		return id, nil
	case removed:
		return "", fmt.Errorf("%s: %w", name, ErrRemoved)
	case count >= most:
		return "", fmt.Errorf("%s would be one node more than %d", name, most)
	}
	description := point.Point{Series: point.Series{Node: id, Type: point.TypeDescription, Key: point.NoKey}, DataType: point.String, Data: []byte(name)}
	if err := p.m.cfg.Instance.Write(append(point.Edge(p.id, id, nodeType), description), nil, nil); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	return id, nil
}

// childID returns an id that is the same at every start, so that a crash makes
// no second node.
func childID(parent, name string) string {
	sum := sha256.Sum256([]byte(parent + "/" + name))
	return "n" + hex.EncodeToString(sum[:])[:15]
}
