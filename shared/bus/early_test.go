package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// TestBeforeTheLog: a state that is complete is told before there is a log, one
// that may not be waits; writes wait, and who listens hears what the log has
// changed.
func TestBeforeTheLog(t *testing.T) {
	t.Run("complete", func(t *testing.T) { beforeTheLog(t, true) })
	t.Run("not complete", func(t *testing.T) { beforeTheLog(t, false) })
}

func beforeTheLog(t *testing.T, complete bool) {
	nc, js := natstest.JetStream(t)
	stream, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamHub, subject.LogsOf(subject.StreamHub)))
	if err != nil {
		t.Fatal(err)
	}
	store := journal.NewStore(js, stream, subject.LogHub)
	restored := state.New()
	value := func(v float64) frame.Entry {
		return frame.Entry{Author: state.Hub, Point: point.Point{
			Series: point.Series{Node: "root", Type: "v", Key: point.NoKey}, Time: uint64(v), DataType: point.Float, Data: point.FloatData(v),
		}}
	}
	e := value(1)
	restored.Merge(&e)
	clock := &bus.Clock{}
	w := &world{T: t, nc: nc}
	w.bus = bus.New(bus.Config{
		Author: state.Hub, Root: "root", RootType: point.NodeRoot, State: restored, Complete: complete, Clock: clock, Conn: nc,
	})
	w.run(w.bus.Serve)
	var st api.Status
	eventually(t, "status is answered", func() bool {
		m, err := nc.Request(subject.Instance("status"), nil, time.Second)
		return err == nil && api.Decode(m.Data, &st) == nil
	})
	if st.Link != "starting" {
		t.Errorf("the link is %q while the instance starts", st.Link)
	}
	heard, err := nc.SubscribeSync("up.root.root.v.0")
	if err != nil {
		t.Fatal(err)
	}
	inbox := nats.NewInbox()
	answers, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(subj, body string) {
		t.Helper()
		if err := nc.PublishRequest(subj, inbox, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	answer := func() (n api.NodesReply, err error) {
		t.Helper()
		m, err := answers.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return n, api.Decode(m.Data, &n)
	}
	ask("q.root.nodes", "")
	if complete {
		if n, err := answer(); err != nil || len(n.Nodes) != 1 || string(n.Nodes[0].Points[0].Value) != "1" {
			t.Errorf("before the log: %+v, %v", n, err)
		}
		ask("q.root.history", `{"type":"v"}`)
		if _, err := answer(); api.CodeOf(err) != api.CodeBusy {
			t.Errorf("history before the log: %v", err)
		}
	}
	ask("j.root.v.0", "3")
	ask("q.root.nodes", "")
	if err := w.bus.Write([]point.Point{value(9).Point}, nil, nil); api.CodeOf(err) != api.CodeBusy {
		t.Errorf("a write of the instance itself before there is a log: %v", err)
	}
	w.bus.Apply(&frame.Frame{Now: 10, Entries: []frame.Entry{value(2)}}) // the log has this
	if n, _, _ := heard.Pending(); n != 0 {
		t.Error("a replayed value was broadcast before all are replayed")
	}
	log, err := journal.Open(t.Context(), journal.Config{Store: store, Author: state.Hub, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	w.run(log.Run)
	w.bus.Attach(log)
	if !complete {
		if n, err := answer(); err != nil || string(n.Nodes[0].Points[0].Value) == "1" {
			t.Errorf("the question that waited: %+v, %v", n, err)
		}
	}
	seen := 0
	for range 2 { // the write waits for the disk, the question does not
		if n, err := answer(); err != nil {
			t.Errorf("after the log: %v", err)
		} else if len(n.Nodes) > 0 && string(n.Nodes[0].Points[0].Value) == "3" {
			seen++
		}
	}
	if seen != 1 && !complete { // else the question need not wait
		t.Error("the question after the write was not answered with what it wrote")
	}
	for _, want := range []string{"2", "3"} {
		m, err := heard.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		p := point.Point{}
		if err := point.DecodePayload(m.Data, &p); err != nil || p.Text() != want {
			t.Errorf("heard %s, %v; want %s", p.Text(), err, want)
		}
	}
}

// TestSlowQuestions: questions that take long hold up neither writes nor
// status.
func TestSlowQuestions(t *testing.T) {
	w := start(t)
	w.edge("root", "n", "site")
	blocked, release := make(chan struct{}, 64), make(chan struct{})
	w.slow.Store(&slowStore{blocked, release})
	inbox := nats.NewInbox()
	answers, err := w.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	const questions = 10 // more than are answered side by side
	for range questions {
		if err := w.nc.PublishRequest("q.n.history", inbox, []byte(`{"type":"v"}`)); err != nil {
			t.Fatal(err)
		}
	}
	<-blocked
	w.must("j.n.v.0", "1")
	var st api.Status
	if code := w.ask("q.status", nil, &st); code != "" {
		t.Errorf("status: %s", code)
	}
	if n, _, _ := answers.Pending(); n != 0 {
		t.Errorf("%d questions were answered already: they were not slow", n)
	}
	close(release)
	for range questions {
		if _, err := answers.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// slowStore holds up who reads history.
type slowStore struct {
	blocked chan struct{}
	release chan struct{}
}
