// Package codec measures what a point takes in a frame of Sapflow, beside
// three codecs that others would take, over the traces of package trace.
//
// The peers get all that is usual to be given: the best level of zstd, time in
// whole milliseconds, which the traces allow, and series as small numbers.
// Every codec is lossless for the traces, which is checked for each frame.
package codec

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// Config says what is measured and where it goes.
type Config struct {
	Trace string // recorded trace, required
	Quick bool   // fewer frames; the files are left alone
	JSON  bool   // print JSON; the files are left alone

	Table, Data string // files for the table and for the same in JSON
	Out         io.Writer
}

// Results is what a run has measured.
type Results struct {
	Machine report.Machine `json:"machine"`
	Seed    uint64         `json:"seed"` // of the generators
	Rows    []Row          `json:"rows"`
}

// Row is one codec on frames of one size from one trace.
type Row struct {
	Trace         string  `json:"trace"`
	Codec         string  `json:"codec"`
	Points        int     `json:"points"` // a frame
	Frames        int     `json:"frames"`
	BytesPerPoint float64 `json:"bytesPerPoint"`
	EncodeNS      float64 `json:"encodeNsPerPoint"`
	DecodeNS      float64 `json:"decodeNsPerPoint"`
}

// codec turns points into bytes and back. Points come back with the series
// that the codec knows; order between series may differ.
type codec struct {
	name   string
	encode func([]frame.Entry) []byte
	decode func([]byte) ([]frame.Entry, error)
}

// codecs returns all codecs, new for a trace with these series.
func codecs(n *numbers) []codec {
	return []codec{stored("Sapflow, as stored"), session("Sapflow, on a line"), xor(n), protobuf(n), jsonZstd(n)}
}

// numbers numbers the series of a trace.
type numbers struct {
	of   map[point.Series]int
	list []point.Series
}

func number(entries []frame.Entry) *numbers {
	n := &numbers{of: map[point.Series]int{}}
	for i := range entries {
		s := entries[i].Series
		if _, known := n.of[s]; !known {
			n.of[s] = len(n.list)
			n.list = append(n.list, s)
		}
	}
	return n
}

// sizes are the points of a frame: one that goes at once, a second of 30
// nodes, 10 seconds, and a piece of a backlog.
var sizes = [...]int{1, 30, 300, 10_000}

const (
	leastFrames = 20
	mostFrames  = 1000
	// enoughPoints of one size steady the average.
	enoughPoints = 60_000
)

// Run measures.
func Run(ctx context.Context, cfg Config) error {
	r := &Results{Machine: report.Here(), Seed: trace.Seed}
	office, err := trace.Occupancy(cfg.Trace)
	if err != nil {
		return err
	}
	if err := r.measure(ctx, &cfg, "occupancy", office); err != nil {
		return err
	}
	for _, g := range trace.All(trace.Seed) {
		if err := r.measure(ctx, &cfg, g.Name, g.Points(leastFrames*sizes[len(sizes)-1])); err != nil {
			return err
		}
	}
	if cfg.JSON {
		return report.Print(cfg.Out, r)
	}
	text := r.Markdown()
	if cfg.Quick {
		_, err := io.WriteString(cfg.Out, text)
		return err
	}
	if err := report.WriteJSON(cfg.Data, r); err != nil {
		return err
	}
	return report.WriteSection(cfg.Table, "codec", text)
}

func (r *Results) measure(ctx context.Context, cfg *Config, name string, entries []frame.Entry) error {
	for _, c := range codecs(number(entries)) {
		for _, size := range sizes {
			if err := ctx.Err(); err != nil {
				return err
			}
			frames := min(max(leastFrames, enoughPoints/size), mostFrames)
			if cfg.Quick {
				frames = min(frames, 3)
			}
			row, err := measure(&c, entries, size, frames)
			if err != nil {
				return fmt.Errorf("%s, %s, %d points: %w", name, c.name, size, err)
			}
			row.Trace = name
			r.Rows = append(r.Rows, row)
		}
	}
	return nil
}

// measure encodes and decodes frames that follow each other; those of a trace
// too short for so many overlap evenly.
func measure(c *codec, entries []frame.Entry, size, frames int) (Row, error) {
	step := size
	if frames > 1 {
		step = min(step, (len(entries)-size)/(frames-1))
	}
	var encoding, decoding time.Duration
	total := 0
	for k := range frames {
		part := entries[k*step : k*step+size]
		began := time.Now()
		b := c.encode(part)
		encoding += time.Since(began)
		began = time.Now()
		got, err := c.decode(b)
		decoding += time.Since(began)
		if err != nil {
			return Row{}, err
		}
		if err := same(part, got); err != nil {
			return Row{}, err
		}
		total += len(b)
	}
	points := float64(size * frames)
	return Row{
		Codec: c.name, Points: size, Frames: frames, BytesPerPoint: float64(total) / points,
		EncodeNS: float64(encoding.Nanoseconds()) / points, DecodeNS: float64(decoding.Nanoseconds()) / points,
	}, nil
}

// same checks that each series came back with its points in order.
func same(want, got []frame.Entry) error {
	if len(want) != len(got) {
		return fmt.Errorf("%d points became %d", len(want), len(got))
	}
	bySeries := map[point.Series][]*frame.Entry{}
	for i := range got {
		bySeries[got[i].Series] = append(bySeries[got[i].Series], &got[i])
	}
	for i := range want {
		w := &want[i]
		rest := bySeries[w.Series]
		if len(rest) == 0 {
			return fmt.Errorf("a point of %s is missing", w.Series)
		}
		if g := rest[0]; g.Time != w.Time || g.DataType != w.DataType || !bytes.Equal(g.Data, w.Data) {
			return fmt.Errorf("%s at %d: %s %x became %s %x at %d", w.Series, w.Time, w.DataType, w.Data, g.DataType, g.Data, g.Time)
		}
		bySeries[w.Series] = rest[1:]
	}
	return nil
}
