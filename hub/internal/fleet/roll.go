package fleet

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
)

const (
	// rollWait is how long gateways have to come with a new credential before
	// what the old key signed is void; who is too late asks by HTTP.
	rollWait = 10 * time.Second
	rollLook = 20 * time.Millisecond
)

// Roll replaces the signing key of a slot and sends a new credential to every
// gateway that is connected with one of the old key. The others have time
// until it would have ended; with now, what the old key signed is void at once.
// Gateways of other slots notice nothing.
func (r *Registry) Roll(ctx context.Context, slot int, now bool) (api.KeyRolled, error) {
	old, fresh, err := r.rollKey(slot)
	if err != nil {
		return api.KeyRolled{}, err
	}
	r.log.Info().Int("slot", slot).Str("key", fresh).Msg("signing key rolled")
	r.cfg.Audit.Note(ctx, audit.KeyRolled, strconv.Itoa(slot), "old", old, "new", fresh)
	done := api.KeyRolled{Slot: slot, Key: fresh}
	for _, id := range r.cfg.Server.SignedBy(old) {
		if err := r.Push(ctx, id); err != nil {
			r.log.Warn().Err(err).Str("node_id", id).Msg("credential not renewed")
			continue
		}
		done.Renewed++
	}
	if !now {
		return done, nil
	}
	r.awaitSwap(ctx, old)
	done.Cut = len(r.cfg.Server.SignedBy(old))
	if err := r.drop(old); err != nil {
		return done, err
	}
	r.cfg.Audit.Note(ctx, audit.KeyDropped, strconv.Itoa(slot), "old", old, "cut", strconv.Itoa(done.Cut))
	return done, nil
}

func (r *Registry) rollKey(slot int) (old, fresh string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, fresh, accountJWT, err := r.cfg.Issuer.Roll(slot)
	if err == nil {
		err = r.cfg.Server.UpdateDevices(accountJWT)
	}
	return old, fresh, err
}

func (r *Registry) drop(publicKey string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	accountJWT, err := r.cfg.Issuer.Drop(publicKey)
	if err == nil {
		err = r.cfg.Server.UpdateDevices(accountJWT)
	}
	if err != nil {
		return fmt.Errorf("drop old key: %w", err)
	}
	return nil
}

// awaitSwap waits until no connection uses a key, for a while.
func (r *Registry) awaitSwap(ctx context.Context, publicKey string) {
	ctx, cancel := context.WithTimeout(ctx, rollWait)
	defer cancel()
	tick := time.NewTicker(rollLook)
	defer tick.Stop()
	for len(r.cfg.Server.SignedBy(publicKey)) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
