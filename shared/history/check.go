package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Report is what Check found of an archive.
type Report struct {
	Columns  int      `json:"columns"`
	Chunks   int      `json:"chunks"`
	Segments int      `json:"segments"`
	Points   uint64   `json:"points"`
	Bytes    uint64   `json:"bytes"`            // of chunks
	Oldest   uint64   `json:"oldest,omitempty"` // time of the oldest and newest point, ns
	Newest   uint64   `json:"newest,omitempty"`
	Removed  uint64   `json:"removed,omitempty"` // points that had to make room
	Gaps     int      `json:"gaps,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// Check reads every chunk of an archive that nobody writes to, decodes every
// point, and compares the points with the summaries of their chunks and of the
// chain of summaries.
func Check(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream) (*Report, error) {
	a, err := Open(ctx, Config{JetStream: js, Stream: stream})
	if err != nil {
		return nil, err
	}
	c := &checker{Archive: a, found: &Report{Columns: len(a.names), Removed: a.RemovedPoints()}}
	for _, list := range a.gaps {
		c.found.Gaps += len(list)
	}
	for group := 0; group*groupColumns < len(a.names); group++ {
		if err := c.group(ctx, group); err != nil {
			return nil, err
		}
	}
	return c.found, nil
}

type checker struct {
	*Archive
	found *Report
}

func (c *checker) problem(chain chainName, start uint64, format string, args ...any) {
	c.found.Problems = append(c.found.Problems, "history, "+subject.HistoryChunk(chain.level, chain.group, start)+": "+fmt.Sprintf(format, args...))
}

// group checks the leaves of a group.
func (c *checker) group(ctx context.Context, group int) error {
	chain := chainName{subject.HistoryPoints, group}
	starts, err := c.startsOf(ctx, chain)
	if err != nil {
		return err
	}
	for i, start := range starts {
		next := uint64(forever)
		if i+1 < len(starts) {
			next = starts[i+1]
		}
		b, err := c.store.get(ctx, subject.HistoryChunk(chain.level, chain.group, start))
		if err != nil {
			return err
		}
		c.found.Bytes += uint64(len(b))
		l, err := decodeLeaf(b, start, nil)
		if err != nil {
			c.problem(chain, start, "%s; what it had until %s is lost", err, timeText(next))
			continue
		}
		c.found.Chunks++
		switch {
		case l.end < next:
			c.problem(chain, start, "the chunk behind it is lost, from %s to %s", timeText(l.end), timeText(next))
		case l.end > next: // a crash in a split: what is behind is in the next one as well
			for _, g := range l.trim(next) {
				c.problem(chain, start, "%d points from %s to %s cannot be read", g.Count, timeText(g.Start), timeText(g.End))
			}
		}
		c.leaf(chain, l)
		if i+1 < len(starts) {
			if err := c.summarised(ctx, group, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaf checks the segments of a leaf.
func (c *checker) leaf(chain chainName, l *leaf) {
	for _, col := range l.cols {
		for i := range col.segs {
			s, points := &col.segs[i], &frame.Column{}
			if err := points.Decode(s.data); err != nil {
				c.problem(chain, l.start, "%s from %s to %s: %s; %d points are lost", col.key.Series, timeText(s.From), timeText(s.To), err, s.Count)
				continue
			}
			if !sums(points, &s.Summary) {
				c.problem(chain, l.start, "%s from %s to %s: the summary does not fit the points", col.key.Series, timeText(s.From), timeText(s.To))
			}
			c.found.Segments++
			c.found.Points += uint64(s.Count)
			if c.found.Oldest == 0 {
				c.found.Oldest = s.From
			}
			c.found.Oldest, c.found.Newest = min(c.found.Oldest, s.From), max(c.found.Newest, s.To)
		}
	}
}

// sums tells whether a summary is that of all points of a column.
func sums(c *frame.Column, s *frame.Summary) bool {
	if c.Len() == 0 {
		return false
	}
	want := c.Summary(0, c.Len())
	return want.Equal(s)
}

// summarised checks that the chain of summaries tells what a closed leaf has.
func (c *checker) summarised(ctx context.Context, group int, l *leaf) error {
	chain := chainName{subject.HistorySummaries, group}
	for _, col := range l.cols {
		var told []frame.Summary
		for pos := l.start; pos < l.end; {
			start, _, ok, err := c.at(ctx, chain, pos)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			s, err := c.load(ctx, chain, start, &col.key)
			if err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
			if s == nil || s.end <= pos {
				break
			}
			if k := s.column(col.key); k != nil {
				for i := range k.segs {
					if f := k.segs[i].From; f >= pos && f < l.end {
						told = append(told, k.segs[i].Summary)
					}
				}
			}
			pos = s.end
		}
		if len(told) != len(col.segs) {
			c.problem(chain, l.start, "%s has %d summaries, %d segments", col.key.Series, len(told), len(col.segs))
			continue
		}
		for i := range told {
			if !told[i].Equal(&col.segs[i].Summary) {
				c.problem(chain, l.start, "%s at %s: the summary is not that of the segment", col.key.Series, timeText(told[i].From))
			}
		}
	}
	return nil
}

func timeText(ns uint64) string {
	if ns == forever {
		return "the end"
	}
	return point.TimeOf(ns).Format(time.RFC3339Nano)
}
