package point

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// FloatData returns the data of a 64 bit float.
func FloatData(v float64) []byte {
	return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))
}

// UintData returns the data of a 64 bit unsigned integer.
func UintData(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// Float64 returns a float's value; ok is false for other data types. A 32 bit
// float is widened.
func (p *Point) Float64() (v float64, ok bool) {
	if p.DataType != Float {
		return 0, false
	}
	switch len(p.Data) {
	case 4:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(p.Data))), true
	case 8:
		return math.Float64frombits(binary.LittleEndian.Uint64(p.Data)), true
	}
	return 0, false
}

// Uint64 returns an unsigned integer's value; ok is false for other types.
func (p *Point) Uint64() (v uint64, ok bool) {
	if p.DataType != Uint || !intLen(len(p.Data)) {
		return 0, false
	}
	return littleUint(p.Data), true
}

// Int64 returns a signed integer's value; ok is false for other types.
func (p *Point) Int64() (v int64, ok bool) {
	if p.DataType != Int || !intLen(len(p.Data)) {
		return 0, false
	}
	shift := 64 - 8*len(p.Data)
	return int64(littleUint(p.Data)<<shift) >> shift, true
}

func intLen(n int) bool { return n == 1 || n == 2 || n == 4 || n == 8 }

func littleUint(b []byte) uint64 {
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// Number returns any numeric value as a float64, for buckets and plots; ok is
// false for values that are not numbers.
func (p *Point) Number() (v float64, ok bool) {
	if v, ok = p.Float64(); ok {
		return v, true
	}
	if i, ok := p.Int64(); ok {
		return float64(i), true
	}
	if u, ok := p.Uint64(); ok {
		return float64(u), true
	}
	return 0, false
}

// Text returns the value as text that parses back to the same bits: numbers
// in their shortest form, strings and JSON as they are, NaN, +Inf and -Inf by
// name (a NaN with a payload as nan:<hex bits>), other bytes as hex.
func (p *Point) Text() string { return string(p.AppendText(nil)) }

// AppendText appends what Text returns.
func (p *Point) AppendText(b []byte) []byte {
	switch p.DataType {
	case Float:
		switch len(p.Data) {
		case 4:
			bits := binary.LittleEndian.Uint32(p.Data)
			return appendFloat(b, float64(math.Float32frombits(bits)), 32, uint64(bits))
		case 8:
			bits := binary.LittleEndian.Uint64(p.Data)
			return appendFloat(b, math.Float64frombits(bits), 64, bits)
		}
	case Int:
		if v, ok := p.Int64(); ok {
			return strconv.AppendInt(b, v, 10)
		}
	case Uint:
		if v, ok := p.Uint64(); ok {
			return strconv.AppendUint(b, v, 10)
		}
	case String, JSON:
		return append(b, p.Data...)
	}
	return hex.AppendEncode(append(b, "0x"...), p.Data)
}

func appendFloat(b []byte, v float64, size int, bits uint64) []byte {
	if math.IsNaN(v) {
		if size == 64 && bits == math.Float64bits(math.NaN()) || size == 32 && bits == 0x7fc00000 {
			return append(b, "NaN"...)
		}
		return fmt.Appendf(b, "nan:%0*x", size/4, bits)
	}
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, v, format, -1, size)
}

// exactInt is the largest integer that every JSON reader holds exactly.
const exactInt = 1 << 53

// AppendJSON appends the value as JSON: numbers as numbers, but NaN, +Inf,
// -Inf and integers beyond 2^53 as strings, JSON as it is, other bytes as a
// hex string.
func (p *Point) AppendJSON(b []byte) []byte {
	switch p.DataType {
	case Float:
		if v, ok := p.Float64(); ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
			return p.AppendText(b)
		}
	case Int:
		if v, ok := p.Int64(); ok && v <= exactInt && v >= -exactInt {
			return strconv.AppendInt(b, v, 10)
		}
	case Uint:
		if v, ok := p.Uint64(); ok && v <= exactInt {
			return strconv.AppendUint(b, v, 10)
		}
	case JSON:
		if validJSON(p.Data) {
			return append(b, p.Data...)
		}
	}
	text, _ := json.Marshal(p.Text())
	return append(b, text...)
}

// ParseValue reads text as a value of a data type and a size in bytes (0 =
// the type's default: 8 for numbers). It is the inverse of Text.
func ParseValue(text string, dt DataType, size int) ([]byte, error) {
	if size == 0 {
		size = 8
	}
	bad := func(reason string) ([]byte, error) { return nil, refuse("value", text, reason) }
	if dt == Float && size != 4 && size != 8 || (dt == Int || dt == Uint) && !intLen(size) {
		return bad(fmt.Sprintf("has %d bytes, which no %s has", size, dt))
	}
	switch dt {
	case Float:
		return parseFloat(text, size)
	case Int:
		v, err := strconv.ParseInt(text, 10, 8*size)
		if err != nil {
			return bad(fmt.Sprintf("is not an integer of %d bits", 8*size))
		}
		return binary.LittleEndian.AppendUint64(nil, uint64(v))[:size], nil
	case Uint:
		switch text {
		case "true":
			text = "1"
		case "false":
			text = "0"
		}
		v, err := strconv.ParseUint(text, 10, 8*size)
		if err != nil {
			return bad(fmt.Sprintf("is not an unsigned integer of %d bits", 8*size))
		}
		return binary.LittleEndian.AppendUint64(nil, v)[:size], nil
	case String:
		return []byte(text), nil
	case JSON:
		if !validJSON([]byte(text)) {
			return bad("is not valid JSON")
		}
		return []byte(text), nil
	}
	hex, ok := strings.CutPrefix(text, "0x")
	if !ok || len(hex)%2 != 0 {
		return bad("bytes are written as 0x and hex digits")
	}
	data := make([]byte, len(hex)/2)
	for i := range data {
		v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			return bad("bytes are written as 0x and hex digits")
		}
		data[i] = byte(v)
	}
	return data, nil
}

func parseFloat(text string, size int) ([]byte, error) {
	var bits uint64
	if hex, ok := strings.CutPrefix(text, "nan:"); ok {
		v, err := strconv.ParseUint(hex, 16, 8*size)
		isNaN := math.IsNaN(math.Float64frombits(v))
		if size == 4 {
			isNaN = math.IsNaN(float64(math.Float32frombits(uint32(v))))
		}
		if err != nil || !isNaN {
			return nil, refuse("value", text, "is not a NaN of that size")
		}
		bits = v
	} else {
		v, err := strconv.ParseFloat(text, 8*size)
		if err != nil {
			return nil, refuse("value", text, "is not a number")
		}
		if bits = math.Float64bits(v); size == 4 {
			bits = uint64(math.Float32bits(float32(v)))
		}
	}
	return binary.LittleEndian.AppendUint64(nil, bits)[:size], nil
}
