package main

import (
	"bytes"
	"testing"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/hub/internal/cred"
)

// Where others could listen in there is TLS, with the hub's own certificate if
// no other was given; without it only if somebody asked for that, and it is
// said.
func TestTLS(t *testing.T) {
	keys, err := cred.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, address string
		cfg           config.Config
		tls, warned   bool
	}{
		{"loopback", "127.0.0.1:8080", config.Config{}, false, false},
		{"loopback by name", "localhost:8080", config.Config{}, false, false},
		{"loopback, asked for", "127.0.0.1:8080", config.Config{TLSOwn: true}, true, false},
		{"everywhere", "0.0.0.0:8080", config.Config{}, true, false},
		{"no host", ":8080", config.Config{}, true, false},
		{"a name", "hub.example.com:8080", config.Config{}, true, false},
		{"insecure", "0.0.0.0:8080", config.Config{Insecure: true}, false, true},
		{"insecure on loopback", "[::1]:8080", config.Config{Insecure: true}, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var said bytes.Buffer
			h := newHub(tc.cfg)
			h.keys, h.log = keys, zerolog.New(&said)
			got, err := h.tlsConfig(tc.address)
			if err != nil || (got != nil) != tc.tls || (h.pin != "") != tc.tls {
				t.Errorf("got TLS %v, pin %q, %v", got != nil, h.pin, err)
			}
			if warned := bytes.Contains(said.Bytes(), []byte("no TLS")); warned != tc.warned {
				t.Errorf("warned %v, want %v: %s", warned, tc.warned, said.String())
			}
		})
	}
}
