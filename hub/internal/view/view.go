// Package view follows log streams for whatever is rebuilt from them: it
// hands over each frame once, in stream order, and only when the state covers
// it. Where a view stands it leaves to the view.
package view

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
)

// Source is a log stream.
type Source struct {
	Name    string // of the stream
	Store   journal.Store
	Author  func(subject string) string
	Covered func() uint64 // up to which message the state covers all
}

// Item is a message of a source.
type Item struct {
	Seq   uint64 // stream sequence
	Frame *frame.Frame
}

// Next returns the first whole frame after seq that the state covers; ok is
// false when there is none yet. Damaged messages are reported and skipped.
func (s *Source) Next(ctx context.Context, seq uint64, log zerolog.Logger) (item Item, ok bool, err error) {
	for seq < s.Covered() {
		m, err := s.Store.Next(ctx, seq+1)
		if errors.Is(err, journal.ErrEmpty) || err == nil && m.Seq > s.Covered() {
			return Item{}, false, nil
		}
		if err != nil {
			return Item{}, false, fmt.Errorf("follow %s: %w", s.Name, err)
		}
		f, err := frame.Decode(m.Data, s.Author(m.Subject))
		if err == nil {
			return Item{m.Seq, f}, true, nil
		}
		log.Error().Err(err).Str("stream", s.Name).Uint64("stream_seq", m.Seq).Msg("damaged frame skipped")
		seq = m.Seq
	}
	return Item{}, false, nil
}

// Bell wakes views when a log has more. The zero value is ready.
type Bell struct {
	mu    sync.Mutex
	chans []chan struct{}
}

// Listen returns a channel, of capacity 1, that Ring writes to.
func (b *Bell) Listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan struct{}, 1)
	b.chans = append(b.chans, c)
	return c
}

// Ring wakes every listener that is not awake already.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.chans {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Retry is how long a view waits after a failure.
const Retry = 2 * time.Second

// Run calls work each time the bell rings, and again after Retry when it
// fails, until ctx ends.
func Run(ctx context.Context, wake <-chan struct{}, log zerolog.Logger, work func(context.Context) error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
		}
		if err := work(ctx); err != nil && ctx.Err() == nil {
			log.Error().Err(err).Msg("view failed, trying again")
			timer.Reset(Retry)
		}
	}
}
