// Package daemon owns what both long-running processes need around their
// parts: the data directory with its lock and its mark of a clean stop, and
// stages that start in order and stop in reverse.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	lockFile  = "lock"
	cleanFile = "clean"
)

// ErrInUse is returned when another process runs on a data directory.
var ErrInUse = errors.New("another instance runs on this data directory; stop it, or give another --data")

// Dir is a data directory in use.
type Dir struct {
	Path  string
	Clean bool // the last run stopped cleanly
	lock  *os.File
}

// Open makes a data directory if it is missing, locks it, and takes the mark
// of a clean stop away, durably: whatever ends this run without Close is not
// clean.
func Open(path string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("no data directory given; use --data DIR")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock %s: %w", path, ErrInUse)
	}
	d := &Dir{Path: path, lock: lock}
	err = os.Remove(filepath.Join(path, cleanFile))
	if d.Clean = err == nil; d.Clean {
		err = SyncDir(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = lock.Close()
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	return d, nil
}

// Close frees the directory; clean marks that everything in it is complete.
func (d *Dir) Close(clean bool) error {
	defer d.lock.Close()
	if !clean {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(d.Path, cleanFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), SyncDir(d.Path))
	}
	if err != nil {
		return fmt.Errorf("mark clean stop: %w", err)
	}
	return nil
}

// Join returns the path of a name in the directory.
func (d *Dir) Join(name string) string { return filepath.Join(d.Path, name) }

// Stages run parts of a process. A stage is stopped after all those that
// started later, and waited for before the next one.
type Stages struct {
	fail  context.CancelCauseFunc
	stops []func()

	mu  sync.Mutex
	err error
}

// NewStages returns stages; a part that fails cancels the returned context.
func NewStages(ctx context.Context) (context.Context, *Stages) {
	ctx, fail := context.WithCancelCause(ctx)
	return ctx, &Stages{fail: fail}
}

// Start runs a part in a goroutine, as the newest stage. It gets a context of
// its own that ends when it is the stage's turn to stop.
func (s *Stages) Start(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			s.mu.Lock()
			s.err = errors.Join(s.err, err)
			s.mu.Unlock()
			s.fail(err)
		}
	}()
	s.OnStop(func() { cancel(); <-done })
}

// OnStop adds a stage that only does something when it is its turn to stop.
func (s *Stages) OnStop(stop func()) { s.stops = append(s.stops, stop) }

// Stop stops all stages, the newest first, and returns what failed.
func (s *Stages) Stop() error {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
	s.stops = nil
	s.fail(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Every calls work at an interval, and when kick says so, until ctx ends. A nil
// kick says nothing.
func Every(ctx context.Context, interval time.Duration, kick <-chan struct{}, work func()) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-kick:
		}
		work()
	}
}

// WriteFile replaces a small file, readable by its owner only, so that after a
// power cut the old or the new content is there, whole.
func WriteFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// SyncDir makes changes to the names in a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
