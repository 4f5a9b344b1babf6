package journal_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
)

// gated is a store whose appends wait for a word: nil stores.
type gated struct {
	*journal.JetStream
	asked chan struct{}
	word  chan error
}

func (g *gated) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	g.asked <- struct{}{}
	if err := <-g.word; err != nil {
		return 0, err
	}
	return g.JetStream.Append(ctx, data, last)
}

// TestHealth: a store that fails makes no log overdue, one that stands still
// does.
func TestHealth(t *testing.T) {
	store := &gated{open(t), make(chan struct{}), make(chan error)}
	l := start(t, journal.Config{Store: store, Every: time.Millisecond})
	stop := run(t, l)
	if h := l.Health(); h != (journal.Health{Every: time.Millisecond}) {
		t.Errorf("at the start: got %+v", h)
	}
	if err := l.Add([]frame.Entry{entry(1), entry(2)}, nil); err != nil {
		t.Fatal(err)
	}
	<-store.asked
	before := l.Health().Overdue
	for l.Health().Overdue <= before { // it stands still
		if t.Context().Err() != nil {
			t.Fatal("a log that stands still is not overdue")
		}
	}
	store.word <- errors.New("disk failed")
	<-store.asked // the next attempt
	if h := l.Health(); !h.Failing || h.Pending != 2 || h.Frames != 0 {
		t.Errorf("after a failure: got %+v", h)
	}
	store.word <- nil
	for l.Health().Pending > 0 && t.Context().Err() == nil {
		<-time.After(time.Millisecond)
	}
	if h := l.Health(); h.Failing || h.Overdue != 0 || h.Frames != 1 || h.Points != 2 {
		t.Errorf("in the end: got %+v", h)
	}
	stop()
}
