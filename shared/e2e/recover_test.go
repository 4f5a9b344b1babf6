package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/natstest"
)

// countUp writes the numbers from..to-1 to a series, one durable write each.
func countUp(t *testing.T, c *client.Client, node string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		write(t, c, float(node, "count", 0, float64(i)))
	}
}

// checkCount tells whether the history of a series is 0..n-1, each once.
func checkCount(t *testing.T, where string, c *client.Client, node string, n int) {
	t.Helper()
	got := history(t, c, node, "count")
	if len(got) != n {
		t.Errorf("%s: history has %d points, want %d", where, len(got), n)
		return
	}
	for i := range got {
		if text := client.SampleText(&got[i]); text != strconv.Itoa(i) {
			t.Errorf("%s: point %d of history is %s", where, i, text)
			return
		}
	}
}

// TestBoxReplaced enrols an empty box to a gateway's node.
func TestBoxReplaced(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	n := addNode(t, g.client, g.id, "pump")
	countUp(t, g.client, n, 0, 20)
	g.waitEqual()
	set(t, h.client, n, "limit", "80")
	g.waitEqual()
	g.kill()
	set(t, h.client, n, "limit", "85") // while there is no box

	if err := os.RemoveAll(g.dir); err != nil {
		t.Fatal(err)
	}
	out, code := command(t, hubBin, "device", "token", "gw1", "--data", h.dir)
	if code != 0 {
		t.Fatalf("device token: code %d, %s", code, out)
	}
	_, line, _ := strings.Cut(out, "--token ")
	token, _, _ := strings.Cut(line, " ")
	g.enroll(token)
	g.start()
	g.waitEqual()
	expectValue(t, "new box", g.client, n, "limit", "85")
	expectValue(t, "new box", g.client, n, "count", "19")

	countUp(t, g.client, n, 20, 30)
	set(t, h.client, n, "limit", "90")
	g.waitEqual()
	g.crash()
	countUp(t, g.client, n, 30, 40)
	g.waitEqual()
	checkCount(t, "hub", h.client, n, 40)
	expectValue(t, "new box", g.client, n, "limit", "90")
	if aside := g.device().Aside; len(aside) > 0 {
		t.Errorf("set aside: %v", aside)
	}
	g.stop()
	h.stop()
	checkNodeStreamCount(t, h, n, 40)
	checkStores(t, h, g)
}

// checkNodeStreamCount tells whether the stream of what gateways authored
// about a node holds 0..n-1 of its series count, in order and once.
func checkNodeStreamCount(t *testing.T, h *hub, node string, n int) {
	t.Helper()
	next := 0
	storedOf(t, openStore(t, h.dir), node, func(m journal.Message) {
		p := decode(t, m)
		if p.Type != "count" {
			return
		}
		if p.Text() != strconv.Itoa(next) {
			t.Errorf("node stream holds %s where %d should stand", p.Text(), next)
		}
		next++
	})
	if next != n {
		t.Errorf("node stream holds %d points, want %d", next, n)
	}
}

// TestHubRestored puts yesterday's copy of the hub's directory back while
// three gateways are ahead of it.
func TestHubRestored(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	gateways := make([]*gateway, 3)
	nodes := make([]string, len(gateways))
	for i := range gateways {
		g := h.addGateway("gw"+strconv.Itoa(i+1), "", natstest.LinkConfig{})
		gateways[i], nodes[i] = g, addNode(t, g.client, g.id, "pump")
		countUp(t, g.client, nodes[i], 0, 10)
		g.waitEqual()
		set(t, h.client, nodes[i], "limit", "1")
		set(t, h.client, nodes[i], "lost", "1")
		g.waitEqual()
	}

	h.stop()
	yesterday := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(yesterday, os.DirFS(h.dir)); err != nil {
		t.Fatal(err)
	}
	h.start()

	later := make([]string, len(gateways))
	for i, g := range gateways {
		g.waitConnected(true)
		countUp(t, g.client, nodes[i], 10, 20)
		later[i] = addNode(t, g.client, g.id, "valve") // unknown to the copy
		countUp(t, g.client, later[i], 0, 5)
		set(t, h.client, nodes[i], "limit", "2") // what only the gateway holds then
		g.waitEqual()
	}
	gateways[2].link.Cut() // and one has a backlog besides
	countUp(t, gateways[2].client, nodes[2], 20, 25)

	h.kill()
	if err := os.RemoveAll(h.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(h.dir, os.DirFS(yesterday)); err != nil {
		t.Fatal(err)
	}
	h.start()
	for i := range gateways { // what people write at once must not get lost again
		set(t, h.client, nodes[i], "fresh", "3")
	}
	gateways[2].link.Restore()
	ends := []int{20, 20, 25}
	for i, g := range gateways {
		g.waitEqual()
		for where, c := range map[string]*client.Client{"hub": h.client, g.name: g.client} {
			expectValue(t, where, c, nodes[i], "limit", "2")
			expectValue(t, where, c, nodes[i], "lost", "1")
			expectValue(t, where, c, nodes[i], "fresh", "3")
			checkCount(t, where, c, nodes[i], ends[i])
			checkCount(t, where, c, later[i], 5)
		}
		// Both directions go on.
		countUp(t, g.client, nodes[i], ends[i], ends[i]+5)
		set(t, h.client, nodes[i], "limit", "4")
		g.waitEqual()
		checkCount(t, "hub", h.client, nodes[i], ends[i]+5)
		expectValue(t, g.name, g.client, nodes[i], "limit", "4")
		if aside := g.device().Aside; len(aside) > 0 {
			t.Errorf("set aside of %s: %v", g.name, aside)
		}
	}
	for _, g := range gateways {
		g.stop()
	}
	h.stop()
	checkStores(t, h, gateways...)
	for i := range gateways {
		checkNodeStreamCount(t, h, nodes[i], ends[i]+5)
		checkNodeStreamCount(t, h, later[i], 5)
	}
}

// TestRevoked cuts a gateway off and lets it come back with a new token.
func TestRevoked(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g, other := h.addGateway("gw1", "", natstest.LinkConfig{}), h.addGateway("gw2", "", natstest.LinkConfig{})
	n := addNode(t, g.client, g.id, "pump")
	countUp(t, g.client, n, 0, 5)
	g.waitEqual()
	other.waitEqual()
	if out, code := command(t, hubBin, "device", "revoke", "gw1", "--data", h.dir); code != 0 {
		t.Fatalf("revoke: code %d, %s", code, out)
	}
	g.waitConnected(false)
	if d := g.device(); d.State != "revoked" || d.Online {
		t.Errorf("device is %+v", d)
	}
	tries := g.link.Connections()
	countUp(t, g.client, n, 5, 10) // it works on alone
	eventually(t, "the gateway tries again, in vain", func() bool {
		if g.status().Connected || g.device().Online {
			t.Fatal("a revoked gateway is connected")
		}
		return g.link.Connections() >= tries+2
	})
	if got := len(history(t, h.client, n, "count")); got != 5 {
		t.Errorf("the hub has %d points, want 5", got)
	}
	h.crash() // nor does the hub forget
	g.crash() // which would wait minutes by now
	tries = g.link.Connections()
	eventually(t, "the gateway tries again, in vain", func() bool {
		if g.status().Connected || g.device().Online {
			t.Fatal("a revoked gateway is connected after a restart of the hub")
		}
		return g.link.Connections() >= tries+2
	})
	other.waitEqual()

	g.stop()
	token, err := h.client.DeviceToken(t.Context(), g.id)
	if err != nil {
		t.Fatal(err)
	}
	g.enroll(token.Token)
	g.start()
	g.waitEqual()
	checkCount(t, "hub", h.client, n, 10)
	if d := g.device(); d.State != "accepted" || !d.Online {
		t.Errorf("device is %+v", d)
	}

	// A removed one is gone for good, with its node.
	if err := h.client.DeviceRemove(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	g.waitConnected(false)
	if _, err := h.client.Device(t.Context(), g.id); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a removed gateway is still there: %v", err)
	}
	if _, err := h.client.Resolve(t.Context(), "gw1"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("the node of a removed gateway is still in the tree: %v", err)
	}
}
