package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// frameSeconds are in one frame of the log.
	frameSeconds = 10
	// tidied is how long nats-server may take to rewrite blocks of which most
	// is gone, and its index: it looks every 2 min.
	tidied = 150 * time.Second
)

// wear measures what making chunks of a day writes besides the log. One run is
// enough: bytes are counted.
func wear(ctx context.Context, b *bench) error {
	if err := b.inLab(func(l *lab.Lab) error { return b.wear(ctx, l) }); err != nil {
		return err
	}
	f, err := b.fixture(ctx)
	if err != nil {
		return err
	}
	chunks, err := fixture.Stream(b.Dir, subject.StreamHistory)
	if err != nil {
		return err
	}
	index, err := lab.Size(filepath.Join(chunks, "msgs", "index.db"))
	if err != nil {
		return err
	}
	b.Add(row{
		Name: fmt.Sprintf("index of the chunks, with %d days", f.Days), Unit: "KB",
		Note: "nats-server writes it anew within 2 min of a change, so after each time that chunks are made",
	}, sapflow, float64(index)/1000)
	return nil
}

func (b *bench) wear(ctx context.Context, l *lab.Lab) (err error) {
	const name = "gateway"
	var clock recorder.Clock
	disk, err := recorder.Mount(l.Dir, name, &clock)
	if errors.Is(err, recorder.ErrNoFUSE) && b.Only == "" {
		fmt.Fprintln(b.Progress, "wear is not measured:", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(l.Close(), disk.Close(), err) }()
	l.Seen = map[string]string{name: disk.Mount}
	_, g, err := l.Pair(ctx)
	if err != nil {
		return err
	}
	if _, err := fixture.AddStation(ctx, g); err != nil {
		return err
	}
	before, measured := 12, 48 // hours; chunks are made every few of them
	if b.Quick {
		before, measured = 4, 12
	}
	from := point.Nanos(time.Now())/second*second - uint64(before+measured)*hour
	began, points := uint64(0), 0
	for list := range frames(from, (before+measured)*3600) {
		if began == 0 && list[0].Time > spanOf(from, from+uint64(before)*hour).to {
			if _, err := g.Quiet(ctx); err != nil {
				return err
			}
			began, points = clock.Now(), 0
		}
		if err := fixture.Log(ctx, g, len(list), list); err != nil {
			return err
		}
		points += len(list)
	}
	if _, err := g.Quiet(ctx); err != nil {
		return err
	}
	if !b.Quick {
		if err := lab.Pause(ctx, tidied); err != nil {
			return err
		}
	}
	ops := disk.Ops()
	chunks, log := ops.Below(subject.StreamHistory), ops.Below(subject.StreamEdge)
	aDay := 24 / float64(measured)
	megabytes := func(n int64) float64 { return float64(n) * aDay / 1e6 }
	r := row{
		Name: "written by making chunks, a day of 30 points/s", Unit: "MB", Target: "<= 20 MB",
		Note: fmt.Sprintf("to the stream of chunks, from the recorder: %s points as frames of %d s at full speed, after %d hours of them; one run", report.Whole(points), frameSeconds, before),
	}
	b.Add(r, sapflow, megabytes(chunks.Written(began)))
	pages := r
	pages.Name, pages.Target, pages.Note = "the same in pages of 4 KiB", "", "each as often as it is synced"
	b.Add(pages, sapflow, megabytes(int64(chunks.Wear(began).Pages)*4096))
	pages.Name, pages.Note = "written to the log meanwhile, payload", "`wear` measures it in real time"
	b.Add(pages, sapflow, megabytes(log.Written(began)))
	return b.sizeMade(ctx, g)
}

// sizeMade stops a gateway and adds what chunks take that it made of its log.
func (b *bench) sizeMade(ctx context.Context, g *lab.Instance) error {
	if err := g.Stop(); err != nil {
		return err
	}
	out, err := g.Run(ctx, "store", "stats", "--json")
	if err != nil {
		return err
	}
	var stats struct {
		History struct{ Points, Bytes int }
	}
	if err := json.Unmarshal([]byte(out), &stats); err != nil {
		return fmt.Errorf("read what store stats printed: %w", err)
	}
	size, err := fixture.ChunkBytes(g.Dir)
	if err != nil {
		return err
	}
	points := stats.History.Points
	b.Add(row{
		Name: "bytes at rest after that, a point in chunks", Unit: "B", Target: "<= 1.3",
		Note: fmt.Sprintf("files over %s points; without dead versions %.3f", report.Whole(points), float64(stats.History.Bytes)/float64(points)),
	}, sapflow, float64(size)/float64(points))
	return nil
}

// frames returns what the pump station has in so many seconds from a time on,
// frame by frame.
func frames(from uint64, seconds int) iter.Seq[[]frame.Entry] {
	return func(yield func([]frame.Entry) bool) {
		var list []frame.Entry
		next := spanOf(from, from+frameSeconds*second).to
		for e := range fixture.Station(from, seconds) {
			if e.Time > next {
				if !yield(list) {
					return
				}
				list, next = nil, next+frameSeconds*second
			}
			list = append(list, *e)
		}
		yield(list)
	}
}
