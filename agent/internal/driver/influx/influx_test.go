package influx_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/agent/internal/driver/drivertest"
	"github.com/sapflow/sapflow/agent/internal/driver/influx"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// TestMain checks that whatever is started is also stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// post posts a body and returns status and answer; status 0 is no answer.
func post(t *testing.T, url string, body io.Reader, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	req.Close = true
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, strings.TrimSpace(string(b))
}

func TestContract(t *testing.T) {
	count := 0
	drivertest.Contract(t, drivertest.Rig{
		Kind: influx.Kind(),
		Device: func(t *testing.T, _ string) (map[string]any, []point.Point) {
			return map[string]any{"listen": freePort(t)}, nil
		},
		Act: func(t *testing.T, settings map[string]any) {
			count++
			post(t, "http://"+settings["listen"].(string)+"/write", strings.NewReader(fmt.Sprintf("room,host=a t=%d", count)))
		},
	})
}

func start(t *testing.T, settings map[string]any) (w *drivertest.World, url string) {
	t.Helper()
	w = drivertest.New(t, influx.Kind())
	addr := freePort(t)
	settings["listen"] = addr
	w.Hub(drivertest.Node(drivertest.Gateway, "lp", "lineProtocol", settings)...)
	w.Answered("lp", "listen", "")
	return w, "http://" + addr
}

// devices returns the ids of nodes by their names.
func devices(w *drivertest.World) map[string]string {
	list := map[string]string{}
	for _, id := range w.Below("lp") {
		list[w.Text(id, "description")] = id
	}
	return list
}

func TestWrite(t *testing.T) {
	w, url := start(t, map[string]any{"nodeTags": "host site"})
	now := time.Now().Truncate(time.Second)
	body := fmt.Sprintf(`# a comment
cpu,host=a,cpu=cpu0 usage_idle=99.5,count=3i,big=18446744073709551615u,ok=true,name="x y" %d
cpu,host=b,site=oslo,z.z=1,cpu=cpu.1 value=2 %d

weather temperature=-4 %d
`, now.Unix(), now.Unix(), now.Unix())
	if status, answer := post(t, url+"/api/v2/write?org=o&bucket=b&precision=s", strings.NewReader(body)); status != http.StatusNoContent || answer != "" {
		t.Fatalf("%d %s", status, answer)
	}
	ids := devices(w)
	for _, c := range []struct {
		node, typ, key string
		dt             point.DataType
		text           string
	}{
		{"a", "cpu_usage_idle", "cpu0", point.Float, "99.5"},
		{"a", "cpu_count", "cpu0", point.Int, "3"},
		{"a", "cpu_big", "cpu0", point.Uint, "18446744073709551615"},
		{"a", "cpu_ok", "cpu0", point.Uint, "1"},
		{"a", "cpu_name", "cpu0", point.String, "x y"},
		{"b/oslo", "cpu", "cpu_1/1", point.Float, "2"},
		{"weather", "weather_temperature", "0", point.Float, "-4"},
	} {
		p := w.Head(ids[c.node], c.typ, c.key)
		if p == nil || p.DataType != c.dt || p.Text() != c.text || !p.At().Equal(now) {
			t.Errorf("%s %s/%s: %+v", c.node, c.typ, c.key, p)
		}
	}
	// Every precision means what it says.
	for precision, unit := range map[string]time.Duration{"": 1, "n": 1, "u": time.Microsecond, "us": time.Microsecond, "ms": time.Millisecond, "m": time.Minute, "h": time.Hour} {
		at := now.Add(-time.Hour).Truncate(unit)
		post(t, url+"/write?precision="+precision, strings.NewReader(fmt.Sprintf("p,host=a %s=1 %d", "x"+precision, at.UnixNano()/int64(unit))))
		if p := w.Head(ids["a"], "p_x"+precision, "0"); p == nil || !p.At().Equal(at) {
			t.Errorf("precision %q: %+v, want %s", precision, p, at)
		}
	}
	// Packed, as Telegraf sends.
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	_, _ = g.Write([]byte("zipped,host=a value=1"))
	_ = g.Close()
	if status, answer := post(t, url+"/write", &z, "Content-Encoding", "gzip"); status != http.StatusNoContent || w.Text(ids["a"], "zipped") != "1" {
		t.Errorf("packed: %d %s", status, answer)
	}
}

// What cannot be taken is told, and costs the other lines nothing.
func TestPartial(t *testing.T) {
	w, url := start(t, map[string]any{"maxNodes": 3, "maxSeries": 5})
	body := "good,host=a value=1\n" +
		"bad line\n" +
		"future,host=a value=1 4070908800000000000\n" + // 2099
		"past,host=a value=1 -1\n" +
		"good,host=b value=2\n" +
		strings.Repeat("x", 60) + ",host=a value=3\n"
	status, answer := post(t, url+"/api/v2/write", strings.NewReader(body))
	if status != http.StatusBadRequest || !strings.HasPrefix(answer, `{"code":"invalid","message":"partial write: unable to parse entry 2: `) || !strings.Contains(answer, "dropped=4") ||
		!strings.Contains(answer, "4070908800000000000 is more than 5 min in the future") {
		t.Errorf("%d %s", status, answer)
	}
	ids := devices(w)
	if w.Text(ids["a"], "good") != "1" || w.Text(ids["b"], "good") != "2" {
		t.Errorf("the good lines are missing: %v", ids)
	}
	if status, answer = post(t, url+"/write", strings.NewReader("bad line")); status != http.StatusBadRequest || !strings.HasPrefix(answer, `{"error":"partial write: `) {
		t.Errorf("version 1: %d %s", status, answer)
	}
	// A flood of names ends at the bounds.
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, "m%d,host=h%d value=1\n", i, i)
	}
	if status, answer = post(t, url+"/write", strings.NewReader(many.String())); status != http.StatusBadRequest || !strings.Contains(answer, "dropped=9999") || !strings.Contains(answer, "would be one node more than 3") {
		t.Errorf("many nodes: %d %.300s", status, answer)
	}
	many.Reset()
	for i := range 100 {
		fmt.Fprintf(&many, "m%d,host=a value=1\n", i)
	}
	if status, answer = post(t, url+"/write", strings.NewReader(many.String())); !strings.Contains(answer, "dropped=98") || !strings.Contains(answer, "maxSeries, 5") {
		t.Errorf("many series: %d %.300s", status, answer)
	}
	// A node that somebody has removed is not made again.
	w.Remove("lp", ids["b"])
	if status, answer = post(t, url+"/write", strings.NewReader("good,host=b value=3\ngood,host=a value=4")); !strings.Contains(answer, "b: the node was removed dropped=1") || w.Text(ids["a"], "good") != "4" {
		t.Errorf("a removed node: %d %s", status, answer)
	}
	for what, c := range map[string]struct {
		body   string
		header []string
		query  string
		status int
	}{
		"large":          {strings.Repeat("x", 5<<20), nil, "", http.StatusRequestEntityTooLarge},
		"no gzip":        {"good value=1", []string{"Content-Encoding", "gzip"}, "", http.StatusBadRequest},
		"other encoding": {"good value=1", []string{"Content-Encoding", "br"}, "", http.StatusBadRequest},
		"precision":      {"good value=1", nil, "?precision=week", http.StatusBadRequest},
	} {
		if status, answer := post(t, url+"/write"+c.query, strings.NewReader(c.body), c.header...); status != c.status {
			t.Errorf("%s: %d %s", what, status, answer)
		}
	}
	var z bytes.Buffer // a bomb
	g := gzip.NewWriter(&z)
	for range 1000 {
		_, _ = g.Write(make([]byte, 64<<10))
	}
	_ = g.Close()
	if status, answer := post(t, url+"/write", &z, "Content-Encoding", "gzip"); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a bomb: %d %s", status, answer)
	}
	if status, _ := post(t, url+"/write", strings.NewReader("good,host=a value=9")); status != http.StatusNoContent || w.Text(ids["a"], "good") != "9" {
		t.Errorf("after all that: %d", status)
	}
}

func TestToken(t *testing.T) {
	w, url := start(t, map[string]any{"token": "secret"})
	line := func(header ...string) int {
		status, _ := post(t, url+"/write", strings.NewReader("good,host=a value=1"), header...)
		return status
	}
	if s := line(); s != http.StatusUnauthorized {
		t.Errorf("without: %d", s)
	}
	if s := line("Authorization", "Token wrong"); s != http.StatusUnauthorized {
		t.Errorf("a wrong one: %d", s)
	}
	for _, scheme := range []string{"Token", "Bearer"} {
		if s := line("Authorization", scheme+" secret"); s != http.StatusNoContent {
			t.Errorf("%s: %d", scheme, s)
		}
	}
	w.Set("lp", "token", "")
	w.Set("lp", "listen", "0.0.0.0:0")
	if r := w.Answered("lp", "listen", schema.CodeRange); r != "set a token before it listens beyond this machine" {
		t.Errorf("reason %q", r)
	}
}
