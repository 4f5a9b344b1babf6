// Package carrier owns the socket to the hub: when it is dialled, which way,
// and how many bytes it costs.
//
// The embedded nats-server would resolve and dial its remote itself, at a
// fixed interval. Instead its remote is a proxy on loopback, which is the
// carrier: the server asks it for a tunnel (CONNECT, with a password that is
// new at every start), and gets the answer when there is a connection to the
// hub, however long that takes. So the server has at most one attempt at a
// time, and the pace is ours. Where the tunnel leads is not the asker's
// choice: it always is the hub.
//
// TLS ends here, not in the server. One way serves raw and WebSocket
// connections, refusals of the hub can be read and shown, and the bytes are
// counted below TLS. On loopback the leaf protocol runs plain; the seed is not
// part of it.
package carrier

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/pin"
)

// Config says where the hub is and how to reach it.
type Config struct {
	// URL is the hub: nats-leaf, nats, tls, ws or wss; required.
	URL string
	// RootCAs verify the hub; default the system's. Setting it demands TLS.
	RootCAs *x509.CertPool
	// Pin is the key of the hub's certificate, sha256:<hex>, instead of
	// authorities. Setting it demands TLS.
	Pin string
	// Proxy is an HTTP proxy on the way; default by HTTPS_PROXY and NO_PROXY.
	Proxy *url.URL
	// Dial opens TCP connections, names included; default a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Networks lists what the machine is connected to, in any words; a new
	// entry is a reason to dial. Default the addresses of its interfaces.
	Networks func() ([]string, error)
	// Log gets what happens to the connection; the zero value is silent.
	Log zerolog.Logger
}

// States of the connection.
const (
	Connected  = "connected"
	Connecting = "connecting"
	Waiting    = "waiting" // for the next try
)

// Info tells how the connection is.
type Info struct {
	State string
	// NextTry is when the hub is dialled next, zero unless State is Waiting.
	NextTry time.Time
	// LastError is why there is no connection, or why the last one ended.
	LastError string
	// Refusals counts connections that the hub ended, since the last one that
	// was of use.
	Refusals int
	// Dials counts attempts since the start.
	Dials int
	// Address is host:port of the other end of the present or last
	// connection: of the proxy if there is one.
	Address string
}

// user is the name by which the server asks for a tunnel.
const user = "leaf"

// headerWait bounds what a local program may take to ask.
const headerWait = 5 * time.Second

// Carrier carries connections of the server to the hub. It is safe for
// concurrent use.
type Carrier struct {
	cfg      Config
	url      *url.URL // of the hub
	password string
	proxy    func(*http.Request) (*url.URL, error)
	tls      *tls.Config
	random   func(time.Duration) time.Duration

	listener net.Listener
	http     *http.Server
	stop     context.CancelFunc
	group    sync.WaitGroup
	turn     chan struct{} // capacity 1: who has put something in has the hub
	wake     chan struct{} // capacity 1: dial now
	tx, rx   atomic.Uint64

	mu       sync.Mutex
	closed   bool
	info     Info
	tries    int // since the last connection that was of use
	refusals int // the same, by the hub
	networks map[string]bool
	line     *line // the present connection
}

// Open returns a carrier that waits for the server. Nothing is dialled before.
func Open(cfg Config) (*Carrier, error) {
	c, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if c.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("listen for the leaf: %w", err)
	}
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.http = &http.Server{
		Handler: http.HandlerFunc(c.serve), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerWait, MaxHeaderBytes: 4 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	c.http.SetKeepAlivesEnabled(false)
	c.group.Go(func() { _ = c.http.Serve(c.listener) }) // ends with Close
	return c, nil
}

// prepare returns a carrier that does not listen yet.
func prepare(cfg Config) (*Carrier, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("hub URL %q is not an address", cfg.URL)
	}
	switch u.Scheme {
	case "nats-leaf", "nats", "tls", "ws", "wss":
	default:
		return nil, fmt.Errorf("hub URL %q: scheme must be nats-leaf, nats, tls, ws or wss", cfg.URL)
	}
	c := &Carrier{
		cfg: cfg, url: u, password: rand.Text(), proxy: http.ProxyFromEnvironment, random: mathrand.N[time.Duration],
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		info: Info{State: Connecting, Address: hostPort(u)},
		tls: &tls.Config{
			RootCAs: cfg.RootCAs, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12,
			// A resumed session costs 1 KB less: the hub sends no certificate.
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		},
	}
	if cfg.Pin != "" {
		pin.Apply(c.tls, cfg.Pin)
	}
	if cfg.Proxy != nil {
		c.proxy = http.ProxyURL(cfg.Proxy)
	}
	if c.cfg.Dial == nil {
		// No TCP keep-alives: every 15 s they would cost half a MB a day.
		c.cfg.Dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	if c.cfg.Networks == nil {
		c.cfg.Networks = networks
	}
	return c, nil
}

// Close closes the connection and waits until all is released.
func (c *Carrier) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	_ = c.http.Close()
	c.Cut()
	c.group.Wait()
}

// Proxy tells the server whom to ask for a tunnel, and how.
func (c *Carrier) Proxy() (address, username, password string) {
	return "http://" + c.listener.Addr().String(), user, c.password
}

// Remote is the address of the hub for the server: with the right scheme and
// path, but on loopback, so that there is no name to resolve.
func (c *Carrier) Remote() *url.URL {
	u := &url.URL{Scheme: "nats-leaf", Host: c.listener.Addr().String()}
	if c.webSocket() {
		u.Scheme, u.Path = "ws", c.url.Path
	}
	return u
}

func (c *Carrier) webSocket() bool { return c.url.Scheme == "ws" || c.url.Scheme == "wss" }

// Bytes returns what was sent and received since the start, over all
// connections: all of TCP's payload, TLS and the talk with a proxy included.
func (c *Carrier) Bytes() (tx, rx uint64) { return c.tx.Load(), c.rx.Load() }

// Info tells how the connection is.
func (c *Carrier) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.info
	info.Refusals = c.refusals
	if !info.NextTry.IsZero() { // waits by the monotonic clock, the wall clock may jump
		info.NextTry = time.Now().Add(time.Until(info.NextTry))
	}
	return info
}

// DialNow ends a wait and forgets why it was long. It does nothing while
// there is a connection.
func (c *Carrier) DialNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.info.State == Connected {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default: // somebody asked before
	}
}

// Cut closes the connection at once. The server will ask for another.
func (c *Carrier) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.cut = true
		_ = c.line.raw.Close()
		c.line, c.info.State = nil, Connecting
	}
}

// Used tells that the present connection serves its purpose: should the
// network break it, the next try need not wait long.
func (c *Carrier) Used() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.used = true
	}
}

// serve gives the server its tunnel, and nobody else.
func (c *Carrier) serve(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+c.password))
	got := r.Header.Get("Proxy-Authorization")
	if r.Method != http.MethodConnect || subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if !c.enter() {
		return
	}
	defer c.group.Done()
	ctx := r.Context() // ends when the server hangs up
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return
	}
	l, err := c.connect(ctx)
	if err != nil {
		return // nobody is there to be told
	}
	since := time.Now()
	err = errHere
	// Nothing is read ahead: the server is silent until it has its answer.
	if local, _, hangup := http.NewResponseController(w).Hijack(); hangup == nil {
		err = c.carry(local, l)
		_ = local.Close()
	}
	_ = l.raw.Close()
	c.ended(l, time.Since(since), err)
}

func (c *Carrier) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.group.Add(1)
	}
	return !c.closed
}

var (
	// errHere means that this end closed a connection.
	errHere = errors.New("closed by this end")
	// errClosed means that the hub closed it and gave no reason: it stopped, or
	// something before it turns gateways away.
	errClosed = errors.New("hub closed the connection")
)

// refusal is an end that the hub gave a reason for.
type refusal string

// Error says what the hub said.
func (r refusal) Error() string { return string(r) }

// carry moves data until either end closes, and returns why.
func (c *Carrier) carry(local net.Conn, l *line) error {
	if _, err := io.WriteString(local, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return errHere
	}
	if err := c.greet(local, l); err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Go(func() {
		if _, err := io.Copy(l.conn, local); err == nil {
			l.left.Store(true)
		}
		_ = l.raw.Close()
	})
	heard := &ear{to: local}
	_, err := io.Copy(heard, l.r)
	_, _ = local.Close(), l.raw.Close()
	up.Wait()
	switch said := heard.complaint(); {
	case said != "": // the server hangs up when it hears that
		return refusal("hub closed the connection: " + said)
	case l.left.Load():
		return errHere
	case err == nil:
		return errClosed
	default:
		return fmt.Errorf("connection to the hub: %w", err)
	}
}
