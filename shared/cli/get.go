package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// Get is the command `get`.
type Get struct {
	Target
	Node string `arg:"" help:"Node: an id, the beginning of one, or a path of descriptions such as gw1/pump."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help shows examples.
func (Get) Help() string {
	return "Prints a node with its points, parents and children.\n\n" +
		"Examples:\n\n    get pump\n    get gw1/pump --json"
}

// Run prints a node.
func (g Get) Run(ctx context.Context, out *Out) error {
	return g.Do(ctx, func(c *client.Client) error {
		id, err := c.Resolve(ctx, g.Node)
		if err != nil {
			return err
		}
		n, err := c.Get(ctx, id)
		if err != nil {
			return err
		}
		if g.JSON {
			for i := range n.Points {
				n.Points[i].DataType = "" // left out: the value shows it
			}
			return out.JSON(n)
		}
		names, err := c.Names(ctx)
		if err != nil {
			return err
		}
		if err := out.Table(nodeRows(n, names)); err != nil || len(n.Points) == 0 {
			return err
		}
		if err := out.Println(""); err != nil {
			return err
		}
		return out.Table(pointRows(n, time.Now()))
	})
}

// nodeRows tells where a node is.
func nodeRows(n *api.Node, names *client.Names) [][]string {
	var parents []string
	for _, up := range n.Parents {
		parents = append(parents, names.Label(up))
	}
	rows := [][]string{{"node", n.ID}, {"name", names.Path(n.ID)}, {"type", n.NodeType}, {"below", strings.Join(parents, ", ")}}
	for _, child := range n.Children {
		rows = append(rows, []string{"child", names.Label(child.ID), child.NodeType, child.ID})
	}
	return rows
}

// pointRows tells what a node holds.
func pointRows(n *api.Node, now time.Time) [][]string {
	rows := [][]string{{"TYPE", "VALUE", "AGE", "AUTHOR", "ORIGIN"}}
	for i := range n.Points {
		p := &n.Points[i]
		rows = append(rows, []string{typeKey(p.Type, p.Key), valueText(p), Age(now, p.Time), p.Author, p.Origin})
	}
	return rows
}

// typeKey returns TYPE[/KEY] as people write it.
func typeKey(pointType, key string) string {
	if key == point.NoKey {
		return pointType
	}
	return pointType + "/" + key
}

func valueText(p *api.Point) string {
	if p.DataType == point.JSON.String() {
		return string(p.Value)
	}
	return client.ValueText(p.Value)
}

// Set is the command `set`.
type Set struct {
	Target
	Node     string  `arg:"" help:"Node: an id, the beginning of one, or a path of descriptions."`
	TypeKey  string  `arg:"" name:"type[/key]" help:"What to set, such as limit or description."`
	Value    *string `arg:"" optional:"" help:"The value."`
	File     string  `placeholder:"FILE" help:"Read the value from a file, - for standard input: for what is too long for a command line."`
	DataType string  `name:"type" enum:",float,int,uint,string,json,bool" default:"" placeholder:"TYPE" help:"float, int, uint, string, json or bool. By default the type that it has, else a number is a float and anything else a string."`
	Force    bool    `help:"Write what the type of the node does not know, or not allow."`
	Expect   string  `placeholder:"TIME" help:"Set it only if the present value is of this time (see get --json)."`
	JSON     bool    `name:"json" help:"Print JSON."`
}

// Help shows examples.
func (Set) Help() string {
	return "Writes one value and waits until it would survive a power cut.\n\n" +
		"What a type of node knows (see sapflow-hub node types) must be a setting of it, and allowed.\n\nExamples:\n\n    set pump limit 42.5\n    set gw1 description 'Boiler room'\n    set pump enabled true --type bool\n    set pump serial 0012 --type string"
}

// written is what `set --json` prints.
type written struct {
	Node string `json:"node"`
	Type string `json:"type"`
	Key  string `json:"key"`
}

// Run writes a value.
func (s Set) Run(ctx context.Context, out *Out) error {
	value, err := s.value()
	if err != nil {
		return err
	}
	return s.Do(ctx, func(c *client.Client) error {
		id, err := c.Resolve(ctx, s.Node)
		if err != nil {
			return err
		}
		series, err := seriesOf(id, s.TypeKey)
		if err != nil {
			return err
		}
		dataType := s.DataType
		if !s.Force {
			n, err := c.Get(ctx, id)
			if err != nil {
				return err
			}
			if dataType, err = fitSetting(n, series, value, dataType); err != nil {
				return err
			}
		}
		if err := c.Set(ctx, series, value, dataType, s.Expect); err != nil || !s.JSON {
			return err
		}
		return out.JSON(written{series.Node, series.Type, series.Key})
	})
}

// value returns the argument, or what the file holds.
func (s Set) value() (string, error) {
	if (s.File == "") == (s.Value == nil) {
		return "", Usagef("give one value: as an argument, or with --file")
	}
	if s.Value != nil {
		return *s.Value, nil
	}
	in := os.Stdin
	if s.File != "-" {
		f, err := os.Open(s.File)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	// A little more than any instance takes, so that it is refused as too large.
	b, err := io.ReadAll(io.LimitReader(in, 4<<20))
	return string(b), err
}

// Status is the command `status`.
type Status struct {
	Target
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints what the instance tells about itself.
func (s Status) Run(ctx context.Context, out *Out) error {
	return s.Do(ctx, func(c *client.Client) error {
		st, err := c.Status(ctx)
		if err != nil {
			return err
		}
		return s.Print(out, st)
	})
}

// Print prints a status in the form that was asked for.
func (s Status) Print(out *Out, st *api.Status) error {
	if s.JSON {
		return out.JSON(st)
	}
	return out.Table(statusRows(st))
}
