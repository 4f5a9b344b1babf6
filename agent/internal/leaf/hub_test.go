package leaf_test

import (
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// hub is an nats-server in operator mode with one account for gateways, as
// hub/internal/natsd runs it.
type hub struct {
	ns      *server.Server
	addr    string
	web     string // the same for WebSockets
	account nkeys.KeyPair
	door    *nats.Conn
}

func public(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	p, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func create(t *testing.T, f func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func startHub(t *testing.T, tlsConfig *tls.Config) *hub {
	t.Helper()
	operator := create(t, nkeys.CreateOperator)
	h := &hub{account: create(t, nkeys.CreateAccount)}
	claims := jwt.NewAccountClaims(public(t, h.account))
	token, err := claims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	operatorClaims := jwt.NewOperatorClaims(public(t, operator))
	if _, err := operatorClaims.Encode(operator); err != nil {
		t.Fatal(err)
	}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(claims.Subject, token); err != nil {
		t.Fatal(err)
	}
	opts := &server.Options{
		ServerName: "hub", DontListen: true, NoSigs: true, NoLog: true, MaxClosedClients: 16,
		TrustedOperators: []*jwt.OperatorClaims{operatorClaims},
		AccountResolver:  resolver,
		LeafNode: server.LeafNodeOpts{
			Host: "127.0.0.1", Port: -1, AuthTimeout: 2, NoAdvertise: true,
			IsolateLeafnodeInterest: true, TLSConfig: tlsConfig, TLSTimeout: 20,
		},
		Websocket: server.WebsocketOpts{
			Host: "127.0.0.1", Port: -1, NoTLS: tlsConfig == nil, TLSConfig: tlsConfig, HandshakeTimeout: 20 * time.Second,
		},
	}
	if h.ns, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	h.ns.Start()
	t.Cleanup(func() { h.ns.Shutdown(); h.ns.WaitForShutdown() })
	if !h.ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("hub is not ready")
	}
	h.addr = net.JoinHostPort(opts.LeafNode.Host, strconv.Itoa(opts.LeafNode.Port))
	h.web = net.JoinHostPort(opts.Websocket.Host, strconv.Itoa(opts.Websocket.Port))

	user := create(t, nkeys.CreateUser)
	all := h.issue(t, user, "door", false)
	h.door, err = nats.Connect("", nats.InProcessServer(h.ns),
		nats.UserJWT(func() (string, error) { return all, nil }, user.Sign))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.door.Close)
	return h
}

// issue makes a JWT with the rights of a gateway, or with all.
func (h *hub) issue(t *testing.T, user nkeys.KeyPair, id string, device bool) string {
	t.Helper()
	claims := jwt.NewUserClaims(public(t, user))
	claims.Name = id
	if device {
		claims.Pub.Allow.Add("from." + id + ".>")
		claims.Sub.Allow.Add("to." + id + ".>")
		claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeLeafnode, jwt.ConnectionTypeLeafnodeWS)
	}
	token, err := claims.Encode(h.account)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
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
