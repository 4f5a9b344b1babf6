package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/simonvetter/modbus"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// plant is a Modbus device with 100 registers that count how often they were
// read, and 10 coils.
type plant struct {
	addr string
	open atomic.Int32 // connections

	mu        sync.Mutex
	reads     uint16
	coils     [10]bool
	registers [100]uint16
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{}
	l, err := net.Listen("tcp", "127.0.0.1:0") // the library does not tell a port that it has chosen
	if err != nil {
		t.Fatal(err)
	}
	behind := l.Addr().String()
	_ = l.Close()
	s, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + behind, Logger: log.New(io.Discard, "", 0)}, p)
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	p.addr = natstest.Accept(t, func(c net.Conn) {
		p.open.Add(1)
		defer p.open.Add(-1)
		up, err := net.Dial("tcp", behind)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(c, up); _ = c.Close() }()
		_, _ = io.Copy(up, c)
	})
	return p
}

func (p *plant) count() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reads
}

func (p *plant) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(p.coils) {
		return nil, modbus.ErrIllegalDataAddress
	}
	if r.IsWrite {
		copy(p.coils[r.Addr:], r.Args)
	}
	return slices.Clone(p.coils[r.Addr : r.Addr+r.Quantity]), nil
}

func (p *plant) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(p.registers) {
		return nil, modbus.ErrIllegalDataAddress
	}
	p.reads++
	for i := range p.registers {
		p.registers[i] = p.reads
	}
	return slices.Clone(p.registers[r.Addr : r.Addr+r.Quantity]), nil
}

func (p *plant) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func (p *plant) HandleInputRegisters(*modbus.InputRegistersRequest) ([]uint16, error) {
	return nil, modbus.ErrIllegalFunction
}

// answer waits for what the gateway answers to the present value of a setting.
func (h *hub) answer(node, setting string) (a api.Applied) {
	h.t.Helper()
	eventually(h.t, setting+" is answered", func() bool {
		set := head(h.t, h.client, node, setting, point.NoKey)
		a = api.Applied{}
		_ = json.Unmarshal(head(h.t, h.client, node, point.TypeApplied, setting+"/"+point.NoKey).Value, &a) // nothing yet
		return set.Time != "" && a.Time == set.Time
	})
	return a
}

// From the hub alone: a bus below a gateway that has never seen one is made,
// read, changed, written to and removed.
func TestModbus(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.waitConnected(true)
	add := func(parent, typ, name string, settings ...string) string {
		t.Helper()
		id, err := h.client.NodeAdd(bounded(t), parent, typ, name)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(settings); i += 2 {
			if typ == "modbusIo" {
				set(t, h.client, id, settings[i], settings[i+1])
			} else if out, code := command(t, hubBin, "set", id, settings[i], settings[i+1], "--data", h.dir); code != 0 {
				t.Fatal(out)
			}
		}
		return id
	}
	bus := add(g.id, "modbus", "bus", "pollPeriod", "100", "uri", p.addr)
	var registers []string
	for i := range 20 {
		registers = append(registers, add(bus, "modbusIo", fmt.Sprintf("register %d", i), "address", strconv.Itoa(i)))
	}
	coil := add(bus, "modbusIo", "coil", "ioType", "coil", "address", "3")

	value := func(node string) int {
		n, err := strconv.Atoi(string(head(t, h.client, node, "value", point.NoKey).Value))
		if err != nil {
			return -1
		}
		return n
	}
	first := map[string]int{}
	eventually(t, "the values of all climb", func() bool {
		for _, id := range registers {
			switch n := value(id); {
			case n < 0:
			case first[id] == 0:
				first[id] = n
			case n > first[id]:
				continue
			}
			return false
		}
		return true
	})
	if a := h.answer(bus, "uri"); !a.OK {
		t.Errorf("uri: %+v", a)
	}

	set(t, h.client, bus, "pollPeriod", "50")
	if a := h.answer(bus, "pollPeriod"); !a.OK {
		t.Errorf("pollPeriod: %+v", a)
	}

	if n := value(coil); n != 0 {
		t.Errorf("the coil is %d", n)
	}
	set(t, h.client, coil, "valueSet", "1")
	if a := h.answer(coil, "valueSet"); !a.OK {
		t.Errorf("valueSet: %+v", a)
	}
	eventually(t, "the coil is read back", func() bool { return value(coil) == 1 })

	set(t, h.client, registers[7], "address", "100")
	if a := h.answer(registers[7], "address"); a.OK || a.Code != "driver" || a.Reason != "illegal data address" {
		t.Errorf("a wrong address: %+v", a)
	}
	set(t, h.client, registers[7], "address", "99")
	if a := h.answer(registers[7], "address"); !a.OK {
		t.Errorf("the right address: %+v", a)
	}
	n := value(registers[7])
	eventually(t, "it climbs again", func() bool { return value(registers[7]) > n })

	// Readings are of round times.
	g.waitEqual()
	for i, s := range history(t, h.client, registers[0], "value") {
		at, err := time.Parse(time.RFC3339Nano, s.Time)
		if err != nil || at.UnixNano()%int64(50*time.Millisecond) != 0 {
			t.Fatalf("reading %d is of %s", i, s.Time)
		}
	}

	if err := h.client.NodeRemove(bounded(t), bus, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bus is let go", func() bool { return p.open.Load() == 0 })
	last := p.count()
	set(t, h.client, g.id, "flushInterval", "1") // it still listens
	if a := h.answer(g.id, "flushInterval"); !a.OK {
		t.Errorf("flushInterval: %+v", a)
	}
	if now := p.count(); now != last || p.open.Load() != 0 {
		t.Errorf("read %d times after its end", now-last)
	}
}
