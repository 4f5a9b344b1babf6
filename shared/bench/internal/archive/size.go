package archive

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

const sizeTitle = `Bytes at rest a point: files of Sapflow's stream of chunks, of an agent that has stopped, and what of them no newer version of a chunk has replaced; beside
the same points in Parquet (parquet-go 0.32.0): series, time in ms and value, sorted by series and time, series and time delta encoded, texts in a
dictionary, all with zstd at its best, and the values in one of three encodings.`

// parquetDays of the pump station are written as Parquet: more would take
// long, and be no different.
const parquetDays = 3

// sizes measures what a point takes at rest.
func sizes(ctx context.Context, b *bench) error {
	office, err := trace.Occupancy(b.Trace)
	if err != nil {
		return err
	}
	r := row{Name: "occupancy", Target: "<= 2.2, less than Parquet", Note: fmt.Sprintf("%s points of 6 series, a minute each", report.Whole(len(office)))}
	if err := b.inLab(func(l *lab.Lab) error { return b.sizeOf(ctx, l, r, office) }); err != nil {
		return err
	}
	if err := b.parquet(r, office); err != nil {
		return err
	}
	return b.sizeOfFixture(ctx)
}

// sizeOf measures points that a new gateway imports.
func (b *bench) sizeOf(ctx context.Context, l *lab.Lab, r row, list []frame.Entry) error {
	g, err := l.Alone(ctx)
	if err != nil {
		return err
	}
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	nodes := map[string]bool{}
	for i := range list {
		nodes[list[i].Node] = true
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		if err := c.NodeCreate(ctx, node, g.ID, "sensor", node); err != nil {
			return err
		}
	}
	err = fixture.Import(ctx, c, g.ID, func(int) {}, func(yield func(*frame.Entry) bool) {
		for i := range list {
			if !yield(&list[i]) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return b.addSizes(ctx, r, g, len(list))
}

// addSizes stops a gateway and adds what its chunks take.
func (b *bench) addSizes(ctx context.Context, r row, g *lab.Instance, points int) error {
	c, err := g.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// Once it tells of the past its chunks are open, and count.
	asked := api.HistoryRequest{Type: point.TypeNodeType, Limit: 1}
	if err := c.History(ctx, g.ID, asked, func(*api.HistoryReply) error { return nil }); err != nil {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if err := g.Stop(); err != nil {
		return err
	}
	live := int64(status.StoreBytes)
	for _, log := range []string{subject.StreamEdge, subject.StreamDown} { // small, and all of them is live
		dir, err := fixture.Stream(g.Dir, log)
		if err != nil {
			return err
		}
		size, err := lab.Size(filepath.Join(dir, "msgs"))
		if err != nil {
			return err
		}
		live -= size
	}
	disk, err := fixture.ChunkBytes(g.Dir)
	if err != nil {
		return err
	}
	b.Add(r, sapflow, float64(disk)/float64(points))
	b.Add(r, "of that live", float64(live)/float64(points))
	return nil
}

func (b *bench) sizeOfFixture(ctx context.Context) error {
	f, err := b.fixture(ctx)
	if err != nil {
		return err
	}
	days := min(parquetDays, f.Days)
	r := row{
		Name: "pump station, g1", Target: "<= 1.3, less than Parquet",
		Note: fmt.Sprintf("%d days, %s points of 30 series; Parquet: the first %d of them", f.Days, report.Whole(f.Points), days),
	}
	err = b.onFixture(ctx, func(f *fixture.Fixture, g *lab.Instance) error { return b.addSizes(ctx, r, g, f.Points) })
	if err != nil {
		return err
	}
	var list []frame.Entry
	for e := range f.All() {
		if e.Time >= f.Start+uint64(days)*day {
			break
		}
		list = append(list, *e)
	}
	return b.parquet(r, list)
}

// parquet adds the sizes of files with points.
func (b *bench) parquet(r row, list []frame.Entry) error {
	slices.SortStableFunc(list, func(a, b frame.Entry) int {
		return cmp.Or(a.Series.Compare(b.Series), cmp.Compare(a.Time, b.Time))
	})
	for _, of := range []struct {
		column string
		size   func([]frame.Entry) (int64, error)
	}{{"Parquet, values plain", parquetSize[plainRow]}, {"split", parquetSize[splitRow]}, {"in a dictionary", parquetSize[dictRow]}} {
		n, err := of.size(list)
		if err != nil {
			return fmt.Errorf("write Parquet: %w", err)
		}
		b.Add(r, of.column, float64(n)/float64(len(list)))
	}
	return nil
}

// Rows of a Parquet file differ in how a value is encoded.
type (
	plainRow struct {
		Series int32   `parquet:"series,delta"`
		Time   int64   `parquet:"time,delta"`
		Value  float64 `parquet:"value"`
		Text   string  `parquet:"text,dict"`
	}
	splitRow struct {
		Series int32   `parquet:"series,delta"`
		Time   int64   `parquet:"time,delta"`
		Value  float64 `parquet:"value,split"`
		Text   string  `parquet:"text,dict"`
	}
	dictRow struct {
		Series int32   `parquet:"series,delta"`
		Time   int64   `parquet:"time,delta"`
		Value  float64 `parquet:"value,dict"`
		Text   string  `parquet:"text,dict"`
	}
)

// parquetSize returns the size of a file with rows of a kind.
func parquetSize[R plainRow | splitRow | dictRow](list []frame.Entry) (int64, error) {
	var size counter
	w := parquet.NewGenericWriter[R](&size, parquet.Compression(&zstd.Codec{Level: zstd.SpeedBestCompression}), parquet.PageBufferSize(1<<20))
	rows := make([]R, 0, 4096)
	series := int32(0)
	for i := range list {
		e := &list[i]
		if i > 0 && e.Series != list[i-1].Series {
			series++
		}
		v := plainRow{Series: series, Time: int64(e.Time / 1e6)}
		if n, ok := e.Number(); ok {
			v.Value = n
		} else {
			v.Text = e.Text()
		}
		rows = append(rows, R(v))
		if len(rows) == cap(rows) || i == len(list)-1 {
			if _, err := w.Write(rows); err != nil {
				return 0, err
			}
			rows = rows[:0]
		}
	}
	err := w.Close()
	return int64(size), err
}

// counter counts what is written.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
