package state_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
)

var seedFlag = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")

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

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

const (
	epoch1 = frame.Epoch(1<<40 | 9)
	epoch2 = frame.Epoch(2<<40 | 1)
)

// entry returns a value of n.t.0 at a time and a place in an author's log.
func entry(author string, epoch frame.Epoch, seq, time uint64, data string) frame.Entry {
	return frame.Entry{
		Point: point.Point{
			Series: point.Series{Node: "n", Type: "t", Key: "0"},
			Time:   time, DataType: point.String, Data: []byte(data),
		},
		Author: author, At: frame.Cursor{Epoch: epoch, Seq: seq},
	}
}

func same(a, b *frame.Entry) bool {
	return a.Series == b.Series && a.Time == b.Time && a.Tombstone == b.Tombstone && a.Origin == b.Origin &&
		a.DataType == b.DataType && bytes.Equal(a.Data, b.Data) && a.Author == b.Author && a.At == b.At
}

// TestCompare lists points from loser to winner: each line wins over all
// above it.
func TestCompare(t *testing.T) {
	with := func(e frame.Entry, change func(*frame.Entry)) frame.Entry { change(&e); return e }
	order := []frame.Entry{
		entry("hub", epoch2, 9, 99, "z"), // earlier, whoever says it
		entry("gw2", epoch2, 9, 100, "z"),
		entry("gw1", epoch1, 1, 100, "z"), // the smaller id
		entry("gw1", epoch1, 2, 100, "a"), // later in its log
		entry("gw1", epoch1|1<<20, 1, 100, "a"),
		entry("gw1", epoch2, 1, 100, "a"), // later epoch, though a lower number
		entry("a", 0, 0, 100, ""),
		entry("hub", epoch1, 5, 100, "a"), // the hub, though other ids are smaller
		entry("hub", epoch1, 6, 100, "a"), // then the same place with other content: any order, but the same everywhere
		entry("hub", epoch1, 6, 100, "b"),
		with(entry("hub", epoch1, 6, 100, "a"), func(e *frame.Entry) { e.DataType = point.JSON }),
		with(entry("hub", epoch1, 6, 100, "a"), func(e *frame.Entry) { e.Origin = "x" }),
		with(entry("hub", epoch1, 6, 100, "a"), func(e *frame.Entry) { e.Tombstone = 1 }),
		with(entry("gw9", epoch1, 1, 101, ""), func(e *frame.Entry) { e.Tombstone = 1 }),
		with(entry("gw9", epoch1, 1, 102, ""), func(e *frame.Entry) { e.Tombstone = 0 }), // removal plays no part
		entry("gw9", epoch1, 1, math.MaxUint64, ""),
	}
	for i := range order {
		for j := range order {
			if got, want := state.Compare(&order[i], &order[j]), cmp.Compare(i, j); got != want {
				t.Errorf("line %d against line %d: got %d, want %d", i, j, got, want)
			}
		}
	}
}

func TestMergeOutcomes(t *testing.T) {
	s := state.New()
	for i, c := range []struct {
		e    frame.Entry
		want state.Outcome
	}{
		{entry("gw1", epoch1, 5, 100, "a"), state.Won},
		{entry("gw1", epoch1, 5, 100, "a"), state.Lost}, // the same one again
		{entry("gw1", epoch1, 4, 100, "b"), state.Lost},
		{entry("gw1", epoch2, 1, 100, "a"), state.Same}, // repeated in a new epoch
		{entry("gw1", epoch1, 9, 100, "c"), state.Lost},
		{entry("gw0", epoch1, 1, 100, "a"), state.Same}, // two gateways that agree
		{entry("gw0", epoch1, 2, 100, "d"), state.Won},
		{entry("hub", epoch1, 1, 100, "d"), state.Same},
		{entry("hub", epoch1, 1, 99, "e"), state.Lost}, // late data
		{entry("hub", epoch1, 1, 101, "d"), state.Won}, // the same value at a later time
		{entry("gw1", epoch1, 5, 102, ""), state.Won},
	} {
		before := s.Get(c.e.Series)
		var old frame.Entry
		if before != nil {
			old = *before
		}
		got := s.Merge(&c.e)
		if got != c.want {
			t.Errorf("step %d: got outcome %d, want %d", i, got, c.want)
		}
		now := s.Get(c.e.Series)
		if want := &old; got == state.Lost && !same(now, want) {
			t.Errorf("step %d: a point that lost changed the state to %+v", i, now)
		}
		if got != state.Lost && !same(now, &c.e) {
			t.Errorf("step %d: got winner %+v, want %+v", i, now, c.e)
		}
	}
	removed := entry("gw1", epoch1, 6, 103, "")
	removed.Tombstone = 1
	if got := s.Merge(&removed); got != state.Won || !s.Get(removed.Series).Removed() {
		t.Errorf("removal: got outcome %d, want the removal kept as head", got)
	}
	removed.At.Seq, removed.Tombstone = 7, 2
	if got := s.Merge(&removed); got != state.Won {
		t.Errorf("same time and value, but no longer removed: got outcome %d, want Won", got)
	}
	if s.Len() != 1 {
		t.Errorf("got %d series, want 1", s.Len())
	}
}

// TestMergeKeepsCopy: what is in the state is not the frame it came from.
func TestMergeKeepsCopy(t *testing.T) {
	s := state.New()
	buf := []byte("value and the rest of its frame")
	e := entry("gw1", epoch1, 1, 100, "")
	e.Data, e.More = buf[:5], true
	s.Merge(&e)
	copy(buf, "XXXXX")
	e.Time = 7
	got := s.Get(e.Series)
	if string(got.Data) != "value" || got.Time != 100 || got.More {
		t.Errorf("got %+v with value %q, want a copy outside of any group", got, got.Data)
	}
	if cap(got.Data) > 16 {
		t.Errorf("the value holds %d bytes in memory, want only its own", cap(got.Data))
	}
	e = entry("gw1", epoch1, 2, 101, "")
	e.Data = buf[:5]
	s.Merge(&e)
	copy(buf, "YYYYY")
	if got := s.Get(e.Series); string(got.Data) != "XXXXX" {
		t.Errorf("after a second merge: got %q, want a copy again", got.Data)
	}
}

func names(list []*frame.Entry) string {
	var s []string
	for _, e := range list {
		s = append(s, e.Series.String())
	}
	return strings.Join(s, " ")
}

func TestHeadsAndForget(t *testing.T) {
	s := state.New()
	add := func(up, node, typ, key string) {
		e := entry("hub", epoch1, 1, 100, "v")
		e.Series = point.Series{Up: up, Node: node, Type: typ, Key: key}
		s.Merge(&e)
	}
	add("", "b", "t", "1")
	add("", "b", "t", "0")
	add("", "b", "s", "0")
	add("b", "c", "nodeType", "0")
	add("b", "a", "nodeType", "0")
	add("a", "b", "nodeType", "0")
	add("", "a", "t", "0")
	if got, want := names(s.Heads("b")), "b.a.nodeType.0 b.s.0 b.t.0 b.t.1 b.c.nodeType.0"; got != want {
		t.Errorf("heads of b: got %q, want %q", got, want)
	}
	if got := s.Heads("none"); len(got) != 0 {
		t.Errorf("heads of an unknown node: got %q", names(got))
	}
	var all []*frame.Entry
	s.All(func(e *frame.Entry) { all = append(all, e) })
	if got, want := names(all), "a.t.0 a.b.nodeType.0 "+names(s.Heads("b")); got != want || s.Len() != 7 {
		t.Errorf("all: got %q, %d series, want %q, 7", got, s.Len(), want)
	}
	s.Forget("b")
	s.Forget("b")
	s.Forget("none")
	if got := s.Len(); got != 2 || len(s.Heads("b")) != 0 {
		t.Errorf("after Forget: got %d series, want the 2 of a", got)
	}
	if s.Get(point.Series{Up: "a", Node: "b", Type: "nodeType", Key: "0"}) == nil {
		t.Errorf("Forget took the edge above b, which a holds")
	}
	if s.Get(point.Series{Up: "b", Node: "c", Type: "nodeType", Key: "0"}) != nil || s.Get(point.Series{Node: "b", Type: "t", Key: "0"}) != nil {
		t.Errorf("Forget left points of b")
	}
	old := entry("hub", epoch1, 1, 1, "old")
	old.Node = "b"
	if got := s.Merge(&old); got != state.Won || s.Len() != 3 {
		t.Errorf("an older point of a forgotten node: got outcome %d, %d series, want it in", got, s.Len())
	}
}

// An author's log in a property test: pieces that each may be delivered as
// the log frame or as a relay copy.
type piece struct {
	author string
	log    []byte
	relay  []byte
}

// world is the points of a random test.
type world struct {
	pieces []piece
	points []frame.Entry
}

// randomWorld lets several authors write the same few series at few times,
// so that most points tie with others.
func randomWorld(r *rand.Rand) *world {
	w := new(world)
	used := map[string]bool{}
	for _, author := range []string{state.Hub, "gw1", "gw2", "a"} {
		var epoch frame.Epoch
		for range 1 + r.IntN(4) {
			epoch = epoch.Next(r.Uint64())
			w.epoch(r, author, epoch, used)
		}
	}
	return w
}

func (w *world) epoch(r *rand.Rand, author string, epoch frame.Epoch, used map[string]bool) {
	pos := frame.Position{Cursor: frame.Cursor{Epoch: epoch}}
	for range 1 + r.IntN(4) {
		f := frame.Frame{Kind: frame.Log, Epoch: epoch, Prev: pos.Seq, First: pos.Seq + 1, Base: pos.Sum}
		for n := 1 + r.IntN(12); len(f.Entries) < n; {
			f.Entries = append(f.Entries, frame.Entry{Point: randomPoint(r)})
			f.Entries[len(f.Entries)-1].More = len(f.Entries) < n && r.IntN(3) == 0
		}
		f.Seal()
		for i := range f.Entries {
			f.Entries[i].Author, f.Entries[i].At = author, frame.Cursor{Epoch: epoch, Seq: f.First + uint64(i)}
		}
		copied := f
		copied.Kind, copied.Epoch = frame.Relay, frame.Epoch(r.Uint64()) // the log of who relays
		w.pieces = append(w.pieces, piece{author, f.Encode(), copied.Encode()})
		w.points = append(w.points, f.Entries...)
		pos = f.End()
	}
}

func randomPoint(r *rand.Rand) point.Point {
	p := point.Point{
		Series: point.Series{Node: pick(r, "n", "m"), Type: "t", Key: "0"},
		Time:   pick(r, 0, 100, 101, math.MaxUint64, r.Uint64N(200)),
		Origin: pick(r, "", "anna", "bob"), Tombstone: pick[uint8](r, 0, 0, 1, 2),
	}
	if r.IntN(3) == 0 {
		p.Up = "u"
	}
	switch r.IntN(4) {
	case 0:
		p.DataType, p.Data = point.Float, point.FloatData(pick(r, math.NaN(), math.Inf(-1), math.Copysign(0, -1), 0))
	case 1:
		p.DataType, p.Data = point.DataType(r.IntN(8)), []byte{byte(r.IntN(2))}
	default:
		p.DataType, p.Data = point.Uint, []byte{byte(r.IntN(3))}
	}
	return p
}

// wins is section 4 of the design in its own words: later time; then hub over
// gateways; then the smaller author id; the same author: later in its log.
func wins(a, b *frame.Entry) bool {
	if a.Time != b.Time {
		return a.Time > b.Time
	}
	if a.Author != b.Author {
		if a.Author == state.Hub || b.Author == state.Hub {
			return a.Author == state.Hub
		}
		return a.Author < b.Author
	}
	return b.At.Less(a.At)
}

// winners is what every end has to come to.
func (w *world) winners() map[point.Series]*frame.Entry {
	best := map[point.Series]*frame.Entry{}
	for i := range w.points {
		e := &w.points[i]
		if old := best[e.Series]; old == nil || wins(e, old) {
			best[e.Series] = e
		}
	}
	return best
}

// end is an instance that points arrive at.
type end struct {
	t *testing.T
	s *state.State
}

// deliver merges a frame and checks each outcome by what it did.
func (e *end) deliver(b []byte, author string) {
	e.t.Helper()
	f, err := frame.Decode(b, author)
	if err != nil {
		e.t.Fatal(err)
	}
	for i := range f.Entries {
		in := &f.Entries[i]
		var before *frame.Entry
		if old := e.s.Get(in.Series); old != nil {
			before = new(frame.Entry)
			*before = *old
			before.Data = bytes.Clone(old.Data)
		}
		got, after := e.s.Merge(in), e.s.Get(in.Series)
		want := state.Won
		switch {
		case before == nil:
		case same(before, in) || !wins(in, before):
			want = state.Lost
		case before.Time == in.Time && before.Tombstone == in.Tombstone && before.Origin == in.Origin && before.DataType == in.DataType && bytes.Equal(before.Data, in.Data):
			want = state.Same
		}
		if got != want {
			e.t.Fatalf("merge %+v over %+v: got outcome %d, want %d", in, before, got, want)
		}
		if kept := got == state.Lost && same(after, before) || got != state.Lost && same(after, in); !kept {
			e.t.Fatalf("merge %+v over %+v with outcome %d: got winner %+v", in, before, got, after)
		}
	}
}

// heads returns the winners of a state, or of one node, as a heads frame.
func (e *end) heads(node string) []byte {
	f := frame.Frame{Kind: frame.Heads}
	e.s.All(func(h *frame.Entry) {
		if node == "" || h.Holder() == node {
			f.Entries = append(f.Entries, *h)
		}
	})
	return f.Encode()
}

func (e *end) check(w *world, name string) {
	e.t.Helper()
	want := w.winners()
	if e.s.Len() != len(want) {
		e.t.Errorf("%s: got %d series, want %d", name, e.s.Len(), len(want))
	}
	for s, h := range want {
		if got := e.s.Get(s); got == nil || !same(got, h) {
			e.t.Errorf("%s: winner of %s: got %+v, want %+v", name, s, got, h)
		}
	}
}

// TestAnyOrder: all ends that got every point, in whatever way and order,
// have the same state, and it is the winners'.
func TestAnyOrder(t *testing.T) {
	r := newRand(t)
	for range 150 {
		w := randomWorld(r)
		var ends [4]*end
		for i := range ends {
			ends[i] = &end{t, state.New()}
		}
		// What each end has still to get: every piece as log or as relay
		// copy, some several times.
		var todo [len(ends)][]piece
		for i := range todo {
			for _, p := range w.pieces {
				for n := 1 + r.IntN(8)/6; n > 0; n-- {
					todo[i] = append(todo[i], p)
				}
			}
			r.Shuffle(len(todo[i]), func(a, b int) { todo[i][a], todo[i][b] = todo[i][b], todo[i][a] })
		}
		for left := true; left; {
			left = false
			for i, e := range ends {
				switch {
				case r.IntN(8) == 0: // heads of another end, as far as it has got
					e.deliver(ends[r.IntN(len(ends))].heads(pick(r, "", "n", "u")), "")
				case len(todo[i]) > 0:
					p := todo[i][0]
					todo[i] = todo[i][1:]
					if r.IntN(2) == 0 {
						e.deliver(p.log, p.author)
					} else {
						e.deliver(p.relay, "")
					}
				}
				left = left || len(todo[i]) > 0
			}
		}
		late := &end{t, state.New()} // an end that got nothing but heads
		late.deliver(ends[0].heads(""), "")
		first, err := ends[0].s.Snapshot(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range append(ends[:], late) {
			e.check(w, fmt.Sprintf("end %d", i))
			b, err := e.s.Snapshot(nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, first) {
				t.Errorf("end %d: its snapshot differs from that of end 0", i)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// TestHeadsOnly: heads frames of partial states, merged from one end to the
// next, bring all ends together without any log.
func TestHeadsOnly(t *testing.T) {
	r := newRand(t)
	for range 100 {
		w := randomWorld(r)
		var ends [3]*end
		for i := range ends {
			ends[i] = &end{t, state.New()}
		}
		for _, p := range w.pieces {
			ends[r.IntN(len(ends))].deliver(p.log, p.author)
		}
		for i := range 2 * len(ends) {
			ends[(i+1)%len(ends)].deliver(ends[i%len(ends)].heads(""), "")
		}
		for i, e := range ends {
			e.check(w, fmt.Sprintf("end %d", i))
		}
		if t.Failed() {
			return
		}
	}
}

// TestCompareIsOrder: Compare orders all points of a series, those of an
// author that used a place twice included, and Merge does what it says.
func TestCompareIsOrder(t *testing.T) {
	r := newRand(t)
	random := func() *frame.Entry {
		p := randomPoint(r)
		p.Series = point.Series{Node: "n", Type: "t", Key: "0"}
		return &frame.Entry{Point: p, Author: pick(r, state.Hub, "gw1", "gw2", "a", ""), At: frame.Cursor{Epoch: pick(r, epoch1, epoch2), Seq: r.Uint64N(3)}}
	}
	for range 20_000 {
		a, b, c := random(), random(), random()
		ab, bc, ac := state.Compare(a, b), state.Compare(b, c), state.Compare(a, c)
		if state.Compare(b, a) != -ab || state.Compare(a, a) != 0 {
			t.Fatalf("%+v and %+v: got %d one way and %d the other", a, b, ab, state.Compare(b, a))
		}
		if ab == 0 && !same(a, b) {
			t.Fatalf("%+v and %+v are equal, want an order of different points", a, b)
		}
		if ab > 0 && bc > 0 && ac <= 0 {
			t.Fatalf("%+v, %+v, %+v: each wins over the next, but not the first over the last", a, b, c)
		}
		s := state.New()
		list := []*frame.Entry{a, b, c}
		for _, e := range list {
			s.Merge(e)
		}
		if got, want := s.Get(a.Series), slices.MaxFunc(list, state.Compare); !same(got, want) {
			t.Fatalf("merged: got %+v, want %+v", got, want)
		}
	}
}
