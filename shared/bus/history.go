package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/point"
)

// samplesPerPage bounds a page of small points; large ones end it by bytes.
const samplesPerPage = 5_000

func (b *Instance) historyOf(ctx context.Context, node string, r *api.HistoryRequest) (*api.HistoryReply, error) {
	q := history.Query{Series: point.Series{Up: r.Up, Node: node, Type: r.Type, Key: r.Key}}
	if q.Series.Key == "" {
		q.Series.Key = point.NoKey
	}
	if err := point.CheckSeries(q.Series); err != nil {
		return nil, err
	}
	var err error
	if q.From, err = parseTime("from", r.From); err != nil {
		return nil, err
	}
	if q.To, err = parseTime("to", r.To); err != nil {
		return nil, err
	}
	if q.After, err = parsePlace(r.Cursor); err != nil {
		return nil, err
	}
	if !b.attached() {
		return nil, errStarting
	}
	// What has been written must be found, so it is committed first; a disk
	// that fails still has what was written before.
	if err := b.log.Commit(ctx); err != nil {
		b.cfg.Logger.Warn().Err(err).Msg("the newest points are not in history yet")
	}
	if r.Every != "" {
		return b.bucketsOf(ctx, q, r)
	}
	q.Limit = samplesPerPage
	if r.Limit > 0 {
		q.Limit = min(q.Limit, r.Limit)
	}
	res, err := history.Points(ctx, b.cfg.History(), q)
	if err != nil {
		return nil, err
	}
	reply := &api.HistoryReply{Samples: []api.Sample{}, Gaps: gapsOf(r, res)}
	size := 0
	for i := range res.Entries {
		s := sample(&res.Entries[i].Point)
		s.Author = res.Entries[i].Author
		if size += 120 + len(s.Value) + len(s.Text) + len(s.Origin); i > 0 && size > b.pageBytes() {
			res.Entries, res.More = res.Entries[:i], true
			break
		}
		reply.Samples = append(reply.Samples, s)
	}
	if n := len(res.Entries); res.More && n > 0 {
		reply.Next = fmt.Sprintf("%d:%s", res.Entries[n-1].Time, res.Entries[n-1].Author)
	}
	return reply, nil
}

func sample(p *point.Point) api.Sample {
	s := api.Sample{
		Time: point.TimeOf(p.Time).Format(time.RFC3339Nano), DataType: p.DataType.String(),
		Value: p.AppendJSON(nil), Removed: p.Removed(), Origin: p.Origin,
	}
	switch {
	case p.DataType <= point.Uint && p.DataType != point.Unknown && len(p.Data) != 8:
		s.Size = len(p.Data)
	case p.DataType == point.JSON || p.DataType == point.String:
		return s
	}
	if text := p.Text(); text != string(s.Value) {
		s.Text = text
	}
	return s
}

// gapsOf lists the gaps of the logs, on the first page only.
func gapsOf(r *api.HistoryRequest, res *history.Result) []api.Gap {
	if r.Cursor != "" {
		return nil
	}
	var out []api.Gap
	for _, g := range res.Gaps {
		reason := api.ReasonGap
		if g.Epoch == 0 {
			reason = api.ReasonRemoved
		}
		out = append(out, api.Gap{Author: g.Author, From: g.From, To: g.To, Count: g.Count, Start: timeText(g.Start), End: timeText(g.End), Reason: reason})
	}
	return out
}

// timeText returns a time as text, "" for none.
func timeText(ns uint64) string {
	if ns == 0 {
		return ""
	}
	return point.TimeOf(ns).Format(time.RFC3339Nano)
}

// bucketsPerPage bounds a page of buckets.
const bucketsPerPage = 2_000

func (b *Instance) bucketsOf(ctx context.Context, q history.Query, r *api.HistoryRequest) (*api.HistoryReply, error) {
	width, err := time.ParseDuration(r.Every)
	if err != nil || width < time.Millisecond {
		return nil, api.Errorf(api.CodeInvalid, "write it as 10s, 5m or 24h", "bucket width %q is not a duration of at least 1ms", r.Every)
	}
	if q.After != nil { // the cursor is the start of the next bucket
		q.From, q.After = q.After.Time, nil
	}
	res, err := history.Points(ctx, b.cfg.History(), q)
	if err != nil {
		return nil, err
	}
	reply := &api.HistoryReply{Buckets: []api.Bucket{}, Gaps: gapsOf(r, res)}
	limit := bucketsPerPage
	if r.Limit > 0 {
		limit = min(limit, r.Limit)
	}
	for i, k := range history.Buckets(res.Entries, uint64(width)) {
		if i == limit {
			reply.Next = fmt.Sprintf("%d:", k.Start)
			break
		}
		reply.Buckets = append(reply.Buckets, api.Bucket{
			Time: point.TimeOf(k.Start).Format(time.RFC3339Nano), Count: k.Count, NaN: k.NaN,
			Min: number(k.Min), Max: number(k.Max), Mean: number(k.Mean), Last: k.Last.AppendJSON(nil), DataType: k.Last.DataType.String(),
		})
	}
	return reply, nil
}

// number returns v as JSON, null for NaN: there was no number.
func number(v float64) json.RawMessage {
	if math.IsNaN(v) {
		return json.RawMessage("null")
	}
	p := point.Point{DataType: point.Float, Data: point.FloatData(v)}
	return p.AppendJSON(nil)
}

func parseTime(what, s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalid, "write times as 2006-01-02T15:04:05.999Z", "%s %q is not RFC 3339", what, s)
	}
	return point.Nanos(t), nil
}

func parsePlace(cursor string) (*history.Place, error) {
	if cursor == "" {
		return nil, nil
	}
	ns, author, ok := strings.Cut(cursor, ":")
	t, err := strconv.ParseUint(ns, 10, 64)
	if !ok || err != nil {
		return nil, api.Errorf(api.CodeInvalid, "pass on what the page before gave as next", "cursor %q is not valid", cursor)
	}
	return &history.Place{Time: t, Author: author}, nil
}
