package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

const (
	// batchBytes is a million numbers. 3,000 series are imported at 1.0 M points/s
	// with it, at 0.4 M/s with a quarter: each batch writes the newest chunk of
	// each series again.
	batchBytes = 16 << 20
	// What a number takes in a column, another value besides its own bytes, and a
	// column itself.
	numberBytes, textBytes, columnBytes = 16, 40, 256
	// maxAhead is how far in the future an instance lets a time be.
	maxAhead = 5 * time.Minute
)

// ImportConfig says what is imported where.
type ImportConfig struct {
	// Client is connected to the instance, required.
	Client *client.Client
	// File is the trace, plain or compressed by gzip, required.
	File io.Reader
	// Parent is the node below which nodes are looked for by their description,
	// and made; the root by default.
	Parent string
	// DryRun reads and checks the trace only.
	DryRun bool
	// Progress, if not nil, is called after each batch, from another goroutine.
	Progress func(ImportCounts)
	// BatchBytes is how much memory a batch takes, of which two are there at a
	// time; 16 MB by default.
	BatchBytes int
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// ImportCounts is what an import has done.
type ImportCounts struct {
	Read            int     `json:"read"`     // lines
	Imported        int     `json:"imported"` // lines whose points are durable
	Refused         int     `json:"refused"`
	Nodes           int     `json:"nodes"` // made
	Series          int     `json:"series"`
	Seconds         float64 `json:"seconds"`
	PointsPerSecond float64 `json:"pointsPerSecond"`
}

// ImportResult is what an import has done, and the first lines that were
// refused.
type ImportResult struct {
	ImportCounts
	Refusals []Refusal `json:"refusals,omitempty"`
	Line     int       `json:"-"` // up to which the file is done
}

// Import puts a trace into the history of an instance, a batch on its way
// while the next one is read. The newest point of each series is written as a
// program would where it is newer than the value of now. An error means that
// it could not be carried on: the result tells how far it came, and to repeat
// it does no harm. Lines that were refused are in the result.
func Import(ctx context.Context, cfg ImportConfig) (ImportResult, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.BatchBytes == 0 {
		cfg.BatchBytes = batchBytes
	}
	m := &importer{
		cfg: cfg, start: cfg.Now(),
		series: map[point.Series]*series{}, heads: map[string]map[point.Series]api.Point{}, newest: map[point.Series]point.Point{},
	}
	err := m.run(ctx)
	r := m.result()
	r.Refusals = slices.DeleteFunc(m.refusals, func(f Refusal) bool { return f.Line > r.Line }) // these come again
	return r, err
}

// importer is an import that is under way.
type importer struct {
	cfg   ImportConfig
	start time.Time
	nodes *Nodes

	// Of the reading goroutine.
	reader   *Reader
	latest   uint64    // time that a row may have, when the clock was read last
	names    []*series // by the numbers of names
	series   map[point.Series]*series
	heads    map[string]map[point.Series]api.Point // of nodes, when they were named first
	batch    batch
	touched  []*series // of the batch
	refusals []Refusal

	// Of the sending goroutine.
	newest map[point.Series]point.Point // of what is durable
	done   batch
}

// series is one series of a trace, which may have several names.
type series struct {
	point.Series
	refused  error          // why its rows are
	dataType point.DataType // of its head, Unknown if it has none
	column   *frame.Column  // of the batch, nil for nothing
}

// batch is what is sent at once, and what was done when it was complete.
type batch struct {
	columns map[point.Series]*frame.Column
	bytes   int
	counts  ImportCounts
	line    int
}

func (m *importer) run(ctx context.Context) (err error) {
	if m.nodes, err = ReadNodes(ctx, m.cfg.Client, m.cfg.Parent); err != nil {
		return err
	}
	m.nodes.DryRun = m.cfg.DryRun
	if m.reader, err = NewReader(m.cfg.File); err != nil {
		return err
	}
	batches := make(chan batch) // closed when the file has ended
	group, sending := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(batches)
		return m.read(sending, batches)
	})
	group.Go(func() error {
		for b := range batches {
			if err := m.send(sending, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil || m.cfg.DryRun {
		return err
	}
	return m.writeNewest(ctx)
}

// read collects rows in batches.
func (m *importer) read(ctx context.Context, batches chan<- batch) error {
	for {
		row, err := m.reader.Next()
		if err == io.EOF {
			return m.flush(ctx, batches)
		}
		m.batch.counts.Read++
		if err == nil {
			err = m.add(ctx, &row)
		}
		if err != nil {
			var bad *BadRow
			if !errors.As(err, &bad) {
				return err
			}
			m.batch.line = bad.Line
			m.batch.counts.Refused++
			m.refusals = Refuse(m.refusals, bad.Line, bad.Err)
			if ctx.Err() != nil { // no batch may become full
				return ctx.Err()
			}
			continue
		}
		m.batch.line = row.Line
		m.batch.counts.Imported++
		if m.batch.bytes >= m.cfg.BatchBytes {
			if err := m.flush(ctx, batches); err != nil {
				return err
			}
		}
	}
}

// add puts a row into the batch.
func (m *importer) add(ctx context.Context, r *Row) error {
	s, err := m.named(ctx, r.Name)
	if err != nil {
		return err
	}
	if s.refused != nil {
		return &BadRow{r.Line, s.refused}
	}
	if r.Time > m.latest {
		if m.latest = point.Nanos(m.cfg.Now().Add(maxAhead)); r.Time > m.latest {
			return &BadRow{r.Line, api.Errorf(api.CodeTime, "", "time %s is in the future", point.TimeOf(r.Time).Format(time.RFC3339Nano))}
		}
	}
	p := s.point(r)
	if err := point.CheckValue(&p); err != nil {
		return &BadRow{r.Line, err}
	}
	if len(p.Data) > numberBytes && client.GroupLen(&p) > point.MaxGroupBytes {
		return &BadRow{r.Line, api.Errorf(api.CodeTooLarge, "store a reference", "value has %d bytes", len(p.Data))}
	}
	if s.column == nil {
		s.column = &frame.Column{}
		m.touched = append(m.touched, s)
		m.batch.bytes += columnBytes
	}
	s.column.Append(&p)
	if m.batch.bytes += numberBytes; p.DataType == point.String || p.DataType == point.JSON {
		m.batch.bytes += textBytes + len(p.Data)
	}
	return nil
}

// point returns the point of a row. A whole number is an integer if the value
// of now is one: CSV does not tell.
func (s *series) point(r *Row) point.Point {
	p := r.Point()
	p.Series = s.Series
	if p.DataType == point.Float && (s.dataType == point.Int || s.dataType == point.Uint) {
		if data, err := point.ParseValue(string(r.Text), s.dataType, 0); err == nil {
			p.DataType, p.Data = s.dataType, data
		}
	}
	return p
}

// named returns the series of a name.
func (m *importer) named(ctx context.Context, name *Name) (*series, error) {
	for len(m.names) <= name.Number {
		m.names = append(m.names, nil)
	}
	if s := m.names[name.Number]; s != nil {
		return s, nil
	}
	s, err := m.find(ctx, name)
	if client.Refused(err) {
		s, err = &series{refused: err}, nil
	}
	m.names[name.Number] = s
	return s, err
}

// find returns the series of a name that is new, making its node if there is
// none.
func (m *importer) find(ctx context.Context, name *Name) (*series, error) {
	key := point.Series{Node: m.nodes.root, Type: name.Type, Key: name.Key}
	if err := point.CheckSeries(key); err != nil { // before a node is made for it
		return nil, err
	}
	id, made, err := m.nodes.Find(ctx, name.Node)
	if err != nil {
		return nil, err
	}
	if key.Node = id; made {
		m.batch.counts.Nodes++
		m.heads[id] = map[point.Series]api.Point{}
	} else if m.heads[id] == nil {
		if m.heads[id], err = m.headsOf(ctx, id); err != nil {
			return nil, err
		}
	}
	s := m.series[key]
	if s == nil {
		s = &series{Series: key}
		s.dataType, _ = point.ParseDataType(m.heads[id][key].DataType)
		m.series[key] = s
		m.batch.counts.Series++
	}
	return s, nil
}

// headsOf returns the values of now of a node.
func (m *importer) headsOf(ctx context.Context, node string) (heads map[point.Series]api.Point, err error) {
	var n *api.Node
	err = client.Retry(ctx, func() (err error) {
		n, err = m.cfg.Client.Get(ctx, node)
		return err
	})
	if err != nil {
		return nil, err
	}
	heads = map[point.Series]api.Point{}
	for _, p := range n.Points {
		heads[point.Series{Node: node, Type: p.Type, Key: p.Key}] = p
	}
	return heads, nil
}

// flush hands over the batch. It blocks while the one before is on its way.
func (m *importer) flush(ctx context.Context, batches chan<- batch) error {
	b := m.batch
	b.columns = make(map[point.Series]*frame.Column, len(m.touched))
	for _, s := range m.touched {
		b.columns[s.Series], s.column = s.column, nil
	}
	m.touched, m.batch.bytes = m.touched[:0], 0
	select {
	case batches <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send puts a batch into history.
func (m *importer) send(ctx context.Context, b batch) error {
	for _, c := range b.columns {
		c.Sort()
	}
	if !m.cfg.DryRun {
		err := client.Retry(ctx, func() error { return m.cfg.Client.Import(ctx, m.nodes.root, b.columns) })
		if err != nil {
			return err
		}
	}
	for s, c := range b.columns {
		if p := c.Point(c.Len() - 1); p.Time >= m.newest[s].Time {
			p.Series = s
			m.newest[s] = p
		}
	}
	b.columns = nil
	m.done = b
	if m.cfg.Progress != nil {
		m.cfg.Progress(m.result().ImportCounts)
	}
	return nil
}

// writeNewest writes the newest points that are newer than the values of now.
func (m *importer) writeNewest(ctx context.Context) error {
	heads := map[string]map[point.Series]api.Point{}
	var newer []point.Point
	for _, s := range slices.SortedFunc(maps.Keys(m.newest), point.Series.Compare) {
		if heads[s.Node] == nil {
			var err error
			if heads[s.Node], err = m.headsOf(ctx, s.Node); err != nil {
				return err
			}
		}
		head := uint64(0)
		if h, ok := heads[s.Node][s]; ok {
			at, err := time.Parse(time.RFC3339Nano, h.Time)
			if err != nil {
				return fmt.Errorf("time of %s: %w", s, err)
			}
			head = point.Nanos(at)
		}
		if p := m.newest[s]; p.Time > head {
			newer = append(newer, p)
		}
	}
	for len(newer) > 0 {
		n := client.GroupOf(newer)
		if err := client.Retry(ctx, func() error { return m.cfg.Client.Write(ctx, newer[:n]) }); err != nil {
			return err
		}
		newer = newer[n:]
	}
	return nil
}

// result returns what is done; the sending goroutine calls it while it is
// there.
func (m *importer) result() ImportResult {
	r := ImportResult{ImportCounts: m.done.counts, Line: m.done.line}
	r.Seconds = m.cfg.Now().Sub(m.start).Seconds()
	if r.Seconds > 0 {
		r.PointsPerSecond = float64(r.Imported) / r.Seconds
	}
	return r
}
