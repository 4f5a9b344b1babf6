// Package e2e_test proves the promises of Sapflow on real processes: the two
// binaries, joined by a link that is cut, with SIGKILL at seeded moments.
//
//	go test ./shared/e2e -seed 7
//
// runs with the random moments of a run that printed 7.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

var seed = flag.Uint64("seed", 0, "seed of the random moments; 0 takes a new one and prints it")

// The binaries that are tested.
var hubBin, agentBin string

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64N(1_000_000) + 1
	}
	os.Exit(run(m))
}

// run builds the binaries once and runs the tests.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sapflow-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	hubBin, agentBin = filepath.Join(dir, "sapflow-hub"), filepath.Join(dir, "sapflow-agent")
	for bin, pkg := range map[string]string{hubBin: "hub", agentBin: "agent"} {
		build := exec.Command("go", "build", "-o", bin, "github.com/sapflow/sapflow/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	fmt.Println("seed", *seed)
	return m.Run()
}

// random returns the source of a test's random moments.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name()))
	t.Logf("repeat with -seed %d", *seed)
	return rand.New(rand.NewPCG(*seed, h.Sum64()))
}

// patience bounds every wait for something that must come.
const patience = 60 * time.Second

// eventually polls ok until it is true. what is shown when it does not come.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

// within polls ok for as long as patience.
func within(t *testing.T, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in %s: %s", patience, what)
		case <-t.Context().Done():
			t.Fatalf("stopped while waiting: %s", what)
		}
	}
}

// process is one of the binaries, started again on the same data directory
// as often as a test likes.
type process struct {
	t      *testing.T
	name   string
	bin    string
	args   []string
	env    []string // besides environ
	dir    string   // data directory
	log    string   // file with what it said, over all starts
	cmd    *exec.Cmd
	done   chan struct{} // closed when cmd has ended
	code   error         // of cmd, once done
	client *client.Client
	run    *client.Running
}

func newProcess(t *testing.T, name, bin string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, bin: bin, args: args, dir: t.TempDir(), log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.tail(8000))
		}
	})
	return p
}

// tail returns the last bytes of the log.
func (p *process) tail(n int) []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	return b[max(0, len(b)-n):]
}

// start starts the process and returns once it answers.
func (p *process) start() {
	p.t.Helper()
	p.launch()
	eventually(p.t, p.name+" answers", func() bool {
		select {
		case <-p.done:
			p.t.Fatalf("%s ended: %v", p.name, p.code)
		default:
		}
		return p.dial()
	})
}

// launch starts the process and does not wait.
func (p *process) launch() {
	p.t.Helper()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(p.bin, append(p.args, "--data", p.dir)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(environ(), p.env...)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		p.code = cmd.Wait()
		close(done)
	}()
}

// environ is the environment without settings that a developer may have;
// metrics are at a free port.
func environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SAPFLOW_") })
	return append(env, "SAPFLOW_METRICS=127.0.0.1:0")
}

// dial connects to the process that was started last and tells whether it
// answers.
func (p *process) dial() bool {
	if p.client == nil && !p.connect() {
		return false
	}
	s, err := p.client.Status(p.t.Context())
	return err == nil && s.Link != "starting"
}

// connect connects without a question.
func (p *process) connect() bool {
	run, err := client.ReadRunning(p.dir)
	if err != nil || run.PID != p.cmd.Process.Pid {
		return false
	}
	c, err := client.Dial(p.t.Context(), p.dir, nats.NoReconnect())
	if err != nil {
		return false
	}
	p.client, p.run = c, run
	return true
}

// kill ends the process as a power cut does.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// stop ends the process as a service manager does.
func (p *process) stop() {
	p.t.Helper()
	p.end(syscall.SIGTERM)
	if p.code != nil {
		p.t.Fatalf("%s did not stop cleanly: %v", p.name, p.code)
	}
}

func (p *process) end(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // fails if it has ended
	<-p.done
	p.cmd = nil
	if p.client != nil {
		p.client.Close()
		p.client = nil
	}
}

// hub is a hub that gateways reach through a link.
type hub struct {
	*process
	root  string
	link  *natstest.Link   // what gateways are told to dial
	links []*natstest.Link // all that lead to it
}

// startHub starts a hub on a new data directory.
func startHub(t *testing.T, args ...string) *hub {
	t.Helper()
	h := &hub{link: natstest.StartLink(t, natstest.LinkConfig{})}
	h.links = []*natstest.Link{h.link}
	h.process = newProcess(t, "hub", hubBin, append([]string{
		"serve", "--http", "127.0.0.1:0", "--leaf", "127.0.0.1:0", "--listen", "127.0.0.1:0",
		"--leaf-advertise", "nats-leaf://" + h.link.Addr(),
	}, args...)...)
	h.start()
	h.root = h.run.ID
	return h
}

// start starts the hub; the links lead to where it listens now.
func (h *hub) start() {
	h.t.Helper()
	h.process.start()
	for _, l := range h.links {
		l.SetTarget(h.run.Leaf)
	}
}

// crash kills the hub and starts it again.
func (h *hub) crash() {
	h.t.Helper()
	h.kill()
	h.start()
}

// newLink returns one more link to the hub.
func (h *hub) newLink(cfg natstest.LinkConfig) *natstest.Link {
	h.t.Helper()
	l := natstest.StartLink(h.t, cfg)
	l.SetTarget(h.run.Leaf)
	h.links = append(h.links, l)
	return l
}

// gateway is an agent of a hub.
type gateway struct {
	*process
	id   string
	hub  *hub
	link *natstest.Link
}

// addGateway adds a gateway below a node, the root if it is "", with a link
// of its own, enrols and starts it.
func (h *hub) addGateway(name, parent string, cfg natstest.LinkConfig) *gateway {
	h.t.Helper()
	g, enroll := h.newGateway(name, parent, cfg)
	enroll()
	g.start()
	return g
}

// newGateway adds a gateway that runs with more arguments. It is started after
// enroll.
func (h *hub) newGateway(name, parent string, cfg natstest.LinkConfig, args ...string) (g *gateway, enroll func()) {
	h.t.Helper()
	token, err := h.client.DeviceAdd(h.t.Context(), api.DeviceAdd{Name: name, Parent: parent})
	if err != nil {
		h.t.Fatal(err)
	}
	g = &gateway{hub: h, id: token.ID, link: h.newLink(cfg)}
	g.process = newProcess(h.t, name, agentBin, append([]string{"run", "--listen", "127.0.0.1:0"}, args...)...)
	return g, func() {
		h.t.Helper()
		g.enroll(token.Token)
	}
}

// enroll pastes the enrol line, and leads the gateway to its own link.
func (g *gateway) enroll(token string) {
	g.t.Helper()
	out, code := command(g.t, agentBin, "enroll", "http://"+g.hub.run.HTTP, "--token", token, "--data", g.dir)
	if code != 0 {
		g.t.Fatalf("enrol %s: code %d, %s", g.name, code, out)
	}
	file := filepath.Join(g.dir, "identity", "identity.json")
	b, err := os.ReadFile(file)
	if err == nil {
		if !bytes.Contains(b, []byte(g.hub.link.Addr())) {
			g.t.Fatalf("enrolled gateway was not told --leaf-advertise: %s", b)
		}
		b = bytes.ReplaceAll(b, []byte(g.hub.link.Addr()), []byte(g.link.Addr()))
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// crash kills the agent and starts it again.
func (g *gateway) crash() {
	g.t.Helper()
	g.kill()
	g.start()
}

func (g *gateway) status() *api.Status {
	g.t.Helper()
	s, err := g.client.Status(g.t.Context())
	if err != nil {
		g.t.Fatalf("status of %s: %v", g.name, err)
	}
	return s
}

func (g *gateway) waitConnected(want bool) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%s connected: %v", g.name, want), func() bool { return g.status().Connected == want })
}

// device returns what the hub knows about the gateway.
func (g *gateway) device() *api.Device {
	g.t.Helper()
	d, err := g.hub.client.Device(g.t.Context(), g.id)
	if err != nil {
		g.t.Fatal(err)
	}
	return d
}

// waitEqual waits until both ends of the link hold the same state of every
// node below the gateway, and nothing is behind.
func (g *gateway) waitEqual() {
	g.t.Helper()
	var here, there map[string]api.Node
	last := time.Now()
	equal := func() bool {
		if s := g.status(); !s.Connected || s.BacklogPoints > 0 || g.device().LagPoints > 0 {
			return false
		}
		here, there = below(g.t, g.client, g.id), below(g.t, g.hub.client, g.id)
		if time.Since(last) > patience/4 {
			last = time.Now()
			g.t.Logf("%s and hub differ still: %s", g.name, differ(here, there))
		}
		return reflect.DeepEqual(here, there)
	}
	eventually(g.t, g.name+" and hub hold the same", equal)
	g.checkTrusted()
}

// checkTrusted tells whether the hub took the gateway for a hacked one.
func (g *gateway) checkTrusted() {
	g.t.Helper()
	refused := g.device().Refused
	for _, what := range []string{"rights", "payload", "subs", "syntax", "interest", "name", "reply", "header", "malformed", "dropped", "flood", "rate"} {
		if refused[what] > 0 {
			g.t.Errorf("%s was refused: %v", g.name, refused)
			return
		}
	}
}

// below returns a node and all below it, with the parents that lie there too.
func below(t *testing.T, c *client.Client, node string) map[string]api.Node {
	t.Helper()
	list, err := c.Nodes(t.Context(), node, api.NodesRequest{Depth: -1})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]api.Node{}
	for _, n := range list {
		nodes[n.ID] = n
	}
	for id, n := range nodes {
		n.Parents = slices.DeleteFunc(n.Parents, func(up string) bool { _, ok := nodes[up]; return !ok })
		nodes[id] = n
	}
	return nodes
}

// differ describes the first difference.
func differ(here, there map[string]api.Node) string {
	for id, n := range here {
		if m, ok := there[id]; !ok || !reflect.DeepEqual(n, m) {
			a, _ := json.Marshal(n)
			b, _ := json.Marshal(m)
			return fmt.Sprintf("%s: %s and %s", id, a, b)
		}
	}
	for id := range there {
		if _, ok := here[id]; !ok {
			return id + " is at the hub only"
		}
	}
	return "no more"
}

// command runs a command line to its end and returns all it said.
func command(t *testing.T, bin string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Env = environ()
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// bounded returns a context that ends with the test or after patience.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// write writes points as one durable group.
func write(t *testing.T, c *client.Client, points ...point.Point) {
	t.Helper()
	if err := c.Write(bounded(t), points); err != nil {
		t.Fatal(err)
	}
}

// set writes one value as a person does.
func set(t *testing.T, c *client.Client, node, pointType, value string) {
	t.Helper()
	if err := c.Set(bounded(t), series(node, pointType), value, "", ""); err != nil {
		t.Fatalf("set %s %s: %v", pointType, value, err)
	}
}

// addNode makes a node.
func addNode(t *testing.T, c *client.Client, parent, name string) string {
	t.Helper()
	id, err := c.NodeAdd(bounded(t), parent, "sensor", name)
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	return id
}

func series(node, pointType string) point.Series {
	return point.Series{Node: node, Type: pointType, Key: point.NoKey}
}

// float returns a point; time 0 leaves the stamp to the instance.
func float(node, pointType string, at uint64, v float64) point.Point {
	return point.Point{Series: series(node, pointType), Time: at, DataType: point.Float, Data: point.FloatData(v)}
}

// head returns the value of a series as text, "" if there is none.
func head(t *testing.T, c *client.Client, node, pointType, key string) api.Point {
	t.Helper()
	n, err := c.Get(t.Context(), node)
	if api.CodeOf(err) == api.CodeNotFound {
		return api.Point{}
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range n.Points {
		if p.Type == pointType && p.Key == key {
			return p
		}
	}
	return api.Point{}
}

// history returns all samples of a series.
func history(t *testing.T, c *client.Client, node, pointType string) []api.Sample {
	t.Helper()
	list, err := samples(t.Context(), c, node, api.HistoryRequest{Type: pointType})
	if err != nil {
		t.Fatalf("history of %s: %v", pointType, err)
	}
	return list
}

func samples(ctx context.Context, c *client.Client, node string, req api.HistoryRequest) (list []api.Sample, err error) {
	err = c.History(ctx, node, req, func(r *api.HistoryReply) error {
		list = append(list, r.Samples...)
		if len(r.Gaps) > 0 {
			return fmt.Errorf("history has %d gaps", len(r.Gaps))
		}
		return nil
	})
	return list, err
}
