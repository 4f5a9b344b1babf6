package cred_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/hub/internal/cred"
)

func open(t *testing.T, dir string) *cred.Keys {
	t.Helper()
	keys, err := cred.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func userKey(t *testing.T) string {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func TestOpenKeepsKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first := open(t, dir)
	second := open(t, dir)
	for _, account := range []string{cred.SYS, cred.CORE, cred.DEVICES, cred.PEOPLE} {
		if got, want := second.AccountID(account), first.AccountID(account); got != want || got == "" {
			t.Errorf("account %s: got %q after a restart, want %q", account, got, want)
		}
	}
	before, _ := first.LocalCreds()
	after, _ := second.LocalCreds()
	if string(before) != string(after) {
		t.Error("local creds changed with a restart")
	}
}

func TestOpenModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	keys := open(t, dir)
	if _, err := keys.Revoke(userKey(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("got %d files, want 2", len(entries))
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s: got mode %o, want 600", entry.Name(), got)
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory: got mode %o, want 700", info.Mode().Perm())
	}
}

func TestOpenCompletes(t *testing.T) {
	t.Run("torn temporary file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "keys.json.tmp"), []byte(`{"oper`), 0o600); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
	})
	t.Run("missing keys", func(t *testing.T) {
		dir := t.TempDir()
		want := open(t, dir).AccountID(cred.CORE)
		path := filepath.Join(dir, "keys.json")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file map[string]any
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		delete(file, "local")
		delete(file["accounts"].(map[string]any), "PEOPLE")
		file["localJwt"] = ""
		data, _ = json.Marshal(file)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		keys := open(t, dir)
		if got := keys.AccountID(cred.CORE); got != want {
			t.Errorf("core account: got %s, want %s", got, want)
		}
		if keys.AccountID(cred.PEOPLE) == "" {
			t.Error("missing account was not made")
		}
	})
	t.Run("damaged", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "keys.json"), []byte(`{"operator":"SOSECRET`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := cred.Open(dir)
		if err == nil || strings.Contains(err.Error(), "SOSECRET") {
			t.Errorf("got %v, want an error that shows no seed", err)
		}
	})
}

func TestIssueDevice(t *testing.T) {
	keys := open(t, t.TempDir())
	account, _ := nkeys.CreateAccount()
	accountKey, _ := account.PublicKey()
	user := userKey(t)
	for _, tc := range []struct {
		name, id, key string
		ttl           time.Duration
		ok            bool
	}{
		{"good", "gw1", user, 0, true},
		{"short", "gw1", user, time.Minute, true},
		{"wildcard", "*", user, 0, false},
		{"token", "a.b", user, 0, false},
		{"upper case", "GW1", user, 0, false},
		{"empty", "", user, 0, false},
		{"account key", "gw1", accountKey, 0, false},
		{"no key", "gw1", "U", 0, false},
		{"too long", "gw1", user, cred.DeviceTTL + time.Second, false},
		{"negative", "gw1", user, -time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token, err := keys.IssueDevice(tc.id, tc.key, tc.ttl)
			if (err == nil) != tc.ok {
				t.Fatalf("got error %v, want ok %v", err, tc.ok)
			}
			if !tc.ok {
				return
			}
			claims, err := jwt.DecodeUserClaims(token)
			if err != nil {
				t.Fatal(err)
			}
			if claims.Name != tc.id || claims.IssuerAccount != keys.AccountID(cred.DEVICES) || !claims.HasEmptyPermissions() {
				t.Errorf("unexpected claims: %v", claims)
			}
		})
	}
}

func TestDevicesSpreadOverSigningKeys(t *testing.T) {
	keys := open(t, t.TempDir())
	user := userKey(t)
	issuers := make(map[string]bool)
	for i := range 200 {
		token, err := keys.IssueDevice(fmt.Sprintf("gw%d", i), user, 0)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		issuers[claims.Issuer] = true
	}
	if len(issuers) != 16 {
		t.Errorf("got %d signing keys in use, want 16", len(issuers))
	}
}

func TestRevoke(t *testing.T) {
	dir := t.TempDir()
	keys := open(t, dir)
	user, long := userKey(t), userKey(t)
	if _, err := keys.Revoke(long, time.Now().Add(-cred.DeviceTTL-time.Hour)); err != nil {
		t.Fatal(err)
	}
	token, err := keys.Revoke(user, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	again, err := keys.Revoke(user, time.Now())
	if err != nil || again != token {
		t.Errorf("a repeated revocation made another JWT (%v)", err)
	}
	if _, err := keys.IssueDevice("gw1", user, 0); !errors.Is(err, cred.ErrRevoked) {
		t.Errorf("issue for a revoked key: got %v, want ErrRevoked", err)
	}
	for name, token := range map[string]string{"now": token, "after a restart": open(t, dir).AccountJWT(cred.DEVICES)} {
		claims, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		if !claims.Revocations.IsRevoked(user, time.Now().Add(-time.Second)) {
			t.Errorf("%s: key is not revoked", name)
		}
		if len(claims.Revocations) != 1 {
			t.Errorf("%s: got %d revocations, want 1", name, len(claims.Revocations))
		}
	}
}

func TestSecretsAreHidden(t *testing.T) {
	dir := t.TempDir()
	keys := open(t, dir)
	user, err := keys.ServiceUser(cred.CORE)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{keys, user} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", v, v, v, v), string(data)} {
			if strings.Contains(text, "eyJ") || strings.Contains(text, "SU") || len(text) > 80 {
				t.Errorf("shown: %q", text)
			}
		}
	}
}
