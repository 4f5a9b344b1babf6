package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
)

// now returns the time of this machine, which all processes share.
func now() uint64 { return point.Nanos(time.Now()) }

// value returns the head of a series as text.
func value(t *testing.T, c *client.Client, node, pointType string) string {
	t.Helper()
	return client.ValueText(head(t, c, node, pointType, point.NoKey).Value)
}

func expectValue(t *testing.T, where string, c *client.Client, node, pointType, want string) {
	t.Helper()
	if got := value(t, c, node, pointType); got != want {
		t.Errorf("%s: %s is %q, want %q", where, pointType, got, want)
	}
}

// TestSetIsAnswered writes settings at the hub, by its command line.
func TestSetIsAnswered(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	for _, tc := range []struct {
		value, want string
		ok          bool
	}{{"2.5", "", true}, {"1000", "range", false}, {"3", "", true}, {"soon", "type", false}} {
		if out, code := command(t, hubBin, "set", "gw1", "commitInterval", tc.value, "--force", "--data", h.dir); code != 0 {
			t.Fatalf("set: code %d, %s", code, out)
		}
		var setting api.Point
		eventually(t, "the setting is answered", func() bool {
			setting = head(t, h.client, g.id, "commitInterval", point.NoKey)
			var a api.Applied
			answer := head(t, h.client, g.id, point.TypeApplied, "commitInterval/0")
			return json.Unmarshal(answer.Value, &a) == nil && a.Time == setting.Time && a.OK == tc.ok && a.Code == tc.want && answer.Author == g.id
		})
		if got := client.ValueText(setting.Value); got != tc.value {
			t.Errorf("the hub holds %s, want %s", got, tc.value)
		}
		expectValue(t, "gateway", g.client, g.id, "commitInterval", tc.value)
	}
	g.waitEqual()
	if window := g.status().LossWindow; window != "3s" {
		t.Errorf("the agent commits every %s, want 3s", window)
	}
	// A storm is answered for its last value at least.
	for i := range 50 {
		write(t, h.client, float(g.id, "commitInterval", 0, float64(1+i%7)))
	}
	g.waitEqual()
	eventually(t, "the last of a storm is answered", func() bool {
		var a api.Applied
		answer := head(t, h.client, g.id, point.TypeApplied, "commitInterval/0")
		return json.Unmarshal(answer.Value, &a) == nil && a.OK && a.Time == head(t, h.client, g.id, "commitInterval", point.NoKey).Time
	})
}

// TestBothEndsWriteWhileApart lets both ends write the same series while the
// link is cut.
func TestBothEndsWriteWhileApart(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	n := addNode(t, g.client, g.id, "pump")
	g.waitEqual()
	g.link.Cut()
	g.waitConnected(false)

	at := now()
	write(t, g.client, float(n, "tie", at, 1))
	write(t, h.client, float(n, "tie", at, 2)) // the hub wins a tie
	write(t, g.client, float(n, "gatewayLater", at+1, 1))
	write(t, h.client, float(n, "gatewayLater", at, 2))
	write(t, g.client, float(n, "hubLater", at, 1))
	write(t, h.client, float(n, "hubLater", at+1, 2))
	write(t, g.client, float(n, "stamped", 0, 1))
	write(t, h.client, float(n, "stamped", 0, 2)) // later by the clock
	write(t, h.client, float(n, "stampedBack", 0, 2))
	write(t, g.client, float(n, "stampedBack", 0, 1))

	g.link.Restore()
	g.waitEqual()
	for _, end := range []struct {
		name string
		c    *client.Client
	}{{"hub", h.client}, {"gateway", g.client}} {
		for pointType, want := range map[string]string{
			"tie": "2", "gatewayLater": "1", "hubLater": "2", "stamped": "2", "stampedBack": "1",
		} {
			expectValue(t, end.name, end.c, n, pointType, want)
			if got := len(history(t, end.c, n, pointType)); got != 2 {
				t.Errorf("%s: history of %s has %d points, want 2", end.name, pointType, got)
			}
		}
	}
}

// TestPersonWinsOverClockAhead changes at the hub what a gateway with a fast
// clock has written.
func TestPersonWinsOverClockAhead(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	n := addNode(t, g.client, g.id, "pump")
	write(t, g.client, float(n, "limit", now()+uint64(4*time.Minute), 1))
	g.waitEqual()
	set(t, h.client, n, "limit", "2")
	g.waitEqual()
	expectValue(t, "hub", h.client, n, "limit", "2")
	expectValue(t, "gateway", g.client, n, "limit", "2")

	// An hour or a year is more than a client may give, so the gateway itself is
	// wrong.
	for i, ahead := range []time.Duration{time.Hour, 365 * 24 * time.Hour} {
		checkClockAhead(t, h, fmt.Sprintf("gw%d", 2+i), ahead)
	}
	h.crash() // what was decided so stays so
	expectValue(t, "hub", h.client, n, "limit", "2")
}

func checkClockAhead(t *testing.T, h *hub, name string, ahead time.Duration) {
	r := h.addRawGateway(name)
	r.ahead = ahead
	r.hello()
	m := client.NewID()
	points := append(point.Edge(r.id, m, "sensor"), float(m, "limit", 0, 1))
	if ack := r.send(r.frame(points...)); len(ack.Aside) > 0 || ack.Code != 0 {
		t.Fatalf("a frame with a wrong clock was answered %+v", ack)
	}
	eventually(t, "the hub has the point of a fast clock", func() bool { return value(t, h.client, m, "limit") == "1" })
	set(t, h.client, m, "limit", "2")
	expectValue(t, "hub", h.client, m, "limit", "2")
	eventually(t, "the gateway has what the person wrote", func() bool {
		p := r.get(series(m, "limit"))
		return p != nil && p.Author == state.Hub && p.Text() == "2"
	})
	h.crash()
	expectValue(t, "hub after a crash", h.client, m, "limit", "2")
}

// TestChildIsSeenWhole subscribes to a site before a gateway makes a node
// there, while others write.
func TestChildIsSeenWhole(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	site, err := h.client.NodeAdd(t.Context(), h.root, "site", "Oslo")
	if err != nil {
		t.Fatal(err)
	}
	g, other := h.addGateway("gw1", site, natstest.LinkConfig{}), h.addGateway("gw2", site, natstest.LinkConfig{})
	noise := addNode(t, other.client, other.id, "noise")
	g.waitEqual()
	other.waitEqual()

	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	var mu sync.Mutex
	var heard []point.Point
	ready := make(chan struct{})
	group.Add(2)
	watcher, writer := h.client, other.client
	go func() {
		defer group.Done()
		err := watcher.Watch(ctx, site, func() { close(ready) }, func(p *point.Point) error {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, *p)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-ready
	go func() {
		defer group.Done()
		for i := 0; ctx.Err() == nil; i++ {
			if err := writer.Write(ctx, []point.Point{float(noise, "level", 0, float64(i))}); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	}()
	const children = 20
	want := map[string][]point.Point{}
	for range children {
		n := client.NewID()
		points := append(point.Edge(g.id, n, "sensor"), float(n, "temperature", 0, 21.5), float(n, "humidity", 0, 40))
		write(t, g.client, points...)
		want[n] = points
	}
	about := func(n string) (at []int) {
		mu.Lock()
		defer mu.Unlock()
		for i := range heard {
			if heard[i].Node == n {
				at = append(at, i)
			}
		}
		return at
	}
	for n, points := range want {
		eventually(t, "a new node is heard whole", func() bool { return len(about(n)) >= len(points) })
		at := about(n)
		if len(at) != len(points) || at[len(at)-1]-at[0] != len(points)-1 {
			t.Errorf("the points of %s came at %v: each must come once, and none between them", n, at)
			continue
		}
		for i, p := range points {
			if got := heard[at[i]]; got.Series != p.Series || got.Text() != p.Text() {
				t.Errorf("point %d of %s is %s %s, want %s %s", i, n, got.Series, got.Text(), p.Series, p.Text())
			}
		}
	}
}

// TestMovedWhileOffline moves a node to another gateway while its first one
// is offline with a backlog about it.
func TestMovedWhileOffline(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g, to := h.addGateway("gw1", "", natstest.LinkConfig{}), h.addGateway("gw2", "", natstest.LinkConfig{})
	n, stays := addNode(t, g.client, g.id, "pump"), addNode(t, g.client, g.id, "valve")
	g.waitEqual()
	set(t, h.client, n, "limit", "80")
	write(t, g.client, float(n, "level", 0, 0))
	g.waitEqual()
	g.link.Cut()
	g.waitConnected(false)

	const before, after = 10, 7
	for i := range before {
		write(t, g.client, float(n, "level", 0, float64(1+i)), float(stays, "level", 0, float64(1+i)))
	}
	if err := h.client.NodeMove(t.Context(), n, "", to.id); err != nil {
		t.Fatal(err)
	}
	to.waitEqual() // the other gateway has it at once
	expectValue(t, "gw2", to.client, n, "limit", "80")
	for i := range after {
		write(t, g.client, float(n, "level", 0, float64(100+i)), float(stays, "level", 0, float64(100+i)))
	}

	g.link.Restore()
	g.waitEqual()
	to.waitEqual()
	if aside := g.device().Aside; len(aside) != 1 || aside["foreign"] != after {
		t.Errorf("set aside: %v, want %d foreign", aside, after)
	}
	if out, code := command(t, hubBin, "device", "show", "gw1", "--json", "--data", h.dir); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("device show: code %d, %s", code, out)
	} else {
		var d api.Device
		if json.Unmarshal([]byte(out), &d) != nil || d.Aside["foreign"] != after {
			t.Errorf("device show tells %s", out)
		}
	}
	if got := len(history(t, h.client, n, "level")); got != 1+before {
		t.Errorf("the hub has %d points of the node, want %d", got, 1+before)
	}
	if got := len(history(t, h.client, stays, "level")); got != before+after {
		t.Errorf("the hub has %d points of the node that stays, want %d", got, before+after)
	}
	expectValue(t, "hub", h.client, n, "level", strconv.Itoa(before))
	expectValue(t, "gw2", to.client, n, "level", strconv.Itoa(before))
	expectValue(t, "gw2", to.client, n, "limit", "80")
	if _, err := g.client.Get(t.Context(), n); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the first gateway still knows the node: %v", err)
	}
	// It works at its new place, in both directions.
	write(t, to.client, float(n, "level", 0, 55))
	set(t, h.client, n, "limit", "90")
	to.waitEqual()
	expectValue(t, "hub", h.client, n, "level", "55")
	expectValue(t, "gw2", to.client, n, "limit", "90")
}

// TestMirrored shows one node below two gateways.
func TestMirrored(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g1, g2 := h.addGateway("gw1", "", natstest.LinkConfig{}), h.addGateway("gw2", "", natstest.LinkConfig{})
	n := addNode(t, g1.client, g1.id, "tank")
	write(t, g1.client, float(n, "level", 0, 1))
	g1.waitEqual()
	if err := h.client.NodeMirror(t.Context(), n, g2.id); err != nil {
		t.Fatal(err)
	}
	g2.waitEqual()
	expectValue(t, "gw2", g2.client, n, "level", "1")

	write(t, g1.client, float(n, "level", 0, 2))
	eventually(t, "what gw1 measures is at gw2", func() bool { return value(t, g2.client, n, "level") == "2" })
	write(t, g2.client, float(n, "level", 0, 3))
	eventually(t, "what gw2 measures is at gw1", func() bool { return value(t, g1.client, n, "level") == "3" })
	set(t, h.client, n, "level", "4")
	for _, g := range []*gateway{g1, g2} {
		eventually(t, "what the hub sets is at "+g.name, func() bool { return value(t, g.client, n, "level") == "4" })
	}

	// All three write the same while apart.
	g1.link.Cut()
	g2.link.Cut()
	g1.waitConnected(false)
	g2.waitConnected(false)
	at := now()
	write(t, g1.client, float(n, "tie", at, 1))
	write(t, g2.client, float(n, "tie", at, 2))
	write(t, g1.client, float(n, "hubTie", at, 1))
	write(t, g2.client, float(n, "hubTie", at, 2))
	write(t, h.client, float(n, "hubTie", at, 3))
	g1.link.Restore()
	g2.link.Restore()
	smaller := "1"
	if g2.id < g1.id {
		smaller = "2"
	}
	for name, c := range map[string]*client.Client{"hub": h.client, "gw1": g1.client, "gw2": g2.client} {
		eventually(t, name+" has the winners", func() bool {
			return value(t, c, n, "tie") == smaller && value(t, c, n, "hubTie") == "3"
		})
	}
	g1.waitEqual()
	g2.waitEqual()

	// From one parent only, it stays at the other.
	if err := h.client.NodeRemove(t.Context(), n, g1.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gw1 forgets the node", func() bool {
		_, err := g1.client.Get(t.Context(), n)
		return api.CodeOf(err) == api.CodeNotFound
	})
	write(t, g2.client, float(n, "level", 0, 5))
	g1.waitEqual()
	g2.waitEqual()
	expectValue(t, "hub", h.client, n, "level", "5")
}

// TestRestartWithManyPoints starts an agent that holds 100,000 points, after
// a stop and after a crash, and looks at its first reply.
func TestRestartWithManyPoints(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.link.Cut() // the state must be the gateway's own
	const nodes, perNode = 100, 1000
	for range nodes {
		n := client.NewID()
		write(t, g.client, point.Edge(g.id, n, "sensor")...)
		var waits []func(context.Context) error
		for from := 0; from < perNode; from += 250 {
			var points []point.Point
			for i := from; i < from+250; i++ {
				p := float(n, "value", 0, float64(i)+0.5)
				p.Key = strconv.Itoa(i)
				points = append(points, p)
			}
			wait, err := g.client.Begin(points)
			if err != nil {
				t.Fatal(err)
			}
			waits = append(waits, wait)
		}
		for _, wait := range waits {
			if err := wait(bounded(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, how := range []struct {
		name string
		end  func()
	}{{"crash", g.kill}, {"stop", g.stop}, {"second crash", g.kill}} {
		how.end()
		g.launch()
		var list []api.Node
		eventually(t, "the agent answers after a "+how.name, func() bool {
			if g.client == nil && !g.connect() {
				return false
			}
			var err error
			list, err = g.client.Nodes(t.Context(), g.id, api.NodesRequest{Depth: -1, Type: "sensor"})
			return err == nil
		})
		points := 0
		for _, n := range list {
			for _, p := range n.Points {
				if client.ValueText(p.Value) == p.Key+".5" {
					points++
				}
			}
		}
		if len(list) != nodes || points != nodes*perNode {
			t.Errorf("after a %s the first reply has %d nodes and %d points, want %d and %d", how.name, len(list), points, nodes, nodes*perNode)
		}
	}
	g.link.Restore()
	g.waitEqual()
}

// TestMovedAtGateway: a move below a gateway that the gateway makes itself
// holds at both ends.
func TestMovedAtGateway(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	a, b := addNode(t, g.client, g.id, "a"), addNode(t, g.client, g.id, "b")
	n := addNode(t, g.client, a, "tank")
	write(t, g.client, float(n, "level", 0, 1))
	g.waitEqual()
	for _, to := range []string{b, a, b} {
		if err := g.client.NodeMove(t.Context(), n, "", to); err != nil {
			t.Fatal(err)
		}
		g.waitEqual()
		for where, c := range map[string]*client.Client{"gateway": g.client, "hub": h.client} {
			node, err := c.Get(t.Context(), n)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			if len(node.Parents) != 1 || node.Parents[0] != to {
				t.Errorf("%s: below %v, want %s", where, node.Parents, to)
			}
		}
	}
	expectValue(t, "hub", h.client, n, "level", "1")
}
