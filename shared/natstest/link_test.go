package natstest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/shared/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo returns the address of a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func dial(t *testing.T, l *natstest.Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// exchange sends data and returns what comes back.
func exchange(c net.Conn, data []byte) ([]byte, error) {
	go func() { _, _ = c.Write(data) }()
	got := make([]byte, len(data))
	n, err := io.ReadFull(c, got)
	return got[:n], err
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

func TestLinkCarries(t *testing.T) {
	for name, cfg := range map[string]natstest.LinkConfig{
		"plain": {}, "slow and far": {Rate: 200_000, Delay: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Target = echo(t)
			l := natstest.StartLink(t, cfg)
			want, start := random(100_000), time.Now()
			got, err := exchange(dial(t, l), want)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			// A link is never faster than it says.
			least := 2 * cfg.Delay
			if cfg.Rate > 0 {
				least += time.Duration(len(want)) * time.Second / time.Duration(cfg.Rate)
			}
			if took := time.Since(start); took < least {
				t.Errorf("took %s, less than %s", took, least)
			}
			if sent, received := l.Bytes(); sent != 100_000 || received != 100_000 {
				t.Errorf("billed %d and %d bytes", sent, received)
			}
		})
	}
}

func TestLinkCutAndRestore(t *testing.T) {
	l := natstest.StartLink(t, natstest.LinkConfig{})
	l.SetTarget(echo(t))
	c := dial(t, l)
	if _, err := exchange(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	l.Cut()
	if _, err := exchange(c, []byte("hello")); err == nil {
		t.Error("the connection outlived the cut")
	}
	if c, err := net.Dial("tcp", l.Addr()); err == nil { // the reset may come before or after
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := exchange(c, []byte("hello")); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a cut link took a connection: %v", err)
		}
		_ = c.Close()
	}
	l.Restore()
	if _, err := exchange(dial(t, l), []byte("hello")); err != nil {
		t.Error(err)
	}
	if n := l.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestLinkCutAfter(t *testing.T) {
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t)})
	c := dial(t, l)
	if _, err := exchange(c, random(1000)); err != nil {
		t.Fatal(err)
	}
	l.CutAfter(50_001)
	if _, err := exchange(c, random(100_000)); err == nil {
		t.Error("the connection outlived the cut")
	}
	if sent, received := l.Bytes(); sent+received != 52_001 {
		t.Errorf("%d bytes crossed, want 52,001", sent+received)
	}
	if !l.IsCut() {
		t.Error("the link is not cut")
	}
}

func TestLinkStallAndHalfOpen(t *testing.T) {
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t)})
	c := dial(t, l)
	if _, err := exchange(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	quiet := func(why string) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: read %d bytes, %v", why, n, err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	l.Stall()
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	quiet("stalled")
	l.Resume()
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "later" {
		t.Errorf("after the stall: %q, %v", got, err)
	}
	l.HalfOpen()
	if _, err := c.Write([]byte("never")); err != nil {
		t.Fatal(err)
	}
	quiet("half open")
	if _, err := exchange(dial(t, l), []byte("hello")); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestJetStream(t *testing.T) {
	_, js := natstest.JetStream(t)
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Error(err)
	}
}
