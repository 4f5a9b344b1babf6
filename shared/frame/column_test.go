package frame_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// columnOf returns a column of points in the order of their times.
func columnOf(points []point.Point) *frame.Column {
	c := &frame.Column{}
	for i := range points {
		c.Append(&points[i])
	}
	return c
}

// columnDiff tells how a column differs from points, "" if it does not.
func columnDiff(c *frame.Column, want []point.Point) string {
	if c.Len() != len(want) {
		return fmt.Sprintf("got %d points, want %d", c.Len(), len(want))
	}
	for i := range want {
		w := &want[i]
		p := c.Point(i)
		if p.Time != w.Time || c.Times[i] != w.Time || p.Tombstone != w.Tombstone || p.Origin != w.Origin || p.DataType != w.DataType || !bytes.Equal(p.Data, w.Data) {
			return fmt.Sprintf("point %d: got %+v, want %+v", i, p, *w)
		}
		if c.Removed(i) != w.Removed() {
			return fmt.Sprintf("point %d: removed is %t, want %t", i, c.Removed(i), w.Removed())
		}
		v, ok := c.Number(i)
		x, isNumber := w.Number()
		if isNumber = isNumber && !w.Removed(); ok != isNumber || ok && math.Float64bits(v) != math.Float64bits(x) && !math.IsNaN(v) {
			return fmt.Sprintf("point %d: got number %v, %t, want %v, %t", i, v, ok, x, isNumber)
		}
		if got, text := c.AppendText(nil, i), w.AppendText(nil); !bytes.Equal(got, text) {
			return fmt.Sprintf("point %d: got text %q, want %q", i, got, text)
		}
	}
	return ""
}

// randomTimes returns n times in order: of any unit, sampled with jitter, with
// pauses, or all over the place.
func randomTimes(r *rand.Rand, n int) []uint64 {
	unit := pick(r, uint64(1), 1, 1e3, 1e6, 1e9, 60e9, 7)
	period := unit * (1 + r.Uint64N(1000))
	jitter := pick(r, 0, 0, period/unit/4)
	wild := r.IntN(8) == 0
	t := pick(r, uint64(start), 0, randomUint(r)) / unit * unit
	times := make([]uint64, 0, n)
	for range n {
		times = append(times, t)
		switch {
		case wild:
			t = randomUint(r)
			continue
		case r.IntN(50) == 0:
			t += period * r.Uint64N(1e6)
		}
		if t += period; jitter > 0 {
			t += unit * r.Uint64N(jitter)
		}
	}
	slices.Sort(times)
	return slices.Compact(times)
}

// extremes are bits that are easily lost.
var extremes = []uint64{
	0, 1 << 63, math.MaxUint64, math.MaxInt64, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<63 + 1<<53 + 1,
	math.Float64bits(math.Inf(1)), math.Float64bits(math.Inf(-1)), math.Float64bits(math.NaN()),
	0x7ff0000000000001, 0xfff8dead0000beef, 0x7ff4000000000000, 1, math.Float64bits(math.MaxFloat64),
	uint64(math.Float32bits(float32(math.Inf(-1)))), 0x7f800001, 0xffc0dead, 0x80000000,
}

// randomValues returns a function that gives values of one kind of series.
func randomValues(r *rand.Rand) func() (point.DataType, []byte) {
	number := func(bits uint64, n int) []byte { return binary.LittleEndian.AppendUint64(nil, bits)[:n] }
	whole, x := pick(r, point.Int, point.Uint), r.Int64N(1e6)
	length := pick(r, 1, 2, 4, 8)
	switch scale := math.Pow10(r.IntN(5)); r.IntN(8) {
	case 0: // readings
		return func() (point.DataType, []byte) {
			x += r.Int64N(21) - 10
			return point.Float, point.FloatData(float64(x) / scale)
		}
	case 1:
		return func() (point.DataType, []byte) {
			x += r.Int64N(21) - 10
			return point.Float, number(uint64(math.Float32bits(float32(x)/float32(scale))), 4)
		}
	case 2: // a constant
		b := pick(r, point.FloatData(21.5), randomBytes(r, 8), number(pick(r, extremes...), 8))
		return func() (point.DataType, []byte) { return point.Float, b }
	case 3:
		return func() (point.DataType, []byte) { x += r.Int64N(5); return whole, number(uint64(x), length) }
	case 4: // any bits
		typ, n := point.Float, pick(r, 4, 8)
		if r.IntN(2) == 0 {
			typ, n = whole, length
		}
		return func() (point.DataType, []byte) { return typ, number(pick(r, randomUint(r), pick(r, extremes...)), n) }
	case 5: // few texts, changed a little
		texts := []string{"", "on", "off", strings.Repeat("long ", 60), randomString(r, 300), `{"state":1}`}
		return func() (point.DataType, []byte) {
			if r.IntN(4) == 0 {
				texts[r.IntN(len(texts))] = fmt.Sprintf(`{"state":%d,"by":"anna"}`, r.IntN(1000))
			}
			return pick(r, point.String, point.JSON), []byte(pick(r, texts...))
		}
	case 6:
		return func() (point.DataType, []byte) {
			return pick(r, point.Unknown, point.Protobuf, 77), randomBytes(r, r.IntN(60))
		}
	default: // whatever comes
		return func() (point.DataType, []byte) {
			p := randomPoint(r, 0)
			return p.DataType, p.Data
		}
	}
}

// randomPoints returns about n points of a series as a column has them.
func randomPoints(r *rand.Rand, n int) []point.Point {
	values, changes := randomValues(r), r.IntN(4) == 0
	var points []point.Point
	var origin string
	tombstone := uint8(0)
	for _, t := range randomTimes(r, n) {
		if changes && r.IntN(20) == 0 {
			origin, tombstone = pick(r, "", "anna", randomString(r, 255)), pick(r, 0, 0, 1, 2, uint8(r.IntN(256)))
		}
		if changes && r.IntN(50) == 0 {
			values = randomValues(r)
		}
		p := point.Point{Time: t, Origin: origin, Tombstone: tombstone}
		p.DataType, p.Data = values()
		points = append(points, p)
	}
	return points
}

func TestColumnRoundTrip(t *testing.T) {
	r := newRand(t)
	for range 1500 {
		points := randomPoints(r, pick(r, 0, 1, 2, 3, r.IntN(50), r.IntN(1500)))
		c := columnOf(points)
		if d := columnDiff(c, points); d != "" {
			t.Fatalf("column: %s", d)
		}
		from := r.IntN(len(points) + 1)
		to := from + r.IntN(len(points)+1-from)
		encode := pick(r, (*frame.Column).Encode, (*frame.Column).Quick)
		head, b := encode(c, 0, from), encode(c, from, to)
		got := &frame.Column{}
		if err := got.Decode(b); err != nil {
			t.Fatalf("points %d to %d: %v", from, to, err)
		}
		if d := columnDiff(got, points[from:to]); d != "" {
			t.Fatalf("points %d to %d: %s", from, to, d)
		}
		if again := encode(got, 0, got.Len()); !bytes.Equal(again, b) {
			t.Fatalf("encoded again: got %x, want %x", again, b)
		}
		// Behind others.
		both := &frame.Column{}
		if err := errors.Join(both.Decode(head), both.Decode(b)); err != nil {
			t.Fatal(err)
		}
		if d := columnDiff(both, points[:to]); d != "" {
			t.Fatalf("points 0 to %d in two parts, parted at %d: %s", to, from, d)
		}
	}
}

// TestColumnText carries the largest texts that an instance accepts.
func TestColumnText(t *testing.T) {
	r := newRand(t)
	for _, n := range []int{point.MaxGroupBytes, point.MaxGroupBytes - 1, 1 << 10, 1<<10 + 1} {
		var points []point.Point
		for i := range 8 {
			data := randomBytes(r, n)
			if i%2 == 1 {
				data = slices.Concat(points[i-1].Data[:n/2], data[n/2:])
			}
			points = append(points, point.Point{Time: start + uint64(i), DataType: point.Unknown, Data: data})
		}
		got := &frame.Column{}
		if err := got.Decode(columnOf(points).Encode(0, len(points))); err != nil {
			t.Fatalf("texts of %d bytes: %v", n, err)
		}
		if d := columnDiff(got, points); d != "" {
			t.Fatalf("texts of %d bytes: %s", n, d)
		}
	}
}

// TestColumnFit: parts that Fit makes of a column can be read, however long its
// texts are, and each could not have more.
func TestColumnFit(t *testing.T) {
	r := newRand(t)
	var points []point.Point
	for i := range 300 {
		p := point.Point{Time: start + uint64(i), DataType: point.JSON, Data: []byte(strings.Repeat("x", 1000))}
		switch i / 60 {
		case 1:
			p.Data = randomBytes(r, r.IntN(point.MaxGroupBytes))
		case 2:
			p.DataType, p.Data = point.Uint, []byte{byte(i)}
		case 3:
			p.Origin = randomString(r, 255)
		}
		points = append(points, p)
	}
	c := columnOf(points)
	for _, limit := range []int{0, 1000, 1001, 5000, point.MaxGroupBytes, frame.MaxBody} {
		for i := 0; i < len(points); {
			to := c.Fit(i, len(points), limit)
			size := func(to int) (n int) {
				for k := i; k < to; k++ {
					if n += len(points[k].Data); points[k].DataType == point.Uint {
						n--
					}
					if k == i || points[k].Origin != points[k-1].Origin {
						n += len(points[k].Origin)
					}
				}
				return n
			}
			if to <= i || size(to) > limit && to > i+1 || to < len(points) && size(to+1) <= limit {
				t.Fatalf("limit %d: from %d to %d, %d bytes of texts and origins", limit, i, to, size(to))
			}
			got := &frame.Column{}
			if err := got.Decode(c.Encode(i, to)); err != nil {
				t.Fatalf("limit %d: from %d to %d: %v", limit, i, to, err)
			}
			if d := columnDiff(got, points[i:to]); d != "" {
				t.Fatalf("limit %d: from %d to %d: %s", limit, i, to, d)
			}
			i = to
		}
	}
	if got := columnOf(points[120:180]).Fit(7, 30, 0); got != 30 {
		t.Errorf("numbers: got %d, want all up to 30", got)
	}
}

// TestColumnAppendFrom: parts of columns put together are the column of their
// points, and what they came from stays as it was.
func TestColumnAppendFrom(t *testing.T) {
	r := newRand(t)
	for range 500 {
		points := randomPoints(r, r.IntN(300))
		whole := columnOf(points)
		got := &frame.Column{}
		for i := 0; i < len(points); {
			to := i + 1 + r.IntN(len(points)-i)
			if r.IntN(4) == 0 {
				for ; i < to; i++ {
					got.Append(&points[i])
				}
				continue
			}
			got.AppendFrom(whole, i, to)
			got.AppendFrom(whole, to, to)
			i = to
		}
		if d := columnDiff(got, points); d != "" {
			t.Fatalf("put together: %s", d)
		}
		if a, b := got.Encode(0, got.Len()), whole.Encode(0, whole.Len()); !bytes.Equal(a, b) {
			t.Fatalf("put together and encoded: got %x, want %x", a, b)
		}
		if d := columnDiff(whole, points); d != "" {
			t.Fatalf("what it was made of: %s", d)
		}
		// Two that begin alike go on by themselves.
		n := r.IntN(len(points) + 1)
		one, two := &frame.Column{}, &frame.Column{}
		one.AppendFrom(whole, 0, n)
		two.AppendFrom(whole, 0, n)
		late := point.Point{Time: math.MaxUint64, DataType: 99, Origin: "another", Data: []byte("x")}
		if n == 0 || points[n-1].Time < late.Time {
			one.Append(&late)
		}
		two.AppendFrom(whole, n, len(points))
		if d := columnDiff(two, points); d != "" {
			t.Fatalf("beside another that goes on otherwise: %s", d)
		}
	}
}

// TestColumnStays: an error of Decode leaves the column as it was, and of use.
func TestColumnStays(t *testing.T) {
	r := newRand(t)
	for range 300 {
		points := randomPoints(r, 1+r.IntN(60))
		for i := range points {
			points[i].Time = uint64(i) // so that others may follow
		}
		c := columnOf(points)
		more := randomPoints(r, 1+r.IntN(60))
		b := columnOf(more).Encode(0, len(more))
		b = b[:len(b)-4]
		for range 1 + r.IntN(3) { // damage behind a checksum
			b[1+r.IntN(max(1, len(b)-1))%len(b)] ^= byte(1 << r.IntN(8))
		}
		if c.Decode(reseal(b[:1+r.IntN(len(b))])) == nil {
			continue
		}
		if d := columnDiff(c, points); d != "" {
			t.Fatalf("after an error: %s", d)
		}
		last := point.Point{Time: math.MaxUint64, Tombstone: 7, Origin: "last", DataType: point.Float, Data: point.FloatData(1)}
		kinds := append(slices.Clone(more), last)
		for i := range kinds {
			kinds[i].Time = uint64(len(points) + i)
			c.Append(&kinds[i])
		}
		if d := columnDiff(c, append(points, kinds...)); d != "" {
			t.Fatalf("what was appended after an error: %s", d)
		}
	}
}

// plainSummary is what a summary says, computed the plain way.
type plainSummary struct {
	plain               bool
	nan                 int
	min, max, sum, size float64 // size is the sum of absolute values
}

func summaryOf(points []point.Point) plainSummary {
	s := plainSummary{plain: true, min: math.NaN(), max: math.NaN()}
	for i := range points {
		p := &points[i]
		v, ok := p.Number()
		if !ok || p.Removed() || p.DataType != points[0].DataType || len(p.Data) != len(points[0].Data) || p.Origin != points[0].Origin || p.Tombstone != points[0].Tombstone {
			return plainSummary{}
		}
		if math.IsNaN(v) {
			s.nan++
			continue
		}
		if !(s.min <= v) {
			s.min = v
		}
		if !(s.max >= v) {
			s.max = v
		}
		s.sum += v
		s.size += math.Abs(v)
	}
	return s
}

func sameFloat(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func checkSummary(t *testing.T, s *frame.Summary, points []point.Point) {
	t.Helper()
	want := summaryOf(points)
	n := len(points)
	if s.From != points[0].Time || s.To != points[n-1].Time || s.Count != n || s.Plain != want.plain {
		t.Fatalf("got %+v, want %d points from %d to %d, plain %t", s, n, points[0].Time, points[n-1].Time, want.plain)
	}
	if !s.Plain {
		return
	}
	if s.NaN != want.nan || !sameFloat(s.Min(), want.min) || !sameFloat(s.Max(), want.max) {
		t.Fatalf("got %d NaN, min %v, max %v, want %d, %v, %v", s.NaN, s.Min(), s.Max(), want.nan, want.min, want.max)
	}
	if !sameFloat(s.Sum, want.sum) && math.Abs(s.Sum-want.sum) > want.size*1e-13 {
		t.Fatalf("got sum %v, want %v", s.Sum, want.sum)
	}
	for what, p := range map[int]point.Point{0: s.First(), n - 1: s.Last()} {
		if d := columnDiff(columnOf([]point.Point{p}), points[what:what+1]); d != "" {
			t.Fatalf("point at an end: %s", d)
		}
	}
}

// TestSummaries: summaries say what their points amount to, before and after
// they are encoded.
func TestSummaries(t *testing.T) {
	r := newRand(t)
	for range 600 {
		points := randomPoints(r, r.IntN(600))
		c := columnOf(points)
		var list []frame.Summary
		var ends []int
		for i := 0; i < len(points); {
			to := i + 1 + r.IntN(len(points)-i)
			if r.IntN(2) == 0 {
				to = min(len(points), i+1+r.IntN(8))
			}
			list, ends = append(list, c.Summary(i, to)), append(ends, to)
			checkSummary(t, &list[len(list)-1], points[i:to])
			i = to
		}
		b := frame.EncodeSummaries(list)
		got, err := frame.DecodeSummaries(b)
		if err != nil {
			t.Fatalf("decode %d summaries: %v", len(list), err)
		}
		if !slices.EqualFunc(got, list, func(a, b frame.Summary) bool { return a.Equal(&b) }) {
			t.Fatalf("got %+v, want %+v", got, list)
		}
		if again := frame.EncodeSummaries(got); !bytes.Equal(again, b) {
			t.Fatalf("encoded again: got %x, want %x", again, b)
		}
		i := 0
		for n, to := range ends {
			checkSummary(t, &got[n], points[i:to])
			i = to
		}
	}
}

// TestSummaryExtremes: what is no number, or infinite, is in no other number's
// way.
func TestSummaryExtremes(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	values := []float64{nan, inf, -inf, 1, 0}
	for _, a := range values {
		for _, b := range values {
			for _, c := range values {
				var points []point.Point
				for i, v := range []float64{a, b, c} {
					points = append(points, point.Point{Time: uint64(i), DataType: point.Float, Data: point.FloatData(v)})
					s := columnOf(points).Summary(0, i+1)
					checkSummary(t, &s, points)
				}
			}
		}
	}
}

// TestSummaryEqual: whatever differs in the points of a kind makes another
// summary.
func TestSummaryEqual(t *testing.T) {
	of := func(values ...float64) frame.Summary {
		var points []point.Point
		for i, v := range values {
			points = append(points, point.Point{Time: uint64(i), DataType: point.Float, Data: point.FloatData(v)})
		}
		return columnOf(points).Summary(0, len(points))
	}
	inf := math.Inf(1)
	same := of(1, inf, -inf, 2) // whose sum is no number
	if again := of(1, inf, -inf, 2); !same.Equal(&again) {
		t.Errorf("a summary without a sum does not equal itself")
	}
	for _, other := range []frame.Summary{of(1, inf, -inf), of(1, inf, inf, 2), of(0, inf, -inf, 2), of(1, inf, -inf, 3), of(1, 2, -inf, 2)} {
		if same.Equal(&other) {
			t.Errorf("%+v equals %+v", same, other)
		}
	}
}

// goldenColumns are columns of every shape, by name of their golden.
func goldenColumns() map[string][]point.Point {
	at := func(i int, typ point.DataType, data ...byte) point.Point {
		return point.Point{Time: start + uint64(i)*60e9, DataType: typ, Data: data}
	}
	list := map[string][]point.Point{
		"empty": nil,
		"one":   {at(0, point.Float, point.FloatData(21.5)...)},
		"texts": {
			at(0, point.String, []byte("on")...), at(1, point.String, []byte("off")...), at(2, point.String, []byte("on")...),
			at(3, point.JSON, []byte(`{"state":"on","by":"anna"}`)...), at(4, point.JSON, []byte(`{"state":"off","by":"anna"}`)...),
		},
		"types": nil, "kinds": nil, "floats": nil, "integers": nil, "jitter": nil, "bits": nil, "readings": nil, "counter": nil,
	}
	for _, e := range goldenFrames()["types"].Entries {
		p := at(len(list["types"]), e.DataType, e.Data...)
		list["types"] = append(list["types"], p)
	}
	for i := range 12 {
		p := at(i, point.Uint, byte(i/3))
		p.Tombstone, p.Origin = []uint8{0, 1, 255}[i%3], []string{"anna", "", "bob"}[i/4]
		list["kinds"] = append(list["kinds"], p)
	}
	for i := range 100 {
		list["floats"] = append(list["floats"], at(i, point.Float, point.FloatData(20+float64(i%7)/4)...))
		n := int64(i*i)*1000 - 7
		list["integers"] = append(list["integers"], at(i, point.Int, binary.LittleEndian.AppendUint64(nil, uint64(n))...))
		p := at(i, point.Float, point.FloatData(math.Sqrt(float64(i)))...)
		p.Time += uint64(i*7919%4001) * 1e6
		list["jitter"] = append(list["jitter"], p)
	}
	v, n := 2150, uint32(math.MaxUint32-90) // it turns over
	for i := range 150 {
		v += i*7919%11 - 5
		p := at(i, point.Float, point.FloatData(float64(v)/100)...)
		p.Time = start + uint64(i)*1e9 + uint64(i*7919%41)*1e6
		if i > 100 {
			p.Time += 3600e9 // a pause
		}
		list["readings"] = append(list["readings"], p)
		p = at(i, point.Uint, binary.LittleEndian.AppendUint32(nil, n)...)
		p.Origin, n = "meter", n+uint32(i%3)
		list["counter"] = append(list["counter"], p)
	}
	for i, bits := range extremes {
		list["bits"] = append(list["bits"], at(i, point.Float, binary.LittleEndian.AppendUint64(nil, bits)...))
	}
	return list
}

// goldenSummaries cuts a column into pieces and summarises them.
func goldenSummaries(points []point.Point) (list []frame.Summary) {
	c := columnOf(points)
	for i := 0; i < len(points); i += 7 {
		list = append(list, c.Summary(i, min(i+7, len(points))))
	}
	return list
}

// encodings returns what points are encoded to, by name of the golden.
func encodings(name string, points []point.Point) map[string][]byte {
	c := columnOf(points)
	list := map[string][]byte{}
	for _, b := range [][]byte{c.Encode(0, c.Len()), c.Quick(0, c.Len())} {
		list[fmt.Sprintf("column%d_%s", b[0], name)] = b
	}
	return list
}

func TestColumnGolden(t *testing.T) {
	names := map[string]bool{}
	for name, points := range goldenColumns() {
		t.Run(name, func(t *testing.T) {
			check := func(file string, b []byte) {
				names[file+".golden"] = true
				if *update {
					writeGolden(t, file, b)
				}
				if golden := readGolden(t, file); !bytes.Equal(golden, b) {
					t.Errorf("%s: got %x, want %x", file, b, golden)
				}
			}
			for file, b := range encodings(name, points) {
				check(file, b)
				got := &frame.Column{}
				if err := got.Decode(readGolden(t, file)); err != nil {
					t.Fatal(err)
				}
				if d := columnDiff(got, points); d != "" {
					t.Error(d)
				}
			}
			sums := goldenSummaries(points)
			check("summaries1_"+name, frame.EncodeSummaries(sums))
			list, err := frame.DecodeSummaries(readGolden(t, "summaries1_"+name))
			if err != nil || !slices.EqualFunc(list, sums, func(a, b frame.Summary) bool { return a.Equal(&b) }) {
				t.Errorf("summaries: got %+v, %v, want %+v", list, err, sums)
			}
		})
	}
	for _, file := range columnFiles(t) {
		if !names[file] {
			t.Errorf("golden %s is of no column", file)
		}
		delete(names, file)
	}
	for file := range names {
		t.Errorf("there is no golden %s", file)
	}
}

// columnFiles lists the goldens of columns and summaries.
func columnFiles(t testing.TB) (list []string) {
	t.Helper()
	for _, what := range []string{"column", "summaries"} {
		files, err := filepath.Glob("testdata/" + what + "*.golden")
		if err != nil || len(files) == 0 {
			t.Fatalf("goldens of %s: %d, %v", what, len(files), err)
		}
		for _, file := range files {
			list = append(list, filepath.Base(file))
		}
	}
	return list
}

// TestColumnDamage: no bit and no byte of a column or of summaries changes, is
// missing or is too much without an error.
func TestColumnDamage(t *testing.T) {
	refused := func(what string, b []byte) {
		t.Helper()
		c := &frame.Column{}
		_, err := frame.DecodeSummaries(b)
		for _, err := range []error{c.Decode(b), err} {
			if !errors.Is(err, frame.ErrDamaged) && !errors.Is(err, frame.ErrVersion) {
				t.Errorf("%s: got %v, want ErrDamaged or ErrVersion", what, err)
			}
		}
		if c.Len() != 0 {
			t.Errorf("%s: %d points in spite of an error", what, c.Len())
		}
	}
	for _, file := range columnFiles(t) {
		whole := readGolden(t, strings.TrimSuffix(file, ".golden"))
		for i := range whole {
			for bit := range 8 {
				b := bytes.Clone(whole)
				b[i] ^= 1 << bit
				refused(file+" with a flipped bit", b)
			}
		}
		for n := range whole {
			refused(file+" cut short", whole[:n])
		}
		refused(file+" with a byte too many", append(bytes.Clone(whole), 0))
	}
}

// impossible are columns, without their checksum, that no encoder writes.
var impossible = map[string]string{
	"a number told as a text":      "0100040000d1",
	"a number wider than its kind": "013895679f954fc400039818c2dd090aef9e2c5c1f763732bec17d100000001a617c9d",
}

// columnLies are bytes with a right checksum that claim more than they have.
func columnLies() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	lies := map[string][]byte{"nothing but a version": reseal([]byte{1})}
	for name, text := range impossible {
		b, err := hex.DecodeString(text)
		if err != nil {
			panic(err) // it is a constant
		}
		lies[name] = reseal(b)
	}
	for i := range 600 {
		lies[fmt.Sprintf("random bytes %d", i)] = reseal(append([]byte{1 + byte(i%2)}, randomBytes(r, r.IntN(40))...))
	}
	// A packed column with one bit otherwise, and cut short.
	for _, name := range []string{"readings", "counter"} {
		points := goldenColumns()[name]
		whole := columnOf(points).Quick(0, len(points))
		whole = whole[:len(whole)-4]
		for i := range whole {
			b := bytes.Clone(whole)
			b[i] ^= 1 << r.IntN(8)
			lies[fmt.Sprintf("%s with a bit of byte %d flipped", name, i)] = reseal(b)
			lies[fmt.Sprintf("%s of %d bytes", name, i)] = reseal(whole[:i])
		}
	}
	return lies
}

// TestColumnLies: what claims too much is refused, or is a column.
func TestColumnLies(t *testing.T) {
	for _, b := range columnLies() {
		fuzzColumn(t, b)
	}
}

func TestColumnImpossible(t *testing.T) {
	for name := range impossible {
		if err := (&frame.Column{}).Decode(columnLies()[name]); !errors.Is(err, frame.ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}

// TestColumnMemory: what bytes claim costs no more than what a column may have.
func TestColumnMemory(t *testing.T) {
	const bound = frame.MaxColumn*(8+8+4+24+8+128) + 32<<20 // a point of every kind, and texts
	for name, b := range columnLies() {
		if n := allocated(func() { _ = (&frame.Column{}).Decode(b); _, _ = frame.DecodeSummaries(b) }); n > bound {
			t.Errorf("%s, %x: allocated %d bytes, want at most %d", name, b, n, bound)
		}
	}
}

// FuzzColumn reads arbitrary bytes as a column and as summaries, as they are
// and with the checksum put right.
func FuzzColumn(f *testing.F) {
	for _, file := range columnFiles(f) {
		f.Add(readGolden(f, strings.TrimSuffix(file, ".golden")))
	}
	for _, b := range columnLies() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzColumn(t, b)
		if len(b) > 4 {
			fuzzColumn(t, reseal(b[:len(b)-4]))
		}
	})
}

func fuzzColumn(t *testing.T, b []byte) {
	check := func(err error) {
		if err != nil && !errors.Is(err, frame.ErrDamaged) && !errors.Is(err, frame.ErrVersion) && !errors.Is(err, frame.ErrTooLarge) {
			t.Fatalf("got error %v, want one of this package", err)
		}
	}
	c := &frame.Column{}
	err := c.Decode(b)
	if check(err); err == nil {
		points := make([]point.Point, c.Len())
		for i := range points {
			if points[i] = c.Point(i); i > 0 && points[i].Time <= points[i-1].Time {
				t.Fatalf("time %d comes after %d", points[i].Time, points[i-1].Time)
			}
		}
		for name, b := range encodings("", points) {
			got := &frame.Column{}
			if err := got.Decode(b); err != nil {
				t.Fatalf("%s: decode what was encoded: %v", name, err)
			}
			if d := columnDiff(got, points); d != "" {
				t.Fatalf("%s: encoded and decoded again: %s", name, d)
			}
		}
		if n := len(points); n > 0 {
			s := c.Summary(0, n)
			checkSummary(t, &s, points)
		}
	}
	list, err := frame.DecodeSummaries(b)
	if check(err); err == nil {
		got, err := frame.DecodeSummaries(frame.EncodeSummaries(list))
		if err != nil || !slices.EqualFunc(got, list, func(a, b frame.Summary) bool { return a.Equal(&b) }) {
			t.Fatalf("encoded and decoded again: got %+v, %v, want %+v", got, err, list)
		}
	}
}

// TestColumnSort compares columns of random times, some of them again, with
// the points that a map by time has in the end.
func TestColumnSort(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		var points, want []point.Point
		last := map[uint64]point.Point{}
		for k := range n {
			p := point.Point{Time: uint64(r.IntN(2*n)) + 1, DataType: point.Float, Data: point.FloatData(float64(k))}
			if n%3 == 0 && r.IntN(4) == 0 {
				p.DataType, p.Data = point.String, fmt.Append(nil, k)
			}
			if n%5 == 0 { // newest first
				p.Time = uint64(n - k)
			}
			points, last[p.Time] = append(points, p), p
		}
		for _, at := range slices.Sorted(maps.Keys(last)) {
			want = append(want, last[at])
		}
		c := columnOf(points)
		c.Sort()
		if diff := columnDiff(c, want); diff != "" {
			t.Fatalf("%d points: %s", n, diff)
		}
	}
}
