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
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

const (
	// samplesPerPage bounds a page of small points; large ones end it by bytes.
	samplesPerPage = 5_000
	// bucketsPerPage bounds a page of buckets.
	bucketsPerPage = 2_000
	// maxNewest bounds how many points from the end may be asked for.
	maxNewest = 100_000
	// pageTime bounds the work for a page: who asks no further page has ended it.
	pageTime = 2 * time.Second
)

// historyQuery is a question about history.
type historyQuery struct {
	*api.HistoryRequest
	archive  *history.Archive
	from, to uint64
	grid     history.Grid // nil for points
	several  bool         // series may differ
	lines    []line
	after    historyPlace
	until    time.Time
}

// line is what a question asks about one series: by all its authors or, apart,
// by one.
type line struct {
	series  point.Series
	author  string // set if authors are apart
	columns []int
}

// historyPlace is where a page ends: behind a point, or before a bucket.
type historyPlace struct {
	history.Place
	line line // zero in a question about one series
	set  bool
}

func (b *Instance) historyOf(ctx context.Context, node string, r *api.HistoryRequest) (any, error) {
	q := &historyQuery{HistoryRequest: r, until: time.Now().Add(pageTime)}
	if err := q.parse(node); err != nil {
		return nil, err
	}
	if !b.attached() {
		return nil, errStarting
	}
	if q.archive = b.cfg.History(); q.archive == nil {
		return nil, errStarting
	}
	// What was written before the first page must be found, so it is committed
	// first; a disk that fails still has what was written before.
	if r.Cursor == "" {
		if err := b.log.Commit(ctx); err != nil {
			b.cfg.Logger.Warn().Err(err).Msg("the newest points are not in history yet")
		}
	}
	if err := q.archive.Sync(ctx); err != nil {
		return nil, err
	}
	b.linesOf(q, node)
	switch {
	case r.Format == api.FormatColumns:
		return q.columns(ctx, b.pageBytes())
	case q.grid != nil:
		return q.buckets(ctx, b.pageBytes())
	}
	return q.samples(ctx, b.pageBytes())
}

// parse checks what is asked.
func (q *historyQuery) parse(node string) (err error) {
	r := q.HistoryRequest
	if q.several = r.Type == "" || r.Key == api.AllKeys || r.Depth != 0; !q.several {
		if r.Key == "" {
			r.Key = point.NoKey
		}
		if err := point.CheckSeries(point.Series{Up: r.Up, Node: node, Type: r.Type, Key: r.Key}); err != nil {
			return err
		}
	} else if r.Type != "" && r.Key == "" {
		r.Key = point.NoKey
	}
	if q.from, err = parseTime("from", r.From); err != nil {
		return err
	}
	if q.to, err = parseTime("to", r.To); err != nil {
		return err
	}
	if r.To == "" {
		q.to = math.MaxUint64
	}
	if r.Newest < 0 || r.Newest > maxNewest || r.Newest > 0 && (r.Every != "" || r.Buckets != 0) {
		return api.Errorf(api.CodeInvalid, fmt.Sprintf("up to %d, and without every and buckets; or give from", maxNewest), "newest is %d", r.Newest)
	}
	if r.Format != "" && r.Format != api.FormatColumns || r.Authors != "" && r.Authors != api.AuthorsApart {
		return api.Errorf(api.CodeInvalid, "see API.md", "format %q, authors %q", r.Format, r.Authors)
	}
	if err := q.parseGrid(); err != nil {
		return err
	}
	return q.parseCursor(r.Cursor)
}

func (q *historyQuery) parseGrid() error {
	if q.Every == "" && q.Buckets == 0 {
		return nil
	}
	zone, err := time.LoadLocation(q.Zone)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "write it as Europe/Vienna", "time zone %q is not known", q.Zone)
	}
	if q.Every == "" {
		to := q.to
		if q.To == "" {
			to = point.Nanos(time.Now())
		}
		if q.Buckets < 0 || q.From == "" || to < q.from {
			return api.Errorf(api.CodeInvalid, "give from, and a number above 0", "%d buckets from %q to %q", q.Buckets, q.From, q.To)
		}
		q.Every = history.NiceWidth(to-q.from, q.Buckets).String()
	}
	width, err := time.ParseDuration(q.Every)
	if err != nil || width < time.Millisecond {
		return api.Errorf(api.CodeInvalid, "write it as 10s, 5m or 24h", "bucket width %q is not a duration of at least 1ms", q.Every)
	}
	q.grid = history.NewGrid(width, zone)
	return nil
}

// parseCursor reads <time>:<author>, and of several series :<author>:<series>.
func (q *historyQuery) parseCursor(cursor string) error {
	if cursor == "" {
		return nil
	}
	parts := strings.SplitN(cursor, ":", 4)
	t, err := strconv.ParseUint(parts[0], 10, 64)
	ok := err == nil && len(parts) == 2 && !q.several && q.Authors == ""
	if len(parts) == 4 && err == nil {
		q.after.line.author = parts[2]
		q.after.line.series, ok = subject.ParseSeries(parts[3])
	}
	if !ok {
		return api.Errorf(api.CodeInvalid, "pass on what the page before gave as next", "cursor %q is not valid", cursor)
	}
	q.after.Place, q.after.set = history.Place{Time: t, Author: parts[1]}, true
	return nil
}

// next returns the cursor behind a place in a line.
func (q *historyQuery) next(l *line, p history.Place) string {
	s := fmt.Sprintf("%d:%s", p.Time, p.Author)
	if q.several || q.Authors != "" {
		s += ":" + l.author + ":" + l.series.String()
	}
	return s
}

// linesOf finds which columns are asked for, from the cursor on.
func (b *Instance) linesOf(q *historyQuery, node string) {
	match := func(s point.Series) bool {
		return s == point.Series{Up: q.Up, Node: node, Type: q.Type, Key: q.Key}
	}
	if q.several {
		nodes := map[string]bool{node: true}
		if q.Depth != 0 {
			b.View(func(_ *state.State, _ *tree.Tree) {
				for _, n := range b.levels(node, q.Depth) {
					nodes[n] = true
				}
			})
		}
		match = func(s point.Series) bool {
			return s.Up == q.Up && nodes[s.Node] && (q.Type == "" || s.Type == q.Type) && (q.Key == "" || q.Key == api.AllKeys || s.Key == q.Key)
		}
	}
	for _, n := range q.archive.ColumnsOf(match) {
		k := q.archive.Name(n)
		l := line{series: k.Series, columns: []int{n}}
		if q.Authors == api.AuthorsApart {
			l.author = k.Author
		}
		if last := len(q.lines) - 1; last >= 0 && l.author == "" && q.lines[last].series == l.series {
			q.lines[last].columns = append(q.lines[last].columns, n)
			continue
		}
		q.lines = append(q.lines, l)
	}
	if q.after.set && q.after.line.series != (point.Series{}) {
		for len(q.lines) > 0 && q.lines[0].before(&q.after.line) {
			q.lines = q.lines[1:]
		}
	}
}

func (l *line) before(m *line) bool {
	return history.Key{Series: l.series, Author: l.author}.Compare(history.Key{Series: m.series, Author: m.author}) < 0
}

// start returns where to go on in a line: behind the cursor, if it is its.
func (q *historyQuery) start(l *line) *history.Place {
	if q.after.set && (q.after.line.series == point.Series{} || !l.before(&q.after.line) && !q.after.line.before(l)) {
		return &q.after.Place
	}
	return nil
}

// name returns what a sample or bucket of a line is of; nil where it is asked
// for by name.
func (q *historyQuery) name(l *line) *api.SeriesName {
	if !q.several && q.Authors == "" {
		return nil
	}
	return &api.SeriesName{Up: l.series.Up, Node: l.series.Node, Type: l.series.Type, Key: l.series.Key, Author: l.author}
}

func (q *historyQuery) samples(ctx context.Context, maxBytes int) (*api.HistoryReply, error) {
	reply := &api.HistoryReply{Samples: []api.Sample{}, Gaps: q.gaps()}
	limit, size := samplesPerPage, 0
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	for i := range q.lines {
		l := &q.lines[i]
		place := q.start(l)
		if place != nil && *place != (history.Place{}) { // the cursor is the last point of the page before
			next := place.Next()
			place = &next
		}
		if len(reply.Samples) == limit || i > 0 && time.Now().After(q.until) {
			reply.Next = q.next(l, history.Place{})
			break
		}
		from, skip, err := q.begin(ctx, l, place)
		if err != nil {
			return nil, err
		}
		list, more, err := q.archive.Points(ctx, l.columns, from, q.to, skip+limit-len(reply.Samples))
		if err != nil {
			return nil, err
		}
		list = list[min(skip, len(list)):]
		name := q.name(l)
		for k := range list {
			s := sample(&list[k].Point)
			s.Author = list[k].Author
			if name != nil {
				s.Up, s.Node, s.Type, s.Key = name.Up, name.Node, name.Type, name.Key
			}
			if size += 120 + len(s.Value) + len(s.Text) + len(s.Origin); len(reply.Samples) > 0 && size > maxBytes {
				list, more = list[:k], true
				break
			}
			reply.Samples = append(reply.Samples, s)
		}
		if more {
			last := history.Place{}
			if n := len(list); n > 0 {
				last = history.Place{Time: list[n-1].Time, Author: list[n-1].Author}
			}
			reply.Next = q.next(l, last)
			break
		}
	}
	return reply, nil
}

// begin returns where the page begins in a line, and how many points are too
// many there. place is the cursor, nil in a line that is new.
func (q *historyQuery) begin(ctx context.Context, l *line, place *history.Place) (from history.Place, skip int, err error) {
	from.Time = q.from
	if place != nil && from.Compare(*place) < 0 {
		return *place, 0, nil
	}
	if q.Newest == 0 {
		return from, 0, nil
	}
	newest, err := q.archive.Newest(ctx, l.columns, q.to, q.Newest)
	if err != nil {
		return from, 0, err
	}
	from.Time = max(from.Time, newest)
	n, err := q.archive.Count(ctx, l.columns, from.Time, q.to)
	return from, max(0, n-q.Newest), err
}

func (q *historyQuery) buckets(ctx context.Context, maxBytes int) (*api.HistoryReply, error) {
	reply := &api.HistoryReply{Buckets: []api.Bucket{}, Every: q.Every, Gaps: q.gaps()}
	limit, size := bucketsPerPage, 0
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	for i := range q.lines {
		l := &q.lines[i]
		if len(reply.Buckets) == limit || i > 0 && time.Now().After(q.until) {
			reply.Next = q.next(l, history.Place{})
			break
		}
		from := q.from
		if after := q.start(l); after != nil { // the cursor is the start of the next bucket
			from = max(from, after.Time)
		}
		list, next, err := q.archive.Buckets(ctx, l.columns, from, q.to, q.grid, limit-len(reply.Buckets), q.until)
		if err != nil {
			return nil, err
		}
		for k := range list {
			b := bucket(&list[k], q.name(l))
			if size += bucketBytes + len(b.First) + len(b.Last); size > maxBytes && len(reply.Buckets) > 0 {
				next = list[k].Start
				break
			}
			reply.Buckets = append(reply.Buckets, b)
		}
		if next != 0 {
			reply.Next = q.next(l, history.Place{Time: next})
			break
		}
	}
	return reply, nil
}

// bucketBytes is about what a bucket takes besides its first and last value.
const bucketBytes = 350

func bucket(k *history.Bucket, name *api.SeriesName) api.Bucket {
	return api.Bucket{
		Time: timeText(k.Start), Count: k.Count, NaN: k.NaN,
		Min: number(k.Min), Max: number(k.Max), Mean: number(k.Mean()),
		First: k.First.AppendJSON(nil), Last: k.Last.AppendJSON(nil), DataType: k.Last.DataType.String(),
		SeriesName: name,
	}
}

// columns answers with encoded columns, most of them as they are stored.
func (q *historyQuery) columns(ctx context.Context, maxBytes int) (any, error) {
	if q.grid != nil {
		return nil, api.Errorf(api.CodeInvalid, "leave out every and buckets, or ask for JSON", "there are no buckets in columns")
	}
	reply := &api.Columns{Series: []api.SeriesName{}, Parts: []api.Part{}, Gaps: q.gaps()}
	size := 0
	for i := range q.lines {
		l := &q.lines[i]
		if size > maxBytes || i > 0 && time.Now().After(q.until) {
			reply.Next = q.next(l, history.Place{})
			break
		}
		place := q.start(l)
		from, skip, err := q.begin(ctx, l, place)
		if err != nil {
			return nil, err
		}
		names := map[int]int{} // places in reply.Series
		err = q.archive.Merged(ctx, l.columns, from, q.to, func(number int, p *history.Piece) error {
			k := q.archive.Name(number)
			if n := p.Count(); skip >= n {
				skip -= n
				return nil
			} else if skip > 0 {
				if err := p.Skip(ctx, skip); err != nil {
					return err
				}
				skip = 0
			}
			data, points, err := p.Encoded(ctx)
			if err != nil || points == 0 {
				return err
			}
			if _, ok := names[number]; !ok {
				size += nameBytes + len(k.Up) + len(k.Node) + len(k.Type) + len(k.Key) + len(k.Author)
			}
			if size += len(data) + partBytes; size > maxBytes && len(reply.Parts) > 0 {
				reply.Next = q.next(l, history.Place{Time: p.From(), Author: k.Author})
				return errPage
			}
			name, ok := names[number]
			if !ok {
				name = len(reply.Series)
				names[number] = name
				reply.Series = append(reply.Series, api.SeriesName{Up: k.Up, Node: k.Node, Type: k.Type, Key: k.Key, Author: k.Author})
			}
			reply.Parts = append(reply.Parts, api.Part{Series: name, Points: points, Data: data})
			return nil
		})
		if err == errPage {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	b, err := reply.Encode()
	return rawReply(b), err
}

// partBytes and nameBytes are about what a part and a name take in the head of
// a page.
const (
	partBytes = 50
	nameBytes = 60
)

// errPage ends a page that is full.
var errPage = fmt.Errorf("page is full")

func sample(p *point.Point) api.Sample {
	s := api.Sample{
		Time: timeText(p.Time), DataType: p.DataType.String(),
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

// gaps lists what may be missing, on the first page only.
func (q *historyQuery) gaps() []api.Gap {
	if q.Cursor != "" {
		return nil
	}
	var columns []int
	for i := range q.lines {
		columns = append(columns, q.lines[i].columns...)
	}
	var out []api.Gap
	for _, g := range q.archive.Gaps(columns, q.from, q.to) {
		out = append(out, api.Gap{Author: g.Author, From: g.From, To: g.To, Count: g.Count, Start: optionalTime(g.Start), End: optionalTime(g.End), Reason: string(g.Reason)})
	}
	return out
}

func timeText(ns uint64) string { return point.TimeOf(ns).Format(time.RFC3339Nano) }

// optionalTime returns a time as text, "" for none.
func optionalTime(ns uint64) string {
	if ns == 0 {
		return ""
	}
	return timeText(ns)
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
