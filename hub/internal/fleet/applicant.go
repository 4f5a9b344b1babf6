package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
)

const (
	// askFirst and askLast bound how often a gateway that waits asks again: more
	// rarely the longer it has waited.
	askFirst, askLast = time.Minute, 15 * time.Minute
	// touchEvery is how often it is written down that one has asked.
	touchEvery = 10 * time.Minute
	// maxName bounds what a gateway may call itself.
	maxName = 64
	// keyDigits is how much of a key people type: 75 bits.
	keyDigits = 16
)

// Applicant is what is known about a public key: one that waits, was let in,
// turned away or is void. The record of a gateway has the last word on the key
// that is its own.
type Applicant struct {
	PublicKey string    `json:"publicKey"`
	State     string    `json:"state"`            // pending, accepted, rejected, revoked
	Done      bool      `json:"done,omitempty"`   // accepted, and the gateway has the key
	Node      string    `json:"node,omitempty"`   // the gateway that it is or shall be
	Parent    string    `json:"parent,omitempty"` // of a new one
	Name      string    `json:"name,omitempty"`
	Plan      string    `json:"plan,omitempty"`
	Token     string    `json:"token,omitempty"` // id of the token that it came with
	From      string    `json:"from,omitempty"`  // address that it asked from last
	CreatedAt time.Time `json:"createdAt"`
	AskedAt   time.Time `json:"askedAt,omitzero"`
	DecidedAt time.Time `json:"decidedAt,omitzero"`
}

// KeyID is how people call a public key.
func KeyID(publicKey string) string {
	return strings.ToLower(publicKey[:min(len(publicKey), keyDigits)])
}

func applicantKey(publicKey string) string { return "key." + publicKey }

// Applicants returns what is known about keys, the oldest first.
func (r *Registry) Applicants(ctx context.Context) ([]Applicant, error) {
	all, err := list[Applicant](ctx, r.kv, applicantKey("*"))
	slices.SortFunc(all, func(a, b Applicant) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, err
}

// Applicant returns the gateway without a node that ref names: the beginning
// of its key, 4 characters at least, or its name.
func (r *Registry) Applicant(ctx context.Context, ref string) (Applicant, error) {
	all, err := r.Applicants(ctx)
	if err != nil {
		return Applicant{}, err
	}
	var found []Applicant
	for _, a := range all {
		if a.State != StatePending && a.State != StateRejected {
			continue
		}
		if len(ref) >= 4 && strings.HasPrefix(strings.ToLower(a.PublicKey), strings.ToLower(ref)) || ref != "" && a.Name == ref {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 0:
		return Applicant{}, ErrNotFound
	case 1:
		return found[0], nil
	}
	return Applicant{}, api.Errorf(api.CodeAmbiguous, "give its key, see `sapflow-hub device list`", "%d gateways are called %s", len(found), ref)
}

func (r *Registry) applicant(ctx context.Context, publicKey string) (Applicant, error) {
	a, _, err := get[Applicant](ctx, r.kv, applicantKey(publicKey))
	return a, err
}

// create stores an applicant that is not known; if it is, that one is returned.
func (r *Registry) create(ctx context.Context, a Applicant) (Applicant, error) {
	data, err := json.Marshal(a)
	if err == nil {
		_, err = r.kv.Create(ctx, applicantKey(a.PublicKey), data)
	}
	if errors.Is(err, jetstream.ErrKeyExists) {
		return r.applicant(ctx, a.PublicKey)
	}
	return a, err
}

func (r *Registry) changeApplicant(ctx context.Context, publicKey string, edit func(*Applicant) error) (Applicant, error) {
	return change(ctx, r.kv, applicantKey(publicKey), edit)
}

// Register lets a key in before it asks: as a gateway that was added.
func (r *Registry) Register(ctx context.Context, id, publicKey string) error {
	if err := checkKey(publicKey); err != nil {
		return fmt.Errorf("register key: %w", err)
	}
	a, err := r.create(ctx, Applicant{PublicKey: publicKey, State: StateAccepted, Node: id, CreatedAt: r.cfg.Now().UTC()})
	if err == nil && a.Node != id {
		err = api.Errorf(api.CodeConflict, "see `sapflow-hub device list`", "the key is known already: %s", a.State)
	}
	if err != nil {
		return fmt.Errorf("register key: %w", err)
	}
	r.cfg.Audit.Note(ctx, audit.DeviceAccepted, id, "key", KeyID(publicKey), "how", "registered")
	return nil
}

// withdraw takes back that a key is let in as a gateway, if it has not come yet.
func (r *Registry) withdraw(ctx context.Context, id string) error {
	all, err := r.Applicants(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Node != id || a.State != StateAccepted || a.Done {
			continue
		}
		_, err := r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
			if a.State == StateAccepted {
				a.State = StateRevoked
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Accept lets a gateway in that waits: in the place of the gateway node, else
// as a new one below parent, else as its token said.
func (r *Registry) Accept(ctx context.Context, ref, parent, node, name string) (Device, error) {
	a, err := r.Applicant(ctx, ref)
	if err == nil && node != "" {
		_, err = r.Get(ctx, node)
	}
	if err != nil {
		return Device{}, fmt.Errorf("accept %s: %w", ref, err)
	}
	// What it becomes is durable first, so that a second try makes no second node.
	a, err = r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
		if a.State != StatePending {
			return api.Errorf(api.CodeConflict, "see `sapflow-hub device list`", "%s does not wait, it is %s", ref, a.State)
		}
		switch {
		case node != "":
			a.Node = node
		case parent != "" || a.Node == "":
			a.Node = cmp.Or(r.unmade(ctx, a.Node), r.cfg.NewID())
		}
		a.Parent, a.Name = cmp.Or(parent, a.Parent), cmp.Or(name, a.Name)
		return nil
	})
	if err == nil {
		err = r.made(ctx, a)
	}
	if err == nil {
		a, err = r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
			if a.State != StatePending {
				return errUnchanged // somebody else was faster
			}
			a.State, a.Done, a.DecidedAt = StateAccepted, false, r.cfg.Now().UTC()
			return nil
		})
	}
	var d Device
	if err == nil && a.State != StateAccepted {
		err = ErrRejected
	}
	if err == nil {
		d, err = r.complete(ctx, a)
	}
	if err != nil {
		return Device{}, fmt.Errorf("accept %s: %w", ref, err)
	}
	r.log.Info().Str("node_id", d.ID).Str("key", KeyID(a.PublicKey)).Msg("gateway accepted")
	r.cfg.Audit.Note(ctx, audit.DeviceAccepted, d.ID, "key", KeyID(a.PublicKey), "from", a.From)
	return d, nil
}

// unmade returns an id that was chosen by an Accept that made nothing, "" if
// it is a gateway.
func (r *Registry) unmade(ctx context.Context, id string) string {
	if id == "" {
		return ""
	}
	if _, err := r.Get(ctx, id); errors.Is(err, ErrNotFound) {
		return id
	}
	return ""
}

// Reject turns a gateway away that waits. It is told, and asks no more.
func (r *Registry) Reject(ctx context.Context, ref string) (Applicant, error) {
	a, err := r.Applicant(ctx, ref)
	if err == nil {
		a, err = r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
			if a.State == StateAccepted {
				return api.Errorf(api.CodeConflict, "revoke it: sapflow-hub device revoke NODE", "%s was let in already", ref)
			}
			a.State, a.DecidedAt = StateRejected, r.cfg.Now().UTC()
			return nil
		})
	}
	if err != nil {
		return a, fmt.Errorf("reject %s: %w", ref, err)
	}
	r.cfg.Audit.Note(ctx, audit.DeviceRejected, KeyID(a.PublicKey), "name", a.Name, "from", a.From)
	return a, nil
}

// Forget drops a gateway that waits or was turned away. It may ask anew if its
// token still holds.
func (r *Registry) Forget(ctx context.Context, ref string) error {
	a, err := r.Applicant(ctx, ref)
	if err == nil {
		err = r.kv.Purge(ctx, applicantKey(a.PublicKey))
	}
	if err != nil {
		return fmt.Errorf("forget %s: %w", ref, err)
	}
	r.cfg.Audit.Note(ctx, audit.DeviceRemoved, KeyID(a.PublicKey), "state", a.State)
	return nil
}

// retire notes that keys are void, so that they are told so whatever they ask.
func (r *Registry) retire(ctx context.Context, node string, keys []RevokedKey) error {
	for _, key := range keys {
		now := Applicant{PublicKey: key.PublicKey, State: StateRevoked, Node: node, CreatedAt: key.At, DecidedAt: key.At}
		a, err := r.create(ctx, now)
		if err == nil && a.State != StateRevoked {
			_, err = r.changeApplicant(ctx, key.PublicKey, func(a *Applicant) error {
				a.State, a.DecidedAt = StateRevoked, key.At
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// made makes the node and the record of the gateway that an applicant becomes.
func (r *Registry) made(ctx context.Context, a Applicant) error {
	_, err := r.Get(ctx, a.Node)
	if errors.Is(err, ErrNotFound) {
		err = r.cfg.Make(ctx, Device{ID: a.Node, Name: cmp.Or(a.Name, KeyID(a.PublicKey)), Plan: a.Plan}, a.Parent)
	}
	return err
}

// complete gives the gateway that an accepted applicant is its key. It may be
// repeated, whatever a crash left undone.
func (r *Registry) complete(ctx context.Context, a Applicant) (Device, error) {
	if err := r.made(ctx, a); err != nil {
		return Device{}, err
	}
	now, again := r.cfg.Now().UTC(), false
	d, err := r.change(ctx, a.Node, func(d *Device) error {
		if again = d.good(a.PublicKey); !again {
			if err := d.take(a.PublicKey, now, r.cfg.KeyTTL); err != nil {
				return err
			}
		}
		d.Expires = now.Add(r.cfg.KeyTTL)
		return nil
	})
	if err != nil {
		return d, err
	}
	_, err = r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
		if a.State != StateAccepted {
			return ErrRevoked // meanwhile
		}
		a.Done = true
		return nil
	})
	if errors.Is(err, ErrRevoked) {
		err = errors.Join(err, r.Revoke(ctx, d.ID))
	}
	if err != nil {
		return d, err
	}
	r.enrolled(ctx, d, again)
	return d, r.enforce(ctx, d.ID, d.RevokedKeys)
}

// ask answers a gateway that comes with its key alone.
func (r *Registry) ask(ctx context.Context, req EnrollRequest) (EnrollReply, error) {
	a, err := r.applicant(ctx, req.PublicKey)
	if errors.Is(err, ErrNotFound) {
		if d, err := r.Get(ctx, req.ID); err != nil || d.PublicKey != req.PublicKey {
			return EnrollReply{}, ErrKeyUnknown
		}
		a, err = Applicant{PublicKey: req.PublicKey, State: StateAccepted, Done: true, Node: req.ID}, nil
	}
	if err != nil {
		return EnrollReply{}, err
	}
	switch {
	case a.State == StateRejected:
		return EnrollReply{}, ErrRejected
	case a.State == StateRevoked:
		return EnrollReply{}, ErrRevoked
	case a.State == StateAccepted && !a.Done:
		d, err := r.complete(ctx, a)
		if err != nil {
			return EnrollReply{}, err
		}
		return r.sign(d)
	}
	now := r.cfg.Now().UTC()
	d, err := r.Get(ctx, a.Node)
	good := err == nil && d.good(a.PublicKey)
	switch {
	case good && (r.cfg.Reenroll || now.Before(d.expires(r.cfg.KeyTTL))):
		return r.renewed(ctx, d.ID, a.PublicKey)
	case a.State == StatePending:
		return r.wait(ctx, a)
	case err != nil && !errors.Is(err, ErrNotFound):
		return EnrollReply{}, err
	case !good:
		return EnrollReply{}, ErrRevoked
	}
	// It was away until its credential ended: somebody has to look.
	pending := Applicant{
		PublicKey: a.PublicKey, State: StatePending, Node: d.ID, Name: d.Name, Plan: d.Plan, From: audit.From(ctx), CreatedAt: now, AskedAt: now,
	}
	if a.CreatedAt.IsZero() {
		a, err = r.create(ctx, pending)
	} else {
		a, err = r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error { *a = pending; return nil })
	}
	if err != nil {
		return EnrollReply{}, err
	}
	r.cfg.Audit.Note(ctx, audit.DevicePending, KeyID(a.PublicKey), "node", d.ID, "why", "its credential has ended")
	return r.wait(ctx, a)
}

// wait answers a gateway that has to wait.
func (r *Registry) wait(ctx context.Context, a Applicant) (EnrollReply, error) {
	now, from := r.cfg.Now().UTC(), audit.From(ctx)
	if host, _, err := net.SplitHostPort(from); err == nil { // the port is new each time
		from = host
	}
	if now.Sub(a.AskedAt) >= touchEvery || a.From != from {
		_, err := r.changeApplicant(ctx, a.PublicKey, func(a *Applicant) error {
			a.AskedAt, a.From = now, from
			return nil
		})
		if err != nil {
			return EnrollReply{}, err
		}
	}
	retry := min(max(now.Sub(a.CreatedAt)/4, askFirst), askLast)
	return EnrollReply{State: StatePending, Key: KeyID(a.PublicKey), Retry: retry.Milliseconds(), HubTime: now}, nil
}

// useToken answers a gateway that comes with a token that is not for one.
func (r *Registry) useToken(ctx context.Context, id string, req EnrollRequest) (EnrollReply, error) {
	now := r.cfg.Now().UTC()
	t, err := change(ctx, r.kv, tokenKey(id), func(t *Token) error { return t.use(req.Token, req.PublicKey, now) })
	if errors.Is(err, ErrNotFound) {
		err = ErrTokenInvalid
	}
	if err != nil {
		return EnrollReply{}, err
	}
	a := Applicant{
		PublicKey: req.PublicKey, State: StatePending, Parent: t.Parent, Name: ownName(req.Name), Plan: cmp.Or(t.Plan, req.Plan),
		Token: t.ID, From: audit.From(ctx), CreatedAt: now, AskedAt: now,
	}
	if t.Auto {
		a.State, a.Node, a.DecidedAt = StateAccepted, r.cfg.NewID(), now
	}
	stored, err := r.create(ctx, a)
	if err != nil {
		return EnrollReply{}, err
	}
	if stored == a && a.State == StatePending {
		r.log.Info().Str("key", KeyID(a.PublicKey)).Str("name", a.Name).Msg("gateway waits to be accepted")
		r.cfg.Audit.Note(ctx, audit.DevicePending, KeyID(a.PublicKey), "name", a.Name, "token", t.ID)
	}
	return r.ask(ctx, req)
}

// ownName returns what a gateway may call itself.
func ownName(name string) string {
	runes := []rune(strings.TrimSpace(strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, name)))
	return string(runes[:min(len(runes), maxName)])
}

// expires returns when the last JWT ends; records of before tell it not.
func (d *Device) expires(ttl time.Duration) time.Time {
	if d.Expires.IsZero() {
		return d.EnrolledAt.Add(ttl)
	}
	return d.Expires
}
