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

func TestKeysFromOutside(t *testing.T) {
	dir := t.TempDir()
	want := open(t, dir)
	text, err := cred.Show(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]cred.Source{"file": {File: file}, "text": {Text: string(text)}} {
		other := t.TempDir()
		got, err := cred.OpenFrom(other, src)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.AccountID(cred.CORE) != want.AccountID(cred.CORE) {
			t.Errorf("%s: other keys", name)
		}
		if _, err := os.Stat(filepath.Join(other, "keys.json")); err == nil {
			t.Errorf("%s: seeds were written into the data directory", name)
		}
		if _, _, _, err := got.Roll(3); !errors.Is(err, cred.ErrOutside) {
			t.Errorf("%s: roll: got %v, want ErrOutside", name, err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", src, src, src), "seed") || strings.Contains(fmt.Sprintf("%v %+v %#v", src, src, src), "SO") {
			t.Errorf("%s: the source shows its text", name)
		}
	}
	if _, err := cred.OpenFrom(dir, cred.Source{File: file}); err == nil {
		t.Error("keys inside and outside: no error")
	}
	var seeds map[string]any
	if err := json.Unmarshal(text, &seeds); err != nil {
		t.Fatal(err)
	}
	for _, missing := range []string{"operator", "scoped", "local", "accounts"} {
		less := map[string]any{}
		for k, v := range seeds {
			if k != missing {
				less[k] = v
			}
		}
		part, _ := json.Marshal(less)
		if _, err := cred.OpenFrom(t.TempDir(), cred.Source{Text: string(part)}); err == nil {
			t.Errorf("without %s: no error", missing)
		}
	}
	if _, err := cred.OpenFrom(t.TempDir(), cred.Source{Text: `{"operator":"SOSECRET`}); err == nil || strings.Contains(err.Error(), "SOSECRET") {
		t.Errorf("damaged: got %v", err)
	}
}

func TestRoll(t *testing.T) {
	dir := t.TempDir()
	keys := open(t, dir)
	user := userKey(t)
	issuer := func(keys *cred.Keys) string {
		t.Helper()
		token, err := keys.IssueDevice("gw1", user, 0)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		return claims.Issuer
	}
	trusted := func(token string) jwt.SigningKeys {
		t.Helper()
		claims, err := jwt.DecodeAccountClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		return claims.SigningKeys
	}
	before := issuer(keys)
	old, fresh, token, err := keys.Roll(cred.Slot("gw1"))
	if err != nil || old != before || issuer(keys) != fresh || fresh == old {
		t.Fatalf("old %s, new %s, signs %s, %v", old, fresh, issuer(keys), err)
	}
	if list := trusted(token); len(list) != cred.Slots+1 || !list.Contains(old) || !list.Contains(fresh) {
		t.Errorf("rolled: %d keys are trusted, want %d with old and new", len(list), cred.Slots+1)
	}
	again := open(t, dir)
	if got := again.AccountJWT(cred.DEVICES); issuer(again) != fresh || !trusted(got).Contains(old) {
		t.Error("a restart forgot the roll")
	}
	if token, err = again.Drop(old); err != nil || trusted(token).Contains(old) || len(again.Retired()) != 0 {
		t.Errorf("dropped: %v, %v", again.Retired(), err)
	}
	if list := trusted(open(t, dir).AccountJWT(cred.DEVICES)); len(list) != cred.Slots {
		t.Errorf("after a restart %d keys are trusted, want %d", len(list), cred.Slots)
	}
	for _, slot := range []int{-1, cred.Slots} {
		if _, _, _, err := keys.Roll(slot); err == nil {
			t.Errorf("rolled key %d", slot)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := cred.Check(dir, cred.Source{}); err == nil {
		t.Error("without keys: no error")
	}
	open(t, dir)
	list, problems, err := cred.Check(dir, cred.Source{})
	if err != nil || len(problems) != 0 || len(list) != 1+4+cred.Slots+1 {
		t.Errorf("got %d keys, %v, %v", len(list), problems, err)
	}
	for _, p := range list {
		if strings.HasPrefix(p.Key, "S") {
			t.Errorf("%s shows a seed", p.Use)
		}
	}
	path := filepath.Join(dir, "keys.json")
	text, _ := os.ReadFile(path)
	var seeds map[string]any
	if err := json.Unmarshal(text, &seeds); err != nil {
		t.Fatal(err)
	}
	scoped := seeds["scoped"].([]any)
	scoped[1], scoped[2] = scoped[0], seeds["operator"]
	text, _ = json.Marshal(seeds)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, problems, err = cred.Check(dir, cred.Source{})
	if err != nil || len(problems) != 3 {
		t.Errorf("got %q, %v, want 3 problems", problems, err)
	}
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	_, pin, err := open(t, dir).Certificate()
	if err != nil || !strings.HasPrefix(pin, "sha256:") || len(pin) != len("sha256:")+64 {
		t.Fatalf("got %q, %v", pin, err)
	}
	if _, again, err := open(t, dir).Certificate(); err != nil || again != pin {
		t.Errorf("after a restart: got %q, %v, want %q", again, err, pin)
	}
	if info, err := os.Stat(filepath.Join(dir, "hub.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("hub.key: %v, %v", info, err)
	}
}

// The list of what is void is bounded: what has expired goes, at a start too.
func TestRevocationsAreBounded(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	now := time.Now()
	list := map[string]int64{}
	for i := range 100 {
		list[userKey(t)] = now.Add(-time.Duration(i)*24*time.Hour - time.Hour).Unix()
	}
	data, _ := json.Marshal(list)
	if err := os.WriteFile(filepath.Join(dir, "revocations.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	keys := open(t, dir)
	count := func() int {
		t.Helper()
		claims, err := jwt.DecodeAccountClaims(keys.AccountJWT(cred.DEVICES))
		if err != nil {
			t.Fatal(err)
		}
		return len(claims.Revocations)
	}
	if n := count(); n != 30 {
		t.Errorf("%d keys are void, want those of 30 days", n)
	}
	ahead := userKey(t) // signed by a clock that was 60 days ahead
	token, err := keys.Revoke(ahead, now.Add(60*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	claims, _ := jwt.DecodeAccountClaims(token)
	if !claims.Revocations.IsRevoked(ahead, now.Add(60*24*time.Hour)) {
		t.Error("what a clock ahead has signed is still good")
	}
}
