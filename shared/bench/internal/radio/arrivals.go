package radio

import (
	"slices"
	"sync"
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

// mark tells points apart: a node has one in a millisecond, which is what
// JSON carries.
type mark struct {
	node string
	ms   int64
}

func markOf(p *point.Point) mark { return mark{p.Node, int64(p.Time / uint64(time.Millisecond))} }

// arrivals notes what has come to an end of the line, each once.
type arrivals struct {
	mu     sync.Mutex
	seen   map[mark]bool
	sent   map[mark]time.Time // those whose delay is measured
	delays []time.Duration
}

func newArrivals() *arrivals { return &arrivals{seen: map[mark]bool{}, sent: map[mark]time.Time{}} }

// expect starts to measure the delay of a point that is about to be written.
func (a *arrivals) expect(m mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent[m] = time.Now()
}

func (a *arrivals) add(m mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[m] {
		return
	}
	a.seen[m] = true
	if t, ok := a.sent[m]; ok {
		a.delays = append(a.delays, time.Since(t))
	}
}

func (a *arrivals) has(m mark) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[m]
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

// quantile returns a delay that a share of those measured does not exceed, and
// how many were measured.
func (a *arrivals) quantile(share float64) (time.Duration, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := slices.Sorted(slices.Values(a.delays))
	if len(s) == 0 {
		return 0, 0
	}
	return s[int(share*float64(len(s)-1)+0.5)], len(s)
}
