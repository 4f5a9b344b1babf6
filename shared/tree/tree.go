// Package tree owns the DAG of nodes in memory: ancestors, subtrees, the
// boundaries of gateways, and the checks of a change before it is made.
//
// It is pure: it knows edges, not points, and no NATS. It is not safe for
// concurrent use. Edges merged from two ends may close a circle that neither
// end made alone; every walk tolerates that.
package tree

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sapflow/sapflow/shared/point"
)

// Errors of a change that is refused.
var (
	// ErrCycle is returned for an edge that would make a node its own ancestor.
	ErrCycle = errors.New("edge closes a cycle")
	// ErrNested is returned for a gateway that would come below a gateway.
	ErrNested = errors.New("a gateway below a gateway")
)

// Edge is the connection from an up node to a down node.
type Edge struct {
	Up, Down string
	NodeType string // type of the down node as this edge names it
	Removed  bool
	Since    uint64 // time of the tombstone point that decided Removed, ns
}

// Forever is the time until which a node that is still there is below another.
const Forever = ^uint64(0)

// Tree is the DAG below a root.
type Tree struct {
	root     string
	rootType string
	down     map[string]map[string]*Edge // up -> down
	up       map[string]map[string]*Edge // down -> up

	ancestors map[string][]string // cache, dropped when an edge changes
}

// New returns a tree that has only its root.
func New(root, rootType string) *Tree {
	return &Tree{
		root: root, rootType: rootType,
		down: map[string]map[string]*Edge{}, up: map[string]map[string]*Edge{},
		ancestors: map[string][]string{},
	}
}

// Root returns the id of the root.
func (t *Tree) Root() string { return t.root }

// Set adds or replaces an edge.
func (t *Tree) Set(e Edge) {
	if t.down[e.Up] == nil {
		t.down[e.Up] = map[string]*Edge{}
	}
	if t.up[e.Down] == nil {
		t.up[e.Down] = map[string]*Edge{}
	}
	t.down[e.Up][e.Down] = &e
	t.up[e.Down][e.Up] = &e
	clear(t.ancestors)
}

// Unset forgets an edge.
func (t *Tree) Unset(up, down string) {
	delete(t.down[up], down)
	delete(t.up[down], up)
	clear(t.ancestors)
}

// Drop forgets all edges from and to a node.
func (t *Tree) Drop(node string) {
	for down := range t.down[node] {
		delete(t.up[down], node)
	}
	for up := range t.up[node] {
		delete(t.down[up], node)
	}
	delete(t.down, node)
	delete(t.up, node)
	clear(t.ancestors)
}

// Edge returns the edge from up to down, removed or not.
func (t *Tree) Edge(up, down string) (Edge, bool) {
	e := t.down[up][down]
	if e == nil {
		return Edge{}, false
	}
	return *e, true
}

// Known tells whether any edge, removed or not, names the node.
func (t *Tree) Known(node string) bool {
	return node == t.root || len(t.up[node]) > 0 || len(t.down[node]) > 0
}

// Has tells whether the node can be reached from the root.
func (t *Tree) Has(node string) bool {
	return node == t.root || slices.Contains(t.Ancestors(node), t.root)
}

// Type returns the type of a node, "" if no edge tells it.
func (t *Tree) Type(node string) string {
	if node == t.root {
		return t.rootType
	}
	nodeType := ""
	for _, up := range sorted(t.up[node]) {
		e := t.up[node][up]
		if !e.Removed && e.NodeType != "" {
			return e.NodeType
		}
		if nodeType == "" {
			nodeType = e.NodeType
		}
	}
	return nodeType
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Parents returns the live up nodes of a node in order.
func (t *Tree) Parents(node string) []string { return live(t.up[node]) }

// Children returns the live down nodes of a node in order.
func (t *Tree) Children(node string) []string { return live(t.down[node]) }

func live(edges map[string]*Edge) []string {
	var list []string
	for other, e := range edges {
		if !e.Removed {
			list = append(list, other)
		}
	}
	slices.Sort(list)
	return list
}

// Ancestors returns the node itself and every node above it, each once. The
// caller must not change the list.
func (t *Tree) Ancestors(node string) []string {
	if list, ok := t.ancestors[node]; ok {
		return list
	}
	list := t.walk(node, t.up)
	if t.Known(node) { // else a question about nobody would stay
		t.ancestors[node] = list
	}
	return list
}

// Subtree returns the node itself and every node below it, each once.
func (t *Tree) Subtree(node string) []string { return t.walk(node, t.down) }

// Held returns how many nodes are below a node, those included that were and
// are nowhere else now: what a gateway has made and the hub keeps. visit is
// called for each of them and for the node itself.
func (t *Tree) Held(node string, visit func(node string)) (nodes int) {
	list, seen := []string{node}, map[string]bool{node: true}
	for i := 0; i < len(list); i++ {
		visit(list[i])
		for down, e := range t.down[list[i]] {
			if !seen[down] && (!e.Removed || !t.Has(down)) {
				seen[down] = true
				list = append(list, down)
			}
		}
	}
	return len(list) - 1
}

func (t *Tree) walk(node string, edges map[string]map[string]*Edge) []string {
	list, seen := []string{node}, map[string]bool{node: true}
	for i := 0; i < len(list); i++ {
		for _, next := range live(edges[list[i]]) {
			if !seen[next] {
				seen[next] = true
				list = append(list, next)
			}
		}
	}
	return list
}

// Below tells whether node is ancestor or lies below it.
func (t *Tree) Below(ancestor, node string) bool {
	return ancestor == node || slices.Contains(t.Ancestors(node), ancestor)
}

// Gateways returns the gateways whose subtree holds the node, itself included.
func (t *Tree) Gateways(node string) []string {
	var list []string
	for _, a := range t.Ancestors(node) {
		if t.Type(a) == point.NodeGateway {
			list = append(list, a)
		}
	}
	return list
}

// Until returns the time until which node was below ancestor: Forever if it
// still is, 0 if it never was. Over several ways the latest counts, and on
// each way the edge that was removed first.
func (t *Tree) Until(ancestor, node string) uint64 {
	if t.Below(ancestor, node) {
		return Forever
	}
	// Widest path from node upwards, relaxing until nothing improves.
	until := map[string]uint64{node: Forever}
	for queue := []string{node}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for up, e := range t.up[at] {
			u := until[at]
			if e.Removed {
				u = min(u, e.Since)
			}
			if u > until[up] {
				until[up] = u
				queue = append(queue, up)
			}
		}
	}
	return until[ancestor]
}

// Check tells whether an edge from up to a down node of nodeType may be added.
func (t *Tree) Check(up, down, nodeType string) error {
	if up == down || down == t.root || t.Below(down, up) {
		return fmt.Errorf("%w: %s is %s or above it", ErrCycle, down, up)
	}
	above := t.Gateways(up)
	if nodeType == point.NodeGateway {
		if t.Type(down) != nodeType { // it becomes one: its other parents count too
			above = append(above, t.Gateways(down)...)
		}
		if len(above) > 0 {
			return fmt.Errorf("%w: %s would be below %s", ErrNested, down, above[0])
		}
		above = []string{down}
	}
	if len(above) == 0 {
		return nil
	}
	for _, n := range t.Subtree(down) {
		if n != above[0] && t.Type(n) == point.NodeGateway {
			return fmt.Errorf("%w: %s would be below %s", ErrNested, n, above[0])
		}
	}
	return nil
}
