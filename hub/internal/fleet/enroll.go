package fleet

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"
)

// EnrollRequest is what a gateway sends to become one.
type EnrollRequest struct {
	Token     string `json:"token"`
	PublicKey string `json:"publicKey"` // user nkey; the seed stays there
	Signature string `json:"signature"` // base64, URL alphabet, no padding
}

// String hides the token.
func (q EnrollRequest) String() string { return "enrolment of " + q.PublicKey }

// GoString hides the token.
func (q EnrollRequest) GoString() string { return q.String() }

// EnrollReply is what it needs from then on.
type EnrollReply struct {
	ID      string    `json:"id"`
	JWT     string    `json:"jwt"`
	LeafURL string    `json:"leafUrl"`
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

// check verifies that the key is a user key and that the sender has its seed.
func (q EnrollRequest) check() error {
	if !nkeys.IsValidPublicUserKey(q.PublicKey) {
		return fmt.Errorf("%w: it is not a user nkey", ErrKeyInvalid)
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

// Enroll gives the gateway that a token is for to the key of the request, and
// voids the key that it had. The token is good once, and again for the same
// key as long as it has not expired, because a reply may get lost.
func (r *Registry) Enroll(ctx context.Context, req EnrollRequest) (EnrollReply, error) {
	if err := req.check(); err != nil {
		return EnrollReply{}, fmt.Errorf("enrol: %w", err)
	}
	now := r.cfg.Now().UTC()
	d, err := r.change(ctx, tokenID(req.Token), func(d *Device) error {
		again, err := d.claim(req.Token, req.PublicKey, now)
		if again {
			return errUnchanged
		}
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = ErrTokenInvalid // which gateways exist is nobody's business
	}
	if err != nil {
		return EnrollReply{}, fmt.Errorf("enrol: %w", err)
	}
	if err := r.enforce(d.RevokedKeys); err != nil {
		return EnrollReply{}, fmt.Errorf("enrol %s: %w", d.ID, err)
	}
	token, err := r.cfg.Issuer.IssueDevice(d.ID, d.PublicKey, r.cfg.KeyTTL)
	if err != nil {
		return EnrollReply{}, fmt.Errorf("enrol %s: %w", d.ID, err)
	}
	r.log.Info().Str("node_id", d.ID).Int("generation", d.Generation).Msg("gateway enrolled")
	if r.cfg.Enrolled != nil {
		r.cfg.Enrolled(d.ID)
	}
	return EnrollReply{ID: d.ID, JWT: token, LeafURL: r.cfg.LeafURL, HubTime: now}, nil
}
