package main

import (
	"context"

	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// nodeCmd are the commands below `node`.
type nodeCmd struct {
	Add    nodeAdd    `cmd:"" help:"Make a node."`
	Mv     nodeMove   `cmd:"" help:"Put a node below another parent."`
	Mirror nodeMirror `cmd:"" help:"Put a node below one parent more."`
	Rm     nodeRemove `cmd:"" help:"Take a node from its parents."`
	Types  cli.Types  `cmd:"" help:"Print which settings types of nodes have."`
}

// nodeID is what the commands print as JSON.
type nodeID struct {
	ID string `json:"id"`
}

type nodeAdd struct {
	cli.Target
	Name   string `arg:"" optional:"" help:"Its description."`
	Parent string `placeholder:"NODE" help:"Node above it, the root by default."`
	Type   string `required:"" placeholder:"TYPE" help:"Its type, such as site, group or sensor."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (nodeAdd) Help() string {
	return "Prints the id of the new node.\n\nExample:\n\n    sapflow-hub node add --type site --parent Norway Oslo"
}

// Run makes a node.
func (n nodeAdd) Run(ctx context.Context, out *cli.Out) error {
	return n.Do(ctx, func(c *client.Client) error {
		parent, err := resolveOrRoot(ctx, c, n.Parent)
		if err != nil {
			return err
		}
		id, err := c.NodeAdd(ctx, parent, n.Type, n.Name)
		switch {
		case err != nil:
			return err
		case n.JSON:
			return out.JSON(nodeID{id})
		}
		return out.Println(id)
	})
}

func resolveOrRoot(ctx context.Context, c *client.Client, name string) (string, error) {
	if name == "" {
		return c.Root(ctx)
	}
	return c.Resolve(ctx, name)
}

type nodeMove struct {
	cli.Target
	Node   string `arg:"" help:"Node to move."`
	Parent string `arg:"" help:"Node to put it below."`
	From   string `placeholder:"NODE" help:"Only parent to take it from; all of them by default."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run moves a node.
func (n nodeMove) Run(ctx context.Context, out *cli.Out) error {
	return change(ctx, n.Target, out, n.JSON, []string{n.Node, n.Parent, n.From}, func(c *client.Client, ids []string) error {
		return c.NodeMove(ctx, ids[0], ids[2], ids[1])
	})
}

type nodeMirror struct {
	cli.Target
	Node   string `arg:"" help:"Node to show a second time."`
	Parent string `arg:"" help:"Node to put it below, too."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run mirrors a node.
func (n nodeMirror) Run(ctx context.Context, out *cli.Out) error {
	return change(ctx, n.Target, out, n.JSON, []string{n.Node, n.Parent}, func(c *client.Client, ids []string) error {
		return c.NodeMirror(ctx, ids[0], ids[1])
	})
}

type nodeRemove struct {
	cli.Target
	Node string `arg:"" help:"Node to remove, with all that is below it and nowhere else."`
	From string `placeholder:"NODE" help:"Only parent to take it from; all of them by default."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run removes a node.
func (n nodeRemove) Run(ctx context.Context, out *cli.Out) error {
	return change(ctx, n.Target, out, n.JSON, []string{n.Node, n.From}, func(c *client.Client, ids []string) error {
		return c.NodeRemove(ctx, ids[0], ids[1])
	})
}

// change resolves names (the first is that of the node, "" stays "") and
// changes the tree.
func change(ctx context.Context, t cli.Target, out *cli.Out, asJSON bool, names []string, do func(c *client.Client, ids []string) error) error {
	return t.Do(ctx, func(c *client.Client) error {
		ids := make([]string, len(names))
		for i, name := range names {
			var err error
			if name == "" {
				continue
			}
			if ids[i], err = c.Resolve(ctx, name); err != nil {
				return err
			}
		}
		if err := do(c, ids); err != nil || !asJSON {
			return err
		}
		return out.JSON(nodeID{ids[0]})
	})
}
