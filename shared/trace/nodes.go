package trace

import (
	"context"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
)

// SensorType is the type of the nodes that are made.
const SensorType = "sensor"

// Nodes finds the nodes that a trace names.
type Nodes struct {
	DryRun bool // make none

	client       *client.Client
	root, parent string
	ids          map[string]string // by description or id; "" for one that is ambiguous
}

// ReadNodes reads which nodes there are. Descriptions are looked for below
// parent, where new nodes are made; the root by default.
func ReadNodes(ctx context.Context, c *client.Client, parent string) (*Nodes, error) {
	n := &Nodes{client: c, parent: parent, ids: map[string]string{}}
	var err error
	if n.root, err = c.Root(ctx); err != nil {
		return nil, err
	}
	all, err := c.Tree(ctx, n.root)
	if err != nil {
		return nil, err
	}
	below := all
	if n.parent == "" {
		n.parent = n.root
	} else if below, err = c.Tree(ctx, parent); err != nil {
		return nil, err
	}
	for _, b := range below {
		if b.ID == n.parent || b.Description == "" {
			continue
		}
		if _, taken := n.ids[b.Description]; taken {
			n.ids[b.Description] = ""
		} else {
			n.ids[b.Description] = b.ID
		}
	}
	for _, b := range all { // an id wins
		n.ids[b.ID] = b.ID
	}
	return n, nil
}

// Find returns the id of the node that a trace calls name, making it if there
// is none.
func (n *Nodes) Find(ctx context.Context, name string) (id string, made bool, err error) {
	id, known := n.ids[name]
	switch {
	case id != "":
		return id, false, nil
	case known:
		return "", false, api.Errorf(api.CodeAmbiguous, "write its id", "%q is the name of several nodes", name)
	}
	id = client.NewID() // one for all tries, so that they make one node
	if !n.DryRun {
		err = client.Retry(ctx, func() error { return n.client.NodeCreate(ctx, id, n.parent, SensorType, name) })
	}
	if err != nil {
		return "", false, err
	}
	n.ids[name] = id
	return id, true, nil
}
