package point_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"testing"
	"unicode/utf8"

	"github.com/sapflow/sapflow/shared/point"
)

func le(size int, v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v)[:size] }

func value(dt point.DataType, data []byte) *point.Point {
	return &point.Point{DataType: dt, Data: data}
}

// checkTexts fails if the text of a value that Check accepts does not parse
// back to its bits, or if its JSON is not JSON.
func checkTexts(t *testing.T, p *point.Point) {
	t.Helper()
	valid := point.CheckValue(p) == nil
	text := p.Text()
	if valid {
		got, err := point.ParseValue(text, p.DataType, len(p.Data))
		if err != nil || !bytes.Equal(got, p.Data) {
			t.Errorf("%s %x as text %q parses to %x, %v", p.DataType, p.Data, text, got, err)
		}
	}
	b := p.AppendJSON([]byte("["))
	if b = append(b, ']'); !json.Valid(b) {
		t.Errorf("%s %x: AppendJSON gives %s, which is not JSON", p.DataType, p.Data, b)
	}
	if !utf8.Valid(b) {
		t.Errorf("%s %x: AppendJSON gives %q, which is not UTF-8", p.DataType, p.Data, b)
	}
	if !valid || p.DataType == point.JSON {
		return
	}
	var list []any
	if err := json.Unmarshal(b, &list); err != nil || len(list) != 1 {
		t.Fatalf("%s %x: AppendJSON gives %s: %v", p.DataType, p.Data, b, err)
	}
	switch v := list[0].(type) {
	case float64: // a reader that holds numbers as float64 loses nothing
		want, _ := p.Number()
		if math.Float64bits(v) != math.Float64bits(want) && len(p.Data) != 4 {
			t.Errorf("%s %x: JSON %s reads as %x, want %x", p.DataType, p.Data, b, math.Float64bits(v), math.Float64bits(want))
		}
		if p.DataType == point.Float && len(p.Data) == 4 && math.Float32bits(float32(v)) != binary.LittleEndian.Uint32(p.Data) {
			t.Errorf("float %x: JSON %s reads as another value", p.Data, b)
		}
	case string:
		if v != text {
			t.Errorf("%s %x: JSON string %q, want the text %q", p.DataType, p.Data, v, text)
		}
	default:
		t.Errorf("%s %x: JSON %s is neither number nor string", p.DataType, p.Data, b)
	}
}

func TestText(t *testing.T) {
	f32 := func(v float32) []byte { return le(4, uint64(math.Float32bits(v))) }
	for _, c := range []struct {
		dt   point.DataType
		data []byte
		text string
		json string
	}{
		{point.Float, point.FloatData(21.5), "21.5", "21.5"},
		{point.Float, point.FloatData(0), "0", "0"},
		{point.Float, point.FloatData(math.Copysign(0, -1)), "-0", "-0"},
		{point.Float, point.FloatData(0.1), "0.1", "0.1"},
		{point.Float, point.FloatData(1e20), "100000000000000000000", "100000000000000000000"},
		{point.Float, point.FloatData(1e21), "1e+21", "1e+21"},
		{point.Float, point.FloatData(1e-6), "0.000001", "0.000001"},
		{point.Float, point.FloatData(1e-7), "1e-07", "1e-07"},
		{point.Float, point.FloatData(math.MaxFloat64), "1.7976931348623157e+308", "1.7976931348623157e+308"},
		{point.Float, point.FloatData(math.SmallestNonzeroFloat64), "5e-324", "5e-324"},
		{point.Float, point.FloatData(math.Inf(1)), "+Inf", `"+Inf"`},
		{point.Float, point.FloatData(math.Inf(-1)), "-Inf", `"-Inf"`},
		{point.Float, point.FloatData(math.NaN()), "NaN", `"NaN"`},
		{point.Float, le(8, 0xfff80000deadbeef), "nan:fff80000deadbeef", `"nan:fff80000deadbeef"`},
		{point.Float, le(8, 0x7ff0000000000001), "nan:7ff0000000000001", `"nan:7ff0000000000001"`}, // signalling
		{point.Float, le(8, 0x7ff8000000000000), "nan:7ff8000000000000", `"nan:7ff8000000000000"`},
		{point.Float, f32(0.1), "0.1", "0.1"},
		{point.Float, f32(16777216), "16777216", "16777216"},
		{point.Float, f32(math.MaxFloat32), "3.4028235e+38", "3.4028235e+38"},
		{point.Float, f32(math.SmallestNonzeroFloat32), "1e-45", "1e-45"},
		{point.Float, f32(float32(math.Copysign(0, -1))), "-0", "-0"},
		{point.Float, f32(float32(math.Inf(-1))), "-Inf", `"-Inf"`},
		{point.Float, le(4, 0x7fc00000), "NaN", `"NaN"`},
		{point.Float, le(4, 0xffc00001), "nan:ffc00001", `"nan:ffc00001"`},
		{point.Float, le(4, 0x7f800001), "nan:7f800001", `"nan:7f800001"`}, // signalling

		{point.Int, le(1, 0x80), "-128", "-128"},
		{point.Int, le(1, 0x7f), "127", "127"},
		{point.Int, le(2, 0x8000), "-32768", "-32768"},
		{point.Int, le(4, 0x80000000), "-2147483648", "-2147483648"},
		{point.Int, le(8, math.MaxUint64), "-1", "-1"},
		{point.Int, le(8, 1<<53), "9007199254740992", "9007199254740992"},
		{point.Int, le(8, 1<<53+1), "9007199254740993", `"9007199254740993"`},
		{point.Int, le(8, -(1<<53)&math.MaxUint64), "-9007199254740992", "-9007199254740992"},
		{point.Int, le(8, (-(1<<53)-1)&math.MaxUint64), "-9007199254740993", `"-9007199254740993"`},
		{point.Int, le(8, 1<<63), "-9223372036854775808", `"-9223372036854775808"`},
		{point.Int, le(8, math.MaxInt64), "9223372036854775807", `"9223372036854775807"`},

		{point.Uint, le(1, 0xff), "255", "255"},
		{point.Uint, le(2, 0xffff), "65535", "65535"},
		{point.Uint, le(4, 0xffffffff), "4294967295", "4294967295"},
		{point.Uint, le(8, 1<<53), "9007199254740992", "9007199254740992"},
		{point.Uint, le(8, 1<<53+1), "9007199254740993", `"9007199254740993"`},
		{point.Uint, le(8, math.MaxUint64), "18446744073709551615", `"18446744073709551615"`},

		{point.String, []byte(""), "", `""`},
		{point.String, []byte("NaN"), "NaN", `"NaN"`},
		{point.String, []byte("a \"b\"\n\x00 ü"), "a \"b\"\n\x00 ü", `"a \"b\"\n\u0000 ü"`},
		{point.JSON, []byte(`{"a":[1,2.50,null]}`), `{"a":[1,2.50,null]}`, `{"a":[1,2.50,null]}`},
		{point.JSON, []byte(`12345678901234567890.10`), `12345678901234567890.10`, `12345678901234567890.10`},
		{point.Unknown, nil, "0x", `"0x"`},
		{point.Unknown, []byte{0, 0xfe}, "0x00fe", `"0x00fe"`},
		{point.Protobuf, []byte{0x08, 0x01}, "0x0801", `"0x0801"`},
	} {
		p := value(c.dt, c.data)
		if got := p.Text(); got != c.text {
			t.Errorf("%s %x: text: got %q, want %q", c.dt, c.data, got, c.text)
		}
		if got := string(p.AppendJSON(nil)); got != c.json {
			t.Errorf("%s %x: JSON: got %s, want %s", c.dt, c.data, got, c.json)
		}
		checkTexts(t, p)
	}
}

// Values that Check refuses have a text all the same: whoever looks at a
// damaged log sees their bytes.
func TestTextOfBadValues(t *testing.T) {
	for _, c := range []struct {
		dt   point.DataType
		data []byte
		json string
	}{
		{point.Float, []byte{1, 2, 3}, `"0x010203"`},
		{point.Int, nil, `"0x"`},
		{point.Uint, make([]byte, 9), `"0x000000000000000000"`},
		{point.JSON, []byte(`{"a":`), `"{\"a\":"`},
		{99, []byte{7}, `"0x07"`},
	} {
		p := value(c.dt, c.data)
		if point.CheckValue(p) == nil {
			t.Errorf("%s %x: Check accepts it, want a refusal", c.dt, c.data)
		}
		if got := string(p.AppendJSON(nil)); got != c.json {
			t.Errorf("%s %x: JSON: got %s, want %s", c.dt, c.data, got, c.json)
		}
	}
}

func TestTextRandomBits(t *testing.T) {
	r := newRand(t)
	types := []struct {
		dt    point.DataType
		sizes []int
	}{{point.Float, []int{4, 8}}, {point.Int, []int{1, 2, 4, 8}}, {point.Uint, []int{1, 2, 4, 8}}, {point.Unknown, []int{0, 1, 5}}, {point.Protobuf, []int{0, 3}}}
	for range 20_000 {
		for _, c := range types {
			for _, size := range c.sizes {
				bits := r.Uint64()
				switch r.IntN(4) {
				case 0: // close to a limit of the integers
					bits = uint64(1)<<r.IntN(64) + uint64(r.IntN(3)) - 1
				case 1: // NaN with a payload
					bits |= 0x7ff<<52 | 0xff<<23
				}
				checkTexts(t, value(c.dt, le(size, bits)))
			}
		}
		if t.Failed() {
			return
		}
	}
	for v := range 1 << 16 {
		checkTexts(t, value(point.Int, le(2, uint64(v))))
		checkTexts(t, value(point.Uint, le(2, uint64(v))))
	}
}

func TestNumbers(t *testing.T) {
	type want struct {
		f, n          float64
		i             int64
		u             uint64
		fOK, iOK, uOK bool
	}
	for _, c := range []struct {
		dt   point.DataType
		data []byte
		want want
	}{
		{point.Float, point.FloatData(-1.25), want{f: -1.25, n: -1.25, fOK: true}},
		{point.Float, le(4, uint64(math.Float32bits(0.5))), want{f: 0.5, n: 0.5, fOK: true}},
		{point.Float, []byte{1}, want{}},
		{point.Int, []byte{0xff}, want{i: -1, n: -1, iOK: true}},
		{point.Int, []byte{0xff, 0x7f}, want{i: 32767, n: 32767, iOK: true}},
		{point.Int, le(4, 1<<31), want{i: math.MinInt32, n: math.MinInt32, iOK: true}},
		{point.Int, le(8, 1<<63), want{i: math.MinInt64, n: math.MinInt64, iOK: true}},
		{point.Int, []byte{1, 2, 3}, want{}},
		{point.Uint, []byte{0xff}, want{u: 255, n: 255, uOK: true}},
		{point.Uint, le(8, math.MaxUint64), want{u: math.MaxUint64, n: 1 << 64, uOK: true}},
		{point.Uint, nil, want{}},
		{point.String, []byte("1"), want{}},
		{point.Unknown, point.FloatData(1), want{}},
	} {
		p := value(c.dt, c.data)
		var got want
		got.f, got.fOK = p.Float64()
		got.i, got.iOK = p.Int64()
		got.u, got.uOK = p.Uint64()
		n, ok := p.Number()
		if got.n = n; got != c.want || ok != (got.fOK || got.iOK || got.uOK) {
			t.Errorf("%s %x: got %+v (Number ok %v), want %+v", c.dt, c.data, got, ok, c.want)
		}
	}
}

func TestParseValue(t *testing.T) {
	for _, c := range []struct {
		text string
		dt   point.DataType
		size int
		want []byte
	}{
		{"21.5", point.Float, 0, point.FloatData(21.5)},
		{"1e3", point.Float, 8, point.FloatData(1000)},
		{"0.1", point.Float, 4, le(4, uint64(math.Float32bits(0.1)))},
		{"NaN", point.Float, 4, le(4, 0x7fc00000)},
		{"-inf", point.Float, 8, point.FloatData(math.Inf(-1))},
		{"-5", point.Int, 0, le(8, math.MaxUint64-4)},
		{"010", point.Int, 2, le(2, 10)}, // a leading zero is not octal
		{"007", point.Uint, 1, []byte{7}},
		{"7", point.Uint, 1, []byte{7}},
		{"true", point.Uint, 1, []byte{1}},
		{"false", point.Uint, 8, le(8, 0)},
		{"  spaces stay ", point.String, 0, []byte("  spaces stay ")},
		{`[1, 2]`, point.JSON, 0, []byte(`[1, 2]`)},
		{"0xAB", point.Unknown, 0, []byte{0xab}},
	} {
		got, err := point.ParseValue(c.text, c.dt, c.size)
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%q as %s of %d bytes: got %x, %v, want %x", c.text, c.dt, c.size, got, err, c.want)
		}
	}
}

func TestParseValueRefuses(t *testing.T) {
	for _, c := range []struct {
		text string
		dt   point.DataType
		size int
	}{
		{"", point.Float, 8},
		{"warm", point.Float, 8},
		{"1e999", point.Float, 8},
		{"1e39", point.Float, 4},
		{"1", point.Float, 1},
		{"1", point.Float, 16},
		{"1", point.Float, -1},
		{"nan:", point.Float, 8},
		{"nan:zz", point.Float, 8},
		{"nan:7ff8000000000001", point.Float, 4},
		{"nan:3ff0000000000000", point.Float, 8}, // 1.0
		{"nan:7ff0000000000000", point.Float, 8}, // +Inf
		{"nan:3f800000", point.Float, 4},
		{"", point.Int, 8},
		{"1.5", point.Int, 8},
		{"0x10", point.Int, 8},
		{"1_000", point.Int, 8},
		{"0b1", point.Uint, 8},
		{"128", point.Int, 1},
		{"-129", point.Int, 1},
		{"9223372036854775808", point.Int, 8},
		{"1", point.Int, 3},
		{"1", point.Int, 9},
		{"1", point.Int, -8},
		{"-1", point.Uint, 8},
		{"256", point.Uint, 1},
		{"18446744073709551616", point.Uint, 8},
		{"1", point.Uint, 5},
		{"yes", point.Uint, 1},
		{"{", point.JSON, 0},
		{"", point.JSON, 0},
		{"\"\xff\"", point.JSON, 0},
		{"ab", point.Unknown, 0},
		{"0xa", point.Unknown, 0},
		{"0xzz", point.Protobuf, 0},
		{"0x+1", point.Protobuf, 0},
	} {
		got, err := point.ParseValue(c.text, c.dt, c.size)
		var refused *point.Error
		if !errors.As(err, &refused) {
			t.Errorf("%q as %s of %d bytes: got %x, %v, want a *point.Error", c.text, c.dt, c.size, got, err)
			continue
		}
		if refused.What != "value" || refused.Token != c.text {
			t.Errorf("%q as %s: the error names %s %q, want the value", c.text, c.dt, refused.What, refused.Token)
		}
	}
}

func TestDataTypeNames(t *testing.T) {
	for dt, name := range []string{"unknown", "float", "int", "uint", "string", "json", "protobuf"} {
		if got := point.DataType(dt).String(); got != name {
			t.Errorf("data type %d: got %q, want %q", dt, got, name)
		}
		if got, ok := point.ParseDataType(name); !ok || got != point.DataType(dt) {
			t.Errorf("ParseDataType(%q): got %d, %v, want %d", name, got, ok, dt)
		}
	}
	if got, ok := point.ParseDataType("bool"); !ok || got != point.Uint {
		t.Errorf("ParseDataType(bool): got %s, %v, want uint", got, ok)
	}
	for _, name := range []string{"", "Float", "double", "invalid", strconv.Itoa(1)} {
		if got, ok := point.ParseDataType(name); ok {
			t.Errorf("ParseDataType(%q): got %s, want none", name, got)
		}
	}
	if got := point.DataType(7).String(); got != "invalid" {
		t.Errorf("data type 7: got %q, want invalid", got)
	}
}
