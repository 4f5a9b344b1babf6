package lab

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor times in /proc: USER_HZ, which Linux fixes
// at 100 for programs.
const tick = 10 * time.Millisecond

// CPU returns the processor time that the process has used, all threads, by
// 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
	}
	// The name in brackets may hold blanks; utime and stime are the 12th and
	// 13th field behind it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", p.Name, err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// RSS returns the resident memory of the process in bytes.
func (p *Process) RSS() (int64, error) { return p.memory("VmRSS:") }

// PeakRSS returns the most resident memory that the process has had, in bytes.
func (p *Process) PeakRSS() (int64, error) { return p.memory("VmHWM:") }

func (p *Process) memory(field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("memory of %s: no %s", p.Name, field)
}

// Written returns the bytes that the process has made the kernel write to a
// disk: whole pages, without what the file system writes for itself.
func (p *Process) Written() (int64, error) { return p.io("write_bytes: ") }

// Read returns the bytes that the process has made the kernel read from a
// disk.
func (p *Process) Read() (int64, error) { return p.io("read_bytes: ") }

func (p *Process) io(field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("bytes of %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), field); ok {
			return strconv.ParseInt(n, 10, 64)
		}
	}
	return 0, fmt.Errorf("bytes of %s: no %s", p.Name, field)
}

// Size returns the bytes of all files below a directory, or of one file.
func Size(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// Quiet waits until the process has used at most 2 % of a processor for a
// second and returns the processor time that it had used by then.
func (p *Process) Quiet(ctx context.Context) (time.Duration, error) {
	const window, most = time.Second, 20 * time.Millisecond
	last, err := p.CPU()
	if err != nil {
		return 0, err
	}
	for {
		if err := Pause(ctx, window); err != nil {
			return 0, fmt.Errorf("wait for %s to have nothing to do: %w", p.Name, err)
		}
		now, err := p.CPU()
		if err != nil {
			return 0, err
		}
		if now-last <= most {
			return now, nil
		}
		last = now
	}
}

// Pause waits, or returns the error of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Until asks ok again and again until it says so, an error comes or ctx ends.
func Until(ctx context.Context, what string, every time.Duration, ok func() (bool, error)) error {
	for {
		done, err := ok()
		if err != nil || done {
			return err
		}
		if err := Pause(ctx, every); err != nil {
			return fmt.Errorf("not in time: %s: %w", what, err)
		}
	}
}
