package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// renewals counts the credentials that a gateway got over its link.
func (h *hub) renewals(g *gateway) (n int) {
	h.t.Helper()
	list, err := h.client.Audit(h.t.Context(), api.AuditRequest{About: g.id, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range list {
		if e.What == "device.renewed" && e.Who == "gateway "+g.id && e.From == "link" {
			n++
		}
	}
	return n
}

// Credentials end again and again while points flow: each is there once.
func TestRenewalUnderLoad(t *testing.T) {
	h := startHub(t, "--credential-ttl", "6s", "--reenroll")
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.waitConnected(true)
	sensor := addNode(t, g.client, g.id, "pump")
	at := uint64(time.Now().Add(-time.Hour).UnixNano())
	written := 0
	for h.renewals(g) < 6 { // 4 s each: more than 5 of the first would have ended
		var group []point.Point
		for range 20 {
			written++
			group = append(group, float(sensor, "count", at+uint64(written)*1e6, float64(written)))
		}
		write(t, g.client, group...)
	}
	g.waitEqual()
	list := history(t, h.client, sensor, "count")
	if len(list) != written {
		t.Fatalf("the hub has %d points, %d were written", len(list), written)
	}
	for i := range list {
		if v := string(list[i].Value); v != strconv.Itoa(i+1) {
			t.Fatalf("point %d is %s", i+1, v)
		}
	}
	if aside := g.device().Aside; len(aside) > 0 {
		t.Errorf("set aside: %v", aside)
	}
}

// A credential that was due while the hub was down is renewed later; a gateway
// that was away until it ended waits until somebody looks.
func TestCredentialEnds(t *testing.T) {
	h := startHub(t, "--credential-ttl", "12s")
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.waitConnected(true)
	ends := g.ends()
	h.kill()
	passed(t, ends.Add(-12*time.Second/3))
	h.start()
	g.crash() // it dials at once, and does not wait longer than the credential is good
	eventually(t, "renewed after the hub was down", func() bool { return h.renewals(g) > 0 })

	h.crash() // on another port, which no gateway knows by HTTP
	g.stop()
	passed(t, g.ends())
	g.start()
	eventually(t, "it says why it is not let in", func() bool {
		s := g.status()
		return !s.Connected && strings.Contains(s.Link, "the credential has ended")
	})
	g.stop()
	g.knowsHub()
	g.start()
	eventually(t, "it waits", func() bool { return h.pending() != "" && strings.HasPrefix(g.status().Link, "pending: ") })
	if _, err := h.client.DeviceAccept(t.Context(), api.DeviceAccept{ID: h.pending()}); err != nil {
		t.Fatal(err)
	}
	g.crash() // it asks at once, not after a minute
	g.waitConnected(true)
	if d := g.device(); d.State != "accepted" {
		t.Errorf("state %s, want accepted", d.State)
	}
}

// ends returns when the credential of a gateway ends, as the hub wrote down.
func (g *gateway) ends() time.Time {
	g.t.Helper()
	at, err := time.Parse(time.RFC3339Nano, g.device().Expires)
	if err != nil {
		g.t.Fatal(err)
	}
	return at
}

// passed waits until a time is over.
func passed(t *testing.T, at time.Time) {
	t.Helper()
	eventually(t, "the time is over", func() bool { return time.Now().After(at.Add(time.Second)) })
}

// knowsHub tells a stopped gateway where its hub is now, as a name would.
func (g *gateway) knowsHub() {
	g.t.Helper()
	file := filepath.Join(g.dir, "identity", "identity.json")
	b, err := os.ReadFile(file)
	if err == nil {
		b = regexp.MustCompile(`"hubUrl": "[^"]*"`).ReplaceAll(b, []byte(`"hubUrl": "http://`+g.hub.run.HTTP+`"`))
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// pending returns the gateway that waits, "" if none does.
func (h *hub) pending() string {
	h.t.Helper()
	list, err := h.client.Devices(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range list {
		if d.State == "pending" {
			return d.ID
		}
	}
	return ""
}
