package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/point"
)

// csvs measures a day of all series as text.
func csvs(ctx context.Context, b *bench) error {
	return b.onFixture(ctx, func(f *fixture.Fixture, g *lab.Instance) error {
		return b.inLab(func(l *lab.Lab) (err error) {
			db, err := fillSQLite(ctx, f, filepath.Join(l.Dir, "points.db"))
			if err != nil {
				return fmt.Errorf("fill SQLite: %w", err)
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			for range b.Runs {
				began := time.Now()
				rows, err := export(ctx, f, g)
				if err != nil {
					return err
				}
				took := time.Since(began)
				began = time.Now()
				theirs, err := db.export(ctx, dayOf(f))
				if err != nil {
					return fmt.Errorf("SQLite: %w", err)
				}
				tookSQLite := time.Since(began)
				if rows != theirs {
					return fmt.Errorf("%s has %d rows, %s %d", sapflow, rows, sqlite, theirs)
				}
				r := row{
					Name: "30 series of a day as csv, rows", Unit: "/s", Target: ">= 1,000,000",
					Note: fmt.Sprintf("%s rows; Sapflow: `sapflow-agent history`, in a process of its own, with the names of the series; SQLite: in the process that reads, times as text, without names", report.Whole(rows)),
				}
				b.Add(r, sapflow, float64(rows)/took.Seconds())
				b.Add(r, sqlite, float64(rows)/tookSQLite.Seconds())
				b.addRatio(r, took.Seconds(), tookSQLite.Seconds())
			}
			return nil
		})
	})
}

// export has the agent's command print the day, and counts the rows.
func export(ctx context.Context, f *fixture.Fixture, g *lab.Instance) (rows int, err error) {
	var out lines
	of := dayOf(f)
	err = g.RunTo(ctx, &out, "history", f.ID, "value", "--depth", "-1", "--from", timeText(of.from), "--to", timeText(of.to), "--format", "csv")
	return int(out) - 1, err // the head
}

// lines counts the lines that are written.
type lines int

func (l *lines) Write(b []byte) (int, error) {
	*l += lines(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// export prints the same of SQLite.
func (d *database) export(ctx context.Context, of span) (n int, err error) {
	var out []byte
	for series := range 30 {
		rows, err := d.Query(ctx, `SELECT time, value FROM point WHERE series = ? AND time >= ? AND time < ? ORDER BY time`, series, int64(of.from), int64(of.to))
		if err != nil {
			return 0, err
		}
		for out = out[:0]; rows.Next(); n++ {
			var at int64
			var v any
			if err := rows.Scan(&at, &v); err != nil {
				return 0, errors.Join(err, rows.Close())
			}
			out = append(point.TimeOf(uint64(at)).AppendFormat(out, time.RFC3339Nano), ',')
			switch v := v.(type) {
			case float64:
				out = strconv.AppendFloat(out, v, 'g', -1, 64)
			case int64:
				out = strconv.AppendInt(out, v, 10)
			case string:
				out = append(out, v...)
			}
			out = append(out, '\n')
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// memory measures the most that an agent takes for all that is read.
func memory(ctx context.Context, b *bench) error {
	for range b.Runs {
		err := b.onFixture(ctx, func(f *fixture.Fixture, i *lab.Instance) error {
			g, err := dial(ctx, f, i)
			if err != nil {
				return err
			}
			defer g.c.Close()
			for _, q := range questions(f, g.nice) {
				if _, err := timed(func() error { _, err := q.ask(ctx, g); return err }); err != nil {
					return fmt.Errorf("%s: %w", q.Name, err)
				}
			}
			if _, err := export(ctx, f, i); err != nil {
				return err
			}
			peak, err := i.PeakRSS()
			if err != nil {
				return err
			}
			b.Add(row{
				Name: "most resident memory of the agent", Unit: "MB", Target: "<= 64 MB",
				Note: "VmHWM after a start, all questions above and the export",
			}, sapflow, float64(peak)/(1<<20))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
