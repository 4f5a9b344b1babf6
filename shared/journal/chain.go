package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/sapflow/sapflow/shared/frame"
)

// Errors of a position that another end claims to have reached.
var (
	// ErrUnknown is returned for an epoch that this log did not start.
	ErrUnknown = errors.New("epoch is not of this log")
	// ErrAhead is returned for a position beyond the end of its epoch.
	ErrAhead = errors.New("position is ahead of the log")
	// ErrDiffers is returned when the points up to a position are others.
	ErrDiffers = errors.New("the log has other points there")
)

// run is one epoch of the log.
type run struct {
	epoch  frame.Epoch
	before frame.Position // where the reader stood when this epoch began
	first  uint64         // stream sequence of its first frame held, 0 if none yet
	last   frame.Position // end of the epoch
	copies bool           // it begins with points repeated from earlier epochs
}

// scan finds the epochs that the store holds, oldest first, and returns the
// newest message. It jumps: 2 log2(n) reads an epoch.
func scan(ctx context.Context, s Store) (runs []run, tail Message, err error) {
	tail, err = s.Last(ctx)
	if errors.Is(err, ErrEmpty) {
		return nil, Message{}, nil
	}
	if err != nil {
		return nil, Message{}, err
	}
	for m := tail; ; {
		end, err := frame.DecodeHeader(m.Data)
		if err != nil {
			return nil, Message{}, fmt.Errorf("message %d: %w", m.Seq, err)
		}
		first, err := search(ctx, s, m.Seq, func(f *frame.Frame) bool { return f.Epoch >= end.Epoch })
		if err != nil {
			return nil, Message{}, err
		}
		head, err := frame.DecodeHeader(first.Data)
		if err != nil {
			return nil, Message{}, fmt.Errorf("message %d: %w", first.Seq, err)
		}
		runs = append([]run{{epoch: end.Epoch, before: head.Before, first: first.Seq, last: end.End(), copies: head.Again != (frame.Cursor{})}}, runs...)
		m, err = previous(ctx, s, first.Seq)
		if errors.Is(err, ErrEmpty) {
			return runs, tail, nil
		}
		if err != nil {
			return nil, Message{}, err
		}
	}
}

// search returns the first message up to hi whose frame satisfies ok, where
// ok is false for a prefix of the log and true after it; the message at hi
// must satisfy it.
func search(ctx context.Context, s Store, hi uint64, ok func(*frame.Frame) bool) (Message, error) {
	lo := uint64(1)
	var found Message
	for lo <= hi {
		mid := lo + (hi-lo)/2
		m, err := s.Next(ctx, mid)
		if err != nil {
			return Message{}, err
		}
		f, err := frame.DecodeHeader(m.Data)
		if err != nil {
			return Message{}, fmt.Errorf("message %d: %w", m.Seq, err)
		}
		if ok(f) {
			found, hi = m, mid-1
		} else {
			lo = m.Seq + 1
		}
	}
	if found.Seq == 0 {
		return Message{}, ErrEmpty
	}
	return found, nil
}

// previous returns the last message before a stream sequence, or ErrEmpty.
func previous(ctx context.Context, s Store, seq uint64) (Message, error) {
	var found Message
	for lo, hi := uint64(1), seq-1; lo <= hi && hi > 0; {
		mid := lo + (hi-lo)/2
		m, err := s.Next(ctx, mid)
		if err != nil {
			return Message{}, err
		}
		if m.Seq < seq {
			found, lo = m, m.Seq+1
		} else {
			hi = mid - 1
		}
	}
	if found.Seq == 0 {
		return Message{}, ErrEmpty
	}
	return found, nil
}
