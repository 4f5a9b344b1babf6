package radio

import (
	"context"
	"fmt"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// run is a row at work on one link.
type run struct {
	*bench
	row
	subject
	site
	generator trace.Generator
	clock     time.Time // of the next second that lies in the past
}

// The line: 50 kbit/s, 150 ms there and back.
const (
	lineRate  = 50_000 / 8
	lineDelay = 75 * time.Millisecond
)

// measure measures a row: its bytes on a line that is far but wide, since
// some would fill the slow one by being idle, then a backlog on the slow one.
func (b *bench) measure(ctx context.Context, w row, out *Row) error {
	err := b.on(ctx, w, natstest.LinkConfig{Delay: lineDelay}, func(r *run) error { return r.steady(ctx, out) })
	if err != nil || w.forgets {
		return err
	}
	slow := natstest.LinkConfig{Rate: lineRate, Delay: lineDelay, Scale: b.Scale}
	return b.on(ctx, w, slow, func(r *run) error {
		if err := r.drain(ctx, out); err != nil || out.DrainSeconds == nil {
			return err
		}
		return r.cut(ctx, out)
	})
}

// second returns the points of the next second of the trace, placed at a time,
// and moves the clock on.
func (r *run) second(at time.Time) []point.Point {
	var list []point.Point
	for _, e := range r.generator.Next() {
		jitter := point.TimeOf(e.Time).Sub(point.TimeOf(e.Time).Round(time.Second))
		p := e.Point
		p.Time = point.Nanos(at.Truncate(time.Millisecond).Add(jitter))
		list = append(list, p)
	}
	r.clock = r.clock.Add(time.Second)
	return list
}

// bytes returns what crossed the line, both ways.
func (r *run) bytes() (plain, billed float64) {
	up, down := r.link.Bytes()
	billedUp, billedDown := r.link.Bill()
	return float64(up + down), float64(billedUp + billedDown)
}

// cost returns the bytes that cross while f runs, and how long that takes.
func (r *run) cost(f func() error) (plain, billed float64, took time.Duration, err error) {
	plainBefore, billedBefore := r.bytes()
	began := time.Now()
	err = f()
	took = time.Since(began)
	plain, billed = r.bytes()
	return plain - plainBefore, billed - billedBefore, took, err
}

// poll is how often a state is asked for. It is asked beside the line.
const poll = 20 * time.Millisecond

func (r *run) drained(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return lab.Until(ctx, "all points are at the hub", poll, func() (bool, error) {
		n, err := r.Behind(ctx)
		return n == 0, err
	})
}

// every calls f at a pace for a time.
func every(ctx context.Context, pace, total time.Duration, f func() error) error {
	for next := time.Now(); total > 0; total -= pace {
		if err := f(); err != nil {
			return err
		}
		next = next.Add(pace)
		if err := lab.Pause(ctx, time.Until(next)); err != nil {
			return err
		}
	}
	return nil
}

const (
	sparsePace = 10 * time.Second
	// changes are so many, so far apart that they do not share packets.
	changes    = 20
	changePace = 300 * time.Millisecond
)

// restarts is how long a line must idle for the hub to restart meanwhile.
const restarts = 10 * time.Minute

// rest lets the line idle; halfway the hub restarts, if it is for long and the
// subject can.
func (r *run) rest(ctx context.Context) error {
	if err := lab.Pause(ctx, r.idle/2); err != nil {
		return err
	}
	if s, ok := r.subject.(interface{ Restart(context.Context) error }); ok && r.idle >= restarts {
		if err := s.Restart(ctx); err != nil {
			return err
		}
	}
	return lab.Pause(ctx, r.idle/2)
}

// steady measures what an idle and a lightly used line costs.
func (r *run) steady(ctx context.Context, out *Row) error {
	idle, _, took, err := r.cost(func() error { return r.rest(ctx) })
	if err != nil {
		return err
	}
	perSecond := idle / took.Seconds()
	out.IdleBytesPerHour = perSecond * 3600
	r.tell(r.row, "idle %s B/h", report.Format(out.IdleBytesPerHour))

	window := max(r.window, 2*r.flush)
	points := 0
	plain, billed, _, err := r.cost(func() error {
		err := every(ctx, time.Second, window, func() error {
			list := r.second(time.Now())
			points += len(list)
			return r.Write(ctx, list)
		})
		if err != nil {
			return err
		}
		return r.drained(ctx, connectWait)
	})
	if err != nil {
		return err
	}
	out.BytesPerPoint, out.BilledPerPoint = plain/float64(points), billed/float64(points)
	r.tell(r.row, "live %s B a point, %s billed, of %d", report.Format(out.BytesPerPoint), report.Format(out.BilledPerPoint), points)

	points = 0
	plain, billed, _, err = r.cost(func() error {
		return every(ctx, sparsePace, window, func() error {
			list := r.second(time.Now())
			n := 5 + points%(len(list)-5) // a float
			points++
			return r.Write(ctx, list[n:n+1])
		})
	})
	if err != nil {
		return err
	}
	out.SparseBytes, out.SparseBilled = plain/float64(points), billed/float64(points)
	r.tell(r.row, "sparse %s B a point, %s billed, of %d", report.Format(out.SparseBytes), report.Format(out.SparseBilled), points)

	plain, _, took, err = r.cost(func() error { return r.change(ctx) })
	if err != nil {
		return err
	}
	out.ConfigurationBytes = max(0, plain-perSecond*took.Seconds())
	r.tell(r.row, "%d changes %s B", changes, report.Format(out.ConfigurationBytes))
	return nil
}

// change configures nodes and waits until the gateway has heard of all.
func (r *run) change(ctx context.Context) error {
	before, n := r.changes.count(), 0
	err := every(ctx, changePace, changes*changePace, func() error {
		n++
		return r.Configure(ctx, r.nodes[n%len(r.nodes)], float64(n))
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	return lab.Until(ctx, "all changes are at the gateway", poll, func() (bool, error) {
		return r.changes.count()-before == changes, nil
	})
}

// fill writes points while the line is cut, and restores it.
func (r *run) fill(ctx context.Context, points int) error {
	r.link.Cut()
	for points > 0 {
		list := r.second(r.clock)
		list = list[:min(len(list), points)]
		points -= len(list)
		if err := r.Write(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// drainLimit is how long a backlog may take on the line, in its time.
const drainLimit = 30 * time.Minute

// drain measures how a backlog leaves and, once its first point is through,
// how a live value of every second fares meanwhile.
func (r *run) drain(ctx context.Context, out *Row) error {
	if err := r.fill(ctx, r.backlog); err != nil {
		return err
	}
	before, started := r.points.count(), time.Now()
	plainBefore, _ := r.bytes()
	r.link.Restore()
	if err := r.first(ctx, before); err != nil {
		return err
	}
	first := time.Since(started).Seconds()
	out.FirstSeconds = &first

	scale := time.Duration(r.Scale)
	live, left, drained := 0, 0, false
	for next := time.Now(); !drained && time.Since(started) < drainLimit/scale; {
		p := r.second(time.Now())[5+live%20 : 6+live%20]
		r.points.expect(markOf(&p[0]))
		live++
		if err := r.Write(ctx, p); err != nil {
			return err
		}
		for next = next.Add(time.Second / scale); time.Now().Before(next) && !drained; {
			var err error
			if left, err = r.Behind(ctx); err != nil {
				return err
			}
			drained = left <= live
			if err := lab.Pause(ctx, poll); err != nil {
				return err
			}
		}
	}
	took := time.Since(started)
	plain, _ := r.bytes()
	plain -= plainBefore
	if !drained {
		out.Note = fmt.Sprintf("%d of %d points left after %s", left, r.backlog, drainLimit)
		r.tell(r.row, "%s", out.Note)
		return nil
	}
	seconds := (took * scale).Seconds()
	out.DrainSeconds, out.DrainBytes = &seconds, &plain
	if err := r.drained(ctx, connectWait); err != nil {
		return err
	}
	p50, n := r.points.quantile(0.5)
	p99, _ := r.points.quantile(0.99)
	half, most := (p50 * scale).Seconds(), (p99 * scale).Seconds()
	if n > 0 {
		out.LiveP50, out.LiveP99 = &half, &most
	}
	r.tell(r.row, "first point after %s s, %d in %s s, %s B; live p50 %s s, p99 %s s of %d", report.Format(first), r.backlog, report.Format(seconds), report.Format(plain),
		report.Format(half), report.Format(most), n)
	return nil
}

// first waits until the hub holds more points than before.
func (r *run) first(ctx context.Context, before int) error {
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	return lab.Until(ctx, "the first point is at the hub", time.Millisecond, func() (bool, error) { return r.points.count() > before, nil })
}

// downFor is how long a cut lasts.
const downFor = 100 * time.Millisecond

// cut measures how many bytes more a backlog takes when the line is cut
// again and again, evenly over it.
func (r *run) cut(ctx context.Context, out *Row) error {
	send := func(cuts func() error) (float64, error) {
		if err := r.fill(ctx, max(r.bench.cutBacklog, r.row.cutBacklog)); err != nil {
			return 0, err
		}
		plain, _, _, err := r.cost(func() error {
			r.link.Restore()
			if err := cuts(); err != nil {
				return err
			}
			return r.drained(ctx, cutLimit)
		})
		return plain, err
	}
	once, err := send(func() error { return nil })
	if err != nil {
		return err
	}
	began := time.Now()
	done := 0
	cut, err := send(func() error {
		for done < r.cuts {
			r.link.CutAfter(greeting + uint64(once)/uint64(r.cuts+1))
			err := r.untilCut(ctx)
			if err != nil || !r.link.IsCut() {
				return err
			}
			done++
			if err := lab.Pause(ctx, downFor); err != nil {
				return err
			}
			r.link.Restore()
		}
		return nil
	})
	if err != nil {
		return err
	}
	twice := max(0, cut-once)
	out.TwiceBytes = &twice
	r.tell(r.row, "%s B without cuts, %s B more with %d; %s", report.Format(once), report.Format(twice), done, time.Since(began).Round(time.Second))
	if done < r.cuts {
		out.Note = fmt.Sprintf("drained after %d of %d cuts", done, r.cuts)
	}
	return nil
}

// greeting is about what a connection says before it carries anything.
const greeting = 2500

// cutLimit bounds the wait for a subject to come back from a cut.
const cutLimit = 5 * time.Minute

// untilCut waits until the link is cut or everything has crossed it.
func (r *run) untilCut(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cutLimit)
	defer cancel()
	return lab.Until(ctx, "the link is cut", poll, func() (bool, error) {
		if r.link.IsCut() {
			return true, nil
		}
		n, err := r.Behind(ctx)
		return n == 0, err
	})
}
