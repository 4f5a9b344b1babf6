// Package lab runs hubs and gateways as separate processes, for the demo and
// the benches: it starts, enrols, kills and measures them, and owns the line
// between them. It leaves what is sent to its callers.
package lab

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
)

// anyPort is an address with a free port.
const anyPort = "127.0.0.1:0"

// Instance is a hub or an agent with its data directory.
type Instance struct {
	*Process // nil while it does not run

	Name string // told to people
	Bin  string // path of the binary
	Dir  string // its data directory
	Seen string // where its process finds Dir, if elsewhere: below a mount that this program must not use
	ID   string // of its root node; a hub's is known once it has run

	Limit *ReadLimit // of what its next process reads, nil for none

	command string   // serve or run
	flags   []string // besides --data
}

// Lab holds all instances of one demo or bench below one directory.
type Lab struct {
	Dir string // temporary; removed by the caller
	Bin string // directory of the two binaries

	// Seen tells where processes find a data directory of this lab, by the
	// name of the instance, if not at its own path.
	Seen map[string]string

	Plan string // of the gateways; default wired

	all []*Instance
}

// Hub returns a hub that does not run yet.
func (l *Lab) Hub(flags ...string) *Instance {
	return l.add(&Instance{
		Name: "hub", Bin: filepath.Join(l.Bin, "sapflow-hub"), Dir: filepath.Join(l.Dir, "hub"), Seen: l.Seen["hub"], command: "serve",
		flags: append([]string{"--http", anyPort, "--leaf", anyPort, "--listen", anyPort}, flags...),
	})
}

func (l *Lab) add(i *Instance) *Instance {
	l.all = append(l.all, i)
	return i
}

// Enrol adds a gateway at a running hub and enrols it; it does not run yet.
func (l *Lab) Enrol(ctx context.Context, hub *Instance, name string) (*Instance, error) {
	c, err := client.Dial(ctx, hub.Dir)
	if err != nil {
		return nil, fmt.Errorf("add gateway %s: %w", name, err)
	}
	defer c.Close()
	device, err := c.DeviceAdd(ctx, api.DeviceAdd{Name: name, Plan: cmp.Or(l.Plan, "wired")})
	if err != nil {
		return nil, fmt.Errorf("add gateway %s: %w", name, err)
	}
	running, err := client.ReadRunning(hub.Dir)
	if err != nil {
		return nil, fmt.Errorf("add gateway %s: %w", name, err)
	}
	g := l.Gateway(name, device.ID)
	_, err = g.Run(ctx, "enroll", "http://"+running.HTTP, "--token", device.Token)
	return g, err
}

// Gateway returns a gateway that is enrolled already, in a directory of this
// lab, and does not run yet.
func (l *Lab) Gateway(name, id string) *Instance {
	return l.add(&Instance{
		Name: name, ID: id, Bin: filepath.Join(l.Bin, "sapflow-agent"), Dir: filepath.Join(l.Dir, name), Seen: l.Seen[name], command: "run",
		flags: []string{"--listen", anyPort},
	})
}

// Close stops whatever runs, gateways first.
func (l *Lab) Close() error {
	var errs []error
	for _, i := range slices.Backward(l.all) {
		errs = append(errs, i.Stop())
	}
	return errors.Join(errs...)
}

// With runs f with a lab in a directory of its own, and removes both.
func With(name, bin string, f func(*Lab) error) (err error) {
	dir, err := TempDir(name)
	if err != nil {
		return err
	}
	l := &Lab{Dir: dir, Bin: bin}
	defer func() {
		err = errors.Join(err, l.Close(), os.RemoveAll(dir))
	}()
	return f(l)
}

// Pair starts a hub and a gateway that is enrolled there, and waits until they
// are connected.
func (l *Lab) Pair(ctx context.Context) (hub, gateway *Instance, err error) {
	hub = l.Hub()
	if _, err = hub.Start(ctx); err != nil {
		return nil, nil, err
	}
	if gateway, err = l.Enrol(ctx, hub, "gateway"); err != nil {
		return nil, nil, err
	}
	if _, err = gateway.Start(ctx); err != nil {
		return nil, nil, err
	}
	return hub, gateway, gateway.CaughtUp(ctx)
}

// Alone returns a running gateway that knows its hub, which has stopped.
func (l *Lab) Alone(ctx context.Context) (*Instance, error) {
	hub, gateway, err := l.Pair(ctx)
	if err != nil {
		return nil, err
	}
	return gateway, hub.Stop()
}

// SetFlag gives a flag another value for the next start.
func (i *Instance) SetFlag(name, value string) {
	if at := slices.Index(i.flags, name); at >= 0 {
		i.flags[at+1] = value
		return
	}
	i.flags = append(i.flags, name, value)
}

// firstAnswer bounds the wait for an instance to answer.
const firstAnswer = 30 * time.Second

// Start starts the instance and returns how long its first answer to a
// question took. A later start takes the same ports, so that who was
// connected comes back.
func (i *Instance) Start(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, firstAnswer)
	defer cancel()
	began := time.Now()
	var err error
	i.Process, err = Launch(i.Name, i.Dir+".log", i.Bin, append([]string{i.command, "--data", i.data()}, i.flags...)...)
	if err == nil && i.Limit != nil {
		err = i.Limit.Add(i.PID())
	}
	if err != nil {
		return 0, err
	}
	err = Until(ctx, i.Name+" answers", time.Millisecond, func() (bool, error) {
		select {
		case <-i.Done():
			return false, fmt.Errorf("%s ended: %s", i.Name, i.LastWords())
		default:
		}
		c, err := client.Dial(ctx, i.Dir)
		if err != nil {
			return false, nil // not there yet
		}
		defer c.Close()
		status, err := c.Status(ctx)
		if err == nil {
			i.ID = status.ID
		}
		return err == nil, nil
	})
	took := time.Since(began)
	if err == nil {
		err = i.keepPorts(ctx)
	}
	return took, err
}

// data returns the directory that a process of the instance is given.
func (i *Instance) data() string { return cmp.Or(i.Seen, i.Dir) }

// keepPorts makes the ports of this run those of the next. The file that
// tells them is written last.
func (i *Instance) keepPorts(ctx context.Context) error {
	return Until(ctx, i.Name+" tells its ports", time.Millisecond, func() (bool, error) {
		r, err := client.ReadRunning(i.Dir)
		if err != nil || r.PID != i.PID() {
			return false, nil
		}
		for flag, addr := range map[string]string{"--listen": r.Listen, "--http": r.HTTP, "--leaf": r.Leaf} {
			if addr != "" {
				i.SetFlag(flag, addr)
			}
		}
		return true, nil
	})
}

// Stop stops the instance if it runs.
func (i *Instance) Stop() error {
	if i.Process == nil {
		return nil
	}
	p := i.Process
	i.Process = nil
	return p.Stop()
}

// Crash kills the instance with SIGKILL.
func (i *Instance) Crash() {
	i.Kill()
	i.Process = nil
}

// Dial connects to the running instance.
func (i *Instance) Dial(ctx context.Context) (*client.Client, error) {
	return client.Dial(ctx, i.Dir)
}

// URL returns the NATS address of the running instance.
func (i *Instance) URL() (string, error) {
	r, err := client.ReadRunning(i.Dir)
	if err != nil {
		return "", err
	}
	return "nats://" + r.Listen, nil
}

// Leaf returns where gateways reach the running hub.
func (i *Instance) Leaf() (string, error) {
	r, err := client.ReadRunning(i.Dir)
	if err != nil {
		return "", err
	}
	return r.Leaf, nil
}

// Run runs a command of the binary on the instance's data directory and
// returns what it printed.
func (i *Instance) Run(ctx context.Context, args ...string) (string, error) {
	var out strings.Builder
	err := i.RunTo(ctx, &out, args...)
	return out.String(), err
}

// RunTo is Run with what is printed going to w.
func (i *Instance) RunTo(ctx context.Context, w io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, i.Bin, append(args, "--data", i.data())...)
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(i.Bin), args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// Replayed is what the agent's command `replay` tells.
type Replayed struct {
	Sent            int     `json:"sent"`
	Refused         int     `json:"refused"`
	Seconds         float64 `json:"seconds"`
	PointsPerSecond float64 `json:"pointsPerSecond"`
}

// Replay feeds a trace at full speed, its newest point now.
func (i *Instance) Replay(ctx context.Context, trace string) (*Replayed, error) {
	out, err := i.Run(ctx, "replay", trace, "--shift-to-now", "--speed", "max", "--json")
	if err != nil {
		return nil, err
	}
	r := &Replayed{}
	if err := json.Unmarshal([]byte(out), r); err != nil {
		return nil, fmt.Errorf("read what replay printed: %w", err)
	}
	return r, nil
}

// Behind returns how many points the hub has not acked to a gateway, and
// whether it is connected.
func Behind(ctx context.Context, c *client.Client) (points uint64, connected bool, err error) {
	s, err := c.Status(ctx)
	if err != nil {
		return 0, false, err
	}
	return s.BacklogPoints, s.Connected, nil
}

// CaughtUp waits until a gateway is connected and the hub holds all it has.
func CaughtUp(ctx context.Context, c *client.Client) error {
	return Until(ctx, "the gateway catches up", 2*time.Millisecond, func() (bool, error) {
		points, connected, err := Behind(ctx, c)
		return connected && points == 0, err
	})
}

// catchUp bounds the wait of an instance that catches up.
const catchUp = time.Minute

// CaughtUp waits until the gateway is connected and the hub holds all it has.
func (i *Instance) CaughtUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	c, err := i.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return CaughtUp(ctx, c)
}

// AddSensors makes nodes below the gateway and returns their ids.
func (i *Instance) AddSensors(ctx context.Context, n int) ([]string, error) {
	c, err := i.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	nodes := make([]string, n)
	for k := range nodes {
		if nodes[k], err = c.NodeAdd(ctx, i.ID, "sensor", fmt.Sprintf("sensor-%03d", k+1)); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// Ready waits until a gateway has read its log: only then it answers about
// the past, and takes writes.
func Ready(ctx context.Context, c *client.Client) error {
	return Until(ctx, "the gateway reads its log", time.Millisecond, func() (bool, error) {
		s, err := c.Status(ctx)
		return err == nil && s.Link != "starting", err
	})
}

// TempDir makes the directory of a lab.
func TempDir(name string) (string, error) {
	dir, err := os.MkdirTemp("", "sapflow-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}
