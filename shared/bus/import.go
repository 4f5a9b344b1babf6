package bus

import (
	"context"
	"errors"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
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
	asked := 0
	for i := range msg.Parts {
		if n := msg.Parts[i].Points; n < 0 || n > frame.MaxColumn || asked+n > api.MaxImport {
			return nil, b.refuse(tooMany)
		}
		asked += msg.Parts[i].Points
	}
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
		if points += c.Len(); points > asked {
			return nil, b.refuse(tooMany)
		}
		if err := checkColumn(s, c, latest); err != nil {
			return nil, b.refuse(err)
		}
		k := history.Key{Series: s, Author: b.cfg.Author}
		columns[k] = history.Union(columns[k], c)
	}
	err = archive.Import(ctx, columns)
	switch {
	case errors.Is(err, history.ErrRemoved):
		return nil, b.refuse(api.Errorf(api.CodeInvalid, "raise store.max or store.maxAge to keep more", "%s", err))
	case errors.Is(err, journal.ErrDiskFull):
		return nil, b.refuse(api.Errorf(api.CodeDiskFull, "free space on the disk", "%s", err))
	case err != nil:
		return nil, err
	}
	return api.Imported{Points: points}, nil
}

// tooMany refuses a message that would take much memory.
var tooMany = api.Errorf(api.CodeTooLarge, "split it, and say how many points each part has", "more than %d points at once", api.MaxImport)

// checkColumn tells whether every point could be written; s is checked.
func checkColumn(s point.Series, c *frame.Column, latest uint64) error {
	for i := range c.Len() {
		p := c.Point(i)
		p.Series = s
		if err := point.CheckValue(&p); err != nil {
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
