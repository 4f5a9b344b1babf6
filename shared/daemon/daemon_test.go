package daemon_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/daemon"
)

func TestDirIsLockedAndMarked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "data")
	open := func() *daemon.Dir {
		t.Helper()
		d, err := daemon.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	if d.Clean {
		t.Error("a new directory is marked clean")
	}
	if _, err := daemon.Open(path); !errors.Is(err, daemon.ErrInUse) {
		t.Errorf("second process: got %v, want %v", err, daemon.ErrInUse)
	}
	if err := d.Close(true); err != nil {
		t.Fatal(err)
	}
	d = open()
	if !d.Clean {
		t.Error("not clean after a clean stop")
	}
	if err := d.Close(false); err != nil {
		t.Fatal(err)
	}
	d = open()
	defer d.Close(false)
	if d.Clean {
		t.Error("clean after a stop that was not")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v %v, want 0700", info.Mode(), err)
	}
	if _, err := daemon.Open(""); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("no directory: got %v, want a hint at --data", err)
	}
}

func TestStagesStopInReverse(t *testing.T) {
	ctx, s := daemon.NewStages(t.Context())
	var order []string
	for _, name := range []string{"first", "second"} {
		s.Start(name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		})
	}
	s.OnStop(func() { order = append(order, "third") })
	if err := s.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
		t.Errorf("stopped in order %v, want %v", order, want)
	}
	if ctx.Err() == nil {
		t.Error("the context lives on after Stop")
	}
}

func TestFailingStageEndsAll(t *testing.T) {
	ctx, s := daemon.NewStages(t.Context())
	bad := errors.New("out of luck")
	s.Start("part", func(context.Context) error { return bad })
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, bad) || !strings.HasPrefix(err.Error(), "part: ") {
		t.Errorf("cause: got %v, want %v with the name of the part", err, bad)
	}
	if err := s.Stop(); !errors.Is(err, bad) {
		t.Errorf("stop: got %v, want %v", err, bad)
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, want := range []string{"one", "two"} {
		if err := daemon.WriteFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v %v, want 0600", info.Mode(), err)
	}
	// A write that cannot happen leaves what was there.
	if err := os.Mkdir(path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := daemon.WriteFile(path, []byte("three")); err == nil {
		t.Error("no error although the file cannot be written")
	}
	if got, _ := os.ReadFile(path); string(got) != "two" {
		t.Errorf("got %q after a failed write, want what was there", got)
	}
}
