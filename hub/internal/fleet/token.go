package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/hub/internal/audit"
)

// maxTokenCount bounds how many boxes may use a token: its record names them.
const maxTokenCount = 1000

// tokenMark is what tokens begin with that are not for one gateway:
// "fleet.<id>.<secret>". Those of a gateway have one dot.
const tokenMark = "fleet."

// Token is the record of a token for boxes that are not known yet: one for a
// site (Count 1, Auto), or for a fleet.
type Token struct {
	ID        string    `json:"id"`
	Hash      string    `json:"hash"` // SHA-256 in hex
	Parent    string    `json:"parent"`
	Plan      string    `json:"plan,omitempty"`
	Count     int       `json:"count"` // boxes that may use it
	Auto      bool      `json:"auto"`  // let in at once
	CreatedAt time.Time `json:"createdAt"`
	Expires   time.Time `json:"expires"`
	Keys      []string  `json:"keys,omitempty"` // public keys that have used it
}

// use notes that a key uses the token; the same one may again.
func (t *Token) use(token, publicKey string, now time.Time) error {
	switch {
	case !sameHash(token, t.Hash):
		return ErrTokenInvalid
	case slices.Contains(t.Keys, publicKey):
		return errUnchanged
	case !now.Before(t.Expires):
		return ErrTokenExpired
	case len(t.Keys) >= t.Count:
		return ErrTokenUsed
	}
	t.Keys = append(t.Keys, publicKey)
	return nil
}

func tokenKey(id string) string { return "token." + id }

// fleetToken returns the id of a token that is not for one gateway.
func fleetToken(token string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(token, tokenMark)
	id, _, dot := strings.Cut(rest, ".")
	return id, ok && dot && id != "" && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// AddToken makes a token by Parent, Plan, Count, Auto and Expires, a time that
// may be left out; the rest of t is ignored.
func (r *Registry) AddToken(ctx context.Context, t Token) (Token, string, error) {
	if t.Count = cmp.Or(t.Count, 1); t.Count < 1 || t.Count > maxTokenCount {
		return t, "", fmt.Errorf("make token: %w", errCount)
	}
	now := r.cfg.Now().UTC()
	if t.Expires.IsZero() {
		t.Expires = now.Add(r.cfg.TokenTTL)
	}
	t.ID, t.CreatedAt, t.Keys = secret()[:8], now, nil
	token := tokenMark + t.ID + "." + secret()
	t.Hash = hashToken(token)
	data, err := json.Marshal(t)
	if err == nil {
		_, err = r.kv.Create(ctx, tokenKey(t.ID), data)
	}
	if err != nil {
		return t, "", fmt.Errorf("make token: %w", err)
	}
	r.cfg.Audit.Note(ctx, audit.TokenMade, t.ID, "parent", t.Parent, "count", strconv.Itoa(t.Count),
		"auto", strconv.FormatBool(t.Auto), "expires", t.Expires.Format(time.RFC3339))
	return t, token, nil
}

// Tokens returns the tokens that are not for one gateway, ordered by age.
func (r *Registry) Tokens(ctx context.Context) ([]Token, error) {
	tokens, err := list[Token](ctx, r.kv, tokenKey("*"))
	slices.SortFunc(tokens, func(a, b Token) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return tokens, err
}

// RemoveToken withdraws such a token. Who has used it stays.
func (r *Registry) RemoveToken(ctx context.Context, id string) error {
	if _, ok := fleetToken(tokenMark + id + "."); !ok {
		return ErrNotFound
	}
	_, err := r.kv.Get(ctx, tokenKey(id))
	if err == nil {
		err = r.kv.Purge(ctx, tokenKey(id))
	}
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("withdraw token %s: %w", id, err)
	}
	r.cfg.Audit.Note(ctx, audit.TokenWithdrawn, id)
	return nil
}

// sweep removes tokens that ended longer ago than a reply can be lost, and
// keys that nobody remembers.
func (r *Registry) sweep(ctx context.Context) error {
	tokens, err := r.Tokens(ctx)
	if err != nil {
		return err
	}
	oldest := r.cfg.Now().Add(-r.cfg.KeyTTL)
	for _, t := range tokens {
		if t.Expires.Before(oldest) {
			if err := r.kv.Purge(ctx, tokenKey(t.ID)); err != nil {
				return err
			}
		}
	}
	applicants, err := r.Applicants(ctx)
	if err != nil {
		return err
	}
	for _, a := range applicants {
		if a.State == StateRevoked && a.DecidedAt.Before(oldest) {
			if err := r.kv.Purge(ctx, applicantKey(a.PublicKey)); err != nil {
				return err
			}
		}
	}
	return nil
}
