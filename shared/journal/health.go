package journal

import "time"

// Health tells how a log gets on with its store.
type Health struct {
	Pending        int           // points that wait for a commit
	Failing        bool          // the last commit failed
	Every          time.Duration // the commit interval
	Frames, Points uint64        // made durable since Open
	// Overdue is how long the oldest point has waited beyond the commit interval
	// while no attempt, good or bad, has ended: a store that fails is not overdue,
	// a loop that stands still is.
	Overdue time.Duration
}

// Health returns how the log gets on.
func (l *Log) Health() Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := Health{Pending: len(l.pending), Failing: l.failing, Every: l.cfg.Every, Frames: l.frames, Points: l.points}
	if h.Pending > 0 {
		since := l.oldest.Add(l.cfg.Every)
		if l.tried.After(since) {
			since = l.tried
		}
		h.Overdue = max(0, time.Since(since))
	}
	return h
}
