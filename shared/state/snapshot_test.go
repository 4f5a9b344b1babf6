package state_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"reflect"
	"testing"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
)

// meta is what a caller might keep in a snapshot.
type meta struct {
	Epoch uint64
	Seqs  map[string]uint64
	Note  string
}

// allTypes returns a state with a value of every data type and size, edges,
// removed points and the limits of every field.
func allTypes() *state.State {
	s := state.New()
	n := 0
	add := func(dt point.DataType, data ...byte) *frame.Entry {
		n++
		e := entry("gw1", epoch1, uint64(n), uint64(1000+n), "")
		e.Key, e.DataType, e.Data = fmt.Sprint(n), dt, data
		s.Merge(&e)
		return s.Get(e.Series)
	}
	add(point.Unknown)
	add(point.Unknown, 0, 0xff)
	for _, v := range []float64{0, math.Copysign(0, -1), 21.5, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64} {
		add(point.Float, point.FloatData(v)...)
	}
	add(point.Float, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0xf8, 0xff) // NaN with a payload
	add(point.Float, 1, 0, 0x80, 0x7f)                         // and one of 32 bits, signalling
	for _, size := range []int{1, 2, 4, 8} {
		add(point.Int, bytes.Repeat([]byte{0xff}, size)...)
		add(point.Int, append(make([]byte, size-1), 0x80)...)
		add(point.Uint, bytes.Repeat([]byte{0xff}, size)...)
		add(point.Uint, make([]byte, size)...)
	}
	add(point.String)
	add(point.String, []byte("Pumpe Süd\n\x00")...)
	add(point.JSON, []byte(`{"a":[1,2.50,"ü"]}`)...)
	add(point.Protobuf, 8, 1)
	add(200, 1, 2, 3)
	add(point.Unknown, bytes.Repeat([]byte("0123456789abcdef"), point.MaxGroupBytes/16)...)
	for _, tombstone := range []uint8{1, 2, 255} {
		e := add(point.Uint, 1)
		next := *e
		next.Tombstone, next.Origin, next.Time, next.Author = tombstone, "anna", math.MaxUint64, state.Hub
		next.At = frame.Cursor{Epoch: math.MaxUint64, Seq: math.MaxUint64}
		s.Merge(&next)
	}
	for _, p := range point.Edge("up", "down", "sensor") {
		p.Origin = string(bytes.Repeat([]byte("o"), point.MaxOriginLen))
		s.Merge(&frame.Entry{Point: p, Author: state.Hub, At: frame.Cursor{Epoch: epoch2, Seq: 1}})
	}
	return s
}

// checkSame fails unless two states hold the same winners.
func checkSame(t *testing.T, got, want *state.State) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Errorf("got %d series, want %d", got.Len(), want.Len())
	}
	want.All(func(e *frame.Entry) {
		if g := got.Get(e.Series); g == nil || !same(g, e) || g.More {
			t.Errorf("%s: got %+v, want %+v", e.Series, g, e)
		}
	})
}

func TestSnapshot(t *testing.T) {
	want := allTypes()
	m := meta{Epoch: math.MaxUint64, Seqs: map[string]uint64{"edge": 1 << 60, "hub": 0}, Note: "ü"}
	b, err := want.Snapshot(m)
	if err != nil {
		t.Fatal(err)
	}
	var got meta
	s, err := state.Restore(b, &got)
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, s, want)
	if !reflect.DeepEqual(got, m) {
		t.Errorf("meta: got %+v, want %+v", got, m)
	}
	again, err := s.Snapshot(m)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("a snapshot of the restored state differs, %v", err)
	}
	clear(b) // the state must not live in the file's bytes
	checkSame(t, s, want)
	more := entry("gw1", epoch2, 1, 5000, "goes on")
	if s.Merge(&more) != state.Won || s.Get(more.Series) == nil {
		t.Errorf("a restored state takes no points")
	}
}

func TestSnapshotEmpty(t *testing.T) {
	b, err := state.New().Snapshot(meta{Note: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var m meta
	s, err := state.Restore(b, &m)
	if err != nil || s.Len() != 0 || m.Note != "x" {
		t.Errorf("got %v, meta %+v, want an empty state", err, m)
	}
	if _, err := state.New().Snapshot(func() {}); err == nil {
		t.Errorf("meta that is not JSON: got no error")
	}
}

// TestSnapshotLarge has more series and more bytes than fit one frame.
func TestSnapshotLarge(t *testing.T) {
	r := newRand(t)
	want := state.New()
	for i := range 10_000 {
		e := entry(pick(r, state.Hub, "gw1"), epoch1, r.Uint64(), r.Uint64(), "")
		e.Node, e.Key = fmt.Sprintf("n%d", i%100), fmt.Sprint(i)
		e.Data = make([]byte, r.IntN(64))
		want.Merge(&e)
	}
	value := make([]byte, 60<<10)
	for i := range value {
		value[i] = byte(r.Uint32())
	}
	for i := range 300 { // 18 MB, beyond the body of one frame
		e := entry("gw1", epoch1, 1, 1, "")
		e.Node, e.Key, e.Data = "big", fmt.Sprint(i), value
		want.Merge(&e)
	}
	b, err := want.Snapshot(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := state.Restore(b, new(any))
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, s, want)
}

func TestSnapshotDamaged(t *testing.T) {
	s := state.New()
	for i := range 40 {
		e := entry("gw1", epoch1, uint64(i), uint64(i), "value")
		e.Key = fmt.Sprint(i)
		s.Merge(&e)
	}
	whole, err := s.Snapshot(meta{Seqs: map[string]uint64{"edge": 7}})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		if s, err := state.Restore(b, new(meta)); !errors.Is(err, state.ErrSnapshot) || s != nil {
			t.Errorf("%s: got %v, want ErrSnapshot and no state", what, err)
		}
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), b)
		}
		b := bytes.Clone(whole)
		b[i] = ^b[i]
		refused(fmt.Sprintf("byte %d inverted", i), b)
		refused(fmt.Sprintf("byte %d lost", i), append(bytes.Clone(whole[:i]), whole[i+1:]...))
	}
	for n := range whole {
		refused(fmt.Sprintf("cut to %d bytes", n), whole[:n])
		refused(fmt.Sprintf("zeros from byte %d on", n), append(bytes.Clone(whole[:n]), make([]byte, len(whole)-n)...))
	}
	refused("a byte too many", append(bytes.Clone(whole), 0))
	refused("twice", append(bytes.Clone(whole), whole...))
	refused("nil", nil)
	if _, err := state.Restore(whole, new(meta)); err != nil {
		t.Errorf("the whole one: %v", err)
	}
}

// TestSnapshotLies has the right checksum but parts that are not what they
// claim to be.
func TestSnapshotLies(t *testing.T) {
	seal := func(parts ...[]byte) []byte {
		b := bytes.Join(append([][]byte{[]byte("SAPSTAT1")}, parts...), nil)
		return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	part := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	heads := (&frame.Frame{Kind: frame.Heads, Entries: []frame.Entry{entry("gw1", epoch1, 1, 1, "v")}}).Encode()
	damaged := bytes.Clone(heads)
	damaged[len(damaged)-1]++
	if s, err := state.Restore(seal(part([]byte("{}")), part(heads)), new(meta)); err != nil || s.Len() != 1 {
		t.Fatalf("a snapshot made by hand: %v", err)
	}
	for name, b := range map[string][]byte{
		"no meta":                  seal([]byte{}),
		"meta is not JSON":         seal(part([]byte("{"))),
		"meta of another type":     seal(part([]byte("[]"))),
		"meta longer than it is":   seal([]byte{200, 0, 0, 0, '{', '}'}),
		"meta of 4 GB":             seal([]byte{255, 255, 255, 255, '{', '}'}),
		"frame longer than it is":  seal(part([]byte("{}")), part(heads)[:20]),
		"frame length cut":         seal(part([]byte("{}")), []byte{1, 0}),
		"damaged frame":            seal(part([]byte("{}")), part(damaged)),
		"good and damaged frame":   seal(part([]byte("{}")), part(heads), part(damaged)),
		"empty frame":              seal(part([]byte("{}")), part(nil)),
		"snapshot of another kind": append([]byte("SAPSTAT2"), seal(part([]byte("{}")))[8:]...),
	} {
		if s, err := state.Restore(b, new(meta)); !errors.Is(err, state.ErrSnapshot) || s != nil {
			t.Errorf("%s: got %v, want ErrSnapshot and no state", name, err)
		}
	}
}
