// Package identity owns who the gateway is: its id, its user nkey, the JWT
// that the hub issued for it. The seed is made here and never leaves.
//
// An enrolment is stored in several files; Load accepts them only when they
// belong together, so that a power cut in the middle leaves a gateway that is
// not enrolled and may enrol again with the same token. Connecting belongs to
// leaf, renewal to uplink. No type here shows a seed or a JWT.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/point"
)

// ErrNotEnrolled is returned by Load for a gateway without an identity, or
// with one whose enrolment was cut short.
var ErrNotEnrolled = errors.New("gateway is not enrolled")

// record is identity.json.
type record struct {
	ID         string    `json:"id"`
	HubURL     string    `json:"hubUrl"`
	LeafURL    string    `json:"leafUrl"`
	ServerName string    `json:"serverName"` // "<id>-<random>"
	EnrolledAt time.Time `json:"enrolledAt"`
	Nonce      string    `json:"nonce"`
	PublicKey  string    `json:"publicKey"`
	// Authorities are certificates in PEM that the hub is verified with, the
	// system's if empty.
	Authorities string `json:"authorities,omitempty"`
	// Pin is the key of the hub's certificate at HubURL, LeafPin at LeafURL;
	// "" if authorities are trusted.
	Pin     string `json:"pin,omitempty"`
	LeafPin string `json:"leafPin,omitempty"`
	// Insecure allows plain http to the hub, beyond loopback.
	Insecure bool `json:"insecure,omitempty"`
}

// Signer signs with the key of the gateway, which it need not show: a file
// holds it now, and a chip may later. nkeys.KeyPair is one.
type Signer interface {
	// PublicKey returns the user nkey.
	PublicKey() (string, error)
	// Sign signs without waiting for anything that is not this machine's.
	Sign(data []byte) ([]byte, error)
}

// Identity is an enrolled gateway. It is safe for concurrent use.
type Identity struct {
	record record
	dir    string
	key    Signer
	mu     sync.Mutex // orders SetJWT
	token  atomic.Pointer[credential]
}

// credential is a JWT and what it says.
type credential struct {
	jwt     string
	issued  time.Time
	expires time.Time
}

// Load reads the identity below dir, the data directory of the agent.
func Load(dir string) (*Identity, error) {
	dir = filepath.Join(dir, "identity")
	id := &Identity{dir: dir}
	err := id.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotEnrolled
	}
	if err != nil {
		return nil, fmt.Errorf("load identity %q: %w", dir, err)
	}
	return id, nil
}

func (id *Identity) load() error {
	if err := readJSON(filepath.Join(id.dir, identityFile), &id.record); err != nil {
		return err
	}
	seed, err := os.ReadFile(filepath.Join(id.dir, seedFile))
	if err != nil {
		return err
	}
	if id.key, err = nkeys.FromSeed(seed); err != nil {
		return fmt.Errorf("%s: %w", seedFile, err)
	}
	public, err := id.key.PublicKey()
	if err != nil {
		return fmt.Errorf("%s: %w", seedFile, err)
	}
	token, err := os.ReadFile(filepath.Join(id.dir, jwtFile))
	if err != nil {
		return err
	}
	c, err := parse(string(token), id.record.ID, id.record.PublicKey)
	if err != nil || public != id.record.PublicKey {
		return fmt.Errorf("%w: the last enrolment was cut short, enrol again with the same token", ErrNotEnrolled)
	}
	id.token.Store(c)
	return nil
}

// parse checks that a JWT is for a gateway and its key.
func parse(token, id, publicKey string) (*credential, error) {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return nil, fmt.Errorf("decode JWT: %w", err)
	}
	if claims.Subject != publicKey || claims.Name != id {
		return nil, errors.New("the JWT is for another gateway or key")
	}
	if err := point.CheckID(id); err != nil {
		return nil, err
	}
	c := &credential{jwt: token, issued: time.Unix(claims.IssuedAt, 0)}
	if claims.Expires != 0 {
		c.expires = time.Unix(claims.Expires, 0)
	}
	return c, nil
}

// ID returns the node id of the gateway.
func (id *Identity) ID() string { return id.record.ID }

// HubURL returns the address that the gateway enrolled at.
func (id *Identity) HubURL() string { return id.record.HubURL }

// LeafURL returns what the hub said to dial.
func (id *Identity) LeafURL() string { return id.record.LeafURL }

// ServerName returns the name for the embedded server: the id and a random
// part, so that nobody can claim it and evict the gateway.
func (id *Identity) ServerName() string { return id.record.ServerName }

// EnrolledAt returns when the gateway enrolled, by the hub's clock.
func (id *Identity) EnrolledAt() time.Time { return id.record.EnrolledAt }

// Nonce returns random hex that is new with each enrolment.
func (id *Identity) Nonce() string { return id.record.Nonce }

// RootCAs returns the authorities that the hub is verified with, nil for the
// system's.
func (id *Identity) RootCAs() *x509.CertPool {
	if id.record.Authorities == "" {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(id.record.Authorities)) // checked when they were stored
	return pool
}

// LeafPin returns the key of the certificate of the hub's leaf address, "" if
// authorities are trusted.
func (id *Identity) LeafPin() string { return id.record.LeafPin }

// PublicKey returns the user key of the gateway.
func (id *Identity) PublicKey() string { return id.record.PublicKey }

// Expires returns when the JWT ends, the zero time if it does not.
func (id *Identity) Expires() time.Time { return id.token.Load().expires }

// Issued returns when the JWT was made, by the hub's clock.
func (id *Identity) Issued() time.Time { return id.token.Load().issued }

// Sign returns the JWT and signs the nonce of the hub, without I/O; it is the
// SignatureCB of a leaf remote.
func (id *Identity) Sign(nonce []byte) (token string, signature []byte, err error) {
	signature, err = id.key.Sign(nonce)
	return id.token.Load().jwt, signature, err
}

// SetJWT stores a renewed JWT, which the next connection uses.
func (id *Identity) SetJWT(token string) error {
	c, err := parse(token, id.record.ID, id.record.PublicKey)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if err := daemon.WriteFile(filepath.Join(id.dir, jwtFile), []byte(token)); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	id.token.Store(c)
	return nil
}

// String shows the id only.
func (id *Identity) String() string { return "gateway " + id.record.ID }

// GoString shows the id only.
func (id *Identity) GoString() string { return id.String() }

// MarshalJSON hides the credential.
func (id *Identity) MarshalJSON() ([]byte, error) { return []byte(`"identity(hidden)"`), nil }
