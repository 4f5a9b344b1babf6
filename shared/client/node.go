package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
)

// NewID returns an id for a new node: 16 random characters, the first of them
// a letter.
func NewID() string {
	const letters, chars = 26, "abcdefghijklmnopqrstuvwxyz0123456789"
	id := make([]byte, 0, 16)
	for buf := make([]byte, 32); len(id) < cap(id); {
		rand.Read(buf) // never fails
		for _, b := range buf {
			limit := len(chars)
			if len(id) == 0 {
				limit = letters
			}
			// The bytes that would make the first characters likelier are left out.
			if int(b) < 256/limit*limit && len(id) < cap(id) {
				id = append(id, chars[int(b)%limit])
			}
		}
	}
	return string(id)
}

// NodeAdd makes a node of a type below parent, with a description if name is
// not "", and returns its id.
func (c *Client) NodeAdd(ctx context.Context, parent, nodeType, name string) (string, error) {
	id := NewID()
	if err := c.NodeCreate(ctx, id, parent, nodeType, name); err != nil {
		return "", err
	}
	return id, nil
}

// NodeCreate is NodeAdd with an id from NewID. Repeated after an error it
// makes no second node.
func (c *Client) NodeCreate(ctx context.Context, id, parent, nodeType, name string) error {
	group := edge(parent, id, nodeType, 0)
	if name != "" {
		group = append(group, api.Write{
			Node: id, Type: point.TypeDescription, DataType: point.String.String(), Value: quoted(name),
		})
	}
	return c.SetGroup(ctx, group)
}

// NodeMove takes a node from where it is, or from one parent only if from is
// not "", and puts it below to, at once.
func (c *Client) NodeMove(ctx context.Context, node, from, to string) error {
	n, old, err := c.edgesOf(ctx, node, from)
	if err != nil {
		return err
	}
	var group []api.Write
	for _, up := range old {
		if up != to {
			if group, err = c.remove(ctx, group, up, node); err != nil {
				return err
			}
		}
	}
	if !slices.Contains(n.Parents, to) {
		if group, err = c.join(ctx, group, to, n); err != nil {
			return err
		}
	}
	if len(group) == 0 {
		return nil // it is there already, and nowhere else
	}
	return c.SetGroup(ctx, group)
}

// NodeMirror puts a node below one parent more.
func (c *Client) NodeMirror(ctx context.Context, node, to string) error {
	n, err := c.Get(ctx, node)
	if err != nil || slices.Contains(n.Parents, to) {
		return err
	}
	group, err := c.join(ctx, nil, to, n)
	if err != nil {
		return err
	}
	return c.SetGroup(ctx, group)
}

// NodeRemove takes a node from all its parents, or from one if from is not "".
func (c *Client) NodeRemove(ctx context.Context, node, from string) error {
	_, old, err := c.edgesOf(ctx, node, from)
	if err != nil {
		return err
	}
	var group []api.Write
	for _, up := range old {
		if group, err = c.remove(ctx, group, up, node); err != nil {
			return err
		}
	}
	return c.SetGroup(ctx, group)
}

// edgesOf returns a node and the parents that a change is about.
func (c *Client) edgesOf(ctx context.Context, node, from string) (*api.Node, []string, error) {
	n, err := c.Get(ctx, node)
	switch {
	case err != nil:
		return nil, nil, err
	case from == "" && len(n.Parents) == 0:
		return nil, nil, api.Errorf(api.CodeInvalid, "name a node below it", "%s is below no other node", node)
	case from == "":
		return n, n.Parents, nil
	case !slices.Contains(n.Parents, from):
		return nil, nil, api.Errorf(api.CodeNotFound, "see `get` for its parents", "%s is not directly below %s", node, from)
	}
	return n, []string{from}, nil
}

// join adds the edge that puts n below up.
func (c *Client) join(ctx context.Context, group []api.Write, up string, n *api.Node) ([]api.Write, error) {
	v, err := c.nextTombstone(ctx, up, n.ID, false)
	if err != nil {
		return nil, err
	}
	return append(group, edge(up, n.ID, n.NodeType, v)...), nil
}

// remove adds the tombstone that takes node from up.
func (c *Client) remove(ctx context.Context, group []api.Write, up, node string) ([]api.Write, error) {
	v, err := c.nextTombstone(ctx, up, node, true)
	if err != nil {
		return nil, err
	}
	return append(group, tombstone(up, node, v)), nil
}

// nextTombstone returns the next value of an edge's tombstone, odd to remove
// it: it only ever increments. An edge that was never there begins at 0.
func (c *Client) nextTombstone(ctx context.Context, up, down string, removed bool) (uint64, error) {
	var last uint64
	known := false
	nodes, err := c.Nodes(ctx, up, api.NodesRequest{Edges: true})
	for _, n := range nodes {
		for _, p := range n.Edges {
			if p.Down == down && p.Type == point.TypeTombstone {
				known = json.Unmarshal(p.Value, &last) == nil
			}
		}
	}
	switch {
	case err != nil:
		return 0, err
	case !known && !removed:
		return 0, nil
	case (last%2 == 1) == removed:
		return last + 2, nil // the same again must still increment
	}
	return last + 1, nil
}

// edge returns the points that make an edge.
func edge(up, down, nodeType string, tomb uint64) []api.Write {
	return []api.Write{
		{Up: up, Down: down, Type: point.TypeNodeType, DataType: point.String.String(), Value: quoted(nodeType)},
		tombstone(up, down, tomb),
	}
}

func tombstone(up, down string, v uint64) api.Write {
	return api.Write{
		Up: up, Down: down, Type: point.TypeTombstone, DataType: point.Uint.String(),
		Value: strconv.AppendUint(nil, v, 10),
	}
}

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always can
	return b
}
