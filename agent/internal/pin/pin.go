// Package pin knows a hub by the key of its certificate instead of by an
// authority: the enrol line names it.
package pin

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"strings"
)

// ErrOther is returned when the other end has another key than the pinned one.
var ErrOther = errors.New("the certificate is not the pinned one: another hub, or somebody in between")

// Check tells whether text is a pin, sha256: and 64 hexadecimal digits.
func Check(text string) error {
	digits, ok := strings.CutPrefix(text, "sha256:")
	if sum, err := hex.DecodeString(digits); !ok || err != nil || len(sum) != sha256.Size {
		return errors.New("the pin must be sha256: and 64 hexadecimal digits; copy the whole enrol line")
	}
	return nil
}

// Apply makes cfg accept the pinned key and no other, whoever signed it and
// whatever name and dates it has. The key is what counts, in resumed sessions
// too.
func Apply(cfg *tls.Config, text string) {
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return ErrOther
		}
		sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
		got := "sha256:" + hex.EncodeToString(sum[:])
		if subtle.ConstantTimeCompare([]byte(got), []byte(strings.ToLower(text))) != 1 {
			return ErrOther
		}
		return nil
	}
}
