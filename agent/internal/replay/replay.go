// Package replay feeds a recorded trace to the running agent, as a driver
// would: for demos, for tests, and to carry history in.
//
// It sends points in the order of the file, as groups of which many are under
// way, and ends when every one is durable or refused. A trace may be unsorted
// and repeat times. Reading it belongs to package trace, judging a value to the
// agent.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/trace"
)

// window bounds the groups under way: enough that the next sync of a slow disk
// always has work, little memory.
const window = 32

// Config says what is replayed where.
type Config struct {
	// Client is connected to the agent, required.
	Client *client.Client
	// Open opens the trace, plain or compressed by gzip; it is called twice
	// with ShiftToNow. Required.
	Open func() (io.ReadCloser, error)
	// Speed is how much faster than the recorded times points are sent; 0 (the
	// default) is as fast as they become durable.
	Speed float64
	// ShiftToNow moves all times so that the newest one is now.
	ShiftToNow bool
	// Progress, if not nil, is called after each group, from any goroutine.
	Progress func(Counts)
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Counts is what a replay has done.
type Counts struct {
	Read            int     `json:"read"` // lines
	Sent            int     `json:"sent"` // points that are durable
	Refused         int     `json:"refused"`
	Nodes           int     `json:"nodes"` // made
	Seconds         float64 `json:"seconds"`
	PointsPerSecond float64 `json:"pointsPerSecond"`
}

// Result is what a replay has done, and the first lines that were refused.
type Result struct {
	Counts
	Refusals []trace.Refusal `json:"refusals,omitempty"`
}

// Run replays a trace. An error means that it could not be carried on; lines
// that were refused are in the result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &player{cfg: cfg, start: cfg.Now()}
	err := p.run(ctx)
	return p.result(), err
}

// player is a replay that is under way.
type player struct {
	cfg   Config
	start time.Time
	nodes *trace.Nodes
	shift uint64 // added to each time, wrapping around to subtract
	first uint64 // time of the first row, where a pace starts
	batch batch

	mu       sync.Mutex
	counts   Counts
	refusals []trace.Refusal
}

// batch is a group with the lines that it comes from.
type batch struct {
	points []point.Point
	lines  []int
	bytes  int
}

func (b batch) half() (left, right batch) {
	n := len(b.points) / 2
	return batch{points: b.points[:n], lines: b.lines[:n]}, batch{points: b.points[n:], lines: b.lines[n:]}
}

func (p *player) run(ctx context.Context) error {
	var err error
	if p.nodes, err = trace.ReadNodes(ctx, p.cfg.Client, ""); err != nil {
		return err
	}
	if p.cfg.ShiftToNow {
		err := p.open(func(r io.Reader) error {
			last, err := trace.Newest(r)
			p.shift = point.Nanos(p.start) - last
			return err
		})
		if err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(window)
	err = p.open(func(r io.Reader) error { return p.play(ctx, group, r) })
	// What stopped the others is the reason; being stopped by it is not.
	if first := group.Wait(); first != nil {
		return first
	}
	return err
}

func (p *player) open(read func(io.Reader) error) error {
	f, err := p.cfg.Open()
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	defer f.Close()
	return read(f)
}

// play sends the rows of a trace.
func (p *player) play(ctx context.Context, group *errgroup.Group, r io.Reader) error {
	t, err := trace.NewReader(r)
	if err != nil {
		return err
	}
	for {
		row, err := t.Next()
		if err == io.EOF {
			return p.flush(ctx, group)
		}
		p.count(func(c *Counts) { c.Read++ })
		if err == nil {
			err = p.add(ctx, group, row)
		}
		var bad *trace.BadRow
		switch {
		case errors.As(err, &bad):
			p.refuse(bad.Line, bad.Err)
		case err != nil:
			return err
		}
	}
}

// add puts a row into the batch, sending it first when it is full or when the
// row is not due yet.
func (p *player) add(ctx context.Context, group *errgroup.Group, r trace.Row) error {
	if err := p.wait(ctx, group, r.Time); err != nil {
		return err
	}
	at := r.Point()
	at.Time += p.shift
	id, made, err := p.nodes.Find(ctx, r.Node)
	switch {
	case client.Refused(err):
		return &trace.BadRow{Line: r.Line, Err: err}
	case err != nil:
		return err
	case made:
		p.count(func(c *Counts) { c.Nodes++ })
	}
	at.Node = id
	if err := point.Check(&at); err != nil {
		return &trace.BadRow{Line: r.Line, Err: err}
	}
	size := client.GroupLen(&at)
	if size > point.MaxGroupBytes {
		return &trace.BadRow{Line: r.Line, Err: api.Errorf(api.CodeTooLarge, "store a reference", "value has %d bytes", len(at.Data))}
	}
	if len(p.batch.points) == client.GroupPoints || p.batch.bytes+size > client.GroupBytes {
		if err := p.flush(ctx, group); err != nil {
			return err
		}
	}
	p.batch.points = append(p.batch.points, at)
	p.batch.lines = append(p.batch.lines, r.Line)
	p.batch.bytes += size
	return nil
}

// wait waits until a row is due.
func (p *player) wait(ctx context.Context, group *errgroup.Group, at uint64) error {
	if p.cfg.Speed == 0 {
		return nil
	}
	if p.first == 0 {
		p.first = at
	}
	due := p.start.Add(time.Duration(float64(int64(at-p.first)) / p.cfg.Speed))
	left := due.Sub(p.cfg.Now())
	if left <= 0 {
		return nil
	}
	if err := p.flush(ctx, group); err != nil {
		return err
	}
	return pause(ctx, left)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// flush sends the batch; it blocks while too many are under way. Groups are
// published here, in the order of the file, because of points with the same
// time the later counts.
func (p *player) flush(ctx context.Context, group *errgroup.Group) error {
	b := p.batch
	if p.batch = (batch{}); len(b.points) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	wait, err := p.cfg.Client.Begin(b.points)
	if err != nil {
		return err
	}
	group.Go(func() error {
		err := wait(ctx)
		if api.CodeOf(err) == api.CodeBusy {
			err = p.write(ctx, b)
		}
		return p.settle(ctx, b, err)
	})
	return nil
}

func (p *player) write(ctx context.Context, b batch) error {
	return client.Retry(ctx, func() error { return p.cfg.Client.Write(ctx, b.points) })
}

// settle counts a group that is durable, and finds the lines of one that was
// refused by halving it.
func (p *player) settle(ctx context.Context, b batch, err error) error {
	switch {
	case err == nil:
		p.count(func(c *Counts) { c.Sent += len(b.points) })
		return nil
	case !client.Refused(err):
		return err
	case len(b.points) == 1:
		p.refuse(b.lines[0], err)
		return nil
	}
	left, right := b.half()
	for _, half := range []batch{left, right} {
		if err := p.settle(ctx, half, p.write(ctx, half)); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) refuse(line int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Refused++
	p.refusals = trace.Refuse(p.refusals, line, err) // groups end in any order
}

// count changes the counts and tells of those that move on.
func (p *player) count(change func(*Counts)) {
	p.mu.Lock()
	before := p.counts.Sent
	change(&p.counts)
	c := p.timed()
	p.mu.Unlock()
	if p.cfg.Progress != nil && c.Sent != before {
		p.cfg.Progress(c)
	}
}

// timed returns the counts with the time they took; p.mu is held.
func (p *player) timed() Counts {
	c := p.counts
	c.Seconds = p.cfg.Now().Sub(p.start).Seconds()
	if c.Seconds > 0 {
		c.PointsPerSecond = float64(c.Sent) / c.Seconds
	}
	return c
}

func (p *player) result() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Result{Counts: p.timed(), Refusals: p.refusals}
}
