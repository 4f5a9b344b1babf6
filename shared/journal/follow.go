package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/sapflow/sapflow/shared/frame"
)

// Locate tells whether a reader that stands at pos can go on from there: nil,
// or ErrUnknown, ErrAhead or ErrDiffers.
func (l *Log) Locate(ctx context.Context, pos frame.Position) error {
	l.commitMu.Lock()
	err := l.repeat(ctx) // what a new epoch could not repeat before
	l.release()
	if err != nil || pos == (frame.Position{}) {
		return err
	}
	l.mu.Lock()
	if l.follower(pos) != nil || pos == l.tail {
		l.mu.Unlock()
		return nil
	}
	r := l.runOf(pos.Epoch)
	l.mu.Unlock()
	switch {
	case r == nil:
		return fmt.Errorf("epoch %s: %w", pos.Epoch, ErrUnknown)
	case pos.Seq > r.Last.Seq:
		return fmt.Errorf("%d of epoch %s, which ends at %d: %w", pos.Seq, pos.Epoch, r.Last.Seq, ErrAhead)
	case pos.Seq == 0:
		return nil
	}
	m, err := l.find(ctx, frame.Cursor{Epoch: pos.Epoch, Seq: pos.Seq - 1})
	if errors.Is(err, ErrEmpty) {
		return nil // nothing from there on is held
	}
	if err != nil {
		return err
	}
	f, err := frame.Decode(m.Data, l.cfg.Author)
	if err != nil {
		return fmt.Errorf("message %d: %w", m.Seq, err)
	}
	sum := f.Sum
	switch {
	case f.Epoch != pos.Epoch || f.First > pos.Seq:
		return nil // no longer held: nothing to compare with
	case f.Last > pos.Seq:
		rest, err := f.Cut(pos.Seq)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDiffers, err)
		}
		sum = rest.Base
	}
	if sum != pos.Sum {
		return fmt.Errorf("%d of epoch %s: %w", pos.Seq, pos.Epoch, ErrDiffers)
	}
	return nil
}

// follower returns the newest epoch that was started for a reader at pos.
func (l *Log) follower(pos frame.Position) *Run {
	if pos == (frame.Position{}) {
		return nil
	}
	return l.next(pos)
}

// next returns the newest epoch that begins at pos, the zero Position for a
// reader that has nothing.
func (l *Log) next(pos frame.Position) *Run {
	for i := len(l.runs) - 1; i >= 0; i-- {
		if r := &l.runs[i]; r.Before == pos {
			return r
		}
	}
	return nil
}

// Parted tells whether a reader at pos stands where an epoch was started
// because it had gone another way, and has got nothing of that epoch yet.
func (l *Log) Parted(pos frame.Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.follower(pos) == nil {
		return false
	}
	r := l.runOf(pos.Epoch)
	return r == nil || r.Last != pos
}

func (l *Log) runOf(e frame.Epoch) *Run {
	for i := range l.runs {
		if l.runs[i].Epoch == e {
			r := l.runs[i]
			return &r
		}
	}
	return nil
}

// Started tells whether this log began the epoch.
func (l *Log) Started(e frame.Epoch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runOf(e) != nil
}

// find returns the first message whose frame ends after the cursor.
func (l *Log) find(ctx context.Context, c frame.Cursor) (Message, error) {
	l.mu.Lock()
	hi := l.stream
	l.mu.Unlock()
	if hi == 0 {
		return Message{}, ErrEmpty
	}
	m, _, err := search(ctx, l.cfg.Store, hi, func(f *frame.Frame) bool { return c.Less(f.End().Cursor) })
	return m, err
}

// After returns the next frame for a reader at pos, merged from several where
// that fits limit points, or nil if there is none. pos must have passed
// Locate, or be the end of a frame that After returned.
func (l *Log) After(ctx context.Context, pos frame.Position, limit int) (*frame.Frame, error) {
	l.mu.Lock()
	start, hinted := l.hint.next, l.hint.pos == pos && l.hint.next > 0
	follower := l.follower(pos)
	end := l.stream
	l.mu.Unlock()
	var m Message
	var err error
	switch {
	case follower != nil && follower.First == 0:
		return nil, nil
	case follower != nil:
		m, err = l.cfg.Store.Next(ctx, follower.First)
	case hinted && start > end:
		return nil, nil
	case hinted || pos == (frame.Position{}):
		m, err = l.cfg.Store.Next(ctx, start*b2u(hinted))
	default:
		m, err = l.find(ctx, pos.Cursor)
	}
	if errors.Is(err, ErrEmpty) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := frame.Decode(m.Data, l.cfg.Author)
	for err != nil { // what cannot be read is a gap for the reader
		l.cfg.Log.Error().Err(err).Uint64("stream_seq", m.Seq).Msg("damaged frame skipped")
		if m, err = l.cfg.Store.Next(ctx, m.Seq+1); errors.Is(err, ErrEmpty) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		f, err = frame.Decode(m.Data, l.cfg.Author)
	}
	if f, err = l.attach(f, pos); err != nil || f.Points() == 0 {
		return f, err
	}
	return l.grow(ctx, f, m.Seq, limit)
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// attach makes the stored frame f the one that continues at pos: cut where
// pos lies within it, and with a gap before it where frames between are no
// longer held.
func (l *Log) attach(f *frame.Frame, pos frame.Position) (*frame.Frame, error) {
	if f.Epoch == pos.Epoch {
		if f.First <= pos.Seq {
			return f.Cut(pos.Seq)
		}
		if f.Prev != pos.Seq {
			g := *f
			g.Prev, g.Before = pos.Seq, frame.Position{}
			return &g, nil
		}
		return f, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := func(r *Run) *frame.Frame {
		return &frame.Frame{
			Kind: l.cfg.Kind, Now: f.Now, Epoch: r.Epoch, Prev: pos.Seq,
			First: r.Last.Seq + 1, Last: r.Last.Seq, Base: r.Last.Sum, Sum: r.Last.Sum,
		}
	}
	if r := l.runOf(pos.Epoch); r != nil && pos.Seq < r.Last.Seq { // the rest of its epoch is gone
		return gone(r), nil
	}
	if r := l.next(pos); r != nil && r.Epoch < f.Epoch { // the whole next epoch is gone
		g := gone(r)
		g.Prev, g.Before = 0, pos
		return g, nil
	}
	if f.Prev == 0 && f.Before == pos {
		return f, nil
	}
	g := *f // the beginning of its epoch, or whole epochs between, are gone
	g.Prev, g.Before = 0, pos
	return &g, nil
}

// grow merges the frames behind f into it while they fit, and remembers where
// it stopped.
func (l *Log) grow(ctx context.Context, f *frame.Frame, seq uint64, limit int) (*frame.Frame, error) {
	l.mu.Lock()
	end := l.stream
	l.mu.Unlock()
	from, size, values := seq, 0, valueBytes(f)
	ahead := f.AnyFuture(f.Entries) // Merge sees no entries
	next := seq + 1                 // where the reader goes on
	if t := f.Truncate(limit); t != f {
		f, next = t, seq
	}
	for next > seq && seq < end {
		m, err := l.cfg.Store.Next(ctx, next)
		if errors.Is(err, ErrEmpty) {
			break
		}
		if err != nil {
			return nil, err
		}
		g, err := frame.Decode(m.Data, l.cfg.Author)
		if err != nil {
			break // the next call skips it
		}
		seq, next = m.Seq, m.Seq+1
		rest := limit - len(f.Entries)
		if t := g.Truncate(rest); t != g {
			g, next = t, seq
		}
		joined, err := withoutEntries(f).Merge(withoutEntries(g))
		if values += valueBytes(g); err != nil || values > maxMergeBytes || len(g.Entries) > rest || ahead {
			next = seq // another epoch begins, or it is too much
			break
		}
		ahead = g.AnyFuture(g.Entries)
		joined.Entries = append(f.Entries, g.Entries...) // f was decoded for this reader only
		f, size = joined, size+len(m.Data)
	}
	for seq > from && size > maxFrameBytes/2 && len(f.Encode()) > maxFrameBytes { // many names
		t := f.Truncate(len(f.Entries) / 2)
		if t == f {
			break
		}
		f, next = t, 0 // the next call finds the rest by position
	}
	l.mu.Lock()
	l.hint = place{f.End(), next}
	l.mu.Unlock()
	return f, nil
}

// withoutEntries returns what f says besides: many small frames become one
// without copying what was joined before each time.
func withoutEntries(f *frame.Frame) *frame.Frame {
	g := *f
	g.Entries = nil
	return &g
}

func valueBytes(f *frame.Frame) int {
	n := 0
	for i := range f.Entries {
		n += len(f.Entries[i].Data) + len(f.Entries[i].Origin)
	}
	return n
}

// First returns the first number still held of the epoch that the log begins
// with, 0 when it holds nothing or cannot be read.
func (l *Log) First(ctx context.Context) uint64 {
	m, err := l.cfg.Store.Next(ctx, 1)
	if err != nil {
		return 0
	}
	f, err := frame.DecodeHeader(m.Data)
	if err != nil {
		return 0
	}
	return f.First
}
