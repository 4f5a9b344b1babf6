package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Plan says what of a bench in parts is measured, and where it goes.
type Plan struct {
	Quick bool   // one small run of everything; the files are left alone
	JSON  bool   // print JSON; the files are left alone
	Only  string // one part, "" for all; the files are left alone
	Merge bool   // with Only: the files keep what they have of the other parts

	Table, Data   string // files for the tables and for the same in JSON
	Out, Progress io.Writer
}

// Part measures one group of figures; one with a title has a table of its own.
type Part[B any] struct {
	Name, Title string
	Run         func(context.Context, B) error
}

// Names returns the names of parts.
func Names[B any](parts []Part[B]) string {
	var names []string
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// Row is a line of a table.
type Row struct{ Name, Unit, Target, Note string }

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

// Sheet is what a bench in parts has measured.
type Sheet struct {
	Machine
	Runs    int      `json:"runs"` // figures are medians of so many
	Figures []Figure `json:"figures"`

	part     string // that is measured
	progress io.Writer
}

// Add records a value of one run.
func (s *Sheet) Add(r Row, column string, value float64) {
	fmt.Fprintf(s.progress, "%-8s %-70s %-18s %12s %s\n", s.part, r.Name, column, Format(value), r.Unit)
	for i := range s.Figures {
		if f := &s.Figures[i]; f.Part == s.part && f.Row == r.Name && f.Column == column {
			f.Runs = append(f.Runs, value)
			f.Value = Median(f.Runs)
			return
		}
	}
	s.Figures = append(s.Figures, Figure{s.part, r.Name, column, r.Unit, value, []float64{value}, r.Target, r.Note})
}

// Measure has b measure what the plan says, into its sheet, and tells it as a
// section with tables; the main one has these columns.
func Measure[B any](ctx context.Context, plan Plan, s *Sheet, section string, parts []Part[B], columns []string, b B) error {
	s.Machine, s.progress = Here(), plan.Progress
	for _, p := range parts {
		if plan.Only != "" && plan.Only != p.Name {
			continue
		}
		s.part = p.Name
		if err := p.Run(ctx, b); err != nil {
			return fmt.Errorf("measure %s: %w", p.Name, err)
		}
	}
	if len(s.Figures) == 0 {
		return fmt.Errorf("no part is named %q; there are %s", plan.Only, Names(parts))
	}
	if plan.JSON {
		return Print(plan.Out, s)
	}
	if plan.Quick || plan.Only != "" && !plan.Merge {
		_, err := io.WriteString(plan.Out, markdown(s, parts, columns))
		return err
	}
	if plan.Merge {
		if err := s.merge(plan); err != nil {
			return err
		}
	}
	if err := WriteJSON(plan.Data, s); err != nil {
		return err
	}
	return WriteSection(plan.Table, section, markdown(s, parts, columns))
}

// merge adds what the file has of the parts that were not measured.
func (s *Sheet) merge(plan Plan) error {
	data, err := os.ReadFile(plan.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	var old Sheet
	if err := json.Unmarshal(data, &old); err != nil {
		return fmt.Errorf("merge with %s: %w", plan.Data, err)
	}
	s.Figures = append(slices.DeleteFunc(old.Figures, func(f Figure) bool { return f.Part == plan.Only || f.Part == "" }), s.Figures...)
	return nil
}

// markdown returns a sheet as tables.
func markdown[B any](s *Sheet, parts []Part[B], columns []string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; medians of %d runs. All processes share the cores.\n", s.Machine, s.Runs)
	var main []Figure
	for _, p := range parts {
		if p.Title == "" {
			main = append(main, s.of(p.Name)...)
		}
	}
	if len(main) > 0 {
		table(&w, main, columns)
	}
	for _, p := range parts {
		if list := s.of(p.Name); p.Title != "" && len(list) > 0 {
			fmt.Fprintf(&w, "\n%s\n", p.Title)
			table(&w, list, nil)
		}
	}
	return w.String()
}

// of returns the figures of a part.
func (s *Sheet) of(part string) []Figure {
	return slices.DeleteFunc(slices.Clone(s.Figures), func(f Figure) bool { return f.Part != part })
}

// table prints figures with a line a row; columns are those of the figures
// where nil. Target and note stand where a row has them.
func table(w io.Writer, list []Figure, columns []string) {
	all := len(columns) == 0
	more := slices.ContainsFunc(list, func(f Figure) bool { return f.Target != "" || f.Note != "" })
	var rows []string
	cells, first := map[[2]string]Figure{}, map[string]Figure{}
	for _, f := range list {
		if !slices.Contains(rows, f.Row) {
			rows = append(rows, f.Row)
			first[f.Row] = f
		}
		if all && !slices.Contains(columns, f.Column) {
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
				line = append(line, strings.TrimSpace(Format(f.Value)+" "+f.Unit))
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
