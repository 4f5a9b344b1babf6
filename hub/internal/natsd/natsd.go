// Package natsd owns the hub's embedded nats-server: operator mode, the
// accounts SYS, CORE, DEVICES and PEOPLE, JetStream in CORE alone, a listener
// for programs and one for gateways.
//
// The settings are those that stood up to every attack in
// shared/facts/auth.md: a gateway reaches from.<id> and to.<id>, nothing else,
// and a revoked one is cut off at once. Keys belong to cred, who may have a
// credential to fleet, what gateways and people say to door and bus; they
// connect in process.
package natsd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/shared/natslog"
)

const (
	// maxPayload is the largest message of a program; answers of q. stay
	// below it.
	maxPayload = 1 << 20
	// pingInterval is a little longer than the gateways': they are heard at
	// least that often, and cost no ping from here.
	pingInterval = 6 * time.Minute
	// leafAuthTimeout bounds how long a silent, unauthenticated connection
	// may stay.
	leafAuthTimeout = 2 * time.Second
	// leafTLSTimeout lets a handshake over Cat-M end; up to 4 s were seen, on
	// good days. A gateway waits as long (agent/internal/carrier).
	leafTLSTimeout = 20 * time.Second
	// leafWriteDeadline keeps a gateway whose radio stalls; a link that is
	// really gone is found by the protocol.
	leafWriteDeadline = time.Minute
	// maxStore switches off the server's own limit, 75 % of what is free at
	// the start: in operator mode it forgets what the streams hold already.
	maxStore = 1 << 50
)

// ErrPlainLeaf is returned for a leaf listener that others could overhear.
var ErrPlainLeaf = errors.New("gateways would connect without TLS: give a certificate and key, " +
	"or listen on 127.0.0.1 behind something that ends TLS")

// Config says how the server runs.
type Config struct {
	// Dir is where JetStream stores, required.
	Dir string
	// Listen is host:port for programs, port 0 for a free one; "" for none.
	Listen string
	// ListenFallback moves Listen to a free port when it is taken.
	ListenFallback bool
	// Leaf is host:port for gateways, port 0 for a free one; "" for none.
	Leaf string
	// TLS is for Leaf; nil means plain, which is refused beyond loopback.
	TLS *tls.Config
	// Insecure allows a plain Leaf beyond loopback.
	Insecure bool
	// Keys sign and verify, required.
	Keys *cred.Keys
	// ServerName is told to gateways; default "sapflow-hub".
	ServerName string
	// Log gets the server's lines; the zero value is silent.
	Log zerolog.Logger
}

// Server is a running nats-server. It is safe for concurrent use.
type Server struct {
	keys     *cred.Keys
	log      zerolog.Logger
	ns       *server.Server
	resolver *server.MemAccResolver
	store    server.JetStreamConfig
	leafAddr string
	devices  atomic.Pointer[jwt.AccountClaims] // in force

	mu  sync.Mutex
	ids map[uint64]identity // of live connections of gateways; those that ended go with the next look
}

// Start runs a server and returns once it accepts connections.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{
		keys:     cfg.Keys,
		log:      cfg.Log.With().Str("component", "natsd").Logger(),
		resolver: &server.MemAccResolver{},
		store:    server.JetStreamConfig{StoreDir: cfg.Dir, MaxStore: maxStore},
	}
	opts, err := s.options(cfg)
	if err != nil {
		return nil, err
	}
	if err := natslog.Mend(cfg.Dir); err != nil {
		return nil, err
	}
	if s.ns, err = server.NewServer(opts); err != nil {
		return nil, fmt.Errorf("configure nats server: %w", err)
	}
	logger := natslog.New(cfg.Log)
	s.ns.SetLogger(logger, false, false)
	if err := logger.Await(ctx, s.ns); err != nil {
		s.Close()
		return nil, err
	}
	if opts.LeafNode.Port != 0 {
		// The server writes the port that it got back into its options.
		s.leafAddr = net.JoinHostPort(opts.LeafNode.Host, strconv.Itoa(opts.LeafNode.Port))
	}
	if claims, err := jwt.DecodeAccountClaims(cfg.Keys.AccountJWT(cred.DEVICES)); err == nil {
		s.devices.Store(claims)
	}
	// An account and its streams are loaded when first asked for: do it now.
	if _, err := s.account(cred.CORE); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// options are the binding settings of shared/facts/auth.md.
func (s *Server) options(cfg Config) (*server.Options, error) {
	operator, err := cfg.Keys.Operator()
	if err != nil {
		return nil, fmt.Errorf("operator claims: %w", err)
	}
	for _, account := range []string{cred.SYS, cred.CORE, cred.DEVICES, cred.PEOPLE} {
		if err := s.resolver.Store(cfg.Keys.AccountID(account), cfg.Keys.AccountJWT(account)); err != nil {
			return nil, fmt.Errorf("store account %s: %w", account, err)
		}
	}
	opts := &server.Options{
		ServerName:             cfg.ServerName,
		DontListen:             cfg.Listen == "",
		NoSigs:                 true,
		MaxPayload:             maxPayload,
		TrustedOperators:       []*jwt.OperatorClaims{operator},
		SystemAccount:          cfg.Keys.AccountID(cred.SYS),
		AccountResolver:        s.resolver,
		JetStream:              true, // strict by default
		StoreDir:               cfg.Dir,
		SyncAlways:             true,
		JetStreamMaxStore:      maxStore,
		DisableJetStreamBanner: true,
	}
	opts.PingInterval = pingInterval
	if opts.ServerName == "" {
		opts.ServerName = "sapflow-hub"
	}
	if cfg.Listen != "" {
		if opts.Host, opts.Port, err = natslog.Listen(cfg.Listen, cfg.ListenFallback); err != nil {
			return nil, err
		}
	}
	if cfg.Leaf == "" {
		return opts, nil
	}
	leaf := &opts.LeafNode
	if leaf.Host, leaf.Port, err = natslog.Listen(cfg.Leaf, false); err != nil {
		return nil, err
	}
	if cfg.TLS == nil && !cfg.Insecure && !natslog.Loopback(leaf.Host) {
		return nil, fmt.Errorf("listen for gateways on %s: %w", cfg.Leaf, ErrPlainLeaf)
	}
	leaf.TLSConfig = cfg.TLS
	leaf.TLSTimeout = leafTLSTimeout.Seconds()
	leaf.AuthTimeout = leafAuthTimeout.Seconds()
	leaf.WriteDeadline = leafWriteDeadline
	leaf.NoAdvertise = true
	leaf.Compression.Mode = server.CompressionOff // frames are compressed
	leaf.IsolateLeafnodeInterest = true
	return opts, nil
}

// ReopenStore closes and opens the store, which revives streams that have met
// a full disk.
func (s *Server) ReopenStore() error {
	s.log.Warn().Msg("the store does not answer, opening it again")
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	if err := s.ns.EnableJetStream(&s.store); err != nil {
		return fmt.Errorf("open the store in %s: %w", s.store.StoreDir, err)
	}
	return nil
}

// Connect opens an in-process connection with every right in an account. The
// caller closes it before Close.
func (s *Server) Connect(account, name string) (*nats.Conn, error) {
	user, err := s.keys.ServiceUser(account)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(s.ns), nats.Name(name),
		nats.UserJWT(user.JWT, user.Sign),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.log.Warn().Err(err).Str("connection", name).Msg("nats connection")
		}))
	if err != nil {
		return nil, fmt.Errorf("connect %s to account %s: %w", name, account, err)
	}
	return nc, nil
}

func (s *Server) account(name string) (*server.Account, error) {
	account, err := s.ns.LookupAccount(s.keys.AccountID(name))
	if err != nil {
		return nil, fmt.Errorf("look up account %q: %w", name, err)
	}
	return account, nil
}

// Interest tells whether anyone in an account listens on a subject.
func (s *Server) Interest(account, subject string) bool {
	a, err := s.account(account)
	return err == nil && a.SubscriptionInterest(subject)
}

// UpdateDevices puts an account JWT from cred.Keys.Revoke in force: when it
// returns, the connections of revoked keys are closed. Calls must be in the
// order in which the JWTs were made.
func (s *Server) UpdateDevices(accountJWT string) error {
	claims, err := jwt.DecodeAccountClaims(accountJWT)
	if err != nil {
		return fmt.Errorf("update devices: %w", err)
	}
	if claims.Subject != s.keys.AccountID(cred.DEVICES) {
		return fmt.Errorf("update devices: the JWT is for another account")
	}
	if err := s.resolver.Store(claims.Subject, accountJWT); err != nil {
		return fmt.Errorf("update devices: %w", err)
	}
	account, err := s.account(cred.DEVICES)
	if err != nil {
		return err
	}
	s.devices.Store(claims)
	s.ns.UpdateAccountClaims(account, claims)
	return nil
}

// ListenAddr returns host:port where programs connect, "" if nowhere.
func (s *Server) ListenAddr() string {
	if addr := s.ns.Addr(); addr != nil {
		return addr.String()
	}
	return ""
}

// LeafAddr returns host:port where gateways connect, "" if nowhere.
func (s *Server) LeafAddr() string { return s.leafAddr }

// Close stops the server and waits until it has stored everything.
func (s *Server) Close() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
