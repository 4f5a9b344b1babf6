// Package radio measures what a gateway of 30 nodes costs on the line to its
// hub, and how it behaves on a slow one, beside stock ways to do the same.
//
// Each way is a subject: both ends run for real and meet over a natstest.Link,
// which counts. Bytes are those above TCP, both ways together, unless called
// billed: those are with TCP and IP as natstest estimates them.
package radio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin     string        // directory of the two binaries, required for Sapflow's rows
	Quick   bool          // short; the files are left alone
	JSON    bool          // print JSON; the files are left alone
	Only    string        // one row, "" for all; the files are left alone
	Scale   int           // how much faster than real time a backlog drains, required
	Idle    time.Duration // how long the idle line is watched; 150 s by default
	Backlog int           // points that drain; 20,000 by default

	Table, Data   string // files for the table and for the same in JSON
	Out, Progress io.Writer
}

// subject is one way to carry points from a gateway to its hub and settings
// back. Its methods are called from one goroutine.
type subject interface {
	// Start runs both ends, the gateway's over the link of the site, and
	// returns once they are connected.
	Start(context.Context, *site) error
	// Write hands over points at the gateway, connected or not.
	Write(context.Context, []point.Point) error
	// Configure makes one change for a node at the hub.
	Configure(ctx context.Context, node string, value float64) error
	// Behind returns how many written points the hub does not hold yet, about;
	// 0 is exact.
	Behind(context.Context) (int, error)
	// Close ends both.
	Close() error
}

// site is where a subject runs.
type site struct {
	dir     string // its own, removed by the caller
	bin     string // directory of Sapflow's binaries
	link    *natstest.Link
	nodes   []string
	points  *arrivals // at the hub
	changes *arrivals // at the gateway
}

// row is a line of the table.
type row struct {
	name, what string
	open       func() subject
	// flush is how long a point may wait at the gateway; what is measured
	// lasts at least two of it. Default: it goes at once.
	flush time.Duration
	// cutBacklog is how many points drain over a line that is cut, if the usual
	// number is over too soon.
	cutBacklog int
	// forgets says that nothing is kept while the line is down.
	forgets bool
}

var rows = [...]row{
	{name: "sources-gateway", what: "JetStream sources, a pair of streams a gateway", open: func() subject { return &sources{} }},
	{name: "sources-node", what: "JetStream sources, a pair of streams a node", open: func() subject { return &sources{perNode: true} }},
	{name: "publish", what: "NATS publish over a leaf, nothing kept", open: func() subject { return &publish{} }, forgets: true},
	{name: "mqtt", what: "MQTT QoS 1, JSON, a bridge between two mosquitto 2.0.11", open: func() subject { return &mqtt{} }},
	{name: "wired", what: "Sapflow, plan wired", open: func() subject { return &sapflow{plan: "wired"} }, cutBacklog: 100_000, flush: time.Second},
	{name: "lte", what: "Sapflow, plan lte", open: func() subject { return &sapflow{plan: "lte"} }, cutBacklog: 100_000, flush: 10 * time.Second},
	{name: "catm", what: "Sapflow, plan catm", open: func() subject { return &sapflow{plan: "catm"} }, cutBacklog: 100_000, flush: time.Minute},
}

// RowNames returns the names of the rows.
func RowNames() string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return strings.Join(names, ", ")
}

// Results is what a run has measured.
type Results struct {
	Machine       report.Machine `json:"machine"`
	Seed          uint64         `json:"seed"`
	Scale         int            `json:"scale"` // of the drain and the cuts
	WindowSeconds float64        `json:"windowSeconds"`
	IdleSeconds   float64        `json:"idleSeconds"` // from 10 min on Sapflow's hub restarts halfway
	BacklogPoints int            `json:"backlogPoints"`
	Cuts          int            `json:"cuts"`
	Rows          []*Row         `json:"rows"`
}

// Row is what one way costs. A figure that does not exist is nil: what is not
// kept does not drain.
type Row struct {
	Name string `json:"name"`
	What string `json:"what"`
	Note string `json:"note,omitempty"`

	IdleBytesPerHour   float64 `json:"idleBytesPerHour"`
	BytesPerPoint      float64 `json:"bytesPerPoint"` // at 30 points/s
	BilledPerPoint     float64 `json:"billedBytesPerPoint"`
	SparseBytes        float64 `json:"sparseBytesPerPoint"`       // at 6 points a minute
	SparseBilled       float64 `json:"sparseBilledBytesPerPoint"` // the same with TCP and IP
	ConfigurationBytes float64 `json:"configurationBytes"`        // of 20 changes

	FirstSeconds *float64 `json:"firstSeconds"` // from a line that works to the first point, in real time
	DrainSeconds *float64 `json:"drainSeconds"` // to the last of the backlog, in time of the line
	DrainBytes   *float64 `json:"drainBytes"`
	LiveP50      *float64 `json:"liveP50Seconds"`
	LiveP99      *float64 `json:"liveP99Seconds"`
	TwiceBytes   *float64 `json:"twiceBytes"` // more with cuts than without
}

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	b := &bench{Config: cfg, idle: 150 * time.Second, window: time.Minute, backlog: 20_000, cutBacklog: 5_000, cuts: 20}
	if cfg.Idle > 0 {
		b.idle = cfg.Idle
	}
	if cfg.Backlog > 0 {
		b.backlog = cfg.Backlog
	}
	if cfg.Quick {
		b.idle, b.window, b.backlog, b.cutBacklog, b.cuts = 10*time.Second, 20*time.Second, 2_000, 1_000, 3
	}
	r := &Results{
		Machine: report.Here(), Seed: trace.Seed, Scale: cfg.Scale, WindowSeconds: b.window.Seconds(), IdleSeconds: b.idle.Seconds(),
		BacklogPoints: b.backlog, Cuts: b.cuts,
	}
	// All rows at once: they wait for their lines, not for the processor.
	group, ctx := errgroup.WithContext(ctx)
	var measured []*Row
	for _, w := range rows {
		if cfg.Only != "" && cfg.Only != w.name {
			continue
		}
		out := &Row{Name: w.name, What: w.what}
		measured = append(measured, out)
		group.Go(func() error {
			if err := b.measure(ctx, w, out); err != nil {
				return fmt.Errorf("measure %s: %w", w.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if len(measured) == 0 {
		return fmt.Errorf("no row %q; there are %s", cfg.Only, RowNames())
	}
	r.Rows = measured
	if cfg.JSON {
		return report.Print(cfg.Out, r)
	}
	text := r.Markdown()
	if cfg.Quick || cfg.Only != "" {
		_, err := io.WriteString(cfg.Out, text)
		return err
	}
	if err := report.WriteJSON(cfg.Data, r); err != nil {
		return err
	}
	return report.WriteSection(cfg.Table, "link", text)
}

// bench is a run.
type bench struct {
	Config
	idle, window time.Duration
	backlog      int // points that drain
	cutBacklog   int // points that drain over a line that is cut
	cuts         int
}

func (b *bench) tell(w row, format string, args ...any) {
	fmt.Fprintf(b.Progress, "%-16s %s\n", w.name, fmt.Sprintf(format, args...))
}

// on runs f with a subject that is connected over such a link and has sent a
// value of every node.
func (b *bench) on(ctx context.Context, w row, line natstest.LinkConfig, f func(*run) error) (err error) {
	dir, err := lab.TempDir("link")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	link, err := natstest.NewLink(line)
	if err != nil {
		return err
	}
	defer link.Close()
	r := &run{
		bench: b, row: w, subject: w.open(), generator: trace.G1(trace.Seed),
		site: site{dir: dir, bin: b.Bin, link: link, points: newArrivals(), changes: newArrivals()},
	}
	first := r.generator.Next() // holds every node
	for i := range first {
		r.nodes = append(r.nodes, first[i].Node)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Start(ctx, &r.site); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	r.clock = time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	for range 2 {
		if err := r.Write(ctx, r.second(r.clock)); err != nil {
			return err
		}
	}
	if err := r.drained(ctx, connectWait); err != nil {
		return err
	}
	if err := lab.Pause(ctx, settleFor); err != nil {
		return err
	}
	return f(r)
}

const (
	// connectWait bounds the way of the first points.
	connectWait = 3 * time.Minute
	// settleFor lets what a connection says at its start go by.
	settleFor = 3 * time.Second
)
