package natslog_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/natslog"
	"github.com/sapflow/sapflow/shared/natstest"
)

// TestMend loses power after the first messages of a stream, whose index is
// still that of the empty stream, with zeros where more was being written.
func TestMend(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[data]")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const written = 7
	// during runs a server on dir.
	during := func(name string, do func(jetstream.Stream, jetstream.JetStream)) {
		t.Run(name, func(t *testing.T) {
			js, err := jetstream.New(natstest.Connect(t, natstest.Server(t, &server.Options{
				JetStream: true, StoreDir: dir, SyncAlways: true,
			})))
			if err != nil {
				t.Fatal(err)
			}
			s, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
			if err != nil {
				t.Fatal(err)
			}
			do(s, js)
		})
	}
	during("empty", func(jetstream.Stream, jetstream.JetStream) {})
	msgs := filepath.Join(dir, "jetstream", "$G", "streams", "S", "msgs")
	index, block := filepath.Join(msgs, "index.db"), filepath.Join(msgs, "1.blk")
	empty, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	during("write", func(_ jetstream.Stream, js jetstream.JetStream) {
		for range written {
			if _, err := js.Publish(t.Context(), "s.a", []byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	})
	whole, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	if err := natslog.Mend(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(index); err != nil {
		t.Fatalf("the index of whole blocks: %v", err)
	}
	for name, data := range map[string][]byte{index: empty, block: append(whole, make([]byte, 100)...)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := natslog.Mend(dir); err != nil {
			t.Fatal(err)
		}
	}
	during("read", func(s jetstream.Stream, _ jetstream.JetStream) {
		if got := s.CachedInfo().State.Msgs; got != written {
			t.Errorf("%d messages are left of %d", got, written)
		}
	})
	for name, dir := range map[string]string{"empty": t.TempDir(), "missing": filepath.Join(t.TempDir(), "none")} {
		if err := natslog.Mend(dir); err != nil {
			t.Errorf("%s directory: %v", name, err)
		}
	}
}
