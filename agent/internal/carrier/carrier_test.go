package carrier

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/shared/natstest"
)

// The environment's proxy; the standard library reads it once.
const envProxy = "http://user:s3cret@proxy.test:3128"

func TestMain(m *testing.M) {
	for name, value := range map[string]string{"HTTPS_PROXY": envProxy, "https_proxy": "", "NO_PROXY": "direct.test,refused.test", "no_proxy": ""} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

var errNoWay = errors.New("no way to the hub")

// dialled records what a carrier dials and when, and answers with a function.
type dialled struct {
	mu     sync.Mutex
	at     []time.Time
	where  []string
	answer func() (net.Conn, error)
}

func (d *dialled) dial(_ context.Context, _, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.where = append(d.at, time.Now()), append(d.where, address)
	if d.answer == nil {
		return nil, errNoWay
	}
	return d.answer()
}

func (d *dialled) list() (at []time.Time, where []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at, d.where
}

// TestPace lets the hub be away for days, on a clock that needs no time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		up := []string{"eth0 192.0.2.1/24"}
		d := &dialled{}
		c, err := prepare(Config{URL: "tls://direct.test", Dial: d.dial, Networks: func() ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			return up, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		c.random = func(n time.Duration) time.Duration { return n } // the longest
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := c.connect(ctx)
			done <- err
		}()
		// waits returns the seconds between dials from the n-th on.
		waits := func(n int) string {
			at, _ := d.list()
			var s []string
			for i := max(n, 1); i < len(at); i++ {
				s = append(s, at[i].Sub(at[i-1]).String())
			}
			return strings.Join(s, " ")
		}
		time.Sleep(30 * time.Minute)
		if got, want := waits(0), "2s 4s 8s 16s 32s 1m4s 2m8s 4m16s 5m0s 5m0s 5m0s 5m0s"; got != want {
			t.Errorf("waits: got %s, want %s", got, want)
		}
		info := c.Info()
		if until := time.Until(info.NextTry); info.State != Waiting || until <= 0 || until > longestWait ||
			info.LastError != errNoWay.Error() || info.Dials != 13 || info.Address != "direct.test:7422" {
			t.Errorf("info: %+v", info)
		}

		// Asked for: at once, and patient no more.
		at, _ := d.list()
		n := len(at)
		c.DialNow()
		synctest.Wait()
		time.Sleep(7 * time.Second)
		if at, _ = d.list(); len(at) != n+3 || waits(n+1) != "2s 4s" {
			t.Errorf("after DialNow: %d dials, %s", len(at)-n, waits(n+1))
		}

		// A network that goes changes nothing, one that comes does.
		time.Sleep(20 * time.Minute)
		for _, now := range [][]string{nil, {"wwan0 198.51.100.7/30"}} {
			mu.Lock()
			up = now
			mu.Unlock()
			at, _ = d.list()
			n = len(at)
			time.Sleep(lookEvery)
			synctest.Wait()
			at, _ = d.list()
			if got, want := len(at)-n, len(now); got != want {
				t.Errorf("networks are %v: %d dials, want %d", now, got, want)
			}
		}
		time.Sleep(7 * time.Second)
		if got := waits(n + 1); got != "2s 4s" {
			t.Errorf("after a network came up: %s", got)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})
}

func TestPauseIsRandom(t *testing.T) {
	c, err := prepare(Config{URL: "tls://direct.test"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[time.Duration]bool{}
	for range 100 {
		c.tries = 30
		wait := c.pause()
		if wait < longestWait/2 || wait > longestWait {
			t.Fatalf("wait of %s", wait)
		}
		seen[wait] = true
	}
	if len(seen) < 90 {
		t.Errorf("only %d different waits of 100", len(seen))
	}
}

func TestRefusals(t *testing.T) {
	c, err := prepare(Config{URL: "tls://direct.test"})
	if err != nil {
		t.Fatal(err)
	}
	c.random = func(time.Duration) time.Duration { return 0 } // the shortest
	no := refusal("hub closed the connection")
	steps := []struct {
		what  string
		lived time.Duration
		err   error
		cut   bool
		used  bool
		want  time.Duration
	}{
		{"a long one", time.Hour, no, false, true, time.Second},
		{"refused", time.Second, no, false, true, 2 * time.Second},
		{"cut here", time.Second, no, true, true, 4 * time.Second},
		{"lost", time.Second, io.ErrUnexpectedEOF, false, false, 8 * time.Second},
		{"closed", time.Second, errClosed, false, false, 16 * time.Second},
		{"refused, and that is enough", time.Second, no, false, false, time.Minute},
		{"refused", time.Second, no, false, false, 64 * time.Second},
		{"refused", time.Second, no, false, false, 128 * time.Second},
		{"refused", time.Second, no, false, false, longestWait / 2},
		{"a short one in use, lost", time.Second, io.ErrUnexpectedEOF, false, true, time.Second},
		{"another, the hub stopped", time.Second, errClosed, false, true, time.Second},
		{"never in use, but long", useful, no, false, false, time.Second},
	}
	for _, s := range steps {
		c.ended(&line{cut: s.cut, used: s.used}, s.lived, s.err)
		if got := c.pause(); got != s.want {
			t.Errorf("%s: waits %s, want %s", s.what, got, s.want)
		}
	}
	for range maxRefusals {
		c.ended(&line{}, 0, no)
	}
	if c.forget(false); c.pause() != 0 { // a network came up
		t.Error("no dial")
	}
	if c.failed(errNoWay); c.pause() != time.Minute {
		t.Error("a network made the hub's refusals forgotten")
	}
	if c.forget(true); c.refusals != 0 {
		t.Error("DialNow did not forget refusals")
	}
}

// ask speaks to a carrier as a local program would, and returns what comes
// back until it hangs up or the text has come.
func ask(t *testing.T, c *Carrier, request, until string) string {
	t.Helper()
	conn, err := net.Dial("tcp", c.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var heard strings.Builder
	for r := bufio.NewReader(conn); ; {
		text, err := r.ReadString('\n')
		heard.WriteString(text)
		if err != nil || until != "" && strings.Contains(text, until) {
			return heard.String()
		}
	}
}

// fakeHub accepts connections, says hello to each and keeps it until the
// other end closes.
func fakeHub(t *testing.T, hello string) string {
	t.Helper()
	return natstest.Accept(t, func(conn net.Conn) {
		_, _ = io.WriteString(conn, hello)
		_, _ = io.Copy(io.Discard, conn)
	})
}

func open(t *testing.T, cfg Config) *Carrier {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (c *Carrier) ticket() string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, c.password)
	return r.Header.Get("Authorization")
}

func TestUninvited(t *testing.T) {
	hub := fakeHub(t, "INFO {\"nonce\":\"abc\"}\r\n")
	d := &dialled{answer: func() (net.Conn, error) { return net.Dial("tcp", hub) }}
	c := open(t, Config{URL: "nats-leaf://refused.test:4", Dial: d.dial})
	for _, request := range []string{
		"CONNECT refused.test:4 HTTP/1.1\r\nHost: refused.test:4\r\n\r\n",
		"CONNECT refused.test:4 HTTP/1.1\r\nHost: refused.test:4\r\nProxy-Authorization: Basic bGVhZjpsZWFm\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nProxy-Authorization: " + c.ticket() + "\r\n\r\n",
		"CONNECT {}\r\n\r\n",
	} {
		if got := ask(t, c, request, ""); !strings.HasPrefix(got, "HTTP/1.1 40") {
			t.Errorf("%q was answered %q", request, got)
		}
	}
	if _, where := d.list(); len(where) != 0 {
		t.Errorf("dialled %v for strangers", where)
	}
	// Who may ask gets the hub, whatever was asked for.
	got := ask(t, c, "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\nProxy-Authorization: "+c.ticket()+"\r\n\r\n", "INFO")
	if want := "HTTP/1.1 200 OK\r\n\r\nINFO {\"nonce\":\"abc\"}\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, where := d.list(); fmt.Sprint(where) != "[refused.test:4]" {
		t.Errorf("dialled %v", where)
	}
}

// TestGreetings checks what a hub may not say.
func TestGreetings(t *testing.T) {
	for name, tc := range map[string]struct{ url, hello, want string }{
		"no hub":           {"nats-leaf://direct.test", "220 mail\r\n", "no hub"},
		"no JSON":          {"nats-leaf://direct.test", "INFO {\r\n", "no hub"},
		"too long":         {"nats-leaf://direct.test", strings.Repeat("x", greetingBytes+1), "buffer full"},
		"no TLS":           {"tls://direct.test", "INFO {}\r\n", "TLS is demanded"},
		"more before TLS":  {"tls://direct.test", "INFO {\"tls_required\":true}\r\n+OK\r\n", "before TLS"},
		"no WebSocket":     {"ws://direct.test", "HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"},
		"a refusing proxy": {"tls://hub.test", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy proxy.test:3128 answered 407"},
	} {
		t.Run(name, func(t *testing.T) {
			hub := fakeHub(t, tc.hello)
			d := &dialled{answer: func() (net.Conn, error) { return net.Dial("tcp", hub) }}
			c := open(t, Config{URL: tc.url, Dial: d.dial})
			var group sync.WaitGroup
			defer group.Wait()
			defer c.Close()
			group.Go(func() {
				conn, err := net.Dial("tcp", c.listener.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				_, _ = io.WriteString(conn, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Authorization: "+c.ticket()+"\r\n\r\n")
				_, _ = r.ReadString('\n')
				_, _ = io.WriteString(conn, "GET /leafnode HTTP/1.1\r\nHost: a\r\n\r\n")
				_, _ = io.Copy(io.Discard, r) // until the carrier closes
			})
			poll(t, tc.want, func() bool { return strings.Contains(c.Info().LastError, tc.want) })
			if got := c.Info().LastError; strings.Contains(got, "s3cret") {
				t.Errorf("shows a password: %s", got)
			}
		})
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestProxyOfEnvironment checks what is dialled for which hub.
func TestProxyOfEnvironment(t *testing.T) {
	own, err := url.Parse("http://own.test")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		url   string
		proxy *url.URL
		want  string
	}{
		"environment": {"tls://hub.test", nil, "proxy.test:3128"},
		"WebSocket":   {"wss://hub.test/path", nil, "proxy.test:3128"},
		"NO_PROXY":    {"tls://direct.test:1", nil, "direct.test:1"},
		"loopback":    {"nats-leaf://127.0.0.1", nil, "127.0.0.1:7422"},
		"setting":     {"ws://direct.test", own, "own.test:80"},
		"wss":         {"wss://direct.test", nil, "direct.test:443"},
		"IPv6":        {"tls://[::1]", nil, "[::1]:7422"},
	} {
		d := &dialled{}
		c, err := prepare(Config{URL: tc.url, Proxy: tc.proxy, Dial: d.dial})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.dial(t.Context()); !errors.Is(err, errNoWay) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, where := d.list(); fmt.Sprint(where) != "["+tc.want+"]" {
			t.Errorf("%s: dialled %v, want %s", name, where, tc.want)
		}
	}
	socks := &url.URL{Scheme: "socks5", User: url.UserPassword("user", "s3cret"), Host: "own.test:1"}
	c, err := prepare(Config{URL: "tls://direct.test", Proxy: socks})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.dial(t.Context()); err == nil || err.Error() != "proxy own.test:1 speaks socks5, not HTTP" {
		t.Errorf("socks: got %v", err)
	}
}

// TestNames moves the hub to another address between two dials.
func TestNames(t *testing.T) {
	var mu sync.Mutex
	address, asked := net.IPv4(127, 0, 0, 1), 0
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { _ = dns.Close(); group.Wait() })
	group.Go(func() {
		for buf := make([]byte, 512); ; {
			n, from, err := dns.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			asked++
			answer := dnsAnswer(buf[:n], address)
			mu.Unlock()
			_, _ = dns.WriteTo(answer, from)
		}
	})
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", dns.LocalAddr().String())
	}}
	_, port, err := net.SplitHostPort(fakeHub(t, "INFO {}\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := prepare(Config{URL: "nats-leaf://direct.test:" + port, Dial: (&net.Dialer{Resolver: resolver}).DialContext})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := c.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = l.raw.Close()
	}
	mu.Lock()
	before := asked
	address = net.IPv4(127, 0, 0, 9) // where nobody listens
	mu.Unlock()
	if _, err := c.dial(t.Context()); err == nil || !strings.Contains(err.Error(), "127.0.0.9:"+port) {
		t.Errorf("after the move: got %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if before < 2 || asked <= before {
		t.Errorf("asked for the name %d times, then %d", before, asked)
	}
}

// dnsAnswer answers a question for an A record, good for an hour, and has
// nothing for any other.
func dnsAnswer(question []byte, ip net.IP) []byte {
	end := 12
	for question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 5 // the end of the name, type, class
	answer := append([]byte{}, question[:end]...)
	answer[2], answer[3] = 0x84, 0
	clear(answer[6:12])
	if question[end-3] == 1 {
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4)
		answer = append(answer, ip.To4()...)
	}
	return answer
}
