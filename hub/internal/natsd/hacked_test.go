package natsd_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// rawLeaf speaks the leaf protocol with the credential of a gateway, as a
// hacked one would: nothing on its side checks its rights.
type rawLeaf struct {
	conn net.Conn
	r    *bufio.Reader
}

func (d *device) hack(t *testing.T, h *hub) *rawLeaf {
	t.Helper()
	conn, err := net.Dial("tcp", h.nats.LeafAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	l := &rawLeaf{conn: conn, r: bufio.NewReader(conn)}
	line, err := l.r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	token, signature, err := d.sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	connect, _ := json.Marshal(map[string]any{
		"jwt": token, "sig": base64.RawURLEncoding.EncodeToString(signature),
		"server_id": "hacked", "name": "hacked", "version": "2.15.2", "headers": true,
	})
	l.send(t, "CONNECT %s\r\nPING\r\n", connect)
	l.wait(t, "PONG")
	return l
}

func (l *rawLeaf) send(t *testing.T, format string, v ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(l.conn, format, v...); err != nil {
		t.Fatal(err)
	}
}

// wait reads up to a line that begins with prefix.
func (l *rawLeaf) wait(t *testing.T, prefix string) {
	t.Helper()
	for {
		line, err := l.r.ReadString('\n')
		if err != nil {
			t.Fatalf("waiting for %q: %v", prefix, err)
		}
		if strings.Contains(line, "secret") {
			t.Errorf("overheard %q", line)
		}
		if strings.HasPrefix(line, prefix) {
			return
		}
	}
}

// closed reads until the hub hangs up.
func (l *rawLeaf) closed() bool {
	for {
		if _, err := l.r.ReadString('\n'); err != nil {
			netErr, ok := err.(net.Error)
			return !ok || !netErr.Timeout()
		}
	}
}

func TestHackedDevice(t *testing.T) {
	h := startHub(t, t.TempDir())
	a := h.enroll(t, "gw-a")
	all := subscribe(t, h.door, ">")
	a.hack(t, h).send(t, "LMSG from.gw-a.x 2\r\nhi\r\n")
	if got := next(t, all); got != "from.gw-a.x" {
		t.Fatalf("got %q, want from.gw-a.x", got)
	}
	for _, line := range []string{
		"LMSG from.gw-b.x 2\r\nhi\r\n",
		"LMSG to.gw-b.x 2\r\nhi\r\n",
		"LMSG $JS.API.STREAM.LIST 2\r\nhi\r\n",
		"LMSG $SYS.REQ.SERVER.PING 2\r\nhi\r\n",
		"LMSG from.gw-a.x 300000\r\n",
		"LS+ to.gw-b.x\r\n",
		"LS+ $SYS.ACCOUNT.x\r\n",
	} {
		l := a.hack(t, h)
		l.send(t, "%s", line)
		if !l.closed() {
			t.Errorf("the hub did not hang up on %q", line)
		}
	}
	if n, _, _ := all.Pending(); n != 0 {
		t.Errorf("%d messages came through", n)
	}

	// A wildcard subscription is accepted and gets what is its own.
	l := a.hack(t, h)
	l.send(t, "LS+ >\r\nPING\r\n")
	l.wait(t, "PONG")
	publish(t, h.door, "to.gw-b.secret")
	publish(t, h.door, "to.gw-a.x")
	l.wait(t, "LMSG to.gw-a.x")
}
