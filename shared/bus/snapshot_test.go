package bus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
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

// fullDisk is a store that takes nothing while the disk is full.
type fullDisk struct {
	journal.Store
	full bool
}

func (f *fullDisk) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	if f.full {
		return 0, journal.ErrDiskFull
	}
	return f.Store.Append(ctx, data, last)
}

// TestDroppedOutlivesCrashes: the points that gave way to a full disk are
// counted as the gaps of the log tell, from a snapshot, from the frames after
// it, and from those that a new epoch repeats.
func TestDroppedOutlivesCrashes(t *testing.T) {
	_, js := natstest.JetStream(t)
	stream, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamEdge, subject.LogsOf(subject.StreamEdge)))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, disk := t.TempDir(), &fullDisk{Store: journal.NewStore(js, stream, subject.LogEdge(gw))}
	var b *bus.Instance
	var log *journal.Log
	boot := func() {
		t.Helper()
		restored, meta, _ := bus.Load(dir) // a damaged snapshot is no news here
		clock := &bus.Clock{}
		b = nil
		log, err = journal.Open(t.Context(), journal.Config{
			Store: disk, Author: gw, Known: meta.Chains[subject.LogEdge(gw)], Now: clock.Now, Every: time.Hour,
			Notify: func(c journal.Committed) { b.Committed(subject.StreamEdge, c) },
		})
		must(err)
		b = bus.New(bus.Config{
			Author: gw, Root: gw, RootType: point.NodeGateway, State: restored, Dropped: meta.Dropped,
			Clock: clock, Interest: func(string) bool { return false },
		})
		must(b.Replay(t.Context(), subject.StreamEdge, disk, meta.Streams[subject.StreamEdge], func(string) string { return gw }))
		b.Attach(log)
	}
	save := func() {
		t.Helper()
		must(b.Save(dir, func(m *bus.Meta) { m.Chains = map[string][]journal.Run{subject.LogEdge(gw): log.Chain()} }))
	}
	// fill writes more than may wait for a disk that is full until its end.
	fill := func() {
		t.Helper()
		disk.full = true
		for i := range 240 {
			group := make([]point.Point, 1000)
			for k := range group {
				group[k] = point.Point{Series: point.Series{Node: gw, Type: "v", Key: fmt.Sprint(k)}, DataType: point.Uint, Data: []byte{byte(i)}}
			}
			must(b.Write(group, nil, nil))
			if i == 0 {
				if err := log.Commit(t.Context()); !errors.Is(err, journal.ErrDiskFull) {
					t.Fatalf("commit on a full disk: %v", err)
				}
			}
		}
		disk.full = false
	}
	// gaps returns how many points frames say are missing, but copies.
	gaps := func() (n uint64) {
		t.Helper()
		for seq := uint64(1); ; {
			m, err := disk.Next(t.Context(), seq)
			if errors.Is(err, journal.ErrEmpty) {
				return n
			}
			must(err)
			f, err := frame.DecodeHeader(m.Data)
			must(err)
			if f.Again == (frame.Cursor{}) {
				n += f.Gap()
			}
			seq = m.Seq + 1
		}
	}
	told := uint64(0)
	want := func(what string) {
		t.Helper()
		if got := b.Dropped(); got != told {
			t.Errorf("%s: %d points gave way, the log tells %d", what, got, told)
		}
	}
	boot()
	want("at first")
	fill()
	must(log.Commit(t.Context()))
	if told = gaps(); told == 0 {
		t.Fatal("nothing gave way")
	}
	want("with room again")
	boot()
	want("after a crash before a snapshot")
	save()
	boot()
	want("after a crash behind a snapshot")
	fill()
	save() // commits, but does not cover it
	told = gaps()
	want("the second time")
	boot()
	want("after a crash behind two snapshots")
	must(os.WriteFile(filepath.Join(dir, "state.snap"), []byte("damaged"), 0o600))
	boot()
	want("from the older snapshot")
	must(log.Fork(t.Context(), frame.Position{}, frame.Cursor{}))
	want("once a new epoch repeats all")
	boot()
	want("after a crash behind that")
}
