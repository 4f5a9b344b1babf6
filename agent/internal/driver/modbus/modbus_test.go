package modbus_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/agent/internal/driver/drivertest"
	"github.com/sapflow/sapflow/agent/internal/driver/modbus"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reach are the ways to a device: settings of the bus.
func reach(t *testing.T, d *device) map[string]map[string]any {
	return map[string]map[string]any{
		"tcp":        {"uri": d.addr},
		"rtu":        {"protocol": "rtu", "uri": newTerminal(t, d.addr), "baud": 115200},
		"rtuovertcp": {"protocol": "rtuovertcp", "uri": newLine(t, d.addr, serveRTU).addr, "baud": 115200},
	}
}

func TestContract(t *testing.T) {
	for _, way := range []string{"tcp", "rtu", "rtuovertcp"} {
		t.Run(way, func(t *testing.T) {
			drivertest.Contract(t, drivertest.Rig{
				Kind: modbus.Kind(),
				Device: func(t *testing.T, node string) (map[string]any, []point.Point) {
					return reach(t, newDevice(t))[way], drivertest.Node(node, "io", "modbusIo", map[string]any{"address": 3})
				},
				Quick: map[string]any{"pollPeriod": 20},
			})
		})
	}
}

// startBus makes a bus b with nodes below it.
func startBus(t *testing.T, settings map[string]any, nodes map[string]map[string]any) *drivertest.World {
	t.Helper()
	w := drivertest.New(t, modbus.Kind())
	all := map[string]any{"pollPeriod": 20, "timeout": 100}
	maps.Copy(all, settings)
	list := drivertest.Node(drivertest.Gateway, "b", "modbus", all)
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		list = append(list, drivertest.Node("b", id, "modbusIo", nodes[id])...)
	}
	w.Hub(list...)
	return w
}

func TestRead(t *testing.T) {
	d := newDevice(t)
	f64 := math.Float64bits(-1.5e-7)
	copy(d.registers[100:], []uint16{
		0xfffe,         // 100: -2
		0x1234, 0x5678, // 101
		0xffff, 0xfffd, // 103: -3
		0xfedc, 0xba98, 0x7654, 0x3210, // 105
		0x0000, 0x4148, // 109: 12.5, low word first
		uint16(f64 >> 48), uint16(f64 >> 32), uint16(f64 >> 16), uint16(f64), // 111
	})
	want := map[string]struct {
		settings map[string]any
		typ      point.DataType
		size     int
		text     string
	}{
		"u16": {map[string]any{"address": 99}, point.Uint, 2, "99"},
		"i16": {map[string]any{"address": 100, "dataFormat": "int16"}, point.Int, 2, "-2"},
		"u32": {map[string]any{"address": 101, "dataFormat": "uint32"}, point.Uint, 4, "305419896"},
		"i32": {map[string]any{"address": 103, "dataFormat": "int32"}, point.Int, 4, "-3"},
		"u64": {map[string]any{"address": 105, "dataFormat": "uint64"}, point.Uint, 8, "18364758544493064720"},
		"f32": {map[string]any{"address": 109, "dataFormat": "float32", "wordOrder": "low"}, point.Float, 4, "12.5"},
		"f64": {map[string]any{"address": 111, "dataFormat": "float64"}, point.Float, 8, "-1.5e-07"},
		"scl": {map[string]any{"address": 3, "scale": 0.1}, point.Float, 8, "0.3"},
		"off": {map[string]any{"address": 4, "scale": 2, "offset": -10, "unitId": 2, "ioType": "input"}, point.Float, 8, "-2"},
		"on":  {map[string]any{"address": 6, "ioType": "coil"}, point.Uint, 1, "1"},
		"out": {map[string]any{"address": 7, "ioType": "coil"}, point.Uint, 1, "0"},
		"dis": {map[string]any{"address": 9, "ioType": "discrete"}, point.Uint, 1, "1"},
	}
	requests := []string{"coils 1: 6+2", "discretes 1: 9+1", "holdings 1: 3+1", "holdings 1: 99+16", "inputs 2: 4+1"}
	nodes := map[string]map[string]any{}
	for id, c := range want {
		nodes[id] = c.settings
	}
	for way, settings := range reach(t, d) {
		t.Run(way, func(t *testing.T) {
			d.taken()
			w := startBus(t, settings, nodes)
			for id, c := range want {
				w.Eventually(id+" is read", func() bool { return w.Head(id, "value", point.NoKey) != nil })
				if p := w.Head(id, "value", point.NoKey); p.DataType != c.typ || len(p.Data) != c.size || p.Text() != c.text {
					t.Errorf("%s is %s of %d bytes, %s; want %s of %d, %s", id, p.DataType, len(p.Data), p.Text(), c.typ, c.size, c.text)
				}
				for name := range c.settings {
					w.Answered(id, name, "")
				}
			}
			w.Answered("b", "uri", "")
			w.Stop()
			if got := d.taken(); !slices.Equal(got, requests) {
				t.Errorf("asked %q\nwant  %q", got, requests)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	d := newDevice(t)
	for way, settings := range reach(t, d) {
		t.Run(way, func(t *testing.T) {
			w := startBus(t, settings, map[string]map[string]any{
				"coil": {"address": 1, "ioType": "coil"}, "reg": {"address": 50, "scale": 0.1}, "neg": {"address": 51, "dataFormat": "int16"},
				"f32": {"address": 60, "dataFormat": "float32", "wordOrder": "low"}, "big": {"address": 64, "dataFormat": "uint64"},
				"ro": {"address": 55, "readOnly": true}, "in": {"address": 56, "ioType": "input"}, "bit": {"address": 9, "ioType": "coil"},
			})
			for _, c := range []struct {
				node  string
				value any
				code  string
				text  string // what is read back
			}{
				{"coil", 1, "", "1"},
				{"coil", 0, "", "0"},
				{"coil", true, "", "1"},
				{"reg", 12.3, "", "12.3"},
				{"reg", 6553.6, schema.CodeRange, "12.3"},
				{"reg", -0.1, schema.CodeRange, "12.3"},
				{"neg", -32768, "", "-32768"},
				{"neg", 32768, schema.CodeRange, "-32768"},
				{"f32", -0.5, "", "-0.5"},
				{"f32", 1e300, schema.CodeRange, "-0.5"},
				{"ro", 1, schema.CodeRange, "55"},
				{"in", 1, schema.CodeRange, "56"},
				{"bit", 2, schema.CodeRange, "1"},
			} {
				w.Set(c.node, "valueSet", c.value)
				reason := w.Answered(c.node, "valueSet", c.code)
				w.Eventually(c.node+" has it", func() bool { return w.Text(c.node, "value") == c.text })
				if (reason == "") != (c.code == "") {
					t.Errorf("%s %v: reason %q", c.node, c.value, reason)
				}
			}
			big := drivertest.Value("big", "valueSet", 0)
			big.DataType, big.Data = point.Uint, point.UintData(math.MaxUint64-1)
			w.Hub(big)
			w.Answered("big", "valueSet", "")
			w.Eventually("all bits", func() bool { return w.Text("big", "value") == "18446744073709551614" })

			// Words on the line: low first.
			if lo, hi := d.register(60), d.register(61); lo != 0 || hi != 0xbf00 {
				t.Errorf("float32 low first is %04x %04x", lo, hi)
			}

			// What the device does not take is told.
			d.mu.Lock()
			d.stubborn = true
			d.mu.Unlock()
			w.Set("reg", "valueSet", 7)
			if r := w.Answered("reg", "valueSet", schema.CodeDriver); r != "written, but the device has 12.3" {
				t.Errorf("reason %q", r)
			}
			d.mu.Lock()
			d.stubborn, d.registers[50] = false, 999
			d.mu.Unlock()

			// A start writes nothing again.
			w.Set("b", "disabled", true)
			w.Eventually("it stands", func() bool { return len(w.Running()) == 0 })
			w.Set("b", "disabled", false)
			w.Eventually("it reads", func() bool { return w.Text("reg", "value") == "99.9" })
		})
	}
}

// A wrong address is told with the exception of the device, costs its
// neighbours nothing, and is mended by the right one.
func TestWrongAddress(t *testing.T) {
	d := newDevice(t)
	w := startBus(t, map[string]any{"uri": d.addr}, map[string]map[string]any{
		"a": {"address": 1998}, "b1": {"address": 1999}, "c": {"address": 2000}, "unit": {"address": 1, "unitId": 9},
	})
	if r := w.Answered("c", "address", schema.CodeDriver); r != "illegal data address" {
		t.Errorf("reason %q", r)
	}
	if r := w.Answered("unit", "unitId", schema.CodeDriver); r != "gateway target device failed to respond" {
		t.Errorf("reason %q", r)
	}
	w.Answered("a", "address", "")
	w.Answered("b1", "address", "")
	w.Eventually("it tells", func() bool { return w.Text("c", "error") == "illegal data address" && w.Number("c", "errors") > 2 })
	d.taken()
	w.Eventually("neighbours are asked together, it alone", func() bool {
		return slices.Equal(d.taken(), []string{"holdings 1: 1998+2", "holdings 1: 2000+1", "holdings 9: 1+1"})
	})
	w.Set("c", "address", 1997)
	w.Answered("c", "address", "")
	w.Eventually("it is well", func() bool { return w.Text("c", "error") == "" && w.Text("c", "value") == "1997" })
	if n := w.Number("a", "errors"); n > 0 {
		t.Errorf("a neighbour has %g errors", n)
	}
	w.Set("a", "dataFormat", "uint64")
	w.Set("a", "address", 65534)
	if r := w.Answered("a", "address", schema.CodeRange); r != "uint64 at 65534 ends beyond 65535" {
		t.Errorf("reason %q", r)
	}
}

// A bus that hangs, answers wrongly or disappears tells so, and goes on when
// it is back.
func TestFaults(t *testing.T) {
	d := newDevice(t)
	for way, serve := range map[string]func(l *line) map[string]any{
		"tcp": func(l *line) map[string]any { return map[string]any{"uri": l.addr} },
		"rtuovertcp": func(l *line) map[string]any {
			return map[string]any{"protocol": "rtuovertcp", "uri": l.addr, "baud": 115200}
		},
	} {
		t.Run(way, func(t *testing.T) {
			l := newLine(t, d.addr, serveTCP)
			if way == "rtuovertcp" {
				l = newLine(t, d.addr, serveRTU)
			}
			w := startBus(t, serve(l), map[string]map[string]any{"a": {"address": 1}})
			for _, mode := range []int32{swallows, garbles, vanishes} {
				w.Eventually("it measures", func() bool { return w.Text("a", "value") == "1" })
				failed := func() float64 { return w.Number("a", "errors") + w.Number("b", "errors") }
				before := failed()
				l.mode.Store(mode)
				w.Eventually(fmt.Sprintf("fault %d is told", mode), func() bool { return failed() > before })
				if w.Text("a", "error") == "" && w.Text("b", "error") == "" {
					w.Eventually("with its reason", func() bool { return w.Text("a", "error") != "" || w.Text("b", "error") != "" })
				}
				w.Set("a", "valueSet", 1) // is not kept for later
				l.mode.Store(passes)
				n := len(w.Of("a", "value"))
				w.Eventually("it goes on", func() bool { return len(w.Of("a", "value")) > n })
			}
			w.Eventually("it is well", func() bool { return w.Text("a", "error") == "" && w.Text("b", "error") == "" })
		})
	}
}

// One unit that does not answer does not keep the others from being read.
func TestSilentUnit(t *testing.T) {
	d := newDevice(t)
	both := newLine(t, d.addr, serveTCP)
	both.mode.Store(swallows)
	w := startBus(t, map[string]any{"uri": both.addr, "timeout": 50}, map[string]map[string]any{"a": {"address": 1}})
	if r := w.Answered("b", "uri", ""); r != "" {
		t.Error(r)
	}
	w.Eventually("nobody answers", func() bool { return w.Text("a", "error") == "request timed out" })
	both.mode.Store(passes)
	w.Eventually("it answers", func() bool { return w.Text("a", "value") == "1" })
}

func TestNoBus(t *testing.T) {
	w := startBus(t, map[string]any{"uri": "127.0.0.1:1"}, nil)
	if r := w.Answered("b", "uri", schema.CodeDriver); r != "dial tcp 127.0.0.1:1: connect: connection refused" {
		t.Errorf("reason %q", r)
	}
	w.Set("b", "uri", "tcp://127.0.0.1:1")
	w.Answered("b", "uri", schema.CodeRange)
	w.Set("b", "protocol", "rtu")
	w.Set("b", "uri", "/dev/no-such-line")
	w.Answered("b", "uri", schema.CodeDriver)
	d := newDevice(t)
	w.Set("b", "protocol", "tcp")
	w.Set("b", "uri", d.addr)
	w.Answered("b", "uri", "")
	w.Eventually("all is well", func() bool { return w.Text("b", "error") == "" })
}

// A thousand registers: eight requests a poll, no poll missed, every reading of
// every one there.
func TestThousand(t *testing.T) {
	d := newDevice(t)
	nodes := map[string]map[string]any{}
	for i := range 1000 {
		nodes[fmt.Sprintf("r%04d", i)] = map[string]any{"address": i}
	}
	w := startBus(t, map[string]any{"uri": d.addr, "pollPeriod": 1000}, nodes)
	w.Eventually("five polls", func() bool { return len(w.Of("r0999", "value")) >= 5 })
	w.Stop()
	if got := d.taken(); len(got) != 8 {
		t.Errorf("asked %q", got)
	}
	times := func(id string) (list []uint64) {
		for _, e := range w.Of(id, "value") {
			list = append(list, e.Time)
		}
		return list
	}
	first := times("r0000")
	for i := range first {
		if first[i]%1e9 != 0 || i > 0 && first[i] != first[i-1]+1e9 {
			t.Errorf("polls at %d", first)
			break
		}
	}
	for _, id := range []string{"r0001", "r0500", "r0999"} {
		if got := times(id); !slices.Equal(got, first) {
			t.Errorf("%s was read at %d, the first at %d", id, got, first)
		}
	}
	if n := w.Number("b", "missed"); n > 0 {
		t.Errorf("%g polls missed", n)
	}
}
