package natstest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// leafWait bounds what a leaf waits for: its greeting, a write, a pong.
const leafWait = 30 * time.Second

// LeafConfig says how a Leaf connects.
type LeafConfig struct {
	Addr string // host:port
	JWT  string // "" for none
	// Sign signs the server's nonce; nil signs nothing.
	Sign func(nonce []byte) ([]byte, error)
	// Connect adds to what CONNECT says, or replaces it.
	Connect map[string]any
	// Message is called for each message that arrives, by one goroutine, which it
	// must not hold up; it may keep data. May be nil.
	Message func(subject, reply string, data []byte)
}

// Leaf speaks the leaf protocol of NATS by hand: a gateway without a server of
// its own, of which thousands fit into one process, or a hacked one, because
// nothing on its side checks its rights. It is safe for concurrent use.
type Leaf struct {
	cfg  LeafConfig
	conn net.Conn
	r    *bufio.Reader
	done chan struct{} // closed when the connection has ended
	err  error         // why, once done

	write sync.Mutex

	mu    sync.Mutex
	pongs []chan struct{} // who waits for one, oldest first
	told  []string        // subjects that the server wants
	said  string          // the last -ERR
}

// DialLeaf connects, and returns once the server has let it in; else the error
// says what the server said.
func DialLeaf(ctx context.Context, cfg LeafConfig) (*Leaf, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, err
	}
	l := &Leaf{cfg: cfg, conn: conn, r: bufio.NewReader(conn), done: make(chan struct{})}
	if err := l.greet(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greet: %w", err)
	}
	go l.read()
	if err := l.Flush(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// greet reads INFO and answers CONNECT.
func (l *Leaf) greet() error {
	_ = l.conn.SetReadDeadline(time.Now().Add(leafWait))
	line, err := l.r.ReadString('\n')
	if err != nil {
		return err
	}
	_ = l.conn.SetReadDeadline(time.Time{})
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		return err
	}
	say := map[string]any{"server_id": "raw", "name": "raw", "version": "2.15.2", "headers": true}
	if l.cfg.JWT != "" {
		say["jwt"] = l.cfg.JWT
	}
	if l.cfg.Sign != nil {
		signature, err := l.cfg.Sign([]byte(info.Nonce))
		if err != nil {
			return err
		}
		say["sig"] = base64.RawURLEncoding.EncodeToString(signature)
	}
	for k, v := range l.cfg.Connect {
		say[k] = v
	}
	connect, err := json.Marshal(say)
	if err != nil {
		return err
	}
	return l.Send("CONNECT " + string(connect) + "\r\n")
}

// Send writes bytes as they are.
func (l *Leaf) Send(text string) error {
	l.write.Lock()
	defer l.write.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(leafWait))
	_, err := io.WriteString(l.conn, text)
	return err
}

// Publish sends a message.
func (l *Leaf) Publish(subject string, data []byte) error { return l.PublishMsg(subject, "", "", data) }

// PublishMsg sends a message with a reply subject and headers, either of which
// may be "". Headers are lines that end with CR LF.
func (l *Leaf) PublishMsg(subject, reply, headers string, data []byte) error {
	var b strings.Builder
	if reply != "" {
		reply += " "
	}
	if headers == "" {
		fmt.Fprintf(&b, "LMSG %s %s%d\r\n", subject, reply, len(data))
	} else {
		headers = "NATS/1.0\r\n" + headers + "\r\n"
		fmt.Fprintf(&b, "HMSG %s %s%d %d\r\n%s", subject, reply, len(headers), len(headers)+len(data), headers)
	}
	b.Write(data)
	b.WriteString("\r\n")
	return l.Send(b.String())
}

// Subscribe asks for a subject. The server says nothing to it.
func (l *Leaf) Subscribe(subject string) error { return l.Send("LS+ " + subject + "\r\n") }

// Flush returns when the server has taken all that was sent before, or with
// the reason why it hung up.
func (l *Leaf) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leafWait)
	defer cancel()
	pong := make(chan struct{})
	l.mu.Lock()
	l.pongs = append(l.pongs, pong)
	l.mu.Unlock()
	_ = l.Send("PING\r\n") // fails if it has hung up, and done tells why
	select {
	case <-pong:
		return nil
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the connection has ended.
func (l *Leaf) Done() <-chan struct{} { return l.done }

// Err tells why it has ended, once Done is closed.
func (l *Leaf) Err() error { return l.err }

// Told returns the subjects that the server wants of this end.
func (l *Leaf) Told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.told...)
}

// Close ends the connection and returns when nothing of it runs.
func (l *Leaf) Close() {
	_ = l.conn.Close()
	<-l.done
}

// read takes what arrives until the connection ends.
func (l *Leaf) read() {
	defer close(l.done)
	defer l.conn.Close()
	for {
		if err := l.next(); err != nil {
			if l.err = err; l.said != "" {
				l.err = fmt.Errorf("%w: the server said %s", err, l.said)
			}
			return
		}
	}
}

var errLine = errors.New("line not known")

// next takes a line and what belongs to it.
func (l *Leaf) next() error {
	line, err := l.r.ReadString('\n')
	if err != nil {
		return err
	}
	verb, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	args := strings.Fields(rest)
	switch strings.ToUpper(verb) {
	case "PING":
		return l.Send("PONG\r\n")
	case "PONG":
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.pongs) > 0 {
			close(l.pongs[0])
			l.pongs = l.pongs[1:]
		}
	case "LS+":
		l.mu.Lock()
		defer l.mu.Unlock()
		l.told = append(l.told, args[0])
	case "-ERR":
		l.said = rest
	case "LMSG", "HMSG":
		return l.message(args, strings.EqualFold(verb, "HMSG"))
	case "INFO", "LS-", "+OK":
	default:
		return fmt.Errorf("%w: %q", errLine, line)
	}
	return nil
}

// message reads the body of a message: subject, maybe a reply, the length of
// headers if it has some, and the length of all.
func (l *Leaf) message(args []string, headers bool) error {
	lengths := 1
	if headers {
		lengths = 2
	}
	if len(args) < 1+lengths {
		return errLine
	}
	n, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return errLine
	}
	head := 0
	if headers {
		if head, err = strconv.Atoi(args[len(args)-2]); err != nil || head > n {
			return errLine
		}
	}
	body := make([]byte, n+2)
	if _, err := io.ReadFull(l.r, body); err != nil {
		return err
	}
	reply := ""
	if len(args) == 2+lengths {
		reply = args[1]
	}
	if l.cfg.Message != nil {
		l.cfg.Message(args[0], reply, body[head:n])
	}
	return nil
}
