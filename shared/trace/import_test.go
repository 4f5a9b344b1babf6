package trace_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/trace"
)

// load imports a text.
func load(t *testing.T, c *client.Client, text string, change func(*trace.ImportConfig)) trace.ImportResult {
	t.Helper()
	cfg := trace.ImportConfig{Client: c, File: strings.NewReader(text)}
	if change != nil {
		change(&cfg)
	}
	r, err := trace.Import(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// counts returns what an import has counted, without the time it took.
func counts(r trace.ImportResult) string {
	return fmt.Sprintf("read %d imported %d refused %d nodes %d series %d", r.Read, r.Imported, r.Refused, r.Nodes, r.Series)
}

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// history returns the samples of a node's series as texts.
func history(t *testing.T, c *client.Client, node, pointType string) (list []string) {
	t.Helper()
	id, err := c.Resolve(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	err = c.History(t.Context(), id, api.HistoryRequest{Type: pointType}, func(r *api.HistoryReply) error {
		for i := range r.Samples {
			s := &r.Samples[i]
			list = append(list, s.Time+" "+s.DataType+" "+client.SampleText(s))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// head returns the time and value of now of a node's series.
func head(t *testing.T, c *client.Client, node, pointType string) string {
	t.Helper()
	id, err := c.Resolve(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	n, err := c.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range n.Points {
		if p.Type == pointType {
			return p.Time + " " + p.DataType + " " + client.ValueText(p.Value)
		}
	}
	return ""
}

func write(t *testing.T, c *client.Client, p point.Point) {
	t.Helper()
	if err := c.Write(t.Context(), []point.Point{p}); err != nil {
		t.Fatal(err)
	}
}

func TestImport(t *testing.T) {
	i := clienttest.Start(t)
	old, err := i.Client.NodeAdd(t.Context(), i.Root, trace.SensorType, "old")
	if err != nil {
		t.Fatal(err)
	}
	at := point.Nanos(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
	write(t, i.Client, point.Point{Series: point.Series{Node: old, Type: "temp", Key: "0"}, Time: at, DataType: point.Float, Data: point.FloatData(1)})
	write(t, i.Client, point.Point{Series: point.Series{Node: old, Type: "count", Key: "0"}, Time: at, DataType: point.Uint, Data: point.UintData(1)})
	text := "\ufefftime,node,type,key,value\n" +
		"2015-02-02T14:20:00Z,office,temp,0,23.70\n" +
		"2015-02-02T14:19:00.000000001Z,office,temp,,585.2\n" + // late
		"2015-02-02T14:20:00Z,office,temp,0,24\n" + // the same time again: the later line counts
		"2015-02-02T14:19:00Z,office,mode,0,0012\n" +
		"2015-02-02T14:20:00Z,office,mode,0,\"a, b\"\n" +
		"2015-02-02T14:20:00Z,old,temp,0,2\n" + // before the value of now
		"2021-02-02T15:20:00+01:00,old,count,0,18446744073709551615\n" + // behind it, and of its type
		"2021-02-02T14:19:00Z," + old + ",count,0,7.5\n" // no uint
	const want = "read 8 imported 8 refused 0 nodes 1 series 4"
	r := load(t, i.Client, text, func(cfg *trace.ImportConfig) { cfg.DryRun = true })
	check(t, "dry run", counts(r), want)
	if _, err := i.Client.Resolve(t.Context(), "office"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("dry run made a node: %v", err)
	}
	check(t, "dry run: history", len(history(t, i.Client, "old", "temp")), 1)

	r = load(t, i.Client, text, nil)
	check(t, "import", counts(r), want)
	if r.Seconds <= 0 || r.PointsPerSecond <= 0 || r.Line != 9 {
		t.Errorf("got %+v", r)
	}
	for range 2 { // the second time after an import of the same
		check(t, "temp", history(t, i.Client, "office", "temp"), []string{"2015-02-02T14:19:00.000000001Z float 585.2", "2015-02-02T14:20:00Z float 24"})
		check(t, "mode", history(t, i.Client, "office", "mode"), []string{"2015-02-02T14:19:00Z string 0012", "2015-02-02T14:20:00Z string a, b"})
		check(t, "old", history(t, i.Client, "old", "temp"), []string{"2015-02-02T14:20:00Z float 2", "2020-01-01T00:00:00Z float 1"})
		check(t, "count", history(t, i.Client, "old", "count"), []string{"2020-01-01T00:00:00Z uint 1", "2021-02-02T14:19:00Z float 7.5", "2021-02-02T14:20:00Z uint 18446744073709551615"})
		check(t, "temp now", head(t, i.Client, "office", "temp"), "2015-02-02T14:20:00Z float 24")
		check(t, "old temp now", head(t, i.Client, "old", "temp"), "2020-01-01T00:00:00Z float 1")
		check(t, "old count now", head(t, i.Client, "old", "count"), "2021-02-02T14:20:00Z uint 18446744073709551615")
		check(t, "again", load(t, i.Client, text, nil).Nodes, 0)
	}
}

func TestImportParent(t *testing.T) {
	i := clienttest.Start(t)
	add := func(parent, name string) string {
		t.Helper()
		id, err := i.Client.NodeAdd(t.Context(), parent, trace.SensorType, name)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, two := add(i.Root, "one"), add(i.Root, "two")
	pump := add(one, "pump")
	add(two, "pump")
	valve := add(two, "valve")
	row := func(node string) string { return "2015-02-02T14:20:00Z," + node + ",temp,0,1\n" }
	r := load(t, i.Client, header+row("pump")+row("valve")+row(valve), func(cfg *trace.ImportConfig) { cfg.Parent = one })
	check(t, "import", counts(r), "read 3 imported 3 refused 0 nodes 1 series 3")
	for _, node := range []string{pump, "one/valve", valve} {
		check(t, node, len(history(t, i.Client, node, "temp")), 1)
	}
	check(t, "two/pump", len(history(t, i.Client, "two/pump", "temp")), 0)
	r = load(t, i.Client, header+row("pump")+row(pump), nil)
	check(t, "without", counts(r)+" "+r.Refusals[0].Reason, `read 2 imported 1 refused 1 nodes 0 series 1 "pump" is the name of several nodes; write its id`)
}

func TestImportRefused(t *testing.T) {
	i := clienttest.Start(t)
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	good := "2015-02-02T14:19:00Z,office,temp,0,1\n"
	text := header + good +
		"yesterday,office,temp,0,1\n" + // 3
		"a,b\n" + // 4
		"2015-02-02T14:19:00Z,office,te mp,0,1\n" + // 5
		"2015-02-02T14:19:00Z,nobody,te mp,0,1\n" + // 6: no node is made for it
		strings.Repeat(good, 100) +
		"2026-11-24T12:05:00.000000001Z,office,temp,0,1\n" + // 107
		"2026-11-24T12:05:00Z,office,temp,0,2\n" +
		"2015-02-02T14:19:00Z,office,text,0,\xff\n" + // 109
		"2015-02-02T14:19:00Z,office,text,0," + strings.Repeat("x", 70_000) + "\n" + // 110
		good
	r := load(t, i.Client, text, func(cfg *trace.ImportConfig) { cfg.Now = func() time.Time { return now } })
	check(t, "import", counts(r), "read 110 imported 103 refused 7 nodes 1 series 2")
	var lines []int
	for _, refusal := range r.Refusals {
		lines = append(lines, refusal.Line)
	}
	check(t, "lines", lines, []int{3, 4, 5, 6, 107})
	check(t, "history", history(t, i.Client, "office", "temp"), []string{"2015-02-02T14:19:00Z float 1", "2026-11-24T12:05:00Z float 2"})

	_, err := trace.Import(t.Context(), trace.ImportConfig{Client: i.Client, File: strings.NewReader("time,node,value\n")})
	if err == nil || !strings.Contains(err.Error(), `"type"`) {
		t.Errorf("header: got %v", err)
	}
	check(t, "nothing", counts(load(t, i.Client, header, nil)), "read 0 imported 0 refused 0 nodes 0 series 0")
	check(t, "only bad", counts(load(t, i.Client, header+"x\n", nil)), "read 1 imported 0 refused 1 nodes 0 series 0")
}

// TestImportMany imports several batches in random order, compressed, with
// times that come again, beside a program that writes.
func TestImportMany(t *testing.T) {
	i := clienttest.Start(t)
	live, err := i.Client.NodeAdd(t.Context(), i.Root, trace.SensorType, "live")
	if err != nil {
		t.Fatal(err)
	}
	const rows, nodes = 200_000, 4
	r := rand.New(rand.NewPCG(1, 2))
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	fmt.Fprint(zip, header)
	start := time.Date(2015, 2, 2, 0, 0, 0, 0, time.UTC)
	var want [nodes]map[int]int
	for n := range want {
		want[n] = map[int]int{}
	}
	for k := range rows {
		n, at := r.IntN(nodes), r.IntN(rows/nodes)
		want[n][at] = k
		fmt.Fprintf(zip, "%s,n%d,temp,0,%d\n", start.Add(time.Duration(at)*time.Second).Format(time.RFC3339), n, k)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var acked atomic.Int64
	go func() {
		for {
			p := point.Point{Series: point.Series{Node: live, Type: "level", Key: "0"}, DataType: point.Float, Data: point.FloatData(1)}
			if err := i.Client.Write(t.Context(), []point.Point{p}); err != nil {
				ended <- err
				return
			}
			if acked.Add(1); ctx.Err() != nil {
				ended <- nil
				return
			}
		}
	}()
	var batches []int
	var before int64
	result := load(t, i.Client, packed.String(), func(cfg *trace.ImportConfig) {
		cfg.BatchBytes = 1 << 20
		cfg.Progress = func(c trace.ImportCounts) {
			batches = append(batches, c.Imported)
			before = acked.Load()
		}
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatalf("live: %v", err)
	}
	check(t, "import", counts(result), fmt.Sprintf("read %d imported %d refused 0 nodes %d series %d", rows, rows, nodes, nodes))
	if len(batches) < 2 || batches[len(batches)-1] != rows || before == 0 {
		t.Errorf("batches %v, %d live points before the last one", batches, before)
	}
	check(t, "live points", len(history(t, i.Client, live, "level")), acked.Load())
	for n := range want {
		list := history(t, i.Client, fmt.Sprintf("n%d", n), "temp")
		if len(list) != len(want[n]) {
			t.Errorf("n%d: got %d points, want %d", n, len(list), len(want[n]))
			continue
		}
		for _, got := range list {
			stamp, value, _ := strings.Cut(got, " float ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if v := want[n][int(at.Sub(start)/time.Second)]; err != nil || value != fmt.Sprint(v) {
				t.Fatalf("n%d: got %s, want %d", n, got, v)
			}
		}
	}
}

// TestImportInterrupted ends an import after its first batch and does it again.
func TestImportInterrupted(t *testing.T) {
	i := clienttest.Start(t)
	const rows = 200_000
	var text strings.Builder
	text.WriteString(header)
	start := time.Date(2015, 2, 2, 0, 0, 0, 0, time.UTC)
	for k := range rows {
		fmt.Fprintf(&text, "%s,pump,temp,0,%d\n", start.Add(time.Duration(k)*time.Second).Format(time.RFC3339), k)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cfg := trace.ImportConfig{Client: i.Client, BatchBytes: 1 << 20, Progress: func(trace.ImportCounts) { cancel() }, File: io.MultiReader(
		strings.NewReader(text.String()), strings.NewReader("bad\n"), // not reached
	)}
	r, err := trace.Import(ctx, cfg)
	if !errors.Is(err, context.Canceled) || r.Line == 0 || r.Read != r.Line-1 || r.Read >= rows || r.Imported != r.Read || len(r.Refusals) > 0 {
		t.Fatalf("got %+v, %v", r, err)
	}
	have := history(t, i.Client, "pump", "temp")
	last := start.Add(time.Duration(r.Imported-1) * time.Second).Format(time.RFC3339)
	if n := slices.Index(have, last+" float "+fmt.Sprint(r.Imported-1)); n != r.Imported-1 {
		t.Errorf("line %d is point %d of %d", r.Line, n, len(have))
	}
	check(t, "now", head(t, i.Client, "pump", "temp"), "")
	check(t, "again", counts(load(t, i.Client, text.String(), nil)), fmt.Sprintf("read %d imported %d refused 0 nodes 0 series 1", rows, rows))
	check(t, "history", len(history(t, i.Client, "pump", "temp")), rows)
	check(t, "now", head(t, i.Client, "pump", "temp"), fmt.Sprintf("%s float %d", start.Add((rows-1)*time.Second).Format(time.RFC3339), rows-1))
}

// endless is a trace of bad rows without end.
type endless struct{ first func() }

func (e endless) Read(b []byte) (int, error) {
	e.first()
	n := len(b) / 2 * 2
	copy(b, strings.Repeat("x\n", n/2))
	return n, nil
}

// TestImportEndless interrupts an import of which no batch becomes full.
func TestImportEndless(t *testing.T) {
	i := clienttest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := trace.Import(ctx, trace.ImportConfig{Client: i.Client, File: io.MultiReader(strings.NewReader(header), endless{cancel})})
	if !errors.Is(err, context.Canceled) || r.Line != 0 || len(r.Refusals) > 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}
