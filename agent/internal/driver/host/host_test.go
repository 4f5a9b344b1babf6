package host

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/sysfs"

	"github.com/sapflow/sapflow/agent/internal/driver/drivertest"
	"github.com/sapflow/sapflow/shared/point"
)

var update = flag.Bool("update", false, "write goldens anew")

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const board = "testdata/board"

func TestContract(t *testing.T) {
	drivertest.Contract(t, drivertest.Rig{
		Kind:  Kind(Config{Proc: board + "/proc", Sys: board + "/sys", Root: board}),
		Quick: map[string]any{"period": 1, "disks": "/data"},
	})
}

// The machine that this runs on can be measured.
func TestHere(t *testing.T) {
	w := drivertest.New(t, Kind(Config{}))
	w.Hub(drivertest.Node(drivertest.Gateway, "h", "host", map[string]any{"period": 1})...)
	w.Eventually("it measures", func() bool {
		return w.Number("h", "uptime") > 0 && w.Head("h", "memory", "total") != nil && w.Head("h", "diskFree", "/") != nil
	})
}

// A recorded board reads as it was, line for line.
func TestBoard(t *testing.T) {
	h := newHost(t, board)
	h.busy, h.idle = 100, 4600
	points, err := h.measure(1_792_003_600e9, []string{"/no-such-disk"})
	if err == nil || !strings.Contains(err.Error(), "disk /no-such-disk: no such file") {
		t.Errorf("error %v", err)
	}
	slices.SortFunc(points, func(a, b point.Point) int { return a.Compare(b.Series) })
	var got bytes.Buffer
	for i := range points {
		fmt.Fprintf(&got, "%s/%s %s\n", points[i].Type, points[i].Key, points[i].Text())
	}
	golden := "testdata/board.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%v; got\n%swant\n%s", err, got.Bytes(), want)
	}
	for i := range points {
		if err := point.Check(&points[i]); err != nil {
			t.Error(err)
		}
	}
}

// A part that is missing costs the others nothing.
func TestParts(t *testing.T) {
	for file, lost := range map[string]string{
		"proc/meminfo": "memory", "proc/net/dev": "netRx", "proc/loadavg": "load", "sys/class/thermal/thermal_zone1/temp": "",
	} {
		root := t.TempDir()
		if err := os.CopyFS(root, os.DirFS(board)); err != nil {
			t.Fatal(err)
		}
		h := newHost(t, root)
		if err := os.Remove(filepath.Join(root, file)); err != nil {
			t.Fatal(err)
		}
		points, err := h.measure(1_792_003_600e9, []string{"data"})
		types := map[string]bool{}
		for i := range points {
			types[points[i].Type] = true
		}
		if err == nil || types[lost] || !types["diskFree"] || !types["temperature"] {
			t.Errorf("%s is missing: %v, types %v", file, err, types)
		}
	}
}

func newHost(t *testing.T, root string) *host {
	t.Helper()
	proc, err := procfs.NewFS(root + "/proc")
	if err != nil {
		t.Fatal(err)
	}
	sys, err := sysfs.NewFS(root + "/sys")
	if err != nil {
		t.Fatal(err)
	}
	return &host{cfg: Config{Root: root}, id: "h", proc: proc, sys: sys}
}
