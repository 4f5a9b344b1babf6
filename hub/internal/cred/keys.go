// Package cred owns the hub's keys: the operator, its accounts, the scoped
// signing keys of the gateways and the user of trusted local programs. It
// signs, and it is the only code of the hub that sees seeds.
//
// It leaves to others who may get a credential (fleet) and the server that
// checks them (natsd). Seeds lie in one file that is replaced whole, so that
// a power cut at any moment leaves a directory that Open completes; they never
// leave it, and no type here shows them when printed, logged or marshalled.
package cred

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/point"
)

// The accounts of the hub.
const (
	SYS     = "SYS"     // connect events, revocation
	CORE    = "CORE"    // JetStream: every log and view
	DEVICES = "DEVICES" // gateways, by leaf; no JetStream
	PEOPLE  = "PEOPLE"  // people and programs; no JetStream
)

// DeviceTTL is how long a gateway's JWT is valid, at most and by default. A
// revocation is kept as long, after that there is nothing left to revoke.
const DeviceTTL = 30 * 24 * time.Hour

// What a gateway may do, binding since shared/facts/auth.md: every attack
// listed there was tried against these values.
const (
	devicePayload = 256 << 10
	deviceSubs    = 32
	// scopedKeys spreads the gateways, because a change of a key's template
	// closes every leaf of that key.
	scopedKeys = 16
)

const (
	keysFile        = "keys.json"
	revocationsFile = "revocations.json"
)

// ErrRevoked is returned for a key that was revoked: it is void for good.
var ErrRevoked = errors.New("key is revoked")

var (
	localPublish   = jwt.StringList{"p", "p.>", "j", "j.>", "q.>", "import.*", "fleet.>"}
	localSubscribe = jwt.StringList{"up.>", "_INBOX.>"}
)

// stored is keys.json: all seeds, and the JWT of local programs, which must
// stay the same from start to start.
type stored struct {
	Operator string            `json:"operator"`
	Accounts map[string]string `json:"accounts"`
	Scoped   []string          `json:"scoped"`
	Local    string            `json:"local"`
	LocalJWT string            `json:"localJwt"`
}

// Keys holds the keys of one hub. It is safe for concurrent use.
type Keys struct {
	dir      string
	operator nkeys.KeyPair
	accounts map[string]nkeys.KeyPair
	ids      map[string]string // account name: its public key, which costs 15 us to derive
	scoped   []nkeys.KeyPair
	local    []byte // the content of a creds file

	mu      sync.Mutex
	revoked map[string]int64  // user public key: unix seconds; issued up to then is void
	jwts    map[string]string // account name: account JWT
}

// Open loads the keys in dir and makes the ones that are missing. The
// directory gets mode 0700, the files 0600.
func Open(dir string) (*Keys, error) {
	k := &Keys{
		dir:      dir,
		accounts: make(map[string]nkeys.KeyPair),
		ids:      make(map[string]string),
		revoked:  make(map[string]int64),
		jwts:     make(map[string]string),
	}
	if err := k.open(); err != nil {
		return nil, fmt.Errorf("open keys %q: %w", dir, err)
	}
	return k, nil
}

func (k *Keys) open() error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(k.dir, 0o700); err != nil {
		return err
	}
	if err := daemon.SyncDir(filepath.Dir(k.dir)); err != nil {
		return err
	}
	if err := k.loadSeeds(); err != nil {
		return err
	}
	if err := readJSON(filepath.Join(k.dir, revocationsFile), &k.revoked); err != nil {
		return err
	}
	if k.revoked == nil { // the file says null
		k.revoked = make(map[string]int64)
	}
	for _, account := range []string{SYS, CORE, DEVICES, PEOPLE} {
		token, err := k.signAccount(account, k.revoked)
		if err != nil {
			return err
		}
		k.jwts[account] = token
	}
	return nil
}

// loadSeeds reads keys.json, completes it, and writes it if it changed.
func (k *Keys) loadSeeds() error {
	path := filepath.Join(k.dir, keysFile)
	var s stored
	if err := readJSON(path, &s); err != nil {
		return err
	}
	if s.Accounts == nil {
		s.Accounts = make(map[string]string)
	}
	changed := false
	load := func(seed *string, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
		if *seed != "" {
			return nkeys.FromSeed([]byte(*seed))
		}
		changed = true
		return newSeed(seed, create)
	}

	var err error
	if k.operator, err = load(&s.Operator, nkeys.CreateOperator); err != nil {
		return fmt.Errorf("operator key: %w", err)
	}
	for _, account := range []string{SYS, CORE, DEVICES, PEOPLE} {
		seed := s.Accounts[account]
		if k.accounts[account], err = load(&seed, nkeys.CreateAccount); err != nil {
			return fmt.Errorf("key of account %s: %w", account, err)
		}
		if k.ids[account], err = k.accounts[account].PublicKey(); err != nil {
			return fmt.Errorf("key of account %s: %w", account, err)
		}
		s.Accounts[account] = seed
	}
	for len(s.Scoped) < scopedKeys {
		s.Scoped = append(s.Scoped, "")
	}
	for i := range s.Scoped {
		key, err := load(&s.Scoped[i], nkeys.CreateAccount)
		if err != nil {
			return fmt.Errorf("signing key %d: %w", i, err)
		}
		k.scoped = append(k.scoped, key)
	}
	local, err := load(&s.Local, nkeys.CreateUser)
	if err != nil {
		return fmt.Errorf("local user key: %w", err)
	}
	if !localCurrent(s.LocalJWT) {
		changed = true
		if s.LocalJWT, err = k.signLocal(local); err != nil {
			return fmt.Errorf("sign local user: %w", err)
		}
	}
	if k.local, err = jwt.FormatUserConfig(s.LocalJWT, []byte(s.Local)); err != nil {
		return fmt.Errorf("format local user: %w", err)
	}
	if !changed {
		return nil
	}
	return writeJSON(path, s)
}

func newSeed(seed *string, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
	key, err := create()
	if err != nil {
		return nil, err
	}
	text, err := key.Seed()
	*seed = string(text)
	return key, err
}

// Operator returns the claims that make natsd trust these keys.
func (k *Keys) Operator() (*jwt.OperatorClaims, error) {
	public, err := k.operator.PublicKey()
	if err != nil {
		return nil, err
	}
	claims := jwt.NewOperatorClaims(public)
	claims.Name = "sapflow"
	claims.SystemAccount = k.AccountID(SYS)
	token, err := claims.Encode(k.operator)
	if err != nil {
		return nil, err
	}
	return jwt.DecodeOperatorClaims(token)
}

// AccountID returns the public key of an account, "" if there is no such one.
func (k *Keys) AccountID(account string) string { return k.ids[account] }

// AccountJWT returns the current JWT of an account, with its revocations.
func (k *Keys) AccountJWT(account string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.jwts[account]
}

// signAccount makes the JWT of an account.
func (k *Keys) signAccount(account string, revoked map[string]int64) (string, error) {
	claims := jwt.NewAccountClaims(k.AccountID(account))
	claims.Name = account
	switch account {
	case CORE:
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit,
			Consumer: jwt.NoLimit, MaxAckPending: jwt.NoLimit,
		}
	case DEVICES:
		for _, key := range k.scoped {
			public, err := key.PublicKey()
			if err != nil {
				return "", err
			}
			claims.SigningKeys.AddScopedSigner(deviceScope(public))
		}
		claims.Revocations = jwt.RevocationList(maps.Clone(revoked))
	}
	token, err := claims.Encode(k.operator)
	if err != nil {
		return "", fmt.Errorf("sign account %s: %w", account, err)
	}
	return token, nil
}

// deviceScope is all that a gateway may do: tell from.<id>, hear to.<id>.
func deviceScope(public string) *jwt.UserScope {
	scope := jwt.NewUserScope()
	scope.Key = public
	scope.Role = "device"
	scope.Template.Pub.Allow.Add("from.{{name()}}.>")
	scope.Template.Sub.Allow.Add("to.{{name()}}.>")
	scope.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeLeafnode, jwt.ConnectionTypeLeafnodeWS)
	scope.Template.Subs = deviceSubs
	scope.Template.Payload = devicePayload
	return scope
}

// IssueDevice signs the JWT of gateway id for the user public key that the
// gateway made itself. A ttl of 0 means DeviceTTL, which is also the longest.
func (k *Keys) IssueDevice(id, userPub string, ttl time.Duration) (string, error) {
	if err := point.CheckID(id); err != nil {
		// A "*" would turn the template into a right over all gateways.
		return "", fmt.Errorf("issue device: %w", err)
	}
	if !nkeys.IsValidPublicUserKey(userPub) {
		return "", fmt.Errorf("issue device %s: not a user public key", id)
	}
	if ttl == 0 {
		ttl = DeviceTTL
	}
	if ttl < 0 || ttl > DeviceTTL {
		return "", fmt.Errorf("issue device %s: lifetime %s is not within 0 and %s", id, ttl, DeviceTTL)
	}
	k.mu.Lock() // until it is signed: a Revoke comes wholly before or after
	defer k.mu.Unlock()
	if _, ok := k.revoked[userPub]; ok {
		return "", fmt.Errorf("issue device %s: %w", id, ErrRevoked)
	}
	claims := jwt.NewUserClaims(userPub)
	claims.Name = id
	claims.IssuerAccount = k.AccountID(DEVICES)
	claims.Expires = time.Now().Add(ttl).Unix()
	claims.SetScoped(true) // the rights are those of the signing key
	token, err := claims.Encode(k.signer(id))
	if err != nil {
		return "", fmt.Errorf("issue device %s: %w", id, err)
	}
	return token, nil
}

// signer returns the signing key of a gateway, the same one every time.
func (k *Keys) signer(id string) nkeys.KeyPair {
	h := fnv.New32a()
	h.Write([]byte(id))
	return k.scoped[h.Sum32()%scopedKeys]
}

// Revoke voids a key that lost its rights at a time in the past: every JWT
// issued for it, and IssueDevice refuses it. That is durable when Revoke
// returns the account JWT to hand to the server. It may be repeated; a key
// whose last JWT has expired since is left alone, so that the list is bounded.
func (k *Keys) Revoke(userPub string, at time.Time) (accountJWT string, err error) {
	if !nkeys.IsValidPublicUserKey(userPub) {
		return "", fmt.Errorf("revoke: not a user public key")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	oldest := now.Add(-DeviceTTL)
	if _, ok := k.revoked[userPub]; ok || at.Before(oldest) {
		return k.jwts[DEVICES], nil
	}
	revoked := maps.Clone(k.revoked)
	maps.DeleteFunc(revoked, func(_ string, at int64) bool { return at < oldest.Unix() })
	// Now, not at: a JWT may have been issued in between.
	revoked[userPub] = now.Unix()
	token, err := k.signAccount(DEVICES, revoked)
	if err != nil {
		return "", fmt.Errorf("revoke: %w", err)
	}
	if err := writeJSON(filepath.Join(k.dir, revocationsFile), revoked); err != nil {
		return "", fmt.Errorf("revoke: %w", err)
	}
	k.revoked, k.jwts[DEVICES] = revoked, token
	return token, nil
}

// LocalCreds returns the content of a creds file for trusted programs on this
// machine: the public subjects in PEOPLE, the same at every start.
func (k *Keys) LocalCreds() ([]byte, error) { return slices.Clone(k.local), nil }

func (k *Keys) signLocal(user nkeys.KeyPair) (string, error) {
	public, err := user.PublicKey()
	if err != nil {
		return "", err
	}
	claims := jwt.NewUserClaims(public)
	claims.Name = "local"
	claims.Pub.Allow = localPublish
	claims.Sub.Allow = localSubscribe
	claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	return claims.Encode(k.accounts[PEOPLE])
}

// localCurrent tells whether a stored JWT grants what this version grants.
func localCurrent(token string) bool {
	claims, err := jwt.DecodeUserClaims(token)
	return err == nil && slices.Equal(claims.Pub.Allow, localPublish) &&
		slices.Equal(claims.Sub.Allow, localSubscribe)
}

const hidden = "cred(hidden)"

// String hides the keys.
func (k *Keys) String() string { return hidden }

// GoString hides the keys.
func (k *Keys) GoString() string { return hidden }

// MarshalJSON hides the keys.
func (k *Keys) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
