package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sapflow/sapflow/agent/internal/config"
	"github.com/sapflow/sapflow/shared/cli"
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
		{"data: d\nlisen: x\n", nil, `line 2: unknown field "lisen"; do you mean listen?`},
		{"commitEvery: soon\n", nil, "agent.yaml"},
		{"", []string{"--data=d", "--listen=localhost"}, "host:port"},
		{"commitEvery: -1s\ndata: d\n", nil, "negative"},
		{"snapshotEvery: 0s\ndata: d\n", nil, "snapshotEvery is 0s"},
		{"data: d\nstore:\n  taill: 1\n", nil, `line 3: unknown field "taill"; do you mean store.tail?`},
		{"data: d\n\nstore:\n  tail: 0\n", nil, "line 4: store.tail is 0"},
		{"data: d\nstore:\n  tail: 5\n", []string{"--store-tail=0"}, "store.tail is 0, it"},
	} {
		if _, err := load(t, tc.file, tc.flags...); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %v: got %v, want %q", tc.file, tc.flags, err, tc.want)
		}
	}
}

// TestExample reads the example file as it is and with every example in force:
// it names all settings there are.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../../configs/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, string(text)); err != nil {
		t.Error(err)
	}
	all := regexp.MustCompile(`(?m)^( *)# (\w+: \S+)$`).ReplaceAll(text, []byte("$1$2"))
	if _, err := load(t, string(all)); err != nil {
		t.Errorf("with the examples: %v", err)
	}
	path := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	var s config.Settings
	if err := cli.ReadSettings(path, &s); err != nil {
		t.Fatal(err)
	}
	for key, value := range cli.Keys(s) {
		if value.IsZero() {
			t.Errorf("the example does not show %s", key)
		}
	}
}

// TestReload changes a file and reads it again.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("data: d\nlogLevel: info\nstore:\n  max: 5MB\n")
	reload := config.Settings{}.Reloader(path)
	write("data: d\nlogLevel: warn\nstore:\n  max: 6MB\n")
	got, changed, err := reload()
	if err != nil || got.Store.Max != 6e6 || got.LogLevel != "warn" || !slices.Equal(changed, []string{"store.max", "logLevel"}) {
		t.Errorf("got %+v, changed %q, %v", got, changed, err)
	}
	write("data: d\nlogLevel: [\n")
	if _, _, err := reload(); err == nil {
		t.Error("a damaged file was read again")
	}
	write("data: d\nstore:\n  max: 6MB\n")
	if _, changed, err = reload(); err != nil || !slices.Equal(changed, []string{"logLevel"}) {
		t.Errorf("changed %q, %v", changed, err)
	}
}

func TestReadFirst(t *testing.T) {
	f, err := config.ReadFirst("../../../configs/sapflow.yaml")
	if err != nil || f.URL != "https://hub.example.com:8080" || f.Token != "TOKEN" {
		t.Errorf("the example: got %s, %v", f, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", f, f, f); strings.Contains(text, "TOKEN") {
		t.Errorf("it shows its token: %s", text)
	}
	for name, text := range map[string]string{"no url": "token: SECRET\n", "unknown": "url: http://h\ntoken: SECRET\nuser: x\n", "list": "- SECRET\n"} {
		file := filepath.Join(t.TempDir(), "sapflow.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.ReadFirst(file); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want an error that shows no token", name, err)
		}
	}
}
