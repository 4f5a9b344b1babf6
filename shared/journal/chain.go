package journal

import (
	"cmp"
	"context"
	"errors"
	"slices"

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

// Run is one epoch of a log.
type Run struct {
	Epoch  frame.Epoch    `json:"epoch"`
	Before frame.Position `json:"before"`           // where the reader stood when this epoch began
	First  uint64         `json:"first"`            // stream sequence of its first frame, 0 if none yet
	Last   frame.Position `json:"last"`             // end of the epoch
	Copies bool           `json:"copies,omitempty"` // it begins with points repeated from earlier epochs
}

// maxChain bounds the epochs that a log remembers; a reader that stands in an
// older one gets everything again.
const maxChain = 4096

// Chain returns the epochs of the log that have frames, for a snapshot: they
// outlive their frames, and need not be looked for at the next start.
func (l *Log) Chain() []Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	runs := l.runs
	if n := len(runs); n > 0 && runs[n-1].First == 0 {
		runs = runs[:n-1]
	}
	return slices.Clone(runs[max(0, len(runs)-maxChain):])
}

// scan finds the epochs of a log, oldest first, the stream sequence of its
// newest message, and the newest frame that can be read, which is that of the
// message if whole. It goes back from the end to the first epoch that is known, and
// jumps: 2 log2(n) reads an epoch.
func scan(ctx context.Context, s Store, known []Run) (runs []Run, stream uint64, whole bool, last *frame.Frame, err error) {
	m, last, whole, err := ending(ctx, s)
	if err != nil {
		return nil, 0, false, nil, err
	}
	stream = m.Seq
	for end := last; end != nil; {
		if i := slices.IndexFunc(known, func(r Run) bool { return r.Epoch == end.Epoch }); i >= 0 {
			r := known[i]
			if end.Last > r.Last.Seq { // less if the store has lost its end
				r.Last = end.End()
			}
			return join(known, append([]Run{r}, runs...)), stream, whole, last, nil
		}
		first, head, err := search(ctx, s, m.Seq, func(f *frame.Frame) bool { return f.Epoch >= end.Epoch })
		if err != nil {
			return nil, 0, false, nil, err
		}
		runs = append([]Run{{Epoch: end.Epoch, Before: head.Before, First: first.Seq, Last: end.End(), Copies: head.Again != (frame.Cursor{})}}, runs...)
		if m, end, err = readable(ctx, s, first.Seq); err != nil {
			return nil, 0, false, nil, err
		}
	}
	return join(known, runs), stream, whole, last, nil
}

// ending returns the newest message of a log, the zero Message for an empty
// one, and the header of the newest frame that can be read, nil for none; whole
// if that is its frame.
func ending(ctx context.Context, s Store) (tail Message, end *frame.Frame, whole bool, err error) {
	tail, err = s.Last(ctx)
	if errors.Is(err, ErrEmpty) {
		return Message{}, nil, false, nil
	}
	if err != nil {
		return Message{}, nil, false, err
	}
	if end, err = frame.DecodeHeader(tail.Data); err == nil {
		return tail, end, true, nil
	}
	_, end, err = readable(ctx, s, tail.Seq)
	return tail, end, false, err
}

// readable returns the last message before a stream sequence whose frame can
// be read, with its header; nil if there is none.
func readable(ctx context.Context, s Store, seq uint64) (Message, *frame.Frame, error) {
	for {
		m, err := previous(ctx, s, seq)
		if errors.Is(err, ErrEmpty) {
			return Message{}, nil, nil
		}
		if err != nil {
			return Message{}, nil, err
		}
		if f, err := frame.DecodeHeader(m.Data); err == nil {
			return m, f, nil
		}
		seq = m.Seq
	}
}

// join adds to the epochs found in a store those that were known besides:
// older ones that were removed, and newer ones if the store has lost its end.
func join(known, found []Run) []Run {
	all := slices.Clone(found)
	for _, r := range known {
		if !slices.ContainsFunc(found, func(f Run) bool { return f.Epoch == r.Epoch }) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Run) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return all
}

// search returns the first message up to hi whose frame satisfies ok, where
// ok is false for a prefix of the log and true after it. Frames that cannot
// be read are passed over.
func search(ctx context.Context, s Store, hi uint64, ok func(*frame.Frame) bool) (found Message, head *frame.Frame, err error) {
	for lo := uint64(1); lo <= hi; {
		mid := lo + (hi-lo)/2
		m, f, err := from(ctx, s, mid, hi)
		switch {
		case err != nil:
			return Message{}, nil, err
		case f == nil || ok(f):
			if hi = mid - 1; f != nil {
				found, head = m, f
			}
		default:
			lo = m.Seq + 1
		}
	}
	if head == nil {
		return Message{}, nil, ErrEmpty
	}
	return found, head, nil
}

// from returns the first message from seq to hi whose frame can be read, with
// its header; nil if there is none.
func from(ctx context.Context, s Store, seq, hi uint64) (Message, *frame.Frame, error) {
	for {
		m, err := s.Next(ctx, seq)
		if errors.Is(err, ErrEmpty) || err == nil && m.Seq > hi {
			return Message{}, nil, nil
		}
		if err != nil {
			return Message{}, nil, err
		}
		if f, err := frame.DecodeHeader(m.Data); err == nil {
			return m, f, nil
		}
		seq = m.Seq + 1
	}
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
