package identity_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/agent/internal/identity"
)

// hub answers enrolments as the real one does; it may lose its replies.
type hub struct {
	t       *testing.T
	account nkeys.KeyPair

	mu      sync.Mutex
	keys    []string
	bodies  string
	status  int // of a refusal; 0 accepts
	refusal identity.Refusal
	lose    bool
}

func newHub(t *testing.T) *hub {
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	return &hub{t: t, account: account}
}

func (h *hub) issue(id, key string) string {
	claims := jwt.NewUserClaims(key)
	claims.Name = id
	claims.Expires = time.Now().Add(time.Hour).Unix()
	token, err := claims.Encode(h.account)
	if err != nil {
		h.t.Error(err)
	}
	return token
}

func (h *hub) setLose(lose bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lose = lose
}

// claimed returns the public keys that enrolled.
func (h *hub) claimed() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.keys)
}

// heard returns all that was sent.
func (h *hub) heard() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bodies
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	h.bodies += string(body)
	var q struct{ Token, PublicKey, Signature string }
	if err := json.Unmarshal(body, &q); err != nil || r.URL.Path != "/base/api/v1/enroll" || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	signature, _ := base64.RawURLEncoding.DecodeString(q.Signature)
	key, err := nkeys.FromPublicKey(q.PublicKey)
	if err != nil || key.Verify([]byte("sapflow-enroll\n"+q.Token+"\n"+q.PublicKey), signature) != nil {
		h.t.Errorf("proof of %q is not valid", q.PublicKey)
	}
	if h.status != 0 {
		w.WriteHeader(h.status)
		json.NewEncoder(w).Encode(h.refusal)
		return
	}
	h.keys = append(h.keys, q.PublicKey)
	if h.lose {
		panic(http.ErrAbortHandler)
	}
	json.NewEncoder(w).Encode(map[string]any{
		"id": "gw-a", "jwt": h.issue("gw-a", q.PublicKey),
		"leafUrl": "nats-leaf://127.0.0.1:7422", "hubTime": time.Now(),
	})
}

func (h *hub) serve() (url string) {
	web := httptest.NewServer(h)
	h.t.Cleanup(web.Close)
	return web.URL + "/base"
}

func enroll(t *testing.T, url, token, dir string) *identity.Identity {
	t.Helper()
	id, err := identity.Enroll(t.Context(), identity.EnrollConfig{HubURL: url, Token: token, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestEnroll(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	if _, err := identity.Load(dir); !errors.Is(err, identity.ErrNotEnrolled) {
		t.Errorf("before: got %v, want ErrNotEnrolled", err)
	}
	url := h.serve()
	id := enroll(t, url, "gw-a.token", dir)
	loaded, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []*identity.Identity{id, loaded} {
		if id.ID() != "gw-a" || id.HubURL() != url || id.LeafURL() != "nats-leaf://127.0.0.1:7422" ||
			id.PublicKey() != h.claimed()[0] || id.EnrolledAt().IsZero() || len(id.Nonce()) != 32 || time.Until(id.Expires()) < time.Minute {
			t.Errorf("unexpected identity %v", id)
		}
		if !strings.HasPrefix(id.ServerName(), "gw-a-") || id.ServerName() != loaded.ServerName() {
			t.Errorf("server name %q, want a stable gw-a-<random>", id.ServerName())
		}
		token, signature, err := id.Sign([]byte("nonce"))
		if err != nil {
			t.Fatal(err)
		}
		key, _ := nkeys.FromPublicKey(id.PublicKey())
		if err := key.Verify([]byte("nonce"), signature); err != nil || token == "" {
			t.Errorf("signature: %v", err)
		}
	}
	seed, err := os.ReadFile(filepath.Join(dir, "identity", "user.seed"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(h.heard(), string(seed)) {
		t.Error("the seed left the gateway")
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "identity"))
	for _, entry := range entries {
		if info, _ := entry.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %o, want 600", entry.Name(), info.Mode().Perm())
		}
	}
	if len(entries) != 3 {
		t.Errorf("got %d files, want 3", len(entries))
	}
	data, _ := json.Marshal(id)
	if text := fmt.Sprintf("%v %+v %#v", id, id, id) + string(data); strings.Contains(text, "eyJ") || strings.Contains(text, "SU") {
		t.Errorf("shown: %s", text)
	}
}

func TestEnrollAgain(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	url := h.serve()
	first := enroll(t, url, "gw-a.one", dir)
	second := enroll(t, url, "gw-a.two", dir)
	if first.PublicKey() == second.PublicKey() || first.Nonce() == second.Nonce() || first.ServerName() == second.ServerName() {
		t.Error("enrolling again kept the old key, nonce or name")
	}
}

func TestEnrollContinues(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	url := h.serve()
	h.setLose(true)
	cfg := identity.EnrollConfig{HubURL: url, Token: "gw-a.one", Dir: dir}
	if _, err := identity.Enroll(t.Context(), cfg); err == nil {
		t.Fatal("enrolled without a reply")
	}
	h.setLose(false)
	enroll(t, url, "gw-a.one", dir)
	if keys := h.claimed(); keys[0] != keys[len(keys)-1] {
		t.Error("the same token was claimed with another key")
	}

	// Another token is another claim, perhaps for another gateway.
	h.setLose(true)
	cfg.Token = "gw-a.two"
	if _, err := identity.Enroll(t.Context(), cfg); err == nil {
		t.Fatal("enrolled without a reply")
	}
	keys := h.claimed()
	begun := keys[len(keys)-1]
	h.setLose(false)
	if id := enroll(t, url, "gw-b.three", dir); id.PublicKey() == begun {
		t.Error("a key was used for two tokens")
	}
}

func TestLoadCutShort(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	url := h.serve()
	enroll(t, url, "gw-a.one", dir)
	old, err := os.ReadFile(filepath.Join(dir, "identity", "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	enroll(t, url, "gw-a.two", dir)
	// As if the power went before identity.json was replaced.
	if err := os.WriteFile(filepath.Join(dir, "identity", "identity.json"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Load(dir); !errors.Is(err, identity.ErrNotEnrolled) {
		t.Errorf("got %v, want ErrNotEnrolled", err)
	}
}

func TestSetJWT(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	id := enroll(t, h.serve(), "gw-a.one", dir)
	renewed := h.issue("gw-a", id.PublicKey())
	if err := id.SetJWT(renewed); err != nil {
		t.Fatal(err)
	}
	loaded, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []*identity.Identity{id, loaded} {
		if token, _, _ := id.Sign(nil); token != renewed {
			t.Error("the renewed JWT is not in use")
		}
	}
	for name, token := range map[string]string{
		"other gateway": h.issue("gw-b", id.PublicKey()),
		"no JWT":        "x",
	} {
		if err := id.SetJWT(token); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEnrollRefused(t *testing.T) {
	h := newHub(t)
	h.status = http.StatusConflict
	h.refusal = identity.Refusal{Code: "token_used", Message: "the token was used already", Hint: "make a new token"}
	_, err := identity.Enroll(t.Context(), identity.EnrollConfig{HubURL: h.serve(), Token: "x.y", Dir: t.TempDir()})
	var refusal *identity.Refusal
	if !errors.As(err, &refusal) || refusal.Code != "token_used" || !strings.Contains(err.Error(), "make a new token") {
		t.Errorf("got %v, want the refusal with its hint", err)
	}
}

func TestEnrollAddress(t *testing.T) {
	for url, want := range map[string]error{
		"http://hub.example.com": identity.ErrPlainHTTP,
		"http://192.0.2.1:8080":  identity.ErrPlainHTTP,
		"hub.example.com":        nil,
		"ftp://127.0.0.1":        nil,
	} {
		_, err := identity.Enroll(t.Context(), identity.EnrollConfig{HubURL: url, Token: "x.y", Dir: t.TempDir()})
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", url, err, want)
		}
	}
}

func TestEnrollCAFile(t *testing.T) {
	h := newHub(t)
	web := httptest.NewUnstartedServer(h)
	web.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails
	web.StartTLS()
	defer web.Close()
	cfg := identity.EnrollConfig{HubURL: web.URL + "/base", Token: "x.y", Dir: t.TempDir()}
	if _, err := identity.Enroll(t.Context(), cfg); err == nil {
		t.Error("trusted an unknown authority")
	}
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(cfg.CAFile, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Enroll(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}
