package logs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/bench/internal/hand"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
)

const floodTitle = "A flood: one gateway sends frames as fast as the hub acks them, or one again and again without waiting; nine others send a point each 100 ms. From\n" +
	"the moment such a frame is sent until its ack has come; the gateways speak the link by hand and share the cores with the hub."

// quiet is how many gateways send a frame, each so often.
const (
	quiet     = 9
	tickEvery = 100 * time.Millisecond
)

// storm is what one gateway does.
type storm struct {
	name   string
	points int // of a frame; 0: it is silent
	waits  bool
}

var storms = [...]storm{
	{"no flood", 0, true},
	{"frames of 1 point", 1, true},
	{"frames of 1,000 points", 1000, true},
	{"frames of 10,000 points", 10_000, true},
	{"a frame of 1 point again and again, without waiting", 1, false},
}

// floods measures how long gateways wait for their acks while another floods
// the hub.
func floods(ctx context.Context, b *bench) error {
	window := 5 * time.Second
	if b.Quick {
		window = 3 * time.Second
	}
	return b.inLab(func(l *lab.Lab) error {
		hub := l.Hub("--node-streams-layout", "shard")
		if _, err := hub.Start(ctx); err != nil {
			return err
		}
		gateways, hang, err := hand.Fleet(ctx, hub, quiet+1)
		defer hang()
		if err != nil {
			return err
		}
		for range b.Runs {
			for _, s := range storms {
				if err := b.flood(ctx, gateways, s, window); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				if _, err := hub.Quiet(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bench) flood(ctx context.Context, gateways []*hand.Gateway, s storm, window time.Duration) error {
	if s.points > 0 && s.waits {
		if err := spend(ctx, gateways[quiet], s.points); err != nil {
			return err
		}
	}
	flooding, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	lists := make([][]time.Duration, quiet)
	for i, g := range gateways[:quiet] {
		group.Go(func() (err error) {
			lists[i], err = tick(ctx, flooding, g, tickEvery*time.Duration(i)/quiet)
			return err
		})
	}
	sent := 0
	group.Go(func() (err error) {
		g := gateways[quiet]
		switch {
		case s.points == 0:
		case s.waits:
			sent, err = floodAcked(ctx, flooding, g, s.points)
		default:
			sent, err = floodBlind(ctx, flooding, g, s.points)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	delays := slices.Concat(lists...)
	slices.Sort(delays)
	r := row{Name: s.name}
	for _, f := range []struct {
		column, unit string
		value        float64
	}{
		{"ack of the others, p50", "ms", milliseconds(peer.Quantile(delays, 0.5))},
		{"p99", "ms", milliseconds(peer.Quantile(delays, 0.99))},
		{"acks", "", float64(len(delays))},
		{"frames of the flood", "/s", float64(sent) / window.Seconds()},
	} {
		r.Unit = f.unit
		b.Add(r, f.column, f.value)
	}
	return nil
}

// tick sends a frame of one point each tickEvery until end, from a moment on, and
// returns how long each ack took.
func tick(ctx, end context.Context, g *hand.Gateway, from time.Duration) (delays []time.Duration, err error) {
	if lab.Pause(end, from) != nil {
		return nil, ctx.Err()
	}
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		f := g.Frame(g.Tail(), 1)
		began := time.Now()
		if err := g.SendPatiently(ctx, f); err != nil {
			return nil, err
		}
		delays = append(delays, time.Since(began))
		select {
		case <-end.Done():
			return delays, ctx.Err()
		case <-ticker.C:
		}
	}
}

// spend uses up what a gateway has saved up of its rate, for a while at most:
// some floods stay below it.
func spend(ctx context.Context, g *hand.Gateway, points int) error {
	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for end.Err() == nil {
		var tooMuch hand.RateError
		switch err := g.Send(ctx, g.Frame(g.Tail(), points)); {
		case errors.As(err, &tooMuch):
			return nil
		case err != nil:
			return err
		}
	}
	return ctx.Err()
}

// floodAcked sends frame after frame, each as soon as the one before is acked
// or may come again, until end; it makes the next while it waits.
func floodAcked(ctx, end context.Context, g *hand.Gateway, points int) (sent int, err error) {
	f := g.Frame(g.Tail(), points)
	for end.Err() == nil {
		if err := g.Publish(g.Parcel(f)); err != nil {
			return sent, err
		}
		next := g.Frame(f.End(), points)
		var tooMuch hand.RateError
		switch err := g.Acked(ctx, f.End()); {
		case errors.As(err, &tooMuch):
			_ = lab.Pause(end, tooMuch.Retry)
			continue
		case err != nil:
			return sent, err
		}
		sent++
		f = next
	}
	return sent, ctx.Err()
}

// floodBlind sends one frame again and again until end, connects again when
// the hub hangs up, and begins a new session then.
func floodBlind(ctx, end context.Context, g *hand.Gateway, points int) (sent int, err error) {
	f := g.Frame(g.Tail(), points)
	data := g.Parcel(f)
	for ; end.Err() == nil; sent++ {
		if g.Publish(data) != nil {
			_ = g.Dial(ctx) // the hub may hang up once more for what came before
		}
	}
	g.Took(f.End())
	for {
		err := g.Dial(ctx)
		if err == nil {
			err = g.Greet(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return sent, err
		}
	}
}
