package history

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sort"

	"github.com/sapflow/sapflow/shared/frame"
)

// ErrDamaged is returned for a chunk whose bytes cannot be read.
var ErrDamaged = errors.New("chunk is damaged")

// end of time: no point is at or after it.
const forever = math.MaxUint64

// leaf is one chunk: what the columns of a group have from start until end, in
// segments. A leaf of summaries has them without their points.
type leaf struct {
	start, end uint64 // ns, end not included; forever in the last leaf of a chain
	cols       []*column

	// recent is where the columns that points are being added to end, the first
	// of them: more comes there. 0 if none are.
	recent uint64
}

// column is one column in a leaf.
type column struct {
	key  Key
	segs []segment
	raw  []byte // encoded summaries; nil once they are in segs and may have changed
}

// segment is a run of points, coded by itself, with its summary.
type segment struct {
	frame.Summary
	data []byte // an encoded column; nil in a leaf of summaries
}

const (
	leafVersion = 1
	leafFixed   = 1 + 8 + 4 // version, end, bytes of the header
	sumBytes    = 4
	// maxSegments bounds the segments that a column of a leaf may claim.
	maxSegments = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the bytes of a leaf: see FORMAT.md.
func (l *leaf) encode() []byte {
	head := binary.AppendUvarint(nil, uint64(len(l.cols)))
	size := 0
	for _, c := range l.cols {
		head = c.key.append(head)
		if c.raw == nil {
			c.raw = frame.EncodeSummaries(c.summaries())
		}
		head = binary.AppendUvarint(head, uint64(len(c.segs)))
		head = binary.AppendUvarint(head, uint64(len(c.raw)))
		head = append(head, c.raw...)
		for i := range c.segs {
			head = binary.AppendUvarint(head, uint64(len(c.segs[i].data)))
			size += len(c.segs[i].data)
		}
	}
	b := make([]byte, 0, leafFixed+len(head)+sumBytes+size)
	b = append(b, leafVersion)
	b = binary.LittleEndian.AppendUint64(b, l.end)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(head)))
	b = append(b, head...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	for _, c := range l.cols {
		for i := range c.segs {
			b = append(b, c.segs[i].data...)
		}
	}
	return b
}

// decodeLeaf reads a leaf. With a key it reads that column only, and the leaf
// has no others. The segments share memory with b.
func decodeLeaf(b []byte, start uint64, only *Key) (*leaf, error) {
	if len(b) < leafFixed+sumBytes || b[0] != leafVersion {
		return nil, fmt.Errorf("%w: version or length", ErrDamaged)
	}
	l := &leaf{start: start, end: binary.LittleEndian.Uint64(b[1:])}
	n := int64(binary.LittleEndian.Uint32(b[9:]))
	if n > int64(len(b)-leafFixed-sumBytes) {
		return nil, fmt.Errorf("%w: length", ErrDamaged)
	}
	body := b[leafFixed+n:]
	if crc32.Checksum(b[:leafFixed+n], castagnoli) != binary.LittleEndian.Uint32(body) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	r := reader{b: b[leafFixed : leafFixed+n]}
	body = body[sumBytes:]
	for range r.number() {
		c := &column{key: r.key()}
		n := min(r.number(), maxSegments+1)
		c.raw = r.bytes()
		wanted := only == nil || c.key == *only
		if wanted {
			list, err := frame.DecodeSummaries(c.raw)
			if err != nil || uint64(len(list)) != n {
				return nil, fmt.Errorf("%w: summaries: %w", ErrDamaged, err)
			}
			c.segs = make([]segment, n)
			for i := range c.segs {
				c.segs[i].Summary = list[i]
			}
			l.cols = append(l.cols, c)
		}
		for i := range n {
			size := r.number()
			if r.failed || size > uint64(len(body)) {
				return nil, fmt.Errorf("%w: length of a segment", ErrDamaged)
			}
			if wanted && size > 0 {
				c.segs[i].data = body[:size:size]
			}
			body = body[size:]
		}
	}
	if r.failed || len(body) > 0 {
		return nil, fmt.Errorf("%w: header", ErrDamaged)
	}
	return l, nil
}

// reader reads the header of a leaf.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.failed, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (k Key) append(b []byte) []byte {
	for _, s := range []string{k.Up, k.Node, k.Type, k.Key, k.Author} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

func (r *reader) key() (k Key) {
	for _, s := range []*string{&k.Up, &k.Node, &k.Type, &k.Key, &k.Author} {
		*s = r.text()
	}
	return k
}

// bytes returns about what the leaf takes.
func (l *leaf) bytes() (n int) {
	for _, c := range l.cols {
		n += 64 + 20*len(c.segs)
		for i := range c.segs {
			n += len(c.segs[i].data)
		}
	}
	return n
}

// last returns the time of the newest point, 0 for none.
func (l *leaf) last() (t uint64) {
	for _, c := range l.cols {
		if n := len(c.segs); n > 0 {
			t = max(t, c.segs[n-1].To)
		}
	}
	return t
}

// column returns the column of a key, nil if the leaf has none.
func (l *leaf) column(k Key) *column {
	for _, c := range l.cols {
		if c.key == k {
			return c
		}
	}
	return nil
}

func (c *column) summaries() []frame.Summary {
	list := make([]frame.Summary, len(c.segs))
	for i := range c.segs {
		list[i] = c.segs[i].Summary
	}
	return list
}

// points returns the points of segments i to j, and what cannot be read.
func (c *column) points(i, j int) (col *frame.Column, lost []Gap) {
	col = &frame.Column{}
	for ; i < j; i++ {
		if s := &c.segs[i]; col.Decode(s.data) != nil {
			lost = append(lost, Gap{Author: c.key.Author, Start: s.From, End: s.To, Count: uint64(s.Count), Reason: Damaged})
		}
	}
	return col, lost
}

// after returns the first segment that ends at or after a time.
func (c *column) after(time uint64) int {
	return sort.Search(len(c.segs), func(i int) bool { return c.segs[i].To >= time })
}

// merge puts points into a leaf: those of a time that it has take the place of
// what is there. It returns what could not be read beside them, and is lost.
func (l *leaf) merge(k Key, add *frame.Column) (lost []Gap) {
	if add.Len() == 0 {
		return nil
	}
	c := l.column(k)
	if c == nil {
		c = &column{key: k}
		l.cols = append(l.cols, c)
	}
	i := c.after(add.Times[0])
	if i > 0 && (i == len(c.segs) && c.segs[i-1].Count < segmentPoints || c.segs[i-1].Count < segmentPoints/4) {
		i-- // it has room
	}
	j := max(i, sort.Search(len(c.segs), func(n int) bool { return c.segs[n].From > add.Times[add.Len()-1] }))
	old, lost := c.points(i, j)
	c.segs = slices.Replace(c.segs, i, j, cut(Union(old, add))...)
	c.raw = nil
	return lost
}

// Union merges two columns, of which the first may be nil; of the same time the
// point of b counts.
func Union(a, b *frame.Column) *frame.Column {
	switch {
	case a == nil || a.Len() == 0:
		return b
	case b.Len() == 0:
		return a
	}
	m := &frame.Column{}
	i, j := 0, 0
	for i < a.Len() && j < b.Len() {
		n := i + sort.Search(a.Len()-i, func(n int) bool { return a.Times[i+n] >= b.Times[j] })
		m.AppendFrom(a, i, n)
		if i = n; i == a.Len() {
			break
		}
		if a.Times[i] == b.Times[j] {
			i++
		}
		if n = b.Len(); i < a.Len() {
			n = j + 1 + sort.Search(b.Len()-j-1, func(n int) bool { return b.Times[j+1+n] >= a.Times[i] })
		}
		m.AppendFrom(b, j, n)
		j = n
	}
	m.AppendFrom(a, i, a.Len())
	m.AppendFrom(b, j, b.Len())
	return m
}

// Sizes of what is written; only tests change them.
var (
	// segmentPoints is how many points a segment has at most as a rule: half of
	// it takes 3 % more bytes, and to read a few too many takes 40 us.
	segmentPoints = 2048
	// segmentText is how many bytes of texts it has at most as a rule.
	segmentText = 64 << 10
	// leafBytes is how large a leaf grows. It is what a query reads at once, and
	// what a point that is late has written again; eight of 30 values a second
	// fill it with one tail of the agent.
	leafBytes = 160 << 10
)

const second = 1_000_000_000 // ns

// widths are the spans of time that segments keep to, in ns: the widest one in
// which a series has segmentPoints. Buckets of whole numbers of them need no
// point. Those below a day divide the offsets of time zones and each other.
var widths = []uint64{
	second, 5 * second, 15 * second, 60 * second, 300 * second, 900 * second, 1800 * second,
	3600 * second, 3 * 3600 * second, 12 * 3600 * second, 48 * 3600 * second, 192 * 3600 * second, 768 * 3600 * second,
}

// cut makes segments of a column.
func cut(c *frame.Column) (segs []segment) {
	n := c.Len()
	width := widths[0]
	if n > 1 {
		each := (c.Times[n-1] - c.Times[0]) / uint64(n-1)
		for _, w := range widths {
			if w/uint64(segmentPoints) <= each {
				width = w
			}
		}
	}
	for i := 0; i < n; {
		last := c.Times[i] - c.Times[i]%width + (width - 1)
		if last < c.Times[i] {
			last = forever
		}
		j := i + sort.Search(n-i, func(k int) bool { return c.Times[i+k] > last })
		for i < j {
			to := c.Fit(i, min(j, i+2*segmentPoints), segmentText)
			segs = append(segs, segment{c.Summary(i, to), c.Encode(i, to)})
			i = to
		}
	}
	return segs
}

// splitGrid is what starts of leaves keep to if they can, in ns, so that the
// segments of two leaves are those of one.
const splitGrid = 1800 * second

// split parts a leaf that is larger than limit at a time of its choice: the new
// leaf takes what comes from there on. nil if the leaf is small enough, or is
// all of one instant.
func (l *leaf) split(limit int) (right *leaf, lost []Gap) {
	if l.bytes() <= limit {
		return nil, nil
	}
	return l.splitAt(l.middle(limit * 7 / 8))
}

// splitAt parts a leaf at a time, 0 for none.
func (l *leaf) splitAt(at uint64) (right *leaf, lost []Gap) {
	if at == 0 {
		return nil, nil
	}
	r := &leaf{start: at, end: l.end, recent: l.recent}
	for _, c := range l.cols {
		right, gone := c.splitAt(at)
		if lost = append(lost, gone...); right != nil {
			r.cols = append(r.cols, right)
		}
	}
	l.cols = slices.DeleteFunc(l.cols, func(c *column) bool { return len(c.segs) == 0 })
	l.end = at
	return r, lost
}

// behind is how far columns are apart as a rule when they are written.
const behind = 60 * second

// full returns a time that parts what is complete in the newest leaf, more than
// half of a limit, from what will be written again; 0 if there is none.
func (l *leaf) full(limit int) uint64 {
	if l.end != forever || l.bytes() <= limit/2 {
		return 0
	}
	first, at := uint64(forever), l.recent-min(l.recent, behind)
	at -= at % splitGrid
	for _, c := range l.cols {
		if len(c.segs) > 0 {
			first = min(first, c.segs[0].From)
		}
	}
	if first >= at {
		return 0
	}
	return at
}

// middle returns a time that has segments of about so many bytes before it, and
// points, or beginnings of summaries, on either side; 0 if there is none.
func (l *leaf) middle(bytes int) (at uint64) {
	type edge struct {
		time uint64 // a part that begins there or later has the segment on its left
		size int
	}
	var list []edge
	first, last := uint64(forever), uint64(0)
	for _, c := range l.cols {
		for i := range c.segs {
			s := &c.segs[i]
			to := s.To
			if s.data == nil { // a summary is where it begins
				to = s.From
			}
			first, last = min(first, s.From), max(last, to)
			list = append(list, edge{to + 1, len(s.data) + 20})
		}
	}
	slices.SortFunc(list, func(a, b edge) int { return cmp.Compare(a.time, b.time) })
	at = 0
	for _, e := range list {
		if bytes -= e.size; bytes < 0 {
			break
		}
		at = e.time
	}
	switch grid := at - at%splitGrid; {
	case grid > first && grid <= last:
		return grid
	case at > first && at <= last:
		return at
	case first < last: // within a segment
		return first + (last-first)/2 + 1
	}
	return 0
}

// splitAt takes what comes from a time on out of a column; nil for nothing. It
// returns what could not be read there, and is lost.
func (c *column) splitAt(at uint64) (right *column, lost []Gap) {
	i := c.after(at)
	if i == len(c.segs) {
		return nil, nil
	}
	right = &column{key: c.key, segs: slices.Clone(c.segs[i:])}
	left := c.segs[:i:i]
	if s := right.segs[0]; s.From < at && s.data != nil {
		var col *frame.Column
		col, lost = right.points(0, 1)
		n := sort.Search(col.Len(), func(k int) bool { return col.Times[k] >= at })
		left = append(left, cut(part(col, 0, n))...)
		right.segs = slices.Replace(right.segs, 0, 1, cut(part(col, n, col.Len()))...)
	} else if s.From < at { // a leaf of summaries: it stays where it begins
		left, right.segs = append(left, s), right.segs[1:]
	}
	c.segs, c.raw = left, nil
	if len(right.segs) == 0 {
		return nil, lost
	}
	return right, lost
}

func part(c *frame.Column, from, to int) *frame.Column {
	p := &frame.Column{}
	p.AppendFrom(c, from, to)
	return p
}
