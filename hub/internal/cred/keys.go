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
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	Retired  []Retired         `json:"retired,omitempty"`
	Local    string            `json:"local"`
	LocalJWT string            `json:"localJwt"`
}

// Retired is a signing key that was replaced: what it signed is good until it
// is dropped, or DeviceTTL after.
type Retired struct {
	Slot      int       `json:"slot"`
	PublicKey string    `json:"publicKey"`
	At        time.Time `json:"at"`
}

// Keys holds the keys of one hub. It is safe for concurrent use.
type Keys struct {
	dir      string
	outside  bool // the seeds lie elsewhere and are not written
	operator nkeys.KeyPair
	accounts map[string]nkeys.KeyPair
	ids      map[string]string // account name: its public key, which costs 15 us to derive
	local    []byte            // the content of a creds file

	mu      sync.Mutex
	stored  stored
	scoped  []nkeys.KeyPair
	revoked map[string]int64  // user public key: unix seconds; issued up to then is void
	jwts    map[string]string // account name: account JWT
}

// ErrOutside is returned for a change of seeds that lie outside of the data
// directory.
var ErrOutside = errors.New("the keys come from outside of the data directory")

// Source says where seeds are that do not lie in the data directory: in a
// file, such as a mounted secret, or in a text. Both hold what `keys show`
// prints.
type Source struct {
	File string
	Text string
}

// String hides the text.
func (s Source) String() string { return "keys of " + s.File }

// GoString hides the text.
func (s Source) GoString() string { return s.String() }

func (s Source) given() bool { return s.File != "" || s.Text != "" }

// read returns the seeds of a source, all of which must be there.
func (s Source) read() (stored, error) {
	var v stored
	text, name := []byte(s.Text), "the text of the keys"
	if s.File != "" {
		var err error
		if text, err = os.ReadFile(s.File); err != nil {
			return v, err
		}
		name = s.File
	}
	if json.Unmarshal(text, &v) != nil { // its error could show a seed
		return v, fmt.Errorf("%s is no JSON as `sapflow-hub keys show` prints", name)
	}
	if v.Operator == "" || v.Local == "" || len(v.Scoped) != scopedKeys || slices.Contains(v.Scoped, "") {
		return v, fmt.Errorf("%s does not hold all keys: print them with `sapflow-hub keys show`", name)
	}
	for _, account := range accounts {
		if v.Accounts[account] == "" {
			return v, fmt.Errorf("%s has no key of account %s", name, account)
		}
	}
	return v, nil
}

// accounts are the accounts of a hub.
var accounts = []string{SYS, CORE, DEVICES, PEOPLE}

// Open loads the keys in dir and makes the ones that are missing. The
// directory gets mode 0700, the files 0600.
func Open(dir string) (*Keys, error) { return OpenFrom(dir, Source{}) }

// OpenFrom does the same with seeds from outside, if src names some: dir then
// holds the revocations only.
func OpenFrom(dir string, src Source) (*Keys, error) {
	k := &Keys{
		dir:      dir,
		outside:  src.given(),
		accounts: make(map[string]nkeys.KeyPair),
		ids:      make(map[string]string),
		revoked:  make(map[string]int64),
		jwts:     make(map[string]string),
	}
	if err := k.open(src); err != nil {
		return nil, fmt.Errorf("open keys %q: %w", dir, err)
	}
	return k, nil
}

func (k *Keys) open(src Source) error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(k.dir, 0o700); err != nil {
		return err
	}
	if err := daemon.SyncDir(filepath.Dir(k.dir)); err != nil {
		return err
	}
	if err := k.loadSeeds(src); err != nil {
		return err
	}
	if err := readJSON(filepath.Join(k.dir, revocationsFile), &k.revoked); err != nil {
		return err
	}
	if k.revoked == nil { // the file says null
		k.revoked = make(map[string]int64)
	}
	oldest := time.Now().Add(-DeviceTTL).Unix()
	maps.DeleteFunc(k.revoked, func(_ string, at int64) bool { return at < oldest })
	for _, account := range accounts {
		token, err := k.signAccount(account, k.revoked)
		if err != nil {
			return err
		}
		k.jwts[account] = token
	}
	return nil
}

// loadSeeds reads keys.json, completes it, and writes it if it changed; or
// takes the seeds from outside.
func (k *Keys) loadSeeds(src Source) error {
	path := filepath.Join(k.dir, keysFile)
	s := &k.stored
	if k.outside {
		if _, err := os.Stat(path); err == nil {
			return fmt.Errorf("%s is there, and keys were given from outside: move it away", path)
		}
		var err error
		if *s, err = src.read(); err != nil {
			return err
		}
	} else if err := readJSON(path, s); err != nil {
		return err
	}
	if s.Accounts == nil {
		s.Accounts = make(map[string]string)
	}
	changed := false
	load := func(seed *string, prefix nkeys.PrefixByte, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
		if *seed != "" {
			return fromSeed(*seed, prefix)
		}
		changed = true
		return newSeed(seed, create)
	}

	var err error
	if k.operator, err = load(&s.Operator, nkeys.PrefixByteOperator, nkeys.CreateOperator); err != nil {
		return fmt.Errorf("operator key: %w", err)
	}
	for _, account := range accounts {
		seed := s.Accounts[account]
		if k.accounts[account], err = load(&seed, nkeys.PrefixByteAccount, nkeys.CreateAccount); err != nil {
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
		key, err := load(&s.Scoped[i], nkeys.PrefixByteAccount, nkeys.CreateAccount)
		if err != nil {
			return fmt.Errorf("signing key %d: %w", i, err)
		}
		k.scoped = append(k.scoped, key)
	}
	local, err := load(&s.Local, nkeys.PrefixByteUser, nkeys.CreateUser)
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
	s.Retired = retained(s.Retired)
	if !changed || k.outside {
		return nil
	}
	return writeJSON(path, s)
}

// retained returns the retired keys that may have signed what is still good.
func retained(list []Retired) []Retired {
	oldest := time.Now().Add(-DeviceTTL)
	return slices.DeleteFunc(slices.Clone(list), func(r Retired) bool { return r.At.Before(oldest) })
}

// fromSeed reads a seed of a kind. Its error shows nothing of it.
func fromSeed(seed string, prefix nkeys.PrefixByte) (nkeys.KeyPair, error) {
	key, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, errors.New("it is no seed")
	}
	if kind, _, err := nkeys.DecodeSeed([]byte(seed)); err != nil || kind != prefix {
		return nil, errors.New("it is the seed of another kind of key")
	}
	return key, nil
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
		for _, r := range k.stored.Retired {
			claims.SigningKeys.AddScopedSigner(deviceScope(r.PublicKey))
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
func (k *Keys) signer(id string) nkeys.KeyPair { return k.scoped[Slot(id)] }

// Slots is how many signing keys there are.
const Slots = scopedKeys

// Slot returns the place of the signing key of a gateway.
func Slot(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(h.Sum32() % scopedKeys)
}

// Slot returns the place of the signing key of a gateway.
func (k *Keys) Slot(id string) int { return Slot(id) }

// OperatorID returns the public key of the operator.
func (k *Keys) OperatorID() (string, error) { return k.operator.PublicKey() }

// Roll replaces a signing key. What the old one signed stays good until Drop.
// It returns the old and the new public key and the account JWT to hand to the
// server, which closes no connection.
func (k *Keys) Roll(slot int) (old, fresh, accountJWT string, err error) {
	if slot < 0 || slot >= scopedKeys {
		return "", "", "", fmt.Errorf("roll key %d: there are 0 to %d", slot, scopedKeys-1)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.stored
	next.Scoped = slices.Clone(next.Scoped)
	key, err := newSeed(&next.Scoped[slot], nkeys.CreateAccount)
	if err == nil {
		fresh, err = key.PublicKey()
	}
	if err == nil {
		old, err = k.scoped[slot].PublicKey()
	}
	if err != nil {
		return "", "", "", fmt.Errorf("roll key %d: %w", slot, err)
	}
	next.Retired = append(retained(next.Retired), Retired{Slot: slot, PublicKey: old, At: time.Now().UTC()})
	scoped := slices.Clone(k.scoped)
	scoped[slot] = key
	if accountJWT, err = k.change(next, scoped); err != nil {
		return "", "", "", fmt.Errorf("roll key %d: %w", slot, err)
	}
	return old, fresh, accountJWT, nil
}

// Drop voids what a retired key has signed, "" for all of them, and returns
// the account JWT to hand to the server: it closes what still uses them.
func (k *Keys) Drop(publicKey string) (accountJWT string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.stored
	next.Retired = slices.DeleteFunc(retained(next.Retired), func(r Retired) bool { return publicKey == "" || r.PublicKey == publicKey })
	if accountJWT, err = k.change(next, k.scoped); err != nil {
		return "", fmt.Errorf("drop key: %w", err)
	}
	return accountJWT, nil
}

// Retired returns the replaced keys whose signatures are still good.
func (k *Keys) Retired() []Retired {
	k.mu.Lock()
	defer k.mu.Unlock()
	return retained(k.stored.Retired)
}

// Signs tells whether a key signs the credentials of gateways, or did so and
// they are still good.
func (k *Keys) Signs(publicKey string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.scoped {
		if public, err := key.PublicKey(); err == nil && public == publicKey {
			return true
		}
	}
	return slices.ContainsFunc(k.stored.Retired, func(r Retired) bool { return r.PublicKey == publicKey })
}

// AdminToken returns the token of administrators, which is made when file is
// not there, readable by its owner only.
func AdminToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte("sapflow-admin-" + strings.ToLower(rand.Text()+rand.Text()))
		err = daemon.WriteFile(file, append(text, '\n'))
	}
	if err != nil {
		return "", fmt.Errorf("token of administrators: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < 32 {
		return "", fmt.Errorf("token of administrators: %s is too short; remove it, and a new one is made", file)
	}
	return token, nil
}

// change makes other seeds durable, then those in use.
func (k *Keys) change(next stored, scoped []nkeys.KeyPair) (string, error) {
	if k.outside {
		return "", ErrOutside
	}
	before, keys := k.stored, k.scoped
	k.stored, k.scoped = next, scoped
	token, err := k.signAccount(DEVICES, k.revoked)
	if err == nil {
		err = writeJSON(filepath.Join(k.dir, keysFile), next)
	}
	if err != nil {
		k.stored, k.scoped = before, keys
		return "", err
	}
	k.jwts[DEVICES] = token
	return token, nil
}

// Revoke voids a key that lost its rights at a time, which lies in the past
// unless the clock was ahead: every JWT issued for it until then and until now, and IssueDevice refuses it. That is durable when Revoke
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
	// Not before now: a JWT may have been issued in between. But later, if it was
	// issued while the clock was ahead.
	revoked[userPub] = max(now.Unix(), at.Unix())
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
