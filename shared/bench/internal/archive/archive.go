// Package archive measures history with the real agent and client, beside
// plain JetStream, SQLite and Parquet in the same run: what a point takes at
// rest, what questions, imports and starts take with months of it, and what
// keeping it costs. The figures are printed, never asserted.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin   string // directory of the two binaries, required
	Trace string // recorded trace, required
	Days  int    // of history, required
	Dir   string // of a fixture that is taken, or made and left; "" makes one and removes it
	report.Plan
}

// Columns of the main table.
const (
	stock   = "plain JetStream"
	sqlite  = "SQLite"
	sapflow = "Sapflow"
	ratio   = "Sapflow / SQLite"
)

var parts = []report.Part[*bench]{
	{Name: "size", Title: sizeTitle, Run: sizes},
	{Name: "read", Run: reads},
	{Name: "csv", Run: csvs},
	{Name: "memory", Run: memory},
	{Name: "wear", Run: wear},
	{Name: "import", Run: imports},
	{Name: "start", Run: starts},
}

// PartNames returns the names of the parts.
func PartNames() string { return report.Names(parts) }

type bench struct {
	Config
	report.Sheet

	made *fixture.Fixture // nil until it is needed
}

// row is a line of a table.
type row = report.Row

// Run measures.
func Run(ctx context.Context, cfg Config) (err error) {
	b := &bench{Config: cfg, Sheet: report.Sheet{Runs: 3}}
	if cfg.Quick {
		b.Runs = 1
	}
	if b.Dir == "" {
		dir, err := lab.TempDir("history")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.Dir = filepath.Join(dir, "gateway")
	}
	if b.Dir, err = filepath.Abs(b.Dir); err != nil {
		return err
	}
	return report.Measure(ctx, cfg.Plan, &b.Sheet, "history", parts, []string{stock, sqlite, sapflow, ratio}, b)
}

// fixture returns the fixture, and makes it if there is none yet.
func (b *bench) fixture(ctx context.Context) (*fixture.Fixture, error) {
	if b.made != nil {
		return b.made, nil
	}
	f, err := fixture.Open(b.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = fixture.Write(ctx, fixture.Config{Bin: b.Bin, Dir: b.Dir, Days: b.Days, Progress: b.Progress})
	}
	if err != nil {
		return nil, err
	}
	if f.Days != b.Days {
		return nil, fmt.Errorf("the fixture in %s has %d days, not %d", b.Dir, f.Days, b.Days)
	}
	fmt.Fprintf(b.Progress, "%s\n", f)
	b.made = f
	return f, nil
}

// addRatio adds what Sapflow takes by what SQLite takes.
func (b *bench) addRatio(r row, ours, theirs float64) {
	r.Unit = ""
	b.Add(r, ratio, ours/theirs)
}

// onFixture runs f with the gateway of the fixture, which runs.
func (b *bench) onFixture(ctx context.Context, do func(*fixture.Fixture, *lab.Instance) error) error {
	f, err := b.fixture(ctx)
	if err != nil {
		return err
	}
	l, g := f.Gateway(b.Bin, b.Dir)
	if err = startReady(ctx, g); err == nil {
		err = do(f, g)
	}
	return errors.Join(err, l.Close())
}

// startReady starts a gateway and waits until it answers about the past.
func startReady(ctx context.Context, g *lab.Instance) error {
	if _, err := g.Start(ctx); err != nil {
		return err
	}
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return lab.Ready(ctx, c)
}

// inLab runs f with a lab of its own.
func (b *bench) inLab(f func(*lab.Lab) error) error { return lab.With("history", b.Bin, f) }
