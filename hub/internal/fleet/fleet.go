// Package fleet owns the registry of gateways: who may enrol, which key each
// one has, which keys are void. It lives in a JetStream key-value bucket.
//
// Every change is a compare-and-set on the record, so that of two simultaneous
// claims exactly one wins, and the record is durable before anything follows
// from it: whatever a crash leaves undone, Open does again. Claim tokens are
// stored as hashes only. Signing belongs to cred, connections to natsd, the
// nodes of a gateway in the tree to the tree.
package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/point"
)

// Bucket is the name of the key-value bucket.
const Bucket = "fleet"

const (
	defaultTokenTTL = 7 * 24 * time.Hour
	defaultKeyTTL   = 30 * 24 * time.Hour
)

// What the registry refuses, and why.
var (
	// ErrNotFound is returned for a gateway that is not registered.
	ErrNotFound = errors.New("no such gateway")
	// ErrExists is returned by Add for an id that is taken.
	ErrExists = errors.New("gateway exists already")
	// ErrTokenInvalid is returned for a token that was never given out, or
	// was replaced by a newer one, or died with a revocation.
	ErrTokenInvalid = errors.New("token is not valid")
	// ErrTokenUsed is returned for a token that another key has used.
	ErrTokenUsed = errors.New("token was used already")
	// ErrTokenExpired is returned for a token that is too old.
	ErrTokenExpired = errors.New("token has expired")
	// ErrKeyInvalid is returned for a key of a wrong kind or a revoked one.
	ErrKeyInvalid = errors.New("public key is not acceptable")
	// ErrProofInvalid is returned when the signature is not by the key.
	ErrProofInvalid = errors.New("proof of possession is not valid")
)

// Issuer signs and revokes credentials; cred.Keys does.
type Issuer interface {
	// IssueDevice returns the JWT of a gateway for a user public key.
	IssueDevice(id, userPub string, ttl time.Duration) (string, error)
	// Revoke durably voids a key that lost its rights at a time, what was
	// issued for it and what would be, and returns the account JWT that
	// says so. It may be repeated.
	Revoke(userPub string, at time.Time) (accountJWT string, err error)
}

// Server holds the live connections; natsd.Server does.
type Server interface {
	// UpdateDevices puts an account JWT in force, before it returns.
	UpdateDevices(accountJWT string) error
}

// Config says what a registry works with.
type Config struct {
	// JetStream is in the core account, required.
	JetStream jetstream.JetStream
	// Issuer signs, required.
	Issuer Issuer
	// Server hears of revocations, required.
	Server Server
	// LeafURL is what an enrolled gateway is told to dial, required.
	LeafURL string
	// Enrolled is called after a gateway has enrolled; it may be another box.
	Enrolled func(id string)
	// TokenTTL is how long a claim token is good; default 7 days.
	TokenTTL time.Duration
	// KeyTTL is how long a JWT is good and a revoked key is remembered;
	// default 30 days, which is the most that cred signs.
	KeyTTL time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log is silent by default.
	Log zerolog.Logger
}

// Registry is the list of gateways. It is safe for concurrent use.
type Registry struct {
	cfg Config
	log zerolog.Logger
	kv  jetstream.KeyValue
	mu  sync.Mutex // orders the account JWTs on their way to the server
}

// Open opens the bucket, or makes it, and puts every revocation in it in force.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	cfg.TokenTTL = cmp.Or(cfg.TokenTTL, defaultTokenTTL)
	cfg.KeyTTL = cmp.Or(cfg.KeyTTL, defaultKeyTTL)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	kv, err := cfg.JetStream.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      Bucket,
		Description: "gateways",
		Storage:     jetstream.FileStorage,
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", Bucket, err)
	}
	r := &Registry{cfg: cfg, kv: kv, log: cfg.Log.With().Str("component", "fleet").Logger()}
	devices, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	var keys []RevokedKey
	for _, d := range devices {
		keys = append(keys, d.RevokedKeys...)
	}
	return r, r.enforce(keys)
}

// Add registers a gateway by ID, Name and Plan; the rest of d is ignored.
func (r *Registry) Add(ctx context.Context, d Device) error {
	if err := point.CheckID(d.ID); err != nil {
		return fmt.Errorf("add gateway: %w", err)
	}
	d = Device{ID: d.ID, Name: d.Name, Plan: d.Plan, State: StateNew, CreatedAt: r.cfg.Now().UTC()}
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("add gateway %s: %w", d.ID, err)
	}
	_, err = r.kv.Create(ctx, d.ID, data)
	if errors.Is(err, jetstream.ErrKeyExists) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("add gateway %s: %w", d.ID, err)
	}
	return nil
}

// Token makes a one-time claim token for a gateway and voids an older one. The
// gateway's present key stays good until the token is used.
func (r *Registry) Token(ctx context.Context, id string) (string, error) {
	var token string
	_, err := r.change(ctx, id, func(d *Device) error {
		token = d.newToken(r.cfg.Now().UTC().Add(r.cfg.TokenTTL))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make token for %s: %w", id, err)
	}
	return token, nil
}

// Revoke voids the key and the token of a gateway and closes its connection.
func (r *Registry) Revoke(ctx context.Context, id string) error {
	d, err := r.change(ctx, id, func(d *Device) error {
		d.revokeKey(r.cfg.Now().UTC())
		d.State, d.TokenHash, d.TokenExpires = StateRevoked, "", time.Time{}
		return nil
	})
	if err == nil {
		err = r.enforce(d.RevokedKeys)
	}
	if err != nil {
		return fmt.Errorf("revoke %s: %w", id, err)
	}
	r.log.Info().Str("node_id", id).Msg("gateway revoked")
	return nil
}

// Remove revokes a gateway and forgets it.
func (r *Registry) Remove(ctx context.Context, id string) error {
	for {
		d, revision, err := r.get(ctx, id)
		if err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		// Revoked first: without the record nobody would know what to void.
		d.revokeKey(r.cfg.Now().UTC())
		if err := r.enforce(d.RevokedKeys); err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		err = r.kv.Purge(ctx, id, jetstream.LastRevision(revision))
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		r.log.Info().Str("node_id", id).Msg("gateway removed")
		return nil
	}
}

// Get returns a gateway, or ErrNotFound.
func (r *Registry) Get(ctx context.Context, id string) (Device, error) {
	d, _, err := r.get(ctx, id)
	if err != nil {
		return Device{}, fmt.Errorf("get gateway %s: %w", id, err)
	}
	return d, nil
}

// List returns all gateways, ordered by id.
func (r *Registry) List(ctx context.Context) ([]Device, error) {
	watch, err := r.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list gateways: %w", err)
	}
	defer watch.Stop()
	var devices []Device
	for {
		select {
		case entry, ok := <-watch.Updates():
			if !ok {
				return nil, errors.New("list gateways: connection closed")
			}
			if entry == nil { // all values that were there
				slices.SortFunc(devices, func(a, b Device) int { return cmp.Compare(a.ID, b.ID) })
				return devices, nil
			}
			var d Device
			if err := json.Unmarshal(entry.Value(), &d); err != nil {
				return nil, fmt.Errorf("list gateways: record %s: %w", entry.Key(), err)
			}
			devices = append(devices, d)
		case <-ctx.Done():
			return nil, fmt.Errorf("list gateways: %w", ctx.Err())
		}
	}
}

func (r *Registry) get(ctx context.Context, id string) (d Device, revision uint64, err error) {
	if point.CheckID(id) != nil {
		return d, 0, ErrNotFound
	}
	entry, err := r.kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return d, 0, ErrNotFound
	}
	if err != nil {
		return d, 0, err
	}
	if err := json.Unmarshal(entry.Value(), &d); err != nil {
		return d, 0, fmt.Errorf("record: %w", err)
	}
	return d, entry.Revision(), nil
}

// errUnchanged lets an edit end without a write.
var errUnchanged = errors.New("unchanged")

// change edits a record by compare-and-set: edit is called again on a fresh
// record each time somebody else was faster.
func (r *Registry) change(ctx context.Context, id string, edit func(*Device) error) (Device, error) {
	for {
		d, revision, err := r.get(ctx, id)
		if err != nil {
			return d, err
		}
		if err := edit(&d); errors.Is(err, errUnchanged) {
			return d, nil
		} else if err != nil {
			return d, err
		}
		oldest := r.cfg.Now().Add(-r.cfg.KeyTTL)
		d.RevokedKeys = slices.DeleteFunc(d.RevokedKeys, func(k RevokedKey) bool { return k.At.Before(oldest) })
		data, err := json.Marshal(d)
		if err != nil {
			return d, err
		}
		_, err = r.kv.Update(ctx, id, data, revision)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return d, err
		}
	}
}

// enforce voids keys, in the issuer and then on the live connections.
func (r *Registry) enforce(keys []RevokedKey) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var accountJWT string
	for _, key := range keys {
		var err error
		if accountJWT, err = r.cfg.Issuer.Revoke(key.PublicKey, key.At); err != nil {
			return err
		}
	}
	if accountJWT == "" {
		return nil
	}
	return r.cfg.Server.UpdateDevices(accountJWT)
}
