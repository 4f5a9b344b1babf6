package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
	"time"
)

// The states of a gateway. One that waits (pending) or was turned away
// (rejected) has no node and no record of its own, see Applicant.
const (
	StateNew      = "new"      // added, never enrolled
	StatePending  = "pending"  // asks to be let in
	StateAccepted = "accepted" // enrolled, its key is good
	StateRejected = "rejected" // turned away
	StateRevoked  = "revoked"  // its key is void, until it enrols with a new token
)

// Device is the record of one gateway, stored as JSON under its id.
type Device struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Plan         string       `json:"plan"`
	State        string       `json:"state"`
	PublicKey    string       `json:"publicKey,omitempty"`
	CreatedAt    time.Time    `json:"createdAt"`
	EnrolledAt   time.Time    `json:"enrolledAt,omitzero"`
	Expires      time.Time    `json:"expires,omitzero"`    // of the last JWT, at the latest
	TokenHash    string       `json:"tokenHash,omitempty"` // SHA-256 in hex
	TokenExpires time.Time    `json:"tokenExpires,omitzero"`
	TokenUsed    bool         `json:"tokenUsed,omitempty"` // by PublicKey
	Generation   int          `json:"generation"`          // number of enrolments
	RevokedKeys  []RevokedKey `json:"revokedKeys,omitempty"`
	Clones       int          `json:"clones,omitempty"` // how often its key was seen in two places
	Clone        string       `json:"clone,omitempty"`  // how, the last time
	CloneAt      time.Time    `json:"cloneAt,omitzero"`
}

// RevokedKey is a key that the gateway had, kept until its last JWT expired.
type RevokedKey struct {
	PublicKey string    `json:"publicKey"`
	At        time.Time `json:"at"`
}

// newToken gives the device a claim token: "<id>.<secret>", where the secret
// has 130 random bits. The record keeps its hash.
func (d *Device) newToken(expires time.Time) string {
	token := d.ID + "." + secret()
	d.TokenHash, d.TokenExpires, d.TokenUsed = hashToken(token), expires, false
	return token
}

func secret() string { return strings.ToLower(rand.Text()) }

// tokenID returns the gateway that a token claims to be for.
func tokenID(token string) string {
	id, _, _ := strings.Cut(token, ".")
	return id
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func sameHash(token, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(hashToken(token)), []byte(hash)) == 1
}

// claim takes the device for a key, if the token is good. again is true when
// that key has claimed it with this token before: the reply was lost.
func (d *Device) claim(token, publicKey string, now time.Time, ttl time.Duration) (again bool, err error) {
	switch {
	case !sameHash(token, d.TokenHash):
		return false, ErrTokenInvalid
	case !now.Before(d.TokenExpires):
		return false, ErrTokenExpired
	case d.TokenUsed && d.PublicKey == publicKey:
		return true, nil
	case d.TokenUsed:
		return false, ErrTokenUsed
	}
	if err := d.take(publicKey, now, ttl); err != nil {
		return false, err
	}
	d.TokenUsed = true
	return false, nil
}

// take makes a key that of the gateway; the one that it had is void.
func (d *Device) take(publicKey string, now time.Time, ttl time.Duration) error {
	if d.revoked(publicKey) {
		return ErrKeyInvalid
	}
	if d.PublicKey != publicKey {
		d.revokeKey(now, ttl)
	}
	d.State, d.PublicKey, d.EnrolledAt = StateAccepted, publicKey, now
	d.Clones, d.Clone, d.CloneAt = 0, "", time.Time{}
	d.Generation++
	return nil
}

// signMargin is more than the time from a record to the signature that it
// tells of.
const signMargin = time.Minute

// revokeKey moves the current key, if any, to the revoked ones. What a hub
// signed whose clock was ahead is void as well: it counts as issued then.
func (d *Device) revokeKey(now time.Time, ttl time.Duration) {
	if d.PublicKey == "" || d.revoked(d.PublicKey) {
		return
	}
	if issued := d.Expires.Add(signMargin - ttl); issued.After(now.Add(signMargin)) {
		now = issued
	}
	d.RevokedKeys = append(d.RevokedKeys, RevokedKey{PublicKey: d.PublicKey, At: now})
}

func (d *Device) revoked(publicKey string) bool {
	for _, key := range d.RevokedKeys {
		if key.PublicKey == publicKey {
			return true
		}
	}
	return false
}

// good tells whether a key is that of the gateway and not void.
func (d *Device) good(publicKey string) bool {
	return d.State == StateAccepted && d.PublicKey == publicKey && !d.revoked(publicKey)
}
