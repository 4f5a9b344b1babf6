package point_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/point"
)

var (
	update   = flag.Bool("update", false, "rewrite the golden files")
	seedFlag = flag.Int64("seed", 0, "seed of the random tests; 0 takes one from the clock")
)

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

// goldenPayloads are payloads of every shape. Their bytes are public: a golden
// that has to be rewritten is a broken promise.
var goldenPayloads = []struct {
	name string
	p    point.Point
}{
	{"float64", point.Point{Time: 1_700_000_000_123_456_789, DataType: point.Float, Data: point.FloatData(21.5)}},
	{"float32", point.Point{Time: 1_700_000_000_000_000_000, DataType: point.Float, Data: []byte{0, 0, 0xac, 0x41}}},
	{"float64_nan_payload", point.Point{Time: 1, DataType: point.Float, Data: []byte{0xef, 0xbe, 0xad, 0xde, 0, 0, 0xf8, 0xff}}},
	{"int8", point.Point{Time: 2, DataType: point.Int, Data: []byte{0x80}}},
	{"int16", point.Point{Time: 3, DataType: point.Int, Data: []byte{0xfe, 0xff}}},
	{"int32", point.Point{Time: 4, DataType: point.Int, Data: []byte{1, 2, 3, 4}}},
	{"int64_min", point.Point{Time: 5, DataType: point.Int, Data: []byte{0, 0, 0, 0, 0, 0, 0, 0x80}}},
	{"uint8_bool", point.Point{Time: 6, DataType: point.Uint, Data: []byte{1}}},
	{"uint16", point.Point{Time: 7, DataType: point.Uint, Data: []byte{0xff, 0xff}}},
	{"uint32", point.Point{Time: 8, DataType: point.Uint, Data: []byte{4, 3, 2, 1}}},
	{"uint64_max", point.Point{Time: math.MaxUint64, DataType: point.Uint, Data: bytes.Repeat([]byte{0xff}, 8)}},
	{"string", point.Point{Time: 9, Origin: "anna", DataType: point.String, Data: []byte("Pumpe Süd")}},
	{"string_empty", point.Point{Time: 10, DataType: point.String}},
	{"json", point.Point{Time: 11, Origin: "driver/modbus", DataType: point.JSON, Data: []byte(`{"ok":true,"code":"range"}`)}},
	{"protobuf", point.Point{Time: 12, DataType: point.Protobuf, Data: []byte{0x08, 0x96, 0x01}}},
	{"unknown", point.Point{Time: 13, DataType: point.Unknown, Data: []byte{0, 1, 2, 0xff}}},
	{"removed", point.Point{Time: 14, Tombstone: 3, Origin: "bob", DataType: point.Float, Data: point.FloatData(math.Copysign(0, -1))}},
	{"origin_longest", point.Point{Time: 15, Tombstone: 255, Origin: strings.Repeat("o", point.MaxOriginLen), DataType: 200, Data: []byte("x")}},
	{"empty", point.Point{}},
}

func goldenFile(name string) string { return filepath.Join("testdata", name+".golden") }

// readGolden returns the bytes of a golden file: hex digits, white space
// between them means nothing.
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
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenFile(name), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func samePoint(a, b *point.Point) bool {
	return a.Series == b.Series && a.Time == b.Time && a.Tombstone == b.Tombstone &&
		a.Origin == b.Origin && a.DataType == b.DataType && bytes.Equal(a.Data, b.Data)
}

func TestPayloadGolden(t *testing.T) {
	for _, c := range goldenPayloads {
		t.Run(c.name, func(t *testing.T) {
			got := point.AppendPayload(nil, &c.p)
			if *update {
				writeGolden(t, c.name, got)
			}
			want := readGolden(t, c.name)
			if !bytes.Equal(got, want) {
				t.Errorf("payload: got %x, want %x", got, want)
			}
			if n := point.PayloadLen(&c.p); n != len(want) {
				t.Errorf("PayloadLen: got %d, want %d", n, len(want))
			}
			var p point.Point
			if err := point.DecodePayload(want, &p); err != nil {
				t.Fatalf("DecodePayload: %v", err)
			}
			if !samePoint(&p, &c.p) {
				t.Errorf("DecodePayload: got %+v, want %+v", p, c.p)
			}
		})
	}
}

// TestPayloadGoldenFiles keeps old goldens: a file without its case would
// never be read again.
func TestPayloadGoldenFiles(t *testing.T) {
	files, err := filepath.Glob(goldenFile("*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(goldenPayloads) {
		t.Errorf("got %d golden files, want one for each of the %d cases", len(files), len(goldenPayloads))
	}
}

// TestPayloadLayout is FORMAT.md written out by hand.
func TestPayloadLayout(t *testing.T) {
	p := point.Point{Time: 0x0102030405060708, Tombstone: 1, Origin: "me", DataType: point.Uint, Data: []byte{0xaa, 0xbb}}
	got := point.AppendPayload([]byte("kept"), &p)
	want := append([]byte("kept"),
		8, 7, 6, 5, 4, 3, 2, 1, // Time
		1,           // Tombstone
		2, 'm', 'e', // OriginLen, Origin
		3,          // DataType
		0xaa, 0xbb, // Data
	)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestDecodePayloadKeepsSeries(t *testing.T) {
	s := point.Series{Up: "a", Node: "b", Type: "t", Key: "k"}
	p := point.Point{Series: s, Origin: "old", Data: []byte("old")}
	if err := point.DecodePayload(readGolden(t, "int8"), &p); err != nil {
		t.Fatal(err)
	}
	want := point.Point{Series: s, Time: 2, DataType: point.Int, Data: []byte{0x80}}
	if !samePoint(&p, &want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

func TestDecodePayloadTruncated(t *testing.T) {
	for _, c := range goldenPayloads {
		whole := readGolden(t, c.name)
		fixed := len(whole) - len(c.p.Data)
		for n := range fixed {
			p := point.Point{Time: 77}
			if err := point.DecodePayload(whole[:n], &p); !errors.Is(err, point.ErrShort) {
				t.Errorf("%s cut to %d of %d bytes: got error %v, want ErrShort", c.name, n, len(whole), err)
			}
			if p.Time != 77 {
				t.Errorf("%s cut to %d bytes: the point was changed", c.name, n)
			}
		}
		// A shorter value is another value: only Check can tell.
		if err := point.DecodePayload(whole[:fixed], new(point.Point)); err != nil {
			t.Errorf("%s without data: got %v, want no error", c.name, err)
		}
	}
}

// FuzzPayload holds the promise of FORMAT.md, that whatever decodes encodes
// to the same bytes, and what the rest of the package says about any payload.
func FuzzPayload(f *testing.F) {
	for _, c := range goldenPayloads {
		f.Add(readGolden(f, c.name))
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 12))
	f.Add(append(make([]byte, 10), append([]byte{byte(point.JSON)}, "\"\xff\""...)...))
	f.Add(append(make([]byte, 10), append([]byte{byte(point.Float)}, 1, 2, 3)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := point.Point{Series: point.Series{Node: "n", Type: "t", Key: "0"}}
		if err := point.DecodePayload(b, &p); err != nil {
			if !errors.Is(err, point.ErrShort) {
				t.Fatalf("got error %v, want ErrShort", err)
			}
			return
		}
		if got := point.AppendPayload(nil, &p); !bytes.Equal(got, b) {
			t.Fatalf("encoded again: got %x, want %x", got, b)
		}
		if n := point.PayloadLen(&p); n != len(b) {
			t.Fatalf("PayloadLen: got %d, want %d", n, len(b))
		}
		checkTexts(t, &p)
	})
}
