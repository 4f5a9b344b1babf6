package e2e_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// heard collects what the hub broadcasts below a node.
type heard struct {
	mu    sync.Mutex
	times map[point.Series][]uint64
}

// listen hears all that becomes state at the hub below a node.
func (h *hub) listen(node string) *heard {
	h.t.Helper()
	l := &heard{times: map[point.Series][]uint64{}}
	nc, err := nats.Connect("nats://"+h.run.Listen, nats.UserCredentials(h.dir+"/"+client.CredsFile))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(nc.Close)
	_, err = nc.Subscribe(subject.UpAll(node), func(m *nats.Msg) {
		_, s, ok := subject.ParseUp(m.Subject)
		p := point.Point{Series: s}
		if !ok || point.DecodePayload(m.Data, &p) != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.times[s] = append(l.times[s], p.Time)
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (l *heard) of(s point.Series) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]uint64(nil), l.times[s]...)
}

// TestAlarmGoesAhead: with a plan that sends once a minute an alarm is at the
// hub before the values that were written ahead of it, once.
func TestAlarmGoesAhead(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	set(t, h.client, g.id, "alarms", "door")
	set(t, h.client, g.id, point.TypePlan, "catm")
	for _, key := range []string{"alarms/0", "plan/0"} {
		eventually(t, key+" is answered", func() bool { return head(t, h.client, g.id, point.TypeApplied, key).Type != "" })
	}
	g.waitEqual()
	l := h.listen(g.id)
	at := now()
	publish(t, g, float(g.id, "level", at, 1), float(g.id, "level", at+1, 2), float(g.id, "door", at+2, 1))
	door := series(g.id, "door")
	eventually(t, "the alarm is at the hub", func() bool { return len(l.of(door)) > 0 })
	if early := l.of(series(g.id, "level")); len(early) > 0 {
		t.Errorf("%d values went with the alarm, which has to go alone", len(early))
	}
	expectValue(t, "hub", h.client, g.id, "door", "1")
	set(t, h.client, g.id, "flushInterval", "0.5") // in force at once: the log follows
	g.waitEqual()
	if got := l.of(door); len(got) != 1 || got[0] != at+2 {
		t.Errorf("the alarm was broadcast %d times, want once", len(got))
	}
	if got := history(t, h.client, g.id, "level"); len(got) != 2 {
		t.Errorf("the hub has %d levels, want 2", len(got))
	}
	if got := history(t, h.client, g.id, "door"); len(got) != 1 {
		t.Errorf("the hub has %d alarms in its history, want 1", len(got))
	}
}

// publish writes points at a gateway that nobody waits for.
func publish(t *testing.T, g *gateway, points ...point.Point) {
	t.Helper()
	nc, err := nats.Connect("nats://" + g.run.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for i := range points {
		if err := nc.Publish(subject.Point(points[i].Series), point.AppendPayload(nil, &points[i])); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// TestLiveFirst: while the backlog of a cut drains over a slow line, values
// that are new overtake it, and nothing old is broadcast after something new.
func TestLiveFirst(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{Rate: 2500, Delay: 75 * time.Millisecond})
	g.waitEqual()
	l := h.listen(g.id)
	g.link.Cut()
	g.waitConnected(false)
	const backlog = 40_000
	begin := now() - backlog*1e9
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	list := make([]point.Point, 500)
	for n := 0; n < backlog; n += len(list) {
		for i := range list {
			at := begin + uint64(n+i)*1e9
			list[i] = float(g.id, "level", at, float64v(at))
		}
		if err := g.client.Write(ctx, list); err != nil {
			t.Fatal(err)
		}
	}
	g.link.Restore()
	g.waitConnected(true)
	write(t, g.client, float(g.id, "fresh", 0, 42))
	eventually(t, "the new value is at the hub", func() bool { return len(l.of(series(g.id, "fresh"))) > 0 })
	if behind := g.status().BacklogPoints; behind == 0 {
		t.Error("the backlog was through before the new value: nothing was overtaken")
	}
	g.waitEqual()
	if got := len(history(t, h.client, g.id, "level")); got != backlog {
		t.Errorf("the hub has %d values of the backlog, want %d", got, backlog)
	}
	times := l.of(series(g.id, "level"))
	for i := 1; i < len(times); i++ {
		if times[i] <= times[i-1] {
			t.Fatalf("value of %d was broadcast after that of %d", times[i], times[i-1])
		}
	}
}

// float64v is a value with two decimals that differs from time to time.
func float64v(at uint64) float64 { return float64(at/1e9*7919%1000) / 100 }
