package client

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// History calls visit with each page of what req asks for, in time order.
// Gaps are the same on every page.
func (c *Client) History(ctx context.Context, node string, req api.HistoryRequest, visit func(*api.HistoryReply) error) error {
	for {
		var r api.HistoryReply
		if err := c.askNode(ctx, node, "history", req, &r); err != nil {
			return err
		}
		if err := visit(&r); err != nil || r.Next == "" {
			return err
		}
		req.Cursor = r.Next
	}
}

// Column is points of one series by one author, in time order.
type Column struct {
	api.SeriesName
	frame.Column
}

// Columns calls visit with each page of the points that req asks for: series
// by series, in the order of time. gaps come with the first page. The next page
// is on its way while visit works, and columns are decoded side by side.
func (c *Client) Columns(ctx context.Context, node string, req api.HistoryRequest, visit func(columns []Column, gaps []api.Gap) error) error {
	if err := point.CheckID(node); err != nil {
		return api.From(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	type page struct {
		*api.Columns
		err error
	}
	pages := make(chan page, 1) // closed by the reader of pages
	go func() {
		defer close(pages)
		req.Format = api.FormatColumns
		for {
			p, err := c.columns(ctx, node, req)
			select {
			case pages <- page{p, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || p.Next == "" {
				return
			}
			req.Cursor = p.Next
		}
	}()
	defer func() { // the reader has ended when this returns
		cancel()
		for range pages {
		}
	}()
	for p := range pages {
		if p.err != nil {
			return p.err
		}
		columns, err := decodeParts(p.Columns)
		if err == nil {
			err = visit(columns, p.Gaps)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// decodeParts decodes the parts of a page side by side. What follows one
// another in a series becomes one column.
func decodeParts(p *api.Columns) ([]Column, error) {
	var runs [][]api.Part
	for i, part := range p.Parts {
		if i > 0 && part.Series == p.Parts[i-1].Series && len(runs[len(runs)-1]) < runParts {
			runs[len(runs)-1] = append(runs[len(runs)-1], part)
			continue
		}
		runs = append(runs, []api.Part{part})
	}
	list := make([]Column, len(runs))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, run := range runs {
		list[i].SeriesName = p.Series[run[0].Series]
		group.Go(func() error {
			for _, part := range run {
				if err := list[i].Decode(part.Data); err != nil {
					return fmt.Errorf("answer of the instance: %w", err)
				}
			}
			return nil
		})
	}
	return list, group.Wait()
}

// runParts is how many parts become one column: a few ten thousand points.
const runParts = 16

func (c *Client) columns(ctx context.Context, node string, req api.HistoryRequest) (*api.Columns, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	reply, err := c.send(ctx, &nats.Msg{Subject: subject.Ask(node, "history"), Data: body})
	if err != nil {
		return nil, err
	}
	if len(reply) > 0 && reply[0] == '{' {
		if err := api.Decode(reply, nil); err != nil {
			return nil, err
		}
		return nil, api.Errorf(api.CodeInvalid, "update the instance, or ask for JSON", "the instance knows no columns")
	}
	return api.DecodeColumns(reply)
}

// Import puts points of a node, and of nodes below it, into the history of the
// instance, each column of one series. They are durable when it returns, and
// neither state nor sent to the other end.
func (c *Client) Import(ctx context.Context, node string, columns map[point.Series]*frame.Column) error {
	msg := api.Columns{}
	size := 0
	send := func() error {
		b, err := msg.Encode()
		if err != nil {
			return err
		}
		msg, size = api.Columns{}, 0
		return c.request(ctx, subject.Import(node), b, nil)
	}
	limit := int(c.nc.MaxPayload()) * 2 / 5
	for s, col := range columns {
		for i := 0; i < col.Len(); i += importPoints {
			to := min(col.Len(), i+importPoints)
			p := api.Part{Series: len(msg.Series), Points: to - i, Data: col.Encode(i, to)}
			if size += len(p.Data); size > limit && len(msg.Parts) > 0 {
				if err := send(); err != nil {
					return err
				}
				p.Series, size = 0, len(p.Data)
			}
			msg.Series = append(msg.Series, api.SeriesName{Up: s.Up, Node: s.Node, Type: s.Type, Key: s.Key})
			msg.Parts = append(msg.Parts, p)
		}
	}
	if len(msg.Parts) == 0 {
		return nil
	}
	return send()
}

// importPoints is how many points Import sends in one part.
const importPoints = 4096
