// Package gateways measures what gateways cost a hub, with the real binary and
// gateways that speak the link by hand, all in one process: enrolment, keys,
// revocation, live connections, a storm of reconnects and frames of many. The
// figures are printed, never asserted.
package gateways

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/hand"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/client"
)

// Config says what is measured and where it goes.
type Config struct {
	Bin  string // directory of the two binaries, required
	Root string // of the sources, for the benchmarks of keys
	report.Plan
}

const sapflow = "Sapflow"

var parts = []report.Part[*bench]{
	{Name: "keys", Run: keys},
	{Name: "fleet", Run: fleets},
}

// PartNames returns the names of the parts.
func PartNames() string { return report.Names(parts) }

type bench struct {
	Config
	report.Sheet
	leafs int
}

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	b := &bench{Config: cfg, Sheet: report.Sheet{Runs: 1}, leafs: 1000} // of which most enrol at the 10 a second that the hub takes
	if cfg.Quick {
		b.leafs = 200
	}
	return report.Measure(ctx, cfg.Plan, &b.Sheet, "gateways", parts, []string{sapflow}, b)
}

// add records a figure; % in name and note stands for the number of gateways.
func (b *bench) add(name, unit string, value float64, note string) {
	all := report.Whole(b.leafs)
	b.Add(report.Row{Name: strings.ReplaceAll(name, "%", all), Unit: unit, Note: strings.ReplaceAll(note, "%", all)}, sapflow, value)
}

// keys runs the benchmarks of the package that signs, which no other program
// may use.
func keys(ctx context.Context, b *bench) error {
	for range b.Runs {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "IssueDevice|RevokeAmong5000", "-benchtime", "100x", "./hub/internal/cred")
		cmd.Dir = b.Root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("benchmarks of keys: %w: %s", err, out)
		}
		found := 0
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			for i := 3; i < len(fields); i += 2 {
				value, err := strconv.ParseFloat(fields[i-1], 64)
				if err != nil {
					continue
				}
				what := strings.TrimRight(strings.TrimPrefix(fields[0], "Benchmark"), "-0123456789") + " " + fields[i]
				switch what {
				case "IssueDevice ns/op":
					b.add("signing the JWT of a gateway", "us", value/1e3, "one core")
				case "IssueDevice B/jwt":
					b.add("the JWT of a gateway", "B", value, "")
				case "RevokeAmong ns/op":
					b.add("one more revocation where there are 5,000", "ms", value/1e6, "sign the account JWT, write the list durably")
				case "RevokeAmong B/account-jwt":
					b.add("account JWT at 5,000 revocations", "KB", value/1e3, "never sent to gateways")
				default:
					continue
				}
				found++
			}
		}
		if found != 4 {
			return fmt.Errorf("benchmarks of keys told %d figures, want 4: %s", found, out)
		}
	}
	return nil
}

func fleets(ctx context.Context, b *bench) error {
	for range b.Runs {
		err := lab.With("gateways", b.Bin, func(l *lab.Lab) error { return b.fleet(ctx, l) })
		if err != nil {
			return err
		}
	}
	return nil
}

// fleet is a hub with its gateways.
type fleet struct {
	*bench
	hub     *lab.Instance
	client  *client.Client
	running *client.Running
	list    []*hand.Gateway
}

func (b *bench) fleet(ctx context.Context, l *lab.Lab) (err error) {
	f := &fleet{bench: b, hub: l.Hub("--node-streams-layout", "shard")}
	if _, err := f.hub.Start(ctx); err != nil {
		return err
	}
	if f.client, err = f.hub.Dial(ctx); err != nil {
		return err
	}
	defer f.client.Close()
	if f.running, err = client.ReadRunning(f.hub.Dir); err != nil {
		return err
	}
	defer func() {
		for _, g := range f.list {
			g.Hang()
		}
	}()
	for _, step := range []func(context.Context) error{f.enrol, f.connect, f.frames, f.storm, f.revoke} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// together is how many do something at once where the number does not matter.
const together = 8

const (
	// unthrottled is how many enrolments the hub surely takes as fast as it can.
	unthrottled = 40
	busyWait    = 200 * time.Millisecond
)

// all does something with every gateway, some at once.
func (f *fleet) all(ctx context.Context, atOnce int, do func(context.Context, int) error) (time.Duration, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	began := time.Now()
	for i := range f.leafs {
		group.Go(func() error { return do(ctx, i) })
	}
	err := group.Wait()
	return time.Since(began), err
}

// rss returns the hub's memory once it has nothing to do.
func (f *fleet) rss(ctx context.Context) (float64, error) {
	if _, err := f.hub.Quiet(ctx); err != nil {
		return 0, err
	}
	n, err := f.hub.RSS()
	return float64(n), err
}

// enrol adds the gateways, and then enrols them.
func (f *fleet) enrol(ctx context.Context) error {
	empty, err := f.rss(ctx)
	if err != nil {
		return err
	}
	tokens := make([]string, f.leafs)
	took, err := f.all(ctx, together, func(ctx context.Context, i int) error {
		t, err := f.client.DeviceAdd(ctx, api.DeviceAdd{Name: fmt.Sprintf("gateway-%d", i+1)})
		if err == nil {
			tokens[i] = t.Token
		}
		return err
	})
	if err != nil {
		return err
	}
	f.add("gateways added", "/s", float64(f.leafs)/took.Seconds(), "node, record and token durable")
	keys := make([]nkeys.KeyPair, f.leafs)
	for i := range keys {
		if keys[i], err = nkeys.CreateUser(); err != nil {
			return err
		}
	}
	f.list = make([]*hand.Gateway, f.leafs)
	var mu sync.Mutex
	began, first := time.Now(), time.Duration(0)
	done := 0
	_, err = f.all(ctx, together, func(ctx context.Context, i int) error {
		reply, err := hand.Enrol(ctx, f.running, tokens[i], keys[i])
		for errors.Is(err, hand.ErrBusy) {
			if err = lab.Pause(ctx, busyWait); err == nil {
				reply, err = hand.Enrol(ctx, f.running, tokens[i], keys[i])
			}
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if done++; done == unthrottled {
			first = time.Since(began)
		}
		f.list[i], err = hand.With(reply, keys[i])
		return err
	})
	if err != nil {
		f.list = slices.DeleteFunc(f.list, func(g *hand.Gateway) bool { return g == nil })
		return err
	}
	f.add("enrolments", "/s", unthrottled/first.Seconds(), "the first 40, over HTTP, 8 at once: proof checked, record durable, JWT signed; after 50 the hub takes 10 a second")
	enrolled, err := f.rss(ctx)
	if err != nil {
		return err
	}
	f.add("memory of the hub, a gateway that is enrolled and not connected", "KB", (enrolled-empty)/1e3/float64(f.leafs), "VmRSS, of %, with what garbage is left in it")
	return nil
}

// connect brings all gateways up.
func (f *fleet) connect(ctx context.Context) error {
	before, err := f.rss(ctx)
	if err != nil {
		return err
	}
	took, err := f.all(ctx, together, f.up)
	if err != nil {
		return err
	}
	f.add("first connections, to the answered hello", "/s", float64(f.leafs)/took.Seconds(), "8 at once")
	after, err := f.rss(ctx)
	if err != nil {
		return err
	}
	f.add("memory of the hub, a live leaf", "KB", (after-before)/1e3/float64(f.leafs), "connection, session and the winners sent; VmRSS, of %")
	return nil
}

func (f *fleet) up(ctx context.Context, i int) error {
	g := f.list[i]
	if err := g.Dial(ctx); err != nil {
		return err
	}
	return g.Greet(ctx)
}

// sending is how many gateways send frames at once.
const sending = 100

// frames has gateways send one frame after the other.
func (f *fleet) frames(ctx context.Context) error {
	window := 5 * time.Second
	if f.Quick {
		window = 2 * time.Second
	}
	for _, points := range []int{1, 60} {
		before, err := f.hub.CPU()
		if err != nil {
			return err
		}
		var mu sync.Mutex
		var delays []time.Duration
		end, cancel := context.WithTimeout(ctx, window)
		group, sendCtx := errgroup.WithContext(ctx)
		for _, g := range f.list[:sending] {
			group.Go(func() error {
				var mine []time.Duration
				for end.Err() == nil {
					frame := g.Frame(g.Tail(), points)
					began := time.Now()
					err := g.SendPatiently(sendCtx, frame)
					var tooMuch hand.RateError
					if errors.As(err, &tooMuch) {
						err = lab.Pause(sendCtx, tooMuch.Retry)
					} else if err == nil {
						mine = append(mine, time.Since(began))
					}
					if err != nil {
						return err
					}
				}
				mu.Lock()
				defer mu.Unlock()
				delays = append(delays, mine...)
				return nil
			})
		}
		err = group.Wait()
		cancel()
		if err != nil {
			return err
		}
		after, err := f.hub.CPU()
		if err != nil {
			return err
		}
		slices.Sort(delays)
		name := fmt.Sprintf("frames of %d points of %d gateways, one after the other", points, sending)
		if points == 1 {
			name = strings.Replace(name, "points", "point", 1)
		}
		n := float64(len(delays))
		f.add(name, "/s", n/window.Seconds(), "stored, synced and acked; the gateways share the cores")
		f.add(name+", ack p50", "ms", milliseconds(peer.Quantile(delays, 0.5)), "")
		f.add(name+", ack p99", "ms", milliseconds(peer.Quantile(delays, 0.99)), "")
		f.add(name+", the hub's processor time", "us a frame", float64((after-before).Microseconds())/n, "")
		if _, err := f.hub.Quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// storm cuts all connections at once, and has all gateways come back at once.
func (f *fleet) storm(ctx context.Context) error {
	if _, err := f.all(ctx, f.leafs, func(_ context.Context, i int) error {
		f.list[i].Hang()
		return nil
	}); err != nil {
		return err
	}
	before, err := f.hub.Quiet(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var delays []time.Duration
	took, err := f.all(ctx, f.leafs, func(ctx context.Context, i int) error {
		began := time.Now()
		err := f.up(ctx, i)
		mu.Lock()
		defer mu.Unlock()
		delays = append(delays, time.Since(began))
		return err
	})
	if err != nil {
		return err
	}
	after, err := f.hub.CPU()
	if err != nil {
		return err
	}
	slices.Sort(delays)
	f.add("storm of % reconnects, until all hellos are answered", "s", took.Seconds(), "dialled at the same moment, without TLS; the gateways share the cores")
	f.add("storm of % reconnects, p50 of a gateway", "s", peer.Quantile(delays, 0.5).Seconds(), "")
	f.add("storm of % reconnects, the hub's processor time", "s", (after - before).Seconds(), "")
	return nil
}

// revocations is how many gateways are revoked, one after the other.
const revocations = 20

// revoke measures from the request until the connection is closed.
func (f *fleet) revoke(ctx context.Context) error {
	var delays []time.Duration
	for _, g := range f.list[:revocations] {
		began := time.Now()
		if err := f.client.DeviceRevoke(ctx, g.ID); err != nil {
			return err
		}
		select {
		case <-g.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		delays = append(delays, time.Since(began))
	}
	slices.Sort(delays)
	f.add("revocation with % live leafs, until the connection is closed, p50", "ms", milliseconds(peer.Quantile(delays, 0.5)), "from the command's request")
	f.add("revocation with % live leafs, the slowest of 20", "ms", milliseconds(delays[len(delays)-1]), "")
	for i, g := range f.list[revocations:] {
		select {
		case <-g.Done():
			return fmt.Errorf("a revocation closed the connection of gateway %d too", revocations+i+1)
		default:
		}
	}
	return nil
}
