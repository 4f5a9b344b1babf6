package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
)

// shop is a stream with the logs of some gateways, and a keeper for it.
type shop struct {
	*testing.T
	store  *journal.JetStream
	logs   map[string]*journal.Log
	acked  map[string]frame.Cursor
	safe   uint64
	saved  uint64 // by the snapshots that there are
	looks  int    // at them
	saves  int
	broken bool // saving fails
	cfg    journal.KeeperConfig
	*journal.Keeper
}

func newShop(t *testing.T, gateways ...string) *shop {
	_, js := natstest.JetStream(t)
	stream, err := journal.Ensure(t.Context(), js, journal.LogStream("EDGE", "log.edge.*"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{T: t, store: journal.NewStore(js, stream, "log.edge.*"), logs: map[string]*journal.Log{}, acked: map[string]frame.Cursor{}, safe: 1 << 40}
	for _, g := range gateways {
		s.logs[g] = start(t, journal.Config{Store: s.store.Of(subjectOf(g)), Author: g})
	}
	s.cfg = journal.KeeperConfig{
		Shelves: []journal.Shelf{{
			Name: "EDGE", Store: s.store,
			Acked: func(subject string) frame.Cursor { return s.acked[subject] },
			Safe:  func() uint64 { return s.safe },
		}},
		Free: func() (uint64, uint64) { return 1, 0 },
		Save: func() error {
			if s.broken {
				return errors.New("no space for a snapshot")
			}
			s.saves++
			return nil
		},
		Saved: func() map[string]uint64 {
			s.looks++
			return map[string]uint64{"EDGE": s.saved}
		},
	}
	s.Keeper = journal.NewKeeper(s.cfg)
	return s
}

func subjectOf(gateway string) string { return "log.edge." + gateway }

// write adds frames of 10 points.
func (s *shop) write(gateway string, frames int) {
	s.Helper()
	for range frames {
		add(s.T, s.logs[gateway], 10)
	}
}

// held returns how many points of a gateway are left.
func (s *shop) held(gateway string) (points uint64) {
	s.Helper()
	for seq := uint64(1); ; {
		m, err := s.store.Of(subjectOf(gateway)).Next(s.Context(), seq)
		if errors.Is(err, journal.ErrEmpty) {
			return points
		}
		if err != nil {
			s.Fatal(err)
		}
		f, err := frame.Decode(m.Data, gateway)
		if err != nil {
			s.Fatal(err)
		}
		points, seq = points+f.Points(), m.Seq+1
	}
}

func (s *shop) bytes() uint64 {
	s.Helper()
	n, err := s.store.Bytes(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// limit makes a keeper with a limit, which goes on where the last one was.
func (s *shop) limit(bytes uint64) {
	s.cfg.Max, s.cfg.Spans = bytes, s.Spans()
	s.Keeper = journal.NewKeeper(s.cfg)
}

func (s *shop) tidy() {
	s.Helper()
	if err := s.Tidy(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// check compares what is left with what the spans say.
func (s *shop) check(gateway string, unsent uint64) {
	s.Helper()
	span, held, tail := s.Spans()[subjectOf(gateway)], s.held(gateway), s.logs[gateway].Tail().Seq
	if held+span.Points != tail || span.Unsent != unsent {
		s.Errorf("%s: %d points held, %d removed, %d of them unsent; want %d together, %d unsent", gateway, held, span.Points, span.Unsent, tail, unsent)
	}
}

func TestKeeperTakesWhatOthersHold(t *testing.T) {
	s := newShop(t, "a")
	s.write("a", 20)
	s.acked[subjectOf("a")] = frame.Cursor{Epoch: s.logs["a"].Tail().Epoch, Seq: 105} // in the middle of a frame
	all := s.bytes()
	if s.tidy(); s.held("a") != 200 || s.saves != 0 {
		t.Errorf("without a limit %d points are left and %d snapshots were saved", s.held("a"), s.saves)
	}
	s.limit(all * 3 / 4)
	s.tidy()
	s.check("a", 0)
	if got := s.bytes(); got > s.cfg.Max {
		t.Errorf("%d bytes are left, more than %d", got, s.cfg.Max)
	}
	if s.saves != 2 {
		t.Errorf("%d snapshots, want 2: the older one must do without the frames", s.saves)
	}
	s.limit(all / 4) // acked frames are not enough
	s.tidy()
	s.check("a", s.Spans()[subjectOf("a")].Points-100)
	if s.bytes() > s.cfg.Max {
		t.Errorf("%d bytes are left, more than %d", s.bytes(), s.cfg.Max)
	}
	s.limit(1) // the last frame is the cursor
	s.tidy()
	if held := s.held("a"); held != 10 {
		t.Errorf("%d points are left, want the last frame", held)
	}
	s.write("a", 1) // the log goes on
	if got, _ := follow(t, s.logs["a"], 1000); len(got) != 20 {
		t.Errorf("a reader gets %d points, want 20", len(got))
	}
}

func TestKeeperDiskFull(t *testing.T) {
	s := newShop(t, "a")
	s.write("a", 10)
	s.acked[subjectOf("a")] = frame.Cursor{Epoch: s.logs["a"].Tail().Epoch, Seq: 50}
	free := uint64(1<<20 - 1)
	s.cfg.Free = func() (uint64, uint64) { return free, 2 << 20 }
	s.limit(0)
	if err := s.Tidy(t.Context()); !errors.Is(err, journal.ErrDiskFull) || s.held("a") != 100 {
		t.Errorf("without room for a removal: error %v, %d points are left", err, s.held("a"))
	}
	free++
	s.tidy()
	s.check("a", 0) // what nobody else has stays
	if held := s.held("a"); held != 50 {
		t.Errorf("%d points are left, want those that nobody else has: 50", held)
	}
}

// A quiet gateway's last frame stands before the busy one's.
func TestKeeperAroundAQuietLog(t *testing.T) {
	s := newShop(t, "quiet", "busy")
	s.write("quiet", 1)
	s.write("busy", 30)
	for g, l := range s.logs {
		s.acked[subjectOf(g)] = l.Tail().Cursor
	}
	s.limit(s.bytes() / 2)
	s.tidy()
	s.check("quiet", 0)
	s.check("busy", 0)
	if held := s.held("quiet"); held != 10 {
		t.Errorf("%d points of the quiet gateway are left, want all 10", held)
	}
	if s.bytes() > s.cfg.Max {
		t.Errorf("%d bytes are left, more than %d", s.bytes(), s.cfg.Max)
	}
}

// Nothing goes that a snapshot or a view needs.
func TestKeeperSafe(t *testing.T) {
	s := newShop(t, "a")
	s.write("a", 20)
	s.safe = 4
	s.limit(1)
	s.tidy()
	if held := s.held("a"); held != 160 {
		t.Errorf("%d points are left, want 160: four frames may go", held)
	}
}

// What nobody else has stays while something else can go a little later.
func TestKeeperWaits(t *testing.T) {
	s := newShop(t, "acked", "unsent")
	s.write("unsent", 10)
	s.write("acked", 10)
	s.acked[subjectOf("acked")] = s.logs["acked"].Tail().Cursor
	s.safe = 10 // a view still needs all of the acked log
	s.limit(s.bytes() / 2)
	s.tidy()
	if held := s.held("unsent"); held != 100 {
		t.Errorf("%d points that nobody else has are left, want all 100", held)
	}
	s.safe = 1 << 40
	s.tidy()
	s.check("acked", 0)
	if held := s.held("acked"); held >= 100 {
		t.Errorf("%d points that others hold are left", held)
	}
}

// A crash before, between and behind the steps of a removal.
func TestKeeperCrash(t *testing.T) {
	s := newShop(t, "a")
	s.write("a", 20)
	s.limit(s.bytes() / 2)
	s.broken = true
	for range 3 { // a plan that cannot be saved does not grow
		if err := s.Tidy(t.Context()); err != nil || s.held("a") != 200 || len(s.Spans()) != 0 || len(s.Planned()) != 0 {
			t.Fatalf("without a snapshot: error %v, %d points are left, removed %v, planned %v", err, s.held("a"), s.Spans(), s.Planned())
		}
	}
	s.saved, s.looks = 3, 0 // what the snapshots that there are do without goes all the same
	s.tidy()
	if s.looks != 1 {
		t.Errorf("looked %d times at the snapshots for one removal", s.looks)
	}
	if held := s.held("a"); held != 170 {
		t.Errorf("%d points are left, want 170: three frames may go", held)
	}
	s.broken = false
	ctx, cancel := context.WithCancel(t.Context())
	s.cfg.Save = func() error { // the process ends after the second snapshot
		if s.saves++; s.saves == 2 {
			cancel()
		}
		return nil
	}
	s.cfg.Spans = s.Spans()
	s.Keeper = journal.NewKeeper(s.cfg)
	if err := s.Tidy(ctx); err == nil || s.held("a") != 170 {
		t.Errorf("at the crash: error %v, %d points are left", err, s.held("a"))
	}
	s.limit(s.cfg.Max) // starts again from the snapshot
	s.finish("a", 170)
	s.check("a", s.Spans()[subjectOf("a")].Unsent)
}

// finish runs the keeper until less than so many points of a gateway are left.
func (s *shop) finish(gateway string, below uint64) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan error, 1)
	go func() { done <- s.Keeper.Run(ctx) }()
	await(s.T, func() bool { return s.held(gateway) < below })
	cancel()
	if err := <-done; err != nil {
		s.Error(err)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited too long")
		}
	}
}

// The epochs of a log outlive its frames.
func TestChainOutlivesFrames(t *testing.T) {
	store := open(t)
	var chain []journal.Run
	ends := []frame.Position{{}} // and a reader that has nothing
	for range 3 {
		l := start(t, journal.Config{Store: store, Known: chain})
		add(t, l, 5)
		add(t, l, 5)
		chain, ends = l.Chain(), append(ends, l.Tail())
	}
	if err := store.Purge(t.Context(), "", 6); err != nil { // all but the last frame
		t.Fatal(err)
	}
	l := start(t, journal.Config{Store: store, Known: chain})
	for i, pos := range ends {
		if err := l.Locate(t.Context(), pos); err != nil {
			t.Errorf("end of epoch %d: %v", i, err)
		}
		var missing, points uint64
		for {
			f, err := l.After(t.Context(), pos, 100)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				break
			}
			if f.Follows(pos) != frame.Continues {
				t.Fatalf("frame %d..%d of %s does not follow %d of %s", f.First, f.Last, f.Epoch, pos.Seq, pos.Epoch)
			}
			missing, points, pos = missing+f.Gap(), points+f.Points(), f.End()
		}
		want := []string{"25 missing, 5 got", "15 missing, 5 got", "5 missing, 5 got", "0 missing, 0 got"}[i]
		if got := fmt.Sprintf("%d missing, %d got", missing, points); got != want {
			t.Errorf("a reader at the end of epoch %d: %s, want %s", i, got, want)
		}
	}
}

// A store that lost its end: what may have been sent is never numbered again.
func TestLostTailWithChain(t *testing.T) {
	store := open(t)
	l := start(t, journal.Config{Store: store})
	add(t, l, 5)
	add(t, l, 5)
	chain, old := l.Chain(), l.Tail()
	chain[len(chain)-1].Last.Seq += 5 // the snapshot knew a frame more
	for _, known := range [][]journal.Run{chain, append(chain, journal.Run{Epoch: old.Epoch.Next(7), Before: old, First: 3, Last: frame.Position{Cursor: frame.Cursor{Epoch: old.Epoch.Next(7), Seq: 3}}})} {
		l = start(t, journal.Config{Store: store, Known: known, Clean: true})
		if l.Tail().Epoch.Generation() <= known[len(known)-1].Epoch.Generation() {
			t.Errorf("goes on in epoch %s, the snapshot knows %s", l.Tail().Epoch, known[len(known)-1].Epoch)
		}
	}
}

// What a reader lacks is what it was told of, however far behind it was
// thought to be while points were removed.
func TestKeeperCountsWhatWasTold(t *testing.T) {
	s := newShop(t, "a")
	log, name := s.logs["a"], subjectOf("a")
	s.write("a", 40)
	stands := func(seq uint64) frame.Cursor { return frame.Cursor{Epoch: log.Tail().Epoch, Seq: seq} }
	read := func(seq uint64) *frame.Frame {
		f, err := log.After(t.Context(), frame.Position{Cursor: stands(seq)}, 100)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	want := func(what string, unsent uint64) {
		t.Helper()
		if got := s.Spans()[name].Unsent; got != unsent {
			t.Errorf("%s: %d points unsent, want %d", what, got, unsent)
		}
	}
	s.limit(s.bytes() / 2) // no ack is known: a crash forgot it
	s.tidy()
	removed := s.Spans()[name].Points
	want("before the reader is heard", removed)
	const had = 100
	if removed <= had {
		t.Fatalf("%d points removed, want more than %d", removed, had)
	}
	s.Reached(name, stands(had))
	f := read(had)
	s.Telling(name, stands(had), f) // does not get through
	s.limit(s.bytes() / 2)
	s.tidy()
	f, removed = read(had), s.Spans()[name].Points
	s.Telling(name, stands(had), f)
	s.Telling(name, stands(had), f)
	s.Reached(name, f.End().Cursor)
	want("after a gap", removed-had)
	if f.Gap() != removed-had {
		t.Errorf("a gap of %d, want %d", f.Gap(), removed-had)
	}

	s.write("a", 40)
	s.limit(s.bytes() / 3)
	s.tidy()
	s.Reached(name, stands(log.Tail().Seq)) // it had got all
	want("after an ack that a crash forgot", removed-had)
}
