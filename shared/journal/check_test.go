package journal_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// checked returns what Check says about a store of a server on dir.
func checked(t *testing.T, dir string) []*journal.Summary {
	t.Helper()
	ns := natstest.Server(t, &server.Options{JetStream: true, StoreDir: dir})
	js, err := jetstream.New(natstest.Connect(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "EDGE")
	if err != nil {
		t.Fatal(err)
	}
	list, err := journal.Check(t.Context(), journal.NewStore(js, s, "log.edge.*"), s.CachedInfo().State.LastSeq)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// filled writes 20 frames of 10 points each to two logs, in two epochs each,
// and returns the directory of the stopped server.
func filled(t *testing.T, remove ...uint64) (dir string) {
	t.Helper()
	dir = t.TempDir()
	ns := natstest.Server(t, &server.Options{JetStream: true, StoreDir: dir})
	nc := natstest.Connect(t, ns)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := journal.LogStream("EDGE", "log.edge.*")
	cfg.DenyDelete = false // so that a frame can be taken out
	s, err := journal.Ensure(t.Context(), js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var logs []*journal.Log
		for _, gw := range []string{"a", "b"} {
			logs = append(logs, start(t, journal.Config{Store: journal.NewStore(js, s, "log.edge."+gw), Author: gw}))
		}
		for range 10 {
			for i, l := range logs {
				e := make([]frame.Entry, 10)
				for k := range e {
					e[k] = frame.Entry{Point: point.Point{
						Series: point.Series{Node: "n", Type: "v", Key: "0"}, Time: clock.Add(1), DataType: point.String, Data: []byte(fmt.Sprintf("value of %d", i)),
					}}
				}
				if err := l.Add(e, nil); err != nil {
					t.Fatal(err)
				}
				if err := l.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, seq := range remove {
		if err := s.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	nc.Close()
	ns.Shutdown()
	ns.WaitForShutdown()
	return dir
}

func problems(list []*journal.Summary) (all []string) {
	for _, l := range list {
		for _, p := range l.Problems {
			all = append(all, p.String())
		}
	}
	return all
}

func TestCheckFindsNothing(t *testing.T) {
	list := checked(t, filled(t))
	if p := problems(list); len(p) > 0 {
		t.Errorf("problems in a good store: %q", p)
	}
	if len(list) != 2 {
		t.Fatalf("%d logs, want 2", len(list))
	}
	for _, l := range list {
		if l.Frames != 20 || l.Points != 200 || l.Epochs != 2 || l.Gaps != 0 || l.Bytes == 0 || l.Oldest == 0 || l.Newest <= l.Oldest {
			t.Errorf("got %+v", l)
		}
	}
}

func TestCheckFindsRemovedFrames(t *testing.T) {
	list := checked(t, filled(t, 1, 7, 9, 23, 40)) // of log a: the first, two in the middle of its first epoch, one of its second; of b: the last
	got := problems(list)
	want := []string{"log.edge.a, stream sequence 11,", "points 31..50 are lost", "log.edge.a, stream sequence 25,", "points 11..20 are lost"}
	if len(got) != 2 {
		t.Fatalf("got %q", got)
	}
	for _, w := range want {
		if !strings.Contains(strings.Join(got, "\n"), w) {
			t.Errorf("got %q, want %q", got, w)
		}
	}
}

// flip changes a bit of the n-th place of text in the blocks below dir.
func flip(t *testing.T, dir, text string, n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "EDGE", "msgs", "*.blk"))
	if err != nil || len(files) != 1 {
		t.Fatalf("blocks: %v %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for range n {
		i := bytes.Index(b[at:], []byte(text))
		if i < 0 {
			t.Fatalf("%q is not there %d times", text, n)
		}
		at += i + len(text)
	}
	b[at+40] ^= 1 // in the frame behind
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A flipped bit in a block costs the frame that it is in, and what is lost is
// told.
func TestCheckFindsFlippedBit(t *testing.T) {
	dir := filled(t)
	flip(t, dir, "log.edge.a", 4)
	list := checked(t, dir)
	got := problems(list)
	if len(got) != 1 || !strings.Contains(got[0], "log.edge.a, stream sequence 9,") || !strings.Contains(got[0], "points 31..40 are lost") {
		t.Errorf("got %q, want points 31..40 of log a", got)
	}
	for _, l := range list {
		if want := map[string]uint64{"log.edge.a": 190, "log.edge.b": 200}[l.Subject]; l.Points != want {
			t.Errorf("%s has %d points, want %d", l.Subject, l.Points, want)
		}
	}
}

// A frame that the server gives out damaged, as after a fault in memory, is
// told with what it held; at the end of a log that cannot be known.
func TestCheckFindsDamagedFrames(t *testing.T) {
	dir := filled(t)
	ns := natstest.Server(t, &server.Options{JetStream: true, StoreDir: dir})
	js, err := jetstream.New(natstest.Connect(t, ns))
	if err != nil {
		t.Fatal(err)
	}
	from, err := js.Stream(t.Context(), "EDGE")
	if err != nil {
		t.Fatal(err)
	}
	to, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COPY", Subjects: []string{"copy.*"}})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 40; seq++ {
		m, err := from.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if seq == 1 || seq == 6 || seq == 8 || seq == 40 { // of a the first; of b two in a row, and the last
			m.Data[len(m.Data)/2] ^= 1
		}
		if _, err := js.Publish(t.Context(), strings.Replace(m.Subject, "log.edge", "copy", 1), m.Data); err != nil {
			t.Fatal(err)
		}
	}
	list, err := journal.Check(t.Context(), journal.NewStore(js, to, "copy.*"), 40)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(problems(list), "\n")
	for _, want := range []string{
		"copy.a, stream sequence 1: frame is damaged", "copy.a, stream sequence 1, epoch 1-", "1 damaged in a row; points 1..10 are lost",
		"copy.b, stream sequence 6: frame is damaged", "2 damaged in a row; points 21..40 are lost",
		"copy.b, stream sequence 40: frame is damaged", "1 damaged at the end: all points after 90 are lost",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 7 {
		t.Errorf("%d problems, want 7:\n%s", n, got)
	}
}
