package codec

import (
	"strconv"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// sapflow is a log frame as it is stored, which holds the full names; the
// frames of one codec continue each other. Its times are nanoseconds, its
// order is that of the log, and it holds epoch, sequence numbers, running
// checksum and a checksum of itself. Encoding includes the running checksum.
func sapflow(name string) codec {
	const author, epoch = "k3x9m2q7w4t8z5n1", 3<<40 | 0x12_3456_789a
	end := frame.Position{Cursor: frame.Cursor{Epoch: epoch, Seq: 1_000_000}, Sum: 0x1234_5678_9abc_def0}
	return codec{
		name: name,
		encode: func(entries []frame.Entry) []byte {
			f := frame.Frame{
				Kind: frame.Log, Now: entries[len(entries)-1].Time + 123_456_789, Epoch: epoch,
				Prev: end.Seq, First: end.Seq + 1, Base: end.Sum, Entries: entries,
			}
			f.Seal()
			end = f.End()
			return f.Encode()
		},
		decode: func(b []byte) ([]frame.Entry, error) {
			f, err := frame.Decode(b, author)
			if err != nil {
				return nil, err
			}
			return f.Entries, nil
		},
	}
}

// short gives a codec series that are named by their number alone, about what
// a frame takes on a line where the receiver knows the names.
func short(n *numbers, c codec) codec {
	names := make([]point.Series, len(n.list))
	back := map[point.Series]point.Series{}
	for i, s := range n.list {
		names[i] = point.Series{Node: strconv.Itoa(i), Type: "v", Key: point.NoKey}
		back[names[i]] = s
	}
	swapped := func(entries []frame.Entry, to func(point.Series) point.Series) []frame.Entry {
		list := make([]frame.Entry, len(entries))
		for i := range entries {
			list[i] = entries[i]
			list[i].Series = to(entries[i].Series)
		}
		return list
	}
	return codec{
		name: c.name,
		encode: func(entries []frame.Entry) []byte {
			return c.encode(swapped(entries, func(s point.Series) point.Series { return names[n.of[s]] }))
		},
		decode: func(b []byte) ([]frame.Entry, error) {
			entries, err := c.decode(b)
			return swapped(entries, func(s point.Series) point.Series { return back[s] }), err
		},
	}
}
