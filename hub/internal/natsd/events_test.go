package natsd_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sapflow/sapflow/hub/internal/natsd"
	"github.com/sapflow/sapflow/shared/natstest"
)

// TestEvents: what happens to connections of gateways is told with who they
// are, also where a credential is good no longer.
func TestEvents(t *testing.T) {
	h := startHub(t, t.TempDir())
	var mu sync.Mutex
	var events []natsd.Event
	stop, err := h.nats.Watch(func(e natsd.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	a := h.enroll(t, "gw-a")
	public, _ := a.key.PublicKey()
	told := func(what, id string) {
		t.Helper()
		eventually(t, what+" of "+id, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(events, func(e natsd.Event) bool {
				return e.What == what && e.ID == id && (id == "" || e.PublicKey == public) && e.Refused() == (what != natsd.Opened && what != natsd.Closed)
			})
		})
	}
	dial := func(token string) (*natstest.Leaf, error) {
		l, err := natstest.DialLeaf(t.Context(), natstest.LeafConfig{Addr: h.nats.LeafAddr(), JWT: token, Sign: a.key.Sign})
		if err == nil {
			t.Cleanup(l.Close)
		}
		return l, err
	}

	l, err := dial(a.jwt)
	if err != nil {
		t.Fatal(err)
	}
	told(natsd.Opened, a.id)
	l.Close()
	told(natsd.Closed, a.id)

	short, err := h.keys.IssueDevice(a.id, public, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = dial(short); err != nil {
		t.Fatal(err)
	}
	<-l.Done() // at its end
	told(natsd.RefusedExpired, a.id)
	mu.Lock()
	events = nil
	mu.Unlock()
	eventually(t, "an expired credential is not let in", func() bool { // to the second
		_, err := dial(short)
		return err != nil
	})
	told(natsd.RefusedExpired, a.id)

	if l, err = dial(a.jwt); err != nil {
		t.Fatal(err)
	}
	if err := h.fleet.Revoke(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	told(natsd.RefusedRevoked, a.id)
	mu.Lock()
	events = nil
	mu.Unlock()
	if _, err := dial(a.jwt); err == nil {
		t.Error("a revoked credential was let in")
	}
	told(natsd.RefusedRevoked, a.id)
	if _, err := dial(""); err == nil {
		t.Error("no credential was let in")
	}
	told(natsd.RefusedAuth, "")
}
