// Package logs measures the hub's side of the logs with the real binaries: how
// long a hub with many nodes takes to start, and what a point costs it. The
// figures are printed, never asserted.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin   string // directory of the two binaries, required
	Trace string // recorded trace, required
	Quick bool   // one small run of everything; the files are left alone
	JSON  bool   // print JSON; the files are left alone
	Only  string // one part, "" for all; the files are left alone

	Table, Data   string // files for the table and for the same in JSON
	Out, Progress io.Writer
}

// Results is what a run has measured.
type Results struct {
	report.Machine
	Runs    int      `json:"runs"` // figures are medians of so many
	Figures []Figure `json:"figures"`
}

// Figure is one measured value, the median of its runs.
type Figure struct {
	Name  string    `json:"name"`
	Unit  string    `json:"unit"`
	Value float64   `json:"value"`
	Runs  []float64 `json:"runs"`
	Note  string    `json:"note,omitempty"`
}

type part struct {
	name string
	run  func(context.Context, *bench) error
}

var parts = [...]part{{"restart", restarts}, {"ingest", ingest}}

// PartNames returns the names of the parts.
func PartNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

type bench struct {
	Config
	Results
}

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	b := &bench{Config: cfg, Results: Results{Machine: report.Here(), Runs: 3}}
	if cfg.Quick {
		b.Runs = 1
	}
	for _, p := range parts {
		if cfg.Only != "" && cfg.Only != p.name {
			continue
		}
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
	}
	if len(b.Figures) == 0 {
		return fmt.Errorf("no part is named %q; there are %s", cfg.Only, PartNames())
	}
	return b.write()
}

// add records a value of one run.
func (b *bench) add(name, unit string, value float64, note string) {
	fmt.Fprintf(b.Progress, "%-64s %12s %s\n", name, report.Format(value), unit)
	for i := range b.Figures {
		if f := &b.Figures[i]; f.Name == name {
			f.Runs = append(f.Runs, value)
			f.Value = report.Median(f.Runs)
			return
		}
	}
	b.Figures = append(b.Figures, Figure{name, unit, value, []float64{value}, note})
}

// inLab runs f with a lab of its own, and removes it.
func (b *bench) inLab(f func(*lab.Lab) error) (err error) {
	dir, err := lab.TempDir("logs")
	if err != nil {
		return err
	}
	l := &lab.Lab{Dir: dir, Bin: b.Bin}
	defer func() {
		err = errors.Join(err, l.Close(), os.RemoveAll(dir))
	}()
	return f(l)
}

// Markdown returns the results as a table.
func (r *Results) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; medians of %d runs. All processes share the cores.\n\n| | | |\n|---|---|---|\n", r.Machine, r.Runs)
	for _, f := range r.Figures {
		fmt.Fprintf(&w, "| %s | %s %s | %s |\n", f.Name, report.Format(f.Value), f.Unit, f.Note)
	}
	return w.String()
}

func (b *bench) write() error {
	if b.JSON {
		return report.Print(b.Out, b.Results)
	}
	text := b.Markdown()
	if b.Quick || b.Only != "" {
		_, err := io.WriteString(b.Out, text)
		return err
	}
	if err := report.WriteJSON(b.Data, b.Results); err != nil {
		return err
	}
	return report.WriteSection(b.Table, "log", text)
}
