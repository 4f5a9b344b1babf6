package leaf_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/shared/journal"
)

func start(t *testing.T, cfg leaf.Config) *leaf.Server {
	t.Helper()
	if cfg.Log.GetLevel() != zerolog.Disabled {
		cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	}
	s, err := leaf.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.OpenStore(); err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, s *leaf.Server, account string) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(account, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func subscribe(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

func publish(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	if err := nc.Publish(subject, []byte(subject)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, sub *nats.Subscription) string {
	t.Helper()
	msg, err := sub.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatalf("on %s: %v", sub.Subject, err)
	}
	return msg.Subject
}

func pending(t *testing.T, sub *nats.Subscription) int {
	t.Helper()
	n, _, err := sub.Pending()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func stream(t *testing.T, nc *nats.Conn, options ...jetstream.StreamConfig) (jetstream.JetStream, error) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range options {
		if _, err := js.CreateStream(t.Context(), cfg); err != nil {
			return js, err
		}
	}
	_, err = js.AccountInfo(t.Context())
	return js, err
}

// TestOpenChunks: history opens after the logs, and again with them.
func TestOpenChunks(t *testing.T) {
	cfg := leaf.Config{Dir: t.TempDir(), NodeID: "gw-a"}
	written := func(s *leaf.Server, account string) uint64 {
		t.Helper()
		js, err := stream(t, connect(t, s, account), jetstream.StreamConfig{Name: account, Subjects: []string{"data"}})
		if err != nil {
			t.Fatalf("JetStream in %s: %v", account, err)
		}
		ack, err := js.Publish(t.Context(), "data", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	for n := range uint64(2) {
		s := start(t, cfg)
		if got := written(s, leaf.STORE); got != 2*n+1 {
			t.Errorf("message %d, want %d", got, 2*n+1)
		}
		if _, err := stream(t, connect(t, s, leaf.CHUNKS)); !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			t.Errorf("history before it is opened: %v", err)
		}
		if err := s.OpenChunks(); err != nil {
			t.Fatal(err)
		}
		written(s, leaf.CHUNKS)
		if err := s.ReopenStore(); err != nil {
			t.Fatal(err)
		}
		for _, account := range []string{leaf.STORE, leaf.CHUNKS} {
			if got := written(s, account); got != 2*n+2 {
				t.Errorf("%s: message %d after it was opened again, want %d", account, got, 2*n+2)
			}
		}
		s.Close()
	}
}

func TestAccounts(t *testing.T) {
	cfg := leaf.Config{Dir: t.TempDir(), NodeID: "gw-a", Listen: "127.0.0.1:0"}
	s := start(t, cfg)
	store := connect(t, s, leaf.STORE)
	js, err := stream(t, store, jetstream.StreamConfig{Name: "LOG", Subjects: []string{"log"}})
	if err != nil {
		t.Fatalf("JetStream in STORE: %v", err)
	}
	if _, err := js.Publish(t.Context(), "log", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := jetstream.NewWithDomain(store, "gw-a"); err != nil {
		t.Fatal(err)
	}
	program, err := nats.Connect("nats://" + s.ListenAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	system := subscribe(t, program, "$SYS.>")

	for name, nc := range map[string]*nats.Conn{
		"program": program, leaf.LOCAL: connect(t, s, leaf.LOCAL), leaf.UPLINK: connect(t, s, leaf.UPLINK),
	} {
		if _, err := stream(t, nc); !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			t.Errorf("JetStream in %s: got %v, want not enabled", name, err)
		}
		for _, subject := range []string{
			"$JS.API.STREAM.PURGE.LOG", "$JS.API.STREAM.DELETE.LOG", "$JS.gw-a.API.STREAM.PURGE.LOG",
			"$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.X", "$SYS.REQ.SERVER.PING.VARZ",
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if msg, err := nc.RequestWithContext(ctx, subject, nil); err == nil && !bytes.Contains(msg.Data, []byte(`"err_code":10039`)) {
				t.Errorf("%s: %s was answered: %s", name, subject, msg.Data)
			}
			cancel()
		}
		publish(t, nc, "log")
	}
	for range pending(t, system) { // its own requests, in its own account
		if got := next(t, system); got != "$SYS.REQ.SERVER.PING.VARZ" {
			t.Errorf("a program hears %s", got)
		}
	}
	info, err := js.Stream(t.Context(), "LOG")
	if err != nil {
		t.Fatal(err)
	}
	if n := info.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the log has %d messages, want 1", n)
	}

	for _, user := range []string{leaf.STORE, leaf.CHUNKS, leaf.UPLINK, leaf.LOCAL, "$G", "$SYS"} {
		if nc, err := nats.Connect("nats://"+s.ListenAddr(), nats.UserInfo(user, "x")); err == nil {
			nc.Close()
			t.Errorf("connected as %s", user)
		}
	}
	if _, err := s.Connect("$SYS", "test"); err == nil {
		t.Error("connected to the system account")
	}

	program.Close()
	store.Close()
	s.Close()
	s = start(t, cfg)
	js, err = stream(t, connect(t, s, leaf.STORE))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := js.Stream(t.Context(), "LOG"); err != nil || info.CachedInfo().State.Msgs != 1 {
		t.Errorf("the log did not survive a restart: %v", err)
	}
}

func TestInterest(t *testing.T) {
	s := start(t, leaf.Config{Dir: t.TempDir(), NodeID: "gw-a", Listen: "127.0.0.1:0"})
	if s.Interest("up.x.y") {
		t.Error("interest before anybody listens")
	}
	subscribe(t, connect(t, s, leaf.LOCAL), "up.>")
	if !s.Interest("up.x.y") || s.Interest("down.x") {
		t.Error("interest does not follow the subscription")
	}
}

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := leaf.Config{Dir: t.TempDir(), NodeID: "gw-a", Listen: taken.Addr().String()}
	if _, err := leaf.Start(t.Context(), cfg); err == nil {
		t.Error("started on an address that is taken")
	}
	cfg.ListenFallback = true
	s := start(t, cfg)
	if addr := s.ListenAddr(); addr == "" || addr == cfg.Listen {
		t.Errorf("listens on %q, want another port", addr)
	}
	if _, err := leaf.Start(t.Context(), leaf.Config{Dir: t.TempDir(), Listen: "0.0.0.0:0"}); !errors.Is(err, leaf.ErrOpenListen) {
		t.Errorf("open to others: got %v, want ErrOpenListen", err)
	}
	if addr := start(t, leaf.Config{Dir: t.TempDir()}).ListenAddr(); addr != "" {
		t.Errorf("listens on %q, want nowhere", addr)
	}

	s = start(t, leaf.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", User: "plc", Password: "s3cret"})
	if _, err := nats.Connect("nats://" + s.ListenAddr()); err == nil {
		t.Error("connected without the password")
	}
	nc, err := nats.Connect("nats://"+s.ListenAddr(), nats.UserInfo("plc", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard := subscribe(t, connect(t, s, leaf.LOCAL), "p.>")
	publish(t, nc, "p.n.t.0")
	next(t, heard)
}

// gateway is a credential whose JWT can be swapped.
type gateway struct {
	key nkeys.KeyPair
	jwt atomic.Value
	n   atomic.Int64
}

func (g *gateway) Sign(nonce []byte) (string, []byte, error) {
	g.n.Add(1)
	signature, err := g.key.Sign(nonce)
	return g.jwt.Load().(string), signature, err
}

func newGateway(t *testing.T, h *hub) *gateway {
	g := &gateway{key: create(t, nkeys.CreateUser)}
	g.jwt.Store(h.issue(t, g.key, "gw-a", true))
	return g
}

func TestLink(t *testing.T) {
	h := startHub(t, nil)
	g := newGateway(t, h)
	s := start(t, leaf.Config{
		Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1", Listen: "127.0.0.1:0",
		LeafURL: "nats-leaf://" + h.addr, Sign: g.Sign,
	})
	uplink, local := connect(t, s, leaf.UPLINK), connect(t, s, leaf.LOCAL)
	down := subscribe(t, uplink, "to.gw-a.>")
	everything := subscribe(t, local, ">")
	eventually(t, "leaf", func() bool { return h.ns.NumLeafNodes() == 1 })
	if s.Linked("from.gw-a.hello") {
		t.Error("linked before anybody at the hub listens")
	}
	up := subscribe(t, h.door, "from.*.>")
	eventually(t, "link", func() bool { return s.Linked("from.gw-a.hello") })

	publish(t, local, "from.gw-a.local") // stays in LOCAL
	publish(t, uplink, "from.gw-b.x")    // no right
	publish(t, uplink, "from.gw-a.x")
	if got := next(t, up); got != "from.gw-a.x" {
		t.Errorf("first at the hub: got %s, want from.gw-a.x", got)
	}
	eventually(t, "interest at the hub", func() bool {
		account, err := h.ns.LookupAccount(public(t, h.account))
		return err == nil && account.SubscriptionInterest("to.gw-a.x")
	})
	publish(t, h.door, "to.gw-b.x")
	publish(t, h.door, "to.gw-a.x")
	if got := next(t, down); got != "to.gw-a.x" {
		t.Errorf("first at the gateway: got %s, want to.gw-a.x", got)
	}
	if got := next(t, everything); got != "from.gw-a.local" || pending(t, everything) != 0 {
		t.Errorf("a program hears the link: %s", got)
	}
	if tx, rx := s.Bytes(); tx == 0 || rx == 0 {
		t.Errorf("counted %d bytes up, %d down", tx, rx)
	}

	// A renewed JWT is used at the next connection.
	calls := g.n.Load()
	g.jwt.Store(h.issue(t, g.key, "gw-a", true))
	s.CutLeaf()
	eventually(t, "link again", func() bool { return g.n.Load() > calls && s.Linked("from.gw-a.hello") })
	publish(t, uplink, "from.gw-a.y")
	if got := next(t, up); got != "from.gw-a.y" {
		t.Errorf("after the cut: got %s, want from.gw-a.y", got)
	}

	h.door.Close()
	h.ns.Shutdown()
	eventually(t, "link down", func() bool { return !s.Linked("from.gw-a.hello") })
}

func TestLinkTLS(t *testing.T) {
	web := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	h := startHub(t, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	subscribe(t, h.door, "from.>")

	g := newGateway(t, h)
	s := start(t, leaf.Config{
		Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1",
		LeafURL: "tls://" + h.addr, RootCAs: roots, Sign: g.Sign,
	})
	eventually(t, "link over TLS", func() bool { return s.Linked("from.gw-a.hello") })
	s.Close()

	// Demanded, even if something in the way says that there is no TLS.
	plain := startHub(t, nil)
	g.n.Store(0)
	log := &lines{want: "TLS"}
	s, err := leaf.Start(t.Context(), leaf.Config{
		Dir: t.TempDir(), NodeID: "gw-a", ServerName: "gw-a-1",
		LeafURL: "nats-leaf://" + plain.addr, RootCAs: roots, Sign: g.Sign, Log: zerolog.New(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "a refusal in the log", log.seen)
	if g.n.Load() != 0 || plain.ns.NumLeafNodes() != 0 {
		t.Error("signed in without TLS")
	}
}

func TestRemoteRefuses(t *testing.T) {
	sign := func([]byte) (string, []byte, error) { return "", nil, nil }
	for name, cfg := range map[string]leaf.Config{
		"scheme":      {NodeID: "a", ServerName: "a-1", Sign: sign, LeafURL: "http://127.0.0.1:1"},
		"address":     {NodeID: "a", ServerName: "a-1", Sign: sign, LeafURL: "127.0.0.1"},
		"server name": {NodeID: "a", Sign: sign, LeafURL: "tls://127.0.0.1:1"},
		"sign":        {NodeID: "a", ServerName: "a-1", LeafURL: "tls://127.0.0.1:1"},
	} {
		cfg.Dir = t.TempDir()
		if s, err := leaf.Start(t.Context(), cfg); err == nil {
			s.Close()
			t.Errorf("%s: started", name)
		}
	}
}

// TestReopenStore: a disk that filled up under a stream leaves it dead, also
// once there is space. A guard opens the store again.
func TestReopenStore(t *testing.T) {
	t.Parallel() // it waits for two appends that nothing answers
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small disk cannot be mounted here (it needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := start(t, leaf.Config{Dir: dir, NodeID: "gw-a"})
	js, err := jetstream.New(connect(t, s, leaf.STORE))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := journal.Ensure(t.Context(), js, journal.LogStream("EDGE", "log.edge.*"))
	if err != nil {
		t.Fatal(err)
	}
	reopened := 0
	guard := journal.Guard{
		Free:   func() (free, reserve uint64) { return 1, 0 }, // somebody else is faster
		Full:   func() {},
		Revive: func() error { reopened++; return s.ReopenStore() },
	}
	store := guard.Of(journal.NewStore(js, stream, "log.edge.gw-a"))
	seq, n := uint64(0), 0
	for ; ; n++ {
		if n > 1000 {
			t.Fatal("the disk does not fill up")
		}
		next, err := store.Append(t.Context(), make([]byte, 100<<10), seq)
		if err != nil {
			t.Logf("%d messages, then: %v", n, err)
			break
		}
		seq = next
	}
	// There is space again.
	if err := syscall.Mount("", dir, "tmpfs", syscall.MS_REMOUNT, "size=48m"); err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		if tries > 4 {
			t.Fatalf("no message is stored after %d tries, the store was opened again %d times", tries, reopened)
		}
		if last, err := store.Last(t.Context()); err == nil {
			seq = last.Seq // the message of a failed try may be there
		}
		if _, err := store.Append(t.Context(), []byte("after"), seq); err == nil {
			t.Logf("stored after %d failed tries; the store was opened again %d times", tries, reopened)
			break
		} else {
			t.Logf("try %d: %v", tries, err)
		}
	}
	if last, err := store.Last(t.Context()); err != nil || string(last.Data) != "after" || last.Seq < uint64(n) {
		t.Errorf("the last of %d messages is %d with %d bytes, %v", n, last.Seq, len(last.Data), err)
	}
}
