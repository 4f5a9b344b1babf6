package journal_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// open returns a store on a stream of a real server.
func open(t *testing.T) *journal.JetStream {
	t.Helper()
	_, js := natstest.JetStream(t)
	s, err := journal.Ensure(t.Context(), js, journal.LogStream("EDGE", "log.edge.*"))
	if err != nil {
		t.Fatal(err)
	}
	return journal.NewStore(js, s, "log.edge.gw")
}

func start(t *testing.T, cfg journal.Config) *journal.Log {
	t.Helper()
	if cfg.Author == "" {
		cfg.Author = "gw"
	}
	cfg.Now = func() uint64 { return 1 }
	l, err := journal.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run runs the log until the test ends or stop is called.
func run(t *testing.T, l *journal.Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

var clock atomic.Uint64

func entry(n int) frame.Entry {
	return frame.Entry{Point: point.Point{
		Series: point.Series{Node: "n", Type: "v", Key: "0"}, Time: clock.Add(1), DataType: point.Int, Data: []byte{byte(n)},
	}}
}

func add(t *testing.T, l *journal.Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Add([]frame.Entry{entry(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// follow reads the whole log the way a link does, in pieces of limit points.
func follow(t *testing.T, l *journal.Log, limit int) (points []frame.Entry, frames int) {
	t.Helper()
	var pos frame.Position
	for {
		f, err := l.After(t.Context(), pos, limit)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return points, frames
		}
		if got := f.Follows(pos); got != frame.Continues || !f.Verify() {
			t.Fatalf("frame %d..%d after %d: relation %d, sum ok %v", f.First, f.Last, pos.Seq, got, f.Verify())
		}
		points, pos = append(points, f.Entries...), f.End()
		frames++
	}
}

func TestFollowInAnyPieces(t *testing.T) {
	store := open(t)
	l := start(t, journal.Config{Store: store})
	for i := range 20 {
		add(t, l, 1+i%7)
	}
	l = start(t, journal.Config{Store: store}) // unclean: a new epoch
	add(t, l, 30)
	l = start(t, journal.Config{Store: store, Clean: true}) // clean: the epoch goes on
	add(t, l, 3)
	want, _ := follow(t, l, 1)
	if len(want) != 77+30+3 {
		t.Fatalf("got %d points, want %d", len(want), 77+30+3)
	}
	for _, limit := range []int{2, 3, 10, 1000} {
		got, frames := follow(t, l, limit)
		if len(got) != len(want) {
			t.Fatalf("pieces of %d: got %d points, want %d", limit, len(got), len(want))
		}
		for i := range got {
			if got[i].At != want[i].At || got[i].Time != want[i].Time {
				t.Fatalf("pieces of %d: point %d is %v, want %v", limit, i, got[i].At, want[i].At)
			}
		}
		if limit == 1000 && frames != 2 {
			t.Errorf("pieces of %d: got %d frames, want one for each epoch", limit, frames)
		}
	}
	if got := l.Tail().Epoch.Generation(); got != 2 {
		t.Errorf("generation %d after an unclean and a clean start, want 2", got)
	}
}

// Writers who wait share commits, and each hears only after its point is
// stored.
func TestGroupCommit(t *testing.T) {
	store := open(t)
	var frames atomic.Int64
	l := start(t, journal.Config{Store: store, Every: time.Hour, Notify: func(journal.Committed) { frames.Add(1) }})
	stop := run(t, l)
	const writers, each = 32, 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				done := make(chan error, 1)
				if err := l.Add([]frame.Entry{entry(1)}, func(err error) { done <- err }); err != nil {
					t.Error(err)
					return
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if tail := l.Tail().Seq; tail != writers*each {
		t.Errorf("durable up to %d, want %d", tail, writers*each)
	}
	if n := frames.Load(); n > writers*each/2 {
		t.Errorf("%d commits for %d writes of %d writers: they do not share", n, writers*each, writers)
	}
	stop()
	if err := l.Add([]frame.Entry{entry(1)}, nil); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("write after the end: %v, want %v", err, journal.ErrClosed)
	}
}

// What was added without a reply is committed when the log stops.
func TestStopCommits(t *testing.T) {
	store := open(t)
	l := start(t, journal.Config{Store: store, Every: time.Hour})
	stop := run(t, l)
	if err := l.Add([]frame.Entry{entry(1), entry(2)}, nil); err != nil {
		t.Fatal(err)
	}
	stop()
	if got, _ := follow(t, start(t, journal.Config{Store: store}), 10); len(got) != 2 || !got[0].More {
		t.Errorf("got %d points, want a group of 2", len(got))
	}
}

// flaky loses the answer of some appends although the frame is stored.
type flaky struct {
	*journal.JetStream
	n atomic.Int64
}

func (f *flaky) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	seq, err := f.JetStream.Append(ctx, data, last)
	if err == nil && f.n.Add(1)%3 == 0 {
		return 0, errors.New("answer lost")
	}
	return seq, err
}

func TestLostAnswerStoresOnce(t *testing.T) {
	store := &flaky{JetStream: open(t)}
	l := start(t, journal.Config{Store: store})
	for range 10 {
		add(t, l, 2)
	}
	got, _ := follow(t, l, 5)
	if len(got) != 20 {
		t.Errorf("got %d points, want 20", len(got))
	}
	r, err := journal.OpenReplica(t.Context(), &flaky{JetStream: open(t)})
	if err != nil {
		t.Fatal(err)
	}
	var pos frame.Position
	for {
		f, err := l.After(t.Context(), pos, 3)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		if _, err := r.Append(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Append(t.Context(), f); !errors.Is(err, journal.ErrNotNext) {
			t.Fatalf("repeat: %v, want %v", err, journal.ErrNotNext)
		}
		pos = f.End()
	}
	if r.Position() != l.Tail() {
		t.Errorf("replica at %v, log at %v", r.Position(), l.Tail())
	}
}

// Two logs with one subject: the second one that writes is told so, and
// nothing is stored twice.
func TestSecondWriterIsRefused(t *testing.T) {
	store := open(t)
	a, b := start(t, journal.Config{Store: store}), start(t, journal.Config{Store: store})
	add(t, a, 1)
	if err := b.Add([]frame.Entry{entry(1)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context()); !errors.Is(err, journal.ErrConflict) {
		t.Errorf("second writer: %v, want %v", err, journal.ErrConflict)
	}
}

func TestLocate(t *testing.T) {
	store := open(t)
	l := start(t, journal.Config{Store: store})
	add(t, l, 10)
	first := l.Tail()
	l = start(t, journal.Config{Store: store})
	add(t, l, 5)
	other := l.Tail()
	mid, err := l.After(t.Context(), frame.Position{}, 4)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		pos  frame.Position
		want error
	}{
		{frame.Position{}, nil},
		{first, nil},
		{other, nil},
		{mid.End(), nil},
		{frame.Position{Cursor: first.Cursor, Sum: first.Sum + 1}, journal.ErrDiffers},
		{frame.Position{Cursor: frame.Cursor{Epoch: first.Epoch, Seq: 11}}, journal.ErrAhead},
		{frame.Position{Cursor: frame.Cursor{Epoch: first.Epoch + 1, Seq: 1}}, journal.ErrUnknown},
	} {
		if err := l.Locate(t.Context(), c.pos); !errors.Is(err, c.want) {
			t.Errorf("case %d: got %v, want %v", i, err, c.want)
		}
	}
	if got := l.Lag(mid.End()); got != 11 {
		t.Errorf("lag %d after 4 of 15 points, want 11", got)
	}
}

// A crash in the middle of repeating a forked log goes on where it stopped.
func TestForkResumes(t *testing.T) {
	store := open(t)
	l := start(t, journal.Config{Store: store})
	for range 4 {
		add(t, l, 2)
	}
	foreign := frame.Position{Cursor: frame.Cursor{Epoch: l.Tail().Epoch.Next(5), Seq: 7}, Sum: 9}
	limited := &limit{JetStream: store, left: 2}
	l = start(t, journal.Config{Store: limited, Clean: true})
	if err := l.Fork(t.Context(), foreign, frame.Cursor{}); err == nil {
		t.Fatal("fork over a store that fails: no error")
	}
	l = start(t, journal.Config{Store: store})
	if err := l.Locate(t.Context(), foreign); err != nil {
		t.Fatalf("the fork is not known after a restart: %v", err)
	}
	var got []uint64
	for pos := foreign; ; {
		f, err := l.After(t.Context(), pos, 100)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		for i := range f.Entries {
			got = append(got, f.Entries[i].Time)
		}
		pos = f.End()
	}
	if len(got) != 8 {
		t.Fatalf("got %d points after the fork, want 8: %v", len(got), got)
	}
	for i := 1; i < len(got); i++ {
		if got[i] != got[i-1]+1 {
			t.Errorf("points out of order: %v", got)
		}
	}
}

// limit fails after some appends.
type limit struct {
	*journal.JetStream
	left int
}

func (f *limit) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	if f.left--; f.left < 0 {
		return 0, errors.New("no more")
	}
	return f.JetStream.Append(ctx, data, last)
}

func BenchmarkAdd(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			_, js := natstest.JetStream(b)
			s, err := journal.Ensure(b.Context(), js, journal.LogStream("EDGE", "log.edge.*"))
			if err != nil {
				b.Fatal(err)
			}
			l, err := journal.Open(b.Context(), journal.Config{Store: journal.NewStore(js, s, "log.edge.gw"), Author: "gw", Now: func() uint64 { return 1 }})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go func() { _ = l.Run(ctx) }()
			b.ReportAllocs()
			b.SetParallelism(writers)
			b.RunParallel(func(pb *testing.PB) {
				done := make(chan error, 1)
				for pb.Next() {
					if err := l.Add([]frame.Entry{entry(1)}, func(err error) { done <- err }); err != nil {
						b.Error(err)
						return
					}
					<-done
				}
			})
		})
	}
}

// A reader that is behind what is still held gets the missing spans as gaps,
// and everything after them.
func TestGapsWhereFramesWereRemoved(t *testing.T) {
	_, js := natstest.JetStream(t)
	s, err := journal.Ensure(t.Context(), js, journal.LogStream("EDGE", "log.edge.*"))
	if err != nil {
		t.Fatal(err)
	}
	store := journal.NewStore(js, s, "log.edge.gw")
	var l *journal.Log
	for range 3 { // three epochs of 5 frames of 2 points
		l = start(t, journal.Config{Store: store})
		for range 5 {
			add(t, l, 2)
		}
	}
	behind, err := l.After(t.Context(), frame.Position{}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(8)); err != nil { // frames 1 and 2 of epoch 2 as well
		t.Fatal(err)
	}
	r, err := journal.OpenReplica(t.Context(), open(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Append(t.Context(), behind); err != nil {
		t.Fatal(err)
	}
	var points, missing uint64
	for pos := behind.End(); ; {
		f, err := l.After(t.Context(), pos, 100)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		if _, err := r.Append(t.Context(), f); err != nil {
			t.Fatalf("frame %d..%d of epoch %s after %d: %v", f.First, f.Last, f.Epoch, pos.Seq, err)
		}
		points, missing, pos = points+uint64(len(f.Entries)), missing+f.Gap(), f.End()
	}
	if had := uint64(len(behind.Entries)); points != 16 || missing != 30-16-had {
		t.Errorf("got %d points and %d missing after %d, want 16 and %d", points, missing, had, 30-16-had)
	}
	if r.Position() != l.Tail() {
		t.Errorf("replica ends at %v, the log at %v", r.Position(), l.Tail())
	}
}

// A start leaves a stream that is as it should be alone: an update that a
// power cut interrupts hides it.
func TestEnsureUpdatesOnlyWhatDiffers(t *testing.T) {
	nc, js := natstest.JetStream(t)
	updates, err := nc.SubscribeSync("$JS.API.STREAM.UPDATE.>")
	if err != nil {
		t.Fatal(err)
	}
	want := journal.LogStream("EDGE", "log.edge.*")
	for range 3 {
		if _, err := journal.Ensure(t.Context(), js, want); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, _ := updates.Pending(); n != 0 {
		t.Errorf("%d updates of a stream that is as it should be", n)
	}
	want.Subjects = []string{"log.other.*"}
	if _, err := journal.Ensure(t.Context(), js, want); err != nil {
		t.Fatal(err)
	}
	if m, err := updates.NextMsg(5 * time.Second); err != nil {
		t.Errorf("no update of a stream that differs: %v %v", m, err)
	}
}
