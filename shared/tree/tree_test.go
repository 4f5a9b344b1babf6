package tree_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/tree"
)

// build returns a tree below root. Each edge is "up down" or "up down type";
// the type is "group", or "gateway" for nodes whose name begins with gw.
func build(edges ...string) *tree.Tree {
	t := tree.New("root", point.NodeRoot)
	for _, e := range edges {
		set(t, e, 0)
	}
	return t
}

// set adds a live edge, or with since a removed one.
func set(t *tree.Tree, edge string, since uint64) {
	f := strings.Fields(edge)
	e := tree.Edge{Up: f[0], Down: f[1], NodeType: typeOf(f[1]), Removed: since > 0, Since: since}
	if len(f) == 3 {
		e.NodeType = f[2]
	}
	t.Set(e)
}

func typeOf(node string) string {
	if strings.HasPrefix(node, "gw") {
		return point.NodeGateway
	}
	return "group"
}

func words(list []string) string {
	list = slices.Clone(list)
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestEmpty(t *testing.T) {
	tr := build()
	if tr.Root() != "root" || tr.Type("root") != point.NodeRoot || !tr.Known("root") || !tr.Has("root") {
		t.Errorf("a new tree: root %q of type %q, want root", tr.Root(), tr.Type("root"))
	}
	if tr.Known("x") || tr.Has("x") || tr.Type("x") != "" || tr.Parents("x") != nil || tr.Children("root") != nil {
		t.Errorf("a new tree knows more than its root")
	}
	if got := words(tr.Ancestors("x")); got != "x" {
		t.Errorf("ancestors of an unknown node: got %q, want itself", got)
	}
	if got := words(tr.Subtree("x")); got != "x" {
		t.Errorf("subtree of an unknown node: got %q, want itself", got)
	}
	if got := tr.Until("root", "x"); got != 0 {
		t.Errorf("unknown node below the root until %d, want never", got)
	}
	if err := tr.Check("root", "x", "group"); err != nil {
		t.Errorf("first node: %v", err)
	}
}

func TestWalks(t *testing.T) {
	tr := build("root a", "root b", "a c", "c d", "d e")
	set(tr, "b d", 50)
	for _, c := range []struct{ node, ancestors, subtree, parents, children string }{
		{"root", "root", "a b c d e root", "", "a b"},
		{"a", "a root", "a c d e", "root", "c"},
		{"b", "b root", "b", "root", ""},
		{"d", "a c d root", "d e", "c", "e"},
		{"e", "a c d e root", "e", "d", ""},
	} {
		if got := words(tr.Ancestors(c.node)); got != c.ancestors {
			t.Errorf("ancestors of %s: got %q, want %q", c.node, got, c.ancestors)
		}
		if got := words(tr.Subtree(c.node)); got != c.subtree {
			t.Errorf("subtree of %s: got %q, want %q", c.node, got, c.subtree)
		}
		if got := words(tr.Parents(c.node)); got != c.parents {
			t.Errorf("parents of %s: got %q, want %q", c.node, got, c.parents)
		}
		if got := words(tr.Children(c.node)); got != c.children {
			t.Errorf("children of %s: got %q, want %q", c.node, got, c.children)
		}
		if got := tr.Ancestors(c.node)[0]; got != c.node {
			t.Errorf("ancestors of %s begin with %s, want the node", c.node, got)
		}
	}
	if e, ok := tr.Edge("b", "d"); !ok || !e.Removed || e.Since != 50 {
		t.Errorf("removed edge: got %+v, %v", e, ok)
	}
	if _, ok := tr.Edge("d", "b"); ok {
		t.Errorf("the edge is there the other way round")
	}
}

// TestMirrored: a node with several parents has each ancestor once, so that
// live points are sent once for each.
func TestMirrored(t *testing.T) {
	tr := build("root a", "root b", "a c", "b c", "c d", "a d", "root d")
	for node, want := range map[string]string{"c": "a b c root", "d": "a b c d root"} {
		if got := words(tr.Ancestors(node)); got != want {
			t.Errorf("ancestors of %s: got %q, want %q", node, got, want)
		}
	}
	if got := words(tr.Subtree("root")); got != "a b c d root" {
		t.Errorf("subtree: got %q, want every node once", got)
	}
	// A second look must not find what the first one left in the cache.
	set(tr, "b c", 9)
	if got := words(tr.Ancestors("c")); got != "a c root" {
		t.Errorf("after one parent went: got %q, want a c root", got)
	}
	tr.Drop("a")
	if got := words(tr.Ancestors("d")); got != "c d root" {
		t.Errorf("after a was dropped: got %q, want c d root", got)
	}
}

func TestType(t *testing.T) {
	tr := build("root a site", "root b", "a x sensor", "b x pump")
	if got := tr.Type("x"); got != "sensor" {
		t.Errorf("two types: got %q, want that of the first parent", got)
	}
	set(tr, "a x sensor", 5)
	if got := tr.Type("x"); got != "pump" {
		t.Errorf("first parent gone: got %q, want that of the live one", got)
	}
	set(tr, "b x pump", 5)
	if got := tr.Type("x"); got != "sensor" {
		t.Errorf("all gone: got %q, want the type it had", got)
	}
	tr.Set(tree.Edge{Up: "root", Down: "y"}) // its nodeType has not arrived yet
	if got := tr.Type("y"); got != "" {
		t.Errorf("type not known: got %q", got)
	}
	tr.Set(tree.Edge{Up: "b", Down: "y", NodeType: "late"})
	if got := tr.Type("y"); got != "late" {
		t.Errorf("one edge tells the type: got %q, want late", got)
	}
}

func TestGateways(t *testing.T) {
	tr := build("root site", "site gw1", "root gw2", "gw1 bus", "bus s", "gw2 s", "root lamp")
	for node, want := range map[string]string{"s": "gw1 gw2", "bus": "gw1", "gw1": "gw1", "site": "", "root": "", "lamp": "", "none": ""} {
		if got := words(tr.Gateways(node)); got != want {
			t.Errorf("gateways of %s: got %q, want %q", node, got, want)
		}
	}
	own := tree.New("gw1", point.NodeGateway) // at the gateway itself
	set(own, "gw1 s", 0)
	if got := words(own.Gateways("s")); got != "gw1" {
		t.Errorf("at the gateway: got %q, want gw1", got)
	}
	if err := own.Check("s", "gw9", point.NodeGateway); !errors.Is(err, tree.ErrNested) {
		t.Errorf("a gateway below the local root: got %v, want ErrNested", err)
	}
}

func TestHas(t *testing.T) {
	tr := build("root a", "a b", "b c", "lost x")
	if !tr.Has("c") || tr.Has("x") || tr.Has("lost") || !tr.Known("lost") || !tr.Known("x") {
		t.Errorf("Has(c, x, lost): got %v %v %v, want true, false, false", tr.Has("c"), tr.Has("x"), tr.Has("lost"))
	}
	set(tr, "a b", 7)
	if tr.Has("b") || tr.Has("c") || !tr.Known("b") {
		t.Errorf("a removed edge still holds its subtree")
	}
}

func TestCheckCycle(t *testing.T) {
	tr := build("root a", "a b", "b c", "root d")
	for _, c := range []struct {
		up, down string
		want     error
	}{
		{"root", "c", nil},
		{"d", "a", nil},
		{"c", "d", nil},
		{"a", "c", nil},
		{"a", "b", nil},
		{"c", "new", nil},
		{"nowhere", "new", nil},
		{"a", "a", tree.ErrCycle},
		{"new", "new", tree.ErrCycle},
		{"b", "a", tree.ErrCycle},
		{"c", "a", tree.ErrCycle},
		{"c", "b", tree.ErrCycle},
		{"a", "root", tree.ErrCycle},
		{"root", "root", tree.ErrCycle},
		{"nowhere", "root", tree.ErrCycle},
	} {
		err := tr.Check(c.up, c.down, "group")
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s -> %s: got %v, want %v", c.up, c.down, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.down) {
			t.Errorf("%s -> %s: the error %q does not name the node", c.up, c.down, err)
		}
	}
	set(tr, "b c", 4)
	if err := tr.Check("c", "a", "group"); err != nil {
		t.Errorf("c -> a after b -> c was removed: %v", err)
	}
}

func TestCheckNested(t *testing.T) {
	edges := []string{"root site", "site gw1", "gw1 bus", "bus s", "root group", "group gw2", "root x", "x y", "top gw3"}
	for _, c := range []struct {
		what, up, down, nodeType string
		want                     error
	}{
		{"gateway below the root", "root", "gw9", "gateway", nil},
		{"gateway below a group", "group", "gw9", "gateway", nil},
		{"gateway mirrored", "root", "gw1", "gateway", nil},
		{"gateway moved to a group", "group", "gw1", "gateway", nil},
		{"edge of a gateway again", "site", "gw1", "gateway", nil},
		{"subtree with a gateway moved to a group", "x", "site", "group", nil},
		{"sensor below a gateway", "bus", "new", "sensor", nil},
		{"subtree without a gateway below one", "gw1", "x", "group", nil},
		{"sensor mirrored to another gateway", "gw2", "s", "sensor", nil},
		{"node becomes a gateway", "root", "x", "gateway", nil},

		{"gateway below a gateway", "gw1", "gw9", "gateway", tree.ErrNested},
		{"gateway deep below a gateway", "s", "gw9", "gateway", tree.ErrNested},
		{"known gateway below a gateway", "gw1", "gw2", "gateway", tree.ErrNested},
		{"known gateway under another type", "gw1", "gw2", "sensor", tree.ErrNested},
		{"subtree with a gateway below one", "bus", "group", "group", tree.ErrNested},
		{"subtree not yet connected with a gateway below one", "bus", "top", "group", tree.ErrNested},
		{"node with a gateway below becomes a gateway", "root", "group", "gateway", tree.ErrNested},
		{"new node with a gateway below becomes a gateway", "root", "top", "gateway", tree.ErrNested},
		{"node below a gateway becomes a gateway by another way", "root", "bus", "gateway", tree.ErrNested},
		{"node below a gateway becomes a gateway", "gw1", "bus", "gateway", tree.ErrNested},
	} {
		tr := build(edges...)
		err := tr.Check(c.up, c.down, c.nodeType)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %s -> %s as %s: got %v, want %v", c.what, c.up, c.down, c.nodeType, err, c.want)
		}
	}
	tr := build(edges...)
	set(tr, "group gw2", 8)
	if err := tr.Check("bus", "group", "group"); err != nil {
		t.Errorf("subtree whose gateway was removed: %v", err)
	}
	tr.Set(tree.Edge{Up: "root", Down: "top", NodeType: "gateway", Removed: true, Since: 3})
	if err := tr.Check("root", "top", "gateway"); !errors.Is(err, tree.ErrNested) {
		t.Errorf("a removed gateway that got a gateway below comes back: got %v, want ErrNested", err)
	}
}

func TestUntil(t *testing.T) {
	tr := build("root gw1", "root gw2", "gw1 bus", "bus s", "s t")
	check := func(what, ancestor, node string, want uint64) {
		t.Helper()
		if got := tr.Until(ancestor, node); got != want {
			t.Errorf("%s: %s below %s until %d, want %d", what, node, ancestor, got, want)
		}
	}
	check("itself", "s", "s", tree.Forever)
	check("unknown itself", "q", "q", tree.Forever)
	check("still there", "gw1", "t", tree.Forever)
	check("never", "gw2", "t", 0)
	check("never, upside down", "t", "gw1", 0)
	check("unknown", "gw1", "q", 0)

	set(tr, "bus s", 100) // moved away
	set(tr, "gw2 s", 0)
	check("moved", "gw1", "s", 100)
	check("subtree of the moved node", "gw1", "t", 100)
	check("new place", "gw2", "t", tree.Forever)
	check("what was above", "gw1", "bus", tree.Forever)

	set(tr, "s t", 70) // t left s before s left gw1
	check("the earlier of two removed edges", "gw1", "t", 70)
	check("the node under which it was", "s", "t", 70)
	set(tr, "s t", 130) // t left s after s left gw1
	check("the earlier one is above", "gw1", "t", 100)
	check("at the new place", "gw2", "t", 130)

	set(tr, "gw1 t", 120) // a second way, longer
	check("two ways, the later one", "gw1", "t", 120)
	set(tr, "gw1 t", 90)
	check("two ways, the later one is the other", "gw1", "t", 100)
	set(tr, "gw1 t", 0)
	check("two ways, one still there", "gw1", "t", tree.Forever)
	set(tr, "gw1 t", 140)
	check("gone again", "gw1", "t", 140)

	set(tr, "bus s", 0)
	check("returned", "gw1", "s", tree.Forever)
	set(tr, "bus s", 200)
	check("gone again, later", "gw1", "s", 200)
	tr.Drop("bus")
	check("dropped", "gw1", "s", 0)
}

// TestCircle: two ends may each make an edge, and both together close a
// circle. Everything still ends, and everybody in it is below everybody.
func TestCircle(t *testing.T) {
	tr := build("root a", "a b", "b c", "c a", "c d", "x x")
	for _, node := range []string{"a", "b", "c"} {
		if got := words(tr.Ancestors(node)); got != "a b c root" {
			t.Errorf("ancestors of %s: got %q, want a b c root", node, got)
		}
		if got := words(tr.Subtree(node)); got != "a b c d" {
			t.Errorf("subtree of %s: got %q, want a b c d", node, got)
		}
		if !tr.Has(node) {
			t.Errorf("%s is not below the root", node)
		}
	}
	if got := words(tr.Subtree("root")); got != "a b c d root" {
		t.Errorf("subtree of the root: got %q, want every node once", got)
	}
	if got := words(tr.Ancestors("x")); got != "x" {
		t.Errorf("ancestors of a node below itself: got %q, want x", got)
	}
	set(tr, "c d", 30)
	set(tr, "b c", 40)
	set(tr, "c a", 50)
	if got := tr.Until("a", "d"); got != 30 {
		t.Errorf("d below a until %d, want 30", got)
	}
	if got := tr.Until("d", "a"); got != 0 {
		t.Errorf("a below d until %d, want never", got)
	}
	if got := tr.Until("c", "b"); got != 50 {
		t.Errorf("b below c until %d, want 50, by the removed edge c -> a", got)
	}
	set(tr, "b c", 0)
	set(tr, "c a", 0)
	if err := tr.Check("d", "gw1", "gateway"); err != nil {
		t.Errorf("an edge beside the circle: %v", err)
	}
	if err := tr.Check("b", "c", "group"); !errors.Is(err, tree.ErrCycle) {
		t.Errorf("an edge of the circle: got %v, want ErrCycle", err)
	}
	circle := build("root gw1", "gw1 a", "a gw1", "a s")
	if got := words(circle.Gateways("s")); got != "gw1" {
		t.Errorf("gateways above a circle: got %q, want gw1", got)
	}
}

func TestDrop(t *testing.T) {
	tr := build("root a", "a b", "b c", "root b")
	set(tr, "a d", 5)
	tr.Drop("b")
	if tr.Known("b") || tr.Has("c") || tr.Known("c") {
		t.Errorf("after Drop: b known %v, c below the root %v, c known %v, want none", tr.Known("b"), tr.Has("c"), tr.Known("c"))
	}
	if got := words(tr.Children("root")) + "/" + words(tr.Children("a")) + "/" + words(tr.Parents("c")); got != "a//" {
		t.Errorf("after Drop: edges to or from b are left: %s", got)
	}
	if _, ok := tr.Edge("a", "d"); !ok {
		t.Errorf("Drop took an edge of another node")
	}
	tr.Drop("b") // again, and one never seen
	tr.Drop("never")
	set(tr, "a b", 0)
	if !tr.Has("b") || tr.Has("c") {
		t.Errorf("a dropped node that comes back has what it had below, want it alone")
	}
}
