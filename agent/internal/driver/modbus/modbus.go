// Package modbus is the driver of a Modbus bus: TCP, RTU on a serial line, and
// RTU over TCP.
//
// A bus polls its registers at a schedule; what touches is read by one
// request. What a hub, or a program beside, sets as valueSet is written once
// and read back. One goroutine asks one question after the other; each has a
// deadline. A unit that does not answer is asked ever more rarely, so that the
// others are read in time; a connection that fails is opened anew.
package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/simonvetter/modbus"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Kind is the type of node that a bus is.
func Kind() driver.Kind {
	return driver.Kind{Type: schema.Modbus, Parts: []*schema.Type{schema.ModbusIO}, New: func() driver.Driver { return &bus{} }}
}

// Settings that name the connection.
var connection = []string{"protocol", "uri", "baud", "parity", "stopBits", "timeout"}

const (
	typeValue = "value"
	typeSet   = "valueSet"
)

// silentMost is how long a unit that does not answer is left alone at most.
const silentMost = 30 * time.Second

// bus is a bus while it runs.
type bus struct {
	port   *driver.Port
	node   *driver.Node // as it is in force
	client *modbus.ModbusClient
	open   bool

	items    []*item
	requests []request
	silent   map[uint8]silence // units that do not answer
}

// silence is a unit that does not answer.
type silence struct {
	wait  time.Duration
	until uint64 // ns
}

// Run polls until ctx ends. It then returns within the deadline of a request,
// or of 5 s while it connects, which the library does not interrupt.
func (b *bus) Run(ctx context.Context, p *driver.Port) error {
	b.port, b.silent = p, map[uint8]silence{}
	defer b.close()
	return p.Poll(ctx,
		func() (time.Duration, error) {
			err := b.change(ctx)
			return b.node.Millis("pollPeriod"), err
		},
		func(at uint64) error { return b.poll(ctx, at) })
}

// change puts settings in force: what is read, and what is to be written.
func (b *bus) change(ctx context.Context) error {
	n := b.port.Node()
	if b.node == nil || !b.node.Same(n, connection...) {
		b.close()
		b.client = nil
	}
	b.node = n
	b.items = itemsOf(b.port, n, b.items)
	b.plan()
	if err := b.connect(); err != nil {
		return err
	}
	return b.writeSet(ctx)
}

// connect opens the connection if it is not open.
func (b *bus) connect() error {
	if b.open {
		return nil
	}
	if b.client == nil {
		c, err := newClient(b.node)
		if err != nil {
			b.port.Answer(b.node, err, "uri")
			return err
		}
		b.client = c
	}
	if err := b.client.Open(); err != nil {
		b.port.Answer(b.node, err, "uri")
		return err
	}
	b.open = true
	b.port.Answer(b.node, nil, "uri")
	b.port.Well(b.node.ID)
	return nil
}

func (b *bus) close() {
	if b.open {
		_ = b.client.Close() // there is nothing to do about it
		b.open = false
	}
}

func newClient(n *driver.Node) (*modbus.ModbusClient, error) {
	protocol, uri := n.Text("protocol"), n.Text("uri")
	if uri == "" {
		return nil, errors.New("uri is not set: host:port, or the path of a serial line")
	}
	if strings.Contains(uri, "://") {
		return nil, &schema.Refused{Code: schema.CodeRange, Reason: "must be host:port, or the path of a serial line; protocol is a setting of its own"}
	}
	if _, _, err := net.SplitHostPort(uri); protocol == "tcp" && err != nil {
		uri = net.JoinHostPort(uri, "502")
	}
	return modbus.NewClient(&modbus.ClientConfiguration{
		URL: protocol + "://" + uri, Speed: uint(n.Int("baud")), StopBits: uint(n.Int("stopBits")),
		Parity:  map[string]uint{"none": modbus.PARITY_NONE, "even": modbus.PARITY_EVEN, "odd": modbus.PARITY_ODD}[n.Text("parity")],
		Timeout: n.Millis("timeout"), Logger: log.New(io.Discard, "", 0),
	})
}

// plan groups items into requests.
func (b *bus) plan() {
	slices.SortStableFunc(b.items, func(x, y *item) int {
		return cmp.Or(cmp.Compare(x.unit, y.unit), cmp.Compare(x.table, y.table), cmp.Compare(x.address, y.address))
	})
	b.requests = b.requests[:0]
	for _, it := range b.items {
		if n := len(b.requests); n == 0 || !b.requests[n-1].add(it) {
			b.requests = append(b.requests, newRequest(it))
		}
	}
}

// poll reads everything.
func (b *bus) poll(ctx context.Context, at uint64) error {
	var points []point.Point
	defer func() { b.port.Put(points...) }()
	alone := false
	for i := range b.requests {
		r := &b.requests[i]
		if ctx.Err() != nil {
			return nil
		}
		if at < b.silent[r.unit].until {
			continue
		}
		got, err := b.read(r, at)
		points = append(points, got...)
		if isException(err) && len(r.items) > 1 { // one of them: find it
			for _, it := range r.items {
				one := newRequest(it)
				if got, err = b.read(&one, at); err != nil && !isException(err) {
					break
				}
				points = append(points, got...)
				if err != nil {
					it.alone, alone = true, true
					b.failed(&one, err)
				}
			}
		}
		if err != nil && (len(r.items) == 1 || !isException(err)) {
			b.failed(r, err)
		}
		switch {
		case err == nil || isException(err):
			delete(b.silent, r.unit)
			if len(r.items) == 1 && r.items[0].alone && err == nil {
				r.items[0].alone, alone = false, true
			}
			continue
		}
		wait := min(max(2*b.silent[r.unit].wait, b.node.Millis("pollPeriod")), silentMost)
		b.silent[r.unit] = silence{wait, at + uint64(wait)}
		b.close() // what still comes is no answer to the next question
		if err := b.connect(); err != nil {
			return err
		}
	}
	if alone {
		b.plan()
	}
	return nil
}

// read runs one request and returns its values.
func (b *bus) read(r *request, at uint64) (points []point.Point, err error) {
	if err := b.connect(); err != nil {
		return nil, err
	}
	data, err := r.read(b.client)
	if err != nil {
		return nil, err
	}
	for _, it := range r.items {
		p := point.Point{Series: point.Series{Node: it.node.ID, Type: typeValue, Key: point.NoKey}, Time: at}
		it.decode(data[it.address-r.address:], &p)
		points = append(points, p)
		b.port.Answer(it.node, nil, addressing...)
	}
	return points, nil
}

// Settings of an item that the device has a say in.
var addressing = []string{"unitId", "ioType", "address"}

// failed tells what the nodes of a request could not be read for, and which
// setting that is about.
func (b *bus) failed(r *request, err error) {
	setting := "unitId" // nobody answers
	switch {
	case errors.Is(err, modbus.ErrIllegalFunction):
		setting = "ioType"
	case errors.Is(err, modbus.ErrIllegalDataAddress), errors.Is(err, modbus.ErrIllegalDataValue):
		setting = "address"
	case isException(err) && !errors.Is(err, modbus.ErrGWPathUnavailable) && !errors.Is(err, modbus.ErrGWTargetFailedToRespond):
		setting = "" // the device is not well
	}
	for _, it := range r.items {
		b.port.Fail(it.node.ID, err)
		for _, name := range addressing {
			switch {
			case name == setting:
				b.port.Answer(it.node, err, name)
			case setting == "address":
				b.port.Answer(it.node, nil, name) // else it had no such address
			}
		}
	}
}

// exceptions are answers of a device.
var exceptions = []error{
	modbus.ErrIllegalFunction, modbus.ErrIllegalDataAddress, modbus.ErrIllegalDataValue, modbus.ErrServerDeviceFailure, modbus.ErrAcknowledge,
	modbus.ErrServerDeviceBusy, modbus.ErrMemoryParityError, modbus.ErrGWPathUnavailable, modbus.ErrGWTargetFailedToRespond,
}

// isException tells whether the device itself said no, so that the connection
// is well.
func isException(err error) bool {
	return slices.ContainsFunc(exceptions, func(e error) bool { return errors.Is(err, e) })
}

// writeSet writes what waits to be written, in the order in which it was set.
// Each value is tried once: a device that comes back after days must not act
// on what has long been given up.
func (b *bus) writeSet(ctx context.Context) error {
	type job struct {
		*item
		value point.Point
	}
	var jobs []job
	for _, it := range b.items {
		if v, ok := it.node.Given(typeSet); ok && b.port.Pending(it.node, typeSet) {
			jobs = append(jobs, job{it, v})
		}
	}
	slices.SortStableFunc(jobs, func(x, y job) int { return cmp.Compare(x.value.Time, y.value.Time) })
	for _, j := range jobs {
		if ctx.Err() != nil {
			return nil
		}
		if err := b.connect(); err != nil {
			return err
		}
		err := b.write(j.item, &j.value)
		b.port.Answer(j.node, err, typeSet)
		var refused *schema.Refused
		if err == nil || errors.As(err, &refused) {
			continue
		}
		b.port.Fail(j.node.ID, err)
		if !isException(err) {
			b.close()
		}
	}
	return nil
}

// write writes a value and reads it back.
func (b *bus) write(it *item, v *point.Point) error {
	words, err := it.encode(v)
	if err != nil {
		return err
	}
	if err := it.write(b.client, words); err != nil {
		return err
	}
	r := newRequest(it)
	back, err := r.read(b.client)
	if err != nil {
		return fmt.Errorf("written, but not read back: %w", err)
	}
	p := point.Point{Series: point.Series{Node: it.node.ID, Type: typeValue, Key: point.NoKey}}
	it.decode(back, &p)
	b.port.Put(p)
	if !slices.Equal(words, back) {
		return &schema.Refused{Code: schema.CodeDriver, Reason: "written, but the device has " + p.Text()}
	}
	return nil
}
