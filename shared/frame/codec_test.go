package frame_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// start is the time of the golden points.
const start = 1_700_000_000_000_000_000

func entry(node, typ string, seconds int, dt point.DataType, data ...byte) frame.Entry {
	return frame.Entry{Point: point.Point{
		Series: point.Series{Node: node, Type: typ, Key: "0"},
		Time:   start + uint64(seconds)*1e9, DataType: dt, Data: data,
	}}
}

func float(node, typ string, seconds int, v float64) frame.Entry {
	return entry(node, typ, seconds, point.Float, point.FloatData(v)...)
}

func edgeEntry(up, down, typ string, seconds int, dt point.DataType, data ...byte) frame.Entry {
	e := entry(down, typ, seconds, dt, data...)
	e.Up = up
	return e
}

// inLog seals f as a piece of gw1's log and fills in what a reader knows.
func inLog(f frame.Frame) *frame.Frame {
	f.Seal()
	if f.Kind == frame.Log {
		for i := range f.Entries {
			f.Entries[i].Author, f.Entries[i].At = author, frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}
		}
	}
	return &f
}

// setAside takes entries out of a sealed frame, as the door does.
func setAside(f *frame.Frame, reasons map[uint64]frame.Reason) *frame.Frame {
	all := f.Entries
	f.Entries = nil
	for i := range all {
		seq := f.First + uint64(i)
		if r, ok := reasons[seq]; ok {
			f.Aside = append(f.Aside, frame.Aside{Seq: seq, Reason: r})
		} else {
			f.Entries = append(f.Entries, all[i])
		}
	}
	return f
}

const (
	epoch1 = frame.Epoch(1<<40 | 0xaabbccddee)
	epoch2 = frame.Epoch(2<<40 | 0x0102030405)
)

func by(e frame.Entry, author string, epoch frame.Epoch, seq uint64) frame.Entry {
	e.Author, e.At = author, frame.Cursor{Epoch: epoch, Seq: seq}
	return e
}

func withOrigin(e frame.Entry, origin string, tombstone uint8) frame.Entry {
	e.Origin, e.Tombstone = origin, tombstone
	return e
}

func grouped(entries ...frame.Entry) []frame.Entry {
	for i := range entries {
		entries[i].More = i < len(entries)-1
	}
	return entries
}

// goldenFrames are frames of every shape, by name of their golden. Goldens of
// a version stay for ever: they are what lies on disks.
func goldenFrames() map[string]*frame.Frame {
	long := frame.Frame{Kind: frame.Log, Now: start + 61e9, Epoch: epoch1, Prev: 1000, First: 1001, Base: 0x1111}
	for i := range 60 {
		long.Entries = append(long.Entries, float("pump", "temp", i, 20+float64(i%7)/4))
	}
	return map[string]*frame.Frame{
		"log": inLog(frame.Frame{Kind: frame.Log, Now: start + 5e9, Epoch: epoch1, Prev: 7, First: 8, Base: 0x0123456789abcdef, Entries: []frame.Entry{
			float("n1", "temp", 1, 21.5), float("n1", "temp", 2, 21.75),
		}}),
		"empty": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, Prev: 300, First: 301, Base: 5}),
		"gap": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, Prev: 300, First: 5301, Base: 6, Entries: []frame.Entry{
			float("n1", "temp", 3, -1),
		}}),
		"gap_only": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, Prev: 300, First: 5301, Base: 6}),
		"epoch": inLog(frame.Frame{
			Kind: frame.Log, Now: start, Epoch: epoch2, First: 1,
			Before:  frame.Position{Cursor: frame.Cursor{Epoch: epoch1, Seq: 5301}, Sum: 0xfedcba9876543210},
			Again:   frame.Cursor{Epoch: epoch1, Seq: 5400},
			Entries: []frame.Entry{entry("n1", "on", 4, point.Uint, 1)},
		}),
		"group": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, First: 1, Entries: append(grouped(
			edgeEntry("gw1", "n2", "nodeType", 0, point.String, []byte("sensor")...),
			edgeEntry("gw1", "n2", "tombstone", 0, point.Uint, 0),
			entry("n2", "description", 0, point.String, []byte("pump")...),
		), float("n1", "temp", 0, 1))}),
		"removed": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, First: 1, Entries: []frame.Entry{
			withOrigin(edgeEntry("gw1", "n2", "tombstone", 0, point.Uint, 1), "anna", 0),
			withOrigin(entry("n1", "limit", 1, point.Uint, 7), "bob", 1),
			withOrigin(entry("n1", "limit", 2, point.Uint, 8), "anna", 255),
			withOrigin(entry("n1", "limit", 2, point.Uint, 9), "", 2),
		}}),
		"types": inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, First: 1, Entries: []frame.Entry{
			entry("n", "t", 0, point.Unknown), entry("n", "t", 0, point.Unknown, 0xff),
			entry("n", "t", 0, point.Float, 0, 0, 0x80, 0x7f), entry("n", "t", 0, point.Float, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0xf8, 0xff),
			entry("n", "t", 0, point.Int, 0x80), entry("n", "t", 0, point.Int, 1, 2), entry("n", "t", 0, point.Int, 1, 2, 3, 4), entry("n", "t", 0, point.Int, 1, 2, 3, 4, 5, 6, 7, 8),
			entry("n", "t", 0, point.Uint, 0xff), entry("n", "t", 0, point.Uint, 9, 8), entry("n", "t", 0, point.Uint, 9, 8, 7, 6), entry("n", "t", 0, point.Uint, 9, 8, 7, 6, 5, 4, 3, 2),
			entry("n", "t", 0, point.String, []byte("Süd")...), entry("n", "t", 0, point.JSON, []byte(`{"a":1}`)...), entry("n", "t", 0, point.Protobuf, 8, 1),
			entry("n", "t", 0, 15, 1), entry("n", "t", 0, 16, 2), entry("n", "t", 0, 255, 3),
		}}),
		"aside": setAside(inLog(frame.Frame{Kind: frame.Log, Now: start, Epoch: epoch1, Prev: 9, First: 10, Base: 1, Entries: []frame.Entry{
			entry("n1", "a", 0, point.Uint, 1), entry("n1", "a", 1, point.Uint, 2), entry("n1", "a", 2, point.Uint, 3),
			entry("n1", "a", 3, point.Uint, 4), entry("n1", "a", 4, point.Uint, 5),
		}}), map[uint64]frame.Reason{10: frame.Invalid, 12: frame.Foreign, 13: frame.Nested, 14: frame.Cycle}),
		"relay": inLog(frame.Frame{Kind: frame.Relay, Now: start, Epoch: epoch2, Prev: 2, First: 3, Base: 2, Covers: frame.Covers{Edge: 70_000, Hub: 5}, Entries: []frame.Entry{
			by(entry("n1", "limit", 1, point.Uint, 9), "hub", epoch1, 44),
			by(entry("n1", "limit", 0, point.Uint, 8), "gw2", epoch2, 3),
		}}),
		"heads": {Kind: frame.Heads, Now: start, Entries: []frame.Entry{
			by(float("n1", "temp", 0, 3), "gw1", epoch1, 900),
			by(entry("n1", "limit", -5, point.Uint, 1), "hub", epoch2, 2),
		}},
		"heads_empty": {Kind: frame.Heads, Now: start},
		"packed":      inLog(long),
	}
}

// packedGoldens have a body of version 1 that zstd makes smaller.
var packedGoldens = map[string]bool{"packed": true, "types": true}

// versions are the encoders of all versions, by the prefix of their goldens.
var versions = map[string]func(*frame.Frame) []byte{"v1_": frame.EncodeV1, "v2_": (*frame.Frame).Encode}

func goldenFile(name string) string { return filepath.Join("testdata", name+".golden") }

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(goldenFile(name))
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatalf("%s: %v", goldenFile(name), err)
	}
	return b
}

func writeGolden(t testing.TB, name string, b []byte) {
	t.Helper()
	var text strings.Builder
	for len(b) > 0 {
		n := min(32, len(b))
		text.WriteString(hex.EncodeToString(b[:n]) + "\n")
		b = b[n:]
	}
	if err := os.WriteFile(goldenFile(name), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGolden(t *testing.T) {
	for version, encode := range versions {
		for name, f := range goldenFrames() {
			t.Run(version+name, func(t *testing.T) {
				enc := encode(f)
				if *update && version != "v1_" {
					writeGolden(t, version+name, enc)
				}
				golden := readGolden(t, version+name)
				for what, b := range map[string][]byte{"golden": golden, "own encoding": enc} {
					got, err := frame.Decode(b, author)
					if err != nil {
						t.Fatalf("decode %s: %v", what, err)
					}
					if d := diff(got, f); d != "" {
						t.Errorf("decode %s: %s", what, d)
					}
				}
				// Another release of the zstd package may pack otherwise: what
				// it packs has to stay the same.
				if packed := version == "v1_" && packedGoldens[name]; !packed && !bytes.Equal(enc, golden) {
					t.Errorf("encoding: got %x, want %x", enc, golden)
				}
				checkHeader(t, golden, f)
			})
		}
	}
	files, err := filepath.Glob("testdata/v*.golden")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(versions) * len(goldenFrames()); len(files) != want {
		t.Errorf("got %d golden files, want one for each of the %d frames and versions", len(files), want)
	}
}

// checkHeader fails unless DecodeHeader tells of b what f says, less the
// entries.
func checkHeader(t *testing.T, b []byte, f *frame.Frame) {
	t.Helper()
	head, err := frame.DecodeHeader(b)
	if err != nil {
		t.Fatalf("DecodeHeader: %v", err)
	}
	want := *f
	want.Entries, want.Aside = nil, nil
	if d := diff(head, &want); d != "" {
		t.Errorf("DecodeHeader: %s", d)
	}
}

// TestLayout is version 1 of FORMAT.md written out by hand for one frame of
// each envelope.
func TestLayout(t *testing.T) {
	le64 := func(v uint64) string { return string(binary.LittleEndian.AppendUint64(nil, v)) }
	seal := func(parts ...string) []byte {
		b := []byte(strings.Join(parts, ""))
		return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	relay := frame.Frame{
		Kind: frame.Relay, Now: 1, Epoch: epoch2, Prev: 4, First: 7, Last: 9, Base: 2, Sum: 3,
		Before: frame.Position{Cursor: frame.Cursor{Epoch: epoch1, Seq: 300}, Sum: 4},
		Covers: frame.Covers{Edge: 5, Hub: 200}, Again: frame.Cursor{Epoch: epoch1, Seq: 6},
		Entries: []frame.Entry{
			by(withOrigin(edgeEntry("u", "n", "t", 0, 200, 'x'), "o", 3), "hub", epoch1, 10),
			by(edgeEntry("", "n", "t", 0, point.Uint), "gw2", epoch1, 8),
		},
		Aside: []frame.Aside{{Seq: 8, Reason: frame.Foreign}},
	}
	relay.Entries[0].Time, relay.Entries[1].Time = 100, 99
	relay.Entries[0].More = true
	body := "\x02" + "\x01\x01u\x01n\x01t\x010" + "\x00\x01n\x01t\x010" + // series
		"\x01\x01o" + // origins
		"\x02\x03hub\x03gw2" + // authors
		"\x01" + le64(uint64(epoch1)) + // epochs
		"\x02" + "\x00\x01" + // entries, their series
		"\xc8\x01" + "\x01" + // times: +100, -1
		"\xf0" + "\x03" + "\x03" + "\x00" + "\xc8" + // kinds, tombstone, origin, data type
		"\x01x" + "\x00" + // data
		"\x00\x01" + "\x00\x00" + "\x14\x03" + // authors, epochs, numbers: 10, -2
		"\x01\x02\x02" // aside: first - 1 + 2, foreign
	want := seal("\x01\x02\x06", le64(1), le64(uint64(epoch2)), "\x04", "\x02", "\x03", le64(2), le64(3),
		le64(uint64(epoch1)), "\xac\x02", le64(4), "\x05\xc8\x01", le64(uint64(epoch1)), "\x06",
		string(binary.AppendUvarint(nil, uint64(len(body)))), body)
	if got := frame.EncodeV1(&relay); !bytes.Equal(got, want) {
		t.Errorf("relay frame:\ngot  %x\nwant %x", got, want)
	}
	heads := frame.Frame{Kind: frame.Heads, Now: 1}
	want = seal("\x01\x03\x00", le64(1), "\x06", "\x00\x00\x00\x00\x00\x00")
	if got := frame.EncodeV1(&heads); !bytes.Equal(got, want) {
		t.Errorf("heads frame:\ngot  %x\nwant %x", got, want)
	}
}

func TestRoundTrip(t *testing.T) {
	r := newRand(t)
	for range 3000 {
		f := randomFrame(r)
		for version, encode := range versions {
			b := encode(f)
			got, err := frame.Decode(b, author)
			if err != nil {
				t.Fatalf("%s: decode: %v", version, err)
			}
			if d := diff(got, f); d != "" {
				t.Fatalf("%s: decode: %s", version, d)
			}
			checkHeader(t, b, f)
			if again := encode(got); !bytes.Equal(again, b) {
				t.Fatalf("%s: encoded again: got %x, want %x", version, again, b)
			}
			if f.Kind != frame.Heads && !got.Verify() {
				t.Fatalf("%s: the running checksum does not match after decoding", version)
			}
		}
	}
}

// TestSession sends frames of all kinds through a session, some of which
// continue the one before, and resets it as a link does.
func TestSession(t *testing.T) {
	r := newRand(t)
	for range 200 {
		var out, in frame.Session
		var at frame.Position
		for n := range 30 {
			f := randomFrame(r)
			if f.Kind != frame.Heads && r.IntN(3) > 0 { // as a log does
				f.Epoch, f.Prev, f.First, f.Base = at.Epoch, at.Seq, at.Seq+1, at.Sum
				f.Before, f.Aside = frame.Position{}, nil
				f.Seal()
				for i := range f.Entries {
					if f.Kind == frame.Log {
						f.Entries[i].At = frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}
					}
				}
				if k := len(f.Entries); k > 0 {
					f.Entries[k-1].More = false
				}
			}
			if r.IntN(10) == 0 {
				out.Reset()
			}
			b := out.Encode(f, frame.Version)
			if r.IntN(10) == 0 { // lost on the way
				if n%2 == 0 {
					in.Reset()
				}
				if _, err := in.Decode(out.Encode(f, frame.Version), author); err == nil {
					t.Fatal("a frame after one that was lost was read")
				}
				out.Reset()
				b = out.Encode(f, frame.Version)
			}
			got, err := in.Decode(b, author)
			if err != nil {
				t.Fatalf("frame %d: %v", n, err)
			}
			if d := diff(got, f); d != "" {
				t.Fatalf("frame %d: %s", n, d)
			}
			if f.Kind != frame.Heads {
				at = f.End()
			}
		}
	}
}

// TestSessionVersion: to an end that reads version 1 only, version 1 goes.
func TestSessionVersion(t *testing.T) {
	var s frame.Session
	f := goldenFrames()["log"]
	if b := s.Encode(f, 1); !bytes.Equal(b, frame.EncodeV1(f)) {
		t.Errorf("version 1: got %x", b)
	}
	b := s.Encode(f, frame.Version)
	if _, err := frame.Decode(b, author); !errors.Is(err, frame.ErrSession) {
		t.Errorf("a frame of a session read alone: got %v, want ErrSession", err)
	}
	if _, err := frame.DecodeHeader(b); !errors.Is(err, frame.ErrSession) {
		t.Errorf("the header of one: got %v, want ErrSession", err)
	}
}

// TestLargeValue carries the largest group that an instance accepts.
func TestLargeValue(t *testing.T) {
	r := newRand(t)
	f := inLog(frame.Frame{Kind: frame.Log, Epoch: epoch1, First: 1, Entries: []frame.Entry{
		entry("n", "t", 0, point.Unknown, randomBytes(r, point.MaxGroupBytes)...), float("n", "t", 1, 2),
	}})
	got, err := frame.Decode(f.Encode(), author)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(got, f); d != "" {
		t.Error(d)
	}
}

func TestDamage(t *testing.T) {
	refused := func(what string, b []byte) {
		t.Helper()
		_, err := frame.Decode(b, author)
		_, headErr := frame.DecodeHeader(b)
		for _, err := range []error{err, headErr} {
			if !errors.Is(err, frame.ErrDamaged) && !errors.Is(err, frame.ErrVersion) && !errors.Is(err, frame.ErrSession) {
				t.Errorf("%s: got error %v, want ErrDamaged, ErrVersion or ErrSession", what, err)
			}
		}
	}
	for name := range bothGoldens() {
		whole := readGolden(t, name)
		for i := range whole {
			for bit := range 8 {
				b := bytes.Clone(whole)
				b[i] ^= 1 << bit
				refused(name+" with a flipped bit", b)
			}
		}
		for n := range whole {
			refused(name+" cut short", whole[:n])
		}
		refused(name+" with a byte too many", append(bytes.Clone(whole), 0))
	}
	refused("nothing", nil)
}

// bothGoldens are the names of the goldens of all versions.
func bothGoldens() map[string]bool {
	names := map[string]bool{}
	for version := range versions {
		for name := range goldenFrames() {
			names[version+name] = true
		}
	}
	return names
}

func TestVersion(t *testing.T) {
	b := readGolden(t, "v2_log")
	for _, version := range []byte{0, 3, 255} {
		b[0] = version
		if _, err := frame.Decode(b, author); !errors.Is(err, frame.ErrVersion) {
			t.Errorf("version %d: got %v, want ErrVersion", version, err)
		}
	}
}

func TestReasons(t *testing.T) {
	for r, want := range map[frame.Reason]string{1: "invalid", 2: "foreign", 3: "nested_boundary", 4: "cycle", 9: "reason_9"} {
		if got := r.String(); got != want {
			t.Errorf("reason %d: got %q, want %q", r, got, want)
		}
	}
}

// FuzzDecode reads arbitrary bytes, as they are and with the checksum put
// right, since no change gets past it otherwise.
func FuzzDecode(f *testing.F) {
	for name := range bothGoldens() {
		f.Add(readGolden(f, name))
	}
	for _, l := range lies() {
		f.Add(l.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzOne(t, b)
		if len(b) > 4 {
			fuzzOne(t, reseal(b[:len(b)-4]))
		}
	})
}

func fuzzOne(t *testing.T, b []byte) {
	var s frame.Session
	if f, err := s.Decode(b, author); err == nil {
		_, _ = s.Decode(b, author)
		_ = f.Encode()
	}
	f, err := frame.Decode(b, author)
	head, headErr := frame.DecodeHeader(b)
	if err != nil {
		if errors.Is(err, frame.ErrSession) {
			return
		}
		if !errors.Is(err, frame.ErrDamaged) && !errors.Is(err, frame.ErrVersion) && !errors.Is(err, frame.ErrTooLarge) {
			t.Fatalf("got error %v, want one of this package", err)
		}
		return
	}
	if headErr != nil || head.End() != f.End() || head.Prev != f.Prev || head.First != f.First {
		t.Fatalf("DecodeHeader: got %+v, %v, want the header of %+v", head, headErr, f)
	}
	got, err := frame.Decode(f.Encode(), author)
	if err != nil {
		t.Fatalf("decode what was encoded: %v", err)
	}
	if d := diff(got, f); d != "" {
		t.Fatalf("encoded and decoded again: %s", d)
	}
	n := 0
	frame.Groups(f.Entries, func(group []frame.Entry) bool { n += len(group); return true })
	if n != len(f.Entries) {
		t.Fatalf("Groups: got %d entries, want %d", n, len(f.Entries))
	}
	f.Verify()
	for _, seq := range []uint64{0, f.Prev, f.First, f.First + 1, f.Last, f.Last + 1, ^uint64(0)} {
		if rest, err := f.Cut(seq); err == nil && rest.Kind != frame.Heads && rest.End() != f.End() {
			t.Fatalf("Cut(%d): ends at %v, want %v", seq, rest.End(), f.End())
		}
	}
	if part := f.Truncate(2); len(part.Entries) > len(f.Entries) {
		t.Fatalf("Truncate: got %d entries of %d", len(part.Entries), len(f.Entries))
	}
}
