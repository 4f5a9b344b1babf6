package cli_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/point"
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

// commands is a grammar with every command of the package.
type commands struct {
	cli.Flags
	Get     cli.Get     `cmd:"" help:"Show a node."`
	Set     cli.Set     `cmd:"" help:"Write a value."`
	Tree    cli.Tree    `cmd:"" help:"Show a tree."`
	Watch   cli.Watch   `cmd:"" help:"Show live values."`
	History cli.History `cmd:"" help:"Show history."`
	Import  cli.Import  `cmd:"" help:"Import history."`
	Status  cli.Status  `cmd:"" help:"Show the instance."`
}

// run runs a command line and returns what it printed and its exit code.
func run(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	app := cli.App{Name: "sapflow", Description: "Test.", Version: "1.2.3", Commands: &commands{}}
	code = app.Run(args, &out, &errs)
	return out.String(), errs.String(), code
}

// must is run for commands that succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := run(args...)
	if code != 0 {
		t.Fatalf("%v: exit code %d: %s", args, code, errs)
	}
	return out
}

func TestUsage(t *testing.T) {
	empty := t.TempDir()
	for _, tc := range []struct {
		args string
		code int
		want string // part of either output
	}{
		{"--version", 0, "sapflow 1.2.3\n"},
		{"--help", 0, "history"},
		{"set --help", 0, "set pump limit 42.5"},
		{"import --help", 0, "import 2019.csv.gz --dry-run"},
		{"", 2, "expected one of"},
		{"fly", 2, "unexpected argument fly"},
		{"get", 2, "see sapflow get --help"},
		{"get --fast x", 2, "unknown flag --fast"},
		{"get x", 2, "--data DIR"},
		{"get x --data " + empty, 1, "no instance runs on " + empty + "; start the instance"},
		{"history x y --data " + empty + " --from yesterday", 2, "--from"},
		{"history x y --data " + empty + " --every 0s", 2, "--every"},
		{"set x y 1 --type number", 2, "--type"},
	} {
		out, errs, code := run(strings.Fields(tc.args)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("%q: got %d, %q %q, want %d and %q", tc.args, code, out, errs, tc.code, tc.want)
		}
		if tc.code != 0 && (out != "" || strings.Count(errs, "\n") != 1) {
			t.Errorf("%q: an error is one line on standard error, got %q and %q", tc.args, out, errs)
		}
	}
}

func TestSetGetTree(t *testing.T) {
	i := clienttest.Start(t)
	pump, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "pump")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SAPFLOW_DATA", i.Dir)
	must(t, "set", "pump", "limit", "-5.5")
	must(t, "set", "pump", "limit/high", "-7", "--type", "int")
	must(t, "set", "--type", "string", "pump", "name", "--", "-x")
	var got map[string]any
	if err := json.Unmarshal([]byte(must(t, "get", "pump", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	points := got["points"].([]any)
	first := points[1].(map[string]any) // by type: after the description
	if len(points) != 4 || len(first) != 6 || first["type"] != "limit" || first["key"] != "0" || first["value"] != -5.5 || first["author"] != "hub" {
		t.Errorf("points: got %v", points)
	}
	if got["id"] != pump || got["nodeType"] != "sensor" || got["parents"].([]any)[0] != i.Root || len(got["children"].([]any)) != 0 || len(got) != 5 {
		t.Errorf("node: got %v", got)
	}
	table := must(t, "get", "pump")
	for _, want := range []string{"limit/high", "-7", "hub", pump} {
		if !strings.Contains(table, want) {
			t.Errorf("get lacks %q: %s", want, table)
		}
	}
	tree := must(t, "tree")
	for _, want := range []string{"root " + i.Root + "\n", "└─ pump  (sensor " + pump + ")\n", "limit       -5.5  0s\n"} {
		if !strings.Contains(tree, want) {
			t.Errorf("tree lacks %q:\n%s", want, tree)
		}
	}
	var list []api.Branch
	if err := json.Unmarshal([]byte(must(t, "tree", "--json")), &list); err != nil || len(list) != 2 || list[1].Description != "pump" {
		t.Errorf("tree --json: got %v, %v", list, err)
	}
	if _, errs, code := run("get", "pumps"); code != 1 || !strings.Contains(errs, "not_found") {
		t.Errorf("unknown node: got %d %q", code, errs)
	}
	if out := must(t, "status", "--json"); !strings.Contains(out, `"id":"`+i.Root+`"`) {
		t.Errorf("status: got %s", out)
	}
}

func TestHistoryCSV(t *testing.T) {
	i := clienttest.Start(t)
	node, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "pump")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SAPFLOW_DATA", i.Dir)
	series := func(pointType string) point.Series { return point.Series{Node: node, Type: pointType, Key: "0"} }
	floats := []float64{0.1, math.Copysign(0, -1), 1e300, 5e-324, math.Inf(-1), math.NaN(), 1 << 53}
	texts := []string{"plain", "", `a "quoted", one`, "two\nlines", "0x12"}
	var points []point.Point
	for k, v := range floats {
		points = append(points, point.Point{Series: series("f"), Time: uint64(1000000001 + k), DataType: point.Float, Data: point.FloatData(v)})
	}
	for k, v := range texts {
		points = append(points, point.Point{Series: series("s"), Time: uint64(1 + k), DataType: point.String, Data: []byte(v)})
	}
	points = append(points,
		point.Point{Series: series("s"), Time: 99, Tombstone: 1, DataType: point.String},
		point.Point{Series: series("j"), Time: 1, DataType: point.JSON, Data: []byte(`"text"`)})
	if err := i.Client.Write(t.Context(), points); err != nil {
		t.Fatal(err)
	}

	rows := readCSV(t, must(t, "history", "pump", "f"))
	if len(rows) != len(floats)+1 || rows[0][0] != "time" || rows[0][1] != "value" || rows[1][0] != "1970-01-01T00:00:01.000000001Z" {
		t.Fatalf("got %v", rows)
	}
	for k, v := range floats {
		data, err := point.ParseValue(rows[k+1][1], point.Float, 8)
		if err != nil || !bytes.Equal(data, point.FloatData(v)) {
			t.Errorf("%v: %q does not parse back, %v", v, rows[k+1][1], err)
		}
	}
	out, errs, code := run("history", "pump", "s")
	if code != 0 || !strings.Contains(errs, "removed 1 times") {
		t.Errorf("got %d %q", code, errs)
	}
	rows = readCSV(t, out)
	for k, v := range texts {
		if len(rows) != len(texts)+1 || rows[k+1][1] != v {
			t.Errorf("text %q: got %q", v, rows)
		}
	}
	if rows = readCSV(t, must(t, "history", "pump", "j")); rows[1][1] != `"text"` {
		t.Errorf("json: got %q", rows)
	}
	rows = readCSV(t, must(t, "history", "pump", "f", "--every", "1h", "--to", "2000-01-01T00:00:00Z"))
	if len(rows) != 2 || strings.Join(rows[0], ",") != "time,count,min,max,mean,last" || rows[1][1] != "7" || rows[1][2] != "-Inf" {
		t.Errorf("buckets: got %q", rows)
	}
	if rows = readCSV(t, must(t, "history", "pump", "f", "--from", "-1d")); len(rows) != 1 {
		t.Errorf("empty: got %q", rows)
	}
	var samples []api.Sample
	if err := json.Unmarshal([]byte(must(t, "history", "pump", "s", "--format", "json")), &samples); err != nil || len(samples) != len(texts)+1 || !samples[len(texts)].Removed {
		t.Errorf("json: got %+v, %v", samples, err)
	}
	if out := must(t, "history", "pump", "nothing", "--json"); out != "[]\n" {
		t.Errorf("empty json: got %q", out)
	}
}

func readCSV(t *testing.T, text string) [][]string {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return rows
}

func TestWatch(t *testing.T) {
	i := clienttest.Start(t)
	t.Setenv("SAPFLOW_DATA", i.Dir)
	node, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "pump")
	if err != nil {
		t.Fatal(err)
	}
	// The note on standard error tells that nothing is missed any more.
	ready := make(notify, 1)
	var out bytes.Buffer
	done := make(chan int, 1)
	go func() {
		app := cli.App{Name: "sapflow", Commands: &commands{}}
		done <- app.Run([]string{"watch", "pump", "--json", "--count", "2"}, &out, ready)
	}()
	<-ready
	series := point.Series{Node: node, Type: "speed", Key: "0"}
	for _, v := range []string{"1", "2"} {
		if err := i.Client.Set(t.Context(), series, v, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var p api.Point
	if err := json.Unmarshal([]byte(lines[1]), &p); len(lines) != 2 || err != nil || p.Node != node || p.Type != "speed" || client.ValueText(p.Value) != "2" {
		t.Errorf("got %q", lines)
	}
}

// notify tells of the first thing that is written to it.
type notify chan string

func (n notify) Write(b []byte) (int, error) {
	select {
	case n <- string(b):
	default:
	}
	return len(b), nil
}

// TestImportInterrupted interrupts an import that waits for more of its file,
// once its second batch comes into history.
func TestImportInterrupted(t *testing.T) {
	i := clienttest.Start(t)
	node, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "pump")
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() {
		app := cli.App{Name: "sapflow", Commands: &commands{}}
		done <- app.Run([]string{"import", pipe, "--data", i.Dir}, &out, &errs)
	}()
	f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	const rows, third = 40_000, 40_000 / 3 // a batch of 16 MB is between a third and a half of them
	text := strings.Repeat("x", 1000)
	fmt.Fprintln(w, "time,node,type,key,value")
	for k := range rows {
		fmt.Fprintf(w, "2020-01-01T%02d:%02d:%02dZ,pump,text,0,%s\n", k/3600, k/60%60, k%60, text)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	wait := time.NewTimer(30 * time.Second)
	defer wait.Stop()
	for count := 0; count < rows/2; {
		select {
		case <-wait.C:
			t.Fatal("the second batch did not come")
		case <-time.After(10 * time.Millisecond):
		}
		err := i.Client.History(t.Context(), node, api.HistoryRequest{Type: "text", Every: "8760h"}, func(r *api.HistoryReply) error {
			for _, b := range r.Buckets {
				count = b.Count
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	code := <-done
	told := regexp.MustCompile(`^read (\d+), imported (\d+), refused 0, `).FindStringSubmatch(out.String())
	line := regexp.MustCompile(`up to line (\d+); import it again.*\nsapflow: interrupted\n$`).FindStringSubmatch(errs.String())
	if code != 1 || told == nil || line == nil {
		t.Fatalf("got %d, %q, %q", code, out.String(), errs.String())
	}
	read, err := strconv.Atoi(told[1])
	if err != nil || read < third || read >= rows || told[2] != told[1] || line[1] != strconv.Itoa(read+1) {
		t.Errorf("got %q, %q", out.String(), errs.String())
	}
}
