// Package journal owns logs: append-only sequences of frames on a store, with
// one writer each. A Log is a log that this instance writes; a Replica is the
// copy of a log that another instance writes.
//
// It guarantees that a point is numbered once, that a frame once stored never
// changes, and that whoever follows a log by position gets every point once
// and in order, across restarts, lost tails and new epochs. It leaves what
// the points mean to the bus and when they are sent to the link.
package journal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// Limits of one frame, so that it fits the 256 KB payload of a link.
const (
	maxFramePoints = 10_000
	maxValueBytes  = 128 << 10 // of its values and origins
	maxMergeBytes  = 256 << 10 // the same, of several frames that go as one
	maxFrameBytes  = 224 << 10 // encoded
)

// maxPending bounds the points that wait for a commit; beyond it writers get
// ErrFull. It holds what arrives while a slow disk syncs.
const maxPending = 200_000

// Errors of writing.
var (
	// ErrFull is returned when too many points wait for a commit.
	ErrFull = errors.New("too many points wait for the disk")
	// ErrClosed is returned once the log is closed.
	ErrClosed = errors.New("log is closed")
)

// Config says how a log is written.
type Config struct {
	Store  Store
	Author string          // the instance that writes the log
	Kind   frame.Kind      // frame.Log, or frame.Relay for a log of others' points
	Clean  bool            // the last run stopped cleanly: its epoch goes on
	Known  []Run           // epochs from a snapshot
	Every  time.Duration   // commit interval, 10 s by default
	Now    func() uint64   // estimate of hub time, ns
	Random func() uint64   // random bits of epochs, crypto/rand by default
	Log    zerolog.Logger  // silent by default
	Notify func(Committed) // called after each commit, in order; must not block
	Queued func()          // called when points begin to wait for a commit; must not block

	// Moved is called, with nothing locked, with points of the author's own
	// that a new epoch has given another place in the log: the newest of each
	// series, and those behind it that were added meanwhile.
	Moved func([]frame.Entry)
}

// Committed tells of a frame that became durable.
type Committed struct {
	Frame  *frame.Frame
	Stream uint64 // stream sequence
	Bytes  int    // what it takes
}

// Log is a log that this instance writes.
type Log struct {
	cfg  Config
	wake chan struct{} // capacity 1: something urgent waits, or the interval changed

	addMu    sync.Mutex // held while points get numbers; a new epoch holds it throughout
	commitMu sync.Mutex // held by whoever appends to the store

	mu      sync.Mutex
	runs    []Run          // epochs, oldest first; the last one is being written
	tail    frame.Position // end of the last durable frame, in the epoch being written
	stream  uint64         // stream sequence of the last durable frame of all
	seq     uint64         // last number given out in the epoch
	pending []frame.Entry  // numbered, not durable
	oldest  time.Time      // when the first of them was added
	waiters []waiter
	settled []func() // answers of waiters, for release; commitMu
	company int      // writers who waited when the last commit ended, those it served included
	urgent  bool
	covers  frame.Covers
	busy    int           // of pending: those in a frame that is, or may be, stored
	failing bool          // the last commit failed
	dropped uint64        // points that could not wait any longer
	tried   time.Time     // when an attempt to commit last ended
	frames  uint64        // made durable
	points  uint64        // likewise
	trying  *encoded      // the frame of an append that failed: it may be stored yet; commitMu
	repeats *repeats      // what a new epoch has still to repeat
	moved   []frame.Entry // own points that got another place, for release; commitMu
	closed  bool
	hint    place // where the reader of After stands
}

type waiter struct {
	seq  uint64 // durable when this number is
	done func(error)
}

// repeats is the part of earlier epochs that a new one has still to repeat:
// the frames after a cursor that stand before a stream sequence.
type repeats struct {
	from frame.Cursor
	end  uint64
}

type place struct {
	pos  frame.Position
	next uint64 // stream sequence to read at or after
}

// Open returns the log on a store. Without a clean stop before it, it starts
// a new epoch with the first frame it writes.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Kind == 0 {
		cfg.Kind = frame.Log
	}
	if cfg.Random == nil {
		cfg.Random = RandomBits
	}
	if cfg.Notify == nil {
		cfg.Notify = func(Committed) {}
	}
	if cfg.Queued == nil {
		cfg.Queued = func() {}
	}
	if cfg.Moved == nil {
		cfg.Moved = func([]frame.Entry) {}
	}
	l := &Log{cfg: cfg, wake: make(chan struct{}, 1)}
	runs, stream, whole, last, err := scan(ctx, cfg.Store, cfg.Known)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.runs, l.stream = runs, stream
	if len(runs) > 0 {
		l.tail = runs[len(runs)-1].Last
		l.seq = l.tail.Seq
	}
	if last == nil {
		l.begin(l.tail)
		return l, nil
	}
	l.covers = last.Covers
	if !cfg.Clean || !whole || last.End() != l.tail { // the end of what was sent may be lost
		l.begin(l.tail)
	}
	if last.Again != (frame.Cursor{}) { // the last thing it did was to repeat
		l.repeats = &repeats{last.Again, runs[len(runs)-1].First}
		l.commitMu.Lock()
		defer l.release()
		if err := l.repeat(ctx); err != nil { // whoever appends goes on with it
			cfg.Log.Error().Err(err).Msg("repeating is not finished")
		}
	}
	return l, nil
}

// release lets the next one append, and tells, with nothing locked, who waited
// and which points got another place.
func (l *Log) release() {
	moved, settled := l.moved, l.settled
	l.moved, l.settled = nil, nil
	l.commitMu.Unlock()
	if len(moved) > 0 {
		l.cfg.Moved(moved)
	}
	for _, done := range settled {
		done()
	}
}

// Fresh tells that the epoch has no frame yet: what the last one ended with
// stays in doubt at the next start, however cleanly this run stops.
func (l *Log) Fresh() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs[len(l.runs)-1].First == 0
}

// RandomBits returns 64 random bits.
func RandomBits() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// begin starts an epoch that follows the position before.
func (l *Log) begin(before frame.Position) {
	var known frame.Epoch
	if n := len(l.runs); n > 0 {
		known = l.runs[n-1].Epoch
		if l.runs[n-1].First == 0 { // never written: replace it
			l.runs = l.runs[:n-1]
		}
	}
	epoch := known.Next(l.cfg.Random(), before.Epoch)
	l.runs = append(l.runs, Run{Epoch: epoch, Before: before, Last: frame.Position{Cursor: frame.Cursor{Epoch: epoch}}})
	l.tail = frame.Position{Cursor: frame.Cursor{Epoch: epoch}}
	l.seq = 0
}

// Add numbers a group of entries and queues it for the next commit; it fills
// in author (for a log of its own points) and place. With done the commit
// happens at once, and done is called, by whoever commits and with nothing
// locked, when the group is durable or the attempt failed; in the latter case
// the log goes on trying.
func (l *Log) Add(entries []frame.Entry, done func(error)) error {
	l.addMu.Lock()
	defer l.addMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if len(l.pending)+len(entries) > maxPending && !l.shed() {
		return ErrFull
	}
	for i := range entries {
		l.seq++
		entries[i].More = i < len(entries)-1
		if l.cfg.Kind == frame.Log {
			entries[i].Author, entries[i].At = l.cfg.Author, frame.Cursor{Epoch: l.tail.Epoch, Seq: l.seq}
		}
	}
	first := len(l.pending) == 0
	if first {
		l.oldest = time.Now()
		l.cfg.Queued()
	}
	l.pending = append(l.pending, entries...)
	if done != nil {
		l.waiters = append(l.waiters, waiter{l.seq, done})
		l.urgent = true
	}
	if done != nil || first || len(l.pending) >= maxFramePoints {
		l.signal()
	}
	return nil
}

// shed drops the oldest points that wait for a disk that fails, so that state
// goes on: an eighth of the queue, in whole groups, and none that somebody
// waits for. Their numbers stay used, so that readers find a gap.
func (l *Log) shed() bool {
	first := l.seq - uint64(len(l.pending)) + 1
	n := l.busy
	frame.Groups(l.pending[l.busy:], func(group []frame.Entry) bool {
		last := first + uint64(n+len(group)) - 1
		if n-l.busy >= maxPending/8 || len(l.waiters) > 0 && l.waiters[0].seq <= last {
			return false
		}
		n += len(group)
		return true
	})
	if !l.failing || n == l.busy {
		return false
	}
	l.dropped += uint64(n - l.busy)
	l.pending = slices.Concat(l.pending[:l.busy], l.pending[n:])
	return true
}

// Dropped returns how many points were dropped since Open because the disk
// failed for so long that no more could wait for it.
func (l *Log) Dropped() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// SetEvery changes the commit interval.
func (l *Log) SetEvery(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg.Every = d
	l.signal()
}

// Every returns the commit interval: the most that a power cut can lose.
func (l *Log) Every() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg.Every
}

// Run commits what is queued, at the interval or at once where somebody
// waits, until ctx ends; then it commits the rest.
func (l *Log) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*ioTimeout)
			defer cancel()
			return l.close(final)
		case <-l.wake:
		case <-timer.C:
		}
		wait := l.due()
		if wait <= 0 {
			l.gather()
			if err := l.Commit(ctx); err != nil && ctx.Err() == nil {
				l.cfg.Log.Warn().Err(err).Msg("commit failed, trying again")
				wait = retryWait
			} else {
				wait = l.due()
			}
		}
		timer.Reset(wait)
	}
}

// retryWait is how long a commit that failed waits for the next try.
const retryWait = time.Second

// due returns how long what is queued may still wait for its commit; somebody
// else may have made one meanwhile.
func (l *Log) due() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.urgent || len(l.pending) >= maxFramePoints:
		return 0
	case len(l.pending) == 0:
		return time.Hour // Add wakes
	}
	return l.cfg.Every - time.Since(l.oldest)
}

// gatherWait bounds how long a commit waits for company: a few syncs of a fast
// disk, less than one of flash.
const gatherWait = 500 * time.Microsecond

// gather waits a moment for the writers who were there at the last commit:
// they tend to come again, and share a sync if they come in time. A lone
// writer never waits.
func (l *Log) gather() {
	var end <-chan time.Time
	for {
		l.mu.Lock()
		enough := len(l.waiters) == 0 || len(l.waiters) >= l.company
		l.mu.Unlock()
		if enough {
			return
		}
		if end == nil {
			timer := time.NewTimer(gatherWait)
			defer timer.Stop()
			end = timer.C
		}
		select {
		case <-l.wake:
		case <-end:
			return
		}
	}
}

func (l *Log) close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if err := l.Commit(ctx); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// Commit makes everything durable that was added before the call.
func (l *Log) Commit(ctx context.Context) error {
	l.commitMu.Lock()
	defer l.release()
	return l.commit(ctx)
}

func (l *Log) commit(ctx context.Context) error {
	if err := l.repeat(ctx); err != nil {
		l.settle(math.MaxUint64, 0, err)
		return err
	}
	l.mu.Lock()
	l.urgent = false
	until := l.seq
	l.mu.Unlock()
	for {
		f := l.trying // again unchanged: it may be stored all the same, or later
		if f == nil {
			f = l.nextFrame(until)
		}
		if f == nil {
			return nil
		}
		err := l.append(ctx, f)
		if l.trying = nil; err != nil {
			l.trying = f
			l.settle(until, 0, err)
			return err
		}
		l.settle(f.Last, len(f.Entries), nil)
	}
}

// nextFrame builds a frame of the first pending points up to number until.
func (l *Log) nextFrame(until uint64) *encoded {
	l.mu.Lock()
	f, pending := l.blank(), l.pending
	f.First = l.seq - uint64(len(pending)) + 1 // after a gap where some were dropped
	if len(pending) == 0 || f.First > until {
		l.mu.Unlock()
		return nil
	}
	l.busy = len(pending)
	l.mu.Unlock()
	e := fill(f, pending)
	l.mu.Lock()
	l.busy = len(e.Entries)
	l.mu.Unlock()
	return e
}

// encoded is a frame with its bytes.
type encoded struct {
	*frame.Frame
	data []byte
}

// fill takes as many entries into f as fit, whole groups and at least one.
func fill(f *frame.Frame, entries []frame.Entry) *encoded {
	e := &encoded{Frame: f}
	for limit := maxFramePoints; ; limit = len(f.Entries) / 2 {
		n := frameSize(entries, limit)
		if n == len(f.Entries) { // it is one group
			return e
		}
		f.Entries = entries[:n:n]
		if f.Seal(); f.Kind == frame.Log {
			f.Admit()
		}
		if e.data = f.Encode(); len(e.data) <= maxFrameBytes {
			return e
		}
	}
}

// wholeMs is the resolution of a frame's time: it need not be finer.
const wholeMs = uint64(time.Millisecond)

// blank returns an empty frame at the end of the log.
func (l *Log) blank() *frame.Frame {
	f := &frame.Frame{
		Kind: l.cfg.Kind, Now: l.cfg.Now() / wholeMs * wholeMs, Epoch: l.tail.Epoch,
		Prev: l.tail.Seq, First: l.tail.Seq + 1, Base: l.tail.Sum, Covers: l.covers,
	}
	if l.tail.Seq == 0 {
		f.Before = l.runs[len(l.runs)-1].Before
	}
	return f
}

// frameSize returns how many of the entries may go into one frame: whole
// groups up to the limits, at least one group.
func frameSize(entries []frame.Entry, limit int) int {
	n, size := 0, 0
	frame.Groups(entries, func(group []frame.Entry) bool {
		for i := range group {
			size += len(group[i].Data) + len(group[i].Origin)
		}
		if n > 0 && (size > maxValueBytes || n+len(group) > limit) {
			return false
		}
		n += len(group)
		return true
	})
	return n
}

// append stores f at the end of the log. When it is not clear whether the
// store has it, it looks.
func (l *Log) append(ctx context.Context, f *encoded) error {
	ctx = context.WithoutCancel(ctx) // the store bounds it; half an append leaves a doubt
	seq, err := l.cfg.Store.Append(ctx, f.data, l.stream)
	if err != nil {
		last, lastErr := l.cfg.Store.Last(ctx)
		if lastErr != nil {
			return err
		}
		h, headErr := frame.DecodeHeader(last.Data)
		if headErr != nil || last.Seq <= l.stream || h.Epoch != f.Epoch || h.Prev != f.Prev {
			return err
		}
		if h.End() != f.End() { // an earlier attempt, stored late, with other content
			l.reached(h, last.Seq)
			return err
		}
		seq = last.Seq
	}
	l.reached(f.Frame, seq)
	l.cfg.Notify(Committed{f.Frame, seq, len(f.data)})
	return nil
}

// reached notes that f is the end of the log.
func (l *Log) reached(f *frame.Frame, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail, l.stream = f.End(), seq
	if f.Kind == frame.Relay {
		l.covers = f.Covers
	}
	r := &l.runs[len(l.runs)-1]
	if r.First == 0 {
		r.First, r.Copies = seq, f.Again != (frame.Cursor{})
	}
	r.Last = l.tail
}

// settle drops n points from the queue and has those told who waited for one up
// to last.
func (l *Log) settle(last uint64, n int, err error) {
	l.mu.Lock()
	l.tried = time.Now()
	if l.failing = err != nil; !l.failing {
		l.frames++
		l.points += uint64(n)
		l.busy = 0
		l.oldest = time.Now() // what is left came during the commit
		if l.pending = l.pending[n:]; len(l.pending) == 0 {
			l.pending = nil
		}
	}
	k := 0
	for k < len(l.waiters) && l.waiters[k].seq <= last {
		k++
	}
	ready := l.waiters[:k]
	l.waiters = l.waiters[k:]
	l.company = len(ready) + len(l.waiters)
	l.mu.Unlock()
	for _, w := range ready {
		l.settled = append(l.settled, func() { w.done(err) })
	}
}

// Relay appends entries of other authors as frames of their own, durable on
// return, and records that the source streams are covered up to covers. now is
// that of the frame they come from: what is state there is state here. An
// empty list records nothing: the next frame will.
func (l *Log) Relay(ctx context.Context, entries []frame.Entry, now uint64, covers frame.Covers) error {
	l.commitMu.Lock()
	defer l.release()
	if err := l.repeat(ctx); err != nil {
		return err
	}
	for len(entries) > 0 {
		l.mu.Lock()
		f := l.blank()
		l.mu.Unlock()
		f.Now = now
		e := fill(f, entries)
		if entries = entries[len(f.Entries):]; len(entries) == 0 { // only the last piece covers the source
			f.Covers = covers
			e.data = f.Encode()
		}
		if err := l.append(ctx, e); err != nil {
			return err
		}
		l.mu.Lock()
		l.seq = l.tail.Seq
		l.mu.Unlock()
	}
	return nil
}

// Covers returns how far the last relay frame covers its sources.
func (l *Log) Covers() frame.Covers {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.covers
}

// Tail returns the end of what is durable.
func (l *Log) Tail() frame.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail
}

// Stream returns the stream sequence of the last durable frame.
func (l *Log) Stream() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

// Lag returns how many points come after a position, those not durable yet
// included.
func (l *Log) Lag(pos frame.Position) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := uint64(len(l.pending))
	for i := len(l.runs) - 1; i >= 0; i-- {
		r := &l.runs[i]
		if r.Epoch == pos.Epoch {
			return n + r.Last.Seq - min(pos.Seq, r.Last.Seq)
		}
		n += r.Last.Seq
		if r.Before == pos {
			break
		}
	}
	return n
}

// Fork starts a new epoch that follows before, the place where the reader
// stands, and repeats there every point after the cursor acked: the reader
// has not got those, or has others in their place. Writers wait meanwhile.
func (l *Log) Fork(ctx context.Context, before frame.Position, acked frame.Cursor) error {
	l.commitMu.Lock()
	defer l.release()
	l.addMu.Lock()
	defer l.addMu.Unlock()
	if err := l.commit(ctx); err != nil {
		return fmt.Errorf("commit before a new epoch: %w", err)
	}
	l.mu.Lock()
	if r := l.runOf(acked.Epoch); r == nil || r.Copies {
		acked = frame.Cursor{} // which originals it covers, copies do not tell
	}
	l.repeats = &repeats{acked, l.stream + 1}
	l.begin(before)
	l.mu.Unlock()
	l.cfg.Log.Info().Stringer("epoch", l.Tail().Epoch).Stringer("before", before.Epoch).Uint64("before_seq", before.Seq).Msg("new epoch")
	return l.repeat(ctx)
}

// repeat appends again what is still to be repeated. Until it has succeeded
// nothing else is appended, so a log that ends with a repeated frame tells
// where to go on. commitMu is held.
func (l *Log) repeat(ctx context.Context) error {
	todo := l.repeats
	if todo == nil {
		return nil
	}
	newest := map[point.Series]frame.Entry{}
	defer l.noteMoved(newest)
	read := todo.from // end of the frame before
	for seq := uint64(1); ; {
		m, err := l.cfg.Store.Next(ctx, seq)
		if errors.Is(err, ErrEmpty) || err == nil && m.Seq >= todo.end {
			l.repeats = nil
			return nil
		}
		if err != nil {
			return fmt.Errorf("repeat unacked points: %w", err)
		}
		seq = m.Seq + 1
		old, err := frame.Decode(m.Data, l.cfg.Author)
		if err != nil {
			l.cfg.Log.Error().Err(err).Uint64("stream_seq", m.Seq).Msg("damaged frame skipped")
			continue
		}
		end, before := old.End().Cursor, read
		if before.Less(end) {
			read = end
		}
		if !todo.from.Less(end) || old.Again != (frame.Cursor{}) {
			continue // the reader has it, or it is a copy
		}
		if old.Epoch == todo.from.Epoch && old.First <= todo.from.Seq {
			if old, err = old.Cut(todo.from.Seq); err != nil {
				return fmt.Errorf("repeat unacked points: %w", err)
			}
		}
		missing := old.Gap()
		if old.Epoch == before.Epoch && old.First > before.Seq { // also what was removed between
			missing = old.First - 1 - before.Seq
		}
		if len(old.Entries) > 0 || missing > 0 {
			if err := l.again(ctx, old, end, missing, newest); err != nil {
				return fmt.Errorf("repeat unacked points: %w", err)
			}
		}
		todo.from = end
		l.mu.Lock()
		l.tried = time.Now() // it goes on
		l.mu.Unlock()
	}
}

// noteMoved notes the points that were repeated and those that wait behind
// them, which have moved on by as many places.
func (l *Log) noteMoved(newest map[point.Series]frame.Entry) {
	if len(newest) == 0 {
		return
	}
	l.moved = slices.AppendSeq(l.moved, maps.Values(newest))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved = append(l.moved, l.pending...)
}

// again appends a copy of an older frame, after a gap of as many points as are
// missing before it.
func (l *Log) again(ctx context.Context, old *frame.Frame, end frame.Cursor, missing uint64, newest map[point.Series]frame.Entry) error {
	l.mu.Lock()
	f := l.blank()
	l.mu.Unlock()
	f.Now, f.Covers, f.Again, f.Entries = old.Now, old.Covers, end, old.Entries
	f.First += missing
	f.Seal()
	if err := l.append(ctx, &encoded{f, f.Encode()}); err != nil {
		return err
	}
	l.shift(missing + f.Points())
	if f.Kind != frame.Log {
		return nil
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		e.At = frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}
		if old, ok := newest[e.Series]; !ok || e.Time >= old.Time {
			newest[e.Series] = *e
		}
	}
	return nil
}

// shift moves the numbers of points that wait behind n that went before them.
func (l *Log) shift(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq += n
	for i := range l.pending {
		l.pending[i].At.Seq += n
	}
	for i := range l.waiters {
		l.waiters[i].seq += n
	}
}
