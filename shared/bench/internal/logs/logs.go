// Package logs measures the logs at both ends with the real binaries, beside
// plain JetStream and SQLite in the same run: what an acked write, a replay, a
// start, memory and a point at the hub cost, and what a flood does to others.
// The figures are printed, never asserted.
package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	Merge bool   // with Only: the files keep what they have of the other parts

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
	Part   string    `json:"part"`
	Row    string    `json:"row"`
	Column string    `json:"column"`
	Unit   string    `json:"unit,omitempty"`
	Value  float64   `json:"value"`
	Runs   []float64 `json:"runs"`
	Target string    `json:"target,omitempty"`
	Note   string    `json:"note,omitempty"`
}

// row is a line of a table.
type row struct{ name, unit, target, note string }

// Columns of the main table.
const (
	stock   = "plain JetStream"
	sqlite  = "SQLite"
	sapflow = "Sapflow"
)

// part measures one group of figures; one with a title has a table of its own.
type part struct {
	name, title string
	run         func(context.Context, *bench) error
}

var parts = [...]part{
	{"writes", "", writes},
	{"replay", "", replays},
	{"start", "", starts},
	{"memory", "", memory},
	{"ingest", "", ingest},
	{"restart", "", restarts},
	{"cluster", clusterTitle, clusters},
	{"flood", floodTitle, floods},
}

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

	part string // that is measured
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
		b.part = p.name
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
func (b *bench) add(r row, column string, value float64) {
	fmt.Fprintf(b.Progress, "%-8s %-70s %-18s %12s %s\n", b.part, r.name, column, report.Format(value), r.unit)
	for i := range b.Figures {
		if f := &b.Figures[i]; f.Part == b.part && f.Row == r.name && f.Column == column {
			f.Runs = append(f.Runs, value)
			f.Value = report.Median(f.Runs)
			return
		}
	}
	b.Figures = append(b.Figures, Figure{b.part, r.name, column, r.unit, value, []float64{value}, r.target, r.note})
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

// Markdown returns the results as tables.
func (r *Results) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; medians of %d runs. All processes share the cores.\n", r.Machine, r.Runs)
	var main []Figure
	for _, p := range parts {
		if p.title == "" {
			main = append(main, r.of(p.name)...)
		}
	}
	if len(main) > 0 {
		table(&w, main, []string{stock, sqlite, sapflow})
	}
	for _, p := range parts {
		if list := r.of(p.name); p.title != "" && len(list) > 0 {
			fmt.Fprintf(&w, "\n%s\n", p.title)
			table(&w, list, nil)
		}
	}
	return w.String()
}

// of returns the figures of a part.
func (r *Results) of(part string) []Figure {
	return slices.DeleteFunc(slices.Clone(r.Figures), func(f Figure) bool { return f.Part != part })
}

// table prints figures with a line a row; columns are those of the figures
// where nil. Target and note stand where a row has them.
func table(w io.Writer, list []Figure, columns []string) {
	more := len(columns) > 0
	var rows []string
	cells, first := map[[2]string]Figure{}, map[string]Figure{}
	for _, f := range list {
		if !slices.Contains(rows, f.Row) {
			rows = append(rows, f.Row)
			first[f.Row] = f
		}
		if !more && !slices.Contains(columns, f.Column) {
			columns = append(columns, f.Column)
		}
		cells[[2]string{f.Row, f.Column}] = f
	}
	head := append([]string{""}, columns...)
	if more {
		head = append(head, "target", "")
	}
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, name := range rows {
		line := []string{name}
		for _, c := range columns {
			if f, ok := cells[[2]string{name, c}]; ok {
				line = append(line, strings.TrimSpace(report.Format(f.Value)+" "+f.Unit))
			} else {
				line = append(line, "")
			}
		}
		if more {
			line = append(line, first[name].Target, first[name].Note)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | "))
	}
}

func (b *bench) write() error {
	if b.JSON {
		return report.Print(b.Out, b.Results)
	}
	if b.Quick || b.Only != "" && !b.Merge {
		_, err := io.WriteString(b.Out, b.Markdown())
		return err
	}
	if b.Merge {
		if err := b.merge(); err != nil {
			return err
		}
	}
	if err := report.WriteJSON(b.Data, b.Results); err != nil {
		return err
	}
	return report.WriteSection(b.Table, "log", b.Markdown())
}

// merge adds what the file has of the parts that were not measured.
func (b *bench) merge() error {
	data, err := os.ReadFile(b.Data)
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	var old Results
	if err := json.Unmarshal(data, &old); err != nil {
		return fmt.Errorf("merge with %s: %w", b.Data, err)
	}
	b.Figures = append(slices.DeleteFunc(old.Figures, func(f Figure) bool { return f.Part == b.Only || f.Part == "" }), b.Figures...)
	return nil
}
