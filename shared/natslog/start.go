package natslog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

const (
	// readyTimeout is for the listeners alone; the store is recovered before.
	readyTimeout = 20 * time.Second
	readyPoll    = 50 * time.Millisecond
)

// Server is the part of an embedded nats-server that Await needs.
type Server interface {
	Start()
	ReadyForConnections(time.Duration) bool
}

// Await starts s, which logs to l, and returns once it accepts connections,
// or the reason when it cannot. The recovery of a large store takes its time
// and cannot be cancelled. The caller shuts s down after an error.
func (l *Logger) Await(ctx context.Context, s Server) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start nats server: %w", err)
	}
	s.Start() // not in a goroutine: it would still write after a shutdown
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for ready := false; ; {
		select {
		case err := <-l.fatal:
			return fmt.Errorf("start nats server: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("start nats server: %w", ctx.Err())
		default:
		}
		if ready { // and nothing fatal was said on the way
			return nil
		}
		ready = s.ReadyForConnections(readyPoll)
	}
}

// Listen splits a host:port into what nats-server options want, where a free
// port is -1. An address that is taken is an error, or, with fallback, becomes
// a free port of the same host.
func Listen(address string, fallback bool) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: %w", address, err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("listen address %q: port must be 1 to 65535, or 0 for a free one", address)
	}
	if port <= 0 {
		return host, -1, nil
	}
	probe, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return host, port, probe.Close()
	case fallback && errors.Is(err, syscall.EADDRINUSE):
		return host, -1, nil
	default:
		return "", 0, fmt.Errorf("listen on %s: %w", address, err)
	}
}

// Loopback tells whether host, a name or an address, is reachable from this
// machine only. An empty host means every interface.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
