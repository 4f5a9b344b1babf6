package natsd_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/hub/internal/natsd"
)

// hub is a server with its keys and registry, as hub/run.go wires them.
type hub struct {
	keys  *cred.Keys
	nats  *natsd.Server
	fleet *fleet.Registry
	door  *nats.Conn // in DEVICES
	core  *nats.Conn
}

func startHub(t *testing.T, dir string) *hub {
	t.Helper()
	h := &hub{}
	var err error
	if h.keys, err = cred.Open(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	h.nats, err = natsd.Start(t.Context(), natsd.Config{
		Dir: filepath.Join(dir, "jetstream"), Listen: "127.0.0.1:0", Leaf: "127.0.0.1:0",
		Keys: h.keys, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.core, h.door = h.connect(t, cred.CORE), h.connect(t, cred.DEVICES)
	js, err := jetstream.New(h.core)
	if err != nil {
		t.Fatal(err)
	}
	h.fleet, err = fleet.Open(t.Context(), fleet.Config{
		JetStream: js, Issuer: h.keys, Server: h.nats, LeafURL: "nats-leaf://" + h.nats.LeafAddr(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

func (h *hub) close() {
	h.core.Close()
	h.door.Close()
	h.nats.Close()
}

func (h *hub) connect(t *testing.T, account string) *nats.Conn {
	t.Helper()
	nc, err := h.nats.Connect(account, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// device is what a gateway holds after enrolling over HTTP.
type device struct {
	id, token, jwt string
	key            nkeys.KeyPair
	tries          atomic.Int64 // how often it signed in
}

func (h *hub) enroll(t *testing.T, id string) *device {
	t.Helper()
	if err := h.fleet.Add(t.Context(), fleet.Device{ID: id, Name: id}); err != nil {
		t.Fatal(err)
	}
	token, err := h.fleet.Token(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey()
	signature, err := key.Sign(fleet.EnrollMessage(token, public))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(fleet.Handler(h.fleet, zerolog.Nop()))
	defer web.Close()
	body, _ := json.Marshal(fleet.EnrollRequest{
		Token: token, PublicKey: public, Signature: base64.RawURLEncoding.EncodeToString(signature),
	})
	resp, err := http.Post(web.URL+fleet.EnrollPath, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply fleet.EnrollReply
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("enrol: status %d, %v", resp.StatusCode, err)
	}
	if reply.ID != id {
		t.Fatalf("enrolled as %q, want %q", reply.ID, id)
	}
	return &device{id: id, token: token, jwt: reply.JWT, key: key}
}

func (d *device) sign(nonce []byte) (string, []byte, error) {
	d.tries.Add(1)
	signature, err := d.key.Sign(nonce)
	return d.jwt, signature, err
}

// run starts an unmodified nats-server with a leaf to the hub.
func (d *device) run(t *testing.T, h *hub) (*server.Server, *nats.Conn) {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		ServerName: d.id + "-box", DontListen: true, NoSigs: true, NoLog: true,
		LeafNode: server.LeafNodeOpts{
			ReconnectInterval: 50 * time.Millisecond,
			Remotes: []*server.RemoteLeafOpts{{
				URLs:        []*url.URL{{Scheme: "nats-leaf", Host: h.nats.LeafAddr()}},
				SignatureCB: d.sign,
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return ns, nc
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
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
}

// next returns the subject of the next message.
func next(t *testing.T, sub *nats.Subscription) string {
	t.Helper()
	msg, err := sub.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatalf("on %s: %v", sub.Subject, err)
	}
	return msg.Subject
}

func TestDevice(t *testing.T) {
	h := startHub(t, t.TempDir())
	a, b := h.enroll(t, "gw-a"), h.enroll(t, "gw-b")
	up := subscribe(t, h.door, "from.>")
	hubSecret := subscribe(t, h.door, "$JS.>")
	sysSecret := subscribe(t, h.connect(t, cred.SYS), "$SYS.REQ.SERVER.PING")

	_, ncB := b.run(t, h)
	downB := subscribe(t, ncB, "to.gw-b.>")
	eventually(t, "b at hub", func() bool { return h.nats.Interest(cred.DEVICES, "to.gw-b.x") })
	nsA, ncA := a.run(t, h)
	all := subscribe(t, ncA, ">") // whatever the hub lets through
	eventually(t, "a at hub", func() bool { return h.nats.Interest(cred.DEVICES, "to.gw-a.x") })
	eventually(t, "hub at a", func() bool { return nsA.GlobalAccount().SubscriptionInterest("from.gw-a.x") })

	for _, subject := range []string{"from.gw-b.forged", "to.gw-b.forged", "$JS.API.INFO", "$SYS.REQ.SERVER.PING", "p.x.y.0", "from.gw-a.x"} {
		publish(t, ncA, subject)
		next(t, all) // its own copy, so that what follows came down
	}
	if got := next(t, up); got != "from.gw-a.x" {
		t.Errorf("first at the hub: got %q, want from.gw-a.x", got)
	}
	for _, subject := range []string{"other.x", "from.gw-a.echo", "to.gw-b.x", "to.gw-a.x"} {
		publish(t, h.door, subject)
	}
	if got := next(t, all); got != "to.gw-a.x" {
		t.Errorf("first down at a: got %q, want to.gw-a.x", got)
	}
	if got := next(t, downB); got != "to.gw-b.x" {
		t.Errorf("first down at b: got %q, want to.gw-b.x", got)
	}
	for _, sub := range []*nats.Subscription{hubSecret, sysSecret} {
		if n, _, _ := sub.Pending(); n != 0 {
			t.Errorf("%d messages reached %s", n, sub.Subject)
		}
	}

	for _, leaf := range h.nats.Leafs() {
		public, _ := map[string]*device{a.id: a, b.id: b}[leaf.ID].key.PublicKey()
		if leaf.PublicKey != public || leaf.ServerName != leaf.ID+"-box" || leaf.RemoteAddr == "" {
			t.Errorf("unexpected leaf %+v", leaf)
		}
	}
	tries := a.tries.Load()
	h.nats.KickDevice(a.id)
	eventually(t, "kicked and back", func() bool { return a.tries.Load() > tries && len(h.nats.Leafs()) == 2 })
}

func TestJetStreamOnlyInCore(t *testing.T) {
	h := startHub(t, t.TempDir())
	for _, account := range []string{cred.DEVICES, cred.PEOPLE} {
		js, err := jetstream.New(h.connect(t, account))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.AccountInfo(t.Context()); !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			t.Errorf("JetStream in %s: got %v, want not enabled", account, err)
		}
	}
}

func TestRevocation(t *testing.T) {
	dir := t.TempDir()
	h := startHub(t, dir)
	a, b := h.enroll(t, "gw-a"), h.enroll(t, "gw-b")
	nsA, _ := a.run(t, h)
	nsB, _ := b.run(t, h)
	eventually(t, "both leafs", func() bool { return len(h.nats.Leafs()) == 2 })
	tries := b.tries.Load()

	if err := h.fleet.Revoke(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	// Closed when Revoke returns, and every attempt since is refused.
	if leafs := h.nats.Leafs(); len(leafs) != 1 || leafs[0].ID != b.id {
		t.Errorf("after the revocation: got %+v, want gw-b alone", leafs)
	}
	eventually(t, "a is cut", func() bool { return nsA.NumLeafNodes() == 0 })
	if b.tries.Load() != tries {
		t.Error("the revocation of a closed b")
	}
	nsA.Shutdown()
	nsB.Shutdown()
	h.close()

	h = startHub(t, dir)
	a.tries.Store(0)
	a.run(t, h)
	b.run(t, h)
	eventually(t, "b is back after a restart", func() bool { return len(h.nats.Leafs()) == 1 })
	eventually(t, "a has tried", func() bool { return a.tries.Load() > 2 })
	for _, leaf := range h.nats.Leafs() {
		if leaf.ID == a.id {
			t.Error("a revoked gateway got in after a restart")
		}
	}
}

func TestRegistryIsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	h := startHub(t, dir)
	a := h.enroll(t, "gw-a")
	if err := h.fleet.Revoke(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	h.close()
	// As after a restore of older keys.
	if err := os.Remove(filepath.Join(dir, "keys", "revocations.json")); err != nil {
		t.Fatal(err)
	}

	h = startHub(t, dir)
	public, _ := a.key.PublicKey()
	if _, err := h.keys.IssueDevice(a.id, public, 0); !errors.Is(err, cred.ErrRevoked) {
		t.Errorf("issue: got %v, want ErrRevoked", err)
	}
	a.tries.Store(0)
	a.run(t, h)
	eventually(t, "a has tried", func() bool { return a.tries.Load() > 2 })
	if n := len(h.nats.Leafs()); n != 0 {
		t.Errorf("got %d leafs, want none", n)
	}
}

func TestLocalCreds(t *testing.T) {
	h := startHub(t, t.TempDir())
	content, err := h.keys.LocalCreds()
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 8)
	nc, err := nats.Connect("nats://"+h.nats.ListenAddr(), nats.UserCredentialBytes(content),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	service := h.connect(t, cred.PEOPLE)
	sub := subscribe(t, service, ">")
	for _, subject := range []string{"up.x", "$JS.API.INFO", "from.gw.x", "p.n.t.0"} {
		publish(t, nc, subject)
	}
	if got := next(t, sub); got != "p.n.t.0" {
		t.Errorf("got %q first, want p.n.t.0: the rest must be refused", got)
	}
	for range 3 {
		select {
		case err := <-refused:
			if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
				t.Errorf("got %v, want a permissions violation", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a publish was not refused")
		}
	}
	if _, err := nats.Connect("nats://"+h.nats.ListenAddr(), nats.Timeout(2*time.Second)); err == nil {
		t.Error("connected without a credential")
	}
	user, err := h.keys.ServiceUser(cred.CORE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Connect("nats://"+h.nats.ListenAddr(), nats.UserJWT(user.JWT, user.Sign)); err == nil {
		t.Error("a service user connected from outside the process")
	}
}

func TestListen(t *testing.T) {
	keys, err := cred.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	start := func(edit func(*natsd.Config)) (*natsd.Server, error) {
		cfg := natsd.Config{Dir: t.TempDir(), Keys: keys}
		edit(&cfg)
		s, err := natsd.Start(t.Context(), cfg)
		if err == nil {
			t.Cleanup(s.Close)
		}
		return s, err
	}
	if _, err := start(func(c *natsd.Config) { c.Listen = taken.Addr().String() }); err == nil {
		t.Error("started on an address that is taken")
	}
	s, err := start(func(c *natsd.Config) { c.Listen, c.ListenFallback = taken.Addr().String(), true })
	if err != nil {
		t.Fatal(err)
	}
	if s.ListenAddr() == taken.Addr().String() || s.ListenAddr() == "" || s.LeafAddr() != "" {
		t.Errorf("listens on %q and %q", s.ListenAddr(), s.LeafAddr())
	}
	if _, err := start(func(c *natsd.Config) { c.Leaf = "0.0.0.0:0" }); !errors.Is(err, natsd.ErrPlainLeaf) {
		t.Errorf("plain leaf beyond loopback: got %v, want ErrPlainLeaf", err)
	}
	if s, err = start(func(c *natsd.Config) { c.Leaf, c.TLS = "127.0.0.1:0", &tls.Config{} }); err != nil {
		t.Fatal(err)
	}
	if s.ListenAddr() != "" || s.LeafAddr() == "" {
		t.Errorf("listens on %q and %q", s.ListenAddr(), s.LeafAddr())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := natsd.Start(ctx, natsd.Config{Dir: t.TempDir(), Keys: keys}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: got %v", err)
	}
}

// TestReopenStore: streams are there again, and take messages.
func TestReopenStore(t *testing.T) {
	h := startHub(t, t.TempDir())
	js, err := jetstream.New(h.core)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		ack, err := js.Publish(t.Context(), "s", nil)
		if err != nil || ack.Sequence != i+1 {
			t.Fatalf("message %d: %+v, %v", i+1, ack, err)
		}
		if err := h.nats.ReopenStore(); err != nil {
			t.Fatal(err)
		}
	}
}
