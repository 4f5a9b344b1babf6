package history

import "testing"

// SetSizes makes segments and leaves small until the test ends.
func SetSizes(t testing.TB, points, text, bytes int) {
	p, x, b := segmentPoints, segmentText, leafBytes
	segmentPoints, segmentText, leafBytes = points, text, bytes
	t.Cleanup(func() { segmentPoints, segmentText, leafBytes = p, x, b })
}

// Floor returns from which time on the group of a column keeps points.
func (a *Archive) Floor(number int) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.floor(number / groupColumns)
}

// Group returns the group of a column.
func Group(number int) int { return number / groupColumns }
