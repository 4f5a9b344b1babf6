package client

import (
	"context"
	"strings"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
)

const (
	// minPrefix is how much of an id must be given.
	minPrefix = 4
	// maxShown bounds the candidates that an ambiguous name lists.
	maxShown = 8
)

// Resolve returns the id of the node that people call name: its id, the
// unique beginning of one (4 characters or more), or a path of descriptions
// of which the last parts are enough when unique (gw1/pump, pump). An exact
// id wins, also of a node that was removed: it still has history.
func (c *Client) Resolve(ctx context.Context, name string) (string, error) {
	if point.CheckID(name) == nil {
		_, err := c.Get(ctx, name)
		if err == nil {
			return name, nil
		}
		if api.CodeOf(err) != api.CodeNotFound {
			return "", err
		}
	}
	names, err := c.Names(ctx)
	if err != nil {
		return "", err
	}
	return names.Resolve(name)
}

// Names reads the names of all nodes.
func (c *Client) Names(ctx context.Context) (*Names, error) {
	root, err := c.Root(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := c.Tree(ctx, root)
	if err != nil {
		return nil, err
	}
	n := &Names{nodes: nodes, byID: make(map[string]*api.Branch, len(nodes))}
	for i := range nodes {
		n.byID[nodes[i].ID] = &nodes[i]
	}
	return n, nil
}

// Names are the names of the nodes of a tree at one moment.
type Names struct {
	nodes []api.Branch
	byID  map[string]*api.Branch
}

// Resolve returns the id of the node that people call name.
func (n *Names) Resolve(name string) (string, error) {
	if n.byID[name] != nil {
		return name, nil
	}
	path := strings.Trim(name, "/")
	var found []string
	for i := range n.nodes {
		id := n.nodes[i].ID
		if len(name) >= minPrefix && strings.HasPrefix(id, name) || path != "" && n.endsWith(id, path) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", api.Errorf(api.CodeNotFound, "see `tree` for what there is", "there is no node %q", name)
	case 1:
		return found[0], nil
	}
	var list []string
	for _, id := range found[:min(len(found), maxShown)] {
		list = append(list, n.Path(id)+" ("+id+")")
	}
	if len(found) > maxShown {
		list = append(list, "...")
	}
	return "", api.Errorf(api.CodeAmbiguous, "give more of the path, or the id", "%q fits %d nodes: %s", name, len(found), strings.Join(list, ", "))
}

// Label returns what stands for a node in a path: its description, else its
// id.
func (n *Names) Label(id string) string {
	if b := n.byID[id]; b != nil && b.Description != "" {
		return b.Description
	}
	return id
}

// endsWith tells whether one of the paths to a node ends with whole parts of
// path. A description may contain a slash itself.
func (n *Names) endsWith(id, path string) bool {
	label := n.Label(id)
	if path == label {
		return true
	}
	rest, ok := strings.CutSuffix(path, "/"+label)
	b := n.byID[id]
	if !ok || b == nil {
		return false
	}
	for _, up := range b.Parents {
		if n.endsWith(up, rest) {
			return true
		}
	}
	return false
}

// Path returns the descriptions from below the root down to a node, by its
// first parents.
func (n *Names) Path(id string) string {
	path := n.Label(id)
	for b := n.byID[id]; b != nil && len(b.Parents) > 0; b = n.byID[id] {
		id = b.Parents[0]
		if up := n.byID[id]; up == nil || len(up.Parents) == 0 {
			break
		}
		path = n.Label(id) + "/" + path
	}
	return path
}
