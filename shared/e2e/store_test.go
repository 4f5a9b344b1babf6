package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// openStore serves a copy of what a stopped hub stored: programs have no
// right to the streams of one that runs.
func openStore(t *testing.T, dataDir string) jetstream.JetStream {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "jetstream"), os.DirFS(filepath.Join(dataDir, "jetstream"))); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", subject.StreamEdge))
	if err != nil || len(logs) != 1 {
		t.Fatalf("logs of %d accounts, %v", len(logs), err)
	}
	opts := &server.Options{}
	config := fmt.Sprintf(`accounts { %q { jetstream: enabled, users: [{user: test, password: test}] } }, no_auth_user: test`,
		filepath.Base(filepath.Dir(filepath.Dir(logs[0]))))
	if err := opts.ProcessConfigString(config); err != nil {
		t.Fatal(err)
	}
	opts.JetStream, opts.StoreDir = true, dir
	js, err := jetstream.New(natstest.Connect(t, natstest.Server(t, opts)))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// checkStores has every stopped instance find its store whole.
func checkStores(t *testing.T, h *hub, gateways ...*gateway) {
	t.Helper()
	if out, code := command(t, hubBin, "store", "check", "--data", h.dir); code != 0 {
		t.Errorf("store of the hub: code %d\n%s", code, out)
	}
	for _, g := range gateways {
		if out, code := command(t, agentBin, "store", "check", "--data", g.dir); code != 0 {
			t.Errorf("store of %s: code %d\n%s", g.name, code, out)
		}
	}
}

// stored calls visit for each message of a stream in order.
func stored(t *testing.T, js jetstream.JetStream, stream string, visit func(journal.Message)) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatalf("stream %s: %v", stream, err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for left := info.State.Msgs; left > 0; {
		batch, err := c.Fetch(int(min(left, 5000)))
		if err != nil {
			t.Fatal(err)
		}
		before := left
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			visit(journal.Message{Seq: meta.Sequence.Stream, Subject: m.Subject(), Data: m.Data()})
			left--
		}
		if err := batch.Error(); err != nil || left == before {
			t.Fatalf("read %s: %d messages missing, %v", stream, left, err)
		}
	}
}

// storedOf calls visit for each message of a node that gateways authored, in
// either layout of node streams.
func storedOf(t *testing.T, js jetstream.JetStream, node string, visit func(journal.Message)) {
	t.Helper()
	for _, name := range streamNames(t, js) {
		if name != subject.NodeStream(subject.EdgeSide, node) && !strings.HasPrefix(name, "SE_") {
			continue
		}
		stored(t, js, name, func(m journal.Message) {
			if strings.HasPrefix(m.Subject, subject.Write+"."+node+".") {
				visit(m)
			}
		})
	}
}

// streamNames returns all streams.
func streamNames(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	list := js.StreamNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		t.Fatal(err)
	}
	return names
}

// decode reads a message of a node stream.
func decode(t *testing.T, m journal.Message) (p point.Point) {
	t.Helper()
	var ok bool
	p.Series, ok = subject.ParseSeries(strings.TrimPrefix(m.Subject, subject.Write+"."))
	if err := point.DecodePayload(m.Data, &p); err != nil || !ok {
		t.Fatalf("message %d on %s: %v", m.Seq, m.Subject, err)
	}
	return p
}
