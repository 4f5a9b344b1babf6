package fleet_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/hub/internal/natsd"
)

// The two that run.go hands in.
var (
	_ fleet.Issuer = (*cred.Keys)(nil)
	_ fleet.Server = (*natsd.Server)(nil)
)

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// settings of a registry that a test may change.
type settings struct {
	reenroll bool
	make     func(r *fleet.Registry, d fleet.Device, parent string) error
	sent     chan []byte // renewals
}

func open(t *testing.T) (*fleet.Registry, *clock) {
	t.Helper()
	return openWith(t, &settings{})
}

func openWith(t *testing.T, s *settings) (*fleet.Registry, *clock) {
	t.Helper()
	dir := t.TempDir()
	keys, err := cred.Open(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := natsd.Start(t.Context(), natsd.Config{Dir: dir, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	nc, err := srv.Connect(cred.CORE, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{now: time.Now()}
	record, err := audit.Open(t.Context(), js, c.Now, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ids := 0
	var r *fleet.Registry
	r, err = fleet.Open(t.Context(), fleet.Config{
		JetStream: js, Issuer: keys, Server: srv, LeafURL: "nats-leaf://127.0.0.1:7422", Now: c.Now, Audit: record, Reenroll: s.reenroll,
		NewID: func() string {
			c.mu.Lock()
			defer c.mu.Unlock()
			ids++
			return fmt.Sprintf("made-%d", ids)
		},
		Make: func(ctx context.Context, d fleet.Device, parent string) error {
			if s.make != nil {
				return s.make(r, d, parent)
			}
			return r.Add(ctx, d)
		},
		Send: func(_ string, data []byte) error {
			s.sent <- data
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

// claim makes a request for a token with a new key.
func claim(t *testing.T, token string) fleet.EnrollRequest {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, key, token)
}

// sign makes a request for a token, or for none, with a key.
func sign(t *testing.T, key nkeys.KeyPair, token string) fleet.EnrollRequest {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(fleet.EnrollMessage(token, public))
	if err != nil {
		t.Fatal(err)
	}
	return fleet.EnrollRequest{
		Token: token, PublicKey: public, Signature: base64.RawURLEncoding.EncodeToString(signature),
	}
}

func add(t *testing.T, r *fleet.Registry, id string) (token string) {
	t.Helper()
	if err := r.Add(t.Context(), fleet.Device{ID: id, Name: "pump house", Plan: "catm"}); err != nil {
		t.Fatal(err)
	}
	return newToken(t, r, id)
}

func newToken(t *testing.T, r *fleet.Registry, id string) string {
	t.Helper()
	token, err := r.Token(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func get(t *testing.T, r *fleet.Registry, id string) fleet.Device {
	t.Helper()
	d, err := r.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRegistry(t *testing.T) {
	r, _ := open(t)
	token := add(t, r, "gw-b")
	add(t, r, "gw-a")
	if err := r.Add(t.Context(), fleet.Device{ID: "gw-a"}); !errors.Is(err, fleet.ErrExists) {
		t.Errorf("add again: got %v, want ErrExists", err)
	}
	if err := r.Add(t.Context(), fleet.Device{ID: "*"}); err == nil {
		t.Error("added a wildcard id")
	}
	devices, err := r.List(t.Context())
	if err != nil || len(devices) != 2 || devices[0].ID != "gw-a" || devices[1].Plan != "catm" {
		t.Errorf("list: got %+v, %v", devices, err)
	}
	d := get(t, r, "gw-b")
	record, _ := json.Marshal(d)
	if d.State != fleet.StateNew || strings.Contains(string(record), token) {
		t.Errorf("record: got %s", record)
	}
	if err := r.Remove(t.Context(), "gw-a"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"gw-a", "*", ""} {
		if _, err := r.Get(t.Context(), id); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("get %q: got %v, want ErrNotFound", id, err)
		}
	}
	if err := r.Remove(t.Context(), "gw-a"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("remove again: got %v, want ErrNotFound", err)
	}
	add(t, r, "gw-a") // the id is free again
}

func TestEnroll(t *testing.T) {
	r, _ := open(t)
	token := add(t, r, "gw-a")
	req := claim(t, token)
	reply, err := r.Enroll(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeUserClaims(reply.JWT)
	if err != nil {
		t.Fatal(err)
	}
	if reply.ID != "gw-a" || reply.LeafURL != "nats-leaf://127.0.0.1:7422" || claims.Subject != req.PublicKey || claims.Name != "gw-a" {
		t.Errorf("unexpected reply %v, claims %v", reply, claims)
	}
	if again, err := r.Enroll(t.Context(), req); err != nil || again.ID != "gw-a" {
		t.Errorf("same key after a lost reply: got %v, %v", again, err)
	}
	if _, err := r.Enroll(t.Context(), claim(t, token)); !errors.Is(err, fleet.ErrTokenUsed) {
		t.Errorf("other key: got %v, want ErrTokenUsed", err)
	}
	d := get(t, r, "gw-a")
	if d.State != fleet.StateAccepted || d.PublicKey != req.PublicKey || d.Generation != 1 || d.EnrolledAt.IsZero() {
		t.Errorf("unexpected record %+v", d)
	}
}

func TestEnrollAgain(t *testing.T) {
	r, _ := open(t)
	first := claim(t, add(t, r, "gw-a"))
	if _, err := r.Enroll(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	second := claim(t, newToken(t, r, "gw-a"))
	if d := get(t, r, "gw-a"); d.PublicKey != first.PublicKey || d.State != fleet.StateAccepted {
		t.Error("making a token changed the present key")
	}
	if _, err := r.Enroll(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	d := get(t, r, "gw-a")
	if d.PublicKey != second.PublicKey || d.Generation != 2 || len(d.RevokedKeys) != 1 || d.RevokedKeys[0].PublicKey != first.PublicKey {
		t.Errorf("unexpected record %+v", d)
	}
	if _, err := r.Enroll(t.Context(), first); !errors.Is(err, fleet.ErrTokenInvalid) {
		t.Errorf("replaced token: got %v, want ErrTokenInvalid", err)
	}
	if err := r.Revoke(t.Context(), "gw-a"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enroll(t.Context(), second); !errors.Is(err, fleet.ErrTokenInvalid) {
		t.Errorf("after a revocation: got %v, want ErrTokenInvalid", err)
	}
	third := newToken(t, r, "gw-a")
	if _, err := r.Enroll(t.Context(), claim(t, third)); err != nil {
		t.Errorf("with a new token and key: got %v", err)
	}
}

func TestEnrollRefuses(t *testing.T) {
	r, clock := open(t)
	token := add(t, r, "gw-a")
	account, _ := nkeys.CreateAccount()
	accountKey, _ := account.PublicKey()
	for _, tc := range []struct {
		name string
		edit func(*fleet.EnrollRequest)
		want error
	}{
		{"account key", func(q *fleet.EnrollRequest) { q.PublicKey = accountKey }, fleet.ErrKeyInvalid},
		{"no key", func(q *fleet.EnrollRequest) { q.PublicKey = "" }, fleet.ErrKeyInvalid},
		{"other key", func(q *fleet.EnrollRequest) { q.PublicKey = claim(t, token).PublicKey }, fleet.ErrProofInvalid},
		{"no signature", func(q *fleet.EnrollRequest) { q.Signature = "" }, fleet.ErrProofInvalid},
		{"not base64", func(q *fleet.EnrollRequest) { q.Signature = "!" }, fleet.ErrProofInvalid},
		{"other token signed", func(q *fleet.EnrollRequest) { q.Token += "x" }, fleet.ErrProofInvalid},
		{"wrong secret", func(q *fleet.EnrollRequest) { *q = claim(t, token[:len(token)-1]) }, fleet.ErrTokenInvalid},
		{"unknown gateway", func(q *fleet.EnrollRequest) { *q = claim(t, "gw-x."+token) }, fleet.ErrTokenInvalid},
		{"wildcard", func(q *fleet.EnrollRequest) { *q = claim(t, "*.x") }, fleet.ErrTokenInvalid},
		{"no token", func(q *fleet.EnrollRequest) { *q = claim(t, "") }, fleet.ErrKeyUnknown},
		{"unknown fleet token", func(q *fleet.EnrollRequest) { *q = claim(t, "fleet.abcdefgh.x") }, fleet.ErrTokenInvalid},
		{"wildcard fleet token", func(q *fleet.EnrollRequest) { *q = claim(t, "fleet.*.x") }, fleet.ErrTokenInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := claim(t, token)
			tc.edit(&req)
			if _, err := r.Enroll(t.Context(), req); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	clock.Add(7 * 24 * time.Hour)
	if _, err := r.Enroll(t.Context(), claim(t, token)); !errors.Is(err, fleet.ErrTokenExpired) {
		t.Errorf("after a week: got %v, want ErrTokenExpired", err)
	}
}

func TestTokenRace(t *testing.T) {
	r, _ := open(t)
	token := add(t, r, "gw-a")
	const claims = 8
	requests := make([]fleet.EnrollRequest, claims)
	for i := range requests {
		requests[i] = claim(t, token)
	}
	var wg sync.WaitGroup
	errs := make([]error, claims)
	for i := range requests {
		wg.Go(func() { _, errs[i] = r.Enroll(t.Context(), requests[i]) })
	}
	wg.Wait()
	d := get(t, r, "gw-a")
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
			if d.PublicKey != requests[i].PublicKey {
				t.Error("the winner's key is not the one on record")
			}
		case !errors.Is(err, fleet.ErrTokenUsed):
			t.Errorf("loser: got %v, want ErrTokenUsed", err)
		}
	}
	if won != 1 || d.Generation != 1 {
		t.Errorf("%d claims won, generation %d, want 1 and 1", won, d.Generation)
	}
}

func TestHandler(t *testing.T) {
	r, clock := open(t)
	token := add(t, r, "gw-a")
	expired := add(t, r, "gw-old")
	web := httptest.NewServer(fleet.Handler(r, zerolog.Nop()))
	defer web.Close()
	post := func(body string) (int, map[string]string) {
		t.Helper()
		resp, err := http.Post(web.URL+fleet.EnrollPath, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var reply map[string]string
		if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, reply
	}
	body := func(q fleet.EnrollRequest) string {
		data, _ := json.Marshal(q)
		return string(data)
	}

	status, reply := post(body(claim(t, token)))
	for _, name := range []string{"id", "jwt", "leafUrl", "hubTime"} {
		if reply[name] == "" {
			t.Errorf("status %d: the reply has no %s", status, name)
		}
	}
	forged, noKey := claim(t, token), claim(t, token)
	forged.Signature, noKey.PublicKey = "", "x"
	clock.Add(6 * 24 * time.Hour)
	fresh := newToken(t, r, "gw-a")
	clock.Add(25 * time.Hour)
	if status, _ := post(body(claim(t, fresh))); status != http.StatusOK {
		t.Errorf("fresh token: status %d", status)
	}
	for _, tc := range []struct {
		code   string
		status int
		body   string
	}{
		{"token_used", http.StatusConflict, body(claim(t, fresh))},
		{"token_invalid", http.StatusForbidden, body(claim(t, token))},
		{"token_expired", http.StatusForbidden, body(claim(t, expired))},
		{"proof_invalid", http.StatusBadRequest, body(forged)},
		{"key_invalid", http.StatusBadRequest, body(noKey)},
		{"bad_request", http.StatusBadRequest, "{"},
		{"bad_request", http.StatusBadRequest, `{"token":"` + strings.Repeat("x", 8<<10) + `"}`},
	} {
		status, reply := post(tc.body)
		if status != tc.status || reply["code"] != tc.code || reply["message"] == "" || reply["hint"] == "" {
			t.Errorf("got %d %v, want %d %s", status, reply, tc.status, tc.code)
		}
	}
	for range 200 {
		if status, reply := post("{"); status == http.StatusTooManyRequests {
			if reply["code"] != "busy" {
				t.Errorf("limited with code %q, want busy", reply["code"])
			}
			return
		}
	}
	t.Error("200 requests at once were not limited")
}
