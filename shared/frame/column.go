package frame

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/sapflow/sapflow/shared/point"
)

// Column is points of one series and one author in the order of their times,
// no two of the same: what history keeps and sends. A million of them take 16
// MB in memory. The zero Column is empty.
type Column struct {
	Times []uint64 // ns

	words []uint64 // the bits of a number; of another value its place in texts
	texts [][]byte
	kinds []kind          // those that occur, in the order of their first use
	of    []uint32        // the kind of each point; nil if all have the first
	index map[kind]uint32 // places of kinds, once there are several
}

// Len returns the number of points.
func (c *Column) Len() int { return len(c.Times) }

// Grow makes room for n more points.
func (c *Column) Grow(n int) {
	c.Times, c.words = slices.Grow(c.Times, n), slices.Grow(c.words, n)
}

// kind returns what the value of point i is.
func (c *Column) kind(i int) *kind {
	if c.of == nil {
		return &c.kinds[0]
	}
	return &c.kinds[c.of[i]]
}

// Point returns point i but for its series. The data are its own, or shared
// with the column where they are no number.
func (c *Column) Point(i int) point.Point {
	k := c.kind(i)
	if k.length > 0 {
		return k.point(c.Times[i], c.words[i])
	}
	return point.Point{Time: c.Times[i], DataType: k.dataType, Tombstone: k.tombstone, Origin: k.origin, Data: c.texts[c.words[i]]}
}

// AppendText appends the value of point i as point.Text does.
func (c *Column) AppendText(b []byte, i int) []byte {
	k := c.kind(i)
	p := point.Point{DataType: k.dataType}
	if k.length == 0 {
		p.Data = c.texts[c.words[i]]
		return p.AppendText(b)
	}
	var data [8]byte
	binary.LittleEndian.PutUint64(data[:], c.words[i])
	p.Data = data[:k.length]
	return p.AppendText(b)
}

// Number returns the value of point i as a number; false if it is none, or
// the point is a removal.
func (c *Column) Number(i int) (float64, bool) {
	k := c.kind(i)
	if k.length == 0 || k.tombstone&1 == 1 {
		return 0, false
	}
	return k.number(c.words[i]), true
}

// Removed tells whether point i says that the value is no more.
func (c *Column) Removed(i int) bool { return c.kind(i).tombstone&1 == 1 }

// Append adds a point and takes its data. Its time must be above all others,
// or Sort is called before anything else.
func (c *Column) Append(p *point.Point) {
	c.append(p.Time, kind{p.DataType, p.Tombstone, p.Origin, numberLength(p.DataType, len(p.Data))}, word(p.Data), p.Data)
}

func (c *Column) append(time uint64, k kind, bits uint64, data []byte) {
	if c.setKind(k); k.length == 0 {
		bits = uint64(len(c.texts))
		c.texts = append(c.texts, data)
	}
	c.Times, c.words = append(c.Times, time), append(c.words, bits)
}

// AppendFrom adds points from to to of another column, which come after all
// others.
func (c *Column) AppendFrom(d *Column, from, to int) {
	if len(d.kinds) == 1 && d.kinds[0].length > 0 && c.of == nil && (len(c.kinds) == 0 || c.kinds[0] == d.kinds[0]) {
		if from < to {
			c.kinds = d.kinds[:1:1]
		}
		c.Times = append(c.Times, d.Times[from:to]...)
		c.words = append(c.words, d.words[from:to]...)
		return
	}
	for i := from; i < to; i++ {
		k, bits := d.kind(i), d.words[i]
		var data []byte
		if k.length == 0 {
			data = d.texts[bits]
		}
		c.append(d.Times[i], *k, bits, data)
	}
}

// Sort puts points in the order of their times; of the same time the one that
// was added last counts.
func (c *Column) Sort() {
	i := 1
	for i < len(c.Times) && c.Times[i-1] < c.Times[i] {
		i++
	}
	if i >= len(c.Times) {
		return
	}
	order := make([]int, len(c.Times))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(c.Times[a], c.Times[b]), cmp.Compare(a, b)) })
	d := &Column{Times: make([]uint64, 0, len(order)), words: make([]uint64, 0, len(order))}
	for i, at := range order {
		if i+1 == len(order) || c.Times[order[i+1]] != c.Times[at] {
			d.AppendFrom(c, at, at+1)
		}
	}
	*c = *d
}

// setKind notes the kind of the point that is added next.
func (c *Column) setKind(k kind) {
	last := len(c.Times) - 1
	if last >= 0 && *c.kind(last) == k {
		if c.of != nil {
			c.of = append(c.of, c.of[last])
		}
		return
	}
	if len(c.kinds) == 0 {
		c.kinds = []kind{k}
		return
	}
	if c.of == nil {
		c.of = make([]uint32, len(c.Times), cap(c.Times)+1)
	}
	if c.index == nil {
		c.index = map[kind]uint32{}
		for i, k := range c.kinds {
			c.index[k] = uint32(i)
		}
	}
	n, ok := c.index[k]
	if !ok {
		n = uint32(len(c.kinds))
		c.index[k], c.kinds = n, append(c.kinds, k)
	}
	c.of = append(c.of, n)
}

// Versions of encoded columns.
const (
	codedColumn  = 1 // by decisions, as frames
	packedColumn = 2
)

// MaxColumn bounds the points of an encoded column.
const MaxColumn = 1 << 17

// Fit returns where to end a column of points from a place on, so that it has
// no more than about so many bytes of texts and origins: behind one point at
// least, before to at most.
func (c *Column) Fit(from, to, bytes int) int {
	if c.texts == nil && c.of == nil {
		return to
	}
	size := 0
	for i := from; i < to; i++ {
		k := c.kind(i)
		if k.length == 0 {
			size += len(c.texts[c.words[i]])
		}
		if i == from || c.of != nil && c.of[i] != c.of[i-1] {
			size += len(k.origin)
		}
		if size > bytes && i > from {
			return i
		}
	}
	return to
}

// Encode returns the bytes of the points from to to, packed unless that takes
// more: at most MaxColumn, with texts of at most MaxBody, or nobody can read
// them.
func (c *Column) Encode(from, to int) []byte {
	packed := c.pack(from, to)
	if coded := c.code(from, to); packed == nil || len(coded) < len(packed)*31/32 {
		return coded
	}
	return packed
}

// Quick is Encode in a fifth of the time, and bytes that may be more.
func (c *Column) Quick(from, to int) []byte {
	if packed := c.pack(from, to); packed != nil {
		return packed
	}
	return c.code(from, to)
}

// code encodes points by decisions.
func (c *Column) code(from, to int) []byte {
	m := borrow()
	defer giveBack(m)
	k := encoder(append(make([]byte, 0, 64+3*(to-from)), codedColumn))
	m.count(k, to-from)
	if from < to {
		m.timing(k, c.Times[from:to])
	}
	t := &track{odd: wayNone}
	for i := from; i < to; i++ {
		var data []byte
		v := *c.kind(i)
		if v.length == 0 {
			data = c.texts[c.words[i]]
		}
		m.cell(k, c.Times[i], t)
		m.what(k, v, t)
		m.value(k, c.words[i], data, t)
		t.seen = true
	}
	return seal(k.finish())
}

// seal appends the checksum.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Decode adds the points of an encoded column, which come after all others.
// After an error the column is as before.
func (c *Column) Decode(b []byte) error {
	version, b, err := openColumn(b)
	if err != nil {
		return err
	}
	if version == packedColumn {
		return c.unpack(b)
	}
	k, m := decoder(b), borrow()
	defer giveBack(m)
	points := m.count(k, 0)
	if points > MaxColumn {
		return fmt.Errorf("%w: column of %d points", ErrTooLarge, points)
	}
	if points > 0 {
		m.timing(k, nil)
	}
	d := *c
	d.index = maps.Clone(c.index)
	if d.Times, d.words = slices.Grow(c.Times, points), slices.Grow(c.words, points); c.Len() == 0 {
		d.kinds, d.texts, d.of, d.index = nil, nil, nil, nil
	}
	t := &track{odd: wayNone}
	for range points {
		last := t.time
		time := m.cell(k, 0, t)
		v := m.what(k, kind{}, t)
		bits, data := m.value(k, 0, nil, t)
		if k.failed || t.seen && time <= last || !v.fits(bits, data) {
			return damaged("column")
		}
		d.append(time, v, bits, data)
		t.seen = true
	}
	if k.failed || !k.spent() {
		return damaged("column")
	}
	*c = d
	return nil
}

// fits tells whether a value that was read may be of a kind: a number of as many
// bytes, or what is no number.
func (k *kind) fits(bits uint64, data []byte) bool {
	if k.length == 0 {
		return numberLength(k.dataType, len(data)) == 0
	}
	return bits>>(8*k.length) == 0
}

// Intact tells whether an encoded column is as it was written.
func Intact(b []byte) bool {
	_, _, err := openColumn(b)
	return err == nil
}

// openColumn checks what stands around a column, and returns the rest.
func openColumn(b []byte) (version byte, rest []byte, err error) {
	n := len(b) - checkBytes
	switch {
	case n < 1:
		return 0, nil, damaged("column is too short")
	case b[0] != codedColumn && b[0] != packedColumn:
		return 0, nil, fmt.Errorf("%w: column %d, this program reads up to %d", ErrVersion, b[0], packedColumn)
	case crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]):
		return 0, nil, damaged("checksum of column does not match")
	}
	return b[0], b[1:n], nil
}

// count codes the number of points of a column.
func (m *model) count(c *coder, n int) int {
	return int(min(m.p.count.unsigned(c, uint64(n), 10), MaxColumn+1))
}

// timing codes the unit and the period of the times of a column.
func (m *model) timing(c *coder, times []uint64) {
	if c.decoding {
		m.params(c, 0, 0)
		return
	}
	unit, period := rhythm(times)
	m.params(c, unit, period)
}

// rhythm returns the unit and the period of times, in ns.
func rhythm(times []uint64) (unit, p uint64) {
	unit = maxUnit
	for _, t := range times {
		unit = dividing(unit, t)
	}
	return unit, period(times[:min(len(times), 64)], 0, unit)
}

// cell codes the time of a point of a column.
func (m *model) cell(c *coder, time uint64, t *track) uint64 {
	if !t.seen {
		time = m.distance(c, time, 0, &m.spread)
	} else if last := t.time; m.period == 0 {
		time = m.due(c, time, t)
		t.step = int64(time - last)
	} else {
		time = m.due(c, time, t)
	}
	t.arrived(time, m.period)
	return time
}
