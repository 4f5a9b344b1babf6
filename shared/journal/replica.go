package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sapflow/sapflow/shared/frame"
)

// ErrNotNext is returned for a frame that does not continue a replica.
var ErrNotNext = errors.New("frame does not continue the log")

// Replica is the copy of a log that another instance writes.
type Replica struct {
	store Store

	mu     sync.Mutex
	pos    frame.Position
	stream uint64 // stream sequence of the last frame
}

// OpenReplica returns the replica on a store.
func OpenReplica(ctx context.Context, store Store) (*Replica, error) {
	r := &Replica{store: store}
	if err := r.reload(ctx); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	return r, nil
}

// reload reads the place from the last stored frame that can be read.
func (r *Replica) reload(ctx context.Context) error {
	tail, f, _, err := ending(ctx, r.store)
	if err != nil {
		return err
	}
	if r.pos, r.stream = (frame.Position{}), tail.Seq; f != nil {
		r.pos = f.End()
	}
	return nil
}

// Position returns the end of the last frame stored.
func (r *Replica) Position() frame.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pos
}

// Append stores a frame that continues the log and returns its stream
// sequence when it is durable. A frame without points or gap is not stored.
// After an error the place is read again from the store, so that a frame that
// was stored all the same is not stored twice.
func (r *Replica) Append(ctx context.Context, f *frame.Frame) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Follows(r.pos) != frame.Continues {
		return 0, ErrNotNext
	}
	if f.Points() == 0 && f.Gap() == 0 && f.Epoch == r.pos.Epoch {
		return r.stream, nil
	}
	data := f.Encode()
	if len(data) > maxFrameBytes {
		return 0, fmt.Errorf("%d bytes: %w", len(data), frame.ErrTooLarge)
	}
	seq, err := r.store.Append(ctx, data, r.stream)
	if err != nil {
		if again := r.reload(ctx); again != nil {
			return 0, errors.Join(err, again)
		}
		if r.pos == f.End() {
			return r.stream, nil
		}
		return 0, err
	}
	r.pos, r.stream = f.End(), seq
	return seq, nil
}
