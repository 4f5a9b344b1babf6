package daemon_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/daemon"
)

// TestWatchdog counts: systemd is told as often as something goes on.
func TestWatchdog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "3000")
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	alive := func() error {
		switch calls++; {
		case calls == 9:
			cancel()
		case calls > 9: // a tick that came together with the end
			return errors.New("over")
		}
		if calls%3 == 0 {
			return errors.New("stands still")
		}
		return nil
	}
	if err := daemon.Watchdog(alive, zerolog.Nop())(ctx); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat([]string{"READY=1"}, slices.Repeat([]string{"WATCHDOG=1"}, 6), []string{"STOPPING=1"})
	for i, w := range want {
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != w {
			t.Fatalf("message %d: got %q, %v, want %q", i, buf[:n], err, w)
		}
	}
}
