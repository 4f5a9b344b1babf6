package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Guard stands before the stores of one server. It refuses what would fill
// the disk: a stream that has met a full one answers nothing any more, even
// when there is space again (nats-server 2.15.2). Should it happen all the
// same, because something else filled the disk, it has the server's store
// opened again.
type Guard struct {
	// Free returns the bytes left on the disk, and how many must be left.
	Free func() (free, reserve uint64)
	// Full is called when too little is left. It must not block.
	Full func()
	// Revive opens the server's store again.
	Revive func() error

	mu      sync.Mutex // held while the store is opened again
	revived time.Time  // when it was last
}

// silences is after how many appends of one log without an answer the store is
// taken for dead.
const silences = 2

// Of returns s behind the guard.
func (g *Guard) Of(s Store) Store { return &guarded{Store: s, watch: watch{guard: g}} }

type guarded struct {
	Store
	watch
}

// Room returns ErrDiskFull when there is no room for what logs bring about
// besides, as chunks and views. They may have half of what logs must leave: a
// frame that they have not got cannot go.
func (g *Guard) Room() error { return g.ask(g.room(2)) }

// LogRoom returns ErrDiskFull when there is no room for logs.
func (g *Guard) LogRoom() error { return g.room(1) }

// ask has room made if there is none. What is written to make room does not
// ask.
func (g *Guard) ask(err error) error {
	if errors.Is(err, ErrDiskFull) {
		g.Full()
	}
	return err
}

// Chunks is a guard before the stream of chunks.
type Chunks struct{ watch }

// Chunks returns a guard before the stream of chunks.
func (g *Guard) Chunks() *Chunks { return &Chunks{watch{guard: g}} }

// Put writes a chunk, or what is noted before one is removed, if there is room.
func (c *Chunks) Put(write func() error) error { return c.do(2, write) }

// room returns ErrDiskFull when one part in so many of the reserve is used up.
func (g *Guard) room(part uint64) error {
	free, reserve := g.Free()
	if reserve /= part; free >= reserve {
		return nil
	}
	return fmt.Errorf("%d MB left on the disk, of which the last %d MB are kept free: %w", free>>20, reserve>>20, ErrDiskFull)
}

// Append implements Store.
func (s *guarded) Append(ctx context.Context, data []byte, last uint64) (seq uint64, err error) {
	err = s.do(1, func() error {
		seq, err = s.Store.Append(ctx, data, last)
		return err
	})
	return seq, s.guard.ask(err)
}

// watch notices a stream that has met a full disk.
type watch struct {
	guard  *Guard
	silent atomic.Int32 // writes without an answer since the last one that had it
}

// do writes if no more than one part in so many of the reserve is used up.
func (w *watch) do(part uint64, write func() error) error {
	if err := w.guard.room(part); err != nil {
		return err
	}
	began := time.Now()
	err := write()
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoStreamResponse) {
		w.silent.Store(0)
		return err
	}
	if w.silent.Add(1) >= silences {
		w.silent.Store(0)
		err = errors.Join(err, w.guard.revive(began))
	}
	return err
}

// revive opens the store again, one at a time, unless that was done since an
// append began that had no answer.
func (g *Guard) revive(began time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if began.Before(g.revived) {
		return nil
	}
	defer func() { g.revived = time.Now() }()
	return g.Revive()
}
