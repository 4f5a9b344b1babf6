// Package clienttest runs an instance for tests of programs that use client:
// a real NATS server with JetStream, a log and the public subjects. It is
// imported by _test.go files only.
package clienttest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// startWait bounds the start of the server on a busy machine.
const startWait = 20 * time.Second

// Instance is a running hub without gateways.
type Instance struct {
	Root   string         // id of the root node
	Dir    string         // data directory with a run.json
	Client *client.Client // closed when the test ends
	Conn   *nats.Conn     // to answer more subjects
}

// Start runs an instance until the test ends.
func Start(t testing.TB) *Instance {
	t.Helper()
	i := &Instance{Root: "root0000", Dir: t.TempDir()}
	ns := startServer(t)
	i.Conn = connect(t, ns)
	running := client.Running{ID: i.Root, Listen: ns.Addr().String(), PID: 1}
	if err := running.Write(i.Dir); err != nil {
		t.Fatal(err)
	}
	log, archive := openLog(t, i.Conn)
	b := bus.New(bus.Config{
		Author: state.Hub, Root: i.Root, RootType: point.NodeRoot, State: state.New(),
		Log: log, Clock: &bus.Clock{}, Conn: i.Conn,
		History: func() *history.Archive { return archive },
	})
	run(t, log.Run)
	run(t, b.Serve)
	var err error
	if i.Client, err = client.Dial(t.Context(), i.Dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Client.Close)
	waitReady(t, i.Client)
	return i
}

func startServer(t testing.TB) *server.Server {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	if !ns.ReadyForConnections(startWait) {
		t.Fatal("nats server is not ready")
	}
	return ns
}

func connect(t testing.TB, ns *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func openLog(t testing.TB, nc *nats.Conn) (*journal.Log, *history.Archive) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := journal.Ensure(t.Context(), js, journal.LogStream(subject.StreamHub, subject.LogsOf(subject.StreamHub)))
	if err != nil {
		t.Fatal(err)
	}
	store := journal.NewStore(js, stream, subject.LogHub)
	clock := &bus.Clock{}
	log, err := journal.Open(t.Context(), journal.Config{Store: store, Author: state.Hub, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := journal.Ensure(t.Context(), js, history.Stream())
	if err != nil {
		t.Fatal(err)
	}
	archive, err := history.Open(t.Context(), history.Config{
		JetStream: js, Stream: chunks, Tail: 1 << 16,
		Sources: []history.Source{{Name: subject.StreamHub, Store: store, Author: func(string) string { return state.Hub }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return log, archive
}

// run runs f until the test ends, in the reverse order of the calls.
func run(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// waitReady asks until the instance answers.
func waitReady(t testing.TB, c *client.Client) {
	t.Helper()
	deadline := time.Now().Add(startWait)
	for {
		_, err := c.Status(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Answer replies to the requests on a subject with what answer returns.
func (i *Instance) Answer(t testing.TB, subj string, answer func(body json.RawMessage) (any, error)) {
	t.Helper()
	_, err := i.Conn.Subscribe(subj, func(m *nats.Msg) {
		_ = m.Respond(api.Encode(answer(m.Data))) // the asker's time-out tells
	})
	if err == nil {
		err = i.Conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}
