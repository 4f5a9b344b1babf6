package modbus

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/simonvetter/modbus"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// table is one of the four address spaces of a unit.
type table uint8

const (
	coils table = iota
	discretes
	holdings
	inputs
)

var tables = map[string]table{"coil": coils, "discrete": discretes, "holding": holdings, "input": inputs}

// bits tells whether what is there is a bit, not a register.
func (t table) bits() bool { return t == coils || t == discretes }

// Most that one request asks for.
const (
	mostBits      = 2000
	mostRegisters = 125
)

// format is how registers make a number.
type format struct {
	words int // registers of 16 bits
	typ   point.DataType
}

var formats = map[string]format{
	"uint16": {1, point.Uint}, "int16": {1, point.Int}, "uint32": {2, point.Uint}, "int32": {2, point.Int},
	"uint64": {4, point.Uint}, "float32": {2, point.Float}, "float64": {4, point.Float},
}

// bit is the format of coils and discrete inputs.
var bit = format{1, point.Uint}

// item is a node that is read, and perhaps written.
type item struct {
	node    *driver.Node
	unit    uint8
	table   table
	address int
	format
	lowFirst bool // the low word comes first
	scale    float64
	offset   float64
	alone    bool // asked for by a request of its own, because one with others failed
}

// itemsOf returns the items of a bus. What is known of those that were there
// and have not moved stays.
func itemsOf(port *driver.Port, bus *driver.Node, old []*item) (list []*item) {
	before := map[string]*item{}
	for _, it := range old {
		before[it.node.ID] = it
	}
	for _, n := range bus.Parts {
		it := &item{
			node: n, unit: uint8(n.Int("unitId")), table: tables[n.Text("ioType")], address: n.Int("address"),
			format: formats[n.Text("dataFormat")], lowFirst: n.Text("wordOrder") == "low", scale: n.Number("scale"), offset: n.Number("offset"),
		}
		if it.table.bits() {
			it.format, it.scale, it.offset = bit, 1, 0
		}
		if it.address+it.words > 1<<16 {
			err := &schema.Refused{Code: schema.CodeRange, Reason: fmt.Sprintf("%s at %d ends beyond 65535", n.Text("dataFormat"), it.address)}
			port.Answer(n, err, "address")
			port.Fail(n.ID, err)
			continue
		}
		if o := before[n.ID]; o != nil && o.unit == it.unit && o.table == it.table && o.address == it.address && o.words == it.words {
			it.alone = o.alone
		}
		list = append(list, it)
	}
	return list
}

// request asks for what lies together.
type request struct {
	unit           uint8
	table          table
	address, count int
	items          []*item
}

func newRequest(it *item) request {
	return request{unit: it.unit, table: it.table, address: it.address, count: it.words, items: []*item{it}}
}

// add takes an item in, whose address is not lower than those before, if it
// touches them and there is room.
func (r *request) add(it *item) bool {
	most := mostRegisters
	if r.table.bits() {
		most = mostBits
	}
	end := max(r.address+r.count, it.address+it.words)
	if it.unit != r.unit || it.table != r.table || it.alone || r.items[0].alone || it.address > r.address+r.count || end-r.address > most {
		return false
	}
	r.count = end - r.address
	r.items = append(r.items, it)
	return true
}

// read returns the registers, or bits as 0 and 1.
func (r *request) read(c *modbus.ModbusClient) (words []uint16, err error) {
	if err := c.SetUnitId(r.unit); err != nil {
		return nil, err
	}
	address, count := uint16(r.address), uint16(r.count)
	var bits []bool
	switch r.table {
	case coils:
		bits, err = c.ReadCoils(address, count)
	case discretes:
		bits, err = c.ReadDiscreteInputs(address, count)
	case holdings:
		return c.ReadRegisters(address, count, modbus.HOLDING_REGISTER)
	default:
		return c.ReadRegisters(address, count, modbus.INPUT_REGISTER)
	}
	words = make([]uint16, len(bits))
	for i, on := range bits {
		if on {
			words[i] = 1
		}
	}
	return words, err
}

// raw returns the bits of a number from registers.
func (it *item) raw(words []uint16) (v uint64) {
	for i := range it.words {
		w := words[i]
		if it.lowFirst {
			w = words[it.words-1-i]
		}
		v = v<<16 | uint64(w)
	}
	return v
}

// plain tells whether the number is the value.
func (it *item) plain() bool { return it.scale == 1 && it.offset == 0 }

// decode sets the value of p: as it stands in the registers, bit for bit, or
// as a float with scale and offset.
func (it *item) decode(words []uint16, p *point.Point) {
	raw := it.raw(words)
	p.DataType = it.typ
	p.Data = binary.LittleEndian.AppendUint64(nil, raw)[:2*it.words]
	if it.table.bits() {
		p.Data = p.Data[:1]
	}
	if it.plain() {
		return
	}
	v, _ := p.Number()
	// By ten, not times 0.1: that is the nearest float to what people expect,
	// and short decimals take less room.
	if by := 1 / it.scale; by == math.Trunc(by) {
		v /= by
	} else {
		v *= it.scale
	}
	p.DataType, p.Data = point.Float, point.FloatData(v+it.offset)
}

// encode returns the registers for a value.
func (it *item) encode(p *point.Point) ([]uint16, error) {
	refuse := func(format string, args ...any) error {
		return &schema.Refused{Code: schema.CodeRange, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case it.node.Bool("readOnly"):
		return nil, refuse("the node is readOnly")
	case it.table == discretes || it.table == inputs:
		return nil, refuse("a %s cannot be written", it.node.Text("ioType"))
	}
	v, _ := p.Number()
	if it.table.bits() {
		if v != 0 && v != 1 {
			return nil, refuse("must be 0 or 1")
		}
		return []uint16{uint16(v)}, nil
	}
	raw, ok := it.exact(p)
	if !ok {
		if it.scale == 0 {
			return nil, refuse("the scale is 0")
		}
		if !it.plain() {
			v = (v - it.offset) / it.scale
		}
		if raw, ok = it.bitsOf(v); !ok {
			return nil, refuse("does not fit %s", it.node.Text("dataFormat"))
		}
	}
	words := make([]uint16, it.words)
	for i := range words {
		at := it.words - 1 - i
		if it.lowFirst {
			at = i
		}
		words[at] = uint16(raw >> (16 * i))
	}
	return words, nil
}

// exact returns the bits of a whole number that no float can hold.
func (it *item) exact(p *point.Point) (raw uint64, ok bool) {
	if !it.plain() || it.typ != point.Uint || p.DataType != point.Uint {
		return 0, false
	}
	raw, ok = p.Uint64()
	return raw, ok && (it.words == 4 || raw>>(16*it.words) == 0)
}

// bitsOf returns a number as it stands in registers.
func (it *item) bitsOf(v float64) (raw uint64, ok bool) {
	bits := 16 * it.words
	switch it.typ {
	case point.Float:
		if bits == 32 {
			return uint64(math.Float32bits(float32(v))), math.Abs(v) <= math.MaxFloat32
		}
		return math.Float64bits(v), true
	case point.Int:
		v = math.Round(v)
		limit := math.Ldexp(1, bits-1)
		return uint64(int64(v)) & (1<<bits - 1), v >= -limit && v < limit
	}
	v = math.Round(v)
	return uint64(v), v >= 0 && v < math.Ldexp(1, bits)
}

// write writes the registers of an item.
func (it *item) write(c *modbus.ModbusClient, words []uint16) error {
	if err := c.SetUnitId(it.unit); err != nil {
		return err
	}
	switch address := uint16(it.address); {
	case it.table == coils:
		return c.WriteCoil(address, words[0] == 1)
	case it.words == 1:
		return c.WriteRegister(address, words[0])
	default:
		return c.WriteRegisters(address, words)
	}
}
