// Package state owns the winning point of every series: how points of all
// authors merge, and the snapshot they are restored from.
//
// It is pure: it knows no NATS, no clock and no files. Merging is
// commutative, associative and idempotent, so both ends of a link reach the
// same state in whatever order points arrive. It is not safe for concurrent
// use.
package state

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// Hub is the author of everything that is written at the hub. No node may
// have this id.
const Hub = "hub"

// Compare orders two points of one series by who wins: later time, then the
// hub, then the smaller author, then later in that author's log. Content
// comes last, for the case of an author that broke the rule that a place in
// its log is used once.
func Compare(a, b *frame.Entry) int {
	if c := cmp.Compare(a.Time, b.Time); c != 0 {
		return c
	}
	if a.Author != b.Author {
		switch {
		case a.Author == Hub:
			return 1
		case b.Author == Hub:
			return -1
		}
		return strings.Compare(b.Author, a.Author)
	}
	if c := cmp.Compare(a.At.Epoch, b.At.Epoch); c != 0 {
		return c
	}
	if c := cmp.Compare(a.At.Seq, b.At.Seq); c != 0 {
		return c
	}
	return comparePayload(a, b)
}

func comparePayload(a, b *frame.Entry) int {
	return cmp.Or(
		cmp.Compare(a.Tombstone, b.Tombstone),
		strings.Compare(a.Origin, b.Origin),
		cmp.Compare(a.DataType, b.DataType),
		bytes.Compare(a.Data, b.Data),
	)
}

// State holds the winner of each series, by node.
type State struct {
	nodes map[string]map[point.Series]*frame.Entry // by holder: edges stand with their up node
	count int
}

// New returns a state without points.
func New() *State { return &State{nodes: map[string]map[point.Series]*frame.Entry{}} }

// Outcome tells what merging a point did.
type Outcome uint8

// The outcomes of Merge.
const (
	Lost Outcome = iota // an equal or later point is there
	Same                // it won with the value and time that were there already
	Won                 // it is the new value
)

// Merge offers e as the value of its series. The state keeps a copy that
// shares the data.
func (s *State) Merge(e *frame.Entry) Outcome {
	holder := s.nodes[e.Holder()]
	if holder == nil {
		holder = map[point.Series]*frame.Entry{}
		s.nodes[e.Holder()] = holder
	}
	old := holder[e.Series]
	if old == nil {
		s.count++
		holder[e.Series] = keep(new(frame.Entry), e)
		return Won
	}
	if Compare(e, old) <= 0 {
		return Lost
	}
	same := old.Time == e.Time && comparePayload(e, old) == 0
	keep(old, e)
	if same {
		return Same
	}
	return Won
}

// keep copies e into head and drops what belongs to its frame.
func keep(head, e *frame.Entry) *frame.Entry {
	data := e.Data
	*head = *e
	head.Data = bytes.Clone(data) // else one point would hold its whole frame in memory
	head.More = false
	return head
}

// Get returns the winner of a series, removed or not, or nil. The caller must
// not change it.
func (s *State) Get(series point.Series) *frame.Entry {
	return s.nodes[series.Holder()][series]
}

// Heads returns the winners held by a node, its own points and those of the
// edges below it, in order of their series. The caller must not change them.
func (s *State) Heads(node string) []*frame.Entry {
	list := make([]*frame.Entry, 0, len(s.nodes[node]))
	for _, e := range s.nodes[node] {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *frame.Entry) int { return a.Series.Compare(b.Series) })
	return list
}

// Count returns how many series a node holds.
func (s *State) Count(node string) int { return len(s.nodes[node]) }

// Forget drops all that a node holds.
func (s *State) Forget(node string) {
	s.count -= len(s.nodes[node])
	delete(s.nodes, node)
}

// Len returns the number of series.
func (s *State) Len() int { return s.count }

// All calls visit for every winner, node by node in order.
func (s *State) All(visit func(*frame.Entry)) {
	nodes := make([]string, 0, len(s.nodes))
	for n := range s.nodes {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	for _, n := range nodes {
		for _, e := range s.Heads(n) {
			visit(e)
		}
	}
}
