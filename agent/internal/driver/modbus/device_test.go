package modbus_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/simonvetter/modbus"
	"golang.org/x/sys/unix"

	"github.com/sapflow/sapflow/shared/natstest"
)

// device is units 1 and 2 with 2,000 of everything, behind the library's own
// server.
type device struct {
	addr string // of Modbus TCP

	mu        sync.Mutex
	coils     [2000]bool
	registers [2000]uint16
	stubborn  bool     // takes what is written and keeps what it has
	asked     []string // reads, since they were taken
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{}
	for i := range d.registers {
		d.registers[i] = uint16(i)
		d.coils[i] = i%3 == 0
	}
	for range 20 { // the library does not tell a port that it has chosen
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		d.addr = l.Addr().String()
		_ = l.Close()
		s, err := modbus.NewServer(&modbus.ServerConfiguration{URL: "tcp://" + d.addr, MaxClients: 50, Logger: log.New(io.Discard, "", 0)}, d)
		if err != nil {
			t.Fatal(err)
		}
		if s.Start() == nil {
			t.Cleanup(func() { _ = s.Stop() })
			return d
		}
	}
	t.Fatal("no free port")
	return nil
}

func (d *device) note(what string, unit uint8, address, quantity uint16) error {
	d.asked = append(d.asked, fmt.Sprintf("%s %d: %d+%d", what, unit, address, quantity))
	switch {
	case unit != 1 && unit != 2:
		return modbus.ErrGWTargetFailedToRespond
	case int(address)+int(quantity) > len(d.registers):
		return modbus.ErrIllegalDataAddress
	}
	return nil
}

// taken returns what was read since the last time, each once.
func (d *device) taken() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.asked
	d.asked = nil
	slices.Sort(list)
	return slices.Compact(list)
}

func (d *device) register(i int) uint16 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.registers[i]
}

func (d *device) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.note("coils", r.UnitId, r.Addr, r.Quantity); err != nil {
		return nil, err
	}
	if r.IsWrite && !d.stubborn {
		copy(d.coils[r.Addr:], r.Args)
	}
	return slices.Clone(d.coils[r.Addr : r.Addr+r.Quantity]), nil
}

func (d *device) HandleDiscreteInputs(r *modbus.DiscreteInputsRequest) ([]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.note("discretes", r.UnitId, r.Addr, r.Quantity); err != nil {
		return nil, err
	}
	return slices.Clone(d.coils[r.Addr : r.Addr+r.Quantity]), nil
}

func (d *device) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.note("holdings", r.UnitId, r.Addr, r.Quantity); err != nil {
		return nil, err
	}
	if r.IsWrite && !d.stubborn {
		copy(d.registers[r.Addr:], r.Args)
	}
	return slices.Clone(d.registers[r.Addr : r.Addr+r.Quantity]), nil
}

func (d *device) HandleInputRegisters(r *modbus.InputRegistersRequest) ([]uint16, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.note("inputs", r.UnitId, r.Addr, r.Quantity); err != nil {
		return nil, err
	}
	return slices.Clone(d.registers[r.Addr : r.Addr+r.Quantity]), nil
}

// How a line treats what comes.
const (
	passes    = iota
	swallows  // no answer ever
	garbles   // answers with other bytes
	vanishes  // closes connections
	serialCRC = 0xffff
)

// line leads to a device, well or badly.
type line struct {
	addr string
	mode atomic.Int32
}

func newLine(t *testing.T, to string, serve func(io.ReadWriter, string) error) *line {
	l := &line{}
	l.addr = natstest.Accept(t, func(c net.Conn) {
		done := make(chan struct{})
		defer close(done)
		go func() { // a test that ends closes what is open
			select {
			case <-t.Context().Done():
				_ = c.Close()
			case <-done:
			}
		}()
		if l.mode.Load() == vanishes {
			return
		}
		_ = serve(&badly{c, l}, to)
	})
	return l
}

// badly is a connection as its line treats it.
type badly struct {
	net.Conn
	l *line
}

func (b *badly) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.l.mode.Load() == vanishes {
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (b *badly) Write(p []byte) (int, error) {
	switch b.l.mode.Load() {
	case swallows:
		return len(p), nil
	case garbles:
		p = slices.Clone(p)
		for i := range p {
			p[i] ^= 0x5a
		}
	}
	return b.Conn.Write(p)
}

// serveTCP hands bytes on as they are.
func serveTCP(c io.ReadWriter, to string) error {
	up, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, up)
	}()
	_, err = io.Copy(up, c)
	_ = up.Close()
	<-done
	return err
}

// serveRTU translates between the frames of a serial line and those of TCP.
func serveRTU(c io.ReadWriter, to string) error {
	up, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer up.Close()
	for {
		frame := make([]byte, 256)
		if _, err := io.ReadFull(c, frame[:7]); err != nil {
			return err
		}
		rest := 1 // of 8, checksum included
		if frame[1] == 15 || frame[1] == 16 {
			rest = int(frame[6]) + 2
		}
		if _, err := io.ReadFull(c, frame[7:7+rest]); err != nil {
			return err
		}
		frame = frame[:7+rest]
		if checksum(frame) != 0 {
			continue // a device keeps silent
		}
		pdu := frame[:len(frame)-2]
		if _, err := up.Write(append([]byte{0, 1, 0, 0, 0, byte(len(pdu))}, pdu...)); err != nil {
			return err
		}
		var head [6]byte
		if _, err := io.ReadFull(up, head[:]); err != nil {
			return err
		}
		answer := make([]byte, binary.BigEndian.Uint16(head[4:]))
		if _, err := io.ReadFull(up, answer); err != nil {
			return err
		}
		answer = binary.LittleEndian.AppendUint16(answer, checksum(answer))
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// checksum is the CRC of a serial frame, 0 with its own behind it.
func checksum(b []byte) uint16 {
	crc := uint16(serialCRC)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			if crc&1 == 1 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// newTerminal returns the path of a serial line with a device at its other end.
func newTerminal(t *testing.T, to string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("no pseudo-terminals: %v", err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var ctl error
	err = raw.Control(func(fd uintptr) {
		if ctl = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ctl == nil {
			n, ctl = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || ctl != nil {
		t.Fatal(err, ctl)
	}
	path := fmt.Sprintf("/dev/pts/%d", n)
	keep, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0) // else the master reads EIO between two openings
	if err != nil {
		t.Fatal(err)
	}
	if err := makeRaw(keep); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { _ = serveRTU(master, to) })
	t.Cleanup(func() {
		_ = master.SetReadDeadline(time.Now())
		group.Wait()
		_ = master.Close()
		_ = keep.Close()
	})
	return path
}

// makeRaw stops the terminal from echoing until the driver sets it up.
func makeRaw(f *os.File) error {
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	s.Iflag, s.Oflag, s.Lflag = 0, 0, 0
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, s)
}
