package leaf_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/shared/natstest"
)

// certificate returns a hub's TLS and the roots that verify it; its names are
// example.com and 127.0.0.1.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	web := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	return &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}, roots
}

// startProxy runs an HTTP proxy that asks for user:s3cret and reaches only
// example.com, at target. It returns its address.
func startProxy(t *testing.T, target string) string {
	t.Helper()
	return natstest.Accept(t, func(conn net.Conn) { tunnel(conn, target) })
}

func tunnel(conn net.Conn, target string) {
	r := bufio.NewReader(conn)
	ask, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	ask.Header.Set("Authorization", ask.Header.Get("Proxy-Authorization"))
	name, password, _ := ask.BasicAuth()
	switch {
	case name != "user" || password != "s3cret":
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	case ask.Method != http.MethodConnect || !strings.HasPrefix(ask.Host, "example.com:"):
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(far, r); _ = far.Close() })
	_, _ = io.Copy(conn, far)
	_ = conn.Close()
	up.Wait()
}

// TestWays goes every way to a hub, and compares the bytes with those that a
// provider would bill.
func TestWays(t *testing.T) {
	hubTLS, roots := certificate(t)
	plain, secure := startHub(t, nil), startHub(t, hubTLS)
	for _, h := range []*hub{plain, secure} {
		subscribe(t, h.door, "from.>")
	}
	for name, tc := range map[string]struct {
		scheme string
		hub    *hub
		proxy  bool
	}{
		"nats-leaf": {"nats-leaf", plain, false}, "nats-leaf by proxy": {"nats-leaf", plain, true},
		"nats": {"nats", plain, false}, "nats with TLS": {"nats", secure, false},
		"tls": {"tls", secure, false}, "tls by proxy": {"tls", secure, true},
		"ws": {"ws", plain, false}, "ws by proxy": {"ws", plain, true},
		"wss": {"wss", secure, false}, "wss by proxy": {"wss", secure, true},
	} {
		t.Run(name, func(t *testing.T) {
			target := tc.hub.addr
			if strings.HasPrefix(tc.scheme, "ws") {
				target = tc.hub.web
			}
			if tc.proxy {
				target = startProxy(t, target)
			}
			link := natstest.StartLink(t, natstest.LinkConfig{Target: target})
			g := newGateway(t, tc.hub)
			cfg := leaf.Config{
				Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", Sign: g.Sign,
				LeafURL: tc.scheme + "://example.com",
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, link.Addr())
				},
			}
			if tc.hub == secure {
				cfg.RootCAs = roots
			}
			if tc.proxy {
				cfg.Proxy = &url.URL{Scheme: "http", User: url.UserPassword("user", "s3cret"), Host: "proxy.test"}
			}
			s := start(t, cfg)
			uplink := connect(t, s, leaf.UPLINK)
			down, up := subscribe(t, uplink, "to.gw-a.>"), subscribe(t, tc.hub.door, "from.gw-a.>")
			for n := range 2 {
				eventually(t, "link", func() bool { return s.Linked("from.gw-a.hello") })
				publish(t, uplink, "from.gw-a.x")
				next(t, up)
				eventually(t, "interest at the hub", func() bool {
					account, err := tc.hub.ns.LookupAccount(public(t, tc.hub.account))
					return err == nil && account.SubscriptionInterest("to.gw-a.x")
				})
				publish(t, tc.hub.door, "to.gw-a.x")
				next(t, down)
				if info := s.Link(); info.State != "connected" || info.Address != link.Addr() {
					t.Errorf("link: %+v", info)
				}
				eventually(t, "as many bytes as billed", func() bool {
					tx, rx := s.Bytes()
					sent, received := link.Bytes()
					// What was under way when a connection ended is billed, but never read.
					lost := uint64(100 * n)
					return tx > 1000 && rx > 500 && tx <= sent && sent <= tx+lost && rx <= received && received <= rx+lost
				})
				tx, rx := s.Bytes()
				t.Logf("%d bytes up, %d down after %d connections", tx, rx, n+1)
				dials := s.Link().Dials
				leafz, err := tc.hub.ns.Leafz(nil)
				if err != nil || len(leafz.Leafs) != 1 {
					t.Fatalf("leafs: %+v, %v", leafz, err)
				}
				if err := tc.hub.ns.DisconnectClientByID(leafz.Leafs[0].ID); err != nil {
					t.Fatal(err)
				}
				eventually(t, "another connection", func() bool { s.DialNow(); return s.Link().Dials > dials })
			}
		})
	}
}

// TestSlowTLS lets the hub take its time.
func TestSlowTLS(t *testing.T) {
	t.Parallel()
	hubTLS, roots := certificate(t)
	slow := hubTLS.Clone()
	slow.Certificates = nil
	slow.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		time.Sleep(5 * time.Second) // it is what the test is about
		return &hubTLS.Certificates[0], nil
	}
	h := startHub(t, slow)
	subscribe(t, h.door, "from.>")
	g := newGateway(t, h)
	for _, target := range []string{"tls://" + h.addr, "wss://" + h.web} {
		s := start(t, leaf.Config{
			Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", LeafURL: target, RootCAs: roots, Sign: g.Sign,
		})
		eventually(t, target, func() bool { return s.Linked("from.gw-a.hello") })
		if n := s.Link().Dials; n != 1 {
			t.Errorf("%s: %d dials", target, n)
		}
		s.Close()
	}
}

// TestCutStalled closes a connection on which nothing moves any more, and
// makes a new one as soon as there is a way.
func TestCutStalled(t *testing.T) {
	hubTLS, roots := certificate(t)
	h := startHub(t, hubTLS)
	subscribe(t, h.door, "from.>")
	link := natstest.StartLink(t, natstest.LinkConfig{Target: h.addr})
	g := newGateway(t, h)
	s := start(t, leaf.Config{
		Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", LeafURL: "tls://" + link.Addr(), RootCAs: roots, Sign: g.Sign,
	})
	eventually(t, "link", func() bool { return s.Linked("from.gw-a.hello") })
	link.HalfOpen()
	s.CutLeaf()
	eventually(t, "no link", func() bool { return link.Connections() > 1 || !s.Linked("from.gw-a.hello") })
	s.DialNow()
	eventually(t, "link again", func() bool { return link.Connections() > 1 && s.Linked("from.gw-a.hello") })
}

func TestRefused(t *testing.T) {
	h, other := startHub(t, nil), startHub(t, nil)
	g := newGateway(t, other) // which h knows nothing of
	for _, target := range []string{"nats-leaf://" + h.addr, "ws://" + h.web} {
		s := start(t, leaf.Config{
			Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", LeafURL: target, Sign: g.Sign,
		})
		eventually(t, "what the hub said", func() bool {
			info := s.Link()
			return info.State == "waiting" && info.LastError == "hub closed the connection: Authorization Violation" && info.NextTry.After(time.Now())
		})
	}
}

// TestReconnects leaves nothing behind.
func TestReconnects(t *testing.T) {
	hubTLS, roots := certificate(t)
	h := startHub(t, hubTLS)
	subscribe(t, h.door, "from.>")
	g := newGateway(t, h)
	s := start(t, leaf.Config{
		Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", LeafURL: "tls://" + h.addr, RootCAs: roots, Sign: g.Sign,
		Log: zerolog.Nop(), // a test keeps its log in memory
	})
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("needs /proc")
		}
		return len(list)
	}
	again := func() {
		dials := s.Link().Dials
		s.CutLeaf()
		if state := s.Link().State; state != "connecting" {
			t.Fatalf("cut, but %s", state)
		}
		s.DialNow()
		eventually(t, "link again", func() bool { return s.Link().Dials > dials && s.Linked("from.gw-a.hello") })
	}
	eventually(t, "link", func() bool { return s.Linked("from.gw-a.hello") })
	for range 50 { // pools and caches fill
		again()
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what finalizers held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	settled := func() (files, routines int) {
		eventually(t, "one connection at the hub", func() bool { return h.ns.NumLeafNodes() == 1 })
		return open(), runtime.NumGoroutine()
	}
	files, routines := settled()
	before := heap()
	const times = 1000
	for range times {
		again()
	}
	eventually(t, "as before", func() bool {
		f, r := settled()
		return max(f-files, files-f) <= 2 && max(r-routines, routines-r) <= 2
	})
	if after := heap(); after > before+before/10 {
		t.Errorf("heap: %d B after %d reconnects, %d before", after, times, before)
	}
	if n := s.Link().Dials; n < times+51 {
		t.Errorf("%d dials", n)
	}
}
