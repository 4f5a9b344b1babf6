package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// count returns how many points the history of a node holds, those that name
// it left out.
func count(ctx context.Context, c *client.Client, node string) (int, error) {
	n, err := c.Get(ctx, node)
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, p := range n.Points {
		if p.Type == point.TypeDescription {
			continue
		}
		req := api.HistoryRequest{Type: p.Type, Key: p.Key, Every: "24h"}
		err := c.History(ctx, node, req, func(r *api.HistoryReply) error {
			for _, b := range r.Buckets {
				sum += b.Count
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return sum, nil
}

const (
	childrenShown = 3
	liveFor       = 2 * time.Second
)

// tree prints the tree in short, and counts what comes live.
func (d *demo) tree(ctx context.Context) error {
	root, err := d.atHub.Root(ctx)
	if err != nil {
		return err
	}
	nodes, err := d.atHub.Nodes(ctx, root, api.NodesRequest{Depth: -1})
	if err != nil {
		return err
	}
	byID := make(map[string]*api.Node, len(nodes))
	for i := range nodes {
		byID[nodes[i].ID] = &nodes[i]
	}
	d.branch(byID, root, "", "")
	d.check(len(nodes) == 1+2+1+pumps, "%d nodes: the root, 2 gateways, the office and %d pumps", len(nodes), pumps)
	live := 0
	watching, cancel := context.WithTimeout(ctx, liveFor)
	defer cancel()
	err = d.atHub.Watch(watching, root, nil, func(*point.Point) error { live++; return nil })
	if err != nil {
		return err
	}
	d.check(live > 0, "%s live points in %s on up.<root>.>, one subscription for all", num(live), span(liveFor))
	return nil
}

func (d *demo) branch(byID map[string]*api.Node, id, first, rest string) {
	n := byID[id]
	if n == nil {
		return // it came while the tree was read
	}
	name, values := describe(n)
	fmt.Fprintf(d, "     %s\n", strings.TrimRight(first+name+"  "+values, " "))
	slices.SortFunc(n.Children, func(a, b api.Child) int { return strings.Compare(label(byID, a.ID), label(byID, b.ID)) })
	for i, c := range n.Children {
		if i == childrenShown && len(n.Children) > childrenShown+1 {
			fmt.Fprintf(d, "     %s└─ ... %d more\n", rest, len(n.Children)-i)
			return
		}
		if i == len(n.Children)-1 {
			d.branch(byID, c.ID, rest+"└─ ", rest+"   ")
		} else {
			d.branch(byID, c.ID, rest+"├─ ", rest+"│  ")
		}
	}
}

func label(byID map[string]*api.Node, id string) string {
	if n := byID[id]; n != nil {
		name, _ := describe(n)
		return name
	}
	return id
}

// describe returns the name and the values of a node in one line.
func describe(n *api.Node) (name, values string) {
	name = n.NodeType
	var list []string
	for _, p := range n.Points {
		text := client.ValueText(p.Value)
		switch {
		case p.Type == point.TypeDescription:
			name = text
			continue
		case p.Type == point.TypeApplied:
			continue
		}
		if v, ok := client.Number(text); ok {
			text = fmt.Sprintf("%.4g", v)
		}
		list = append(list, p.Type+" "+text)
	}
	return name, strings.Join(list, ", ")
}

// settings changes a setting of pumps at the hub, as a person would, and waits
// for the gateway's answer.
func (d *demo) settings(ctx context.Context) error {
	began := time.Now()
	if _, err := d.hub.Run(ctx, "set", "pumps", "commitInterval", "2"); err != nil {
		return err
	}
	answer, err := d.answered(ctx, began)
	if err != nil {
		return err
	}
	d.check(answer.OK, "sapflow-hub set pumps commitInterval 2: applied, its answer is here after %s", span(time.Since(began)))
	status, err := d.atPumps.Status(ctx)
	if err != nil {
		return err
	}
	d.check(status.LossWindow == "2s", "the gateway commits every %s now", status.LossWindow)
	began = time.Now()
	if _, err := d.hub.Run(ctx, "set", "pumps", "commitInterval", "9000", "--force"); err != nil {
		return err
	}
	if answer, err = d.answered(ctx, began); err != nil {
		return err
	}
	d.check(!answer.OK && answer.Code == "range", "sapflow-hub set pumps commitInterval 9000 --force: refused by the gateway, %s", answer.Reason)
	return nil
}

// answered waits until the hub holds the gateway's answer to a setting made
// since a time.
func (d *demo) answered(ctx context.Context, since time.Time) (a api.Applied, err error) {
	err = lab.Until(ctx, "the gateway answers the setting", 5*time.Millisecond, func() (bool, error) {
		n, err := d.atHub.Get(ctx, d.pumps.ID)
		if err != nil {
			return false, err
		}
		for _, p := range n.Points {
			if p.Type != point.TypeApplied || p.Key != "commitInterval/0" {
				continue
			}
			if err := json.Unmarshal(p.Value, &a); err != nil {
				return false, fmt.Errorf("read the answer %s: %w", p.Value, err)
			}
			at, err := time.Parse(time.RFC3339Nano, a.Time)
			return err == nil && at.After(since), err
		}
		return false, nil
	})
	return a, err
}

// revoke shows that a gateway whose key is void is cut off and stays out,
// and that another one does not notice.
func (d *demo) revoke(ctx context.Context) error {
	began := time.Now()
	if _, err := d.hub.Run(ctx, "device", "revoke", "building"); err != nil {
		return err
	}
	err := lab.Until(ctx, "the connection closes", 5*time.Millisecond, func() (bool, error) {
		_, connected, err := lab.Behind(ctx, d.atBuilding)
		return !connected, err
	})
	if err != nil {
		return err
	}
	d.check(true, "sapflow-hub device revoke building: its connection is closed after %s", span(time.Since(began)))
	const outFor = 4 * time.Second // the agent dials every 1 to 2 s
	out, cancel := context.WithTimeout(ctx, outFor)
	defer cancel()
	err = lab.Until(out, "it comes back", 50*time.Millisecond, func() (bool, error) {
		device, err := d.atHub.Device(ctx, d.building.ID)
		if err != nil {
			return false, err
		}
		return device.Online, nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	device, deviceErr := d.atHub.Device(ctx, d.building.ID)
	if deviceErr != nil {
		return deviceErr
	}
	d.check(err != nil && device.State == "revoked", "it dials for %s more and stays out; state: %s", span(outFor), device.State)
	return d.comparePumps(ctx)
}
