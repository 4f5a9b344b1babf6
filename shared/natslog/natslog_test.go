package natslog_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/natslog"
)

func TestLevels(t *testing.T) {
	var out bytes.Buffer
	l := natslog.New(zerolog.New(&out))
	l.Debugf("secret %s", "x")
	l.Tracef("secret %s", "x")
	l.Noticef("listening on %d", 1)
	l.Warnf("slow %s", "a")
	l.Errorf("broken\n")
	l.Fatalf("dead")
	want := `{"level":"debug","component":"nats","text":"listening on 1","message":"nats server"}
{"level":"warn","component":"nats","text":"slow a","message":"nats server"}
{"level":"error","component":"nats","text":"broken","message":"nats server"}
{"level":"error","component":"nats","text":"dead","message":"nats server"}
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestFlood(t *testing.T) {
	var out bytes.Buffer
	l := natslog.New(zerolog.New(&out))
	for range 1000 {
		l.Errorf("authorization violation")
	}
	if got := strings.Count(out.String(), "\n"); got != 20 {
		t.Errorf("got %d lines, want 20", got)
	}
}

// fake is a server that becomes ready, or fails, or neither.
type fake struct {
	start func()
	ready bool
}

func (f *fake) Start()                                 { f.start() }
func (f *fake) ReadyForConnections(time.Duration) bool { return f.ready }

func TestAwait(t *testing.T) {
	l := natslog.New(zerolog.Nop())
	if err := l.Await(t.Context(), &fake{start: func() {}, ready: true}); err != nil {
		t.Errorf("ready: got %v", err)
	}
	err := l.Await(t.Context(), &fake{start: func() { l.Fatalf("no port %d", 7) }})
	if err == nil || !strings.Contains(err.Error(), "no port 7") {
		t.Errorf("fatal: got %v, want the reason", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = l.Await(ctx, &fake{start: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tc := range []struct {
		address  string
		fallback bool
		port     int
		ok       bool
	}{
		{"127.0.0.1:0", false, -1, true},
		{"127.0.0.1:-1", false, -1, true},
		{taken.Addr().String(), true, -1, true},
		{taken.Addr().String(), false, 0, false},
		{"192.0.2.1:4222", true, 0, false}, // not an address of this machine
		{"127.0.0.1", false, 0, false},
		{"127.0.0.1:nats", false, 0, false},
		{"127.0.0.1:70000", false, 0, false},
	} {
		host, port, err := natslog.Listen(tc.address, tc.fallback)
		if (err == nil) != tc.ok || port != tc.port || tc.ok && host != "127.0.0.1" {
			t.Errorf("%s fallback %v: got %q %d, %v", tc.address, tc.fallback, host, port, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3": true, "::1": true, "localhost": true,
		"": false, "0.0.0.0": false, "::": false, "192.0.2.1": false, "localhost.example.com": false,
	} {
		if got := natslog.Loopback(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}
