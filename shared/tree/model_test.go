package tree_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/tree"
)

var seedFlag = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")

// newRand returns the random numbers of a test and logs how to get the same
// ones again.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("random test: repeat with -run '^%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

// model is a tree that is slow and plain: a list of edges, every question
// answered from the beginning.
type model struct{ edges []tree.Edge }

func (m *model) set(e tree.Edge) {
	m.drop(func(o tree.Edge) bool { return o.Up == e.Up && o.Down == e.Down })
	m.edges = append(m.edges, e)
}

func (m *model) drop(which func(tree.Edge) bool) { m.edges = slices.DeleteFunc(m.edges, which) }

func (m *model) clone() *model { return &model{slices.Clone(m.edges)} }

// reaches tells whether down is up or below it: by trying every chain of
// live edges up to the number of edges.
func (m *model) reaches(up, down string) bool {
	reached := map[string]bool{up: true}
	for range m.edges {
		for _, e := range m.edges {
			if !e.Removed && reached[e.Up] {
				reached[e.Down] = true
			}
		}
	}
	return reached[down]
}

func (m *model) isGateway(node string) bool {
	return slices.ContainsFunc(m.edges, func(e tree.Edge) bool { return e.Down == node && e.NodeType == point.NodeGateway })
}

func (m *model) cycle() bool {
	for _, e := range m.edges {
		if !e.Removed && (e.Down == "root" || m.reaches(e.Down, e.Up)) {
			return true
		}
	}
	return false
}

func (m *model) nested(nodes []string) bool {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b && m.isGateway(a) && m.isGateway(b) && m.reaches(a, b) {
				return true
			}
		}
	}
	return false
}

// until tries every way without a loop from node up to ancestor.
func (m *model) until(ancestor, node string, seen []string) uint64 {
	if node == ancestor {
		return tree.Forever
	}
	best := uint64(0)
	for _, e := range m.edges {
		if e.Down != node || slices.Contains(seen, e.Up) {
			continue
		}
		u := m.until(ancestor, e.Up, append(seen[:len(seen):len(seen)], node))
		if e.Removed {
			u = min(u, e.Since)
		}
		best = max(best, u)
	}
	return best
}

// compare asks both trees everything.
func compare(t *testing.T, tr *tree.Tree, m *model, nodes []string) {
	t.Helper()
	for _, a := range nodes {
		var above, below, parents, children, gateways []string
		for _, b := range nodes {
			if m.reaches(b, a) {
				above = append(above, b)
				if m.isGateway(b) {
					gateways = append(gateways, b)
				}
			}
			if m.reaches(a, b) {
				below = append(below, b)
			}
			for _, e := range m.edges {
				if !e.Removed && e.Up == a && e.Down == b {
					children = append(children, b)
				}
				if !e.Removed && e.Down == a && e.Up == b {
					parents = append(parents, b)
				}
			}
			if got, want := tr.Below(b, a), m.reaches(b, a); got != want {
				t.Errorf("Below(%s, %s): got %v, want %v", b, a, got, want)
			}
			if got, want := tr.Until(b, a), m.until(b, a, nil); got != want {
				t.Errorf("Until(%s, %s): got %d, want %d", b, a, got, want)
			}
		}
		for _, c := range []struct {
			what      string
			got, want []string
		}{
			{"Ancestors", tr.Ancestors(a), above},
			{"Subtree", tr.Subtree(a), below},
			{"Parents", tr.Parents(a), parents},
			{"Children", tr.Children(a), children},
			{"Gateways", tr.Gateways(a), gateways},
		} {
			if words(c.got) != words(c.want) {
				t.Errorf("%s(%s): got %q, want %q", c.what, a, words(c.got), words(c.want))
			}
		}
		if got, want := tr.Has(a), m.reaches("root", a); got != want {
			t.Errorf("Has(%s): got %v, want %v", a, got, want)
		}
		known := slices.ContainsFunc(m.edges, func(e tree.Edge) bool { return e.Up == a || e.Down == a })
		if got := tr.Known(a); got != (known || a == "root") {
			t.Errorf("Known(%s): got %v, want %v", a, got, known)
		}
	}
}

// compareCheck asks Check about an edge and the model what adding it does.
func compareCheck(t *testing.T, tr *tree.Tree, m *model, e tree.Edge, nodes []string) bool {
	t.Helper()
	after := m.clone()
	after.set(e)
	var want error
	switch {
	case after.cycle():
		want = tree.ErrCycle
	case after.nested(nodes):
		want = tree.ErrNested
	}
	err := tr.Check(e.Up, e.Down, e.NodeType)
	if !errors.Is(err, want) || (err == nil) != (want == nil) {
		t.Errorf("Check(%s, %s, %s): got %v, want %v", e.Up, e.Down, e.NodeType, err, want)
	}
	return err == nil
}

func describe(log []string) string {
	return fmt.Sprintf("after %d changes:\n%v", len(log), log)
}

// TestModel makes random changes to a tree and to the model. With checked
// changes the tree stays without circles and nested gateways, and Check
// refuses exactly what would make one; without, everything else still holds.
func TestModel(t *testing.T) {
	for _, checked := range []bool{true, false} {
		t.Run(fmt.Sprintf("checked=%v", checked), func(t *testing.T) {
			r := newRand(t)
			nodes := []string{"root", "a", "b", "c", "d", "gw1", "gw2"}
			for range 60 {
				tr, m := tree.New("root", point.NodeRoot), new(model)
				var log []string
				for step := range 60 {
					e := tree.Edge{Up: nodes[r.IntN(len(nodes))], Down: nodes[r.IntN(len(nodes))]}
					e.NodeType = typeOf(e.Down)
					switch r.IntN(12) {
					case 0:
						tr.Drop(e.Down)
						m.drop(func(o tree.Edge) bool { return o.Up == e.Down || o.Down == e.Down })
						log = append(log, "drop "+e.Down)
					case 1, 2, 3:
						e.Removed, e.Since = true, 1+r.Uint64N(20)
						if old, ok := tr.Edge(e.Up, e.Down); !ok && checked || ok && old.Removed {
							continue
						}
						tr.Set(e)
						m.set(e)
						log = append(log, fmt.Sprintf("%s-%s until %d", e.Up, e.Down, e.Since))
					default:
						if checked && !compareCheck(t, tr, m, e, nodes) {
							break
						}
						tr.Set(e)
						m.set(e)
						log = append(log, e.Up+"-"+e.Down)
					}
					if step%4 == 0 {
						compare(t, tr, m, nodes)
					}
					if checked && (m.cycle() || m.nested(nodes)) {
						t.Errorf("checked changes led to a circle or a nested gateway")
					}
					if t.Failed() {
						t.Fatal(describe(log))
					}
				}
			}
		})
	}
}
