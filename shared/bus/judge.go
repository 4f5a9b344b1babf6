package bus

import (
	"errors"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// Verdict is what Judge found about the points of a frame.
type Verdict struct {
	Kept  []frame.Entry
	Aside []frame.Aside
	Edges []frame.Entry // points of edges that were set aside and concern the author's subtree
}

// Limits bound what a gateway may fill the hub's memory with; 0 is no bound.
type Limits struct {
	Nodes  int // below it, those included that it has removed
	Series int // of these nodes and its own
}

// Judge tells which points of a frame the gateway author may author: those
// about a node that is below it, or was when the point was taken. Edges of
// the frame count for the points after them. What is new beyond the limits is
// set aside too. Nothing is changed; the frame is never refused for what the
// tree looks like now, so a node that was moved away meanwhile does not block
// the line.
func (b *Instance) Judge(author string, entries []frame.Entry, limits Limits) Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := judge{Instance: b, author: author, limits: limits, until: map[string]uint64{}, moving: map[string]bool{}}
	defer j.undo()
	var v Verdict
	v.Kept = entries[:0:0]
	for i := range entries {
		e := &entries[i]
		if i%turn == turn-1 && len(j.old) == 0 { // else the tree is not as it should be
			b.yield()
		}
		reason := j.reason(&e.Point)
		if reason == 0 {
			v.Kept = append(v.Kept, *e)
			continue
		}
		v.Aside = append(v.Aside, frame.Aside{Seq: e.At.Seq, Reason: reason})
		// Beyond the limits nothing is corrected: that would be new here as well.
		if e.IsEdge() && reason != frame.Invalid && reason != frame.Limit && j.below(e.Up) == tree.Forever {
			v.Edges = append(v.Edges, *e)
		}
		if n := len(v.Kept); n > 0 && !e.More {
			v.Kept[n-1].More = false // the group ends before the point set aside
		}
	}
	return v
}

// judge looks at points in order and keeps the edges it accepts in the tree
// until undo.
type judge struct {
	*Instance
	author string
	limits Limits
	until  map[string]uint64 // cache of below
	moving map[string]bool   // nodes that were below the author before an edge of this frame
	old    []tree.Edge
	filled *filled // what is there; nil until something is new
}

// filled is how full a gateway's share is, with what its frame has added.
type filled struct {
	Limits
	fresh map[point.Series]bool
}

// counted returns it. That takes a walk over the nodes, which only frames
// that bring something new pay for.
func (j *judge) counted() *filled {
	if j.filled == nil {
		j.filled = &filled{fresh: map[point.Series]bool{}}
		j.filled.Nodes = j.tree.Held(j.author, func(node string) { j.filled.Series += j.state.Count(node) })
	}
	return j.filled
}

// fresh tells whether a series is new, where that matters.
func (j *judge) fresh(s point.Series) bool {
	return j.limits.Series > 0 && j.state.Get(s) == nil && !j.counted().fresh[s]
}

func (j *judge) undo() {
	restore(j.tree, j.old)
}

// restore puts edges back as they were, the last change first. An edge
// without a type had not been there.
func restore(t *tree.Tree, old []tree.Edge) {
	for i := len(old) - 1; i >= 0; i-- {
		if e := old[i]; e.NodeType == "" && e.Since == 0 {
			t.Unset(e.Up, e.Down)
		} else {
			t.Set(e)
		}
	}
}

// below returns until when a node was below the author.
func (j *judge) below(node string) uint64 {
	u, ok := j.until[node]
	if !ok {
		u = j.tree.Until(j.author, node)
		j.until[node] = u
	}
	return u
}

func (j *judge) reason(p *point.Point) frame.Reason {
	if point.Check(p) != nil || len(p.Data) > point.MaxGroupBytes {
		return frame.Invalid
	}
	if until := j.below(p.Holder()); until == 0 || p.Time > until {
		return frame.Foreign
	}
	fresh := j.fresh(p.Series)
	if fresh && j.filled.Series >= j.limits.Series {
		return frame.Limit
	}
	if p.IsEdge() && (p.Type == point.TypeNodeType || p.Type == point.TypeTombstone) {
		if reason := j.edgeReason(p); reason != 0 {
			return reason
		}
	}
	if fresh {
		j.filled.fresh[p.Series] = true
		j.filled.Series++
	}
	return 0
}

func (j *judge) edgeReason(p *point.Point) frame.Reason {
	if h := j.state.Get(p.Series); h != nil && h.Time > p.Time {
		return 0 // late: history, which changes no edge
	}
	before, known := j.tree.Edge(p.Up, p.Node)
	if !known {
		before = tree.Edge{Up: p.Up, Down: p.Node, Removed: true}
	}
	edge, adds := before, true
	if p.Type == point.TypeNodeType {
		edge.NodeType = string(p.Data)
		h := j.state.Get(point.Series{Up: p.Up, Node: p.Node, Type: point.TypeTombstone, Key: point.NoKey})
		edge.Removed = h != nil && before.Removed
	} else {
		v, _ := p.Uint64()
		edge.Removed, edge.Since = v%2 == 1 || edge.NodeType == "", p.Time
		adds = v%2 == 0
	}
	// Only what is below the author now may be attached: a time in the past
	// must not fetch back what was moved away.
	// A move is one frame: it takes a node away and attaches it elsewhere.
	own := j.moving[p.Node] || !j.tree.Known(p.Node) || j.below(p.Node) == tree.Forever
	if adds && (!own || p.Node == state.Hub) {
		return frame.Foreign
	}
	if !edge.Removed && (before.Removed || before.NodeType != edge.NodeType) {
		switch err := j.tree.Check(p.Up, p.Node, edge.NodeType); {
		case errors.Is(err, tree.ErrNested):
			return frame.Nested
		case err != nil:
			return frame.Cycle
		}
	}
	if j.limits.Nodes > 0 && !j.tree.Known(p.Node) {
		c := j.counted()
		if c.Nodes >= j.limits.Nodes {
			return frame.Limit
		}
		c.Nodes++
	}
	if edge != before {
		j.moving[p.Node] = own
		j.old = append(j.old, before)
		j.tree.Set(edge)
		clear(j.until)
	}
	return 0
}

// maxCorrections bounds what one frame of a gateway can make the hub write.
const maxCorrections = 100

// Correct writes what holds for an edge after a gateway's points about it
// were set aside, with a time that wins at the gateway, so that both ends have
// the same tree. Of an edge that is not there it says no more than that: what a
// gateway makes up does not become state.
func (b *Instance) Correct(edges []frame.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Clock.Now()
	seen := map[point.Series]bool{}
	for i := range edges {
		if seen[edges[i].Series] || len(seen) == maxCorrections {
			continue
		}
		seen[edges[i].Series] = true
		p := point.Point{Series: edges[i].Series, Origin: "correction"}
		p.Time = max(now, after(edges[i].Time))
		if h := b.state.Get(p.Series); h != nil {
			p.DataType, p.Data, p.Tombstone = h.DataType, h.Data, h.Tombstone
			p.Time = max(p.Time, after(h.Time))
		} else if p.Type == point.TypeTombstone {
			p.DataType, p.Data = point.Uint, []byte{1}
		} else {
			continue
		}
		if p.Time > now+maxAhead { // a gateway cannot pull the hub's clock
			p.Time = now
		}
		entry := []frame.Entry{{Point: p}}
		if err := b.log.Add(entry, func(error) {}); err != nil {
			return writeError(err)
		}
		b.merge(entry)
	}
	return nil
}
