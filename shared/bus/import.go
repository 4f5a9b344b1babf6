package bus

import (
	"context"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/tree"
)

// importAt takes columns of a node and those below it into history: no state,
// no log, nothing for the other end.
func (b *Instance) importAt(ctx context.Context, node string, data []byte) (any, error) {
	msg, err := api.DecodeColumns(data)
	if err != nil {
		return nil, b.refuse(api.Errorf(api.CodeInvalid, "see API.md for the message", "%s", err))
	}
	archive := b.cfg.History()
	if archive == nil {
		return nil, b.refuse(errStarting)
	}
	below := map[string]bool{}
	b.View(func(_ *state.State, t *tree.Tree) {
		for _, n := range t.Subtree(node) {
			below[n] = t.Has(n)
		}
	})
	columns, points, latest := map[history.Key]*frame.Column{}, 0, b.cfg.Clock.Now()+maxAhead
	for i := range msg.Parts {
		name := msg.Series[msg.Parts[i].Series]
		s := point.Series{Node: name.Node, Type: name.Type, Key: name.Key}
		if err := point.CheckSeries(s); err != nil {
			return nil, b.refuse(err)
		}
		if name.Up != "" || !below[s.Node] {
			return nil, b.refuse(api.Errorf(api.CodeNotFound, "create it first; edges cannot be imported", "there is no node %s at or below %s", s.Node, node))
		}
		c := &frame.Column{}
		if err := c.Decode(msg.Parts[i].Data); err != nil {
			return nil, b.refuse(api.Errorf(api.CodeInvalid, "see FORMAT.md for columns", "%s: %s", s, err))
		}
		if err := checkColumn(s, c, latest); err != nil {
			return nil, b.refuse(err)
		}
		k := history.Key{Series: s, Author: b.cfg.Author}
		points += c.Len()
		if columns[k] = history.Union(columns[k], c); columns[k].Len() > frame.MaxColumn {
			return nil, b.refuse(api.Errorf(api.CodeTooLarge, "split it", "more than %d points of %s at once", frame.MaxColumn, s))
		}
	}
	if err := archive.Import(ctx, columns); err != nil {
		return nil, err
	}
	return api.Imported{Points: points}, nil
}

// checkColumn tells whether every point could be written.
func checkColumn(s point.Series, c *frame.Column, latest uint64) error {
	for i := range c.Len() {
		p := c.Point(i)
		p.Series = s
		if err := point.Check(&p); err != nil {
			return err
		}
		if point.PayloadLen(&p) > point.MaxGroupBytes {
			return api.Errorf(api.CodeTooLarge, "store a reference", "a value of %s has more than %d bytes", s, point.MaxGroupBytes)
		}
	}
	if n := c.Len(); n > 0 && c.Times[n-1] > latest {
		return api.Errorf(api.CodeTime, "check the times", "the last time of %s is in the future", s)
	}
	return nil
}
