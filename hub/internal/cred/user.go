package cred

import (
	"fmt"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// User is a credential that lives in memory only. Its JWT and Sign methods
// are the two callbacks of nats.UserJWT.
type User struct {
	token string
	key   nkeys.KeyPair
}

// ServiceUser makes a credential with every right in an account, for the hub's
// own connections: it is refused anywhere but in process.
func (k *Keys) ServiceUser(account string) (*User, error) {
	signer, ok := k.accounts[account]
	if !ok {
		return nil, fmt.Errorf("service user: no account %q", account)
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("service user of %s: %w", account, err)
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("service user of %s: %w", account, err)
	}
	claims := jwt.NewUserClaims(public)
	claims.Name = "hub"
	claims.AllowedConnectionTypes.Add(jwt.ConnectionTypeInProcess)
	token, err := claims.Encode(signer)
	if err != nil {
		return nil, fmt.Errorf("service user of %s: %w", account, err)
	}
	return &User{token: token, key: key}, nil
}

// JWT returns the user JWT.
func (u *User) JWT() (string, error) { return u.token, nil }

// Sign signs the nonce of a server.
func (u *User) Sign(nonce []byte) ([]byte, error) { return u.key.Sign(nonce) }

// String hides the credential.
func (u *User) String() string { return hidden }

// GoString hides the credential.
func (u *User) GoString() string { return hidden }

// MarshalJSON hides the credential.
func (u *User) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
