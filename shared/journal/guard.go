package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
	Revive func(context.Context) error

	mu     sync.Mutex
	silent int // appends without an answer since the last one that had it
}

// silences is after how many unanswered appends a store is taken for dead.
const silences = 2

// Of returns s behind the guard.
func (g *Guard) Of(s Store) Store { return guarded{s, g} }

type guarded struct {
	Store
	guard *Guard
}

// Append implements Store.
func (s guarded) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	if free, reserve := s.guard.Free(); free < reserve {
		s.guard.Full()
		return 0, fmt.Errorf("%d MB left on the disk, of which the last %d MB are kept free: %w", free>>20, reserve>>20, ErrDiskFull)
	}
	seq, err := s.Store.Append(ctx, data, last)
	if s.guard.dead(err) {
		err = errors.Join(err, s.guard.Revive(ctx))
	}
	return seq, err
}

// dead tells whether an append that ended with err was one too many without
// an answer.
func (g *Guard) dead(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoStreamResponse) {
		g.silent = 0
		return false
	}
	if g.silent++; g.silent < silences {
		return false
	}
	g.silent = 0
	return true
}
