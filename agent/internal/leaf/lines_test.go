package leaf_test

import (
	"bytes"
	"sync/atomic"
)

// lines waits for a word in a log.
type lines struct {
	want  string
	found atomic.Bool
}

// Write looks at one event.
func (l *lines) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(l.want)) {
		l.found.Store(true)
	}
	return len(p), nil
}

func (l *lines) seen() bool { return l.found.Load() }
