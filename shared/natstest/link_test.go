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

func TestLinkJitterKeepsOrder(t *testing.T) {
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t), Rate: 1_000_000, Jitter: 20 * time.Millisecond, Seed: 1})
	want := random(50_000)
	if got, err := exchange(dial(t, l), want); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestLinkForgetsIdleConnections(t *testing.T) {
	// Ten minutes, in 60 ms.
	const idle = 60 * time.Millisecond
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t), NATTimeout: 10 * time.Minute, Scale: 10_000})
	c := dial(t, l)
	if _, err := exchange(c, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(idle)
	if _, err := c.Write([]byte("never")); err != nil {
		t.Errorf("the near end was told: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if sent, _ := l.Bytes(); sent != 5 {
		t.Errorf("%d bytes crossed, want 5", sent)
	}
	if _, err := exchange(dial(t, l), []byte("hello")); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestLinkScale(t *testing.T) {
	// An hour each way, and 100,000 bytes at 100 B/s: 17 minutes each way.
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t), Rate: 100, Delay: time.Hour, Scale: 100_000})
	want, start := random(100_000), time.Now()
	if got, err := exchange(dial(t, l), want); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if least := 72*time.Millisecond + 10*time.Millisecond; time.Since(start) < least {
		t.Errorf("took %s, less than %s", time.Since(start), least)
	}
}

func TestLinkBill(t *testing.T) {
	const header = 52
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t)})
	c := dial(t, l)
	check := func(what string, sent, received uint64) {
		t.Helper()
		if up, down := l.Bill(); up != sent || down != received {
			t.Errorf("%s: billed %d and %d, want %d and %d", what, up, down, sent, received)
		}
	}
	// Each exchange is a segment each way; every second one is acked alone.
	sent, received := uint64(60+header), uint64(60)
	for i := range 4 {
		if _, err := exchange(c, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		sent, received = sent+5+header, received+5+header
		if i%2 == 1 {
			sent, received = sent+header, received+header
		}
		check("exchange", sent, received)
	}
	// A close is a FIN and an ack each way.
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the close did not come back: %v", err)
	}
	check("close", sent+2*header, received+2*header)
}

func TestLinkBillOfSegments(t *testing.T) {
	l := natstest.StartLink(t, natstest.LinkConfig{Target: echo(t)})
	if _, err := exchange(dial(t, l), random(140_000)); err != nil {
		t.Fatal(err)
	}
	// At least 100 segments and 50 acks each way; pieces may end in short ones.
	up, down := l.Bill()
	if least := uint64(140_000 + 150*52); up < least || down < least {
		t.Errorf("billed %d and %d, less than %d", up, down, least)
	}
	if sent, received := l.Bytes(); sent != 140_000 || received != 140_000 {
		t.Errorf("%d and %d bytes crossed", sent, received)
	}
}
