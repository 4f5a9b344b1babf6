// Package renew keeps the credential of the gateway good: it asks the hub for
// a new one over the link when two thirds of it are over, and by HTTP when the
// hub takes it no more, which also tells why.
//
// A new credential is stored, then the connection is made anew with it while
// no frame is on its way; the link loses and doubles nothing over that, as
// over any cut.
package renew

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/identity"
)

const (
	// look is how often the clock, and whether there is a link, is looked at, at
	// the most and at the least.
	look, lookOften = 10 * time.Second, 100 * time.Millisecond
	// lookAway is the same while the hub does not answer.
	lookAway = 2 * time.Second
	// firstAsk and lastAsk bound the wait between two questions of a gateway
	// that is not let in; an eighth comes by chance.
	firstAsk, lastAsk = time.Minute, 15 * time.Minute
	// idleWait is how long a new credential waits for a pause on the link.
	idleWait = 30 * time.Second
	// firstAgain and lastAgain bound how soon the hub is asked again over the
	// link, which has cost.
	firstAgain, lastAgain = time.Minute, time.Hour
	// maxRefusals is how many connections in a row the hub ends before it is
	// asked why.
	maxRefusals = 2
	// askWait bounds one question.
	askWait = 2 * time.Minute
)

// Identity is what has to stay good; *identity.Identity is one.
type Identity interface {
	Issued() time.Time
	Expires() time.Time // zero if never
	SetJWT(token string) error
	Ask(ctx context.Context) error // by HTTP
}

// Config says what a keeper works with. All fields but Log must be set.
type Config struct {
	Identity Identity
	// Now is an estimate of the hub's time.
	Now func() time.Time
	// Linked tells whether the hub answers on the link, and Idle whether no
	// frame is on its way.
	Linked, Idle func() bool
	// Refusals is how many connections in a row the hub has ended.
	Refusals func() int
	// Request asks the hub over the link.
	Request func() error
	// Swap closes the connection and makes a new one.
	Swap func()
	Log  zerolog.Logger
}

// Keeper keeps a credential good.
type Keeper struct {
	cfg     Config
	answers chan []byte // capacity 1: a later answer replaces none, the hub is asked again

	mu     sync.Mutex
	reason string

	// Of Run alone.
	asked time.Time // over the link, zero when it was of use
	again time.Duration
	next  time.Time // when HTTP may be asked again
	wait  time.Duration
}

// New returns a keeper that does nothing yet.
func New(cfg Config) *Keeper {
	cfg.Log = cfg.Log.With().Str("component", "renew").Logger()
	return &Keeper{cfg: cfg, answers: make(chan []byte, 1)}
}

// Deliver takes an answer of the hub. It does not block.
func (k *Keeper) Deliver(data []byte) {
	select {
	case k.answers <- data:
	default:
	}
}

// Reason says why the hub does not take the credential, "" if it does or
// nobody knows.
func (k *Keeper) Reason() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reason
}

func (k *Keeper) setReason(text string) {
	k.mu.Lock()
	changed := k.reason != text
	k.reason = text
	k.mu.Unlock()
	if changed && text != "" {
		k.cfg.Log.Warn().Str("reason", text).Msg("no new credential")
	}
}

// Run keeps the credential good until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case data := <-k.answers:
			k.answered(ctx, data)
		case <-timer.C:
			k.look(ctx)
		}
		timer.Reset(k.pause())
	}
}

// life is how long the credential is good.
func (k *Keeper) life() time.Duration {
	return k.cfg.Identity.Expires().Sub(k.cfg.Identity.Issued())
}

// due returns when it should be renewed.
func (k *Keeper) due() time.Time {
	return k.cfg.Identity.Issued().Add(k.life() * 2 / 3)
}

// pause is how long nothing needs to be looked at.
func (k *Keeper) pause() time.Duration {
	most := look
	if !k.cfg.Linked() {
		most = lookAway
	}
	return min(max(k.life()/60, lookOften), most)
}

// look does what is due.
func (k *Keeper) look(ctx context.Context) {
	if k.cfg.Identity.Expires().IsZero() {
		return
	}
	now := k.cfg.Now()
	if k.cfg.Linked() {
		k.next, k.wait = time.Time{}, 0
		if now.Before(k.due()) {
			k.setReason("")
			return
		}
		if k.asked.IsZero() || time.Since(k.asked) >= k.again {
			k.asked, k.again = time.Now(), min(max(2*k.again, firstAgain), lastAgain, max(k.life()/30, time.Second))
			if err := k.cfg.Request(); err != nil {
				k.cfg.Log.Warn().Err(err).Msg("new credential not asked for")
			}
		}
		return
	}
	k.asked, k.again = time.Time{}, 0
	if now.Before(k.cfg.Identity.Expires()) && k.cfg.Refusals() < maxRefusals || time.Now().Before(k.next) {
		return
	}
	k.ask(ctx)
}

// ask asks by HTTP, and decides when to do so again.
func (k *Keeper) ask(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, askWait)
	err := k.cfg.Identity.Ask(limit)
	cancel()
	if ctx.Err() != nil {
		return
	}
	k.wait = min(max(2*k.wait, firstAsk), lastAsk)
	var waiting *identity.Waiting
	var refusal *identity.Refusal
	switch {
	case err == nil:
		k.cfg.Log.Info().Time("expires", k.cfg.Identity.Expires()).Msg("new credential by proof of the key")
		k.setReason("")
		k.cfg.Swap()
	case errors.As(err, &waiting):
		k.wait = waiting.Retry
		k.setReason("pending: " + err.Error())
	case errors.As(err, &refusal):
		k.wait = lastAsk
		k.setReason(refusal.Code + ": " + refusal.Error())
	case !k.cfg.Now().Before(k.cfg.Identity.Expires()):
		k.setReason("the credential has ended, and " + err.Error())
	}
	k.next = time.Now().Add(k.wait + rand.N(k.wait/8+1))
}

// answer is what the hub says over the link.
type answer struct {
	JWT   string            `json:"jwt"`
	Error *identity.Refusal `json:"error"`
}

func (k *Keeper) answered(ctx context.Context, data []byte) {
	var a answer
	err := json.Unmarshal(data, &a)
	switch {
	case err != nil:
		k.cfg.Log.Warn().Msg("answer of the hub is not JSON") // err could show a credential
		return
	case a.Error != nil:
		k.setReason(a.Error.Code + ": " + a.Error.Error())
		return
	}
	if err := k.cfg.Identity.SetJWT(a.JWT); err != nil {
		k.setReason(fmt.Sprintf("new credential not stored: %v", err))
		return
	}
	k.asked, k.again = time.Time{}, 0
	k.setReason("")
	k.idle(ctx)
	k.cfg.Log.Info().Time("expires", k.cfg.Identity.Expires()).Msg("credential renewed")
	k.cfg.Swap()
}

// idle waits for a moment without a frame on its way, at most idleWait and
// never until the old credential may have ended.
func (k *Keeper) idle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, min(idleWait, k.life()/10))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !k.cfg.Idle() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
