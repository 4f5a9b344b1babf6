// Package logs measures the logs at both ends with the real binaries, beside
// plain JetStream and SQLite in the same run: what an acked write, a replay, a
// start, memory and a point at the hub cost, and what a flood does to others.
// The figures are printed, never asserted.
package logs

import (
	"context"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin   string // directory of the two binaries, required
	Trace string // recorded trace, required
	report.Plan
}

// Columns of the main table.
const (
	stock   = "plain JetStream"
	sqlite  = "SQLite"
	sapflow = "Sapflow"
)

var parts = []report.Part[*bench]{
	{Name: "writes", Run: writes},
	{Name: "replay", Run: replays},
	{Name: "start", Run: starts},
	{Name: "memory", Run: memory},
	{Name: "ingest", Run: ingest},
	{Name: "restart", Run: restarts},
	{Name: "cluster", Title: clusterTitle, Run: clusters},
	{Name: "flood", Title: floodTitle, Run: floods},
}

// PartNames returns the names of the parts.
func PartNames() string { return report.Names(parts) }

type bench struct {
	Config
	report.Sheet
}

// row is a line of a table.
type row = report.Row

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	b := &bench{Config: cfg, Sheet: report.Sheet{Runs: 3}}
	if cfg.Quick {
		b.Runs = 1
	}
	return report.Measure(ctx, cfg.Plan, &b.Sheet, "log", parts, []string{stock, sqlite, sapflow}, b)
}

// inLab runs f with a lab of its own.
func (b *bench) inLab(f func(*lab.Lab) error) error { return lab.With("logs", b.Bin, f) }
