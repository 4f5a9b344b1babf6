package codec

import (
	"time"

	"github.com/sapflow/sapflow/shared/frame"
)

const (
	author = "k3x9m2q7w4t8z5n1"
	epoch  = frame.Epoch(3<<40 | 0x12_3456_789a)
)

// next returns a function that makes log frames which continue each other.
func next() func([]frame.Entry) *frame.Frame {
	end := frame.Position{Cursor: frame.Cursor{Epoch: epoch, Seq: 1_000_000}, Sum: 0x1234_5678_9abc_def0}
	return func(entries []frame.Entry) *frame.Frame {
		now := entries[len(entries)-1].Time + uint64(123*time.Millisecond)
		f := &frame.Frame{
			Kind: frame.Log, Now: now / 1e6 * 1e6, Epoch: epoch,
			Prev: end.Seq, First: end.Seq + 1, Base: end.Sum, Entries: entries,
		}
		f.Seal()
		end = f.End()
		return f
	}
}

func entriesOf(f *frame.Frame, err error) ([]frame.Entry, error) {
	if err != nil {
		return nil, err
	}
	return f.Entries, nil
}

// stored is a log frame as it is stored, which holds the full names. Its
// times are nanoseconds, its order is that of the log, and it holds epoch,
// sequence numbers, running checksum and a checksum of itself. Encoding
// includes the running checksum.
func stored(name string) codec {
	frames := next()
	return codec{
		name:   name,
		encode: func(entries []frame.Entry) []byte { return frames(entries).Encode() },
		decode: func(b []byte) ([]frame.Entry, error) { return entriesOf(frame.Decode(b, author)) },
	}
}

// session is the same as it goes over a link: names, and what the frames
// before have taught, are told once.
func session(name string) codec {
	frames := next()
	var out, in frame.Session
	return codec{
		name:   name,
		encode: func(entries []frame.Entry) []byte { return out.Encode(frames(entries), frame.Version) },
		decode: func(b []byte) ([]frame.Entry, error) { return entriesOf(in.Decode(b, author)) },
	}
}
