package driver

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

const (
	// settle is how long changes gather before they are looked at: of a storm
	// the last is put in force, ten times a second at most.
	settle = 100 * time.Millisecond
	// reportEvery is how often nodes tell how they are.
	reportEvery = time.Minute
	// A driver that failed is started again after least, then ever later, and
	// soon again when it has run for a while.
	retryLeast = time.Second
	retryMost  = time.Minute
	ranWell    = 2 * time.Minute
)

// Config says what a manager works with.
type Config struct {
	Instance *bus.Instance
	Kinds    []Kind
	Now      func() uint64 // hub time, ns
	Log      zerolog.Logger

	// For tests; what the constants say by default.
	Settle, ReportEvery, RetryLeast time.Duration
}

// Manager runs drivers.
type Manager struct {
	cfg   Config
	kinds map[string]*Kind
	wake  chan struct{} // capacity 1
	// watched are the nodes whose settings matter: id to *schema.Type.
	// Written with the instance locked, so that no change falls between.
	watched sync.Map

	mu       sync.Mutex
	running  map[string]*runner // by node
	stopping map[string]*runner // until they have ended
	group    sync.WaitGroup

	// Only for Run.
	answered map[point.Series]uint64 // settings, with the time of the value
	retry    bool                    // some could not be answered
}

// New returns a manager that runs nothing yet.
func New(cfg Config) *Manager {
	cfg.Settle = cmp.Or(cfg.Settle, settle)
	cfg.ReportEvery = cmp.Or(cfg.ReportEvery, reportEvery)
	cfg.RetryLeast = cmp.Or(cfg.RetryLeast, retryLeast)
	m := &Manager{
		cfg: cfg, kinds: map[string]*Kind{}, wake: make(chan struct{}, 1),
		running: map[string]*runner{}, stopping: map[string]*runner{}, answered: map[point.Series]uint64{},
	}
	for i := range cfg.Kinds {
		m.kinds[cfg.Kinds[i].Type.Name] = &cfg.Kinds[i]
	}
	m.kick()
	return m
}

func (m *Manager) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Changed tells of a point that became state, with the instance locked. It
// does not block.
func (m *Manager) Changed(e *frame.Entry) {
	if e.IsEdge() {
		if e.Type == point.TypeNodeType || e.Type == point.TypeTombstone {
			m.kick()
		}
		return
	}
	if t, ok := m.watched.Load(e.Node); ok && !t.(*schema.Type).Tells(e.Type) {
		m.kick()
	}
}

// Run runs drivers until ctx ends, and waits for them.
func (m *Manager) Run(ctx context.Context) error {
	defer m.group.Wait()
	defer m.stopAll()
	report := time.NewTicker(m.cfg.ReportEvery)
	defer report.Stop()
	quiet := time.NewTimer(m.cfg.Settle)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-report.C:
			for _, r := range m.runners() {
				r.port.report()
			}
			if m.retry {
				m.kick()
			}
			continue
		case <-m.wake:
		}
		quiet.Reset(m.cfg.Settle)
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C:
		}
		select {
		case <-m.wake: // looked at below
		default:
		}
		m.look(ctx)
	}
}

// Running returns the nodes whose drivers run, or are ending.
func (m *Manager) Running() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(m.running)), maps.Keys(m.stopping))
}

func (m *Manager) runners() []*runner {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.running))
}

func (m *Manager) stopAll() {
	for _, r := range m.runners() {
		r.cancel()
	}
}

// look brings what runs to what the tree says, and answers settings.
func (m *Manager) look(ctx context.Context) {
	m.retry = false
	seen := m.scan()
	m.mu.Lock()
	for id, r := range m.running {
		if n := seen.nodes[id]; n == nil || n.Type != r.kind.Type {
			r.cancel()
			delete(m.running, id)
			m.stopping[id] = r
		}
	}
	for id, n := range seen.nodes {
		switch r := m.running[id]; {
		case r != nil:
			r.port.set(n)
		case m.stopping[id] == nil: // else it is looked at again when that has ended
			m.start(ctx, n)
		}
	}
	running := maps.Clone(m.running)
	m.mu.Unlock()
	for node, rule := range seen.rules {
		for _, r := range running {
			r.port.setRule(node, rule)
		}
	}
	for series := range m.answered {
		if !seen.settings[series] {
			delete(m.answered, series)
		}
	}
	for _, s := range seen.answers {
		if m.answered[s.Series] == s.at {
			continue
		}
		if settings.Answer(m.cfg.Instance, s.Series, s.at, s.refused, m.cfg.Log) {
			m.answered[s.Series] = s.at
		} else {
			m.retry = true
		}
	}
}

// start runs a driver. The manager is locked.
func (m *Manager) start(ctx context.Context, n *Node) {
	ctx, cancel := context.WithCancel(ctx)
	kind := m.kinds[n.Type.Name]
	r := &runner{kind: kind, cancel: cancel, port: newPort(m, kind, n)}
	m.running[n.ID] = r
	m.group.Go(func() {
		defer cancel()
		r.run(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.stopping, n.ID)
		m.kick()
	})
}

// answer is what is told about a setting.
type answer struct {
	point.Series
	at      uint64
	refused *schema.Refused
}

// seen is what a look at the tree found.
type seen struct {
	nodes    map[string]*Node // that a driver runs for
	rules    map[string]*Node // settings of nodes that drivers write to
	settings map[point.Series]bool
	answers  []answer
}

// scan reads the tree.
func (m *Manager) scan() *seen {
	s := &seen{nodes: map[string]*Node{}, rules: map[string]*Node{}, settings: map[point.Series]bool{}}
	var written []string
	for _, r := range m.runners() {
		written = append(written, r.port.written()...)
	}
	m.cfg.Instance.View(func(st *state.State, t *tree.Tree) {
		watch := map[string]*schema.Type{}
		for _, id := range t.Subtree(t.Root()) {
			kind := m.kinds[t.Type(id)]
			if kind == nil {
				continue
			}
			n := s.read(st, id, kind.Type)
			watch[id] = kind.Type
			s.rules[id] = n
			m.parts(s, st, t, n, id, watch, map[string]bool{id: true})
			slices.SortFunc(n.Parts, func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) })
			if !n.Bool(schema.Disabled) {
				s.nodes[id] = n
			}
		}
		for _, id := range written {
			if watch[id] == nil && t.Has(id) {
				watch[id] = schema.Readings
				s.rules[id] = s.read(st, id, schema.Readings)
			}
		}
		for id, typ := range watch {
			m.watched.Store(id, typ)
		}
		m.watched.Range(func(id, _ any) bool {
			if watch[id.(string)] == nil {
				m.watched.Delete(id)
			}
			return true
		})
	})
	return s
}

// parts adds to n what is part of it below node. What lies below another node
// with a driver is no part of this one.
func (m *Manager) parts(s *seen, st *state.State, t *tree.Tree, n *Node, node string, watch map[string]*schema.Type, been map[string]bool) {
	parts := m.kinds[n.Type.Name].Parts
	for _, id := range t.Children(node) {
		typ := t.Type(id)
		if been[id] || m.kinds[typ] != nil {
			continue
		}
		been[id] = true
		if i := slices.IndexFunc(parts, func(p *schema.Type) bool { return p.Name == typ }); i >= 0 {
			part := s.read(st, id, parts[i])
			watch[id], s.rules[id] = part.Type, part
			if !part.Bool(schema.Disabled) {
				n.Parts = append(n.Parts, part)
			}
		}
		m.parts(s, st, t, n, id, watch, been)
	}
}

// read returns a node with its settings, and notes what is to be answered.
func (s *seen) read(st *state.State, id string, typ *schema.Type) *Node {
	n := &Node{ID: id, Type: typ, settings: map[string]point.Point{}}
	for _, h := range st.Heads(id) {
		if h.IsEdge() || typ.Tells(h.Type) {
			continue
		}
		setting := typ.Setting(h.Type)
		if typ == schema.Readings && setting == nil {
			continue // of a node that a driver has made all else is its user's
		}
		s.settings[h.Series] = true
		var refused *schema.Refused
		if !h.Removed() {
			refused = typ.Check(&h.Point)
			if refused == nil {
				n.settings[h.Type] = h.Point
			}
		}
		if h.Author == state.Hub && (refused != nil || setting != nil && (!setting.Probed || h.Removed())) {
			s.answers = append(s.answers, answer{h.Series, h.Time, refused})
		}
	}
	return n
}
