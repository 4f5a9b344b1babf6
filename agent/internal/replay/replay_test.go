package replay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/agent/internal/replay"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/trace"
)

// play replays a text.
func play(t *testing.T, c *client.Client, text string, change func(*replay.Config)) replay.Result {
	t.Helper()
	cfg := replay.Config{Client: c, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
	if change != nil {
		change(&cfg)
	}
	r, err := replay.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// history returns time and value of all points of a series, by description.
func history(t *testing.T, c *client.Client, node, pointType string) []string {
	t.Helper()
	id, err := c.Resolve(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	err = c.History(t.Context(), id, api.HistoryRequest{Type: pointType}, func(r *api.HistoryReply) error {
		for i := range r.Samples {
			list = append(list, r.Samples[i].Time+" "+r.Samples[i].DataType+" "+client.SampleText(&r.Samples[i]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestReplay(t *testing.T) {
	i := clienttest.Start(t)
	old, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "old")
	if err != nil {
		t.Fatal(err)
	}
	r := play(t, i.Client, "\ufefftime,node,type,key,value\n"+
		"2015-02-02T14:20:00Z,office,temp,0,23.70\n"+
		"2015-02-02T14:19:00.000000001Z,office,temp,,585.2\n"+ // late
		"2015-02-02T14:20:00Z,office,temp,0,24\n"+ // the same time again: the later line counts
		"2015-02-02T14:19:00Z,office,mode,0,0012\n"+
		"2015-02-02T14:20:00Z,office,mode,0,\"a, b\"\n"+
		"2015-02-02T15:20:00+01:00,old,temp,0,NaN\n"+
		"2015-02-02T14:21:00Z,"+old+",temp,0,-1e-7\n", nil)
	if r.Read != 7 || r.Sent != 7 || r.Refused != 0 || r.Nodes != 1 || len(r.Refusals) != 0 {
		t.Errorf("got %+v", r)
	}
	check(t, "temp", history(t, i.Client, "office", "temp"), "2015-02-02T14:19:00.000000001Z float 585.2", "2015-02-02T14:20:00Z float 24")
	check(t, "mode", history(t, i.Client, "office", "mode"), "2015-02-02T14:19:00Z string 0012", "2015-02-02T14:20:00Z string a, b")
	check(t, "old", history(t, i.Client, "old", "temp"), "2015-02-02T14:20:00Z float NaN", "2015-02-02T14:21:00Z float -1e-07")
	office, err := i.Client.Resolve(t.Context(), "office")
	if err != nil {
		t.Fatal(err)
	}
	n, err := i.Client.Get(t.Context(), office)
	if err != nil || n.NodeType != trace.SensorType || n.Parents[0] != i.Root {
		t.Errorf("new node: got %+v, %v", n, err)
	}
}

func TestRefused(t *testing.T) {
	i := clienttest.Start(t)
	for range 2 {
		if _, err := i.Client.NodeAdd(t.Context(), i.Root, "sensor", "twin"); err != nil {
			t.Fatal(err)
		}
	}
	good := "2015-02-02T14:19:00Z,office,temp,0,1\n"
	future := time.Now().Add(time.Hour).Format(time.RFC3339)
	r := play(t, i.Client, "value,time,node,type,key\n1,2015-02-02T14:19:00Z,office,temp,0\n", nil)
	if r.Sent != 1 {
		t.Errorf("columns in another order: got %+v", r)
	}
	r = play(t, i.Client, "time,node,type,key,value\n"+good+
		"yesterday,office,temp,0,1\n"+ // 3
		good+"a,b\n"+ // 5
		"2015-02-02T14:19:00Z,office,te mp,0,1\n"+ // 6
		strings.Repeat(good, 100)+
		future+",office,temp,0,1\n"+ // 107
		"2015-02-02T14:19:00Z,twin,temp,0,1\n"+ // 108
		"2015-02-02T14:19:00Z,office,text,0,"+strings.Repeat("x", 70_000)+"\n"+ // 109
		good, nil)
	if r.Read != 109 || r.Sent != 103 || r.Refused != 6 {
		t.Errorf("got %+v", r.Counts)
	}
	var lines []int
	for _, refusal := range r.Refusals {
		lines = append(lines, refusal.Line)
	}
	if fmt.Sprint(lines) != "[3 5 6 107 108]" {
		t.Errorf("got lines %v: %+v", lines, r.Refusals)
	}
	_, err := replay.Run(t.Context(), replay.Config{Client: i.Client, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("time,node,value\n")), nil
	}})
	if err == nil || !strings.Contains(err.Error(), `"type"`) {
		t.Errorf("header: got %v", err)
	}
}

// TestMany sends more groups than are under way at once, compressed, and
// checks that every point is there once.
func TestMany(t *testing.T) {
	i := clienttest.Start(t)
	const points = 40_000
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	fmt.Fprintln(zip, "time,node,type,key,value")
	start := time.Date(2015, 2, 2, 0, 0, 0, 0, time.UTC)
	for k := range points {
		fmt.Fprintf(zip, "%s,n%d,temp,0,%d\n", start.Add(time.Duration(k)*time.Second).Format(time.RFC3339), k%4, k)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	r := play(t, i.Client, packed.String(), func(cfg *replay.Config) { cfg.ShiftToNow = true })
	if r.Read != points || r.Sent != points || r.Nodes != 4 || r.PointsPerSecond <= 0 {
		t.Errorf("got %+v", r)
	}
	for n := range 4 {
		list := history(t, i.Client, fmt.Sprintf("n%d", n), "temp")
		if len(list) != points/4 {
			t.Errorf("n%d: got %d points, want %d", n, len(list), points/4)
		}
		stamp, _, _ := strings.Cut(list[len(list)-1], " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || time.Until(at) > 0 || time.Since(at) > time.Minute {
			t.Errorf("n%d: the last time is %s, want now", n, stamp)
		}
	}
}

func TestPace(t *testing.T) {
	i := clienttest.Start(t)
	text := "time,node,type,key,value\n2015-02-02T14:19:00Z,office,temp,0,1\n2015-02-02T14:19:30Z,office,temp,0,2\n"
	r := play(t, i.Client, text, func(cfg *replay.Config) { cfg.Speed = 300 })
	if r.Sent != 2 || r.Seconds < 0.1 {
		t.Errorf("30 s at 300 times the speed: got %+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := replay.Run(ctx, replay.Config{
		Client: i.Client, Speed: 1, Progress: func(replay.Counts) { cancel() },
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	})
	if err != context.Canceled {
		t.Errorf("interrupted: got %v", err)
	}
}
