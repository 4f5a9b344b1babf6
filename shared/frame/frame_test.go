package frame_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sapflow/sapflow/shared/frame"
)

func TestEpoch(t *testing.T) {
	const random = 1<<40 - 1
	for _, c := range []struct {
		e      frame.Epoch
		bits   uint64
		others []frame.Epoch
		want   frame.Epoch
		text   string
	}{
		{0, 5, nil, 1<<40 | 5, "1-0000000005"},
		{0, ^uint64(0), nil, 1<<40 | random, "1-ffffffffff"},
		{1<<40 | random, 0, nil, 2 << 40, "2-0000000000"},
		{3<<40 | 7, 9, []frame.Epoch{1 << 40, 8<<40 | 1}, 9<<40 | 9, "9-0000000009"},
		{3<<40 | 7, 9, []frame.Epoch{1 << 40, 0}, 4<<40 | 9, "4-0000000009"},
		{0xffff<<40 | 1, 2, nil, 0x10000<<40 | 2, "65536-0000000002"},
	} {
		got := c.e.Next(c.bits, c.others...)
		if got != c.want || got.String() != c.text {
			t.Errorf("%s.Next(%x, %v): got %s, want %s", c.e, c.bits, c.others, got, c.text)
		}
		if got.Generation() != uint64(c.want>>40) {
			t.Errorf("%s: got generation %d, want %d", got, got.Generation(), c.want>>40)
		}
	}
}

func TestEpochOrder(t *testing.T) {
	r := newRand(t)
	var e frame.Epoch
	cur := frame.Cursor{}
	for range 1000 {
		other := frame.Epoch(r.Uint64N(3)<<40 + uint64(e))
		next := e.Next(r.Uint64(), other)
		if next <= e || next <= other || next.Generation() <= max(e.Generation(), other.Generation()) {
			t.Fatalf("%s follows %s and %s, want a later generation", next, e, other)
		}
		at := frame.Cursor{Epoch: next, Seq: r.Uint64N(10)}
		if !cur.Less(at) || at.Less(cur) {
			t.Fatalf("%v is not before %v, want epochs before numbers", cur, at)
		}
		e, cur = next, at
	}
	a, b := frame.Cursor{Epoch: e, Seq: 3}, frame.Cursor{Epoch: e, Seq: 4}
	if !a.Less(b) || b.Less(a) || a.Less(a) {
		t.Errorf("cursors of one epoch are not ordered by number")
	}
}

func TestFollows(t *testing.T) {
	at := func(e frame.Epoch, seq, sum uint64) frame.Position {
		return frame.Position{Cursor: frame.Cursor{Epoch: e, Seq: seq}, Sum: sum}
	}
	const (
		epoch2b = frame.Epoch(2<<40 | 0xff) // another box that began the same generation
		epoch3  = frame.Epoch(3<<40 | 1)
	)
	zero := frame.Position{}
	// A frame of epoch 2: points 11..20 with sum 100 before and 200 after.
	f := frame.Frame{Kind: frame.Log, Epoch: epoch2, Prev: 10, First: 11, Last: 20, Base: 100, Sum: 200}
	gap := f
	gap.Prev, gap.First, gap.Last = 10, 16, 20 // 11..15 are missing
	empty := f
	empty.First, empty.Last, empty.Sum = 11, 10, 100
	emptyGap := gap
	emptyGap.Last, emptyGap.Sum = 15, 100
	first := frame.Frame{Kind: frame.Log, Epoch: epoch2, Prev: 0, First: 1, Last: 5, Sum: 50, Before: at(epoch1, 7, 70)}
	firstGap := first
	firstGap.First, firstGap.Base = 3, 30
	begin := frame.Frame{Kind: frame.Log, Epoch: epoch1, Prev: 0, First: 1, Last: 5, Sum: 50}
	names := []string{"Continues", "Repeats", "Overlaps", "Missing", "Superseded"}
	for _, c := range []struct {
		name string
		f    frame.Frame
		cur  frame.Position
		want frame.Relation
	}{
		{"next", f, at(epoch2, 10, 100), frame.Continues},
		{"same numbers before, other content", f, at(epoch2, 10, 101), frame.Missing},
		{"exactly known", f, at(epoch2, 20, 200), frame.Repeats},
		{"known since long", f, at(epoch2, 4000, 1), frame.Repeats},
		{"some known", f, at(epoch2, 15, 150), frame.Overlaps},
		{"all but one known", f, at(epoch2, 19, 190), frame.Overlaps},
		{"one known", f, at(epoch2, 11, 110), frame.Overlaps},
		{"one missing", f, at(epoch2, 9, 90), frame.Missing},
		{"all before missing", f, at(epoch2, 0, 0), frame.Missing},

		{"gap, next", gap, at(epoch2, 10, 100), frame.Continues},
		{"gap, the sum of what is missing is not known", gap, at(epoch2, 10, 55), frame.Continues},
		{"gap, reader within it", gap, at(epoch2, 12, 120), frame.Overlaps},
		{"gap, reader at its end", gap, at(epoch2, 15, 100), frame.Overlaps},
		{"gap, reader in the points", gap, at(epoch2, 17, 170), frame.Overlaps},
		{"gap, known", gap, at(epoch2, 20, 200), frame.Repeats},
		{"gap, before it missing", gap, at(epoch2, 8, 80), frame.Missing},

		{"empty, next", empty, at(epoch2, 10, 100), frame.Continues},
		{"empty, other content", empty, at(epoch2, 10, 101), frame.Missing},
		{"empty, ahead of the reader", empty, at(epoch2, 9, 90), frame.Missing},
		{"empty, behind the reader", empty, at(epoch2, 11, 110), frame.Repeats},
		{"only a gap, next", emptyGap, at(epoch2, 10, 100), frame.Continues},
		{"only a gap, again", emptyGap, at(epoch2, 15, 100), frame.Repeats},
		{"only a gap, within it", emptyGap, at(epoch2, 12, 100), frame.Overlaps},

		{"new epoch, next", first, at(epoch1, 7, 70), frame.Continues},
		{"new epoch with a gap", firstGap, at(epoch1, 7, 70), frame.Continues},
		{"new epoch, reader behind in the old one", first, at(epoch1, 6, 60), frame.Missing},
		{"new epoch, reader ahead in the old one", first, at(epoch1, 8, 80), frame.Missing},
		{"new epoch, other content in the old one", first, at(epoch1, 7, 71), frame.Missing},
		{"new epoch follows another epoch", first, at(1<<40, 7, 70), frame.Missing},
		{"new epoch, reader new", first, zero, frame.Missing},
		{"new epoch, not its first frame", f, at(epoch1, 7, 70), frame.Missing},
		{"new epoch, repeated", first, at(epoch2, 5, 50), frame.Repeats},
		{"new epoch, some known", first, at(epoch2, 3, 30), frame.Overlaps},
		{"new epoch, not its first frame though it names the one before", frame.Frame{Epoch: epoch2, Prev: 3, First: 4, Last: 5, Before: at(epoch1, 7, 70)}, at(epoch1, 7, 70), frame.Missing},
		{"two epochs on", frame.Frame{Epoch: epoch3, First: 1, Last: 5, Before: at(epoch2, 5, 50)}, at(epoch1, 7, 70), frame.Missing},

		{"first epoch, reader new", begin, zero, frame.Continues},
		{"first epoch, repeated", begin, at(epoch1, 5, 50), frame.Repeats},
		{"epoch with nothing before, reader not new", frame.Frame{Epoch: epoch3, First: 1, Last: 5}, at(epoch1, 5, 50), frame.Missing},
		{"nothing of nothing", frame.Frame{First: 1}, zero, frame.Continues},

		{"old epoch", begin, at(epoch2, 3, 30), frame.Superseded},
		{"old epoch, even if it says to follow", frame.Frame{Epoch: epoch1, First: 1, Last: 5, Before: at(epoch2, 3, 30)}, at(epoch2, 3, 30), frame.Superseded},
		{"same generation of another box", frame.Frame{Epoch: epoch2b, First: 1, Last: 5, Before: at(epoch1, 7, 70)}, at(epoch2, 5, 50), frame.Superseded},
		{"same generation the other way round", first, at(epoch2b, 5, 50), frame.Superseded},
		{"same numbers in an old epoch", f, at(epoch3, 10, 100), frame.Superseded},
	} {
		if got := c.f.Follows(c.cur); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, names[got], names[c.want])
		}
	}
}

func TestVerify(t *testing.T) {
	f := goldenFrames()["log"]
	if !f.Verify() {
		t.Errorf("a sealed frame does not verify")
	}
	changes := map[string]func(*frame.Frame){
		"base":      func(f *frame.Frame) { f.Base++ },
		"sum":       func(f *frame.Frame) { f.Sum++ },
		"value":     func(f *frame.Frame) { f.Entries[0].Data = []byte{1} },
		"time":      func(f *frame.Frame) { f.Entries[1].Time++ },
		"origin":    func(f *frame.Frame) { f.Entries[1].Origin = "x" },
		"tombstone": func(f *frame.Frame) { f.Entries[1].Tombstone = 1 },
		"type":      func(f *frame.Frame) { f.Entries[1].DataType = 0 },
		"series":    func(f *frame.Frame) { f.Entries[1].Key = "1" },
		"order":     func(f *frame.Frame) { f.Entries[0], f.Entries[1] = f.Entries[1], f.Entries[0] },
		"missing":   func(f *frame.Frame) { f.Entries = f.Entries[1:] },
	}
	for name, change := range changes {
		g := *f
		g.Entries = slices.Clone(f.Entries)
		if change(&g); g.Verify() {
			t.Errorf("another %s: the frame verifies all the same", name)
		}
	}
	if aside := goldenFrames()["aside"]; !aside.Verify() {
		t.Errorf("a frame with points set aside cannot be verified, want it taken as it is")
	}
}

// TestSumIgnoresCuts is what the running checksum promises.
func TestSumIgnoresCuts(t *testing.T) {
	r := newRand(t)
	whole := inLog(frame.Frame{Kind: frame.Log, Epoch: epoch1, First: 1, Base: 42, Entries: randomEntries(r, 300)})
	sum, scratch := uint64(42), []byte(nil)
	for i := range whole.Entries {
		sum, scratch = frame.AddSum(sum, &whole.Entries[i].Point, scratch)
	}
	if sum != whole.Sum {
		t.Errorf("point by point: got sum %x, want %x", sum, whole.Sum)
	}
}

func TestCut(t *testing.T) {
	e := func(i int) frame.Entry { return float("n", "t", i, float64(i)) }
	f := inLog(frame.Frame{
		Kind: frame.Log, Epoch: epoch2, Prev: 0, First: 4, Base: 9, // 1..3 are missing
		Before: frame.Position{Cursor: frame.Cursor{Epoch: epoch1, Seq: 8}}, Again: frame.Cursor{Epoch: epoch1, Seq: 12},
		Entries: append(grouped(e(1), e(2), e(3)), e(4)),
	}) // 4..6 in a group, 7
	for _, c := range []struct {
		seq         uint64
		prev, first uint64
		before      bool
	}{
		{0, 0, 4, true}, {1, 1, 4, false}, {3, 3, 4, false}, {6, 6, 7, false}, {7, 7, 8, false},
	} {
		g, err := f.Cut(c.seq)
		if err != nil {
			t.Errorf("cut after %d: %v", c.seq, err)
			continue
		}
		if g.Prev != c.prev || g.First != c.first || (g.Before != frame.Position{}) != c.before || g.End() != f.End() || g.Again != f.Again {
			t.Errorf("cut after %d: got %+v, want prev %d, first %d, before %v and the end as it was", c.seq, g, c.prev, c.first, c.before)
		}
		if !g.Verify() || !sameEntries(g.Entries, f.Entries[c.first-4:]) {
			t.Errorf("cut after %d: got points %v", c.seq, g.Entries)
		}
		if got, err := frame.Decode(g.Encode(), author); err != nil || diff(got, g) != "" {
			t.Errorf("cut after %d: encoded and decoded: %v %s", c.seq, err, diff(got, g))
		}
		if c.seq > 0 && g.Follows(frame.Position{Cursor: frame.Cursor{Epoch: epoch2, Seq: c.seq}, Sum: g.Base}) != frame.Continues {
			t.Errorf("cut after %d does not continue there", c.seq)
		}
	}
	for _, seq := range []uint64{4, 5, 8, 9, 1000, 1 << 31, 1 << 32, 1 << 63, ^uint64(0) - 1, ^uint64(0)} {
		if g, err := f.Cut(seq); !errors.Is(err, frame.ErrCut) {
			t.Errorf("cut after %d: got %+v, %v, want ErrCut", seq, g, err)
		}
	}
	empty := goldenFrames()["empty"]
	if g, err := empty.Cut(empty.Last); err != nil || diff(g, empty) != "" {
		t.Errorf("cut an empty frame at its end: got %+v, %v, want the frame", g, err)
	}
	if _, err := empty.Cut(empty.Last + 1); !errors.Is(err, frame.ErrCut) {
		t.Errorf("cut an empty frame behind its end: got %v, want ErrCut", err)
	}
	aside := goldenFrames()["aside"]
	if _, err := aside.Cut(11); !errors.Is(err, frame.ErrCut) {
		t.Errorf("cut a frame with points set aside: got %v, want ErrCut", err)
	}
}

func TestTruncate(t *testing.T) {
	e := func(i int) frame.Entry { return float("n", "t", i, float64(i)) }
	entries := slices.Concat(grouped(e(1), e(2), e(3)), grouped(e(4)), grouped(e(5), e(6)), grouped(e(7)))
	f := inLog(frame.Frame{
		Kind: frame.Relay, Epoch: epoch1, Prev: 2, First: 4, Base: 7,
		Covers: frame.Covers{Edge: 5, Hub: 6}, Again: frame.Cursor{Epoch: 1, Seq: 2}, Entries: entries,
	})
	for limit, want := range map[int]int{0: 3, 1: 3, 2: 3, 3: 3, 4: 4, 5: 4, 6: 6, 7: 7, 100: 7} {
		g := f.Truncate(limit)
		if len(g.Entries) != want {
			t.Errorf("limit %d: got %d points, want %d", limit, len(g.Entries), want)
		}
		if want == 7 {
			if g != f {
				t.Errorf("limit %d: got another frame, want the frame itself", limit)
			}
			continue
		}
		if g.Prev != 2 || g.First != 4 || g.Last != 3+uint64(want) || !g.Verify() {
			t.Errorf("limit %d: got %+v, want the beginning, sealed", limit, g)
		}
		if g.Covers != (frame.Covers{}) || g.Again != (frame.Cursor{}) {
			t.Errorf("limit %d: the beginning covers %v, again %v, want nothing: only the end does", limit, g.Covers, g.Again)
		}
		rest, err := f.Cut(g.Last)
		if err != nil || rest.Covers != f.Covers || rest.Again != f.Again || len(g.Entries)+len(rest.Entries) != 7 {
			t.Errorf("limit %d: the rest is %+v, %v", limit, rest, err)
		}
	}
	aside := goldenFrames()["aside"]
	aside.Entries = append(aside.Entries, aside.Entries...)
	if aside.Truncate(1) != aside {
		t.Errorf("a frame with points set aside was truncated")
	}
	if !f.Verify() || len(f.Entries) != 7 {
		t.Errorf("the frame itself was changed")
	}
}

func TestMergeRefuses(t *testing.T) {
	f := inLog(frame.Frame{Kind: frame.Log, Now: 1 << 63, Epoch: epoch1, First: 1, Entries: []frame.Entry{float("n", "t", 1, 1)}})
	next := func(change func(*frame.Frame)) *frame.Frame {
		g := frame.Frame{Kind: frame.Log, Now: f.Now, Epoch: epoch1, Prev: f.Last, First: f.Last + 1, Base: f.Sum, Entries: []frame.Entry{float("n", "t", 2, 2)}}
		change(&g)
		return inLog(g)
	}
	for name, g := range map[string]*frame.Frame{
		"epoch":         next(func(g *frame.Frame) { g.Epoch = epoch2 }),
		"kind":          next(func(g *frame.Frame) { g.Kind = frame.Relay }),
		"gap":           next(func(g *frame.Frame) { g.First++ }),
		"missing":       next(func(g *frame.Frame) { g.Prev, g.First = 2, 3 }),
		"repeat":        f,
		"other content": next(func(g *frame.Frame) { g.Base++ }),
		"earlier":       next(func(g *frame.Frame) { g.Now = f.Now - 1 }),
		"aside":         setAside(next(func(*frame.Frame) {}), map[uint64]frame.Reason{2: frame.Invalid}),
		"too many":      next(func(g *frame.Frame) { g.Entries = make([]frame.Entry, frame.MaxPoints) }),
		"heads":         goldenFrames()["heads"],
	} {
		if m, err := f.Merge(g); !errors.Is(err, frame.ErrCut) {
			t.Errorf("%s: got %+v, %v, want ErrCut", name, m, err)
		}
	}
	heads := goldenFrames()["heads"]
	if _, err := heads.Merge(heads); !errors.Is(err, frame.ErrCut) {
		t.Errorf("heads frames: got %v, want ErrCut", err)
	}
	f.Entries = slices.Grow(f.Entries, 10)
	later := func(g *frame.Frame) { g.Now = f.Now + 5 }
	a, b := next(later), next(later)
	one, err1 := f.Merge(a)
	two, err2 := f.Merge(b)
	if err1 != nil || err2 != nil {
		t.Fatalf("merge: %v, %v", err1, err2)
	}
	one.Entries[1].Origin = "changed"
	if two.Entries[1].Origin != "" || len(f.Entries) != 1 || one.Now != f.Now+5 {
		t.Errorf("merged frames share entries with each other or with their source")
	}
}

// randomLog returns frames of one epoch of a log, some of them empty, some
// after a gap.
func randomLog(r *rand.Rand, kind frame.Kind) []*frame.Frame {
	pos := frame.Position{Cursor: frame.Cursor{Epoch: epoch2}}
	var list []*frame.Frame
	for i := range 1 + r.IntN(12) {
		f := frame.Frame{Kind: kind, Now: 1<<63 + uint64(i), Epoch: epoch2, Prev: pos.Seq, First: pos.Seq + 1, Base: pos.Sum, Entries: randomEntries(r, r.IntN(30))}
		if i == 0 {
			f.Before = frame.Position{Cursor: frame.Cursor{Epoch: epoch1, Seq: 9}, Sum: 9}
		}
		if r.IntN(6) == 0 {
			f.First += 1 + r.Uint64N(50)
			f.Base = r.Uint64()
		}
		if kind == frame.Relay {
			f.Covers = frame.Covers{Edge: uint64(i), Hub: uint64(i)}
			for j := range f.Entries {
				f.Entries[j] = by(f.Entries[j], pick(r, "hub", "gw2"), epoch1, r.Uint64N(100))
			}
		}
		g := inLog(f)
		list, pos = append(list, g), g.End()
	}
	return list
}

// flatten returns all entries of frames, and the sizes of their groups.
func flatten(list []*frame.Frame) (entries []frame.Entry, groups []int) {
	for _, f := range list {
		entries = append(entries, f.Entries...)
		frame.Groups(f.Entries, func(g []frame.Entry) bool { groups = append(groups, len(g)); return true })
	}
	return entries, groups
}

// gaps returns the numbers that frames tell to be missing.
func gaps(list []*frame.Frame) (missing []uint64) {
	for _, f := range list {
		for seq := f.Prev + 1; seq < f.First; seq++ {
			missing = append(missing, seq)
		}
	}
	return missing
}

// TestCutAndMerge takes a random log apart and puts it together in many ways:
// the points, the gaps, the groups and the sums stay what they are.
func TestCutAndMerge(t *testing.T) {
	r := newRand(t)
	for range 200 {
		kind := pick(r, frame.Log, frame.Relay)
		log := randomLog(r, kind)
		entries, groups := flatten(log)
		missing, end, before := gaps(log), log[len(log)-1].End(), log[0].Before
		list := slices.Clone(log)
		for range 60 {
			i := r.IntN(len(list))
			f := list[i]
			switch r.IntN(4) {
			case 0: // a sender sends the beginning, then what comes after its end
				part := f.Truncate(1 + r.IntN(20))
				if part == f {
					continue
				}
				rest, err := f.Cut(part.Last)
				if err != nil {
					t.Fatalf("cut %d..%d after its beginning %d..%d: %v", f.First, f.Last, part.First, part.Last, err)
				}
				list = slices.Replace(list, i, i+1, part, rest)
			case 1: // the receiver asks for a cut anywhere
				checkCut(t, f, f.Prev+r.Uint64N(f.Last-f.Prev+3))
			case 2:
				if i+1 == len(list) {
					continue
				}
				g := list[i+1]
				merged, err := f.Merge(g)
				if want := g.Gap() == 0 && !f.AnyFuture(f.Entries); want != (err == nil) {
					t.Fatalf("merge %d..%d with %d..%d, gap %d: got %v", f.First, f.Last, g.First, g.Last, g.Gap(), err)
				}
				if err == nil {
					if merged.Covers != g.Covers || merged.Now != g.Now {
						t.Fatalf("merged frame covers %v at %d, want those of the later one", merged.Covers, merged.Now)
					}
					list = slices.Replace(list, i, i+2, merged)
				}
			case 3:
				got, err := frame.Decode(f.Encode(), author)
				if err != nil || diff(got, f) != "" {
					t.Fatalf("encoded and decoded: %v %s", err, diff(got, f))
				}
				list[i] = got
			}
		}
		pos := before
		for i, f := range list {
			if f.Follows(pos) != frame.Continues {
				t.Fatalf("frame %d, %d..%d, does not continue at %v", i, f.First, f.Last, pos)
			}
			if !f.Verify() {
				t.Fatalf("frame %d, %d..%d, does not verify", i, f.First, f.Last)
			}
			pos = f.End()
		}
		gotEntries, gotGroups := flatten(list)
		if !sameEntries(gotEntries, entries) || !slices.Equal(gotGroups, groups) {
			t.Fatalf("got %d points in %d groups, want the same %d in %d", len(gotEntries), len(gotGroups), len(entries), len(groups))
		}
		if !slices.Equal(gaps(list), missing) || pos != end || list[0].Before != before {
			t.Fatalf("got gaps %v, end %v, begin %v, want %v, %v, %v", gaps(list), pos, list[0].Before, missing, end, before)
		}
	}
}

// checkCut fails unless f, cut after seq, is what a reader there lacks, or is
// refused because seq is within a group or behind the frame.
func checkCut(t *testing.T, f *frame.Frame, seq uint64) {
	t.Helper()
	inGroup := seq >= f.First && seq <= f.Last && f.Entries[seq-f.First].More
	g, err := f.Cut(seq)
	if refused := inGroup || seq > f.Last && seq >= f.First; refused != (err != nil) {
		t.Fatalf("cut %d..%d after %d (in a group: %v): got %v", f.First, f.Last, seq, inGroup, err)
	}
	if err != nil {
		if !errors.Is(err, frame.ErrCut) {
			t.Fatalf("got %v, want ErrCut", err)
		}
		return
	}
	known := 0
	if seq >= f.First {
		known = int(seq - f.First + 1)
	}
	if g.End() != f.End() || g.Prev != max(seq, f.Prev) || !sameEntries(g.Entries, f.Entries[known:]) || !g.Verify() {
		t.Fatalf("cut %d..%d after %d: got prev %d, %d..%d with %d points", f.First, f.Last, seq, g.Prev, g.First, g.Last, len(g.Entries))
	}
}

func TestGroups(t *testing.T) {
	e := func(i int) frame.Entry { return float("n", "t", i, float64(i)) }
	entries := slices.Concat(grouped(e(1)), grouped(e(2), e(3)), grouped(e(4)))
	var sizes []int
	frame.Groups(entries, func(g []frame.Entry) bool { sizes = append(sizes, len(g)); return len(sizes) < 2 })
	if !slices.Equal(sizes, []int{1, 2}) {
		t.Errorf("got groups of %v until visit said false, want 1 and 2", sizes)
	}
	frame.Groups(nil, func([]frame.Entry) bool { t.Error("visited a group of nothing"); return true })
}

// TestOpenGroup: a group whose end is missing must not be taken for a whole.
func TestOpenGroup(t *testing.T) {
	f := goldenFrames()["log"]
	f.Entries[1].More = true
	if _, err := frame.Decode(f.Encode(), author); !errors.Is(err, frame.ErrDamaged) {
		t.Errorf("log frame: got %v, want ErrDamaged", err)
	}
	f = goldenFrames()["heads"]
	f.Entries[1].More = true
	if _, err := frame.Decode(f.Encode(), author); !errors.Is(err, frame.ErrDamaged) {
		t.Errorf("heads frame: got %v, want ErrDamaged", err)
	}
}

// TestAsideRefused: points set aside fill the numbers that entries leave, in
// order, each once.
func TestAsideRefused(t *testing.T) {
	aside := func(seqs ...uint64) []frame.Aside {
		var list []frame.Aside
		for _, s := range seqs {
			list = append(list, frame.Aside{Seq: s, Reason: frame.Invalid})
		}
		return list
	}
	for _, bad := range [][]frame.Aside{aside(8), aside(10, 11), aside(9), aside(14), aside(1 << 40), aside(10, 10), aside(11, 10), aside(10, 12, 13)} {
		f := goldenFrames()["log"] // 8..9
		f.Last = 10                // one of three numbers set aside
		f.Aside = bad
		_, err := frame.Decode(f.Encode(), author)
		if ok := len(bad) == 1 && bad[0].Seq >= 8 && bad[0].Seq <= 10; ok {
			if err != nil {
				t.Errorf("aside %v: got %v, want it read", bad, err)
			}
		} else if !errors.Is(err, frame.ErrDamaged) {
			t.Errorf("aside %v: got %v, want ErrDamaged", bad, err)
		}
	}
	f := goldenFrames()["heads"]
	f.First, f.Aside = 1, aside(1)
	if _, err := frame.Decode(frame.EncodeV1(f), author); !errors.Is(err, frame.ErrDamaged) {
		t.Errorf("heads frame: got %v, want ErrDamaged", err)
	}
}
