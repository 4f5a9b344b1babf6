package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sapflow/sapflow/agent/internal/config"
)

// TestMain keeps the settings of whoever runs the tests out of them.
func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "SAPFLOW_") {
			_ = os.Unsetenv(name) // fails for malformed names only
		}
	}
	os.Exit(m.Run())
}

// load parses flags as main does and loads a file with the given text.
func load(t *testing.T, file string, flags ...string) (config.Config, error) {
	t.Helper()
	var s config.Settings
	parser, err := kong.New(&s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(flags); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Load(path)
}

func TestLayers(t *testing.T) {
	got, err := load(t, "", "--data", "d")
	if err != nil || got.Data != "d" || got.Listen != config.DefaultListen || got.ListenGiven || got.CommitEvery != 0 || got.SnapshotEvery != config.DefaultSnapshotEvery || got.LogLevel != "info" {
		t.Errorf("defaults: got %+v, %v", got, err)
	}
	t.Setenv("SAPFLOW_LISTEN", "127.0.0.1:2")
	t.Setenv("SAPFLOW_COMMIT_EVERY", "2s")
	got, err = load(t, "data: file\ncommitEvery: 3s\nlogLevel: debug\n", "--listen=127.0.0.1:1")
	if err != nil || got.Data != "file" || got.Listen != "127.0.0.1:1" || !got.ListenGiven || got.CommitEvery != 2*time.Second || got.LogLevel != "debug" {
		t.Errorf("layers: got %+v, %v", got, err)
	}
}

func TestProxy(t *testing.T) {
	got, err := load(t, "data: d\n")
	if err != nil || got.Proxy != nil {
		t.Errorf("default: got %v, %v", got.Proxy, err)
	}
	t.Setenv("SAPFLOW_PROXY", "http://user:s3cret@proxy:3128")
	got, err = load(t, "data: d\nproxy: http://other:1\n")
	if err != nil || got.Proxy == nil || got.Proxy.Host != "proxy:3128" {
		t.Errorf("environment: got %v, %v", got.Proxy, err)
	}
	for _, bad := range []string{"user:s3cret@proxy:3128", "socks5://user:s3cret@proxy:1", "http://user:s3cret@", "http://user:s3cret@proxy:port"} {
		t.Setenv("SAPFLOW_PROXY", bad)
		if _, err := load(t, "data: d\n"); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		file  string
		flags []string
		want  string
	}{
		{"", nil, "--data"},
		{"data: d\nlisen: x\n", nil, `line 2: unknown field "lisen"`},
		{"commitEvery: soon\n", nil, "agent.yaml"},
		{"", []string{"--data=d", "--listen=localhost"}, "host:port"},
		{"commitEvery: -1s\ndata: d\n", nil, "negative"},
		{"snapshotEvery: 0s\ndata: d\n", nil, "snapshotEvery is 0s"},
	} {
		if _, err := load(t, tc.file, tc.flags...); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %v: got %v, want %q", tc.file, tc.flags, err, tc.want)
		}
	}
}
