package carrier

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"sync/atomic"
	"time"
)

const (
	// stepWait bounds each step of a connection: name and TCP, proxy, greeting,
	// TLS. A handshake was seen to take 4 s over Cat-M.
	stepWait = 20 * time.Second
	// writeWait is how long the radio may stall; a link that is really gone is
	// found by the protocol, before this.
	writeWait = time.Minute
	// greetingBytes is more than any INFO of a hub.
	greetingBytes = 16 << 10
)

// ports are the ports of URLs that name none.
var ports = map[string]string{"nats-leaf": "7422", "nats": "7422", "tls": "7422", "ws": "80", "wss": "443", "http": "80", "https": "443"}

// hostPort returns what to dial for a URL.
func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), ports[u.Scheme])
}

// line is a connection to the hub.
type line struct {
	raw  net.Conn // the socket; closing it ends everything above at once
	conn net.Conn // what the hub is written to: raw, or TLS above it
	r    *bufio.Reader
	info []byte // the hub's first line, of a raw connection

	left atomic.Bool // the server closed its end
	cut  bool        // by Cut; guarded by Carrier.mu
	used bool        // by Used; guarded by Carrier.mu
}

// dial opens a connection to the hub that is ready for the server. It is not
// opened earlier than the server can use it: the hub waits 2 s for a CONNECT.
func (c *Carrier) dial(ctx context.Context) (*line, error) {
	target := hostPort(c.url)
	proxy, err := c.proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: target}})
	if err != nil {
		return nil, errors.New("proxy of the environment is not an address") // err could show a password
	}
	address := target
	if proxy != nil {
		if proxy.Scheme != "http" && proxy.Scheme != "https" {
			return nil, fmt.Errorf("proxy %s speaks %s, not HTTP", proxy.Host, proxy.Scheme)
		}
		address = hostPort(proxy)
	}
	raw, err := c.open(ctx, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	l := &line{raw: raw, conn: raw}
	if proxy != nil {
		err = l.tunnel(ctx, proxy, target)
	}
	if err == nil && c.webSocket() {
		err = l.startWebSocket(ctx, c)
	} else if err == nil {
		err = l.startRaw(ctx, c)
	}
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return l, raw.SetDeadline(time.Time{})
}

func (c *Carrier) open(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	conn, err := c.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err // it says dial, and what
	}
	return &counted{Conn: conn, c: c}, nil
}

// step gives the next step its time.
func (l *line) step() { _ = l.raw.SetDeadline(time.Now().Add(stepWait)) }

// startTLS puts TLS above what there is.
func (l *line) startTLS(ctx context.Context, cfg *tls.Config) error {
	l.step()
	conn := tls.Client(l.conn, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS with %s: %w", cfg.ServerName, err)
	}
	l.conn = conn
	return nil
}

// tunnel asks a proxy for the hub.
func (l *line) tunnel(ctx context.Context, proxy *url.URL, target string) error {
	if proxy.Scheme == "https" {
		if err := l.startTLS(ctx, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12}); err != nil {
			return err
		}
	}
	l.step()
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		ask.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if err := ask.Write(l.conn); err != nil {
		return fmt.Errorf("ask proxy %s: %w", proxy.Host, err)
	}
	r := bufio.NewReader(l.conn)
	answer, err := http.ReadResponse(r, ask)
	if err != nil {
		return fmt.Errorf("answer of proxy %s: %w", proxy.Host, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("proxy %s answered %s", proxy.Host, answer.Status)
	}
	l.conn = &buffered{Conn: l.conn, r: r} // the hub's greeting may be behind the answer
	return nil
}

func (l *line) startWebSocket(ctx context.Context, c *Carrier) error {
	if c.url.Scheme == "wss" || c.cfg.RootCAs != nil || c.cfg.Pin != "" {
		if err := l.startTLS(ctx, c.tls); err != nil {
			return err
		}
	}
	l.r = bufio.NewReaderSize(l.conn, greetingBytes)
	return nil
}

// startRaw reads the hub's INFO, which comes before TLS, and starts TLS. The
// server then gets an INFO without it.
func (l *line) startRaw(ctx context.Context, c *Carrier) error {
	l.step()
	l.r = bufio.NewReaderSize(l.conn, greetingBytes)
	text, err := l.r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("greeting of the hub: %w", err)
	}
	text = bytes.Clone(text)
	data, isInfo := bytes.CutPrefix(text, []byte("INFO "))
	var info struct {
		TLSRequired bool `json:"tls_required"`
	}
	if !isInfo || json.Unmarshal(data, &info) != nil {
		return errors.New("what answers is no hub")
	}
	switch demanded := c.url.Scheme == "tls" || c.cfg.RootCAs != nil || c.cfg.Pin != ""; {
	case info.TLSRequired && l.r.Buffered() > 0:
		return errors.New("hub says more before TLS than it should")
	case info.TLSRequired:
		if err := l.startTLS(ctx, c.tls); err != nil {
			return err
		}
		l.r.Reset(l.conn)
	case demanded:
		return errors.New("TLS is demanded and the hub offers none")
	}
	hideTLS(text)
	l.info = text
	return nil
}

// hideTLS makes a server that reads an INFO overlook that the hub has TLS,
// which is none of its business: it would start it too, for a WebSocket at the
// second connection. The length stays, as a frame around it says what it is.
func hideTLS(info []byte) {
	from, to := []byte(`"tls_required"`), []byte(`"tls_at_agent"`)
	if i := bytes.Index(info, from); i >= 0 {
		copy(info[i:], to)
	}
}

// greet begins the talk of server and hub: a raw one with the INFO that was
// read before, a WebSocket with a request that must name the hub.
func (c *Carrier) greet(local net.Conn, l *line) error {
	if !c.webSocket() {
		if _, err := local.Write(l.info); err != nil {
			return errHere
		}
		return nil
	}
	_ = local.SetReadDeadline(time.Now().Add(stepWait))
	ask, err := http.ReadRequest(bufio.NewReader(local)) // nothing follows before the answer
	if err != nil {
		return errHere
	}
	_ = local.SetReadDeadline(time.Time{})
	ask.Host = c.url.Host
	l.step()
	if err := ask.Write(l.conn); err != nil {
		return fmt.Errorf("ask the hub for a WebSocket: %w", err)
	}
	status, err := l.r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("ask the hub for a WebSocket: %w", err)
	}
	if !bytes.Contains(status, []byte(" 101 ")) {
		return refusal(fmt.Sprintf("hub refuses a WebSocket: %s", bytes.TrimSpace(status)))
	}
	for line := status; len(line) > 0; {
		if _, err := local.Write(line); err != nil {
			return errHere
		}
		if len(bytes.TrimSpace(line)) == 0 {
			break
		}
		if line, err = l.r.ReadSlice('\n'); err != nil {
			return fmt.Errorf("ask the hub for a WebSocket: %w", err)
		}
	}
	frame, err := l.firstFrame()
	if err != nil {
		return fmt.Errorf("greeting of the hub: %w", err)
	}
	hideTLS(frame) // where it is read from next
	return l.raw.SetDeadline(time.Time{})
}

// firstFrame returns the first frame of a WebSocket, which stays to be read.
func (l *line) firstFrame() ([]byte, error) {
	head, err := l.r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := 2 + int(head[1])
	if head[1] == 126 { // two bytes of length follow
		size = 4 + int(binary.BigEndian.Uint16(head[2:]))
	}
	return l.r.Peek(size) // fails for what is longer than any greeting
}

// counted is the socket: it counts bytes and gives each write a deadline.
type counted struct {
	net.Conn
	c *Carrier
}

// Read counts what arrives.
func (s *counted) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.c.rx.Add(uint64(n))
	return n, err
}

// Write counts what leaves.
func (s *counted) Write(p []byte) (int, error) {
	_ = s.SetWriteDeadline(time.Now().Add(writeWait)) // fails if closed, as Write then does
	n, err := s.Conn.Write(p)
	s.c.tx.Add(uint64(n))
	return n, err
}

// buffered is a connection of which a part was read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

// Read reads what was read ahead, then the connection.
func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// ear passes data on and remembers the last of it, where a hub that hangs up
// says why.
type ear struct {
	to   io.Writer
	last []byte
}

// earBytes is more than any complaint of a hub.
const earBytes = 256

// Write passes p on.
func (e *ear) Write(p []byte) (int, error) {
	e.last = append(e.last, p[max(0, len(p)-earBytes):]...)
	e.last = append(e.last[:0], e.last[max(0, len(e.last)-earBytes):]...)
	return e.to.Write(p)
}

var complaint = regexp.MustCompile(`-ERR '([^'\r\n]*)'`)

// complaint returns the last error that the hub told, "" if none.
func (e *ear) complaint() string {
	found := complaint.FindAllSubmatch(e.last, -1)
	if len(found) == 0 {
		return ""
	}
	return string(found[len(found)-1][1])
}
