// Package leaf owns the gateway's embedded nats-server: the leaf connection to
// the hub, the JetStream store, and the listener for local programs.
//
// Four accounts keep them apart. UPLINK holds the leaf remote and nothing
// else, so that no local subscription travels over the radio; STORE holds
// JetStream, so that no local program can delete the log; CHUNKS holds the
// history of years, which opens later; LOCAL is where programs connect. All but
// that are entered in process only. What is said
// on the link belongs to uplink and downlink, who the gateway is to identity,
// the socket to the hub to carrier.
package leaf

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/carrier"
	"github.com/sapflow/sapflow/shared/natslog"
)

// The accounts of the gateway.
const (
	UPLINK = "UPLINK" // the leaf remote; no JetStream
	STORE  = "STORE"  // JetStream with the logs
	CHUNKS = "CHUNKS" // JetStream with history
	LOCAL  = "LOCAL"  // programs; no JetStream
)

const (
	// maxPayload is the largest message of a program, and of a chunk: eight
	// values of 64 KB may be of the same time. What goes to the hub is a quarter
	// of it, the limit in the hub's JWT; above that a message would close the leaf.
	maxPayload = 1 << 20
	// reconnect is how soon the server asks the carrier for a new connection;
	// when there is one the carrier decides.
	reconnect = 20 * time.Millisecond
	// forever is how long the server waits for the carrier.
	forever = 365 * 24 * time.Hour
	// slowLink bounds what the server waits for once there is a connection.
	slowLink = 20 * time.Second
	// writeDeadline keeps the leaf while the radio stalls; a link that is
	// really gone is found by the protocol.
	writeDeadline = time.Minute
	// pingInterval keeps the connection in the tables of a cellular network;
	// that it lives is shown by the empty frames of the link.
	pingInterval = 5 * time.Minute
	// closedClients is how many connections that ended are remembered: the
	// default of 10,000 takes 1 KB each.
	closedClients = 16
	// maxStore switches off the server's own limit; the agent's store.max
	// decides.
	maxStore = 1 << 50
)

// ErrOpenListen is returned for a listener that others could use freely.
var ErrOpenListen = errors.New("programs on other machines would connect without a credential: " +
	"set a user and password, or listen on 127.0.0.1")

// Config says how the server runs.
type Config struct {
	// Dir is where JetStream stores, required.
	Dir string
	// NodeID is the id of the gateway and its JetStream domain, required.
	NodeID string
	// ServerName is told to the hub, required with LeafURL; see
	// identity.ServerName.
	ServerName string
	// Listen is host:port for local programs, port 0 for a free one; "" for
	// none.
	Listen string
	// ListenFallback moves Listen to a free port when it is taken.
	ListenFallback bool
	// User and Password are asked of local programs; required when Listen is
	// not on loopback, default none.
	User, Password string
	// LeafURL is the address of the hub (nats-leaf, tls, ws or wss); "" runs
	// without one.
	LeafURL string
	// RootCAs verify the hub; default the system's. Setting it demands TLS.
	RootCAs *x509.CertPool
	// Pin is the key of the hub's certificate, instead of authorities. Setting
	// it demands TLS.
	Pin string
	// Proxy is an HTTP proxy on the way to the hub; default by HTTPS_PROXY and
	// NO_PROXY.
	Proxy *url.URL
	// Dial opens connections to hub and proxy; default a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Sign returns the JWT and signs the hub's nonce, required with LeafURL.
	// It must not do I/O: the hub waits 2 s.
	Sign func(nonce []byte) (token string, signature []byte, err error)
	// Log gets the server's lines; the zero value is silent.
	Log zerolog.Logger
}

// Server is a running nats-server. It is safe for concurrent use.
type Server struct {
	log     zerolog.Logger
	store   server.JetStreamConfig
	ns      *server.Server
	keys    map[string]nkeys.KeyPair // of the in-process user of each account
	carrier *carrier.Carrier         // nil without a hub

	opening sync.Mutex // held while JetStream opens or closes
}

// Start runs a server and returns once programs can connect, before OpenStore
// reads what is on disk. The leaf comes and goes on its own.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{
		log:   cfg.Log.With().Str("component", "leaf").Logger(),
		store: server.JetStreamConfig{StoreDir: cfg.Dir, MaxStore: maxStore, Domain: cfg.NodeID},
		keys:  make(map[string]nkeys.KeyPair),
	}
	opts, err := s.options(cfg)
	if err != nil {
		s.closeCarrier()
		return nil, err
	}
	if s.ns, err = server.NewServer(opts); err != nil {
		s.closeCarrier()
		return nil, fmt.Errorf("configure nats server: %w", err)
	}
	logger := natslog.New(cfg.Log)
	s.ns.SetLogger(lines{logger}, false, false)
	if err := logger.Await(ctx, s.ns); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) options(cfg Config) (*server.Options, error) {
	opts := &server.Options{}
	// The one setting of an account that has no Go name.
	const accounts = "accounts { UPLINK {}, LOCAL {}, STORE { jetstream: enabled }, CHUNKS {} }"
	if err := opts.ProcessConfigString(accounts); err != nil {
		return nil, fmt.Errorf("configure accounts: %w", err)
	}
	opts.ServerName = cfg.ServerName
	opts.DontListen = cfg.Listen == ""
	opts.NoSigs = true
	opts.MaxPayload = maxPayload
	opts.PingInterval = pingInterval
	opts.MaxClosedClients = closedClients
	opts.JetStreamDomain = cfg.NodeID
	opts.SyncAlways = true
	opts.DisableJetStreamBanner = true
	if err := s.users(opts, cfg); err != nil {
		return nil, err
	}
	if cfg.LeafURL == "" {
		return opts, nil
	}
	remote, err := s.remote(cfg)
	if err != nil {
		return nil, err
	}
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{remote}
	opts.LeafNode.WriteDeadline = writeDeadline
	opts.LeafNode.ReconnectInterval = reconnect
	return opts, nil
}

// users gives each account its in-process user, with a key that is new at
// every start and known to nobody else, and LOCAL the user of programs.
func (s *Server) users(opts *server.Options, cfg Config) error {
	var local *server.Account
	for _, account := range opts.Accounts {
		key, user, err := newUser(account)
		if err != nil {
			return err
		}
		user.AllowedConnectionTypes = map[string]struct{}{jwt.ConnectionTypeInProcess: {}}
		opts.Nkeys = append(opts.Nkeys, user)
		s.keys[account.Name] = key
		if account.Name == LOCAL {
			local = account
		}
	}
	if cfg.Listen == "" {
		return nil
	}
	var err error
	if opts.Host, opts.Port, err = natslog.Listen(cfg.Listen, cfg.ListenFallback); err != nil {
		return err
	}
	switch {
	case cfg.User != "" && cfg.Password != "":
		opts.Users = []*server.User{{Username: cfg.User, Password: cfg.Password, Account: local}}
	case cfg.User != cfg.Password:
		return errors.New("a user needs a password, and a password a user")
	case !natslog.Loopback(opts.Host):
		return fmt.Errorf("listen for programs on %s: %w", cfg.Listen, ErrOpenListen)
	default: // whoever gives no credential is this one
		_, user, err := newUser(local)
		if err != nil {
			return err
		}
		opts.Nkeys = append(opts.Nkeys, user)
		opts.NoAuthUser = user.Nkey
	}
	return nil
}

func newUser(account *server.Account) (nkeys.KeyPair, *server.NkeyUser, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, nil, fmt.Errorf("key of account %s: %w", account.Name, err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, nil, fmt.Errorf("key of account %s: %w", account.Name, err)
	}
	return key, &server.NkeyUser{Nkey: public, Account: account}, nil
}

// remote describes the leaf connection, which goes through the carrier.
func (s *Server) remote(cfg Config) (*server.RemoteLeafOpts, error) {
	if cfg.ServerName == "" || cfg.NodeID == "" || cfg.Sign == nil {
		return nil, errors.New("a leaf connection needs NodeID, ServerName and Sign")
	}
	var err error
	s.carrier, err = carrier.Open(carrier.Config{
		URL: cfg.LeafURL, RootCAs: cfg.RootCAs, Pin: cfg.Pin, Proxy: cfg.Proxy, Dial: cfg.Dial, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	remote := &server.RemoteLeafOpts{
		LocalAccount:            UPLINK,
		URLs:                    []*url.URL{s.carrier.Remote()},
		SignatureCB:             cfg.Sign,
		FirstInfoTimeout:        slowLink,
		IgnoreDiscoveredServers: true,
	}
	remote.Proxy.URL, remote.Proxy.Username, remote.Proxy.Password = s.carrier.Proxy()
	remote.Proxy.Timeout = forever
	remote.Compression.Mode = server.CompressionOff // frames are compressed
	return remote, nil
}

// lines drops what the server says about its way to the carrier, which fails
// when the agent stops; the carrier tells about the way to the hub.
type lines struct{ *natslog.Logger }

// Errorf logs an error.
func (l lines) Errorf(format string, v ...any) {
	if !strings.HasPrefix(format, "Error trying to connect as leafnode") {
		l.Logger.Errorf(format, v...)
	}
}

// OpenStore makes JetStream ready with the logs, every message synced.
func (s *Server) OpenStore() error {
	s.opening.Lock()
	defer s.opening.Unlock()
	return s.openStore()
}

func (s *Server) openStore() error {
	if err := natslog.Mend(s.store.StoreDir); err != nil {
		return err
	}
	if err := s.ns.EnableJetStream(&s.store); err != nil {
		return fmt.Errorf("open the store in %s: %w", s.store.StoreDir, err)
	}
	return nil
}

// OpenChunks makes JetStream ready with history, after OpenStore. After a loss
// of power that may take a minute: the server reads it all.
func (s *Server) OpenChunks() error {
	s.opening.Lock()
	defer s.opening.Unlock()
	account, err := s.ns.LookupAccount(CHUNKS)
	if err == nil {
		err = account.EnableJetStream(nil, nil)
	}
	if err != nil {
		return fmt.Errorf("open history in %s: %w", s.store.StoreDir, err)
	}
	return nil
}

// ReopenStore closes and opens the store, which revives streams that have met
// a full disk.
func (s *Server) ReopenStore() error {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.log.Warn().Msg("the store does not answer, opening it again")
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return s.openStore()
}

// Connect opens an in-process connection to an account. The caller closes it
// before Close.
func (s *Server) Connect(account, name string) (*nats.Conn, error) {
	key, ok := s.keys[account]
	if !ok {
		return nil, fmt.Errorf("connect %s: no account %q", name, account)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("connect %s to account %s: %w", name, account, err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s.ns), nats.Name(name),
		nats.Nkey(public, key.Sign),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.log.Warn().Err(err).Str("connection", name).Msg("nats connection")
		}))
	if err != nil {
		return nil, fmt.Errorf("connect %s to account %s: %w", name, account, err)
	}
	return nc, nil
}

// ListenAddr returns host:port where local programs connect, "" if nowhere.
func (s *Server) ListenAddr() string {
	if addr := s.ns.Addr(); addr != nil {
		return addr.String()
	}
	return ""
}

// Interest tells whether a local program listens on a subject.
func (s *Server) Interest(subject string) bool { return s.interest(LOCAL, subject) }

func (s *Server) interest(account, subject string) bool {
	a, err := s.ns.LookupAccount(account)
	return err == nil && a.SubscriptionInterest(subject)
}

// Linked tells whether the leaf is connected and somebody at the hub listens
// on subject. Before that what is published there is lost.
func (s *Server) Linked(subject string) bool {
	leafz, err := s.ns.Leafz(&server.LeafzOptions{Account: UPLINK})
	linked := err == nil && len(leafz.Leafs) > 0 && s.interest(UPLINK, subject)
	if linked && s.carrier != nil {
		s.carrier.Used()
	}
	return linked
}

// CutLeaf closes the connection to the hub at once; it comes back on its own.
func (s *Server) CutLeaf() {
	if s.carrier != nil {
		s.carrier.Cut()
	}
}

// DialNow dials the hub without waiting longer, if there is no connection.
func (s *Server) DialNow() {
	if s.carrier != nil {
		s.carrier.DialNow()
	}
}

// Bytes returns what was sent to the hub and received since the start, over
// all connections: the payload of TCP, with TLS and the talk with a proxy.
func (s *Server) Bytes() (tx, rx uint64) {
	if s.carrier == nil {
		return 0, 0
	}
	return s.carrier.Bytes()
}

// LinkInfo tells how the connection to the hub is.
type LinkInfo = carrier.Info

// Link tells how the connection to the hub is; without a hub it is zero.
func (s *Server) Link() LinkInfo {
	if s.carrier == nil {
		return LinkInfo{}
	}
	return s.carrier.Info()
}

// Close stops the server and waits until it has stored everything.
func (s *Server) Close() {
	s.closeCarrier() // the server would wait for it
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

func (s *Server) closeCarrier() {
	if s.carrier != nil {
		s.carrier.Close()
	}
}
