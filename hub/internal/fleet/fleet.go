// Package fleet owns the registry of gateways: who may enrol, which key each
// one has, which keys are void. It lives in a JetStream key-value bucket: a
// gateway under its id, what is known about a public key under key.<key>, a
// token for gateways that are not known yet under token.<id>.
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

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
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
	// ErrNotFound is returned for a gateway or token that is not registered.
	ErrNotFound = api.Errorf(api.CodeNotFound, "see `sapflow-hub device list`", "no such gateway")
	// ErrExists is returned by Add for an id that is taken.
	ErrExists = api.Errorf(api.CodeConflict, "choose another id", "gateway exists already")

	errCount = api.Errorf(api.CodeInvalid, "make several tokens for more", "a token is for 1 to %d gateways", maxTokenCount)
)

// Issuer signs and revokes credentials; cred.Keys does.
type Issuer interface {
	// IssueDevice returns the JWT of a gateway for a user public key.
	IssueDevice(id, userPub string, ttl time.Duration) (string, error)
	// Revoke durably voids a key that lost its rights at a time, what was
	// issued for it and what would be, and returns the account JWT that
	// says so. It may be repeated.
	Revoke(userPub string, at time.Time) (accountJWT string, err error)
	// Roll replaces the signing key of a slot; what the old one signed stays
	// good until Drop.
	Roll(slot int) (old, fresh, accountJWT string, err error)
	Drop(publicKey string) (accountJWT string, err error)
}

// Server holds the live connections; natsd.Server does.
type Server interface {
	// UpdateDevices puts an account JWT in force, before it returns.
	UpdateDevices(accountJWT string) error
	// SignedBy returns the gateways that are connected with a credential that a
	// key has signed.
	SignedBy(publicKey string) (ids []string)
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
	// LeafPin is the pin of the certificate there, if it is the hub's own.
	LeafPin string
	// Audit is told what happens; nil is told nothing.
	Audit *audit.Log
	// Make makes the node of a new gateway below a parent and adds it, durably;
	// it may be repeated. Required where tokens for new gateways are used.
	Make func(ctx context.Context, d Device, parent string) error
	// NewID chooses the id of a new gateway; required with Make.
	NewID func() string
	// Send puts a renewed credential on the way to a gateway; required with Run.
	Send func(id string, data []byte) error
	// Reenroll lets a gateway whose credential has ended have a new one for
	// proving its key; default false: it waits until it is accepted.
	Reenroll bool
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

	renewals chan string // of gateways; closed by nobody, bounded by maxRenewals

	mu sync.Mutex // orders the account JWTs on their way to the server
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
	r := &Registry{cfg: cfg, kv: kv, renewals: make(chan string, maxRenewals), log: cfg.Log.With().Str("component", "fleet").Logger()}
	devices, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	var keys []RevokedKey
	for _, d := range devices {
		keys = append(keys, d.RevokedKeys...)
	}
	if err := r.void(keys); err != nil {
		return nil, err
	}
	return r, r.sweep(ctx)
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
	r.cfg.Audit.Note(ctx, audit.DeviceAdded, d.ID, "name", d.Name, "plan", d.Plan)
	return nil
}

// Token makes a one-time claim token for a gateway, good for ttl, 0 for the
// default, and voids an older one. The gateway's present key stays good until
// the token is used.
func (r *Registry) Token(ctx context.Context, id string, ttl time.Duration) (string, error) {
	var token string
	expires := r.cfg.Now().UTC().Add(cmp.Or(ttl, r.cfg.TokenTTL))
	_, err := r.change(ctx, id, func(d *Device) error {
		token = d.newToken(expires)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make token for %s: %w", id, err)
	}
	r.cfg.Audit.Note(ctx, audit.TokenMade, id, "expires", expires.Format(time.RFC3339))
	return token, nil
}

// Revoke voids the key and the token of a gateway and closes its connection.
func (r *Registry) Revoke(ctx context.Context, id string) error {
	if err := r.withdraw(ctx, id); err != nil {
		return fmt.Errorf("revoke %s: %w", id, err)
	}
	d, err := r.change(ctx, id, func(d *Device) error {
		d.revokeKey(r.cfg.Now().UTC(), r.cfg.KeyTTL)
		d.State, d.TokenHash, d.TokenExpires = StateRevoked, "", time.Time{}
		return nil
	})
	if err == nil {
		err = r.enforce(ctx, id, d.RevokedKeys)
	}
	if err != nil {
		return fmt.Errorf("revoke %s: %w", id, err)
	}
	r.log.Info().Str("node_id", id).Msg("gateway revoked")
	r.cfg.Audit.Note(ctx, audit.DeviceRevoked, id, "key", KeyID(d.PublicKey))
	return nil
}

// Remove revokes a gateway and forgets it.
func (r *Registry) Remove(ctx context.Context, id string) error {
	if err := r.withdraw(ctx, id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	for {
		d, revision, err := r.get(ctx, id)
		if err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		// Revoked first: without the record nobody would know what to void.
		d.revokeKey(r.cfg.Now().UTC(), r.cfg.KeyTTL)
		if err := r.enforce(ctx, id, d.RevokedKeys); err != nil {
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
		r.cfg.Audit.Note(ctx, audit.DeviceRemoved, id, "key", KeyID(d.PublicKey))
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
	devices, err := list[Device](ctx, r.kv, "*")
	slices.SortFunc(devices, func(a, b Device) int { return cmp.Compare(a.ID, b.ID) })
	return devices, err
}

// list returns the records whose key matches a pattern.
func list[T any](ctx context.Context, kv jetstream.KeyValue, pattern string) ([]T, error) {
	watch, err := kv.Watch(ctx, pattern, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list gateways: %w", err)
	}
	defer watch.Stop()
	var all []T
	for {
		select {
		case entry, ok := <-watch.Updates():
			if !ok {
				return nil, errors.New("list gateways: connection closed")
			}
			if entry == nil { // all values that were there
				return all, nil
			}
			var v T
			if err := json.Unmarshal(entry.Value(), &v); err != nil {
				return nil, fmt.Errorf("list gateways: record %s: %w", entry.Key(), err)
			}
			all = append(all, v)
		case <-ctx.Done():
			return nil, fmt.Errorf("list gateways: %w", ctx.Err())
		}
	}
}

func (r *Registry) get(ctx context.Context, id string) (d Device, revision uint64, err error) {
	if point.CheckID(id) != nil {
		return d, 0, ErrNotFound
	}
	return get[Device](ctx, r.kv, id)
}

func get[T any](ctx context.Context, kv jetstream.KeyValue, key string) (v T, revision uint64, err error) {
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return v, 0, ErrNotFound
	}
	if err != nil {
		return v, 0, err
	}
	if err := json.Unmarshal(entry.Value(), &v); err != nil {
		return v, 0, fmt.Errorf("record: %w", err)
	}
	return v, entry.Revision(), nil
}

// errUnchanged lets an edit end without a write.
var errUnchanged = errors.New("unchanged")

// change edits the record of a gateway.
func (r *Registry) change(ctx context.Context, id string, edit func(*Device) error) (Device, error) {
	if point.CheckID(id) != nil {
		return Device{}, ErrNotFound
	}
	return change(ctx, r.kv, id, func(d *Device) error {
		err := edit(d)
		oldest := r.cfg.Now().Add(-r.cfg.KeyTTL)
		d.RevokedKeys = slices.DeleteFunc(d.RevokedKeys, func(k RevokedKey) bool { return k.At.Before(oldest) })
		return err
	})
}

// change edits a record by compare-and-set: edit is called again on a fresh
// record each time somebody else was faster.
func change[T any](ctx context.Context, kv jetstream.KeyValue, key string, edit func(*T) error) (T, error) {
	for {
		v, revision, err := get[T](ctx, kv, key)
		if err != nil {
			return v, err
		}
		if err := edit(&v); errors.Is(err, errUnchanged) {
			return v, nil
		} else if err != nil {
			return v, err
		}
		data, err := json.Marshal(v)
		if err != nil {
			return v, err
		}
		_, err = kv.Update(ctx, key, data, revision)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return v, err
		}
	}
}

// enforce voids the keys that a gateway had.
func (r *Registry) enforce(ctx context.Context, id string, keys []RevokedKey) error {
	if err := r.void(keys); err != nil {
		return err
	}
	return r.retire(ctx, id, keys)
}

// void voids keys, in the issuer and then on the live connections.
func (r *Registry) void(keys []RevokedKey) error {
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
