package door

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/subject"
)

// TestSaver: all who wait share a snapshot that begins after they asked, and
// snapshots take a tenth of the time.
func TestSaver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took = 100 * time.Millisecond
		var begun []time.Time
		bad := errors.New("disk")
		s := newSaver(func() error {
			begun = append(begun, time.Now())
			time.Sleep(took)
			if len(begun) == 2 {
				return bad
			}
			return nil
		})
		take(s.time, s.time.Burst()) // nothing is saved up
		ask := func(n int, want error) *sync.WaitGroup {
			var group sync.WaitGroup
			for range n {
				group.Go(func() {
					if err := s.Save(t.Context()); !errors.Is(err, want) {
						t.Errorf("got %v, want %v", err, want)
					}
				})
			}
			synctest.Wait()
			return &group
		}
		first := ask(1, nil)
		second := ask(100, bad) // while it is written
		first.Wait()
		second.Wait()
		if len(begun) != 2 || begun[1].Sub(begun[0]).Round(10*time.Millisecond) != saveShare*took {
			t.Fatalf("snapshots began at %v, want two, %d times what one takes apart", begun, saveShare)
		}
		// Who gives up leaves nobody waiting.
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- s.Save(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		ask(1, nil).Wait()
		if len(begun) != 3 {
			t.Errorf("%d snapshots, want 3", len(begun))
		}
	})
}

// TestLimiter: what a frame turns out to hold is paid before the next one is
// read, however small the frame is.
func TestLimiter(t *testing.T) {
	refused := map[string]int{}
	l := newLimiter(Limits{Bytes: 1 << 30, Points: 4000}, func(what string) { refused[what]++ })
	frames := 0
	for l.Admit(subject.Frame, 40) == 0 {
		l.Took(frame.MaxPoints)
		if frames++; frames > 100 {
			t.Fatal("frames of 40 bytes that make full frames of points are never refused")
		}
	}
	if want := 2; frames != want || refused[refusedRate] != 1 {
		t.Errorf("%d frames taken and %d refused, want %d and 1", frames, refused[refusedRate], want)
	}
	if wait := l.Admit(subject.Frame, 40); wait <= 0 || wait > burst {
		t.Errorf("the next one has to wait %s, want up to %s", wait, burst)
	}
	for range 10 * helloBurst {
		l.Admit(subject.Hello, 1)
	}
	if n := refused[refusedHello]; n < 8*helloBurst {
		t.Errorf("%d of %d hellos refused", n, 10*helloBurst)
	}
	if wait := l.Admit(subject.Ack, 40); wait != 0 {
		t.Errorf("an ack has to wait %s", wait)
	}

	little := newLimiter(Limits{Points: 1_000_000}, func(string) {})
	take(little.points, 10*1_000_000)
	for little.Admit(subject.Frame, 1) == 0 {
		little.Took(1)
	}
	if wait := little.Admit(subject.Frame, 1); wait != 0 && wait < time.Millisecond {
		t.Errorf("who owes little has to wait %s, which an ack tells as nothing", wait)
	}

	bytes := newLimiter(Limits{Bytes: 25_000}, func(what string) { refused[what]++ })
	for frames = 0; bytes.Admit(subject.Frame, 240<<10) == 0; frames++ {
	}
	if frames != 2 {
		t.Errorf("%d frames of 240 KB taken, want 2", frames)
	}
	none := newLimiter(Limits{}, func(string) { t.Error("refused without limits") })
	for range 1000 {
		if none.Admit(subject.Frame, 240<<10) != 0 {
			t.Fatal("refused without limits")
		}
		none.Took(frame.MaxPoints)
	}
}
