// Package natstest owns what tests need around real servers: a NATS server
// with JetStream that ends with the test, and a link that is slow, far, lossy
// of connections, and billed.
//
// It is imported by _test.go files, shared/bench and the demo only.
package natstest

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// LinkConfig says how a link is.
type LinkConfig struct {
	// Target is host:port of the far end; "" refuses until SetTarget.
	Target string
	// Rate is bytes per second each way, for all connections together; 0, the
	// default, is unlimited.
	Rate int
	// Delay is the time each way; default none.
	Delay time.Duration
}

// Link is a TCP proxy on loopback that behaves like a radio. It is safe for
// concurrent use.
type Link struct {
	cfg   LinkConfig
	l     net.Listener
	group sync.WaitGroup
	lines [2]line // up, down

	mu     sync.Mutex
	target string
	closed bool
	cut    bool
	flow   chan struct{} // closed while data flows
	pairs  map[*pair]struct{}
	made   int
	bytes  [2]uint64
	fuse   uint64 // bytes until the next cut, both ways together; 0 for none
	burnt  bool   // the fuse is used up, the cut is on its way
}

// pair is one connection through the link.
type pair struct {
	near, far *net.TCPConn
	done      chan struct{} // closed when the pair is
	once      sync.Once
	dark      bool // both ends are kept open and hear nothing; guarded by Link.mu
}

// The ways through a link.
const (
	up   = 0 // from who dialled the link to its target
	down = 1
)

// NewLink returns a link that listens on a free port of loopback.
func NewLink(cfg LinkConfig) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	l := &Link{cfg: cfg, l: listener, target: cfg.Target, pairs: map[*pair]struct{}{}, flow: make(chan struct{})}
	close(l.flow)
	l.group.Add(1)
	go l.accept()
	return l, nil
}

// StartLink returns a link that is closed when the test ends.
func StartLink(t testing.TB, cfg LinkConfig) *Link {
	t.Helper()
	l, err := NewLink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Addr returns host:port to dial instead of the target.
func (l *Link) Addr() string { return l.l.Addr().String() }

// SetTarget changes the far end for connections to come.
func (l *Link) SetTarget(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = addr
}

// Cut resets all connections and refuses new ones until Restore. What was
// under way is lost.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutLocked()
}

func (l *Link) cutLocked() {
	l.cut, l.fuse, l.burnt = true, 0, false
	for p := range l.pairs {
		p.reset()
	}
}

// CutAfter cuts the link once n more bytes have crossed it, in the middle of
// whatever that hits. n must be at least 1.
func (l *Link) CutAfter(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fuse = n
}

// IsCut tells whether new connections are refused.
func (l *Link) IsCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// Restore ends a cut.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.fuse, l.burnt = false, 0, false
}

// Stall keeps connections open and holds all data back until Resume.
func (l *Link) Stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.flow:
		l.flow = make(chan struct{})
	default:
	}
}

// Resume ends a stall.
func (l *Link) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.flow:
	default:
		close(l.flow)
	}
}

// HalfOpen makes the connections of now black holes, as a router does that
// forgot them: neither end is told, nothing arrives any more. New connections
// work.
func (l *Link) HalfOpen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.dark = true
	}
}

// Bytes returns how many bytes went to the target and came back, over all
// connections: what a provider of the line would bill, without TCP and IP.
func (l *Link) Bytes() (sent, received uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes[up], l.bytes[down]
}

// Connections returns how many connections were made through the link.
func (l *Link) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

// Close closes the link and waits for its goroutines.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	l.cutLocked()
	l.mu.Unlock()
	_ = l.l.Close()
	l.group.Wait()
}

func (l *Link) accept() {
	defer l.group.Done()
	for {
		conn, err := l.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		l.group.Add(1)
		go func() {
			defer l.group.Done()
			l.connect(conn.(*net.TCPConn))
		}()
	}
}

// dialWait bounds the way to a target, which is on this machine.
const dialWait = 5 * time.Second

func (l *Link) connect(near *net.TCPConn) {
	l.mu.Lock()
	target, refuse := l.target, l.cut || l.closed
	l.mu.Unlock()
	if refuse || target == "" {
		reset(near)
		return
	}
	far, err := net.DialTimeout("tcp", target, dialWait)
	if err != nil {
		reset(near)
		return
	}
	p := &pair{near: near, far: far.(*net.TCPConn), done: make(chan struct{})}
	l.mu.Lock()
	if l.cut || l.closed {
		l.mu.Unlock()
		p.reset()
		return
	}
	l.pairs[p] = struct{}{}
	l.made++
	l.mu.Unlock()
	var ways sync.WaitGroup
	ways.Add(2)
	go func() { defer ways.Done(); l.carry(p, p.near, p.far, up) }()
	go func() { defer ways.Done(); l.carry(p, p.far, p.near, down) }()
	ways.Wait()
	p.reset()
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (p *pair) reset() {
	p.once.Do(func() {
		close(p.done)
		reset(p.near)
		reset(p.far)
	})
}

// line is one way of the link: bytes leave it one after the other.
type line struct {
	mu   sync.Mutex
	free time.Time // when the last byte has left
}

// send returns how long until n bytes more have left.
func (w *line) send(n, rate int) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.free.Before(now) {
		w.free = now
	}
	w.free = w.free.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return w.free.Sub(now)
}

// parcel is data that arrives at a time.
type parcel struct {
	data []byte
	due  time.Time
}

const (
	// readBytes is the largest piece that moves as one; a slow line gets
	// pieces of at most a twentieth of a second.
	readBytes = 16 << 10
	// flightParcels bounds what is on its way.
	flightParcels = 256
)

// carry moves data one way until either end closes. A close that the far end
// may see arrives behind the data.
func (l *Link) carry(p *pair, from, to *net.TCPConn, way int) {
	size := readBytes
	if l.cfg.Rate > 0 {
		size = min(size, max(64, l.cfg.Rate/20))
	}
	flight := make(chan parcel, flightParcels) // closed by the reader
	go func() {
		defer close(flight)
		for {
			buf := make([]byte, size)
			n, err := from.Read(buf)
			if n > 0 {
				if l.cfg.Rate > 0 && !p.wait(l.lines[way].send(n, l.cfg.Rate)) {
					return
				}
				select {
				case flight <- parcel{buf[:n], time.Now().Add(l.cfg.Delay)}:
				case <-p.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for q := range flight {
		if !p.wait(time.Until(q.due)) || !l.deliver(p, to, q.data, way) {
			p.reset()
		}
	}
	l.mu.Lock()
	dark := p.dark
	l.mu.Unlock()
	if dark {
		_ = from.Close()
		<-p.done // until the link is cut or closed
		return
	}
	_ = to.CloseWrite()
	_ = from.CloseRead()
}

// deliver writes data at the far end of a way, once nothing is stalled.
func (l *Link) deliver(p *pair, to *net.TCPConn, data []byte, way int) bool {
	for {
		l.mu.Lock()
		flow := l.flow
		select {
		case <-flow:
		default:
			l.mu.Unlock()
			select {
			case <-flow:
				continue
			case <-p.done:
				return false
			}
		}
		break
	}
	// l.mu is held.
	if p.dark {
		l.mu.Unlock()
		return true
	}
	if l.cut || l.burnt { // perhaps the other way has used up what CutAfter allows
		l.mu.Unlock()
		return false
	}
	burnt := l.fuse > 0 && uint64(len(data)) >= l.fuse
	if burnt {
		data, l.burnt = data[:l.fuse], true
	} else if l.fuse > 0 {
		l.fuse -= uint64(len(data))
	}
	l.bytes[way] += uint64(len(data))
	l.mu.Unlock()
	_, err := to.Write(data)
	if burnt {
		l.Cut()
	}
	return err == nil && !burnt
}

// wait waits unless the pair ends before.
func (p *pair) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}
