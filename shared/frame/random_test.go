package frame_test

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

var (
	update   = flag.Bool("update", false, "rewrite the golden files")
	seedFlag = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")
)

// newRand returns the random numbers of a test and logs how to get the same
// ones again.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = time.Now().UnixNano()
	}
	t.Logf("random test: repeat with -run '^%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

// author is whose log the frames of the tests belong to.
const author = "gw1"

// sameEntries tells whether two lists of entries are equal in all that a frame
// carries.
func sameEntries(a, b []frame.Entry) bool {
	return slices.EqualFunc(a, b, func(a, b frame.Entry) bool {
		return a.Series == b.Series && a.Time == b.Time && a.Tombstone == b.Tombstone && a.Origin == b.Origin &&
			a.DataType == b.DataType && bytes.Equal(a.Data, b.Data) &&
			a.Author == b.Author && a.At == b.At && a.More == b.More
	})
}

// diff returns the first difference of two frames, "" if they are equal.
func diff(a, b *frame.Frame) string {
	head := func(f *frame.Frame) string {
		return fmt.Sprintf("kind %d now %d epoch %s prev %d first %d last %d base %x sum %x before %v covers %v again %v aside %v entries %d",
			f.Kind, f.Now, f.Epoch, f.Prev, f.First, f.Last, f.Base, f.Sum, f.Before, f.Covers, f.Again, f.Aside, len(f.Entries))
	}
	if x, y := head(a), head(b); x != y {
		return fmt.Sprintf("got  %s\nwant %s", x, y)
	}
	for i := range a.Entries {
		if !sameEntries(a.Entries[i:i+1], b.Entries[i:i+1]) {
			return fmt.Sprintf("entry %d: got %+v, want %+v", i, a.Entries[i], b.Entries[i])
		}
	}
	return ""
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomString(r *rand.Rand, n int) string { return string(randomBytes(r, r.IntN(n+1))) }

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func randomUint(r *rand.Rand) uint64 {
	return pick(r, 0, 1, math.MaxUint64, 1<<63, 1<<63-1, r.Uint64(), r.Uint64()>>r.IntN(64))
}

// randomSeries has names that Check would refuse, too: the codec carries them
// to the door, which judges.
func randomSeries(r *rand.Rand) point.Series {
	s := point.Series{Node: fmt.Sprintf("n%d", r.IntN(5)), Type: pick(r, "temp", "nodeType", "größe", ""), Key: pick(r, "0", "a/b", "")}
	if r.IntN(3) == 0 {
		s.Up = fmt.Sprintf("n%d", r.IntN(5))
	}
	if r.IntN(20) == 0 {
		s = point.Series{Up: randomString(r, 70), Node: randomString(r, 70), Type: randomString(r, 300), Key: randomString(r, 70)}
	}
	return s
}

func randomPoint(r *rand.Rand, time uint64) point.Point {
	p := point.Point{Series: randomSeries(r), Time: time}
	switch r.IntN(4) {
	case 0:
		p.DataType, p.Data = point.DataType(r.IntN(256)), randomBytes(r, r.IntN(40))
	case 1:
		p.DataType, p.Data = point.String, []byte("text")
	default:
		p.DataType, p.Data = point.Float, point.FloatData(float64(r.IntN(1000))/10)
	}
	if r.IntN(5) == 0 {
		p.Tombstone = uint8(r.IntN(256))
	}
	if r.IntN(3) == 0 {
		p.Origin = pick(r, "anna", "driver", randomString(r, 255))
	}
	return p
}

// randomEntries returns n entries in groups, the last of which is closed.
func randomEntries(r *rand.Rand, n int) []frame.Entry {
	list := make([]frame.Entry, n)
	time := uint64(1_700_000_000_000_000_000)
	grouped := r.IntN(2) == 0
	for i := range list {
		switch r.IntN(10) {
		case 0:
			time = randomUint(r)
		case 1, 2: // equal times
		default:
			time += 1_000_000_000 + uint64(r.IntN(1000))
		}
		list[i].Point = randomPoint(r, time)
		list[i].More = grouped && i < n-1 && r.IntN(2) == 0
	}
	return list
}

// randomFrame returns any frame that an instance may write.
func randomFrame(r *rand.Rand) *frame.Frame {
	n := pick(r, 0, 1, 2, r.IntN(20), r.IntN(400))
	f := &frame.Frame{Kind: pick(r, frame.Log, frame.Relay, frame.Heads), Now: randomUint(r), Entries: randomEntries(r, n)}
	if f.Kind != frame.Log {
		for i := range f.Entries {
			f.Entries[i].Author = pick(r, "hub", "gw2", "", randomString(r, 70))
			f.Entries[i].At = frame.Cursor{Epoch: frame.Epoch(randomUint(r)), Seq: randomUint(r)}
		}
	}
	if f.Kind != frame.Heads {
		placeInLog(r, f)
	}
	if len(f.Entries) == 0 {
		f.Entries = nil
	}
	return f
}

// placeInLog gives a log or relay frame a place, sometimes after a gap, at
// the begin of an epoch, with points set aside.
func placeInLog(r *rand.Rand, f *frame.Frame) {
	f.Epoch = frame.Epoch(randomUint(r))
	f.Prev = randomUint(r) >> 1
	f.First = f.Prev + 1
	if r.IntN(3) == 0 {
		f.First += randomUint(r) >> 2
	}
	f.Base = r.Uint64()
	if r.IntN(3) == 0 {
		f.Before = frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(randomUint(r)), Seq: randomUint(r)}, Sum: randomUint(r)}
	}
	if f.Kind == frame.Relay {
		f.Covers = frame.Covers{Edge: randomUint(r), Hub: randomUint(r)}
	}
	if r.IntN(3) == 0 {
		f.Again = frame.Cursor{Epoch: frame.Epoch(randomUint(r)), Seq: randomUint(r)}
	}
	f.Seal()
	all := f.Entries
	for i := range all {
		if f.Kind == frame.Log {
			all[i].Author, all[i].At = author, frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}
		}
	}
	if r.IntN(3) > 0 {
		return
	}
	f.Entries = nil
	for i := range all {
		if r.IntN(4) == 0 {
			f.Aside = append(f.Aside, frame.Aside{Seq: f.First + uint64(i), Reason: frame.Reason(r.IntN(256))})
			if n := len(f.Entries); n > 0 && !all[i].More {
				f.Entries[n-1].More = false // as the door does: the group ends before the point set aside
			}
		} else {
			f.Entries = append(f.Entries, all[i])
		}
	}
}
