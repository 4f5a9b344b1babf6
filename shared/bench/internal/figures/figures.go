// Package figures measures Sapflow with the real binaries, beside what is
// compared with it in the same run. Figures are printed, never asserted.
package figures

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin   string // directory of the two binaries, required
	Trace string // recorded trace, required
	Quick bool   // one short run of everything; the files are left alone
	JSON  bool   // print JSON; the files are left alone
	Only  string // one part, "" for all; the files are left alone

	Table, Data       string // files for the table and for the same in JSON
	Out, Progress     io.Writer
	runs              int
	window            time.Duration // of one measurement of writes
	reads             int
	unansweredPerRun  int
	unansweredPerTurn int
}

// Results is what a run has measured.
type Results struct {
	Date    string   `json:"date"`
	Machine Machine  `json:"machine"`
	Runs    int      `json:"runs"` // figures are medians of so many
	Figures []Figure `json:"figures"`
}

// Machine says where it was measured.
type Machine struct {
	Cores  int    `json:"cores"`
	OS     string `json:"os"`
	Go     string `json:"go"`
	SyncUS int    `json:"syncMicroseconds"` // median of a write of 4 KB with fsync
}

// Figure is one measured value, the median of its runs.
type Figure struct {
	Part  string    `json:"part"`
	Name  string    `json:"name"`
	Unit  string    `json:"unit"`
	Value float64   `json:"value"`
	Runs  []float64 `json:"runs,omitempty"`
	Note  string    `json:"note,omitempty"`
}

// part measures one group of figures and adds them to the results.
type part struct {
	name string
	run  func(context.Context, *bench) error
}

// The parts; each has a section of the table.
const (
	partWrites = "writes"
	partIngest = "ingest"
	partRead   = "read"
)

var parts = [...]part{{partWrites, writes}, {partIngest, ingest}, {partRead, read}}

// PartNames returns the names of the parts.
func PartNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// bench is a run.
type bench struct {
	Config
	Results

	part   string
	values map[string][]float64 // by part and name, in order of arrival
	seen   []Figure             // without values, in order of arrival
}

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	cfg.runs, cfg.window, cfg.reads = 3, 3*time.Second, 200
	cfg.unansweredPerRun, cfg.unansweredPerTurn = 300_000, 10_000
	if cfg.Quick {
		cfg.runs, cfg.window, cfg.reads = 1, 500*time.Millisecond, 50
		cfg.unansweredPerRun = 100_000
	}
	b := &bench{Config: cfg, values: map[string][]float64{}}
	b.Results = Results{
		Date: time.Now().UTC().Format("2006-01-02"), Runs: cfg.runs,
		Machine: Machine{Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()},
	}
	var err error
	if b.Machine.SyncUS, err = syncTime(); err != nil {
		return err
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
	b.settle()
	return b.write()
}

// add records a value of one run.
func (b *bench) add(name, unit string, value float64, note string) {
	key := b.part + "/" + name
	if _, known := b.values[key]; !known {
		b.seen = append(b.seen, Figure{Part: b.part, Name: name, Unit: unit, Note: note})
	}
	b.values[key] = append(b.values[key], value)
	fmt.Fprintf(b.Progress, "%-8s %-50s %12s %s\n", b.part, name, report.Format(value), unit)
}

// settle turns what was recorded into medians.
func (b *bench) settle() {
	for _, f := range b.seen {
		f.Runs = b.values[f.Part+"/"+f.Name]
		f.Value = report.Median(f.Runs)
		b.Figures = append(b.Figures, f)
	}
}

// inLab runs f with a lab of its own.
func (b *bench) inLab(f func(*lab.Lab) error) error { return lab.With("figures", b.Bin, f) }

// syncTime returns the median of writing 4 KB with fsync where labs are, in
// microseconds: most figures of durable writes follow it.
func syncTime() (int, error) {
	f, err := os.CreateTemp("", "sapflow-sync-")
	if err != nil {
		return 0, fmt.Errorf("measure sync: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4<<10)
	var list []float64
	for range 200 {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, fmt.Errorf("measure sync: %w", err)
		}
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("measure sync: %w", err)
		}
		list = append(list, float64(time.Since(began).Microseconds()))
	}
	return int(report.Median(list)), nil
}

// write prints or stores the results.
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
	return report.WriteSection(b.Table, "figures", text)
}
