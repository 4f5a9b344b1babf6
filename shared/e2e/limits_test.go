package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// missing returns how many points history says are missing, by reason.
func missing(t *testing.T, c *client.Client, node, pointType string) map[string]uint64 {
	t.Helper()
	count := map[string]uint64{}
	err := c.History(t.Context(), node, api.HistoryRequest{Type: pointType, Limit: 1}, func(r *api.HistoryReply) error {
		for _, g := range r.Gaps {
			count[g.Reason] += g.Count
		}
		return io.EOF // the first page tells
	})
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return count
}

// found returns the values of history, gaps or not.
func found(t *testing.T, c *client.Client, node, pointType string) (list []api.Sample) {
	t.Helper()
	err := c.History(t.Context(), node, api.HistoryRequest{Type: pointType}, func(r *api.HistoryReply) error {
		list = append(list, r.Samples...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// noise are points whose bytes nothing makes less.
func noise(t *testing.T, node string, from, n int) []point.Point {
	rng := random(t)
	list := make([]point.Point, n)
	for i := range list {
		list[i] = float(node, "noise", uint64(from+i+1)*1e9, rng.Float64())
	}
	return list
}

// TestStoreMax: a gateway without a line keeps what it may. The oldest points
// give way, and both ends know how many.
func TestStoreMax(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	const limit, points, each = 200 << 10, 60_000, 500
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{}, "--store-max", fmt.Sprint(limit))
	enroll()
	g.start()
	g.waitEqual()
	list := noise(t, g.id, 0, points)
	for n := 0; n < points/6; n += each { // the hub gets these
		write(t, g.client, list[n:n+each]...)
	}
	g.waitEqual()
	g.link.Cut()
	g.waitConnected(false)
	write(t, g.client, float(g.id, "setpoint", 0, 42)) // its frame goes, its value must not
	for n := points / 6; n < points; n += each {
		write(t, g.client, list[n:n+each]...)
	}
	eventually(t, "the logs take what they may", func() bool { return g.status().StoreBytes <= limit })
	g.crash()
	s := g.status()
	if s.UnsentPoints == 0 || s.RemovedPoints <= s.UnsentPoints {
		t.Fatalf("removed %d points, %d of them unsent: want some of both kinds", s.RemovedPoints, s.UnsentPoints)
	}
	here := found(t, g.client, g.id, "noise")
	if got := missing(t, g.client, g.id, "noise"); got[api.ReasonRemoved]+uint64(len(here)) != points || len(got) != 1 {
		t.Errorf("history at the gateway has %d points and misses %v, want %d together", len(here), got, points)
	}
	g.link.Restore()
	g.waitConnected(true)
	eventually(t, "the hub has the rest", func() bool { return g.status().BacklogPoints == 0 && g.device().LagPoints == 0 })
	if got := missing(t, h.client, g.id, "noise"); got[api.ReasonGap] != s.UnsentPoints || len(got) != 1 {
		t.Errorf("history at the hub misses %v, want a gap of %d", got, s.UnsentPoints)
	}
	there := found(t, h.client, g.id, "noise")
	if got := uint64(len(there)) + s.UnsentPoints; got < points || got > points+100 { // the gap has points of other series
		t.Errorf("the hub has %d points and misses %d, want %d together and a few of other series", len(there), s.UnsentPoints, points)
	}
	for i := 1; i <= len(here); i++ {
		if here[len(here)-i].Time != there[len(there)-i].Time {
			t.Fatalf("%d before the end the gateway has %s, the hub %s", i, here[len(here)-i].Time, there[len(there)-i].Time)
		}
	}
	expectValue(t, "hub", h.client, g.id, "noise", value(t, g.client, g.id, "noise"))
	expectValue(t, "hub", h.client, g.id, "setpoint", "42")
}

// TestHubStoreMax: a hub keeps what it may. What gateways hold of its settings
// goes first, then the oldest points; state and links go on.
func TestHubStoreMax(t *testing.T) {
	t.Parallel()
	const limit, points, each = 150 << 10, 40_000, 500
	h := startHub(t, "--store-max", fmt.Sprint(limit), "--node-streams-max-per-subject", "10")
	g, quiet := h.addGateway("gw1", "", natstest.LinkConfig{}), h.addGateway("gw2", "", natstest.LinkConfig{})
	write(t, quiet.client, float(quiet.id, "level", 0, 7))
	list := noise(t, g.id, 0, points)
	for n := 0; n < points; n += each {
		write(t, g.client, list[n:n+each]...)
		set(t, h.client, g.id, "limit", fmt.Sprint(n))
	}
	g.waitEqual()
	for range 2 { // the last frame stays, and may be a large one
		write(t, g.client, float(g.id, "level", 0, 1))
		g.waitEqual()
	}
	removed := func() uint64 { return missing(t, h.client, g.id, "noise")[api.ReasonRemoved] }
	// Node streams are durable after two minutes; until then the logs stay.
	within(t, 5*patience, "the hub's logs take what they may", func() bool {
		s, err := h.client.Status(t.Context())
		return err == nil && s.StoreBytes <= limit
	})
	if got := uint64(len(found(t, h.client, g.id, "noise"))) + removed(); got < points || got > points+200 { // settings are removed as well
		t.Errorf("the hub has or removed %d points, want %d and a few of other series", got, points)
	}
	before := removed()
	h.crash()
	if got := removed(); got < before {
		t.Errorf("after a crash %d points are removed, before it %d", got, before)
	}
	expectValue(t, "hub", h.client, quiet.id, "level", "7")
	for _, x := range []*gateway{g, quiet} {
		x.waitConnected(true)
		write(t, x.client, float(x.id, "level", 0, 8))
		set(t, h.client, x.id, "limit", "9")
		x.waitEqual()
		expectValue(t, "hub", h.client, x.id, "level", "8")
		expectValue(t, "gateway", x.client, x.id, "limit", "9")
	}
}

// smallDisk mounts a disk of its own over a directory.
func smallDisk(t *testing.T, dir string, bytes int) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Skipf("a small disk cannot be mounted here (it needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill leaves no byte on a disk until the returned function is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "other program's data")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskFull: state and live values go on in memory, who waits is told, and
// everything is durable by itself once there is space.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{})
	smallDisk(t, g.dir, 48<<20)
	enroll()
	g.start()
	node := addNode(t, g.client, g.id, "pump")
	write(t, g.client, float(node, "level", 0, 1))
	g.waitEqual()

	free := fill(t, g.dir)
	err := g.client.Write(bounded(t), []point.Point{float(node, "level", 0, 2)})
	if api.CodeOf(err) != api.CodeDiskFull {
		t.Errorf("a write on a full disk: %v, want %s", err, api.CodeDiskFull)
	}
	expectValue(t, "gateway", g.client, node, "level", "2")
	const unheard = 5000
	list := make([]point.Point, unheard)
	begin := now()
	for i := range list {
		list[i] = float(node, "level", begin+uint64(i), float64(100+i))
	}
	publish(t, g, list...)
	last := fmt.Sprint(100 + unheard - 1)
	eventually(t, "the last value is state", func() bool { return value(t, g.client, node, "level") == last })
	set(t, h.client, node, "limit", "80")
	eventually(t, "a setting is in force", func() bool {
		return head(t, g.client, node, "limit", "0").Type != "" && value(t, g.client, node, "limit") == "80"
	})

	free()
	eventually(t, "writes are durable again", func() bool {
		return g.client.Write(bounded(t), []point.Point{float(node, "done", 0, 1)}) == nil
	})
	// What the hub had was removed to make room, where a snapshot did without.
	here, removed := uint64(len(found(t, g.client, node, "level"))), missing(t, g.client, node, "level")[api.ReasonRemoved]
	if here > 2+unheard || here+removed < 2+unheard {
		t.Errorf("history at the gateway has %d values and %d points are removed, want %d", here, removed, 2+unheard)
	}
	g.crash() // nothing was in memory only
	g.waitEqual()
	if got := missing(t, h.client, node, "level"); len(got) > 0 {
		t.Errorf("history at the hub misses %v", got)
	}
	if got := len(found(t, h.client, node, "level")); got != 2+unheard {
		t.Errorf("history at the hub has %d values, want %d", got, 2+unheard)
	}
	expectValue(t, "gateway", g.client, node, "limit", "80")

	free = fill(t, g.dir) // a start on a full disk answers
	g.kill()
	g.start()
	expectValue(t, "gateway", g.client, node, "level", last)
	free()
	eventually(t, "writes are durable again", func() bool {
		return g.client.Write(bounded(t), []point.Point{float(node, "done", 0, 2)}) == nil
	})
	g.waitEqual()
}

// count returns how many values history has, without their values.
func count(t *testing.T, c *client.Client, node, pointType string) (n uint64) {
	t.Helper()
	err := c.History(bounded(t), node, api.HistoryRequest{Type: pointType, Every: "24h"}, func(r *api.HistoryReply) error {
		for _, b := range r.Buckets {
			n += uint64(b.Count)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDropped: more points than may wait for a full disk. The oldest give way;
// both ends tell how many, after a crash and after a stop.
func TestDropped(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{})
	smallDisk(t, g.dir, 48<<20)
	enroll()
	g.start()
	g.waitEqual()
	free := fill(t, g.dir)
	if err := g.client.Write(bounded(t), noise(t, g.id, 0, 1)); api.CodeOf(err) != api.CodeDiskFull {
		t.Fatalf("a write on a full disk: %v, want %s", err, api.CodeDiskFull)
	}
	const groups, each = 300, 1000
	const written = 1 + groups*each
	list := noise(t, g.id, 1, groups*each)
	nc, err := nats.Connect("nats://" + g.run.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for n := 0; n < len(list); n += each {
		if err := nc.Publish(subject.Write, bus.EncodeGroup(list[n:n+each])); err != nil {
			t.Fatal(err)
		}
	}
	last := list[len(list)-1]
	eventually(t, "the last value is state", func() bool { return value(t, g.client, g.id, "noise") == last.Text() })
	dropped := g.status().DroppedPoints
	if dropped == 0 {
		t.Fatalf("%d points wait for the disk, and none gave way", written)
	}
	free()
	eventually(t, "writes are durable again", func() bool {
		return g.client.Write(bounded(t), []point.Point{float(g.id, "done", 0, 1)}) == nil
	})
	told := func(when string) {
		t.Helper()
		if got := g.status().DroppedPoints; got != dropped {
			t.Errorf("%s %d points gave way, at first %d", when, got, dropped)
		}
	}
	told("with room again")
	g.crash()
	told("after a crash")
	g.waitEqual()
	if got := missing(t, h.client, g.id, "noise"); got[api.ReasonGap] != dropped || len(got) != 1 {
		t.Errorf("history at the hub misses %v, want a gap of %d", got, dropped)
	}
	if got := count(t, h.client, g.id, "noise"); got+dropped != written {
		t.Errorf("history at the hub has %d values, and %d gave way, want %d together", got, dropped, written)
	}
	if got := missing(t, g.client, g.id, "noise")[api.ReasonGap]; got != dropped {
		t.Errorf("history at the gateway has gaps of %d, want %d", got, dropped)
	}
	g.stop()
	g.start()
	told("after a stop")
}
