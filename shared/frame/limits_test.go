package frame_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sapflow/sapflow/shared/frame"
)

// reseal appends the checksum that belongs to b.
func reseal(b []byte) []byte {
	b = bytes.Clone(b)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// lyingHeads returns a heads frame of version 1 with any flags, body length and body.
func lyingHeads(flags byte, raw uint64, body []byte) []byte {
	b := append([]byte{1, byte(frame.Heads), flags}, make([]byte, 8)...)
	b = binary.AppendUvarint(b, raw)
	return reseal(append(b, body...))
}

// lyingLog returns a log frame of version 1 that claims n points after a gap.
func lyingLog(flags byte, prev, gap, n, raw uint64, body []byte) []byte {
	b := append([]byte{1, byte(frame.Log), flags}, make([]byte, 16)...)
	for _, v := range []uint64{prev, gap, n} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, make([]byte, 16)...)
	b = binary.AppendUvarint(b, raw)
	return reseal(append(b, body...))
}

// pack returns head followed by zeros up to n bytes, as zstd without a
// content size, which is how a stream is packed whose length is not known.
func pack(head []byte, n int64) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // options are constant
	}
	_, _ = w.Write(head)
	_, _ = io.CopyN(w, zeros{}, n-int64(len(head)))
	_ = w.Close()
	return out.Bytes()
}

// packSized is pack with the content size in its header.
func packSized(head []byte, n int) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(append(bytes.Clone(head), make([]byte, n-len(head))...), nil)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type lie struct {
	name  string
	frame []byte
	want  error
	bound uint64 // bytes that decoding may allocate
}

// lies are frames with a right checksum that claim more than they have.
func lies() []lie {
	// A body whose length zstd does not tell grows by doubling: all steps
	// together are below six times the limit.
	const little, body = 4 << 10, 6 * frame.MaxBody
	huge := []uint64{frame.MaxPoints + 1, 1 << 31, 1 << 40, math.MaxInt64, math.MaxUint64}
	var list []lie
	add := func(name string, want error, bound uint64, b []byte) { list = append(list, lie{name, b, want, bound}) }
	for _, n := range huge {
		count := binary.AppendUvarint(nil, n)
		plain := func(name string, parts ...[]byte) {
			b := bytes.Join(parts, nil)
			add(name, frame.ErrDamaged, little, lyingHeads(0, uint64(len(b)), b))
		}
		plain("series", count)
		plain("series with some bytes", count, make([]byte, 100))
		plain("length of a name", []byte{1, 0}, count, make([]byte, 8))
		plain("length of an up node", []byte{1, 1}, count, make([]byte, 8))
		plain("origins", []byte{0}, count, make([]byte, 8))
		plain("authors", []byte{0, 0}, count, make([]byte, 8))
		plain("epochs", []byte{0, 0, 0}, count, make([]byte, 8))
		plain("entries", []byte{0, 0, 0, 0}, count, make([]byte, 8))
		plain("aside", []byte{0, 0, 0, 0, 0}, count, make([]byte, 8))
		none := []byte{0, 0, 0, 0}
		add("points of the envelope", nil, little, lyingLog(0, 0, 0, n, uint64(len(none)), none))
		add("gap of the envelope with points", frame.ErrDamaged, little, lyingLog(0, math.MaxUint64-3, n, 1, uint64(len(none)), none))
		add("body length", nil, little, lyingHeads(0, n, make([]byte, 6)))
	}
	for _, n := range []uint64{frame.MaxBody + 1, 1 << 40, math.MaxUint64} {
		add("body length beyond the limit", frame.ErrTooLarge, little, lyingHeads(1, n, packSized(nil, 100)))
	}
	add("body length without a body", frame.ErrDamaged, little, lyingHeads(0, frame.MaxBody, nil))
	add("packed body length without a body", frame.ErrDamaged, little, lyingHeads(1, frame.MaxBody, nil))
	add("not zstd", frame.ErrDamaged, little, lyingHeads(1, frame.MaxBody, make([]byte, 200)))
	add("zstd shorter than said", frame.ErrDamaged, 1<<20, lyingHeads(1, frame.MaxBody, packSized(nil, 100)))
	add("zstd longer than said", frame.ErrDamaged, little, lyingHeads(1, 100, packSized(nil, 1<<20)))
	add("zstd longer than said, size unknown", frame.ErrDamaged, body, lyingHeads(1, 100, pack(nil, 8<<20)))
	add("bomb", frame.ErrDamaged, body, lyingHeads(1, frame.MaxBody, pack(nil, 64<<20)))
	add("bomb with its size", frame.ErrDamaged, little, lyingHeads(1, frame.MaxBody, packSized(nil, 64<<20)))

	// Bodies of the right length that are all table or all entries.
	full := func(name string, head ...byte) {
		add(name, frame.ErrDamaged, body, lyingHeads(1, frame.MaxBody, pack(head, frame.MaxBody)))
	}
	most := binary.AppendUvarint(nil, frame.MaxPoints+1)
	full("all zeros")
	full("all series", most...)
	full("all origins", append([]byte{0}, most...)...)
	full("all authors", append([]byte{0, 0}, most...)...)
	full("all epochs", append([]byte{0, 0, 0}, most...)...)
	full("all aside", append([]byte{0, 0, 0, 0, 0}, most...)...)
	oneSeries := []byte{1, 0, 0, 0, 0, 0} // one series without names; no origins
	n := uint64(frame.MaxBody-20) / 4
	entries := binary.AppendUvarint(bytes.Clone(oneSeries), n)
	add("all entries", frame.ErrTooLarge, little, lyingLog(1, 0, 0, n, frame.MaxBody, pack(entries, frame.MaxBody)))
	add("all entries, envelope says fewer", frame.ErrDamaged, body, lyingLog(1, 0, 0, 10, frame.MaxBody, pack(entries, frame.MaxBody)))
	add("most entries, envelope says fewer", frame.ErrDamaged, 9*frame.MaxBody,
		lyingLog(1, 0, 0, 10, frame.MaxBody, pack(binary.AppendUvarint(bytes.Clone(oneSeries), frame.MaxPoints), frame.MaxBody)))
	return list
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLies(t *testing.T) {
	if _, err := frame.Decode(readGolden(t, "v1_packed"), author); err != nil { // makes the zstd decoder
		t.Fatal(err)
	}
	for _, l := range lies() {
		var err error
		n := allocated(func() { _, err = frame.Decode(l.frame, author) })
		switch {
		case err == nil:
			t.Errorf("%s: a frame of %d bytes decodes, want an error", l.name, len(l.frame))
		case l.want != nil && !errors.Is(err, l.want):
			t.Errorf("%s: got %v, want %v", l.name, err, l.want)
		}
		if n > l.bound {
			t.Errorf("%s: %d bytes made decoding allocate %d, want at most %d", l.name, len(l.frame), n, l.bound)
		}
	}
}

// TestNoise decodes noise with a right checksum: a range coder finds some
// frame in most of it, which must stay within its bounds.
func TestNoise(t *testing.T) {
	r := newRand(t)
	const bound = 64 << 20 // the most entries and texts, grown by doubling
	read := 0
	for range 2000 {
		b := append([]byte{frame.Version, byte(1 + r.IntN(3))}, randomBytes(r, r.IntN(300))...)
		if r.IntN(2) == 0 {
			b = append(b, make([]byte, r.IntN(3000))...)
		}
		var err error
		if n := allocated(func() { _, err = frame.Decode(reseal(b), author) }); n > bound {
			t.Errorf("%d bytes made decoding allocate %d, want at most %d: %x", len(b), n, bound, b)
		}
		if err == nil {
			read++
		}
	}
	t.Logf("%d of 2000 were frames", read)
}

// TestLargestFrame decodes the most points that a small frame can claim
// truthfully.
func TestLargestFrame(t *testing.T) {
	f := frame.Frame{Kind: frame.Log, Epoch: epoch1, First: 1, Entries: make([]frame.Entry, frame.MaxPoints)}
	f.Seal()
	b := f.Encode()
	var got *frame.Frame
	var err error
	n := allocated(func() { got, err = frame.Decode(b, author) })
	if err != nil {
		t.Fatalf("%d points: %v", len(f.Entries), err)
	}
	if len(got.Entries) != frame.MaxPoints || !got.Verify() {
		t.Errorf("got %d points, want %d", len(got.Entries), frame.MaxPoints)
	}
	if bound := uint64(32 * frame.MaxBody); n > bound {
		t.Errorf("%d bytes made decoding allocate %d, want at most %d", len(b), n, bound)
	}
	f.Entries = append(f.Entries, frame.Entry{})
	f.Seal()
	for _, decode := range []func([]byte) error{
		func(b []byte) error { _, err := frame.Decode(b, author); return err },
		func(b []byte) error { _, err := frame.DecodeHeader(b); return err },
	} {
		if err := decode(f.Encode()); !errors.Is(err, frame.ErrTooLarge) {
			t.Errorf("%d points: got %v, want ErrTooLarge", len(f.Entries), err)
		}
	}
}

// TestManyNames: as many points as a log puts into a frame, each of a new
// series with the longest names, can be read again.
func TestManyNames(t *testing.T) {
	f := frame.Frame{Kind: frame.Log, Epoch: epoch1, First: 1}
	for i := range 10_000 {
		e := float(fmt.Sprintf("n%062d", i), strings.Repeat("t", 48), i, 1)
		e.Up, e.Key = fmt.Sprintf("u%062d", i), fmt.Sprintf("k%063d", i)
		f.Entries = append(f.Entries, e)
	}
	want := inLog(f)
	got, err := frame.Decode(want.Encode(), author)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(got, want); d != "" {
		t.Error(d)
	}
}
