// Package demo shows a hub and two gateways at work: a short tour with checks
// that ends with an error if one does not hold.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
)

// Config says how the demo runs.
type Config struct {
	Bin   string    // directory of the two binaries, required
	Trace string    // trace of the office, required
	Stay  bool      // keep everything running at the end until ctx ends
	Keep  bool      // leave the data directory
	Out   io.Writer // required
}

const (
	pumps     = 30
	feedEvery = 200 * time.Millisecond // 30 pumps x 2 values, 5 times a second
	cutFor    = 20 * time.Second
	writers   = 8
	// traceSeries and tracePoints are what testdata/README.md says of the trace.
	traceSeries = 6
	tracePoints = 123_360
)

// demo is a demo that runs.
type demo struct {
	printer
	cfg Config
	lab *lab.Lab

	hub, building, pumps *lab.Instance
	link                 *lab.Link      // between pumps and the hub
	atHub                *client.Client // connections to each
	atBuilding, atPumps  *client.Client
	station              *station
}

// ErrChecks is returned when a check did not hold.
var ErrChecks = errors.New("the demo did not show what it should")

// Run runs the demo. It returns nil when ctx ends after all checks.
func Run(ctx context.Context, cfg Config) (err error) {
	d := &demo{printer: printer{Writer: cfg.Out}, cfg: cfg}
	dir, err := lab.TempDir("demo")
	if err != nil {
		return err
	}
	d.lab = &lab.Lab{Dir: dir, Bin: cfg.Bin}
	defer func() {
		if cfg.Keep {
			fmt.Fprintf(d, "\nData and logs are in %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if d.link, err = lab.NewLink(); err != nil {
		return err
	}
	defer d.link.Close()
	began := time.Now()
	fmt.Fprintf(d, "A hub and two gateways as separate processes, in %s\n", dir)
	feeding, stop := context.WithCancel(ctx)
	var feeds sync.WaitGroup
	err = d.tour(ctx, feeding, &feeds)
	if err == nil && d.failed > 0 {
		err = fmt.Errorf("%w: %d checks failed", ErrChecks, d.failed)
	}
	if err == nil {
		fmt.Fprintf(d, "\nAll checks hold, after %s.\n", span(time.Since(began)))
		if cfg.Stay {
			d.invite()
			<-ctx.Done()
		}
	} else if ctx.Err() == nil {
		d.lastWords()
	}
	stop()
	feeds.Wait()
	for _, c := range []*client.Client{d.atHub, d.atBuilding, d.atPumps} {
		if c != nil {
			c.Close()
		}
	}
	return errors.Join(err, d.lab.Close())
}

// tour runs the steps one after the other. What feeds the station goes on
// until feeding ends.
func (d *demo) tour(ctx, feeding context.Context, feeds *sync.WaitGroup) error {
	for _, step := range []struct {
		title    string
		deadline time.Duration
		run      func(context.Context) error
	}{
		{"Start", 40 * time.Second, d.start},
		{"building replays a real trace, pumps is fed with live values", 60 * time.Second, func(ctx context.Context) error {
			return d.feed(ctx, feeding, feeds)
		}},
		{"The tree at the hub", 15 * time.Second, d.tree},
		{"The link of pumps is cut for " + span(cutFor), cutFor + 30*time.Second, d.cut},
		{"building is killed with SIGKILL while " + fmt.Sprint(writers) + " programs write to it", 60 * time.Second, d.kill},
		{"Settings go down", 15 * time.Second, d.settings},
		{"building is revoked", 15 * time.Second, d.revoke},
	} {
		d.heading(step.title)
		bounded, cancel := context.WithTimeoutCause(ctx, step.deadline, fmt.Errorf("more than %s", step.deadline))
		err := step.run(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			d.check(false, "%s", err)
			return fmt.Errorf("%w: step %d", ErrChecks, d.step)
		}
	}
	return nil
}

// start brings all three up. building reaches the hub directly, pumps through a
// line that can be cut, which the hub advertises when pumps enrols.
func (d *demo) start(ctx context.Context) (err error) {
	d.hub = d.lab.Hub()
	took, err := d.hub.Start(ctx)
	if err != nil {
		return err
	}
	d.check(true, "hub answers %s after its start", span(took))
	if d.building, err = d.lab.Enrol(ctx, d.hub, "building"); err != nil {
		return err
	}
	leaf, err := d.hub.Leaf()
	if err != nil {
		return err
	}
	d.link.Lead(leaf)
	if err := d.hub.Stop(); err != nil {
		return err
	}
	d.hub.SetFlag("--leaf-advertise", "nats-leaf://"+d.link.Addr())
	if _, err := d.hub.Start(ctx); err != nil {
		return err
	}
	if d.pumps, err = d.lab.Enrol(ctx, d.hub, "pumps"); err != nil {
		return err
	}
	for _, i := range []struct {
		*lab.Instance
		conn **client.Client
	}{{d.building, &d.atBuilding}, {d.pumps, &d.atPumps}} {
		took, err := i.Start(ctx)
		if err != nil {
			return err
		}
		if *i.conn, err = i.Dial(ctx); err != nil {
			return err
		}
		if err := lab.CaughtUp(ctx, *i.conn); err != nil {
			return err
		}
		d.check(true, "%s answers after %s, enrolled and connected to the hub", i.Name, span(took))
	}
	d.atHub, err = d.hub.Dial(ctx)
	return err
}

func (d *demo) feed(ctx, feeding context.Context, feeds *sync.WaitGroup) (err error) {
	if d.station, err = newStation(ctx, d.atPumps, pumps); err != nil {
		return err
	}
	feeds.Go(func() { d.station.run(feeding, feedEvery) })
	d.notef("occupancy.csv: %d sensors of an office, %s points, shifted to now", traceSeries, num(tracePoints))
	r, err := d.building.Replay(ctx, d.cfg.Trace)
	if err != nil {
		return err
	}
	d.check(r.Sent == tracePoints && r.Refused == 0, "%s points durable at the gateway in %.1f s (%s points/s)", num(r.Sent), r.Seconds, num(int(r.PointsPerSecond)))
	began := time.Now()
	if err := lab.CaughtUp(ctx, d.atBuilding); err != nil {
		return err
	}
	took := time.Since(began)
	node, err := d.atHub.Resolve(ctx, "building/office")
	if err != nil {
		return err
	}
	stored, err := count(ctx, d.atHub, node)
	if err != nil {
		return err
	}
	d.check(stored == tracePoints, "%s points in the history of the hub, the last one %s after it was durable", num(stored), span(took))
	return nil
}

// cut shows that a gateway goes on without its hub and catches up.
func (d *demo) cut(ctx context.Context) error {
	d.link.Cut()
	restore := time.Now().Add(cutFor)
	defer d.link.Restore()
	for time.Until(restore) > 0 {
		if err := lab.Pause(ctx, min(cutFor/4, time.Until(restore))); err != nil {
			return err
		}
		behind, connected, err := lab.Behind(ctx, d.atPumps)
		if err != nil {
			return err
		}
		d.notef("%2.0f s  connected: %-5t  backlog of pumps %s points", (cutFor - time.Until(restore)).Seconds(), connected, num(behind))
	}
	behind, connected, err := lab.Behind(ctx, d.atPumps)
	if err != nil {
		return err
	}
	d.check(!connected && behind > 0, "the gateway works on without the hub: every write was acked")
	device, err := d.atHub.Device(ctx, d.building.ID)
	if err != nil {
		return err
	}
	d.check(device.Online, "building stays online meanwhile")
	began := time.Now()
	d.link.Restore()
	if err := lab.CaughtUp(ctx, d.atPumps); err != nil {
		return err
	}
	d.check(true, "backlog 0 again %s after the link is back", span(time.Since(began)))
	return d.comparePumps(ctx)
}

// comparePumps compares what three of the pumps sent with the hub's history.
func (d *demo) comparePumps(ctx context.Context) error {
	var all comparison
	sum := 0
	for n := range pumps {
		if n%10 != 0 {
			continue
		}
		sent, err := d.station.acked(n)
		if err != nil {
			return fmt.Errorf("feeding pumps: %w", err)
		}
		sum += len(sent)
		if err := lab.CaughtUp(ctx, d.atPumps); err != nil {
			return err
		}
		c, err := compare(ctx, d.atHub, d.station.pumps[n], typePressure, sent)
		if err != nil {
			return err
		}
		all.add(c)
	}
	d.check(all.ok(sum), "pressure of 3 pumps: sent %s = stored %s, %d lost, %d doubled", num(sum), num(all.stored), all.lost, all.doubled+all.wrong)
	return nil
}

// kill shows that what was acked survives, and that what was not is written
// once when it is repeated.
func (d *demo) kill(ctx context.Context) error {
	node, err := d.atBuilding.Resolve(ctx, "office")
	if err != nil {
		return err
	}
	c := &counter{client: d.atBuilding, node: node, acked: map[uint64]float64{}}
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { c.run(ctx, writers, stop) })
	finish := sync.OnceFunc(func() { close(stop); done.Wait() })
	defer finish()
	if err := lab.Pause(ctx, 2*time.Second); err != nil {
		return err
	}
	before, _, _ := c.count()
	d.building.Crash()
	d.notef("killed after %s acked writes", num(before))
	took, err := d.building.Start(ctx)
	if err != nil {
		return err
	}
	d.check(took < 2*time.Second, "started again, answers after %s", span(took))
	if err := lab.Pause(ctx, 3*time.Second); err != nil {
		return err
	}
	finish()
	sent, repeated, err := c.count()
	if err != nil {
		return fmt.Errorf("feeding building: %w", err)
	}
	if err := lab.CaughtUp(ctx, d.atBuilding); err != nil {
		return err
	}
	r, err := compare(ctx, d.atHub, node, typeCounter, c.acked)
	if err != nil {
		return err
	}
	d.notef("%d writes without an answer were repeated with the same time", repeated)
	d.check(sent > before && r.ok(sent), "sent %s = stored %s at the hub, %d lost, %d doubled", num(sent), num(r.stored), r.lost, r.doubled+r.wrong)
	return nil
}

// invite tells what to try while everything runs.
func (d *demo) invite() {
	hub, gateway := filepath.Join(d.lab.Bin, "sapflow-hub"), filepath.Join(d.lab.Bin, "sapflow-agent")
	fmt.Fprintf(d, `
The hub and pumps stay up until Ctrl-C. Try, in another terminal:

    export SAPFLOW_DATA=%s
    %s tree pumps
    %s watch pumps
    %s set pumps/pump-07 limit 4.5
    %s history pumps/pump-07 pressure --from -2m --every 10s
    %s device list
    %s get pumps/pump-07 --data %s    # the same at the gateway
`, d.hub.Dir, hub, hub, hub, hub, hub, gateway, d.pumps.Dir)
}

// lastWords tells what each process said last.
func (d *demo) lastWords() {
	for _, i := range []*lab.Instance{d.hub, d.building, d.pumps} {
		if i != nil && i.Process != nil {
			fmt.Fprintf(d, "\n%s: %s\n", i.Name, i.LastWords())
		}
	}
}
