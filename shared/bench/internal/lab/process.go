package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// stopWait is how long a process may take to stop when asked.
const stopWait = 15 * time.Second

// Process is a process that this program started.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  string // file with what it prints
	done chan struct{}
	err  error // after done is closed
}

// launches starts processes from one thread that lives as long as this
// program: the kernel ends a child when the thread that made it ends, so that
// a demo which is killed leaves nothing behind.
var launches = func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
}()

// Launch starts a process in a group of its own, so that Ctrl-C reaches it
// through Stop only. What it prints goes to the end of the file log.
func Launch(name, log, bin string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	p := &Process{Name: name, log: log, cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.cmd.Env = environment()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	launches <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// environment returns this program's environment without settings of Sapflow.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SAPFLOW_") {
			env = append(env, v)
		}
	}
	return env
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop asks the process to end, and ends it if it does not.
func (p *Process) Stop() error {
	select {
	case <-p.done: // before it was asked
		return fmt.Errorf("%s ended on its own: %v; it said: %s", p.Name, p.err, p.LastWords())
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has just ended
	select {
	case <-p.done:
	case <-time.After(stopWait):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s", p.Name, stopWait)
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w; it said: %s", p.Name, p.err, p.LastWords())
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it has gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails if it has just ended
	<-p.done
}

// LastWords returns the last line that the process printed.
func (p *Process) LastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return errors.Unwrap(err).Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
