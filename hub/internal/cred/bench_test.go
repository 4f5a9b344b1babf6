package cred_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/hub/internal/cred"
)

// anyUser returns the public key of a new user.
func anyUser(b *testing.B) string {
	b.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		b.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		b.Fatal(err)
	}
	return public
}

// BenchmarkIssueDevice signs the JWT of a gateway.
func BenchmarkIssueDevice(b *testing.B) {
	keys, err := cred.Open(filepath.Join(b.TempDir(), "keys"))
	if err != nil {
		b.Fatal(err)
	}
	public := anyUser(b)
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		token, err := keys.IssueDevice("pressure-station-17", public, 0)
		if err != nil {
			b.Fatal(err)
		}
		size = len(token)
	}
	b.ReportMetric(float64(size), "B/jwt")
}

// BenchmarkRevokeAmong5000 revokes one key more where 5,000 are revoked.
func BenchmarkRevokeAmong5000(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "keys")
	if _, err := cred.Open(dir); err != nil {
		b.Fatal(err)
	}
	revoked := map[string]int64{}
	for range 5000 {
		revoked[anyUser(b)] = time.Now().Unix()
	}
	data, err := json.Marshal(revoked)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "revocations.json"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	keys, err := cred.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(keys.AccountJWT(cred.DEVICES))), "B/account-jwt")
	for b.Loop() {
		if _, err := keys.Revoke(anyUser(b), time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(keys.AccountJWT(cred.DEVICES))), "B/account-jwt")
}
