package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// History is the command `history`.
type History struct {
	Target
	Node    string `arg:"" help:"Node: an id, the beginning of one, or a path of descriptions."`
	TypeKey string `arg:"" optional:"" name:"type[/key]" help:"What to show, such as temperature. By default all that the node has."`
	From    string `placeholder:"TIME" help:"First time, included: RFC 3339, or how long ago, such as -1h or -7d. By default the beginning."`
	To      string `placeholder:"TIME" help:"Last time, not included. By default the end."`
	Newest  int    `placeholder:"N" help:"Only the last so many points of each series."`
	Depth   int    `placeholder:"N" help:"Levels below the node to take in as well, -1 for all."`
	Every   string `placeholder:"SPAN" help:"Summarise spans such as 10s, 5m or 1d, instead of single points."`
	Buckets int    `placeholder:"N" help:"Summarise, in about so many spans of a width that the clock has."`
	Zone    string `placeholder:"ZONE" help:"Where the clock is that spans follow, such as Europe/Vienna. UTC by default."`
	Apart   bool   `help:"Each author's points by themselves."`
	Format  string `enum:"csv,json" default:"csv" help:"csv or json."`
	JSON    bool   `name:"json" help:"The same as --format json."`
}

// Help shows examples.
func (History) Help() string {
	return "Prints what a value was, by the time of the samples. CSV has the columns time,value, or with --every and --buckets time,count,min,max,mean,last; of several series, one after the other, time,node,type,key,value, which can be imported.\n\n" +
		"Examples:\n\n    history pump temperature --from -1h\n    history pump temperature --from 2026-11-01T00:00:00Z --every 1h --format json\n    history site1 --depth -1 --from -1d"
}

// Run prints history, page by page.
func (h History) Run(ctx context.Context, out *Out) error {
	req, err := h.request(time.Now())
	if err != nil {
		return err
	}
	return h.Do(ctx, func(c *client.Client) error {
		id, err := c.Resolve(ctx, h.Node)
		if err != nil {
			return err
		}
		if h.TypeKey != "" {
			series, err := seriesOf(id, h.TypeKey)
			if err != nil {
				return err
			}
			req.Type, req.Key = series.Type, series.Key
		}
		p := newHistoryPrinter(out, h.JSON || h.Format == "json", req.Every != "" || req.Buckets > 0, h.TypeKey == "" || h.Depth != 0, h.Apart)
		if p.csv && !p.buckets {
			err = c.Columns(ctx, id, req, p.columns)
		} else {
			err = c.History(ctx, id, req, p.page)
		}
		if err != nil {
			return err
		}
		return p.close(out)
	})
}

// request returns the question but for its series.
func (h History) request(now time.Time) (req api.HistoryRequest, err error) {
	req = api.HistoryRequest{Newest: h.Newest, Depth: h.Depth, Buckets: h.Buckets, Zone: h.Zone}
	if h.Apart {
		req.Authors = api.AuthorsApart
	}
	if req.From, err = parseTime("--from", h.From, now); err != nil {
		return req, err
	}
	if req.To, err = parseTime("--to", h.To, now); err != nil {
		return req, err
	}
	if h.Every != "" {
		every, err := parseSpan(h.Every)
		if err != nil || every <= 0 {
			return req, Usagef("--every %q is not a span such as 10s, 5m or 1d", h.Every)
		}
		req.Every = every.String()
	}
	if h.Every != "" && h.Buckets > 0 {
		return req, Usagef("give either --every or --buckets")
	}
	if h.Buckets > 0 && h.From == "" {
		return req, Usagef("--buckets needs --from")
	}
	return req, nil
}

// parseTime reads RFC 3339, "now", or a span relative to now; "" stays "".
func parseTime(flag, text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if text == "now" {
			text = "0s"
		}
		span, err := parseSpan(text)
		if err != nil {
			return "", Usagef("%s %q is neither a time such as 2006-01-02T15:04:05Z nor a span such as -1h", flag, text)
		}
		t = now.Add(span)
	}
	return t.UTC().Format(time.RFC3339Nano), nil
}

var days = regexp.MustCompile(`[0-9.]+d`)

// parseSpan reads a duration that may have days in it.
func parseSpan(text string) (time.Duration, error) {
	return time.ParseDuration(days.ReplaceAllStringFunc(text, func(s string) string {
		n, _ := strconv.ParseFloat(strings.TrimSuffix(s, "d"), 64) // 0 for what is no number
		return strconv.FormatFloat(24*n, 'f', -1, 64) + "h"
	}))
}

// historyPrinter prints pages of history as they come.
type historyPrinter struct {
	w                     *bufio.Writer
	csv, buckets, several bool
	apart                 bool
	row                   []byte
	removed               int // removals that CSV cannot show
	rows                  int
	gaps                  []api.Gap
}

func newHistoryPrinter(w io.Writer, asJSON, buckets, several, apart bool) *historyPrinter {
	p := &historyPrinter{w: bufio.NewWriterSize(w, 64<<10), csv: !asJSON, buckets: buckets, several: several, apart: apart}
	if p.csv {
		head := "time,"
		if several {
			head += "node,type,key,"
		}
		if apart {
			head += "author,"
		}
		if buckets {
			head += "count,min,max,mean,last\n"
		} else {
			head += "value\n"
		}
		_, _ = p.w.WriteString(head) // an error stays and comes with Flush
	}
	return p
}

// columns prints a page of points as CSV.
func (p *historyPrinter) columns(list []client.Column, gaps []api.Gap) error {
	p.gaps = append(p.gaps, gaps...)
	for i := range list {
		p.column(&list[i].Column, &list[i].SeriesName)
	}
	return p.w.Flush()
}

// column prints one column. A row is what encoding/csv would write.
func (p *historyPrinter) column(c *frame.Column, name *api.SeriesName) {
	var series []byte
	if p.several {
		for _, s := range []string{name.Node, name.Type, name.Key} {
			series = append(appendField(series, s), ',')
		}
	}
	if p.apart {
		series = append(appendField(series, name.Author), ',')
	}
	for i := range c.Len() {
		if c.Removed(i) {
			p.removed++
			continue
		}
		b := append(appendTime(p.row[:0], c.Times[i]), ',')
		b = append(b, series...)
		if _, ok := c.Number(i); ok {
			b = c.AppendText(b, i)
		} else {
			b = appendField(b, string(c.AppendText(nil, i)))
		}
		p.row = append(b, '\n')
		_, _ = p.w.Write(p.row)
	}
}

// appendTime appends a time in ns as RFC 3339 with as many digits as it needs.
func appendTime(b []byte, ns uint64) []byte {
	return point.TimeOf(ns).AppendFormat(b, time.RFC3339Nano)
}

// appendField appends a field of CSV, in quotes if it needs them.
func appendField(b []byte, s string) []byte {
	if s == `\.` || s != "" && (s[0] == ' ' || s[0] == '\t') || strings.ContainsAny(s, ",\"\r\n") {
		b = append(b, '"')
		b = append(b, strings.ReplaceAll(s, `"`, `""`)...)
		return append(b, '"')
	}
	return append(b, s...)
}

// page prints one page of JSON, or of buckets.
func (p *historyPrinter) page(r *api.HistoryReply) error {
	p.gaps = append(p.gaps, r.Gaps...)
	for i := range r.Samples {
		if err := p.element(&r.Samples[i]); err != nil {
			return err
		}
	}
	for i := range r.Buckets {
		b := &r.Buckets[i]
		if !p.csv {
			if err := p.element(b); err != nil {
				return err
			}
			continue
		}
		row := append(append(p.row[:0], b.Time...), ',')
		if p.several {
			for _, s := range []string{b.Node, b.Type, b.Key} {
				row = append(appendField(row, s), ',')
			}
		}
		if p.apart {
			row = append(appendField(row, b.Author), ',')
		}
		row = strconv.AppendInt(row, int64(b.Count), 10)
		for _, v := range []json.RawMessage{b.Min, b.Max, b.Mean, b.Last} {
			row = appendField(append(row, ','), client.ValueText(v))
		}
		p.row = append(row, '\n')
		_, _ = p.w.Write(p.row)
	}
	return p.w.Flush()
}

// element prints one element of a JSON list, on a line of its own.
func (p *historyPrinter) element(v any) error {
	separator := ",\n"
	if p.rows == 0 {
		separator = "[\n"
	}
	p.rows++
	_, _ = p.w.WriteString(separator)
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = p.w.Write(b)
	return err
}

// close ends the output and tells what it does not show.
func (p *historyPrinter) close(out *Out) error {
	if !p.csv {
		end := "\n]\n"
		if p.rows == 0 {
			end = "[]\n"
		}
		_, _ = p.w.WriteString(end)
	}
	if err := p.w.Flush(); err != nil {
		return err
	}
	if p.removed > 0 {
		out.Notef("note: the value was removed %d times; --format json shows when", p.removed)
	}
	for _, g := range p.gaps {
		when := ""
		if g.Start != "" {
			when = " from " + g.Start
		}
		out.Notef("note: %d points of %s%s to %s are missing here (%s)", g.Count, g.Author, when, g.End, g.Reason)
	}
	return nil
}
