package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/sapflow/sapflow/hub/internal/config"
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
	path := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Load(path)
}

func TestDefaults(t *testing.T) {
	got, err := load(t, "", "--data", "d")
	want := config.Config{
		Data: "d", HTTP: config.DefaultHTTP, Leaf: config.DefaultLeaf, Listen: config.DefaultListen,
		NodeStreams: config.NodeStreams{MaxPerSubject: config.DefaultMaxPerSubject}, LogLevel: "info",
		Limits: config.Limits{Bytes: 2_000_000, Points: 100_000, Nodes: 2000, Series: 200_000},
	}
	if err != nil || got.Data != want.Data || got.HTTP != want.HTTP || got.Leaf != want.Leaf || got.Listen != want.Listen ||
		got.ListenGiven || got.NodeStreams != want.NodeStreams || got.Limits != want.Limits || got.LogLevel != want.LogLevel || got.LeafAdvertise != "" {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestLayers(t *testing.T) {
	t.Setenv("SAPFLOW_HTTP", "127.0.0.1:2")
	t.Setenv("SAPFLOW_LEAF", "127.0.0.1:2")
	file := `
data: file
http: 127.0.0.1:3
leaf: 127.0.0.1:3
listen: 127.0.0.1:3
leafAdvertise: tls://hub.example.com:443
nodeStreams:
  layout: shard
  maxPerSubject: 7
limits:
  bytes: 1MB
  points: 9000
  nodes: 0
  series: 5
`
	got, err := load(t, file, "--http", "127.0.0.1:1", "--node-streams-max-per-subject", "8", "--limits-points", "8000")
	if err != nil {
		t.Fatal(err)
	}
	if got.HTTP != "127.0.0.1:1" || got.Leaf != "127.0.0.1:2" || got.Listen != "127.0.0.1:3" || got.Data != "file" {
		t.Errorf("flag, environment, file: got %q, %q, %q, %q", got.HTTP, got.Leaf, got.Listen, got.Data)
	}
	if !got.ListenGiven || got.NodeStreams != (config.NodeStreams{Layout: "shard", MaxPerSubject: 8}) || got.LeafAdvertise != "tls://hub.example.com:443" {
		t.Errorf("got %+v", got)
	}
	if want := (config.Limits{Bytes: 1_000_000, Points: 8000, Series: 5}); got.Limits != want {
		t.Errorf("limits: got %+v, want %+v", got.Limits, want)
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		file  string
		flags []string
		want  string
	}{
		{"", nil, "--data"},
		{"data: d\n\nhttpp: 1\n", nil, `line 3: unknown field "httpp"; do you mean http?`},
		{"nodeStreams:\n  max: 1\n", nil, `line 2: unknown field "max"`},
		{"nodeStreams:\n  maxPerSubject: many\n", nil, "line 2"},
		{"data: [\n", nil, "hub.yaml"},
		{"", []string{"--data=d", "--http=8080"}, "host:port"},
		{"", []string{"--data=d", "--tls-cert=c"}, "--tls-key"},
		{"", []string{"--data=d", "--node-streams-max-per-subject=0"}, "at least 1"},
		{"", []string{"--data=d", "--limits-points=5"}, "limits.points is 5, it must be 0, for none, or 4000 to"},
		{"", []string{"--data=d", "--limits-nodes=-1"}, "limits.nodes is -1"},
		{"nodeStreams:\n  layout: heap\n", []string{"--data=d"}, `"heap", it must be node, shard or none`},
		{"data: d\nstore:\n  taill: 1\n", nil, `line 3: unknown field "taill"; do you mean store.tail?`},
		{"data: d\n\nstore:\n  tail: 0\n", nil, "line 4: store.tail is 0"},
		{"data: d\nstore:\n  tail: 5\n", []string{"--store-tail=0"}, "store.tail is 0, it"},
	} {
		if _, err := load(t, tc.file, tc.flags...); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %v: got %v, want %q", tc.file, tc.flags, err, tc.want)
		}
	}
	if _, err := (config.Settings{}).Load("no-such-file"); err == nil {
		t.Error("a file that is not there was accepted")
	}
}

// TestExample reads the example file as it is and with every example in force:
// it names all settings there are.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../../configs/hub.yaml")
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
	path := filepath.Join(t.TempDir(), "hub.yaml")
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
