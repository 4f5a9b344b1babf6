package bus_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a hub's instance on a real server, with a program beside it.
type world struct {
	*testing.T
	bus   *bus.Instance
	log   *journal.Log
	store journal.Store
	slow  atomic.Pointer[slowStore]
	nc    *nats.Conn // the program's
}

func start(t *testing.T) *world { return startWith(t, &bus.Clock{}) }

func startWith(t *testing.T, clock *bus.Clock) *world {
	t.Helper()
	nc, js := natstest.JetStream(t)
	s, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamHub, subject.LogsOf(subject.StreamHub)))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, store: journal.NewStore(js, s, subject.LogHub)}
	w.log, err = journal.Open(t.Context(), journal.Config{Store: w.store, Author: state.Hub, Now: clock.Now, Every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := journal.Ensure(t.Context(), js, history.Stream())
	if err != nil {
		t.Fatal(err)
	}
	archive, err := history.Open(t.Context(), history.Config{
		JetStream: js, Stream: chunks, Tail: 1 << 16,
		Sources: []history.Source{{Name: subject.StreamHub, Store: w.store, Author: func(string) string { return state.Hub }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bus = bus.New(bus.Config{
		Author: state.Hub, Root: "root", RootType: point.NodeRoot, State: state.New(), Log: w.log, Clock: clock, Conn: nc,
		History: func() *history.Archive {
			if s := w.slow.Load(); s != nil {
				s.blocked <- struct{}{}
				<-s.release
			}
			return archive
		},
	})
	w.nc = nc
	w.run(w.log.Run)
	w.run(w.bus.Serve)
	eventually(t, "the instance answers", func() bool {
		_, err := w.nc.Request("q.status", nil, time.Second)
		return err == nil
	})
	return w
}

// ask sends a request and returns the code of its error, "" for none.
func (w *world) ask(subj string, body []byte, result any) api.Code {
	w.Helper()
	m, err := w.nc.Request(subj, body, 5*time.Second)
	if err != nil {
		w.Fatalf("%s: %v", subj, err)
	}
	err = api.Decode(m.Data, result)
	if err != nil {
		w.Logf("%s: %v", subj, err)
	}
	return api.CodeOf(err)
}

func (w *world) must(subj, body string) {
	w.Helper()
	if code := w.ask(subj, []byte(body), nil); code != "" {
		w.Fatalf("%s %s: %s", subj, body, code)
	}
}

// edge makes a node below another.
func (w *world) edge(up, down, nodeType string) api.Code {
	w.Helper()
	return w.ask("j", fmt.Appendf(nil, `[{"up":%q,"down":%q,"type":"nodeType","value":%q},{"up":%q,"down":%q,"type":"tombstone","dataType":"uint","value":0}]`,
		up, down, nodeType, up, down), nil)
}

func (w *world) head(s point.Series) (e *frame.Entry) {
	w.bus.View(func(st *state.State, _ *tree.Tree) {
		if h := st.Get(s); h != nil {
			c := *h
			e = &c
		}
	})
	return e
}

func payload(t uint64, dt point.DataType, data []byte) []byte {
	return point.AppendPayload(nil, &point.Point{Time: t, DataType: dt, Data: data})
}

func TestBadInput(t *testing.T) {
	w := start(t)
	w.must("j", `[{"up":"root","down":"site","type":"nodeType","value":"site"}]`)
	w.edge("site", "gw", "gateway")
	w.edge("gw", "bus", "modbus")
	before := w.log.Tail()
	ahead := uint64(time.Now().Add(10 * time.Minute).UnixNano())
	long := strings.Repeat("x", 200<<10)
	for name, c := range map[string]struct {
		subject, body string
		want          api.Code
	}{
		"truncated payload":      {"p.site.v.0", "short", api.CodeInvalid},
		"float of 3 bytes":       {"p.site.v.0", string(payload(1, point.Float, make([]byte, 3))), api.CodeInvalid},
		"unknown data type":      {"p.site.v.0", string(payload(1, 9, nil)), api.CodeInvalid},
		"bad type token":         {"p.site.a/b.0", string(payload(1, point.String, nil)), api.CodeInvalid},
		"bad id":                 {"p.Site.v.0", string(payload(1, point.String, nil)), api.CodeInvalid},
		"tokens missing":         {"p.site.v", string(payload(1, point.String, nil)), api.CodeInvalid},
		"10 min ahead":           {"p.site.v.0", string(payload(ahead, point.String, nil)), api.CodeTime},
		"no such node":           {"p.nobody.v.0", string(payload(1, point.String, nil)), api.CodeNotFound},
		"200 KB":                 {"p.site.v.0", string(payload(1, point.String, []byte(long))), api.CodeTooLarge},
		"200 KB of JSON":         {"j.site.v.0", `"` + long + `"`, api.CodeTooLarge},
		"not JSON":               {"j.site.v.0", `{`, api.CodeInvalid},
		"null":                   {"j.site.v.0", `null`, api.CodeInvalid},
		"empty group":            {"j", `[]`, api.CodeInvalid},
		"group without node":     {"j", `[{"type":"v","value":1}]`, api.CodeInvalid},
		"truncated group":        {"p", "\x02\x00\x03", api.CodeInvalid},
		"cycle":                  {"j", `[{"up":"bus","down":"gw","type":"nodeType","value":"gateway"}]`, api.CodeCycle},
		"move below itself":      {"j", `[{"up":"site","down":"gw","type":"tombstone","dataType":"uint","value":1},{"up":"bus","down":"gw","type":"nodeType","value":"gateway"}]`, api.CodeCycle},
		"gateway below gateway":  {"j", `[{"up":"bus","down":"gw2","type":"nodeType","value":"gateway"}]`, api.CodeNested},
		"edge without nodeType":  {"j", `[{"up":"site","down":"x","type":"tombstone","dataType":"uint","value":0}]`, api.CodeInvalid},
		"reserved id":            {"j", `[{"up":"site","down":"hub","type":"nodeType","value":"x"}]`, api.CodeInvalid},
		"half of a group is bad": {"j", `[{"node":"site","type":"v","value":1},{"node":"nobody","type":"v","value":1}]`, api.CodeNotFound},
		"no such question":       {"q.site.colour", "", api.CodeInvalid},
		"question about nobody":  {"q.nobody.nodes", "", api.CodeNotFound},
	} {
		if got := w.ask(c.subject, []byte(c.body), nil); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if err := w.log.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.log.Tail() != before {
		t.Errorf("bad input left a trace: the log went from %d to %d", before.Seq, w.log.Tail().Seq)
	}
	if w.head(point.Series{Node: "site", Type: "v", Key: "0"}) != nil {
		t.Error("bad input is in state")
	}
	var st api.Status
	w.ask("q.status", nil, &st)
	if st.Counters["refused_too_large"] != 2 || st.Counters["refused_cycle"] != 2 {
		t.Errorf("refusals are not counted: %v", st.Counters)
	}
}

// TestUp follows a mirrored node: every ancestor hears once, nodes added
// later included, and edge points for the ancestors of the up node.
func TestUp(t *testing.T) {
	w := start(t)
	for _, e := range [][3]string{{"root", "a", "site"}, {"root", "b", "site"}, {"root", "c", "site"}, {"a", "x", "pump"}, {"b", "x", "pump"}} {
		if code := w.edge(e[0], e[1], e[2]); code != "" {
			t.Fatalf("edge %v: %s", e, code)
		}
	}
	sub, err := w.nc.SubscribeSync("up.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	heard := func(n int) (list []string) {
		t.Helper()
		for range n {
			m, err := sub.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatalf("after %v: %v", list, err)
			}
			list = append(list, m.Subject)
		}
		slices.Sort(list)
		return list
	}
	w.must("j.x.speed.0", "7")
	if got, want := heard(4), []string{"up.a.x.speed.0", "up.b.x.speed.0", "up.root.x.speed.0", "up.x.x.speed.0"}; !slices.Equal(got, want) {
		t.Errorf("a point of a mirrored node: got %v, want %v", got, want)
	}
	// A late point that does not win is not sent; the next message shows it.
	w.must("p.x.speed.0", string(payload(1, point.Float, point.FloatData(1))))
	if code := w.edge("x", "y", "valve"); code != "" {
		t.Fatal(code)
	}
	if got, want := heard(8), []string{
		"up.a.x.y.nodeType.0", "up.a.x.y.tombstone.0", "up.b.x.y.nodeType.0", "up.b.x.y.tombstone.0",
		"up.root.x.y.nodeType.0", "up.root.x.y.tombstone.0", "up.x.x.y.nodeType.0", "up.x.x.y.tombstone.0",
	}; !slices.Equal(got, want) {
		t.Errorf("a new edge: got %v, want %v", got, want)
	}
	w.must("j.y.open.0", "true")
	if got := heard(5); !slices.Contains(got, "up.a.y.open.0") || !slices.Contains(got, "up.y.y.open.0") {
		t.Errorf("a node added later: got %v", got)
	}
}

func TestStampAndConflict(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	// The head is 4 min ahead; a person's change wins all the same.
	ahead := uint64(time.Now().Add(4 * time.Minute).UnixNano())
	w.must("p.n.limit.0", string(payload(ahead, point.Float, point.FloatData(1))))
	w.must("j.n.limit.0", "2")
	s := point.Series{Node: "n", Type: "limit", Key: "0"}
	if h := w.head(s); h.Text() != "2" || h.Time != ahead+1 {
		t.Errorf("head is %s at %d, want 2 at %d", h.Text(), h.Time, ahead+1)
	}
	request := func(expect string) api.Code {
		m := nats.NewMsg("j.n.limit.0")
		m.Data = []byte("3")
		m.Header.Set(api.HeaderExpect, expect)
		r, err := w.nc.RequestMsg(m, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return api.CodeOf(api.Decode(r.Data, nil))
	}
	if got := request(fmt.Sprint(ahead)); got != api.CodeConflict {
		t.Errorf("write on an old head: got %q, want conflict", got)
	}
	if got := request(point.TimeOf(ahead + 1).Format(time.RFC3339Nano)); got != "" {
		t.Errorf("write on the head seen: got %q, want ok", got)
	}
	if got := request("yesterday"); got != api.CodeInvalid {
		t.Errorf("expect that is no time: got %q, want invalid", got)
	}
}

func TestJSONTypes(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	s := point.Series{Node: "n", Type: "v", Key: "0"}
	for _, c := range []struct {
		body string
		want point.DataType
		size int
		text string
	}{
		{`1.5`, point.Float, 8, "1.5"},
		{`"NaN"`, point.Float, 8, "NaN"},          // the head is a float
		{`"on"`, point.String, 2, "on"},           // does not fit it
		{`5`, point.Float, 8, "5"},                // does not fit a string
		{`true`, point.Uint, 1, "1"},              // not a number in JSON
		{`7`, point.Uint, 1, "7"},                 // the head's type and size
		{`300`, point.Float, 8, "300"},            // too large for it
		{`{"a":[1]}`, point.JSON, 9, `{"a":[1]}`}, // an object is a value
		{`{"value":"12","dataType":"int"}`, point.Int, 8, "12"},
		{`{"value":"18446744073709551615","dataType":"uint"}`, point.Uint, 8, "18446744073709551615"},
		{`{"value":0,"dataType":"bool"}`, point.Uint, 1, "0"},
		{`{"removed":true}`, point.Uint, 1, "0"},
	} {
		w.must("j.n.v.0", c.body)
		if h := w.head(s); h.DataType != c.want || len(h.Data) != c.size || h.Text() != c.text {
			t.Errorf("%s: got %s of %d bytes, %s; want %s of %d, %s", c.body, h.DataType, len(h.Data), h.Text(), c.want, c.size, c.text)
		}
	}
	var nodes api.NodesReply
	w.ask("q.n.nodes", nil, &nodes)
	if len(nodes.Nodes) != 1 || len(nodes.Nodes[0].Points) != 0 {
		t.Errorf("a removed point is shown: %+v", nodes)
	}
}

// TestHistory: by the time of the point, late ones in their place, the same
// time once, paged to the same answer.
func TestHistory(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	minute := uint64(time.Minute)
	for _, i := range []uint64{5, 1, 3, 2, 4, 3} { // 3 again with another value
		w.must("p.n.v.0", string(payload(i*minute, point.Float, point.FloatData(float64(i)+float64(w.log.Tail().Seq)/100))))
	}
	w.must("p.n.v.0", string(payload(6*minute, point.Float, point.FloatData(math.NaN()))))
	var times []string
	cursor := ""
	for {
		var r api.HistoryReply
		body, _ := json.Marshal(api.HistoryRequest{Type: "v", From: "1970-01-01T00:02:00Z", To: "1970-01-01T00:06:00Z", Limit: 2, Cursor: cursor})
		if code := w.ask("q.n.history", body, &r); code != "" {
			t.Fatal(code)
		}
		for _, s := range r.Samples {
			times = append(times, s.Time[14:16])
		}
		if cursor = r.Next; cursor == "" {
			break
		}
	}
	if want := []string{"02", "03", "04", "05"}; !slices.Equal(times, want) {
		t.Errorf("got minutes %v, want %v", times, want)
	}
	var r api.HistoryReply
	w.ask("q.n.history", []byte(`{"type":"v","every":"3m"}`), &r)
	if len(r.Buckets) != 3 || r.Buckets[1].Count != 3 || r.Buckets[2].NaN != 1 || string(r.Buckets[2].Mean) != "null" {
		t.Errorf("buckets: %+v", r.Buckets)
	}
}

// A reply subject that is no inbox is not answered: it could be a stream's
// API, or another program's mailbox.
func TestReplyOnlyToInboxes(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	sub, err := w.nc.SubscribeSync("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.nc.PublishRequest("j.n.v.0", "elsewhere", []byte("1")); err != nil {
		t.Fatal(err)
	}
	w.must("j.n.v.0", "2")
	if n, _, _ := sub.Pending(); n != 0 {
		t.Error("a reply went to a subject that is no inbox")
	}
	var st api.Status
	w.ask("q.status", nil, &st)
	if st.Counters["reply_refused"] != 1 {
		t.Errorf("not counted: %v", st.Counters)
	}
}

func TestApplyLeavesFarFutureOut(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	now := uint64(time.Now().UnixNano())
	entry := func(t uint64, v float64) frame.Entry {
		return frame.Entry{
			Point:  point.Point{Series: point.Series{Node: "n", Type: "v", Key: "0"}, Time: t, DataType: point.Float, Data: point.FloatData(v)},
			Author: "gw", At: frame.Cursor{Epoch: 1 << 40, Seq: uint64(v)},
		}
	}
	w.bus.Apply(&frame.Frame{Now: now, Entries: []frame.Entry{entry(now, 1), entry(now+frame.FutureLimit+1, 2)}})
	if h := w.head(point.Series{Node: "n", Type: "v", Key: "0"}); h == nil || h.Text() != "1" {
		t.Errorf("head is %v, want the point of now", h)
	}
}

// TestJudge is what a gateway may author.
func TestJudge(t *testing.T) {
	w := start(t)
	for _, e := range [][3]string{
		{"root", "site", "site"},
		{"site", "gw", "gateway"},
		{"site", "gw2", "gateway"},
		{"gw", "bus", "modbus"},
		{"bus", "pump", "pump"},
		{"gw2", "other", "pump"},
		{"gw", "moved", "pump"},
	} {
		if code := w.edge(e[0], e[1], e[2]); code != "" {
			t.Fatalf("edge %v: %s", e, code)
		}
	}
	left := uint64(time.Now().UnixNano())
	w.must("j", fmt.Sprintf(`[{"up":"gw","down":"moved","type":"tombstone","dataType":"uint","value":1,"time":%q},{"up":"gw2","down":"moved","type":"nodeType","value":"pump"}]`,
		point.TimeOf(left).Format(time.RFC3339Nano)))
	node := func(id string, at uint64) []point.Point {
		return []point.Point{{Series: point.Series{Node: id, Type: "v", Key: "0"}, Time: at, DataType: point.Float, Data: point.FloatData(1)}}
	}
	edge := func(up, down, nodeType string) []point.Point {
		list := point.Edge(up, down, nodeType)
		for i := range list {
			list[i].Time = left + 10
		}
		return list
	}
	pastEdge := func(up, down string, at uint64) []point.Point {
		list := point.Edge(up, down, "pump")
		for i := range list {
			list[i].Time = at
		}
		return list
	}
	for name, c := range map[string]struct {
		points []point.Point
		want   []frame.Reason // 0: kept
	}{
		"own node":                    {node("gw", left+5), []frame.Reason{0}},
		"node below it":               {node("pump", left+5), []frame.Reason{0}},
		"another gateway's node":      {node("other", left-5), []frame.Reason{frame.Foreign}},
		"another's node at time 0":    {node("other", 0), []frame.Reason{frame.Foreign}},
		"fetch back with a past edge": {pastEdge("bus", "moved", left-1), []frame.Reason{frame.Foreign, frame.Foreign}},
		"attach at time 0":            {pastEdge("bus", "other", 0), []frame.Reason{frame.Foreign, frame.Foreign}},
		"a late point of an edge":     {pastEdge("gw", "moved", 5), []frame.Reason{0, 0}},
		"a value of 70 KB":            {[]point.Point{{Series: point.Series{Node: "pump", Type: "v", Key: "0"}, Time: left, Data: make([]byte, 70<<10)}}, []frame.Reason{frame.Invalid}},
		"the site above it":           {node("site", left), []frame.Reason{frame.Foreign}},
		"nobody":                      {node("nobody", left), []frame.Reason{frame.Foreign}},
		"moved away, measured before": {node("moved", left), []frame.Reason{0}},
		"moved away, measured after":  {node("moved", left+1), []frame.Reason{frame.Foreign}},
		"malformed":                   {[]point.Point{{Series: point.Series{Node: "pump", Type: "v", Key: "0"}, DataType: point.Float}}, []frame.Reason{frame.Invalid}},
		"a new child and its point":   {append(edge("bus", "new", "pump"), node("new", left+11)...), []frame.Reason{0, 0, 0}},
		"attach a foreign node":       {append(edge("bus", "other", "pump"), node("other", left+11)...), []frame.Reason{frame.Foreign, frame.Foreign, frame.Foreign}},
		"a gateway below it":          {edge("bus", "gw3", "gateway"), []frame.Reason{frame.Nested, 0}},
		"a circle":                    {edge("pump", "bus", "modbus"), []frame.Reason{frame.Cycle, 0}},
		"an edge of the site":         {edge("site", "new2", "pump"), []frame.Reason{frame.Foreign, frame.Foreign}},
	} {
		entries := make([]frame.Entry, len(c.points))
		for i := range entries {
			entries[i] = frame.Entry{Point: c.points[i], Author: "gw", At: frame.Cursor{Epoch: 1 << 40, Seq: uint64(i + 1)}}
		}
		v := w.bus.Judge("gw", entries, bus.Limits{})
		got := make([]frame.Reason, len(entries))
		for _, a := range v.Aside {
			got[a.Seq-1] = a.Reason
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if len(v.Kept)+len(v.Aside) != len(entries) {
			t.Errorf("%s: %d kept and %d set aside of %d", name, len(v.Kept), len(v.Aside), len(entries))
		}
	}
	if w.bus.Judge("gw", nil, bus.Limits{}); w.head(point.Series{Node: "pump", Type: "v", Key: "0"}) != nil {
		t.Error("judging changed the state")
	}
	w.bus.View(func(_ *state.State, tr *tree.Tree) {
		if tr.Known("new") || tr.Has("new") || !tr.Below("gw2", "other") || tr.Below("gw", "other") {
			t.Error("judging changed the tree")
		}
	})
}

// TestJudgeLimits: what is new beyond the limits is set aside, all else is
// taken; what was removed counts as long as it is kept, and a node that moved
// to another gateway counts there.
func TestJudgeLimits(t *testing.T) {
	w := start(t)
	for _, e := range [][3]string{{"root", "gw", "gateway"}, {"root", "gw2", "gateway"}} {
		if code := w.edge(e[0], e[1], e[2]); code != "" {
			t.Fatalf("edge %v: %s", e, code)
		}
	}
	now := uint64(time.Now().UnixNano())
	seq := uint64(0)
	var limits bus.Limits
	// send has a gateway author points, and returns how many were taken and the
	// reasons why others were not.
	send := func(author string, points ...point.Point) (kept int, reasons []frame.Reason) {
		f := &frame.Frame{Kind: frame.Log, Now: now + 1000, Epoch: 1 << 40}
		for _, p := range points {
			now++
			seq++
			p.Time = now
			f.Entries = append(f.Entries, frame.Entry{Point: p, Author: author, At: frame.Cursor{Epoch: f.Epoch, Seq: seq}})
		}
		v := w.bus.Judge(author, f.Entries, limits)
		f.Entries = v.Kept
		w.bus.Apply(f)
		for _, a := range v.Aside {
			reasons = append(reasons, a.Reason)
		}
		return len(v.Kept), reasons
	}
	value := func(node, key string) point.Point {
		return point.Point{Series: point.Series{Node: node, Type: "v", Key: key}, DataType: point.Uint, Data: []byte{1}}
	}
	gone := func(up, down string) point.Point {
		p := point.Edge(up, down, "pump")[1]
		p.Data = []byte{1}
		return p
	}
	check := func(what string, kept int, reasons []frame.Reason, wantKept, wantAside int) {
		t.Helper()
		if kept != wantKept || len(reasons) != wantAside {
			t.Fatalf("%s: %d taken and %v set aside, want %d and %d", what, kept, reasons, wantKept, wantAside)
		}
		for _, r := range reasons {
			if r != frame.Limit && r != frame.Foreign {
				t.Fatalf("%s: set aside as %s", what, r)
			}
		}
	}

	limits = bus.Limits{Nodes: 3}
	var points []point.Point
	for _, id := range []string{"a", "b", "c", "d"} {
		points = append(append(points, point.Edge("gw", id, "pump")...), value(id, "0"))
	}
	kept, aside := send("gw", points...)
	check("a fourth node", kept, aside, 9, 3)
	kept, aside = send("gw", gone("gw", "a"))
	check("a node is removed", kept, aside, 1, 0)
	kept, aside = send("gw", point.Edge("gw", "d", "pump")...)
	check("one that was removed counts", kept, aside, 0, 2)
	kept, aside = send("gw", gone("gw", "e"))
	check("so does the end of one that never was", kept, aside, 0, 1)
	w.must("j", `[{"up":"gw","down":"b","type":"tombstone","dataType":"uint","value":1},{"up":"gw2","down":"b","type":"nodeType","value":"pump"},{"up":"gw2","down":"b","type":"tombstone","dataType":"uint","value":0}]`)
	kept, aside = send("gw", point.Edge("gw", "d", "pump")...)
	check("one that moved to another gateway does not", kept, aside, 2, 0)

	limits = bus.Limits{Series: 3}
	kept, aside = send("gw2", value("b", "0"), value("b", "1"), value("b", "1"), value("b", "2"))
	check("gw2 holds three series with its edge", kept, aside, 1, 3)
	limits.Series = 5
	kept, aside = send("gw2", value("b", "0"), value("b", "1"), value("b", "1"), value("b", "2"), value("b", "3"), value("b", "1"))
	check("two more", kept, aside, 5, 1)
	kept, aside = send("gw2", append(point.Edge("gw2", "f", "pump"), value("b", "2"), value("f", "0"))...)
	check("no new node where no series may be new", kept, aside, 1, 3)
}
