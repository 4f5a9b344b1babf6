package frame

import (
	"math/bits"

	"github.com/sapflow/sapflow/shared/point"
)

// model is what both ends of a codec have learnt: which series there are,
// what each said last and how it moves, and how likely every decision is. Each
// entry is coded with it and then teaches it, alike at both ends. The zero
// model knows nothing.
type model struct {
	series  []*track
	index   map[point.Series]*track // encoding only
	strings table[string]           // origins and authors
	epochs  table[Epoch]
	texts   [][]byte // values that are no numbers, the latest first
	bytes   int      // of names and tables: what the model keeps
	body    int      // of texts in the frame: what it unpacks to
	arena   []byte   // memory for numbers that are decoded
	scale   way      // of the last series that set one
	usual   uint64   // how far off forecasts of the last number were

	unit, period uint64 // of times: ns a unit, ns a period (0 for none)
	now          uint64
	covers       Covers

	// Of the entry before.
	last   *track
	time   uint64
	shared uint   // 1 if it had the time of the one before it
	spread uint64 // usual distance of a series' first time from the entry before
	author string
	at     Cursor

	p probs
}

// probs are the probabilities of a model.
type probs struct {
	follows, fresh, more      prob
	edge, node, typ, key      prob // of a new series: alike the new one before
	sameTime                  [4]prob
	step, kind                [2]prob
	still                     [8]prob
	dataType                  [256]prob
	isNumber, alive, named    prob
	length                    [4]prob
	decimal, fits             [4]prob
	scale                     [1 << scaleBits]prob
	knownText, packed         prob
	author, continues         prob
	before, again, whole      prob
	params, implied, nowWhole prob
	reason                    [256]prob
	pick, gap, tomb, seq      number
	size, count, header       number
	chars                     [8][256]prob

	// Made when they are first used: a model has few of them, and a hub one
	// model for each gateway and direction.
	late, value [contexts]*number
}

// of returns the numbers of a context.
func of(list *[contexts]*number, ctx int) *number {
	if list[ctx] == nil {
		list[ctx] = new(number)
	}
	return list[ctx]
}

// reset makes a model that knows nothing of one that was used, and keeps its
// memory.
func (m *model) reset() {
	late, value := m.p.late, m.p.value
	*m = model{}
	for ctx := range contexts {
		for _, n := range []*number{late[ctx], value[ctx]} {
			if n != nil {
				*n = number{}
			}
		}
	}
	m.p.late, m.p.value = late, value
}

const (
	// contexts is how many kinds of numbers are told apart, by the number of
	// bits of their usual size.
	contexts = 24
	// keepText is the longest text that a model remembers, keepTexts how many.
	keepText  = 1 << 10
	keepTexts = 48
	// maxKept bounds what a model keeps, in bytes. A writer that comes near
	// starts a new one.
	maxKept = 16 << 20
)

// context tells with which numbers one of a usual size is learnt, and around
// which class it is expected.
func context(usual uint64) (ctx, middle int) {
	n := bits.Len64(usual)
	return min(n, contexts-1), n
}

// settle moves a usual size, kept in quarters, a quarter of the way to a new one.
func settle(usual *uint64, size uint64) { *usual += min(size, 1<<61) - *usual/4 }

func abs(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// kind is what seldom changes in a series.
type kind struct {
	dataType  point.DataType
	tombstone uint8
	origin    string
	length    int // of a number, 0 for what is none
}

// track is what is known of one series.
type track struct {
	name point.Series
	id   int    // its number
	next *track // what followed it the last time
	seen bool   // it had an entry
	kind

	time   uint64 // last
	even   uint64 // where the last one was due, when it is known well
	step   int64  // periods between the last two; ns where there is no period
	count  uint64 // how many times went into even
	late   uint64 // usual distance from where one is due
	shared uint   // bits: whether the last ones had the time of the entry before

	still  uint      // bits: whether the last ones had the data of the one before
	bits   uint64    // last number
	way    way       // how the last number was coded
	scale  way       // the decimals that fit it as a rule
	odd    way       // those of the last number that they did not fit
	last   [2]int64  // the last two numbers, coded like the last one
	missed [3]uint64 // how far off each forecast is as a rule
	text   []byte    // last value that is no number
}

// trackBytes is about what a track takes besides its name.
const trackBytes = 256

// entry codes one entry of a frame.
func (m *model) entry(c *coder, e *Entry, placed bool) {
	t := m.track(c, e)
	if c.failed {
		return
	}
	e.More = c.flag(&m.p.more, e.More)
	m.when(c, e, t)
	k := m.what(c, kind{e.DataType, e.Tombstone, e.Origin, numberLength(e.DataType, len(e.Data))}, t)
	w, data := m.value(c, word(e.Data), e.Data, t)
	if c.decoding {
		e.DataType, e.Tombstone, e.Origin, e.Data = k.dataType, k.tombstone, k.origin, data
		if k.length > 0 {
			e.Data = m.bytesOf(w, k.length)
		}
	}
	if placed {
		m.place(c, e)
	}
	if m.last != nil {
		m.last.next = t
	}
	m.last, t.seen = t, true
}

// track finds the series of an entry: the one that followed the one before
// the last time, a new one, or any.
func (m *model) track(c *coder, e *Entry) *track {
	if m.last != nil && m.last.next != nil {
		next := m.last.next
		if c.flag(&m.p.follows, !c.decoding && next.name == e.Series) {
			e.Series = next.name
			return next
		}
	}
	t := m.index[e.Series]
	if c.flag(&m.p.fresh, t == nil) {
		return m.add(c, e.Series, e)
	}
	n := uint64(len(m.series))
	var number uint64
	if !c.decoding {
		number = uint64(t.id)
	}
	if number = m.p.pick.unsigned(c, number, bits.Len64(n)-1); number >= n {
		c.fail()
		return nil
	}
	e.Series = m.series[number].name
	return m.series[number]
}

// add codes the name of a new series.
func (m *model) add(c *coder, s point.Series, e *Entry) *track {
	var like point.Series
	if n := len(m.series); n > 0 {
		like = m.series[n-1].name
	}
	if c.flag(&m.p.edge, s.IsEdge()) {
		s.Up = m.alike(c, &m.p.node, s.Up, like.Up)
	}
	s.Node = m.alike(c, &m.p.node, s.Node, like.Node)
	s.Type = m.alike(c, &m.p.typ, s.Type, like.Type)
	s.Key = m.alike(c, &m.p.key, s.Key, like.Key)
	m.kept(c, trackBytes)
	if c.failed {
		return nil
	}
	t := &track{name: s, id: len(m.series), odd: wayNone}
	m.series = append(m.series, t)
	if !c.decoding {
		if m.index == nil {
			m.index = map[point.Series]*track{}
		}
		m.index[s] = t
	}
	e.Series = s
	return t
}

func (m *model) alike(c *coder, p *prob, s, like string) string {
	if c.flag(p, s == like) {
		return like
	}
	return string(m.literal(c, []byte(s), m.kept))
}

// when codes the time of an entry: that of the entry before, or how far it is
// from when its series was due.
func (m *model) when(c *coder, e *Entry, t *track) {
	ctx := t.shared&1<<1 | m.shared
	m.shared = 0
	switch {
	case c.flag(&m.p.sameTime[ctx], e.Time == m.time):
		e.Time, m.shared = m.time, 1
		if m.period > 0 && t.seen {
			t.step = t.steps(e.Time, m.period)
		}
	case !t.seen:
		e.Time = m.distance(c, e.Time, m.time, &m.spread)
	default:
		e.Time = m.due(c, e.Time, t)
	}
	if m.period == 0 && t.seen {
		t.step = int64(e.Time - t.time)
	}
	t.arrived(e.Time, m.period)
	t.shared = t.shared<<1 | m.shared
	m.time = e.Time
}

// due codes a time by how far it is from when its series was due.
func (m *model) due(c *coder, time uint64, t *track) uint64 {
	if m.period == 0 {
		return m.distance(c, time, t.time+uint64(t.step), &t.late)
	}
	steps := t.steps(time, m.period)
	if c.flag(&m.p.step[min(1, t.count/2)], steps == t.step) {
		steps = t.step
	} else {
		steps = t.step + m.p.gap.signed(c, steps-t.step, 2)
	}
	t.step = steps
	return m.distance(c, time, t.even+uint64(steps)*m.period, &t.late)
}

// distance codes a time by its distance from a guess, in units.
func (m *model) distance(c *coder, time, guess uint64, usual *uint64) uint64 {
	about := guess / m.unit
	if guess%m.unit > m.unit/2 {
		about++
	}
	ctx, middle := context(*usual / 4)
	d := of(&m.p.late, ctx).signed(c, int64(time/m.unit-about), middle)
	settle(usual, abs(d))
	return (about + uint64(d)) * m.unit
}

// steps returns how many periods after the last time a time is.
func (t *track) steps(time, period uint64) int64 {
	d := int64(time - t.even)
	half := int64(period / 2)
	if d < -half {
		return -int64((uint64(-d) + uint64(half)) / period)
	}
	return int64((uint64(d) + uint64(half)) / period)
}

// evenCount is how many times even is a mean of.
const evenCount = 16

// arrived takes a time into the mean of when the series is due.
func (t *track) arrived(time, period uint64) {
	due := t.even + uint64(t.step)*period
	if period == 0 || !t.seen || abs(int64(time-due)) > period {
		t.even, t.count = time, 1
	} else {
		t.count = min(t.count+1, evenCount)
		t.even = due + uint64(int64(time-due)/int64(t.count))
	}
	t.time = time
}

// what codes the kind of a value.
func (m *model) what(c *coder, k kind, t *track) kind {
	like, seen := t.kind, 1
	if !t.seen {
		if seen = 0; m.last != nil {
			like = m.last.kind
		}
	}
	if c.flag(&m.p.kind[seen], k == like) {
		k = like
	} else {
		m.newKind(c, &k)
	}
	t.kind = k
	return k
}

func (m *model) newKind(c *coder, k *kind) {
	k.dataType = point.DataType(c.tree(m.p.dataType[:], 8, uint(k.dataType)))
	if c.flag(&m.p.isNumber, k.length > 0) {
		k.length = 1 << c.tree(m.p.length[:], 2, uint(bits.TrailingZeros(uint(k.length))))
		if numberLength(k.dataType, k.length) == 0 {
			c.fail()
		}
	} else {
		k.length = 0
	}
	if c.flag(&m.p.alive, k.tombstone == 0) {
		k.tombstone = 0
	} else {
		k.tombstone = uint8(m.p.tomb.unsigned(c, uint64(k.tombstone), 1))
	}
	if c.flag(&m.p.named, k.origin != "") {
		k.origin = m.text(c, k.origin)
	} else {
		k.origin = ""
	}
}

// text codes an origin or author: its number, or the next number and the text.
func (m *model) text(c *coder, s string) string {
	return tabled(m, c, &m.strings, s, func(s string) string {
		m.kept(c, 64)
		return string(m.literal(c, []byte(s), m.kept))
	})
}

// tabled codes a value by its number in a table; a new one gets the next.
func tabled[K comparable](m *model, c *coder, t *table[K], v K, literal func(K) K) K {
	n := uint64(len(t.list))
	i := n
	if k, ok := t.index[v]; ok {
		i = uint64(k)
	}
	switch i = m.p.pick.unsigned(c, i, bits.Len64(n)-1); {
	case i < n:
		return t.list[i]
	case i > n:
		c.fail()
		return v
	}
	v = literal(v)
	t.number(v)
	return v
}

// kept counts what the model keeps; more than it may is no frame of ours.
func (m *model) kept(c *coder, n int) {
	if m.bytes += n; m.bytes > maxKept {
		c.fail()
	}
}

// place codes the author of an entry and its place in the author's log.
func (m *model) place(c *coder, e *Entry) {
	if c.flag(&m.p.author, e.Author == m.author && e.At.Epoch == m.at.Epoch) {
		e.Author, e.At.Epoch = m.author, m.at.Epoch
	} else {
		e.Author = m.text(c, e.Author)
		e.At.Epoch = tabled(m, c, &m.epochs, e.At.Epoch, func(e Epoch) Epoch {
			m.kept(c, 64)
			return Epoch(c.u64(uint64(e)))
		})
	}
	next := m.at.Seq + 1
	e.At.Seq = next + uint64(m.p.seq.signed(c, int64(e.At.Seq-next), 4))
	m.author, m.at = e.Author, e.At
}
