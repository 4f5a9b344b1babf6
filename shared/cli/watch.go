package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// Watch is the command `watch`.
type Watch struct {
	Target
	Node  string `arg:"" optional:"" help:"Node, the root of the instance by default."`
	JSON  bool   `name:"json" help:"Print one JSON object a line."`
	Count int    `placeholder:"N" help:"End after N points; by default at Ctrl-C."`
}

// Help shows examples.
func (Watch) Help() string {
	return "Prints each value of a node and of all below it from now on, as it comes.\n\n" +
		"Examples:\n\n    watch\n    watch gw1 --json"
}

// errEnough ends a watch that has seen its number of points.
var errEnough = errors.New("enough")

// livePoint is what `watch --json` prints.
type livePoint struct {
	Node     string          `json:"node,omitempty"`
	Up       string          `json:"up,omitempty"`
	Down     string          `json:"down,omitempty"`
	Type     string          `json:"type"`
	Key      string          `json:"key"`
	Time     string          `json:"time"`
	DataType string          `json:"dataType"`
	Value    json.RawMessage `json:"value"`
	Origin   string          `json:"origin"`
	Removed  bool            `json:"removed,omitempty"`
}

// Run prints live points.
func (w Watch) Run(ctx context.Context, out *Out) error {
	return w.Do(ctx, func(c *client.Client) error {
		id, err := node(ctx, c, w.Node)
		if err != nil {
			return err
		}
		names, err := c.Names(ctx)
		if err != nil {
			return err
		}
		seen := 0
		err = c.Watch(ctx, id, func() { out.Notef("watching %s (%s), end with Ctrl-C", Printable(names.Label(id)), id) }, func(p *point.Point) error {
			if err := w.print(out, names, p); err != nil {
				return err
			}
			if seen++; seen == w.Count {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
}

func (w Watch) print(out *Out, names *client.Names, p *point.Point) error {
	if w.JSON {
		return out.JSON(live(p))
	}
	value := Printable(p.Text())
	if p.Removed() {
		value = "removed"
	}
	name := names.Path(p.Node)
	if p.IsEdge() {
		name = names.Path(p.Up) + " > " + names.Label(p.Node)
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s  %s\n", p.At().Format(timeFormat), Printable(name), Printable(typeKey(p.Type, p.Key)), value)
	return err
}

func live(p *point.Point) livePoint {
	l := livePoint{
		Node: p.Node, Type: p.Type, Key: p.Key, Time: p.At().Format(time.RFC3339Nano),
		DataType: p.DataType.String(), Value: p.AppendJSON(nil), Origin: p.Origin, Removed: p.Removed(),
	}
	if p.IsEdge() {
		l.Node, l.Up, l.Down = "", p.Up, p.Node
	}
	return l
}
