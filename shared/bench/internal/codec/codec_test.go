package codec

import (
	"encoding/binary"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/trace"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

func TestCodecsAreLossless(t *testing.T) {
	for _, g := range trace.All(1) {
		entries := g.Points(1000)
		// A counter that no float holds.
		p := entries[0].Point
		p.DataType, p.Data = point.Uint, binary.LittleEndian.AppendUint64(nil, 1<<60+1)
		entries = append(entries, frame.Entry{Point: p})
		for _, c := range codecs(number(entries)) {
			for _, size := range []int{1, 7, len(entries)} {
				part := entries[len(entries)-size:]
				got, err := c.decode(c.encode(part))
				if err == nil {
					err = same(part, got)
				}
				if err != nil {
					t.Errorf("%s, %s, %d points: %v", g.Name, c.name, size, err)
				}
			}
		}
	}
}
