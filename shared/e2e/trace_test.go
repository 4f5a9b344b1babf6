package e2e_test

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

const traceFile = "testdata/occupancy.csv.gz"

// row is one line of the trace.
type row struct {
	at        uint64
	pointType string
	value     float64
}

// readTrace returns the rows of the trace in the order of the file.
func readTrace(t *testing.T) []row {
	t.Helper()
	f, err := os.Open(traceFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(unzipped)
	r.ReuseRecord = true
	if _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	var rows []row
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, record[0])
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(record[4], 64)
		if err != nil || record[1] != "office" || record[3] != point.NoKey {
			t.Fatalf("%v: %v", record, err)
		}
		rows = append(rows, row{point.Nanos(at), string([]byte(record[2])), v})
	}
}

// bySeries returns the rows of each type, in the order of the file.
func bySeries(rows []row) map[string][]row {
	all := map[string][]row{}
	for _, r := range rows {
		all[r.pointType] = append(all[r.pointType], r)
	}
	return all
}

// feeder writes rows to a node in the order of the file, in groups that are
// acked. After a crash of the agent it goes on behind what is durable there.
type feeder struct {
	node string
	rows []row
	done atomic.Int64 // rows that are acked
	pass func(int)    // called with done each time it moves, if not nil
}

const (
	feedGroup  = 120 // rows in a group
	feedWindow = 4   // groups under way
)

// feed writes rows until until of them are durable.
func (f *feeder) feed(ctx context.Context, c *client.Client, until int) error {
	type flight struct {
		wait func(context.Context) error
		end  int
	}
	var flying []flight
	for next := int(f.done.Load()); next < until || len(flying) > 0; {
		if next < until && len(flying) < feedWindow {
			end := min(next+feedGroup, until)
			var points []point.Point
			for _, r := range f.rows[next:end] {
				points = append(points, float(f.node, r.pointType, r.at, r.value))
			}
			wait, err := c.Begin(points)
			if err != nil {
				return err
			}
			flying = append(flying, flight{wait, end})
			next = end
			continue
		}
		if err := flying[0].wait(ctx); err != nil {
			return err
		}
		f.done.Store(int64(flying[0].end))
		if f.pass != nil {
			f.pass(flying[0].end)
		}
		flying = flying[1:]
	}
	return nil
}

// resume asks the agent how many rows it has: a group that was not acked may
// be there all the same, and what is there is a beginning of the file. Winners
// tell, because the oldest history may have had to make room.
func (f *feeder) resume(ctx context.Context, c *client.Client) error {
	node, err := c.Get(ctx, f.node)
	if err != nil {
		return err
	}
	newest := map[string]uint64{}
	for i := range node.Points {
		at, err := time.Parse(time.RFC3339Nano, node.Points[i].Time)
		if err != nil {
			return err
		}
		newest[node.Points[i].Type] = point.Nanos(at)
	}
	n := int(f.done.Load())
	for n < len(f.rows) && f.rows[n].at <= newest[f.rows[n].pointType] {
		n++
	}
	for _, r := range f.rows[n:] {
		if r.at <= newest[r.pointType] {
			return fmt.Errorf("the agent has a row of %s, but not all before it", point.TimeOf(r.at))
		}
	}
	f.done.Store(int64(n))
	return nil
}

func timeOf(s *api.Sample) uint64 {
	at, err := time.Parse(time.RFC3339Nano, s.Time)
	if err != nil {
		return 0
	}
	return point.Nanos(at)
}

// TestTrace carries the whole trace through cuts and crashes of everything, at
// a hub whose nodes share streams; then these are laid out by node, with a
// crash on the way.
func TestTrace(t *testing.T) {
	t.Parallel()
	rng := random(t)
	rows := readTrace(t)
	h := startHub(t, "--node-streams-max-per-subject", "50000", "--node-streams-layout", "shard")
	g := h.addGateway("gw1", "", natstest.LinkConfig{Rate: 500_000, Delay: 10 * time.Millisecond})
	f := &feeder{node: addNode(t, g.client, g.id, "office"), rows: rows}

	events := slices.Concat(slices.Repeat([]string{"cut"}, 20), slices.Repeat([]string{"hub"}, 3), slices.Repeat([]string{"agent"}, 3))
	rng.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
	for i, event := range events {
		c := &chaos{t: t, rng: rng, h: h, g: g, f: f, until: len(rows) * (i + 1) / len(events)}
		switch event {
		case "cut":
			c.cut()
		case "hub":
			c.killHub()
		case "agent":
			c.killAgent()
		}
	}
	g.waitEqual()
	checkTrace(t, rows, h.client, f.node)
	checkTrace(t, rows, g.client, f.node)
	g.stop()
	h.stop()
	checkNodeStream(t, rows, openStore(t, h.dir), f.node)
	checkStores(t, h, g)

	rebuild := []string{"streams", "rebuild", "--layout", "node", "--max-per-subject", "50000", "--data", h.dir}
	killed := exec.Command(hubBin, rebuild...)
	killed.Env = environ()
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Duration(rng.IntN(400)) * time.Millisecond) // at any moment
	_ = killed.Process.Kill()
	_ = killed.Wait()
	if out, code := command(t, hubBin, rebuild...); code != 0 {
		t.Fatalf("rebuild: code %d, %s", code, out)
	}
	js := openStore(t, h.dir)
	if names := strings.Join(streamNames(t, js), " "); strings.Contains(names, "SE_") {
		t.Errorf("streams of the other layout are there: %s", names)
	}
	checkNodeStream(t, rows, js, f.node)
}

// chaos feeds a piece of the trace, and something breaks meanwhile.
type chaos struct {
	t     *testing.T
	rng   *rand.Rand
	h     *hub
	g     *gateway
	f     *feeder
	until int
}

// feeding starts to feed and returns how it ended.
func (c *chaos) feeding() <-chan error {
	ended := make(chan error, 1)
	agent := c.g.client
	go func() { ended <- c.f.feed(c.t.Context(), agent, c.until) }()
	return ended
}

func (c *chaos) must(ended <-chan error) {
	c.t.Helper()
	if err := <-ended; err != nil {
		c.t.Fatalf("feed: %v", err)
	}
}

// moment lets the feeder tell when it passes a random place of its piece.
func (c *chaos) moment() <-chan struct{} {
	passed := make(chan struct{})
	var once sync.Once
	from := int(c.f.done.Load())
	at := from + c.rng.IntN(max(1, (c.until-from)/2))
	c.f.pass = func(done int) {
		if done >= at {
			once.Do(func() { close(passed) })
		}
	}
	return passed
}

// await waits for a moment, which comes unless feeding fails before.
func (c *chaos) await(moment <-chan struct{}) {
	c.t.Helper()
	select {
	case <-moment:
	case <-bounded(c.t).Done():
		c.t.Fatal("the feeder did not come to its moment")
	}
}

// cut cuts the link after a random number of bytes, mostly within a frame.
func (c *chaos) cut() {
	if c.rng.IntN(4) > 0 { // else the piece joins the backlog first
		c.g.waitConnected(true)
	}
	ended := c.feeding()
	c.g.link.CutAfter(1 + c.rng.Uint64N(60_000))
	c.must(ended)
	eventually(c.t, "the link is cut or idle", func() bool {
		return c.g.link.IsCut() || c.g.status().Connected && c.g.status().BacklogPoints == 0
	})
	c.g.link.Cut()
	c.g.link.Restore()
}

func (c *chaos) killHub() {
	if c.rng.IntN(2) > 0 {
		c.g.waitConnected(true)
	}
	moment, ended := c.moment(), c.feeding()
	c.await(moment)
	sent, _ := c.g.link.Bytes()
	more := c.rng.Uint64N(40_000)
	eventually(c.t, "the link carries", func() bool {
		now, _ := c.g.link.Bytes()
		return now >= sent+more || c.g.status().BacklogPoints == 0
	})
	c.h.crash()
	c.must(ended)
}

func (c *chaos) killAgent() {
	moment, ended := c.moment(), c.feeding()
	c.await(moment)
	c.g.kill()
	if err := <-ended; err == nil {
		c.t.Log("the agent was killed after the last ack of the piece")
	}
	c.g.start()
	if err := c.f.resume(c.t.Context(), c.g.client); err != nil {
		c.t.Fatalf("resume: %v", err)
	}
	c.must(c.feeding())
}

// TestTraceReplay carries the trace by the command replay through cuts and a
// crash of the hub, with node streams that keep 1,000 of each subject.
func TestTraceReplay(t *testing.T) {
	t.Parallel()
	rng := random(t)
	rows := readTrace(t)
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{Delay: 5 * time.Millisecond})
	g.waitConnected(true)

	// About 1.4 million seconds of recording in 7 of ours.
	replay := exec.Command(agentBin, "replay", traceFile, "--speed", "200000x", "--json", "--data", g.dir)
	replay.Env = environ()
	type outcome struct {
		out []byte
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		out, err := replay.CombinedOutput()
		ended <- outcome{out, err}
	}()
	for i := range 4 {
		g.link.CutAfter(1 + rng.Uint64N(100_000))
		eventually(t, "the link is cut or idle", func() bool {
			return g.link.IsCut() || g.status().Connected && g.status().BacklogPoints == 0
		})
		if i == 2 {
			h.crash()
		}
		g.link.Cut()
		g.link.Restore()
		g.waitConnected(true)
	}
	done := <-ended
	var counts struct{ Read, Sent, Refused, Nodes int }
	if err := json.Unmarshal(done.out, &counts); done.err != nil || err != nil || counts.Sent != len(rows) || counts.Nodes != 1 {
		t.Fatalf("replay: %v, %s", done.err, done.out)
	}
	g.waitEqual()
	office, err := g.client.Resolve(t.Context(), "office")
	if err != nil {
		t.Fatal(err)
	}
	checkTrace(t, rows, h.client, office)
	checkTrace(t, rows, g.client, office)
	g.stop()
	h.stop()
	var newest []row
	for _, list := range bySeries(rows) {
		newest = append(newest, list[len(list)-1000:]...)
	}
	checkNodeStream(t, newest, openStore(t, h.dir), office)
}

// checkTrace compares the history of every series and its head with the file.
func checkTrace(t *testing.T, rows []row, c *client.Client, node string) {
	t.Helper()
	for pointType, want := range bySeries(rows) {
		got := history(t, c, node, pointType)
		if len(got) != len(want) {
			t.Errorf("history of %s has %d points, want %d", pointType, len(got), len(want))
			continue
		}
		for i := range got {
			if v := number(t, client.SampleText(&got[i])); timeOf(&got[i]) != want[i].at || !sameBits(v, want[i].value) {
				t.Errorf("point %d of %s is %s %v, want %s %v", i, pointType, got[i].Time, v, point.TimeOf(want[i].at), want[i].value)
				break
			}
		}
		last := want[len(want)-1]
		p := head(t, c, node, pointType, point.NoKey)
		if v := number(t, client.ValueText(p.Value)); p.Time != point.TimeOf(last.at).Format(time.RFC3339Nano) || !sameBits(v, last.value) {
			t.Errorf("state of %s is %s %v, want %v", pointType, p.Time, v, last)
		}
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// checkNodeStream compares the stream of what gateways authored about a node
// with rows, series by series in order.
func checkNodeStream(t *testing.T, rows []row, js jetstream.JetStream, node string) {
	t.Helper()
	got := map[string][]row{}
	storedOf(t, js, node, func(m journal.Message) {
		p := decode(t, m)
		if v, ok := p.Float64(); ok {
			got[p.Type] = append(got[p.Type], row{p.Time, p.Type, v})
		}
	})
	for pointType, want := range bySeries(rows) {
		have := got[pointType]
		for i := range min(len(have), len(want)) {
			if have[i].at != want[i].at || !sameBits(have[i].value, want[i].value) {
				t.Errorf("node stream: point %d of %s is %v, want %v", i, pointType, have[i], want[i])
				break
			}
		}
		if len(have) != len(want) {
			t.Errorf("node stream has %d points of %s, want %d", len(have), pointType, len(want))
		}
	}
}
