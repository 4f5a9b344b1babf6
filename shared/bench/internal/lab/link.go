package lab

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// Link is a line between a gateway and the hub that can be cut and that
// counts the bytes of its TCP connections.
type Link struct {
	listener net.Listener
	up, down atomic.Int64

	mu     sync.Mutex
	target string
	cut    bool
	turned chan struct{} // closed when target or cut changes
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

// NewLink returns a line on a free port of loopback that leads nowhere yet:
// who dials waits until it does.
func NewLink() (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	k := &Link{listener: l, turned: make(chan struct{}), conns: map[net.Conn]bool{}}
	k.wg.Add(1)
	go k.accept()
	return k, nil
}

// Addr returns host:port to dial.
func (k *Link) Addr() string { return k.listener.Addr().String() }

// Lead says where the line leads to, nowhere with "".
func (k *Link) Lead(target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.target = target
	k.turn()
}

// turn wakes who waits for the line to lead somewhere; mu is held.
func (k *Link) turn() {
	close(k.turned)
	k.turned = make(chan struct{})
}

// Bytes returns what went up (from who dialled) and down since the start.
func (k *Link) Bytes() (up, down int64) { return k.up.Load(), k.down.Load() }

// Cut closes all connections, and new ones at once, until Restore.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
	k.turn()
	for c := range k.conns {
		_ = c.Close()
	}
}

// Restore lets connections through again.
func (k *Link) Restore() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = false
}

// Close ends the line.
func (k *Link) Close() {
	_ = k.listener.Close()
	k.Cut()
	k.wg.Wait()
}

func (k *Link) accept() {
	defer k.wg.Done()
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return // closed
		}
		k.wg.Add(1)
		go func() {
			defer k.wg.Done()
			k.carry(c)
		}()
	}
}

// carry connects one who dialled until either side closes.
func (k *Link) carry(near net.Conn) {
	defer near.Close()
	target, ok := k.leads()
	if !ok {
		return
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		return // as a line whose other end is down
	}
	defer far.Close()
	if !k.add(near, far) {
		return
	}
	defer k.drop(near, far)
	done := make(chan struct{}, 2)
	go pump(far, near, &k.up, done)
	go pump(near, far, &k.down, done)
	<-done
	_, _ = near.Close(), far.Close()
	<-done
}

// leads waits until the line leads somewhere; ok is false when it is cut.
func (k *Link) leads() (target string, ok bool) {
	for {
		k.mu.Lock()
		target, cut, turned := k.target, k.cut, k.turned
		k.mu.Unlock()
		if cut || target != "" {
			return target, !cut
		}
		<-turned
	}
}

func (k *Link) add(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		k.conns[c] = true
	}
	return !k.cut
}

func (k *Link) drop(conns ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		delete(k.conns, c)
	}
}

// pump copies and counts as it goes.
func pump(to, from net.Conn, count *atomic.Int64, done chan<- struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
			count.Add(int64(n))
		}
		if err != nil {
			break
		}
	}
	done <- struct{}{}
}
