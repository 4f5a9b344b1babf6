package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/sapflow/sapflow/shared/point"
)

const (
	flagZstd   = 1 << 0
	flagBefore = 1 << 1
	flagAgain  = 1 << 2

	kindTombstone = 1 << 4
	kindOrigin    = 1 << 5
	kindMore      = 1 << 6
	kindLongType  = 1 << 7
)

// encodeV1 returns the bytes of the frame in version 1: plain columns with zstd.
func (f *Frame) encodeV1() []byte {
	body := f.appendBody(nil)
	var flags byte
	raw := len(body)
	if raw > 64 {
		if packed := zstdEncoder().EncodeAll(body, nil); len(packed) < raw {
			body, flags = packed, flagZstd
		}
	}
	isLog := f.Kind != Heads
	if isLog && f.Before != (Position{}) {
		flags |= flagBefore
	}
	if isLog && f.Again != (Cursor{}) {
		flags |= flagAgain
	}
	b := make([]byte, 0, len(body)+96)
	b = append(b, 1, byte(f.Kind), flags)
	b = binary.LittleEndian.AppendUint64(b, f.Now)
	if isLog {
		b = binary.LittleEndian.AppendUint64(b, uint64(f.Epoch))
		b = binary.AppendUvarint(b, f.Prev)
		b = binary.AppendUvarint(b, f.Gap())
		b = binary.AppendUvarint(b, f.Points())
		b = binary.LittleEndian.AppendUint64(b, f.Base)
		b = binary.LittleEndian.AppendUint64(b, f.Sum)
		if flags&flagBefore != 0 {
			b = binary.LittleEndian.AppendUint64(b, uint64(f.Before.Epoch))
			b = binary.AppendUvarint(b, f.Before.Seq)
			b = binary.LittleEndian.AppendUint64(b, f.Before.Sum)
		}
		if f.Kind == Relay {
			b = binary.AppendUvarint(b, f.Covers.Edge)
			b = binary.AppendUvarint(b, f.Covers.Hub)
		}
		if flags&flagAgain != 0 {
			b = binary.LittleEndian.AppendUint64(b, uint64(f.Again.Epoch))
			b = binary.AppendUvarint(b, f.Again.Seq)
		}
	}
	b = binary.AppendUvarint(b, uint64(raw))
	b = append(b, body...)
	return seal(b)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (f *Frame) appendBody(b []byte) []byte {
	placed := f.Kind != Log // entries name author and place
	var series table[point.Series]
	var origins, authors table[string]
	var epochs table[Epoch]
	for i := range f.Entries {
		e := &f.Entries[i]
		series.number(e.Series)
		if e.Origin != "" {
			origins.number(e.Origin)
		}
		if placed {
			authors.number(e.Author)
			epochs.number(e.At.Epoch)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(series.list)))
	for _, s := range series.list {
		if s.IsEdge() {
			b = appendString(append(b, 1), s.Up)
		} else {
			b = append(b, 0)
		}
		b = appendString(appendString(appendString(b, s.Node), s.Type), s.Key)
	}
	b = binary.AppendUvarint(b, uint64(len(origins.list)))
	for _, s := range origins.list {
		b = appendString(b, s)
	}
	if placed {
		b = binary.AppendUvarint(b, uint64(len(authors.list)))
		for _, s := range authors.list {
			b = appendString(b, s)
		}
		b = binary.AppendUvarint(b, uint64(len(epochs.list)))
		for _, e := range epochs.list {
			b = binary.LittleEndian.AppendUint64(b, uint64(e))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(f.Entries)))
	for i := range f.Entries {
		b = binary.AppendUvarint(b, uint64(series.number(f.Entries[i].Series)))
	}
	var last uint64
	for i := range f.Entries {
		t := f.Entries[i].Time
		b = binary.AppendVarint(b, int64(t-last))
		last = t
	}
	b = appendKinds(b, f.Entries, &origins)
	for i := range f.Entries {
		d := f.Entries[i].Data
		b = append(binary.AppendUvarint(b, uint64(len(d))), d...)
	}
	if placed {
		for i := range f.Entries {
			b = binary.AppendUvarint(b, uint64(authors.number(f.Entries[i].Author)))
		}
		for i := range f.Entries {
			b = binary.AppendUvarint(b, uint64(epochs.number(f.Entries[i].At.Epoch)))
		}
		last = 0
		for i := range f.Entries {
			s := f.Entries[i].At.Seq
			b = binary.AppendVarint(b, int64(s-last))
			last = s
		}
	}
	b = binary.AppendUvarint(b, uint64(len(f.Aside)))
	last = f.First - 1
	for _, a := range f.Aside {
		b = append(binary.AppendUvarint(b, a.Seq-last), byte(a.Reason))
		last = a.Seq
	}
	return b
}

func appendKinds(b []byte, entries []Entry, origins *table[string]) []byte {
	for i := range entries {
		e := &entries[i]
		k := byte(e.DataType)
		if e.DataType > 15 {
			k = kindLongType
		}
		if e.Tombstone != 0 {
			k |= kindTombstone
		}
		if e.Origin != "" {
			k |= kindOrigin
		}
		if e.More {
			k |= kindMore
		}
		b = append(b, k)
	}
	for i := range entries {
		if t := entries[i].Tombstone; t != 0 {
			b = append(b, t)
		}
	}
	for i := range entries {
		if o := entries[i].Origin; o != "" {
			b = binary.AppendUvarint(b, uint64(origins.number(o)))
		}
	}
	for i := range entries {
		if d := entries[i].DataType; d > 15 {
			b = append(b, byte(d))
		}
	}
	return b
}

func decodeV1(b []byte, author string) (*Frame, error) {
	f, body, err := decodeEnvelope(b)
	if err != nil {
		return nil, err
	}
	if err := f.decodeBody(&reader{b: body}, author); err != nil {
		return nil, err
	}
	return f, nil
}

// decodeFixed reads the envelope up to the body and returns what follows.
func decodeFixed(b []byte) (*Frame, *envelope, error) {
	if len(b) < 3+8+1+4 {
		return nil, nil, damaged("too short")
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, nil, damaged("checksum does not match")
	}
	f := &Frame{Kind: Kind(b[1])}
	flags := b[2]
	if f.Kind < Log || f.Kind > Heads || flags&^(flagZstd|flagBefore|flagAgain) != 0 {
		return nil, nil, damaged("kind or flags not known")
	}
	r := &reader{b: b[3:end]}
	f.Now = r.u64()
	if f.Kind != Heads {
		f.Epoch = Epoch(r.u64())
		f.Prev = r.uvarint()
		gap := r.uvarint()
		n := r.uvarint()
		f.First = f.Prev + gap + 1
		f.Last = f.First + n - 1
		if f.First <= f.Prev || f.Last+1 < f.First {
			return nil, nil, damaged("sequence numbers overflow")
		}
		if n > MaxPoints {
			return nil, nil, fmt.Errorf("%w: %d points", ErrTooLarge, n)
		}
		f.Base, f.Sum = r.u64(), r.u64()
		if flags&flagBefore != 0 {
			f.Before = Position{Cursor{Epoch(r.u64()), r.uvarint()}, r.u64()}
		}
		if f.Kind == Relay {
			f.Covers = Covers{r.uvarint(), r.uvarint()}
		}
		if flags&flagAgain != 0 {
			f.Again = Cursor{Epoch(r.u64()), r.uvarint()}
		}
	}
	raw := r.uvarint()
	if r.failed {
		return nil, nil, damaged("header is truncated")
	}
	if raw > MaxBody {
		return nil, nil, ErrTooLarge
	}
	return f, &envelope{raw: int(raw), packed: flags&flagZstd != 0, body: r.b}, nil
}

type envelope struct {
	raw    int
	packed bool
	body   []byte
}

func decodeEnvelope(b []byte) (*Frame, []byte, error) {
	f, env, err := decodeFixed(b)
	if err != nil {
		return nil, nil, err
	}
	body := env.body
	if env.packed {
		if body, err = unpack(env.body, env.raw); err != nil {
			return nil, nil, err
		}
	}
	if len(body) != env.raw {
		return nil, nil, damaged("body length")
	}
	return f, body, nil
}

// reader takes values from the front of b; once it fails it stays failed and
// returns zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() { r.b, r.failed = nil, true }

func (r *reader) u64() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) u8() byte {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// count reads a number of items that take at least minBytes each.
func (r *reader) count(minBytes int) int {
	n := r.uvarint()
	if n > MaxPoints || n > uint64(len(r.b)/minBytes) {
		r.fail()
		return 0
	}
	return int(n)
}

// pick reads a number that must lie below n.
func (r *reader) pick(n int) int {
	v := r.uvarint()
	if v >= uint64(n) {
		r.fail()
		return 0
	}
	return int(v)
}

func (r *reader) strings() []string {
	list := make([]string, r.count(1))
	for i := range list {
		list[i] = string(r.bytes())
	}
	return list
}

func (f *Frame) decodeBody(r *reader, author string) error {
	placed := f.Kind != Log
	series := make([]point.Series, r.count(4))
	for i := range series {
		var s point.Series
		if r.u8() == 1 {
			s.Up = string(r.bytes())
		}
		s.Node, s.Type, s.Key = string(r.bytes()), string(r.bytes()), string(r.bytes())
		series[i] = s
	}
	origins := r.strings()
	var authors []string
	var epochs []Epoch
	if placed {
		authors = r.strings()
		epochs = make([]Epoch, r.count(8))
		for i := range epochs {
			epochs[i] = Epoch(r.u64())
		}
	}
	n := r.count(4)
	if r.failed {
		return damaged("tables")
	}
	f.Entries = make([]Entry, n)
	if n == 0 {
		f.Entries = nil
	}
	for i := range f.Entries {
		if k := r.pick(len(series)); !r.failed {
			f.Entries[i].Series = series[k]
		}
	}
	var last uint64
	for i := range f.Entries {
		last += uint64(r.varint())
		f.Entries[i].Time = last
	}
	f.decodeKinds(r, origins)
	for i := range f.Entries {
		f.Entries[i].Data = r.bytes()
	}
	if placed {
		f.decodePlaces(r, authors, epochs)
	}
	f.Aside = make([]Aside, r.count(2))
	last = f.First - 1
	for i := range f.Aside {
		last += r.uvarint()
		f.Aside[i] = Aside{last, Reason(r.u8())}
	}
	if len(f.Aside) == 0 {
		f.Aside = nil
	}
	if r.failed || len(r.b) > 0 {
		return damaged("body")
	}
	return f.number(author)
}

func (f *Frame) decodeKinds(r *reader, origins []string) {
	if len(r.b) < len(f.Entries) {
		r.fail()
		return
	}
	kinds := r.b[:len(f.Entries)]
	r.b = r.b[len(f.Entries):]
	for i, k := range kinds {
		f.Entries[i].DataType = point.DataType(k & 15)
		f.Entries[i].More = k&kindMore != 0
		if k&kindTombstone != 0 {
			f.Entries[i].Tombstone = r.u8()
		}
	}
	for i, k := range kinds {
		if k&kindOrigin != 0 {
			if o := r.pick(len(origins)); !r.failed {
				f.Entries[i].Origin = origins[o]
			}
		}
	}
	for i, k := range kinds {
		if k&kindLongType != 0 {
			f.Entries[i].DataType = point.DataType(r.u8())
		}
	}
}

func (f *Frame) decodePlaces(r *reader, authors []string, epochs []Epoch) {
	for i := range f.Entries {
		if k := r.pick(len(authors)); !r.failed {
			f.Entries[i].Author = authors[k]
		}
	}
	for i := range f.Entries {
		if k := r.pick(len(epochs)); !r.failed {
			f.Entries[i].At.Epoch = epochs[k]
		}
	}
	var last uint64
	for i := range f.Entries {
		last += uint64(r.varint())
		f.Entries[i].At.Seq = last
	}
}
