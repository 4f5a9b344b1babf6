package fleet

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
)

// EnrollRequest is what a gateway sends to become one, or to be one again.
// Without a token its key must be known: registered, waiting, or its own.
type EnrollRequest struct {
	Token     string `json:"token"`
	PublicKey string `json:"publicKey"` // user nkey; the seed stays there
	Signature string `json:"signature"` // base64, URL alphabet, no padding
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"` // what it would like to be called
	Plan      string `json:"plan,omitempty"`
}

// String hides the token.
func (q EnrollRequest) String() string { return "enrolment of " + q.PublicKey }

// GoString hides the token.
func (q EnrollRequest) GoString() string { return q.String() }

// EnrollReply is what it needs from then on; or, with State pending, that it
// shall ask again after Retry ms.
type EnrollReply struct {
	ID      string    `json:"id,omitempty"`
	JWT     string    `json:"jwt,omitempty"`
	LeafURL string    `json:"leafUrl,omitempty"`
	LeafPin string    `json:"leafPin,omitempty"`
	State   string    `json:"state,omitempty"`
	Key     string    `json:"key,omitempty"` // how people call its key
	Retry   int64     `json:"retryMs,omitempty"`
	HubTime time.Time `json:"hubTime"`
}

// String hides the JWT.
func (r EnrollReply) String() string { return "enrolment of " + r.ID }

// GoString hides the JWT.
func (r EnrollReply) GoString() string { return r.String() }

// EnrollMessage is what a gateway signs with its key to claim a token.
func EnrollMessage(token, publicKey string) []byte {
	return []byte("sapflow-enroll\n" + token + "\n" + publicKey)
}

func checkKey(publicKey string) error {
	if !nkeys.IsValidPublicUserKey(publicKey) {
		return fmt.Errorf("%w: it is not a user nkey", ErrKeyInvalid)
	}
	return nil
}

// check verifies that the key is a user key and that the sender has its seed.
func (q EnrollRequest) check() error {
	if err := checkKey(q.PublicKey); err != nil {
		return err
	}
	key, err := nkeys.FromPublicKey(q.PublicKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyInvalid, err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(q.Signature)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProofInvalid, err)
	}
	if err := key.Verify(EnrollMessage(q.Token, q.PublicKey), signature); err != nil {
		return fmt.Errorf("%w: %w", ErrProofInvalid, err)
	}
	return nil
}

// Enroll answers a gateway that proves to have a key.
//
// With the token of a gateway it gives that gateway to the key, and voids the
// key that it had: the token is good once, and again for the same key as long
// as it has not expired, because a reply may get lost. With another token the
// key becomes a new gateway, or waits. Without one it gets what it has a right
// to: a credential, or the word to wait.
func (r *Registry) Enroll(ctx context.Context, req EnrollRequest) (EnrollReply, error) {
	if err := req.check(); err != nil {
		return EnrollReply{}, fmt.Errorf("enrol: %w", err)
	}
	ctx = audit.By(ctx, "key "+KeyID(req.PublicKey), audit.From(ctx))
	reply, err := r.enroll(ctx, req)
	if err != nil {
		r.cfg.Audit.Refuse(ctx, KeyID(req.PublicKey), err, "id", req.ID)
		return EnrollReply{}, fmt.Errorf("enrol: %w", err)
	}
	return reply, nil
}

func (r *Registry) enroll(ctx context.Context, req EnrollRequest) (EnrollReply, error) {
	if req.Token == "" {
		return r.ask(ctx, req)
	}
	if id, ok := fleetToken(req.Token); ok {
		return r.useToken(ctx, id, req)
	}
	now, again := r.cfg.Now().UTC(), false
	d, err := r.change(ctx, tokenID(req.Token), func(d *Device) (err error) {
		again, err = d.claim(req.Token, req.PublicKey, now, r.cfg.KeyTTL)
		d.Expires = now.Add(r.cfg.KeyTTL)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = ErrTokenInvalid // which gateways exist is nobody's business
	}
	if err == nil {
		err = r.enforce(ctx, d.ID, d.RevokedKeys)
	}
	if err != nil {
		return EnrollReply{}, err
	}
	r.enrolled(ctx, d, again)
	return r.sign(d)
}

// enrolled tells that a gateway has a key, perhaps a new one.
func (r *Registry) enrolled(ctx context.Context, d Device, again bool) {
	if !again {
		r.log.Info().Str("node_id", d.ID).Int("generation", d.Generation).Msg("gateway enrolled")
		r.cfg.Audit.Note(ctx, audit.DeviceEnrolled, d.ID, "key", KeyID(d.PublicKey), "generation", strconv.Itoa(d.Generation))
	}
	if r.cfg.Enrolled != nil {
		r.cfg.Enrolled(d.ID)
	}
}

// sign makes what a gateway needs.
func (r *Registry) sign(d Device) (EnrollReply, error) {
	token, err := r.cfg.Issuer.IssueDevice(d.ID, d.PublicKey, r.cfg.KeyTTL)
	if err != nil {
		return EnrollReply{}, err
	}
	return EnrollReply{ID: d.ID, JWT: token, LeafURL: r.cfg.LeafURL, LeafPin: r.cfg.LeafPin, HubTime: r.cfg.Now().UTC()}, nil
}

// The refusals of Enroll; what they say is what a gateway is told.
var (
	// ErrTokenInvalid is returned for a token that was never given out, or
	// was replaced by a newer one, or died with a revocation.
	ErrTokenInvalid = api.Errorf(api.CodeTokenInvalid, "copy the whole enrol line, or make a new token: sapflow-hub device token NODE", "the token is not valid")
	// ErrTokenUsed is returned for a token that another key has used.
	ErrTokenUsed = api.Errorf(api.CodeTokenUsed, "make a new token: sapflow-hub device token NODE", "the token was used already, by another gateway or disk")
	// ErrTokenExpired is returned for a token that is too old.
	ErrTokenExpired = api.Errorf(api.CodeTokenExpired, "make a new token: sapflow-hub device token NODE", "the token has expired")
	// ErrKeyInvalid is returned for a key of a wrong kind or a revoked one.
	ErrKeyInvalid = api.Errorf(api.CodeKeyInvalid, "enrol again with a new key", "the public key is not acceptable")
	// ErrKeyUnknown is returned for a key that comes without a token and that
	// nobody has registered.
	ErrKeyUnknown = api.Errorf(api.CodeKeyUnknown, "register it: sapflow-hub device add NAME --key KEY; or enrol with a token", "the hub does not know this key")
	// ErrProofInvalid is returned when the signature is not by the key.
	ErrProofInvalid = api.Errorf(api.CodeProofInvalid, "sign token and key with the seed of the key", "the signature does not belong to the token and key")
	// ErrRejected is returned for a gateway that was turned away.
	ErrRejected = api.Errorf(api.CodeRejected, "ask the operator of the hub, then enrol with a new token", "the hub has turned this gateway away")
	// ErrRevoked is returned for a key that is void: of a gateway that was
	// revoked or removed, or whose box was replaced.
	ErrRevoked = api.Errorf(api.CodeRevoked, "enrol with a new token: sapflow-hub device token NODE", "the key of this gateway was revoked")
)
