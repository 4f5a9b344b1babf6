package e2e_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/natstest"
)

// image returns another box with a copy of the disk of a stopped gateway.
func (g *gateway) image(name string) *gateway {
	g.t.Helper()
	clone := &gateway{hub: g.hub, id: g.id, link: g.link}
	clone.process = newProcess(g.t, name, g.bin, g.args...)
	if err := os.RemoveAll(clone.dir); err != nil {
		g.t.Fatal(err)
	}
	if err := os.CopyFS(clone.dir, os.DirFS(g.dir)); err != nil {
		g.t.Fatal(err)
	}
	return clone
}

// audited tells whether the record has an entry about something.
func (h *hub) audited(what, on, detail string) bool {
	h.t.Helper()
	list, err := h.client.Audit(h.t.Context(), api.AuditRequest{About: on, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range list {
		if e.What == what && strings.Contains(fmt.Sprint(e.Code, e.Detail), detail) {
			return true
		}
	}
	return false
}

// Two boxes with the disk of one: each takes the place of the other, and the
// hub says so.
func TestClonesTakeTurns(t *testing.T) {
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.waitConnected(true)
	g.stop()
	clone := g.image("clone")
	g.start()
	clone.start()
	eventually(t, "the clone is seen", func() bool { return g.device().Clones > 0 })
	d := g.device()
	if !strings.HasPrefix(d.Clone, "connections that take each other's place, 20") &&
		!strings.HasPrefix(d.Clone, "another box wrote its log: it stopped, 20") {
		t.Errorf("got %q", d.Clone)
	}
	if !h.audited("device.clone", g.id, "how:") {
		t.Error("the record does not tell")
	}
}

// An older copy of a disk finds that its log has gone on without it.
func TestCloneFallsBehind(t *testing.T) {
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.waitConnected(true)
	set(t, g.client, g.id, "level", "1")
	g.waitEqual()
	g.stop()
	clone := g.image("clone")
	g.start()
	for range 2 { // each start that was not clean begins a new epoch
		set(t, g.client, g.id, "level", "2")
		g.waitEqual()
		g.crash()
	}
	g.waitEqual()
	g.kill()
	clone.start()
	eventually(t, "the hub knows", func() bool { return strings.HasPrefix(g.device().Clone, "another box wrote its log") })
	if !h.audited("device.clone", g.id, "another box wrote its log") {
		t.Error("the record does not tell")
	}
}

func slot(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() % 16)
}

// A signing key is rolled under two gateways of two keys: one comes with a new
// credential, the other notices nothing; what the old key signed is void.
func TestKeysRoll(t *testing.T) {
	h := startHub(t)
	one := h.addGateway("gw1", "", natstest.LinkConfig{})
	two := h.addGateway("gw2", "", natstest.LinkConfig{})
	for i := 3; slot(two.id) == slot(one.id); i++ {
		two.kill()
		two = h.addGateway(fmt.Sprintf("gw%d", i), "", natstest.LinkConfig{})
	}
	one.waitConnected(true)
	two.waitConnected(true)
	old := filepath.Join(one.dir, "identity", "device.jwt")
	before, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	done, err := h.client.KeyRoll(bounded(t), api.KeyRoll{Slot: slot(one.id), Now: true})
	if err != nil || done.Renewed != 1 || done.Cut != 0 {
		t.Fatalf("got %+v, %v", done, err)
	}
	one.waitEqual()
	if after, _ := os.ReadFile(old); bytes.Equal(before, after) {
		t.Error("gw1 has the old credential")
	}
	connected := func(g *gateway) int { return bytes.Count(g.tail(1<<20), []byte(`"connected to the hub"`)) }
	if n := connected(two); n != 1 {
		t.Errorf("gw2 has connected %d times, want once", n)
	}
	if n := connected(one); n != 2 {
		t.Errorf("gw1 has connected %d times, want twice", n)
	}
	one.stop()
	if err := os.WriteFile(old, before, 0o600); err != nil {
		t.Fatal(err)
	}
	one.start()
	one.waitConnected(true) // by proof of its key
	if after, _ := os.ReadFile(old); bytes.Equal(before, after) {
		t.Error("gw1 came in with what the old key had signed")
	}
}

// secret is what a seed, a JWT and the parts of one look like.
var secret = regexp.MustCompile(`S[OAUNC][A-Z2-7]{56}|eyJ[A-Za-z0-9_-]{20,}`)

// Nothing that a run prints, or shows in its arguments, holds a seed, a
// credential or a token, but what is asked for them.
func TestSecretsStaySecret(t *testing.T) {
	h := startHub(t, "--log-level", "debug", "--credential-ttl", "8s")
	admin, err := os.ReadFile(filepath.Join(h.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := []string{strings.TrimSpace(string(admin))}
	var said []string
	run := func(bin string, args ...string) {
		t.Helper()
		out, _ := command(t, bin, args...)
		said = append(said, out)
	}
	token := func(d *api.DeviceToken, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, d.Token)
		return d.Token
	}
	g, _ := h.newGateway("gw1", "", natstest.LinkConfig{}, "--log-level", "debug")
	first := token(h.client.DeviceToken(t.Context(), g.id))
	url := "http://" + h.run.HTTP
	for _, wrong := range []string{first + "x", "fleet.abcdefgh." + first, first[:len(first)-1]} {
		tokens = append(tokens, wrong)
		run(agentBin, "enroll", url, "--token", wrong, "--data", t.TempDir())
	}
	run(agentBin, "enroll", "http://192.0.2.1", "--token", first, "--data", t.TempDir())
	run(agentBin, "enroll", "http://127.0.0.1:1", "--token", first, "--data", t.TempDir())
	g.enroll(first)
	g.start()
	g.waitConnected(true)
	eventually(t, "renewed", func() bool { return h.renewals(g) > 0 })
	fleet := token(h.client.TokenAdd(t.Context(), api.TokenAdd{Count: 1}))
	waits := t.TempDir()
	run(agentBin, "enroll", url, "--token", fleet, "--data", waits)
	run(agentBin, "enroll", url, "--token", fleet, "--data", t.TempDir())
	if _, err := h.client.KeyRoll(bounded(t), api.KeyRoll{Slot: slot(g.id)}); err != nil {
		t.Fatal(err)
	}
	if err := h.client.DeviceRevoke(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the gateway knows that it is revoked", func() bool { return strings.HasPrefix(g.status().Link, "revoked: ") })
	if !h.audited("refused", g.id, "unauthorized") || !h.audited("device.revoked", g.id, "") {
		t.Error("the record does not tell that the gateway came again")
	}
	for _, args := range [][]string{{"audit"}, {"audit", "--json"}, {"device", "list", "--json"}, {"token", "list", "--json"}, {"keys", "check"}, {"status"}} {
		run(hubBin, append(args, "--data", h.dir)...)
	}
	run(agentBin, "status", "--data", g.dir)
	for _, p := range []*process{h.process, g.process} {
		arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
		if err != nil {
			t.Logf("arguments of %s are not checked: %v", p.name, err)
		}
		said = append(said, string(arguments))
	}
	g.stop()
	h.stop()
	said = append(said, string(h.tail(1<<22)), string(g.tail(1<<22)))
	for _, text := range said {
		if found := secret.FindString(text); found != "" {
			t.Errorf("a secret (%.4s...) in: %.200s", found, around(text, found))
		}
		for _, token := range tokens {
			if strings.Contains(text, token) {
				t.Errorf("token %d in: %.200s", len(token), around(text, token))
			}
		}
	}
	// That the search finds what it looks for.
	seed, err := os.ReadFile(filepath.Join(g.dir, "identity", "user.seed"))
	if err != nil || !secret.Match(seed) {
		t.Errorf("a seed is not found as one: %v", err)
	}
	show, err := exec.Command(hubBin, "keys", "show", "--data", h.dir).Output()
	if err != nil || len(secret.FindAll(show, -1)) < 22 {
		t.Errorf("keys show does not show all: %v", err)
	}
}

// around returns the text before a place.
func around(text, found string) string {
	i := strings.Index(text, found)
	return text[max(0, i-150):i]
}
