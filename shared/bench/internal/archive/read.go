package archive

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

const (
	second = uint64(time.Second)
	hour   = 3600 * second
	day    = 24 * hour
	// sampled is the series that is read, a walk.
	sampled = 10
	// repeats of one question make one run.
	repeats = 15
	// plotted is how many buckets are asked for.
	plotted = 500
)

// span is a part of time, ns.
type span struct{ from, to uint64 }

// spanOf returns a span with whole seconds of the fixture: a point is at most
// 20 ms early or late.
func spanOf(from, to uint64) span {
	const between = uint64(500 * time.Millisecond)
	return span{from - between, to - between}
}

// Spans that are read. Plain JetStream has the day and the hour behind it.
func dayOf(f *fixture.Fixture) span  { return spanOf(max(f.Start, f.Logged-day), f.Logged) }
func tailOf(f *fixture.Fixture) span { return spanOf(f.Logged, f.End) }
func allOf(f *fixture.Fixture) span  { return spanOf(f.Start, f.End) }

// ago is how many days an old hour is away.
func ago(f *fixture.Fixture) int { return max(1, f.Days/3) }

func oldOf(f *fixture.Fixture) span {
	at := f.End - uint64(ago(f))*day
	return spanOf(at, at+hour)
}

// tally is what a reader found.
type tally struct {
	values int
	sum    float64 // of the values, or of the means of buckets
}

func (t *tally) add(n int, v float64) { t.values, t.sum = t.values+n, t.sum+v }

// store answers questions about one series of the fixture.
type store interface {
	// values decodes the values of a span.
	values(ctx context.Context, s span) (tally, error)
	// buckets summarises a span in buckets of a width.
	buckets(ctx context.Context, s span, width time.Duration) (tally, error)
}

// gateway is the agent, asked through its client.
type gateway struct {
	c    *client.Client
	node string
	nice time.Duration // of the buckets that it makes when it is asked for plotted of them
}

func dial(ctx context.Context, f *fixture.Fixture, i *lab.Instance) (*gateway, error) {
	c, err := i.Dial(ctx)
	if err != nil {
		return nil, err
	}
	g := &gateway{c: c, node: f.Nodes[sampled]}
	req := g.request(allOf(f))
	req.Buckets = plotted
	err = c.History(ctx, g.node, req, func(r *api.HistoryReply) (err error) {
		g.nice, err = time.ParseDuration(r.Every)
		return err
	})
	if err != nil {
		c.Close()
	}
	return g, err
}

func (g *gateway) request(s span) api.HistoryRequest {
	return api.HistoryRequest{Type: "value", From: timeText(s.from), To: timeText(s.to)}
}

func timeText(ns uint64) string { return point.TimeOf(ns).Format(time.RFC3339Nano) }

func (g *gateway) values(ctx context.Context, s span) (t tally, err error) {
	err = g.c.Columns(ctx, g.node, g.request(s), func(columns []client.Column, _ []api.Gap) error {
		for i := range columns {
			for k := range columns[i].Len() {
				v, _ := columns[i].Number(k)
				t.add(1, v)
			}
		}
		return nil
	})
	return t, err
}

func (g *gateway) buckets(ctx context.Context, s span, width time.Duration) (t tally, err error) {
	req := g.request(s)
	if req.Every = width.String(); width == g.nice {
		req.Every, req.Buckets = "", plotted
	}
	err = g.c.History(ctx, g.node, req, func(r *api.HistoryReply) error {
		for i := range r.Buckets {
			b := &r.Buckets[i]
			var of [3]float64
			for k, raw := range [...][]byte{b.Min, b.Max, b.Mean} {
				var err error
				if of[k], err = strconv.ParseFloat(string(raw), 64); err != nil {
					return err
				}
			}
			t.add(b.Count, of[2])
		}
		return nil
	})
	return t, err
}

// timed returns the median time of a question, in ms.
func timed(ask func() error) (float64, error) {
	var list []float64
	for range repeats {
		began := time.Now()
		if err := ask(); err != nil {
			return 0, err
		}
		list = append(list, float64(time.Since(began).Microseconds())/1000)
	}
	return report.Median(list), nil
}

// question is a row of the table.
type question struct {
	row
	ask func(context.Context, store) (tally, error)
	// askStock is what plain JetStream can be asked instead; nil for nothing.
	askStock func(context.Context, store) (tally, error)
}

func questions(f *fixture.Fixture, nice time.Duration) []question {
	values := func(of span) func(context.Context, store) (tally, error) {
		return func(ctx context.Context, s store) (tally, error) { return s.values(ctx, of) }
	}
	buckets := func(width time.Duration) func(context.Context, store) (tally, error) {
		return func(ctx context.Context, s store) (tally, error) { return s.buckets(ctx, allOf(f), width) }
	}
	exact := time.Duration(f.Days) * 24 * time.Hour / plotted
	first := dayOf(f)
	first.to = first.from + hour
	const targetBuckets = "<= 1/50 of SQLite, <= 30 ms"
	return []question{
		{
			row{Name: "a day of 1 Hz of one of 30 series", Unit: "ms", Target: "<= 1/10 of SQLite", Note: report.Whole(int((dayOf(f).to-dayOf(f).from)/second)) + " values decoded, all in chunks"},
			values(dayOf(f)), values(dayOf(f)),
		}, {
			row{Name: fmt.Sprintf("an hour of it, from %d days ago", ago(f)), Unit: "ms", Target: "<= 1/2 of SQLite", Note: "JetStream: the first hour that it has"},
			values(oldOf(f)), values(first),
		}, {
			row{Name: "an hour of it, the last one", Unit: "ms", Target: "<= 1/2 of SQLite", Note: "not in chunks yet"},
			values(tailOf(f)), values(tailOf(f)),
		}, {
			row{
				Name: fmt.Sprintf("%d days as about %d buckets", f.Days, plotted), Unit: "ms", Target: targetBuckets,
				Note: fmt.Sprintf("of %s, which the clock has; SQLite: group by, with count, min, max, avg; JetStream has none: every value goes to who asks", nice),
			},
			buckets(nice), nil,
		}, {
			row{Name: fmt.Sprintf("%d days as buckets of %s, exactly %d in the span", f.Days, exact, plotted), Unit: "ms", Target: targetBuckets},
			buckets(exact), nil,
		},
	}
}

// reads measures questions.
func reads(ctx context.Context, b *bench) error {
	return b.onFixture(ctx, func(f *fixture.Fixture, i *lab.Instance) error {
		return b.inLab(func(l *lab.Lab) error { return b.read(ctx, f, i, l.Dir) })
	})
}

func (b *bench) read(ctx context.Context, f *fixture.Fixture, i *lab.Instance, dir string) (err error) {
	db, err := fillSQLite(ctx, f, filepath.Join(dir, "points.db"))
	if err != nil {
		return fmt.Errorf("fill SQLite: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	js, err := fillStock(ctx, f, filepath.Join(dir, "stock"))
	if err != nil {
		return fmt.Errorf("fill JetStream: %w", err)
	}
	defer js.close()
	rest := row{
		Name: "bytes at rest, a point", Unit: "B",
		Note: fmt.Sprintf("files over %s points (Sapflow), %s (SQLite), %s (JetStream)", report.Whole(f.Points), report.Whole(db.points), report.Whole(js.points)),
	}
	for _, at := range []struct {
		column, path string
		points       int
	}{{stock, js.dir, js.points}, {sqlite, db.path, db.points}} {
		size, err := lab.Size(at.path)
		if err != nil {
			return err
		}
		b.Add(rest, at.column, float64(size)/float64(at.points))
	}
	b.Add(rest, sapflow, float64(f.Bytes)/float64(f.Points))
	g, err := dial(ctx, f, i)
	if err != nil {
		return err
	}
	defer g.c.Close()
	for range b.Runs {
		for _, q := range questions(f, g.nice) {
			if err := b.ask(ctx, &q, g, db, js); err != nil {
				return fmt.Errorf("%s: %w", q.Name, err)
			}
		}
	}
	return nil
}

// ask measures one question everywhere, and that the answers agree.
func (b *bench) ask(ctx context.Context, q *question, g *gateway, db *database, js *stream) error {
	measure := func(column string, s store, ask func(context.Context, store) (tally, error)) (t tally, ms float64, err error) {
		ms, err = timed(func() (err error) {
			t, err = ask(ctx, s)
			return err
		})
		if err != nil {
			return t, ms, fmt.Errorf("%s: %w", column, err)
		}
		b.Add(q.row, column, ms)
		return t, ms, nil
	}
	ours, took, err := measure(sapflow, g, q.ask)
	if err != nil {
		return err
	}
	theirs, tookSQLite, err := measure(sqlite, db, q.ask)
	if err != nil {
		return err
	}
	if ours.values != theirs.values || math.Abs(ours.sum-theirs.sum) > 1e-9*math.Abs(theirs.sum) {
		return fmt.Errorf("%s has %v, %s %v", sapflow, ours, sqlite, theirs)
	}
	b.addRatio(q.row, took, tookSQLite)
	if q.askStock == nil {
		return nil
	}
	theirs, _, err = measure(stock, js, q.askStock)
	if err == nil && ours.values != theirs.values {
		return fmt.Errorf("%s has %v, %s %v", sapflow, ours, stock, theirs)
	}
	return err
}
