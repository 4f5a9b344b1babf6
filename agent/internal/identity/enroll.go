package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/agent/internal/pin"
	"github.com/sapflow/sapflow/shared/daemon"
)

const (
	enrollPath = "/api/v1/enroll"
	// enrollTimeout fits name resolution, a TLS handshake and a few kilobytes
	// over a Cat-M link that loses packets.
	enrollTimeout = 60 * time.Second
	maxReplyBytes = 64 << 10
	// minRetry and maxRetry bound what a hub may ask for.
	minRetry, maxRetry = time.Second, 15 * time.Minute
)

// ErrPlainHTTP is returned when the token would cross a network in clear.
var ErrPlainHTTP = errors.New("plain http would show the token to others: use https, or allow it explicitly")

// Refusal is the hub's answer to an enrolment that it does not accept.
type Refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// Error returns what the hub refused, and then its hint.
func (r *Refusal) Error() string {
	if r.Hint == "" {
		return "the hub refused: " + r.Message
	}
	return "the hub refused: " + r.Message + "; " + r.Hint
}

// Waiting is the hub's answer to a gateway that somebody has to let in.
type Waiting struct {
	Key   string        // how people at the hub call its key
	Retry time.Duration // when to ask again
}

// Error says what to do.
func (w *Waiting) Error() string {
	return "the gateway waits to be let in; at the hub: sapflow-hub device accept " + w.Key
}

// EnrollConfig says where and how to enrol.
type EnrollConfig struct {
	// HubURL is the http(s) address of the hub, required.
	HubURL string
	// Token is the claim token; without one the key must be known to the hub.
	Token string
	// Name and Plan are what the gateway would like to be, where the token does
	// not say; the hub decides.
	Name, Plan string
	// Dir is the data directory of the agent, required.
	Dir string
	// Client replaces the default HTTP client; CAFile is then not used.
	Client *http.Client
	// CAFile is a PEM file with the authorities to trust; default the system's.
	CAFile string
	// Authorities are the same as CAFile, in PEM.
	Authorities string
	// Pin is the key of the hub's certificate, sha256:<hex>, instead of an
	// authority.
	Pin string
	// Insecure allows plain http beyond loopback.
	Insecure bool
}

// String hides the token.
func (c EnrollConfig) String() string { return "enrolment at " + c.HubURL }

// GoString hides the token.
func (c EnrollConfig) GoString() string { return c.String() }

// Enroll claims a token at the hub and stores the identity that it gives,
// which replaces an older one. After an error it may be called again with the
// same token: it goes on with the same key.
func Enroll(ctx context.Context, cfg EnrollConfig) (*Identity, error) {
	id, err := enroll(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", cfg.HubURL, err)
	}
	return id, nil
}

func enroll(ctx context.Context, cfg EnrollConfig) (*Identity, error) {
	if cfg.CAFile != "" {
		authorities, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		cfg.Authorities = string(authorities)
	}
	if _, err := cfg.endpoint(); err != nil {
		return nil, err
	}
	dir, err := makeDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	p, err := openPending(dir, cfg.Token)
	if err != nil {
		return nil, err
	}
	key, public, err := keyOf(p.Seed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pendingFile, err)
	}
	r, err := cfg.ask(ctx, key, public, "")
	var waiting *Waiting
	if errors.As(err, &waiting) { // from now on the key alone is enough
		begun := pending{TokenHash: p.TokenHash, Seed: p.Seed, HubURL: cfg.HubURL, Authorities: cfg.Authorities, Pin: cfg.Pin, Insecure: cfg.Insecure}
		if begun != p {
			err = errors.Join(err, writeJSON(filepath.Join(dir, pendingFile), begun))
		}
	}
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(r.LeafURL); err != nil || u.Host == "" {
		return nil, fmt.Errorf("reply of the hub: leaf URL %q is not an address", r.LeafURL)
	}
	if r.LeafPin != "" {
		if err := pin.Check(r.LeafPin); err != nil {
			return nil, fmt.Errorf("reply of the hub: %w", err)
		}
	}
	err = store(dir, p.Seed, r.JWT, record{
		ID: r.ID, HubURL: cfg.HubURL, LeafURL: reachable(r.LeafURL, cfg.HubURL), ServerName: r.ID + "-" + randomHex(8),
		EnrolledAt: r.HubTime, Nonce: randomHex(16), PublicKey: public, Authorities: cfg.Authorities, Insecure: cfg.Insecure,
		Pin: cfg.Pin, LeafPin: r.LeafPin,
	})
	if err != nil {
		return nil, err
	}
	return Load(cfg.Dir)
}

// reachable replaces an address that means every one of the hub's, such as
// 0.0.0.0, by that by which the hub was reached.
func reachable(leaf, hub string) string {
	l, err := url.Parse(leaf)
	h, other := url.Parse(hub)
	if err != nil || other != nil || !net.ParseIP(l.Hostname()).IsUnspecified() {
		return leaf
	}
	l.Host = net.JoinHostPort(h.Hostname(), l.Port())
	return l.String()
}

// makeDir makes the directory of the identity.
func makeDir(data string) (string, error) {
	dir := filepath.Join(data, "identity")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// The key must outlive a power cut: the token is bound to it from now on.
	return dir, daemon.SyncDir(data)
}

func keyOf(seed string) (key Signer, public string, err error) {
	if key, err = nkeys.FromSeed([]byte(seed)); err != nil {
		return nil, "", err
	}
	public, err = key.PublicKey()
	return key, public, err
}

// Key returns the public key with which the gateway will enrol without a
// token, and makes it if it is missing.
func Key(data string) (public string, err error) {
	if id, err := Load(data); err == nil {
		return id.PublicKey(), nil
	}
	dir, err := makeDir(data)
	if err != nil {
		return "", err
	}
	p, err := openPending(dir, "")
	if err != nil {
		return "", err
	}
	_, public, err = keyOf(p.Seed)
	return public, err
}

// Begun returns how to ask again for a gateway that waits, nil if it does not.
func Begun(data string) (*EnrollConfig, error) {
	var p pending
	err := readJSON(filepath.Join(data, "identity", pendingFile), &p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && p.HubURL == "" {
		return nil, nil
	}
	return &EnrollConfig{HubURL: p.HubURL, Dir: data, Authorities: p.Authorities, Pin: p.Pin, Insecure: p.Insecure}, err
}

// Ask asks the hub by HTTP for a new credential, which the next connection
// uses. It is for a gateway whose own one is not accepted any more: the answer
// says why. The error is a *Waiting or a *Refusal if the hub answered.
func (id *Identity) Ask(ctx context.Context) error {
	cfg := EnrollConfig{HubURL: id.record.HubURL, Authorities: id.record.Authorities, Pin: id.record.Pin, Insecure: id.record.Insecure}
	r, err := cfg.ask(ctx, id.key, id.record.PublicKey, id.record.ID)
	if err != nil {
		return fmt.Errorf("ask %s: %w", cfg.HubURL, err)
	}
	return id.SetJWT(r.JWT)
}

// ask sends a signed request and checks the reply.
func (c EnrollConfig) ask(ctx context.Context, key Signer, public, id string) (reply, error) {
	endpoint, err := c.endpoint()
	if err != nil {
		return reply{}, err
	}
	client, err := c.client()
	if err != nil {
		return reply{}, err
	}
	signature, err := key.Sign([]byte("sapflow-enroll\n" + c.Token + "\n" + public))
	if err != nil {
		return reply{}, err
	}
	r, err := post(ctx, client, endpoint, request{
		Token: c.Token, PublicKey: public, Signature: base64.RawURLEncoding.EncodeToString(signature), ID: id, Name: c.Name, Plan: c.Plan,
	})
	if err != nil {
		return r, err
	}
	if r.State == "pending" {
		retry := time.Duration(r.Retry) * time.Millisecond
		return r, &Waiting{Key: r.Key, Retry: min(max(retry, minRetry), maxRetry)}
	}
	if id == "" {
		id = r.ID
	}
	if _, err := parse(r.JWT, id, public); err != nil {
		return r, fmt.Errorf("reply of the hub: %w", err)
	}
	return r, nil
}

// endpoint returns the URL to post to.
func (c EnrollConfig) endpoint() (string, error) {
	u, err := url.Parse(c.HubURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("not an http or https address")
	}
	if c.Pin != "" {
		if err := pin.Check(c.Pin); err != nil {
			return "", err
		}
		if u.Scheme != "https" {
			return "", errors.New("a pin needs an https address")
		}
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "http" && !loopback && !c.Insecure {
		return "", ErrPlainHTTP
	}
	return u.JoinPath(enrollPath).String(), nil
}

func (c EnrollConfig) client() (*http.Client, error) {
	if c.Client != nil {
		return c.Client, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSHandshakeTimeout = enrollTimeout / 2
	transport.DisableKeepAlives = true // one request, and no goroutine stays
	if c.Authorities != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(c.Authorities)) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	if c.Pin != "" {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		pin.Apply(transport.TLSClientConfig, c.Pin)
	}
	return &http.Client{
		Transport: transport,
		// A redirect would carry the token to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// request and reply are the wire form of POST /api/v1/enroll.
type request struct {
	Token     string `json:"token"`
	PublicKey string `json:"publicKey"`
	Signature string `json:"signature"`
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Plan      string `json:"plan,omitempty"`
}

type reply struct {
	ID      string    `json:"id"`
	JWT     string    `json:"jwt"`
	LeafURL string    `json:"leafUrl"`
	LeafPin string    `json:"leafPin"`
	State   string    `json:"state"`
	Key     string    `json:"key"`
	Retry   int64     `json:"retryMs"`
	HubTime time.Time `json:"hubTime"`
}

func post(ctx context.Context, client *http.Client, endpoint string, q request) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTimeout)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	if err != nil {
		return r, fmt.Errorf("read reply: %w", err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		refusal := &Refusal{}
		if json.Unmarshal(data, refusal) != nil || refusal.Code == "" {
			return r, fmt.Errorf("answered %s: is this the address of a Sapflow hub?", resp.Status)
		}
		refusal.Message = cmp.Or(refusal.Message, refusal.Code)
		return r, refusal
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, errors.New("the reply is not JSON: is this the address of a Sapflow hub?")
	}
	return r, nil
}

// pending is an enrolment that was begun. It belongs to one token: the hub
// accepts the same token again from the same key only.
type pending struct {
	TokenHash string `json:"tokenHash"` // "" of a key that was made without one
	Seed      string `json:"seed"`
	// Where the gateway waits, "" if it does not.
	HubURL      string `json:"hubUrl,omitempty"`
	Authorities string `json:"authorities,omitempty"`
	Pin         string `json:"pin,omitempty"`
	Insecure    bool   `json:"insecure,omitempty"`
}

// openPending continues the enrolment that was begun with a token, or with
// none, or begins it.
func openPending(dir, token string) (pending, error) {
	path := filepath.Join(dir, pendingFile)
	var p pending
	if err := readJSON(path, &p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	hash := ""
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		hash = hex.EncodeToString(sum[:])
	}
	begun := p
	if !strings.HasPrefix(p.Seed, "SU") || hash != "" && p.TokenHash != "" && p.TokenHash != hash {
		key, err := nkeys.CreateUser()
		if err != nil {
			return p, err
		}
		seed, err := key.Seed()
		if err != nil {
			return p, err
		}
		p = pending{Seed: string(seed)}
	}
	if hash != "" {
		p.TokenHash = hash
	}
	if p == begun {
		return p, nil
	}
	return p, writeJSON(path, p)
}

// store makes an enrolment the identity. Until its last step the pending one
// stays, so that the enrolment can be repeated after a power cut.
func store(dir, seed, token string, r record) error {
	if err := daemon.WriteFile(filepath.Join(dir, seedFile), []byte(seed)); err != nil {
		return err
	}
	if err := daemon.WriteFile(filepath.Join(dir, jwtFile), []byte(token)); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, identityFile), r); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, pendingFile)); err != nil {
		return err
	}
	return daemon.SyncDir(dir)
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
