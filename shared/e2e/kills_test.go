package e2e_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

var kills = flag.Int("kills", 20, "how often TestKills kills a process")

// TestKills carries the whole trace while both ends are killed at random
// moments, store.max is reached twice because the line is cut, and the disk of
// the gateway is full once. Nothing acked is lost but what had to make room,
// and both ends tell the same number of those.
func TestKills(t *testing.T) {
	t.Parallel()
	const limit = 48 << 10 // an eighth or so of the trace
	h := startHub(t, "--node-streams-max-per-subject", "50000", "--node-streams-layout", "shard")
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{Delay: 5 * time.Millisecond}, "--store-max", fmt.Sprint(limit))
	smallDisk(t, g.dir, 48<<20)
	enroll()
	g.start()
	k := &killer{chaos: chaos{t: t, rng: random(t), h: h, g: g}}
	k.f = &feeder{node: addNode(t, g.client, g.id, "office"), rows: readTrace(t)}

	share := func(n, of int) int { return len(k.f.rows) * n / of }
	k.spree(*kills*2/10, share(2, 10))
	g.waitConnected(true)
	k.outage(*kills*2/10, share(4, 10), limit)
	k.spree(*kills/10, share(5, 10))
	k.fullDisk(share(6, 10))
	g.waitEqual() // so that the second gap is one of its own
	k.strike(g.process)
	g.start()
	k.outage(*kills*2/10, share(8, 10), limit)
	k.spree(*kills-k.count, share(10, 10))
	g.waitEqual()
	s := g.status()
	t.Logf("%d kills, %d of them of the agent; %d points removed, %d of them unsent", k.count, k.agents, s.RemovedPoints, s.UnsentPoints)
	if aside := g.device().Aside; len(aside) > 0 || s.DroppedPoints > 0 {
		t.Errorf("set aside: %v, dropped: %d", aside, s.DroppedPoints)
	}
	k.check(s)
}

// killer kills while it feeds.
type killer struct {
	chaos
	count, agents int // kills, and those of the agent
}

// spree feeds until a row, with kills on the way.
func (k *killer) spree(kills, until int) {
	k.t.Helper()
	from, enough := int(k.f.done.Load()), k.count+kills
	for k.count < enough {
		k.until = until - (until-from)*(enough-k.count-1)/kills
		k.kill(k.rng.IntN(3) == 0)
	}
	k.until = until
	k.must(k.feeding())
}

// outage cuts the line until the gateway has removed what nobody else has.
func (k *killer) outage(kills, until, limit int) {
	k.t.Helper()
	k.g.link.Cut()
	k.g.waitConnected(false)
	before := k.g.status().UnsentPoints
	k.spree(kills, until)
	eventually(k.t, "the logs take what they may", func() bool { return k.g.status().StoreBytes <= uint64(limit) })
	if after := k.g.status().UnsentPoints; after <= before {
		k.t.Fatalf("%d unsent points removed before an outage, %d after it: want more", before, after)
	}
	k.g.link.Restore()
}

// kill kills the hub or the agent at a random moment of a piece, and sometimes
// again while it starts.
func (k *killer) kill(hub bool) {
	k.t.Helper()
	moment, ended := k.moment(), k.feeding()
	k.await(moment)
	k.pause()
	if hub {
		k.strike(k.h.process)
		k.h.start()
		k.must(ended)
		return
	}
	k.g.kill()
	err := <-ended // before the next kill, which it must not hear of
	k.count, k.agents = k.count+1, k.agents+1
	if k.rng.IntN(4) == 0 {
		k.g.launch()
		k.pause()
		k.strike(k.g.process)
	}
	k.g.start()
	if err != nil {
		k.resume()
		k.must(k.feeding())
	}
}

// strike kills a process.
func (k *killer) strike(p *process) {
	p.kill()
	k.count++
	if p == k.g.process {
		k.agents++
	}
}

// pause lets some time pass, so that a kill hits anything.
func (k *killer) pause() {
	<-time.After(time.Duration(k.rng.IntN(60)) * time.Millisecond)
}

func (k *killer) resume() {
	k.t.Helper()
	if err := k.f.resume(k.t.Context(), k.g.client); err != nil {
		k.t.Fatalf("resume: %v", err)
	}
}

// fullDisk fills the gateway's disk while it is fed, and kills the agent
// before there is space again.
func (k *killer) fullDisk(until int) {
	k.t.Helper()
	from := int(k.f.done.Load())
	full := func(err error) bool { return api.CodeOf(err) == api.CodeDiskFull }
	k.until = from + (until-from)/2
	moment, ended := k.moment(), k.feeding()
	k.await(moment)
	free := fill(k.t, k.g.dir)
	if err := <-ended; err != nil && !full(err) {
		k.t.Fatalf("feed while the disk fills: %v", err)
	}
	for range 2 {
		k.strike(k.g.process)
		k.g.start()
		k.resume()
		k.until = until
		if err := <-k.feeding(); !full(err) {
			k.t.Fatalf("feed on a full disk: %v, want %s", err, api.CodeDiskFull)
		}
	}
	free()
	eventually(k.t, "what is fed is durable again", func() bool {
		err := k.f.resume(k.t.Context(), k.g.client)
		if err == nil {
			err = <-k.feeding()
		}
		if err != nil {
			k.t.Logf("feed after a full disk: %v", err)
		}
		return err == nil
	})
}

// check compares what both ends have and tell with the trace and with each
// other. s is the status of the gateway.
func (k *killer) check(s *api.Status) {
	t, rows, node := k.t, k.f.rows, k.f.node
	if got := missing(t, k.h.client, node, "co2"); got[api.ReasonGap] != s.UnsentPoints || len(got) != 1 {
		t.Errorf("history at the hub misses %v, want a gap of %d", got, s.UnsentPoints)
	}
	here, there := map[string][]api.Sample{}, map[string][]api.Sample{}
	for pointType := range bySeries(rows) {
		here[pointType], there[pointType] = found(t, k.g.client, node, pointType), found(t, k.h.client, node, pointType)
	}
	k.checkRemoved(here)
	k.g.stop()
	k.h.stop()
	checkStores(t, k.h, k.g)

	js := openStore(t, k.h.dir)
	hub := readLog(t, js, k.g.id, node, rows, 0)
	_, meta, err := bus.Load(k.g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := meta.Removed[subject.LogEdge(k.g.id)].Unsent; n != s.UnsentPoints {
		t.Errorf("%d points were removed unsent when the agent stopped, %d before", n, s.UnsentPoints)
	}
	own := readLog(t, openStore(t, k.g.dir), k.g.id, node, rows, uint64(len(rows)))
	if hub.gaps != s.UnsentPoints || own.gaps != 0 {
		t.Errorf("log at the hub: gaps of %d; at the gateway: gaps of %d, %d removed unsent", hub.gaps, own.gaps, s.UnsentPoints)
	}
	if n := len(own.rows); n == 0 || own.rows[0] != rows[len(rows)-n] {
		t.Errorf("the gateway has %d rows that are not the end of the trace", n)
	}
	checkSamples(t, "hub", there, hub.rows)
	checkNodeStream(t, hub.rows, js, node)
}

// checkRemoved compares the history of the gateway with the end of the trace,
// and what it says is missing with the rest of it.
func (k *killer) checkRemoved(here map[string][]api.Sample) {
	t := k.t
	var kept []row
	for pointType, all := range bySeries(k.f.rows) {
		n := len(here[pointType])
		if got := missing(t, k.g.client, k.f.node, pointType); n > len(all) || got[api.ReasonRemoved] != uint64(len(all)-n) || len(got) > 1 {
			t.Errorf("history of %s at the gateway has %d points and misses %v, want %d together", pointType, n, got, len(all))
			continue
		}
		kept = append(kept, all[len(all)-n:]...)
	}
	checkSamples(t, "gateway", here, kept)
}

// stock is what a log holds: rows of the trace, all its points, and how many
// are missing in its gaps.
type stock struct {
	rows         []row
	points, gaps uint64
}

// readLog reads the log of a gateway from a store. The rows of the trace in it
// must stand in order and once, with their bits, and where some are missing
// there must be a gap that they fit in. removed is how many points are missing
// at its beginning.
func readLog(t *testing.T, js jetstream.JetStream, gateway, node string, rows []row, removed uint64) (s stock) {
	t.Helper()
	place := map[row]int{}
	for i, r := range rows {
		place[row{at: r.at, pointType: r.pointType}] = i
	}
	next, gap := 0, removed // the row that comes next, and how many points are missing before it
	stored(t, js, subject.StreamEdge, func(m journal.Message) {
		f, err := frame.Decode(m.Data, gateway)
		if err != nil || m.Subject != subject.LogEdge(gateway) {
			t.Fatalf("message %d on %s: %v", m.Seq, m.Subject, err)
		}
		s.points, s.gaps, gap = s.points+uint64(len(f.Entries)), s.gaps+f.Gap(), gap+f.Gap()
		for i := range f.Entries {
			e := &f.Entries[i]
			at, ok := place[row{at: e.Time, pointType: e.Type}]
			if e.Node != node || !ok {
				continue
			}
			if v, _ := e.Float64(); !sameBits(v, rows[at].value) {
				t.Errorf("message %d: row %d is %v, want %v", m.Seq, at, v, rows[at].value)
			}
			if at < next || at > next+int(gap) {
				t.Errorf("message %d: row %d stands where %d should, after a gap of %d", m.Seq, at, next, gap)
			}
			s.rows, next, gap = append(s.rows, rows[at]), at+1, 0
		}
	})
	if next != len(rows) {
		t.Errorf("the log ends with row %d of %d", next, len(rows))
	}
	return s
}

// checkSamples compares the history of every series with rows.
func checkSamples(t *testing.T, where string, got map[string][]api.Sample, rows []row) {
	t.Helper()
	for pointType, want := range bySeries(rows) {
		if len(got[pointType]) != len(want) {
			t.Errorf("%s: history of %s has %d points, want %d", where, pointType, len(got[pointType]), len(want))
			continue
		}
		for i := range want {
			p := &got[pointType][i]
			if v := number(t, client.SampleText(p)); timeOf(p) != want[i].at || !sameBits(v, want[i].value) {
				t.Errorf("%s: point %d of %s is %s %v, want %s %v", where, i, pointType, p.Time, v, point.TimeOf(want[i].at), want[i].value)
				break
			}
		}
	}
}
