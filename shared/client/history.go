package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// History calls visit with each page of what req asks for, in time order. Gaps
// come with the first page. An instance that is busy, or has not opened its
// history yet, is waited for.
func (c *Client) History(ctx context.Context, node string, req api.HistoryRequest, visit func(*api.HistoryReply) error) error {
	for {
		var r api.HistoryReply
		if err := Retry(ctx, func() error { return c.askNode(ctx, node, "history", req, &r) }); err != nil {
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
// is on its way while visit works, and columns are decoded side by side. It
// waits as History does.
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
			var p *api.Columns
			err := Retry(ctx, func() (err error) {
				p, err = c.columns(ctx, node, req)
				return err
			})
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
		points := 0
		for _, part := range run {
			points += max(0, min(part.Points, frame.MaxColumn))
		}
		group.Go(func() error {
			list[i].Grow(points)
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
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(1) // a message is on its way while the next one is made
	m := importer{limit: int(c.nc.MaxPayload()) * 4 / 5}
	send := func() {
		b, err := m.msg.Encode()
		m = importer{limit: m.limit}
		group.Go(func() error {
			if err != nil {
				return err
			}
			return c.request(sending, subject.Import(node), b, nil)
		})
	}
	// In order, so that what is stored together comes together.
	for _, s := range slices.SortedFunc(maps.Keys(columns), point.Series.Compare) {
		col := columns[s]
		for from := 0; from < col.Len() && sending.Err() == nil; {
			data, to := m.cut(col, from)
			if !m.add(s, data, to-from) {
				send()
				m.add(s, data, to-from)
			}
			from = to
		}
	}
	if len(m.msg.Parts) > 0 {
		send()
	}
	return cmp.Or(group.Wait(), ctx.Err())
}

const (
	// importPoints is how many points Import sends in one part.
	importPoints = 4096
	// importText is how many bytes of texts these have at most as a rule.
	importText = 64 << 10
	// importHead is about what a part, and a series, takes in the head of a
	// message besides its names.
	importHead = 60
)

// importer is a message of Import that is being filled.
type importer struct {
	msg    api.Columns
	limit  int // bytes
	size   int
	points int
}

// cut encodes the next points of a column, as many as fit a message.
func (m *importer) cut(col *frame.Column, from int) (data []byte, to int) {
	to = col.Fit(from, min(col.Len(), from+importPoints), importText)
	return col.Quick(from, to), to
}

// add adds a part, unless the message is too full for it.
func (m *importer) add(s point.Series, data []byte, points int) bool {
	name := api.SeriesName{Up: s.Up, Node: s.Node, Type: s.Type, Key: s.Key}
	last := len(m.msg.Series) - 1
	size, first := len(data)+importHead, last < 0 || m.msg.Series[last] != name
	if first {
		size += importHead + len(s.Up) + len(s.Node) + len(s.Type) + len(s.Key)
	}
	if len(m.msg.Parts) > 0 && (m.size+size > m.limit || m.points+points > api.MaxImport) {
		return false
	}
	if first {
		m.msg.Series = append(m.msg.Series, name)
		last++
	}
	m.msg.Parts = append(m.msg.Parts, api.Part{Series: last, Points: points, Data: data})
	m.size, m.points = m.size+size, m.points+points
	return true
}
