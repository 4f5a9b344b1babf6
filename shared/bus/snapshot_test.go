package bus_test

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/subject"
)

// TestSavedUpTo: frames may go when both snapshots do without them, each of
// which can be read to its end.
func TestSavedUpTo(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.must("j", `[{"up":"root","down":"site","type":"nodeType","value":"site"}]`)
	save := func() {
		t.Helper()
		if err := w.bus.Save(dir, func(*bus.Meta) {}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want map[string]uint64) {
		t.Helper()
		got := bus.SavedUpTo(dir, func(m *bus.Meta) map[string]uint64 { return m.Streams })
		if !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	w.bus.SetCovered(subject.StreamHub, 3)
	save()
	want("one snapshot", nil)
	w.bus.SetCovered(subject.StreamHub, 5)
	w.bus.SetCovered(subject.StreamEdge, 7)
	save()
	both := map[string]uint64{subject.StreamHub: 3, subject.StreamEdge: 0}
	want("two snapshots", both)
	for _, name := range []string{"state.snap", "state.snap.1"} {
		file := filepath.Join(dir, name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b := append([]byte(nil), whole...)
		body := len(b) - 4
		b[body-1]++ // the checksum of the file fits: only who reads the heads finds it
		binary.LittleEndian.PutUint32(b[body:], crc32.Checksum(b[:body], crc32.MakeTable(crc32.Castagnoli)))
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want(name+" is damaged", nil)
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want("all is well again", both)
}
