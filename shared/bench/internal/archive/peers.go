package archive

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// rowsATransaction of SQLite, to fill it.
const rowsATransaction = 100_000

// database is SQLite with all of the series that is read, and what the others
// have of the day and the hour behind it, in the order in which they came.
type database struct {
	*peer.SQLite
	path   string
	points int
}

func fillSQLite(ctx context.Context, f *fixture.Fixture, path string) (*database, error) {
	db, err := peer.OpenSQLite(path)
	if err != nil {
		return nil, err
	}
	d := &database{SQLite: db, path: path}
	if err := d.fill(ctx, f); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return d, nil
}

func (d *database) fill(ctx context.Context, f *fixture.Fixture) error {
	numbers, from := numbersOf(f), dayOf(f).from
	var list []frame.Entry
	flush := func() error {
		err := d.InsertAll(len(list), func(i int) (int, int64, any) {
			e := &list[i]
			return numbers[e.Node], int64(e.Time), valueOf(e)
		})
		d.points, list = d.points+len(list), list[:0]
		return errors.Join(err, ctx.Err())
	}
	for e := range f.All() {
		if e.Time < from && numbers[e.Node] != sampled {
			continue
		}
		if list = append(list, *e); len(list) == rowsATransaction {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// numbersOf returns the numbers of the series by node.
func numbersOf(f *fixture.Fixture) map[string]int {
	numbers := map[string]int{}
	for i, node := range f.Nodes {
		numbers[node] = i
	}
	return numbers
}

// valueOf returns a value as SQLite keeps it.
func valueOf(e *frame.Entry) any {
	if v, ok := e.Float64(); ok {
		return v
	}
	if v, ok := e.Uint64(); ok {
		return int64(v)
	}
	return string(e.Data)
}

func (d *database) values(ctx context.Context, s span) (t tally, err error) {
	rows, err := d.Query(ctx, `SELECT time, value FROM point WHERE series = ? AND time >= ? AND time < ? ORDER BY time`, sampled, int64(s.from), int64(s.to))
	if err != nil {
		return t, err
	}
	defer rows.Close()
	for rows.Next() {
		var at int64
		var v float64
		if err := rows.Scan(&at, &v); err != nil {
			return t, err
		}
		t.add(1, v)
	}
	return t, rows.Err()
}

func (d *database) buckets(ctx context.Context, s span, width time.Duration) (t tally, err error) {
	rows, err := d.Query(ctx,
		`SELECT time / ?1, count(*), min(value), max(value), avg(value) FROM point WHERE series = ?2 AND time >= ?3 AND time < ?4 GROUP BY time / ?1`,
		int64(width), sampled, int64(s.from), int64(s.to))
	if err != nil {
		return t, err
	}
	defer rows.Close()
	for rows.Next() {
		var bucket int64
		var n int
		var least, most, mean float64
		if err := rows.Scan(&bucket, &n, &least, &most, &mean); err != nil {
			return t, err
		}
		t.add(n, mean)
	}
	return t, rows.Err()
}

// stream is plain JetStream with a message a point of the day and the hour
// behind it, in the order of time: a message is found by its place, which is
// what a time would be turned into.
type stream struct {
	p      *lab.Process
	nc     *nats.Conn
	js     jetstream.JetStream
	dir    string
	points int
	times  []uint64 // of every thousandth message
}

// timesEvery is how many messages there are from one noted time to the next.
const timesEvery = 1000

func fillStock(ctx context.Context, f *fixture.Fixture, dir string) (s *stream, err error) {
	p, url, err := peer.StartStock(ctx, peer.StockConfig{Dir: dir})
	if err != nil {
		return nil, err
	}
	s = &stream{p: p, dir: dir}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.nc, err = nats.Connect(url); err != nil {
		return nil, err
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return nil, err
	}
	numbers, from := numbersOf(f), dayOf(f).from
	_, err = peer.PublishAll(ctx, s.nc, func(yield func(string, []byte) bool) {
		for e := range f.All() {
			if e.Time < from {
				continue
			}
			if s.points%timesEvery == 0 {
				s.times = append(s.times, e.Time)
			}
			s.points++
			if !yield(peer.Stored(numbers[e.Node]), point.AppendPayload(nil, &e.Point)) {
				return
			}
		}
	})
	return s, err
}

func (s *stream) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.p.Kill()
}

// pulled is how many messages are on their way to a reader.
const pulled = 5000

func (s *stream) values(ctx context.Context, of span) (t tally, err error) {
	// Points of one second are out of order by 40 ms at most.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	i, _ := slices.BinarySearch(s.times, of.from)
	c, err := s.js.OrderedConsumer(ctx, peer.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{peer.Stored(sampled)},
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(1 + timesEvery*max(0, i-1)),
	})
	if err != nil {
		return t, err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(pulled))
	if err != nil {
		return t, err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return t, err
		}
		var p point.Point
		if err := point.DecodePayload(m.Data(), &p); err != nil {
			return t, err
		}
		if p.Time >= of.to {
			return t, nil
		}
		if p.Time >= of.from {
			v, _ := p.Float64()
			t.add(1, v)
		}
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return t, err
		}
	}
}

func (s *stream) buckets(context.Context, span, time.Duration) (tally, error) {
	return tally{}, errors.New("plain JetStream has no buckets")
}
