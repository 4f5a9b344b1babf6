// Package natstest owns what tests need around real servers: a NATS server
// with JetStream that ends with the test, and a link that is slow, far, lossy
// of connections, and billed.
//
// It is imported by _test.go files, shared/bench and the demo only.
package natstest

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	// Delay is the time each way of data and closes; default none. A
	// connection is accepted at once.
	Delay time.Duration
	// Jitter is added to Delay, anew for each piece of data: uniform between 0
	// and Jitter, drawn from Seed. Order is kept. Default none.
	Jitter time.Duration
	Seed   uint64
	// NATTimeout makes a connection that carried nothing for so long a black
	// hole, as HalfOpen does; default never. Keep-alives of TCP end at the
	// proxy and do not count, as with a router that ignores them.
	NATTimeout time.Duration
	// Scale runs the link faster by this factor: Rate is multiplied, Delay,
	// Jitter and NATTimeout are divided, so that at 10 an hour passes in six
	// minutes. Default 1.
	Scale int
}

// scaled returns the configuration in real time.
func (c LinkConfig) scaled() LinkConfig {
	if n := c.Scale; n > 1 {
		c.Rate *= n
		c.Delay, c.Jitter, c.NATTimeout = c.Delay/time.Duration(n), c.Jitter/time.Duration(n), c.NATTimeout/time.Duration(n)
	}
	return c
}

// Link is a TCP proxy on loopback that behaves like a radio. It is safe for
// concurrent use.
type Link struct {
	cfg   LinkConfig
	l     net.Listener
	group sync.WaitGroup
	lines [2]*line // up, down

	mu     sync.Mutex
	target string
	closed bool
	cut    bool
	flow   chan struct{} // closed while data flows
	pairs  map[*pair]struct{}
	made   int
	bytes  [2]uint64
	bill   bill
	fuse   uint64 // bytes until the next cut, both ways together; 0 for none
	burnt  bool   // the fuse is used up, the cut is on its way
}

// pair is one connection through the link.
type pair struct {
	near, far *net.TCPConn
	done      chan struct{} // closed when the pair is
	once      sync.Once

	// Guarded by Link.mu:
	dark   bool      // both ends are kept open and hear nothing
	last   time.Time // when something crossed it
	meters [2]meter
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
	l := &Link{cfg: cfg.scaled(), l: listener, target: cfg.Target, pairs: map[*pair]struct{}{}, flow: make(chan struct{})}
	for way := range l.lines {
		l.lines[way] = newLine(l.cfg, way)
	}
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
// connections, without the headers of TCP and IP.
func (l *Link) Bytes() (sent, received uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes[up], l.bytes[down]
}

// Bill returns what a provider of the line counts each way: Bytes and an
// estimate of TCP and IP around them.
func (l *Link) Bill() (sent, received uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bill[up], l.bill[down]
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
	p := &pair{near: near, far: far.(*net.TCPConn), done: make(chan struct{}), last: time.Now()}
	l.mu.Lock()
	if l.cut || l.closed {
		l.mu.Unlock()
		p.reset()
		return
	}
	l.pairs[p] = struct{}{}
	l.made++
	l.bill.open()
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

// line is one way of the link for all connections: data leaves it one piece
// after the other and arrives a delay later, in the same order.
type line struct {
	rate          int
	delay, jitter time.Duration

	mu     sync.Mutex
	random *rand.Rand
	free   time.Time // when the last byte has left
	due    time.Time // when it arrives
}

func newLine(cfg LinkConfig, way int) *line {
	return &line{rate: cfg.Rate, delay: cfg.Delay, jitter: cfg.Jitter, random: rand.New(rand.NewPCG(cfg.Seed, uint64(way)))}
}

// timerSlack is how late a wait for the line may end without the line having
// been idle; else many small pieces would be slower than the rate.
const timerSlack = 5 * time.Millisecond

// send returns when n bytes that come now have left, and when they arrive.
func (w *line) send(now time.Time, n int) (left, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.free.Before(now.Add(-timerSlack)) {
		w.free = now
	}
	if w.rate > 0 {
		w.free = w.free.Add(time.Duration(n) * time.Second / time.Duration(w.rate))
	}
	due = w.free.Add(w.delay)
	if w.jitter > 0 {
		due = due.Add(time.Duration(w.random.Int64N(int64(w.jitter) + 1)))
	}
	if w.due.Before(due) {
		w.due = due
	}
	return w.free, w.due
}

// parcel is data that arrives at a time.
type parcel struct {
	data []byte
	due  time.Time
}

const (
	// readBytes is the largest piece that moves as one where the rate is
	// unlimited; else it is a segment, which a line sends without a pause.
	readBytes = 11 * segmentBytes
	// flightParcels bounds what is on its way.
	flightParcels = 256
	// modemBytes bounds what waits before a slow line, so that data queues at
	// the sender as it does behind a modem, not in the buffers of loopback.
	modemBytes = 16 << 10
)

// carry moves data one way until either end closes. A close that the far end
// may see arrives behind the data.
func (l *Link) carry(p *pair, from, to *net.TCPConn, way int) {
	flight := make(chan parcel, flightParcels) // closed by receive
	go func() {
		defer close(flight)
		l.receive(p, from, way, flight)
	}()
	for q := range flight {
		if !p.wait(time.Until(q.due)) || !l.deliver(p, to, q.data, way) {
			p.reset()
		}
	}
	if l.closes(p, way) {
		_ = to.CloseWrite()
		_ = from.CloseRead()
		return
	}
	_ = from.Close()
	<-p.done // until the link is cut or closed
}

// receive takes data from an end no faster than it leaves.
func (l *Link) receive(p *pair, from *net.TCPConn, way int, flight chan<- parcel) {
	size := readBytes
	if l.cfg.Rate > 0 {
		size = segmentBytes
		_ = from.SetReadBuffer(modemBytes) // else the system's size
	}
	for {
		buf := make([]byte, size)
		n, err := from.Read(buf)
		if n > 0 {
			left, due := l.lines[way].send(time.Now(), n)
			if !p.wait(time.Until(left)) {
				return
			}
			select {
			case flight <- parcel{buf[:n], due}:
			case <-p.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// forgotten tells whether the router has lost the connection, and notes that
// something crosses it if not. l.mu is held.
func (l *Link) forgotten(p *pair) bool {
	now := time.Now()
	if t := l.cfg.NATTimeout; t > 0 && now.Sub(p.last) >= t {
		p.dark = true
	}
	p.last = now
	return p.dark
}

// closes tells whether the far end of a way hears that the near one closed.
func (l *Link) closes(p *pair, way int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten(p) {
		return false
	}
	select {
	case <-p.done: // reset: nothing crossed
	default:
		l.bill.close(way)
	}
	return true
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
	if l.forgotten(p) {
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
	l.bill.data(&p.meters[way], way, len(data))
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
