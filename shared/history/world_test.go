package history_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// errCrash is what a store says that a test makes fail.
var errCrash = errors.New("the test has the store fail here")

// fault makes the store of an archive fail at a step, and from there on.
type fault struct {
	mu    sync.Mutex
	armed bool
	steps int  // until it fails
	after bool // the step is done all the same, but nobody hears of it
	taken int  // steps since it was armed
}

func (f *fault) arm(steps int, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.steps, f.after, f.taken = true, steps, after, 0
}

// disarm returns how many steps there were.
func (f *fault) disarm() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	return f.taken
}

func (f *fault) step(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken++
	if !f.armed || f.taken < f.steps {
		return do()
	}
	if f.after && f.taken == f.steps {
		_ = do()
	}
	return errCrash
}

// faultyJS and faultyStream are those of a server whose writes a test can make
// fail.
type faultyJS struct {
	jetstream.JetStream
	fault *fault
}

func (s faultyJS) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	err = s.fault.step(func() error {
		ack, err = s.JetStream.PublishMsg(ctx, m, opts...)
		return err
	})
	return ack, err
}

type faultyStream struct {
	jetstream.Stream
	fault *fault
}

func (s faultyStream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	return s.fault.step(func() error { return s.Stream.Purge(ctx, opts...) })
}

// model is what history should have: a sorted map in memory, sorted when it is
// asked.
type model map[history.Key]map[uint64]point.Point

// set notes a point, unless it is older than what there is room for.
func (w *world) set(author string, p point.Point) {
	k := history.Key{Series: p.Series, Author: author}
	if w.want[k] == nil {
		w.want[k] = map[uint64]point.Point{}
	}
	if p.Time >= w.floors[k] {
		w.want[k][p.Time] = p
	}
}

// admit finds from when on there is room for columns that are new.
func (w *world) admit() {
	for k, points := range w.want {
		number, ok := w.number(k)
		if _, known := w.floors[k]; known || !ok {
			continue
		}
		w.floors[k] = w.archive.Floor(number)
		maps.DeleteFunc(points, func(at uint64, _ point.Point) bool { return at < w.floors[k] })
	}
}

// of returns the points of columns from a place on and before a time.
func (w *world) of(keys []history.Key, from history.Place, to uint64) (list []history.Sample) {
	for _, k := range keys {
		for at, p := range w.want[k] {
			if place := (history.Place{Time: at, Author: k.Author}); at < to && place.Compare(from) >= 0 {
				list = append(list, history.Sample{Point: p, Author: k.Author})
			}
		}
	}
	slices.SortFunc(list, func(a, b history.Sample) int { return placeOf(a).Compare(placeOf(b)) })
	return list
}

func placeOf(s history.Sample) history.Place {
	return history.Place{Time: s.Time, Author: s.Author}
}

// diff returns the first difference of two lists, "" for none.
func diff(got, want []history.Sample) string {
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if g.Series != w.Series || g.Author != w.Author || g.Time != w.Time || g.DataType != w.DataType || g.Tombstone != w.Tombstone || g.Origin != w.Origin || !bytes.Equal(g.Data, w.Data) {
			return fmt.Sprintf("sample %d of %d: got %s %d %.80v, want %s %d %.80v", i, len(want), g.Author, g.Time, g.Text(), w.Author, w.Time, w.Text())
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("got %d samples, want %d", len(got), len(want))
	}
	return ""
}

// The logs of a world: what gateways wrote, what the hub wrote, and what it
// relayed of others.
const (
	gw1 = "gw1"
	gw2 = "gw2" // its log has gaps
	hub = "hub"
)

// relayed are the authors of what the relay log repeats.
var relayed = []string{"gw8", "gw9"}

// world is an archive with the logs that it reads, and a model of it.
type world struct {
	// miscounts tells that a removal failed: what it counted may be counted again
	// when it is repeated.
	miscounts bool

	t *testing.T
	r *rand.Rand

	js      jetstream.JetStream
	chunks  jetstream.Stream
	fault   *fault
	logger  zerolog.Logger
	archive *history.Archive
	sources []history.Source
	tail    int

	own   *journal.Log // of gw1
	hub   *journal.Log
	relay *journal.Log
	raw   *journal.JetStream // the log of gw2
	end   frame.Position     // of it
	last  uint64             // message of it
	told  uint64             // time of its last frame

	now    uint64 // hub time, ns
	series []*profile
	seq    uint64 // of what is relayed

	want    model
	gaps    []history.Gap // of logs
	removed map[history.Key]*history.Gap
	floors  map[history.Key]uint64 // from when on points are kept
}

// profile is how a series behaves.
type profile struct {
	point.Series
	author string
	period uint64
	next   uint64
	value  func() (point.DataType, []byte)
	odd    bool // tombstones and origins occur
}

// newWorld makes a world in which nothing has happened, on streams that are
// new.
func newWorld(t *testing.T, r *rand.Rand, js jetstream.JetStream) *world {
	t.Helper()
	w := &world{
		t: t, r: r, js: js, fault: &fault{}, tail: 1 << 20, now: 1_764_000_000_000_000_000,
		want: model{}, removed: map[history.Key]*history.Gap{}, floors: map[history.Key]uint64{},
	}
	stream := func(cfg jetstream.StreamConfig) jetstream.Stream {
		if err := js.DeleteStream(t.Context(), cfg.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		s, err := journal.Ensure(t.Context(), js, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	logs := func(name string) jetstream.Stream { return stream(journal.LogStream(name, subject.LogsOf(name))) }
	edge, down, own := logs(subject.StreamEdge), logs(subject.StreamDown), logs(subject.StreamHub)
	w.chunks = stream(history.Stream())
	all := func(s jetstream.Stream, name string) *journal.JetStream {
		return journal.NewStore(js, s, subject.LogsOf(name))
	}
	w.sources = []history.Source{
		{Name: subject.StreamEdge, Store: all(edge, subject.StreamEdge), Author: subject.ParseLog},
		{Name: subject.StreamHub, Store: all(own, subject.StreamHub), Author: func(string) string { return hub }},
		{Name: subject.StreamDown, Store: all(down, subject.StreamDown), Author: func(string) string { return hub }},
	}
	open := func(s jetstream.Stream, subj, author string, kind frame.Kind) *journal.Log {
		l, err := journal.Open(t.Context(), journal.Config{
			Store: journal.NewStore(js, s, subj), Author: author, Kind: kind, Now: func() uint64 { return w.now },
		})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	w.own = open(edge, subject.LogEdge(gw1), gw1, frame.Log)
	w.hub = open(own, subject.LogHub, hub, frame.Log)
	w.relay = open(down, subject.LogDown(gw1), hub, frame.Relay)
	w.raw = journal.NewStore(js, edge, subject.LogEdge(gw2))
	w.end = frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(0).Next(r.Uint64())}}
	w.open()
	return w
}

// open opens the archive anew: what was in memory is lost.
func (w *world) open() {
	w.t.Helper()
	w.fault.disarm()
	a, err := history.Open(w.t.Context(), history.Config{
		JetStream: faultyJS{w.js, w.fault}, Stream: faultyStream{w.chunks, w.fault}, Sources: w.sources, Tail: w.tail, Log: w.logger,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.archive = a
}

// populate gives the world series that behave in many ways.
func (w *world) populate(n int) {
	r := w.r
	base := pick(r, w.now, w.now, w.now,
		nanos("2025-03-29T20:00:00Z"), nanos("2025-10-25T20:00:00Z"), nanos("2025-11-01T20:00:00Z"), 0, 1e15)
	for i := range n {
		s := &profile{
			Series: point.Series{Node: fmt.Sprintf("n%d", i/2), Type: "temp", Key: point.NoKey},
			author: pick(r, append(relayed, gw1, gw1, gw2, gw2, hub)...),
			period: pick(r, uint64(1e6), 1e9, 1e9, 10e9, 60e9, 900e9, 3600e9, 36000e9),
			next:   base &^ 1, odd: r.IntN(4) == 0, value: w.values(),
		}
		if i%5 == 4 {
			s.Up, s.Type = "root", "nodeType"
		}
		if r.IntN(25) == 0 { // far in the future
			s.next = math.MaxUint64 - s.period*300
		}
		if !slices.ContainsFunc(w.series, func(o *profile) bool { return o.Series == s.Series && o.author == s.author }) {
			w.series = append(w.series, s)
		}
	}
}

func (w *world) values() func() (point.DataType, []byte) {
	r, x := w.r, float64(w.r.IntN(1000))
	switch r.IntN(7) {
	case 0:
		return func() (point.DataType, []byte) {
			return point.Uint, []byte{byte(r.IntN(3))}
		}
	case 1:
		return func() (point.DataType, []byte) {
			return point.Int, binary.LittleEndian.AppendUint64(nil, r.Uint64())
		}
	case 2:
		return func() (point.DataType, []byte) {
			return point.Float, point.FloatData(pick(r, math.NaN(), math.Inf(1), math.Inf(-1), 0, -1, r.Float64(), r.Float64()))
		}
	case 3:
		return func() (point.DataType, []byte) {
			text := fmt.Sprintf(`{"n":%d,"text":"%s"}`, r.IntN(10), strings.Repeat("x", r.IntN(200)))
			if r.IntN(100) == 0 {
				text += strings.Repeat("y", r.IntN(5000))
			}
			return point.JSON, []byte(text)
		}
	case 4:
		return func() (point.DataType, []byte) {
			if r.IntN(10) == 0 {
				return point.String, []byte("broken")
			}
			return point.Float, point.FloatData(float64(r.IntN(100)))
		}
	default:
		return func() (point.DataType, []byte) {
			x += float64(r.IntN(11)-5) / 10
			return point.Float, point.FloatData(x)
		}
	}
}

// points returns some points of the series of one author or several: new ones,
// late ones and repeats, in groups of the log they belong to.
func (w *world) points(n int, authors ...string) (list []frame.Entry) {
	var mine []*profile
	for _, s := range w.series {
		if slices.Contains(authors, s.author) {
			mine = append(mine, s)
		}
	}
	for range n {
		if len(mine) == 0 {
			return nil
		}
		s := pick(w.r, mine...)
		p := point.Point{Series: s.Series}
		p.DataType, p.Data = s.value()
		if s.odd {
			p.Origin, p.Tombstone = pick(w.r, "", "", "", "anna", "bob"), pick[uint8](w.r, 0, 0, 0, 0, 1, 2)
		}
		switch have := w.want[history.Key{Series: s.Series, Author: s.author}]; w.r.IntN(10) {
		case 0: // late
			p.Time = (s.next - min(s.next, w.r.Uint64N(s.period*uint64(len(have)+1)))) &^ 1
		case 1: // again
			p.Time = s.next
			for at := range have {
				if at&1 == 0 && at <= s.next {
					p.Time = at
				}
				break
			}
		default:
			p.Time = s.next
			step := s.period
			if w.r.IntN(4) == 0 {
				step = w.r.Uint64N(2 * s.period)
			}
			if w.r.IntN(60) == 0 {
				step += s.period * w.r.Uint64N(50)
			}
			if s.next+step > s.next && s.next+step < math.MaxUint64-4 {
				s.next = (s.next + step) &^ 1
			}
		}
		list = append(list, frame.Entry{Point: p, Author: s.author})
	}
	return list
}

// took notes that points are durable in a log.
func (w *world) took(entries []frame.Entry) {
	for i := range entries {
		w.set(entries[i].Author, entries[i].Point)
	}
}

// write has one of the logs get some points.
func (w *world) write(n int) []frame.Entry {
	w.t.Helper()
	w.now += 1e9 * (1 + w.r.Uint64N(100))
	var entries []frame.Entry
	var err error
	switch w.r.IntN(4) {
	case 0:
		entries, err = w.writeLog(w.own, w.points(n, gw1))
	case 1:
		entries, err = w.writeLog(w.hub, w.points(n, hub))
	case 2:
		entries = w.points(n, relayed...)
		for i := range entries {
			w.seq++
			entries[i].At = frame.Cursor{Epoch: 1 << 40, Seq: w.seq}
		}
		if len(entries) > 0 {
			err = w.relay.Relay(w.t.Context(), entries, w.now, frame.Covers{Edge: w.seq})
		}
	default:
		entries = w.points(n, gw2)
		err = w.writeRaw(entries)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.took(entries)
	return entries
}

func (w *world) writeLog(l *journal.Log, entries []frame.Entry) ([]frame.Entry, error) {
	for i := range entries {
		if err := l.Add(entries[i:i+1], nil); err != nil {
			return nil, err
		}
	}
	return entries, l.Commit(w.t.Context())
}

// writeRaw appends a frame to the log of gw2, sometimes after a gap, sometimes
// without points, sometimes in a new epoch.
func (w *world) writeRaw(entries []frame.Entry) error {
	if w.r.IntN(12) == 0 {
		before := w.end
		w.end = frame.Position{Cursor: frame.Cursor{Epoch: before.Epoch.Next(w.r.Uint64())}}
		f := frame.Frame{Kind: frame.Log, Now: w.now, Epoch: w.end.Epoch, First: 1, Before: before}
		if err := w.appendRaw(&f); err != nil {
			return err
		}
	}
	f := frame.Frame{Kind: frame.Log, Now: w.now, Epoch: w.end.Epoch, Prev: w.end.Seq, First: w.end.Seq + 1, Base: w.end.Sum, Entries: entries}
	if n := w.r.Uint64N(100); w.r.IntN(4) == 0 && n > 0 {
		f.First += n
		w.gaps = append(w.gaps, history.Gap{
			Author: gw2, Epoch: f.Epoch, From: f.Prev + 1, To: f.First - 1, Count: n, Start: w.told, End: f.Now, Reason: history.Missing,
		})
	}
	return w.appendRaw(&f)
}

func (w *world) appendRaw(f *frame.Frame) (err error) {
	f.Seal()
	w.end, w.told = f.End(), f.Now
	w.last, err = w.raw.Append(w.t.Context(), f.Encode(), w.last)
	return err
}

// must fails the test at an error.
func (w *world) must(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

// keysOf returns the columns of the model that have a series.
func (w *world) keysOf(s point.Series) (keys []history.Key) {
	for k := range w.want {
		if k.Series == s {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, history.Key.Compare)
	return keys
}

// numbersOf returns the columns of the archive that have a series.
func (w *world) numbersOf(s point.Series) (numbers []int) {
	numbers = w.archive.ColumnsOf(func(o point.Series) bool { return o == s })
	same := w.archive.Columns(s)
	slices.Sort(same)
	if sorted := slices.Sorted(slices.Values(numbers)); !slices.Equal(same, sorted) {
		w.t.Fatalf("columns of %s: %v in one list, %v in the other", s, same, sorted)
	}
	return numbers
}

// forget has the model forget what has just had to make room, as far as the
// archive says that it did: all before one time in a group.
func (w *world) forget() {
	w.t.Helper()
	for k, points := range w.want {
		number, ok := w.number(k)
		if !ok {
			w.t.Fatalf("the archive has no column of %s by %s", k.Series, k.Author)
		}
		floor := w.archive.Floor(number)
		if floor < w.floors[k] {
			w.t.Fatalf("points of %s are kept from %d on, and were from %d on", k.Series, floor, w.floors[k])
		}
		w.floors[k] = floor
		for at := range points {
			if at >= floor {
				continue
			}
			g := w.removed[k]
			if g == nil {
				g = &history.Gap{Author: k.Author, Start: at, End: at, Reason: history.Removed}
				w.removed[k] = g
			}
			g.Count++
			g.Start, g.End = min(g.Start, at), max(g.End, at)
			delete(points, at)
		}
	}
}

func (w *world) number(k history.Key) (int, bool) {
	for _, n := range w.archive.Columns(k.Series) {
		if w.archive.Name(n) == k {
			return n, true
		}
	}
	return 0, false
}

// keys returns all columns of the model, in order.
func (w *world) keys() []history.Key {
	return slices.SortedFunc(maps.Keys(w.want), history.Key.Compare)
}

// span returns a random range of time.
func (w *world) span() (from, to uint64) {
	at := func() uint64 {
		s := pick(w.r, w.series...)
		for t := range w.want[history.Key{Series: s.Series, Author: s.author}] {
			return t + w.r.Uint64N(3) - min(1, t)
		}
		return s.next
	}
	switch w.r.IntN(5) {
	case 0:
		return 0, math.MaxUint64
	case 1:
		return at(), math.MaxUint64
	}
	from, to = at(), at()
	return min(from, to), max(from, to)
}

func compareGaps(a, b history.Gap) int {
	return cmp.Or(cmp.Compare(a.Author, b.Author), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.From, b.From), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.Count, b.Count))
}

// startJS starts a server for worlds.
func startJS(t *testing.T) jetstream.JetStream {
	t.Helper()
	_, js := natstest.JetStream(t)
	return js
}

// point returns a point of a series.
func (s *profile) point(at uint64) point.Point {
	p := point.Point{Series: s.Series, Time: at}
	p.DataType, p.Data = s.value()
	return p
}
