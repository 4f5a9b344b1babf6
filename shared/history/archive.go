// Package history answers what the values of a series were: points by their
// own time, late ones in their place, or buckets of them.
//
// It reads the logs of an instance and turns their frames into chunks: for
// each group of a few columns (a series by one author) a chain of leaves in
// the order of time, each a JetStream message under a subject of its own.
// What is not in chunks yet is the tail, in memory. Logs decide what is true:
// chunks can be written again from any point of a log before the one that the
// archive has noted, and come out the same.
//
// It leaves who may ask to its caller, and the frames of logs to package
// journal.
package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Key names a column: a series, and the instance that authored its points.
type Key struct {
	point.Series
	Author string
}

// Compare orders columns by series, then author.
func (k Key) Compare(l Key) int {
	return cmp.Or(k.Series.Compare(l.Series), cmp.Compare(k.Author, l.Author))
}

// Source is a stream of logs to read.
type Source struct {
	Name   string
	Store  journal.Store
	Author func(subject string) string // who wrote the log of a subject
}

// Guard stands before all that is written.
type Guard interface {
	// Put writes, or tells why that may not be, such as a disk that is nearly
	// full.
	Put(write func() error) error
}

// Config says what an archive is made of. All fields but Guard and Log must be
// set.
type Config struct {
	JetStream jetstream.JetStream
	Stream    jetstream.Stream // of Stream()
	Sources   []Source
	Tail      int   // points in memory from which they are made chunks
	Guard     Guard // nil for none
	Log       zerolog.Logger
}

// Archive is the history of an instance. Its methods may be called from
// several goroutines.
type Archive struct {
	cfg   Config
	store store
	kick  chan struct{} // capacity 1: the tail is full

	pulling sync.Mutex        // held by whoever reads logs
	next    []uint64          // of each source: stream sequence to read next
	before  map[string]uint64 // time of the last frame of each log
	caught  bool              // the logs were read to their ends once

	writing   sync.Mutex // held by whoever writes chunks
	named     int        // names that are durable; writing
	importing importing  // writing
	cut       bool       // an import failed: its summaries are made good at the next start; writing
	settled   bool       // chunks have nothing that will be read from a log again; writing

	mu      sync.Mutex
	names   []Key
	numbers map[point.Series][]int // columns of a series
	tail    tail                   // what was read since the last freeze
	frozen  *tail                  // what is being written, nil for nothing
	chains  map[chainName][]uint64 // starts of leaves, of those that were needed
	gaps    map[string][]Gap       // by the author of the log
	dirty   map[string]bool        // authors of gaps that are not written
	done    progress
	removed map[int]*removal // by group
}

type chainName struct {
	level subject.HistoryLevel
	group int
}

// groupColumns is how many columns share leaves: few messages are written, and
// a query for one column does not read many others.
const groupColumns = 8

// tail holds columns in memory.
type tail struct {
	columns map[int]*growing  // by number
	points  int               // and what their texts take, in points
	next    []uint64          // of each source, at the freeze
	before  map[string]uint64 // the same of each log
	since   time.Time
}

// growing is a column in memory with points that came late. Both only grow:
// who has taken them may read on.
type growing struct {
	col  *frame.Column
	late []point.Point // in the order of their arrival
}

// Open reads what an archive knows of itself.
func Open(ctx context.Context, cfg Config) (*Archive, error) {
	a := &Archive{
		cfg: cfg, store: store{cfg.JetStream, cfg.Stream, cfg.Guard}, kick: make(chan struct{}, 1),
		next: make([]uint64, len(cfg.Sources)), before: map[string]uint64{},
		numbers: map[point.Series][]int{}, chains: map[chainName][]uint64{},
		gaps: map[string][]Gap{}, dirty: map[string]bool{}, removed: map[int]*removal{},
	}
	for _, load := range []func(context.Context) error{a.loadNames, a.loadImport, a.loadGaps, a.loadRemoved, a.loadDone} {
		if err := load(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// progress is how far the logs are in chunks.
type progress struct {
	Streams map[string]uint64 `json:"streams"` // the last message of each stream
	// Logs holds the time of the last frame of each log, ns, by subject: a gap
	// behind it began then.
	Logs map[string]uint64 `json:"logs,omitempty"`
}

// loadDone finds where to go on in the logs.
func (a *Archive) loadDone(ctx context.Context) error {
	if err := a.loadJSON(ctx, subject.HistoryDone, &a.done); err != nil {
		return err
	}
	if a.done.Streams == nil {
		a.done.Streams = map[string]uint64{}
	}
	maps.Copy(a.before, a.done.Logs)
	for i := range a.cfg.Sources {
		src := &a.cfg.Sources[i]
		done := a.done.Streams[src.Name]
		last, err := src.Store.Last(ctx)
		if err != nil && !errors.Is(err, journal.ErrEmpty) {
			return fmt.Errorf("read history: %w", err)
		}
		if last.Seq < done { // what comes next gets these numbers again
			a.cfg.Log.Warn().Str("stream", src.Name).Uint64("messages", done-last.Seq).Msg("a log has lost its end, which is in history")
			done = last.Seq
			a.done.Streams[src.Name] = done
		}
		a.next[i] = done + 1
	}
	return nil
}

// namesPerPage is how many names one message holds.
const namesPerPage = 256

// loadNames reads which columns there are.
func (a *Archive) loadNames(ctx context.Context) error {
	list, err := a.store.list(ctx, subject.HistoryNamesAll)
	if err != nil {
		return err
	}
	pages := 0
	for _, name := range list {
		if n, err := strconv.Atoi(lastToken(name)); err == nil {
			pages = max(pages, n+1)
		}
	}
	for page := range pages {
		b, err := a.store.get(ctx, subject.HistoryNames(page))
		if err != nil {
			return err
		}
		keys, whole := readNames(b)
		if full := page+1 < pages; !whole || full && len(keys) < namesPerPage {
			a.cfg.Log.Error().Int("page", page).Msg("names of history are damaged and taken from the chunks")
			if keys, err = a.recoverNames(ctx, page, full); err != nil {
				return err
			}
		}
		for _, k := range keys {
			if n := len(a.names); a.name(k) != n { // empty: it fills a group
				a.names = append(a.names, k)
			}
		}
	}
	a.named = len(a.names)
	return nil
}

// readNames reads a page of names.
func readNames(b []byte) (keys []Key, whole bool) {
	r := reader{b: b}
	for len(r.b) > 0 && !r.failed {
		keys = append(keys, r.key())
	}
	return keys, !r.failed
}

// recoverNames finds the names of a page in the chunks of its groups. full
// tells that there are pages behind it.
func (a *Archive) recoverNames(ctx context.Context, page int, full bool) (keys []Key, err error) {
	const groups = namesPerPage / groupColumns
	for group := page * groups; group < (page+1)*groups; group++ {
		found := map[Key]bool{}
		starts, err := a.store.starts(ctx, subject.HistoryPoints, group)
		if err != nil {
			return nil, err
		}
		if len(starts) == 0 && !full {
			break
		}
		for _, start := range starts {
			l, err := a.load(ctx, chainName{subject.HistoryPoints, group}, start, nil)
			if err != nil && !errors.Is(err, ErrDamaged) {
				return nil, err
			}
			for i := 0; l != nil && i < len(l.cols); i++ {
				found[l.cols[i].key] = true
			}
		}
		list := slices.SortedFunc(maps.Keys(found), Key.Compare)
		keys = append(keys, append(list, make([]Key, max(0, groupColumns-len(list)))...)...)
	}
	return keys, nil
}

// name returns the number of a column, a new one if it has none. mu is held,
// or nobody else is there yet.
func (a *Archive) name(k Key) int {
	if n, ok := a.find(k); ok {
		return n
	}
	n := len(a.names)
	a.names = append(a.names, k)
	a.numbers[k.Series] = append(a.numbers[k.Series], n)
	return n
}

func (a *Archive) find(k Key) (int, bool) {
	for _, n := range a.numbers[k.Series] {
		if a.names[n].Author == k.Author {
			return n, true
		}
	}
	return 0, false
}

// writeNames writes the pages of names from number from on.
func (a *Archive) writeNames(ctx context.Context, from int) error {
	a.mu.Lock()
	names := a.names
	a.mu.Unlock()
	for page := from / namesPerPage; page*namesPerPage < len(names); page++ {
		var b []byte
		for _, k := range names[page*namesPerPage : min(len(names), (page+1)*namesPerPage)] {
			b = k.append(b)
		}
		if err := a.store.put(ctx, subject.HistoryNames(page), b); err != nil {
			return err
		}
	}
	return nil
}

// errBusy is returned while more points wait to be written than there may be.
var errBusy = errors.New("history is behind the logs")

// pull reads what the logs have got. With limit, no more points than the tail
// may have.
func (a *Archive) pull(ctx context.Context, limit int) error {
	a.pulling.Lock()
	defer a.pulling.Unlock()
	for i := range a.cfg.Sources {
		if err := a.pullFrom(ctx, i, limit); err != nil {
			return err
		}
	}
	a.caught = true
	return nil
}

func (a *Archive) pullFrom(ctx context.Context, i, limit int) error {
	src := &a.cfg.Sources[i]
	for {
		if a.waiting() >= limit {
			return errBusy
		}
		m, err := src.Store.Next(ctx, a.next[i])
		if errors.Is(err, journal.ErrEmpty) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read history: %w", err)
		}
		author := src.Author(m.Subject)
		f, err := frame.Decode(m.Data, author)
		if err != nil { // reported where the log is followed
			f = nil
		}
		a.add(f, author, m.Subject)
		a.next[i] = m.Seq + 1
	}
}

func (a *Archive) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.frozen != nil {
		return a.tail.points + a.frozen.points
	}
	return a.tail.points
}

func (a *Archive) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// add puts a frame into the tail.
func (a *Archive) add(f *frame.Frame, author, log string) {
	if f == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := f.Gap(); n > 0 {
		a.addGap(Gap{Author: author, Epoch: f.Epoch, From: f.Prev + 1, To: f.First - 1, Count: n, Start: a.before[log], End: f.Now, Reason: Missing})
	}
	a.before[log] = f.Now
	for i := range f.Entries {
		e := &f.Entries[i]
		a.tail.add(a.name(Key{e.Series, e.Author}), &e.Point)
	}
	if a.tail.points >= a.cfg.Tail && a.frozen == nil {
		a.wake()
	}
}

func (t *tail) add(number int, p *point.Point) {
	if t.columns == nil {
		t.columns, t.since = map[int]*growing{}, time.Now()
	}
	g := t.columns[number]
	if g == nil {
		g = &growing{col: &frame.Column{}}
		t.columns[number] = g
	}
	t.points += 1 + len(p.Data)/textBytes
	if n := g.col.Len(); n > 0 && p.Time <= g.col.Times[n-1] {
		if g.late = append(g.late, *p); len(g.late) > maxLate {
			g.settle()
		}
		return
	}
	g.col.Append(p)
}

// take returns what a column of the tail has, late points in their places;
// nil for nothing.
func (t *tail) take(number int) *frame.Column {
	if t == nil || t.columns[number] == nil {
		return nil
	}
	g := t.columns[number]
	g.settle()
	c := *g.col
	return &c
}

// textBytes is how many bytes of a value weigh as much as a point.
const textBytes = 16

// maxLate is how many late points wait to be put in their places.
const maxLate = 4096

// settle puts late points in their places, in a column of its own.
func (g *growing) settle() {
	if len(g.late) > 0 {
		*g = growing{col: Union(g.col, ordered(g.late))}
	}
}

// ordered returns points as a column; of the same time the last one counts.
func ordered(list []point.Point) *frame.Column {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b point.Point) int { return cmp.Compare(a.Time, b.Time) })
	c := &frame.Column{}
	for i := range list {
		if i+1 == len(list) || list[i+1].Time != list[i].Time {
			c.Append(&list[i])
		}
	}
	return c
}
