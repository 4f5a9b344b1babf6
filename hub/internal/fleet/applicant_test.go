package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/hub/internal/fleet"
)

func newKey(t *testing.T) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func addToken(t *testing.T, r *fleet.Registry, want fleet.Token) (fleet.Token, string) {
	t.Helper()
	token, text, err := r.AddToken(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return token, text
}

// enroll asks and wants an answer.
func enroll(t *testing.T, r *fleet.Registry, req fleet.EnrollRequest) fleet.EnrollReply {
	t.Helper()
	reply, err := r.Enroll(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func refused(t *testing.T, r *fleet.Registry, req fleet.EnrollRequest, want error) {
	t.Helper()
	if reply, err := r.Enroll(t.Context(), req); !errors.Is(err, want) {
		t.Errorf("got %v, %v, want %v", reply, err, want)
	}
}

func TestPending(t *testing.T) {
	r, clock := open(t)
	_, token := addToken(t, r, fleet.Token{Parent: "site", Count: 2})
	key := newKey(t)
	req := sign(t, key, token)
	req.Name = "  north\x1b[2J "
	reply := enroll(t, r, req)
	if reply.State != fleet.StatePending || reply.JWT != "" || reply.ID != "" || reply.Key != fleet.KeyID(req.PublicKey) {
		t.Fatalf("got %+v, want to wait", reply)
	}
	if devices, _ := r.List(t.Context()); len(devices) != 0 {
		t.Errorf("a gateway that waits has a record: %+v", devices)
	}
	if first := time.Duration(reply.Retry) * time.Millisecond; first != time.Minute {
		t.Errorf("asks again after %s, want 1m", first)
	}
	clock.Add(24 * time.Hour)
	// The key alone is enough now, also when the token has ended.
	reply = enroll(t, r, sign(t, key, ""))
	if late := time.Duration(reply.Retry) * time.Millisecond; late != 15*time.Minute {
		t.Errorf("asks again after %s, want 15m", late)
	}
	a, err := r.Applicant(t.Context(), "north[2J")
	if err != nil || a.Parent != "site" || a.PublicKey != req.PublicKey {
		t.Fatalf("got %+v, %v", a, err)
	}
	d, err := r.Accept(t.Context(), fleet.KeyID(req.PublicKey), "", "", "")
	if err != nil || d.State != fleet.StateAccepted || d.PublicKey != req.PublicKey || d.Name != "north[2J" {
		t.Fatalf("got %+v, %v", d, err)
	}
	if reply = enroll(t, r, sign(t, key, "")); reply.ID != d.ID || reply.JWT == "" {
		t.Errorf("accepted: got %+v", reply)
	}
	if err := r.Revoke(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, r, sign(t, key, ""), fleet.ErrRevoked)
	refused(t, r, sign(t, key, token), fleet.ErrRevoked)

	second := newKey(t)
	clock.Add(-24 * time.Hour)
	enroll(t, r, sign(t, second, token))
	public, _ := second.PublicKey()
	if _, err := r.Reject(t.Context(), fleet.KeyID(public)); err != nil {
		t.Fatal(err)
	}
	refused(t, r, sign(t, second, ""), fleet.ErrRejected)
	if _, err := r.Accept(t.Context(), fleet.KeyID(public), "", "", ""); err == nil {
		t.Error("accepted one that was turned away")
	}
	refused(t, r, claim(t, token), fleet.ErrTokenUsed)
}

func TestFleetTokenEnds(t *testing.T) {
	r, clock := open(t)
	tk, token := addToken(t, r, fleet.Token{Parent: "site", Count: 3, Auto: true, Expires: clock.Now().Add(time.Hour)})
	req := claim(t, token)
	first := enroll(t, r, req)
	refused(t, r, claim(t, token+"x"), fleet.ErrTokenInvalid)
	clock.Add(time.Hour)
	if again := enroll(t, r, req); again.ID != first.ID || first.ID == "" {
		t.Errorf("a lost reply: got %+v, want %s again", again, first.ID)
	}
	refused(t, r, claim(t, token), fleet.ErrTokenExpired)
	if err := r.RemoveToken(t.Context(), tk.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, r, req, fleet.ErrTokenInvalid)
	for _, id := range []string{tk.ID, "*", ""} {
		if err := r.RemoveToken(t.Context(), id); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("remove token %q: got %v, want ErrNotFound", id, err)
		}
	}
	for _, n := range []int{-1, 1001} {
		if _, _, err := r.AddToken(t.Context(), fleet.Token{Count: n}); err == nil {
			t.Errorf("made a token for %d", n)
		}
	}
}

// Of many boxes at once as many win as the token is for, and each becomes one
// gateway.
func TestFleetTokenRace(t *testing.T) {
	r, _ := open(t)
	_, token := addToken(t, r, fleet.Token{Parent: "site", Count: 3, Auto: true})
	const boxes = 12
	requests := make([]fleet.EnrollRequest, boxes)
	for i := range requests {
		requests[i] = claim(t, token)
	}
	var wg sync.WaitGroup
	errs := make([]error, boxes)
	ids := make([]string, boxes)
	for i := range requests {
		wg.Go(func() {
			reply, err := r.Enroll(t.Context(), requests[i])
			ids[i], errs[i] = reply.ID, err
		})
	}
	wg.Wait()
	won := map[string]bool{}
	for i, err := range errs {
		if err == nil {
			won[ids[i]] = true
		} else if !errors.Is(err, fleet.ErrTokenUsed) {
			t.Errorf("loser: got %v, want ErrTokenUsed", err)
		}
	}
	devices, _ := r.List(t.Context())
	if len(won) != 3 || len(devices) != 3 {
		t.Errorf("%d boxes won and there are %d gateways, want 3 and 3", len(won), len(devices))
	}
}

// Two operators at once make one gateway, and a box cannot be accepted and
// rejected.
func TestAcceptRace(t *testing.T) {
	r, _ := open(t)
	_, token := addToken(t, r, fleet.Token{Parent: "site", Count: 1})
	req := claim(t, token)
	enroll(t, r, req)
	var wg sync.WaitGroup
	var accepted, rejected error
	wg.Go(func() { _, accepted = r.Accept(t.Context(), fleet.KeyID(req.PublicKey), "", "", "") })
	wg.Go(func() { _, rejected = r.Reject(t.Context(), fleet.KeyID(req.PublicKey)) })
	wg.Wait()
	reply, err := r.Enroll(t.Context(), req)
	if (accepted == nil) == (rejected == nil) {
		t.Errorf("accept: %v, reject: %v, want one of them", accepted, rejected)
	}
	if accepted == nil && reply.JWT == "" || accepted != nil && !errors.Is(err, fleet.ErrRejected) {
		t.Errorf("accept: %v, then got %v, %v", accepted, reply, err)
	}
}

// A hub that stops between two steps of letting a gateway in goes on when the
// gateway asks again, and makes no second node.
func TestAcceptGoesOn(t *testing.T) {
	broken := errors.New("the disk is full")
	fail := true
	var made []string
	s := &settings{make: func(r *fleet.Registry, d fleet.Device, _ string) error {
		made = append(made, d.ID)
		if fail {
			return broken
		}
		return r.Add(t.Context(), d)
	}}
	r, _ := openWith(t, s)
	_, token := addToken(t, r, fleet.Token{Parent: "site", Count: 2, Auto: true})
	req := claim(t, token)
	for range 2 {
		refused(t, r, req, broken)
	}
	fail = false
	if reply := enroll(t, r, req); reply.ID != made[0] {
		t.Errorf("got %s, want %s", reply.ID, made[0])
	}

	fail, made = true, nil
	_, token = addToken(t, r, fleet.Token{Parent: "site", Count: 1})
	req = claim(t, token)
	enroll(t, r, req)
	ref := fleet.KeyID(req.PublicKey)
	if _, err := r.Accept(t.Context(), ref, "", "", ""); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if a, err := r.Applicant(t.Context(), ref); err != nil || a.State != fleet.StatePending {
		t.Errorf("it does not wait any more: %+v, %v", a, err)
	}
	fail = false
	d, err := r.Accept(t.Context(), ref, "other", "", "")
	if err != nil || d.ID != made[0] {
		t.Errorf("got %s, %v, want %s", d.ID, err, made[0])
	}
}

func TestRegisteredKey(t *testing.T) {
	r, _ := open(t)
	key := newKey(t)
	public, _ := key.PublicKey()
	refused(t, r, sign(t, key, ""), fleet.ErrKeyUnknown)
	if err := r.Add(t.Context(), fleet.Device{ID: "gw-a"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Register(t.Context(), "gw-a", public); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Register(t.Context(), "gw-b", public); err == nil {
		t.Error("registered one key for two gateways")
	}
	for range 2 {
		if reply := enroll(t, r, sign(t, key, "")); reply.ID != "gw-a" || reply.JWT == "" {
			t.Errorf("got %+v", reply)
		}
	}
	if d := get(t, r, "gw-a"); d.Generation != 1 || d.PublicKey != public {
		t.Errorf("unexpected record %+v", d)
	}
	if err := r.Remove(t.Context(), "gw-a"); err != nil {
		t.Fatal(err)
	}
	refused(t, r, sign(t, key, ""), fleet.ErrRevoked)
}

// A key that was registered and has not come yet is taken back.
func TestRegisteredKeyTakenBack(t *testing.T) {
	for name, back := range map[string]func(*fleet.Registry, context.Context, string) error{
		"revoke": (*fleet.Registry).Revoke, "remove": (*fleet.Registry).Remove,
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := open(t)
			key := newKey(t)
			public, _ := key.PublicKey()
			if err := r.Add(t.Context(), fleet.Device{ID: "gw-a"}); err != nil {
				t.Fatal(err)
			}
			if err := r.Register(t.Context(), "gw-a", public); err != nil {
				t.Fatal(err)
			}
			if err := back(r, t.Context(), "gw-a"); err != nil {
				t.Fatal(err)
			}
			refused(t, r, sign(t, key, ""), fleet.ErrRevoked)
		})
	}
}

// A box that waits takes the place of another; the key of that one is void.
func TestAcceptInPlace(t *testing.T) {
	r, _ := open(t)
	old := newKey(t)
	enroll(t, r, sign(t, old, add(t, r, "gw-a")))
	_, token := addToken(t, r, fleet.Token{Parent: "site", Count: 1})
	box := newKey(t)
	enroll(t, r, sign(t, box, token))
	public, _ := box.PublicKey()
	if _, err := r.Accept(t.Context(), public, "", "gw-x", ""); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("in a place that is not there: got %v", err)
	}
	d, err := r.Accept(t.Context(), public, "", "gw-a", "")
	if err != nil || d.ID != "gw-a" || d.Generation != 2 {
		t.Fatalf("got %+v, %v", d, err)
	}
	refused(t, r, sign(t, old, ""), fleet.ErrRevoked)
	if devices, _ := r.List(t.Context()); len(devices) != 1 {
		t.Errorf("got %d gateways, want 1", len(devices))
	}
}

func TestCredentialEnded(t *testing.T) {
	for name, reenroll := range map[string]bool{"waits": false, "renews itself": true} {
		t.Run(name, func(t *testing.T) {
			r, clock := openWith(t, &settings{reenroll: reenroll})
			key := newKey(t)
			enroll(t, r, sign(t, key, add(t, r, "gw-a")))
			req := sign(t, key, "")
			req.ID = "gw-a"
			clock.Add(29 * 24 * time.Hour)
			if reply := enroll(t, r, req); reply.JWT == "" {
				t.Error("a good credential was not renewed")
			}
			clock.Add(40 * 24 * time.Hour)
			reply := enroll(t, r, req)
			if (reply.JWT != "") != reenroll || (reply.State == fleet.StatePending) == reenroll {
				t.Errorf("40 days later: got %+v", reply)
			}
			if reenroll {
				return
			}
			a, err := r.Applicant(t.Context(), reply.Key)
			if err != nil || a.Node != "gw-a" {
				t.Fatalf("got %+v, %v", a, err)
			}
			d, err := r.Accept(t.Context(), reply.Key, "", "", "")
			if err != nil || d.ID != "gw-a" || len(d.RevokedKeys) != 0 {
				t.Errorf("got %+v, %v", d, err)
			}
			if reply := enroll(t, r, req); reply.ID != "gw-a" || reply.JWT == "" {
				t.Errorf("accepted: got %+v", reply)
			}
			if err := r.Revoke(t.Context(), "gw-a"); err != nil {
				t.Fatal(err)
			}
			refused(t, r, req, fleet.ErrRevoked)
		})
	}
}

func TestRenew(t *testing.T) {
	s := &settings{sent: make(chan []byte, 20)}
	r, clock := openWith(t, s)
	enroll(t, r, claim(t, add(t, r, "gw-a")))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	renew := func() (answer fleet.Renewal) {
		t.Helper()
		r.Renew("gw-a")
		select {
		case data := <-s.sent:
			if err := json.Unmarshal(data, &answer); err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
		return answer
	}
	before := get(t, r, "gw-a").Expires
	clock.Add(20 * 24 * time.Hour)
	if answer := renew(); answer.JWT == "" || answer.Error != nil {
		t.Errorf("got %+v", answer.Error)
	}
	if after := get(t, r, "gw-a").Expires; after.Sub(before) != 20*24*time.Hour {
		t.Errorf("ends %s later, want 20 days", after.Sub(before))
	}
	if err := r.Revoke(t.Context(), "gw-a"); err != nil {
		t.Fatal(err)
	}
	if answer := renew(); answer.JWT != "" || !errors.Is(answer.Error, fleet.ErrRevoked) {
		t.Errorf("revoked: got %v", answer.Error)
	}
	// One that asks all the time is not answered.
	for range 30 {
		r.Renew("gw-a")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(s.sent); n > 1 {
		t.Errorf("%d answers in a burst, want 1 more at most", n)
	}
}

// A clock of the hub that was ahead for a while does no lasting harm: who waits
// because of it goes on when it is right again, and what was signed then can be
// revoked.
func TestClockAhead(t *testing.T) {
	r, clock := open(t)
	key := newKey(t)
	enroll(t, r, sign(t, key, add(t, r, "gw-a")))
	req := sign(t, key, "")
	req.ID = "gw-a"
	const jump = 60 * 24 * time.Hour
	clock.Add(jump)
	reply := enroll(t, r, req)
	if reply.State != fleet.StatePending {
		t.Fatalf("got %+v, want to wait", reply)
	}
	clock.Add(-jump)
	if reply = enroll(t, r, req); reply.JWT == "" {
		t.Errorf("the clock is right again: got %+v", reply)
	}
	if _, err := r.Applicant(t.Context(), fleet.KeyID(req.PublicKey)); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("it still waits: %v", err)
	}

	clock.Add(jump)
	second := claim(t, add(t, r, "gw-b"))
	enroll(t, r, second)
	signed := clock.Now()
	clock.Add(-jump)
	if err := r.Revoke(t.Context(), "gw-b"); err != nil {
		t.Fatal(err)
	}
	if keys := get(t, r, "gw-b").RevokedKeys; len(keys) != 1 || keys[0].At.Before(signed) {
		t.Errorf("revoked as of %v, signed at %v", keys, signed)
	}
}
