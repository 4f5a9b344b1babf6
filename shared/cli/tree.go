package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// Tree is the command `tree`.
type Tree struct {
	Target
	Node string `arg:"" optional:"" help:"Node, the root of the instance by default."`
	JSON bool   `name:"json" help:"Print JSON: a list of {id, nodeType, description, parents}."`
}

// Help shows examples.
func (Tree) Help() string {
	return "Prints a node and all below it, with the values that they have now and their age.\n\n" +
		"Examples:\n\n    tree\n    tree gw1"
}

// Run prints a tree.
func (t Tree) Run(ctx context.Context, out *Out) error {
	return t.Do(ctx, func(c *client.Client) error {
		id, err := node(ctx, c, t.Node)
		if err != nil {
			return err
		}
		if t.JSON {
			list, err := c.Tree(ctx, id)
			if err != nil {
				return err
			}
			return out.JSON(list)
		}
		nodes, err := c.Nodes(ctx, id, api.NodesRequest{Depth: -1})
		if err != nil {
			return err
		}
		return printTree(out, nodes, time.Now())
	})
}

// printTree prints nodes as a tree, the first one on top. A node with several
// parents is shown whole below the first of them only.
func printTree(w io.Writer, nodes []api.Node, now time.Time) error {
	t := treePrinter{Writer: bufio.NewWriter(w), now: now, byID: map[string]*api.Node{}, shown: map[string]bool{}}
	for i := range nodes {
		t.byID[nodes[i].ID] = &nodes[i]
	}
	if len(nodes) > 0 {
		t.node(&nodes[0], "", "")
	}
	return t.Flush()
}

type treePrinter struct {
	*bufio.Writer
	now   time.Time
	byID  map[string]*api.Node
	shown map[string]bool
}

// node prints n, with first before its own line and rest before those below.
func (t *treePrinter) node(n *api.Node, first, rest string) {
	again := t.shown[n.ID]
	t.shown[n.ID] = true
	fmt.Fprintf(t, "%s%s\n", first, t.title(n, again))
	if again {
		return
	}
	var children []*api.Node
	for _, c := range n.Children {
		if child := t.byID[c.ID]; child != nil { // else it came while we read
			children = append(children, child)
		}
	}
	bar := rest + "   "
	if len(children) > 0 {
		bar = rest + "│  "
	}
	t.points(n, bar)
	for i, child := range children {
		if i == len(children)-1 {
			t.node(child, rest+"└─ ", rest+"   ")
		} else {
			t.node(child, rest+"├─ ", rest+"│  ")
		}
	}
}

func (t *treePrinter) title(n *api.Node, again bool) string {
	title := n.NodeType + " " + n.ID
	if name := description(n); name != "" {
		title = Printable(name) + "  (" + title + ")"
	}
	if again {
		title += "  shown above"
	}
	return title
}

func description(n *api.Node) string {
	for i := range n.Points {
		if p := &n.Points[i]; p.Type == point.TypeDescription && p.Key == point.NoKey {
			return client.ValueText(p.Value)
		}
	}
	return ""
}

// points prints the values of a node, but for its name, in columns.
func (t *treePrinter) points(n *api.Node, bar string) {
	var cells [][2]string
	var ages []string
	var width [2]int
	for i := range n.Points {
		p := &n.Points[i]
		if p.Type == point.TypeDescription && p.Key == point.NoKey {
			continue
		}
		cell := [2]string{Printable(typeKey(p.Type, p.Key)), Printable(valueText(p))}
		for k := range cell {
			width[k] = max(width[k], utf8.RuneCountInString(cell[k]))
		}
		cells, ages = append(cells, cell), append(ages, Age(t.now, p.Time))
	}
	for i, cell := range cells {
		fmt.Fprintf(t, "%s%-*s  %-*s  %s\n", bar, width[0], cell[0], width[1], cell[1], ages[i])
	}
}
