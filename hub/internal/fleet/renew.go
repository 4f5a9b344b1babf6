package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
)

const (
	// maxRenewals bounds the requests that wait; more are dropped, and come
	// again after minutes.
	maxRenewals = 256
	// renewEvery and renewBurst bound what one gateway can have signed.
	renewEvery = time.Minute
	renewBurst = 3
)

// Renewal is the answer to a gateway that asks for a new credential.
type Renewal struct {
	JWT   string     `json:"jwt,omitempty"`
	Error *api.Error `json:"error,omitempty"`
}

// String hides the JWT.
func (r Renewal) String() string { return "renewal" }

// GoString hides the JWT.
func (r Renewal) GoString() string { return r.String() }

// Renew takes the request of a gateway that its connection has authenticated.
// It does not block.
func (r *Registry) Renew(id string) {
	select {
	case r.renewals <- id:
	default: // it asks again
	}
}

// Run answers requests until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	limits := map[string]*rate.Limiter{} // one for each gateway that has a gate
	sweep := time.NewTicker(24 * time.Hour)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Msg("old tokens not removed")
			}
		case id := <-r.renewals:
			limit := limits[id]
			if limit == nil {
				limit = rate.NewLimiter(rate.Every(min(renewEvery, r.cfg.KeyTTL/10)), renewBurst)
				limits[id] = limit
			}
			by := audit.By(ctx, "gateway "+id, "link")
			if !limit.Allow() {
				r.cfg.Audit.Refuse(by, id, api.Errorf(api.CodeBusy, "", "too many renewals"))
				continue
			}
			if err := r.Push(by, id); err != nil && ctx.Err() == nil {
				r.log.Warn().Err(err).Str("node_id", id).Msg("credential not renewed")
			}
		}
	}
}

// Push sends a gateway a new credential over its link, or why there is none.
func (r *Registry) Push(ctx context.Context, id string) error {
	d, err := r.Get(ctx, id)
	var reply EnrollReply
	if err == nil {
		reply, err = r.renewed(ctx, id, d.PublicKey)
	}
	answer := Renewal{JWT: reply.JWT}
	if err != nil {
		if api.CodeOf(err) != api.CodeInternal {
			r.cfg.Audit.Refuse(ctx, id, err)
		}
		answer.Error = api.From(err)
	}
	data, encoding := json.Marshal(answer)
	return errors.Join(err, encoding, r.cfg.Send(id, data))
}

// renewed signs a new credential for the key that a gateway has.
func (r *Registry) renewed(ctx context.Context, id, publicKey string) (EnrollReply, error) {
	d, err := r.change(ctx, id, func(d *Device) error {
		if !d.good(publicKey) {
			return ErrRevoked
		}
		d.Expires = r.cfg.Now().UTC().Add(r.cfg.KeyTTL)
		return nil
	})
	if err != nil {
		return EnrollReply{}, err
	}
	// One that waits because the hub's clock was ahead for a while does so no more.
	if a, err := r.applicant(ctx, publicKey); err == nil && a.State == StatePending && a.Node == id {
		if err := r.kv.Purge(ctx, applicantKey(publicKey)); err != nil {
			return EnrollReply{}, err
		}
	}
	reply, err := r.sign(d)
	if err == nil {
		r.log.Info().Str("node_id", id).Time("expires", d.Expires).Msg("credential renewed")
		r.cfg.Audit.Note(ctx, audit.DeviceRenewed, id, "key", KeyID(publicKey), "expires", d.Expires.Format(time.RFC3339))
	}
	return reply, err
}

// cloneEvery is how often a clone of one gateway is counted.
const cloneEvery = time.Minute

// Clone notes that the key of a gateway was seen in two places.
func (r *Registry) Clone(ctx context.Context, id, how string) error {
	now := r.cfg.Now().UTC()
	seen := false
	d, err := r.change(ctx, id, func(d *Device) error {
		if seen = d.Clone == how && now.Sub(d.CloneAt) < cloneEvery; seen {
			return errUnchanged
		}
		d.Clones++
		d.Clone, d.CloneAt = how, now
		return nil
	})
	if err != nil || seen {
		return err
	}
	r.log.Warn().Str("node_id", id).Str("how", how).Int("times", d.Clones).Msg("the key of a gateway is used in two places")
	r.cfg.Audit.Note(ctx, audit.DeviceClone, id, "how", how, "key", KeyID(d.PublicKey))
	return nil
}
