package cli

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
)

// History is the command `history`.
type History struct {
	Target
	Node    string `arg:"" help:"Node: an id, the beginning of one, or a path of descriptions."`
	TypeKey string `arg:"" name:"type[/key]" help:"What to show, such as temperature."`
	From    string `placeholder:"TIME" help:"First time, included: RFC 3339, or how long ago, such as -1h or -7d. By default the beginning."`
	To      string `placeholder:"TIME" help:"Last time, not included. By default the end."`
	Every   string `placeholder:"SPAN" help:"Summarise spans such as 10s, 5m or 1d, instead of single points."`
	Format  string `enum:"csv,json" default:"csv" help:"csv or json."`
	JSON    bool   `name:"json" help:"The same as --format json."`
}

// Help shows examples.
func (History) Help() string {
	return "Prints what a value was, by the time of the samples. CSV has the columns time,value, or with --every time,count,min,max,mean,last.\n\n" +
		"Examples:\n\n    history pump temperature --from -1h\n    history pump temperature --from 2026-11-01T00:00:00Z --every 1h --format json"
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
		series, err := seriesOf(id, h.TypeKey)
		if err != nil {
			return err
		}
		req.Type, req.Key = series.Type, series.Key
		p := newHistoryPrinter(out, h.JSON || h.Format == "json", h.Every != "")
		err = c.History(ctx, id, req, p.page)
		if err != nil {
			return err
		}
		return p.close(out)
	})
}

// request returns the question but for its series.
func (h History) request(now time.Time) (req api.HistoryRequest, err error) {
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
	buf     *bufio.Writer
	csv     *csv.Writer // nil for JSON
	removed int         // removals that CSV cannot show
	rows    int
	gaps    []api.Gap
}

func newHistoryPrinter(w io.Writer, asJSON, buckets bool) *historyPrinter {
	p := &historyPrinter{buf: bufio.NewWriter(w)}
	if asJSON {
		return p
	}
	p.csv = csv.NewWriter(p.buf)
	header := []string{"time", "value"}
	if buckets {
		header = []string{"time", "count", "min", "max", "mean", "last"}
	}
	_ = p.csv.Write(header) // an error stays and comes with Flush
	return p
}

// page prints one page.
func (p *historyPrinter) page(r *api.HistoryReply) error {
	p.gaps = r.Gaps
	for i := range r.Samples {
		if err := p.sample(&r.Samples[i]); err != nil {
			return err
		}
	}
	for i := range r.Buckets {
		if err := p.bucket(&r.Buckets[i]); err != nil {
			return err
		}
	}
	return p.flush()
}

func (p *historyPrinter) flush() error {
	if p.csv != nil {
		p.csv.Flush()
		if err := p.csv.Error(); err != nil {
			return err
		}
	}
	return p.buf.Flush()
}

func (p *historyPrinter) sample(s *api.Sample) error {
	switch {
	case p.csv == nil:
		return p.element(s)
	case s.Removed:
		p.removed++
		return nil
	}
	return p.csv.Write([]string{s.Time, client.SampleText(s)})
}

func (p *historyPrinter) bucket(b *api.Bucket) error {
	if p.csv == nil {
		return p.element(b)
	}
	return p.csv.Write([]string{
		b.Time, strconv.Itoa(b.Count),
		client.ValueText(b.Min), client.ValueText(b.Max), client.ValueText(b.Mean), client.ValueText(b.Last),
	})
}

// element prints one element of a JSON list, on a line of its own.
func (p *historyPrinter) element(v any) error {
	separator := ",\n"
	if p.rows == 0 {
		separator = "[\n"
	}
	p.rows++
	if _, err := p.buf.WriteString(separator); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = p.buf.Write(b)
	return err
}

// close ends the output and tells what it does not show.
func (p *historyPrinter) close(out *Out) error {
	if p.csv == nil {
		end := "\n]\n"
		if p.rows == 0 {
			end = "[]\n"
		}
		if _, err := p.buf.WriteString(end); err != nil {
			return err
		}
	}
	if err := p.flush(); err != nil {
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
