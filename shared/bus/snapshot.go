package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/state"
)

// Snapshot files: the newest and the one before it.
const (
	snapshotFile = "state.snap"
	snapshotOld  = "state.snap.1"
)

// Meta stands in a snapshot beside the state.
type Meta struct {
	Streams map[string]uint64         `json:"streams"`           // stream sequences that the state covers
	Acked   map[string]frame.Position `json:"acked,omitempty"`   // ends of own logs at the other ends
	Heads   map[string][]string       `json:"heads,omitempty"`   // nodes whose heads a gateway still lacks
	Views   map[string]uint64         `json:"views,omitempty"`   // stream sequences that views have done
	Chains  map[string][]journal.Run  `json:"chains,omitempty"`  // epochs of own logs, by subject
	Fresh   map[string]bool           `json:"fresh,omitempty"`   // own logs, by subject, whose epoch had no frame yet
	Removed map[string]journal.Span   `json:"removed,omitempty"` // what was removed of logs, by subject
	Dropped uint64                    `json:"dropped,omitempty"` // points of the own log that gave way to a full disk, up to Streams
	Usage   map[string]uint64         `json:"usage,omitempty"`   // bytes of the gateway's line
	Session string                    `json:"session,omitempty"`
}

// Load reads the newest snapshot in dir that is whole, an empty state if
// there is none. What it says of a damaged one is in the error, beside a
// state that is good to use.
func Load(dir string) (*state.State, Meta, error) {
	var problems []error
	for _, name := range []string{snapshotFile, snapshotOld} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var meta Meta
		var s *state.State
		if err == nil {
			s, err = state.Restore(b, &meta)
		}
		if err == nil {
			return s, meta, errors.Join(problems...)
		}
		problems = append(problems, fmt.Errorf("snapshot %s: %w", name, err))
	}
	return state.New(), Meta{}, errors.Join(problems...)
}

// Save writes a snapshot of the state durably; fill adds to its meta. The
// stream sequences are taken before the state, so that the state covers at
// least as much as they say; and every point in it is durable in its log
// first, else a crash would leave a head here that no log can send.
func (b *Instance) Save(dir string, fill func(*Meta)) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	meta := Meta{Streams: map[string]uint64{}}
	b.marksMu.Lock()
	for name, w := range b.marks {
		meta.Streams[name] = w.covered()
	}
	meta.Dropped = b.droppedBefore + b.dropped
	b.marksMu.Unlock()
	b.mu.Lock()
	fill(&meta)
	data, err := b.state.Snapshot(meta)
	b.mu.Unlock()
	if err == nil {
		err = b.log.Commit(context.Background()) // bounded by the store's own deadlines
	}
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, snapshotFile), filepath.Join(dir, snapshotOld), data)
}

// replaceFile writes data to name and keeps what was there as old. A crash
// leaves a whole file under one of the two names, and a disk that is full
// what was there.
func replaceFile(name, old string, data []byte) error {
	next := name + ".new"
	if err := daemon.WriteFile(next, data); err != nil {
		return err
	}
	if err := os.Rename(name, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep old snapshot: %w", err)
	}
	if err := os.Rename(next, name); err != nil {
		return fmt.Errorf("replace snapshot: %w", err)
	}
	return daemon.SyncDir(filepath.Dir(name))
}

// watermark follows which messages of a stream are in state, when several
// are stored and applied side by side.
type watermark struct {
	highest uint64   // newest message applied
	open    []uint64 // for each one being stored: highest when it began
}

func (w *watermark) reach(seq uint64) { w.highest = max(w.highest, seq) }

func (w *watermark) covered() uint64 {
	if len(w.open) > 0 {
		return slices.Min(w.open)
	}
	return w.highest
}

// mark returns the watermark of a stream; marksMu is held.
func (b *Instance) mark(stream string) *watermark {
	w := b.marks[stream]
	if w == nil {
		w = &watermark{}
		b.marks[stream] = w
	}
	return w
}

// Storing tells that a message of a stream is being stored; the returned
// function tells its sequence once it is applied, 0 if it was not stored.
func (b *Instance) Storing(stream string) (applied func(seq uint64)) {
	b.marksMu.Lock()
	defer b.marksMu.Unlock()
	w := b.mark(stream)
	began := w.highest
	w.open = append(w.open, began)
	return func(seq uint64) {
		b.marksMu.Lock()
		defer b.marksMu.Unlock()
		w.reach(seq)
		i := slices.Index(w.open, began)
		w.open = slices.Delete(w.open, i, i+1)
	}
}

// Covered returns up to which message of a stream the state covers all.
func (b *Instance) Covered(stream string) uint64 {
	b.marksMu.Lock()
	defer b.marksMu.Unlock()
	return b.mark(stream).covered()
}

// SetCovered tells up to which message of a stream the state covers all.
func (b *Instance) SetCovered(stream string, seq uint64) {
	b.marksMu.Lock()
	defer b.marksMu.Unlock()
	b.mark(stream).reach(seq)
}

// Committed tells that a frame of this instance's log is durable in a stream.
// Its points have been in state before.
func (b *Instance) Committed(stream string, c journal.Committed) {
	b.marksMu.Lock()
	defer b.marksMu.Unlock()
	b.mark(stream).reach(c.Stream)
	b.dropped += gaveWay(c.Frame)
}

// gaveWay returns how many points before a frame of an own log could not wait
// for a full disk. What a new epoch repeats was counted before.
func gaveWay(f *frame.Frame) uint64 {
	if f.Kind != frame.Log || f.Again != (frame.Cursor{}) {
		return 0
	}
	return f.Gap()
}

// Dropped returns how many points of the own log gave way to a full disk, over
// restarts.
func (b *Instance) Dropped() uint64 {
	b.marksMu.Lock()
	defer b.marksMu.Unlock()
	return b.droppedBefore + b.log.Dropped()
}

// Replay applies the messages of a stream after those that a snapshot
// covers. author tells who wrote the log of a subject.
func (b *Instance) Replay(ctx context.Context, stream string, s journal.Store, from uint64, author func(subject string) string) error {
	b.SetCovered(stream, from)
	for seq := from + 1; ; {
		m, err := s.Next(ctx, seq)
		if errors.Is(err, journal.ErrEmpty) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("replay %s: %w", stream, err)
		}
		f, err := frame.Decode(m.Data, author(m.Subject))
		if err != nil {
			b.cfg.Logger.Error().Err(err).Str("stream", stream).Uint64("stream_seq", m.Seq).Msg("damaged frame skipped")
			b.Count("damaged", 1)
		} else {
			b.Apply(f)
		}
		b.marksMu.Lock()
		b.mark(stream).reach(m.Seq)
		if err == nil && author(m.Subject) == b.cfg.Author {
			b.droppedBefore += gaveWay(f)
		}
		b.marksMu.Unlock()
		seq = m.Seq + 1
	}
}
