package e2e_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// fetch asks a process at its address for metrics.
func (p *process) fetch(path string) (status int, body string) {
	p.t.Helper()
	ctx := bounded(p.t)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.run.Metrics+path, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

var (
	helpLine   = regexp.MustCompile(`^# HELP (sapflow_[a-z_]+) [A-Z][^\n]*\.$`)
	typeLine   = regexp.MustCompile(`^# TYPE (sapflow_[a-z_]+) (gauge|counter)$`)
	sampleLine = regexp.MustCompile(`^(sapflow_[a-z_]+)(?:\{([a-z]+="[^"]*",?)+\})? -?[0-9+Ie.-]+$`)
	names      = regexp.MustCompile(`sapflow_[a-z_]+`)
)

// metrics returns the names that a process shows, with their samples; each line
// is what Prometheus reads.
func (p *process) metrics() (samples map[string][]string) {
	p.t.Helper()
	status, body := p.fetch("/metrics")
	if status != http.StatusOK {
		p.t.Fatalf("metrics of %s: status %d, %s", p.name, status, body)
	}
	samples = map[string][]string{}
	name := ""
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if m := helpLine.FindStringSubmatch(line); m != nil {
			if _, twice := samples[m[1]]; twice {
				p.t.Errorf("%s shows %s twice", p.name, m[1])
			}
			name, samples[m[1]] = m[1], nil
			continue
		}
		m := typeLine.FindStringSubmatch(line)
		if m != nil && m[1] == name && (m[2] == "counter") == strings.HasSuffix(name, "_total") {
			continue
		}
		if m = sampleLine.FindStringSubmatch(line); m == nil || m[1] != name {
			p.t.Errorf("%s: %q is no line of %s", p.name, line, name)
			continue
		}
		samples[name] = append(samples[name], line)
	}
	return samples
}

// TestGauges: both ends show their figures, and the dashboard and the alerts
// use no others. An agent tells nothing of nodes.
func TestGauges(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	node := addNode(t, g.client, g.id, "pump")
	write(t, g.client, float(node, "level", 0, 1))
	g.waitEqual()
	var hub, agent map[string][]string
	has := func(list map[string][]string, sample string) bool {
		return slices.Contains(list[names.FindString(sample)], sample)
	}
	eventually(t, "both tell of the link", func() bool {
		hub, agent = h.metrics(), g.metrics()
		return has(agent, "sapflow_link_connected 1") && has(agent, "sapflow_backlog_points 0") &&
			has(hub, `sapflow_gateway_connected{gateway="`+g.id+`"} 1`) && has(hub, `sapflow_gateway_link_open{gateway="`+g.id+`"} 1`)
	})
	for _, sample := range []string{"sapflow_ready 1", "sapflow_log_failing 0", "sapflow_log_dropped_points_total 0"} {
		if !has(hub, sample) || !has(agent, sample) {
			t.Errorf("%q is not shown by both", sample)
		}
	}
	if has(agent, "sapflow_log_points_total 0") || has(agent, "sapflow_store_bytes 0") || has(hub, `sapflow_stream_bytes{stream="EDGE"} 0`) {
		t.Error("points were written and nothing is counted")
	}
	for name, samples := range agent {
		for _, s := range samples {
			if strings.Contains(s, g.id) || strings.Contains(s, node) {
				t.Errorf("the agent tells of nodes: %s", s)
			}
		}
		if samples == nil && name != "sapflow_events_total" && name != "sapflow_link_class_bytes_total" {
			t.Errorf("%s has no sample", name)
		}
	}
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/monitoring", file))
		if err != nil {
			t.Fatal(err)
		}
		used := names.FindAllString(string(text), -1)
		if len(used) < 10 {
			t.Errorf("%s uses %d metrics", file, len(used))
		}
		for _, name := range used {
			_, atHub := hub[name]
			if _, atAgent := agent[name]; !atHub && !atAgent {
				t.Errorf("%s uses %s, which nobody shows", file, name)
			}
		}
	}
	for _, p := range []*process{h.process, g.process} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := p.fetch(path); status != http.StatusOK {
				t.Errorf("%s of %s: %d, %s", path, p.name, status, body)
			}
		}
	}
	out, code := command(t, agentBin, "run", "--data", t.TempDir(), "--metrics", "0.0.0.0:0")
	if code == 0 || !strings.Contains(out, "ot enrolled") {
		t.Errorf("an agent that is not enrolled: code %d, %s", code, out)
	}
	g.stop()
	if out, code = command(t, agentBin, "run", "--data", g.dir, "--metrics", "0.0.0.0:0"); code != 1 || !strings.Contains(out, "open to other machines") {
		t.Errorf("metrics beyond loopback at the agent: code %d, %s", code, out)
	}
}

// TestReady: an agent whose log cannot be written is alive and not ready.
func TestReady(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{})
	smallDisk(t, g.dir, 48<<20)
	enroll()
	g.start()
	eventually(t, "ready", func() bool { status, _ := g.fetch("/readyz"); return status == http.StatusOK })
	free := fill(t, g.dir)
	_ = g.client.Write(bounded(t), []point.Point{float(g.id, "level", 0, 2)}) // disk_full
	if status, body := g.fetch("/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("ready with a full disk: %d, %s", status, body)
	}
	if status, body := g.fetch("/healthz"); status != http.StatusOK {
		t.Errorf("not alive with a full disk: %d, %s", status, body)
	}
	if list := g.metrics(); !slices.Contains(list["sapflow_ready"], "sapflow_ready 0") {
		t.Errorf("got %s", list["sapflow_ready"])
	}
	free()
	eventually(t, "ready again", func() bool { status, _ := g.fetch("/readyz"); return status == http.StatusOK })
}

// TestSystemd: an agent tells systemd that it is ready, that it lives, and that
// it stops; one that stands still tells nothing.
func TestSystemd(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	g.stop()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := func() string {
		t.Helper()
		buf := make([]byte, 256)
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	g.env = []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=300000"}
	g.start()
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := next(); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	got := next()
	for got == "WATCHDOG=1" {
		got = next()
	}
	if got != "STOPPING=1" {
		t.Errorf("got %q at the end", got)
	}
	if <-g.done; g.code != nil {
		t.Errorf("not a clean stop: %v", g.code)
	}
}
