package cred

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/daemon"
)

// Show returns all seeds of a hub as they are stored: a backup, for which
// nobody can be too careful.
func Show(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, keysFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no keys in %s: a hub makes them at its first start", dir)
	}
	if err == nil && !json.Valid(data) {
		err = fmt.Errorf("%s is damaged: restore it from a backup", filepath.Join(dir, keysFile))
	}
	return data, err
}

// Public is a public key of a hub and what it is for.
type Public struct {
	Use string `json:"use"`
	Key string `json:"key"`
}

// Check reads the keys in dir, or from outside, without changing anything. It
// returns their public halves, and what is wrong.
func Check(dir string, src Source) (list []Public, problems []string, err error) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	files := []string{filepath.Join(dir, keysFile), filepath.Join(dir, revocationsFile), filepath.Join(dir, certKeyFile)}
	if src.File != "" {
		files[0] = src.File
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			wrong("%s can be read by others: mode %04o, want 0600", name, info.Mode().Perm())
		}
	}
	if !src.given() {
		text, err := Show(dir)
		if err != nil {
			return nil, nil, err
		}
		src = Source{Text: string(text)}
	}
	s, err := src.read()
	if err != nil {
		return nil, append(problems, err.Error()), nil
	}
	seen := map[string]string{}
	public := func(use, seed string, prefix nkeys.PrefixByte) string {
		key, err := fromSeed(seed, prefix)
		if err != nil {
			wrong("%s: %s", use, err)
			return ""
		}
		p, err := key.PublicKey()
		if err != nil {
			wrong("%s: %s", use, err)
			return ""
		}
		if other, ok := seen[p]; ok {
			wrong("%s and %s are the same key", other, use)
		}
		seen[p] = use
		list = append(list, Public{use, p})
		return p
	}
	public("operator", s.Operator, nkeys.PrefixByteOperator)
	people := ""
	for _, account := range accounts {
		if p := public("account "+account, s.Accounts[account], nkeys.PrefixByteAccount); account == PEOPLE {
			people = p
		}
	}
	for i, seed := range s.Scoped {
		public(fmt.Sprintf("signing key %d", i), seed, nkeys.PrefixByteAccount)
	}
	for _, r := range retained(s.Retired) {
		list = append(list, Public{fmt.Sprintf("signing key %d until %s", r.Slot, r.At.Add(DeviceTTL).Format(time.RFC3339)), r.PublicKey})
	}
	local := public("local programs", s.Local, nkeys.PrefixByteUser)
	if s.LocalJWT != "" {
		claims, err := jwt.DecodeUserClaims(s.LocalJWT)
		if err != nil || claims.Subject != local || claims.Issuer != people {
			wrong("the credential of local programs is not signed for their key by account PEOPLE")
		}
	}
	revoked := map[string]int64{}
	if err := readJSON(filepath.Join(dir, revocationsFile), &revoked); err != nil {
		wrong("%s", err)
	}
	slices.Sort(problems)
	return list, problems, nil
}

const (
	certFile    = "hub.pem"
	certKeyFile = "hub.key"
	// certYears is how long the hub's own certificate is good: gateways know it
	// by its key, and nobody renews it.
	certYears = 30
)

// Certificate returns the hub's own certificate, which it makes when there is
// none, and its pin: who knows that needs no authority.
func (k *Keys) Certificate() (tls.Certificate, string, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(k.dir, certFile), filepath.Join(k.dir, certKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		if err = k.makeCertificate(); err == nil {
			cert, err = tls.LoadX509KeyPair(filepath.Join(k.dir, certFile), filepath.Join(k.dir, certKeyFile))
		}
	}
	if err != nil {
		return cert, "", fmt.Errorf("the hub's own certificate: %w", err)
	}
	return cert, Pin(cert.Leaf), nil
}

// Pin returns what names the key of a certificate: sha256:<hex>, over its
// SubjectPublicKeyInfo.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// makeCertificate makes key and certificate. The key is durable first: a power
// cut in between costs a second key that nobody has seen.
func (k *Keys) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "sapflow-hub"}, DNSNames: []string{"sapflow-hub"},
		// A gateway's clock may be wrong, and is set by the hub.
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(certYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	err = daemon.WriteFile(filepath.Join(k.dir, certKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	if err != nil {
		return err
	}
	return daemon.WriteFile(filepath.Join(k.dir, certFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
