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

	"github.com/sapflow/sapflow/shared/daemon"
)

const (
	enrollPath = "/api/v1/enroll"
	// enrollTimeout fits name resolution, a TLS handshake and a few kilobytes
	// over a Cat-M link that loses packets.
	enrollTimeout = 60 * time.Second
	maxReplyBytes = 64 << 10
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

// EnrollConfig says where and how to enrol.
type EnrollConfig struct {
	// HubURL is the http(s) address of the hub, required.
	HubURL string
	// Token is the one-time claim token, required.
	Token string
	// Dir is the data directory of the agent, required.
	Dir string
	// Client replaces the default HTTP client; CAFile is then not used.
	Client *http.Client
	// CAFile is a PEM file with the authorities to trust; default the system's.
	CAFile string
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
	endpoint, err := cfg.endpoint()
	if err != nil {
		return nil, err
	}
	var authorities []byte
	if cfg.CAFile != "" {
		if authorities, err = os.ReadFile(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	client, err := cfg.client(string(authorities))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cfg.Dir, "identity")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// The key must outlive a power cut: the token is bound to it from now on.
	if err := daemon.SyncDir(cfg.Dir); err != nil {
		return nil, err
	}
	p, err := openPending(dir, cfg.Token)
	if err != nil {
		return nil, err
	}
	key, err := nkeys.FromSeed([]byte(p.Seed))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pendingFile, err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pendingFile, err)
	}
	signature, err := key.Sign([]byte("sapflow-enroll\n" + cfg.Token + "\n" + public))
	if err != nil {
		return nil, err
	}
	r, err := post(ctx, client, endpoint, request{
		Token: cfg.Token, PublicKey: public, Signature: base64.RawURLEncoding.EncodeToString(signature),
	})
	if err != nil {
		return nil, err
	}
	if _, err := parse(r.JWT, r.ID, public); err != nil {
		return nil, fmt.Errorf("reply of the hub: %w", err)
	}
	if u, err := url.Parse(r.LeafURL); err != nil || u.Host == "" {
		return nil, fmt.Errorf("reply of the hub: leaf URL %q is not an address", r.LeafURL)
	}
	err = store(dir, p.Seed, r.JWT, record{
		ID: r.ID, HubURL: cfg.HubURL, LeafURL: r.LeafURL, ServerName: r.ID + "-" + randomHex(8),
		EnrolledAt: r.HubTime, Nonce: randomHex(16), PublicKey: public, Authorities: string(authorities),
	})
	if err != nil {
		return nil, err
	}
	return Load(cfg.Dir)
}

// endpoint returns the URL to post to.
func (c EnrollConfig) endpoint() (string, error) {
	u, err := url.Parse(c.HubURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("not an http or https address")
	}
	if c.Token == "" {
		return "", errors.New("the token is missing")
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "http" && !loopback && !c.Insecure {
		return "", ErrPlainHTTP
	}
	return u.JoinPath(enrollPath).String(), nil
}

func (c EnrollConfig) client(authorities string) (*http.Client, error) {
	if c.Client != nil {
		return c.Client, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSHandshakeTimeout = enrollTimeout / 2
	transport.DisableKeepAlives = true // one request, and no goroutine stays
	if authorities != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(authorities)) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
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
}

type reply struct {
	ID      string    `json:"id"`
	JWT     string    `json:"jwt"`
	LeafURL string    `json:"leafUrl"`
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
	if resp.StatusCode != http.StatusOK {
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
	TokenHash string `json:"tokenHash"`
	Seed      string `json:"seed"`
}

// openPending continues the enrolment that was begun with token, or begins it.
func openPending(dir, token string) (pending, error) {
	path := filepath.Join(dir, pendingFile)
	sum := sha256.Sum256([]byte(token))
	hash := hex.EncodeToString(sum[:])
	var p pending
	if err := readJSON(path, &p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if p.TokenHash == hash && strings.HasPrefix(p.Seed, "SU") {
		return p, nil
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return p, err
	}
	seed, err := key.Seed()
	if err != nil {
		return p, err
	}
	p = pending{TokenHash: hash, Seed: string(seed)}
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
