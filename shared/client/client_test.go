package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/point"
)

// add makes a node and returns its id.
func add(t *testing.T, c *client.Client, parent, nodeType, name string) string {
	t.Helper()
	id, err := c.NodeAdd(t.Context(), parent, nodeType, name)
	if err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
	return id
}

func head(t *testing.T, c *client.Client, node, pointType string) api.Point {
	t.Helper()
	n, err := c.Get(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range n.Points {
		if p.Type == pointType {
			return p
		}
	}
	return api.Point{}
}

func TestResolve(t *testing.T) {
	i := clienttest.Start(t)
	c := i.Client
	gw1 := add(t, c, i.Root, "gateway", "gw1")
	gw2 := add(t, c, i.Root, "gateway", "gw2")
	pump1 := add(t, c, gw1, "sensor", "pump")
	pump2 := add(t, c, gw2, "sensor", "pump")
	hall := add(t, c, gw2, "site", "Hall 2/3")
	valve := add(t, c, hall, "sensor", "valve")
	decoy := add(t, c, gw1, "sensor", pump2) // its name is the id of another

	for _, tc := range []struct {
		name, want string
		code       api.Code
	}{
		{name: gw1, want: gw1},
		{name: gw1[:8], want: gw1},
		{name: i.Root, want: i.Root},
		{name: "gw1", want: gw1},
		{name: "gw1/pump", want: pump1},
		{name: "gw2/pump/", want: pump2},
		{name: "valve", want: valve},
		{name: "Hall 2/3/valve", want: valve},
		{name: "gw2/Hall 2/3/valve", want: valve},
		{name: i.Root + "/gw1/pump", want: pump1},
		{name: pump2, want: pump2}, // an exact id wins
		{name: "gw1/" + pump2, want: decoy},
		{name: "pump", code: api.CodeAmbiguous},
		{name: gw1[:3], code: api.CodeNotFound},
		{name: "gw2/valve", code: api.CodeNotFound},
		{name: "gw1/Pump", code: api.CodeNotFound},
		{name: "", code: api.CodeNotFound},
		{name: "/", code: api.CodeNotFound},
		{name: "a.b >", code: api.CodeNotFound},
	} {
		got, err := c.Resolve(t.Context(), tc.name)
		if got != tc.want || api.CodeOf(err) != tc.code {
			t.Errorf("%q: got %q, %v, want %q %q", tc.name, got, err, tc.want, tc.code)
		}
	}
	_, err := c.Resolve(t.Context(), "pump")
	for _, want := range []string{"gw1/pump (" + pump1 + ")", "gw2/pump (" + pump2 + ")"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("candidates: %v lacks %s", err, want)
		}
	}
}

func TestSet(t *testing.T) {
	i := clienttest.Start(t)
	c := i.Client
	node := add(t, c, i.Root, "sensor", "pump")
	for _, tc := range []struct {
		pointType, text, dataType string
		wantType, wantValue       string
	}{
		{"a", "21.5", "", "float", "21.5"},
		{"a", "0012", "", "float", "12"}, // the head's type
		{"a", "off", "", "string", `"off"`},
		{"a", "42", "", "string", `"42"`},
		{"b", "1e5", "", "float", "100000"},
		{"c", "0012", "", "string", `"0012"`},
		{"d", "1e5", "string", "string", `"1e5"`},
		{"e", "18446744073709551615", "uint", "uint", `"18446744073709551615"`},
		{"e", "7", "", "uint", "7"},
		{"f", "true", "bool", "uint", "1"},
		{"f", "false", "", "uint", "0"},
		{"g", `{"a": 1}`, "json", "json", `{"a":1}`},
		{"g", "[2]", "", "json", "[2]"},
		{"h", "-5", "int", "int", "-5"},
		{"h", "-5.5", "", "float", "-5.5"},
		{"i", "NaN", "float", "float", `"NaN"`},
		{"j", "true", "", "string", `"true"`},
		{"description", "7", "", "string", `"7"`},
	} {
		err := c.Set(t.Context(), point.Series{Node: node, Type: tc.pointType, Key: "0"}, tc.text, tc.dataType, "")
		if err != nil {
			t.Errorf("%s %q %s: %v", tc.pointType, tc.text, tc.dataType, err)
			continue
		}
		if p := head(t, c, node, tc.pointType); p.DataType != tc.wantType || string(p.Value) != tc.wantValue {
			t.Errorf("%s %q %s: got %s %s, want %s %s", tc.pointType, tc.text, tc.dataType, p.DataType, p.Value, tc.wantType, tc.wantValue)
		}
	}
}

func TestSetRefused(t *testing.T) {
	i := clienttest.Start(t)
	c := i.Client
	node := add(t, c, i.Root, "sensor", "pump")
	limit := point.Series{Node: node, Type: "limit", Key: "0"}
	if err := c.Set(t.Context(), limit, "1", "", ""); err != nil {
		t.Fatal(err)
	}
	seen := head(t, c, node, "limit").Time
	if err := c.Set(t.Context(), limit, "2", "", seen); err != nil {
		t.Errorf("expected head: %v", err)
	}
	for _, tc := range []struct {
		series                 point.Series
		text, dataType, expect string
		code                   api.Code
	}{
		{limit, "3", "", seen, api.CodeConflict},
		{limit, strings.Repeat("x", 2<<20), "", "", api.CodeTooLarge},
		{limit, strings.Repeat("x", 70<<10), "", "", api.CodeTooLarge},
		{limit, "x", "int", "", api.CodeInvalid},
		{limit, "{", "json", "", api.CodeInvalid},
		{limit, "2", "bool", "", api.CodeInvalid},
		{limit, "2", "number", "", api.CodeInvalid},
		{point.Series{Node: node, Type: "a.b", Key: "0"}, "1", "", "", api.CodeInvalid},
		{point.Series{Node: "nobody", Type: "a", Key: "0"}, "1", "", "", api.CodeNotFound},
	} {
		err := c.Set(t.Context(), tc.series, tc.text, tc.dataType, tc.expect)
		if api.CodeOf(err) != tc.code {
			t.Errorf("%v %.20q: got %v, want %s", tc.series, tc.text, err, tc.code)
		}
	}
	if v := head(t, c, node, "limit").Value; string(v) != "2" {
		t.Errorf("after refusals: got %s, want 2", v)
	}
}

// parents returns the parents of a node in order.
func parents(t *testing.T, c *client.Client, node string) string {
	t.Helper()
	n, err := c.Get(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(n.Parents, " ")
}

func TestNodes(t *testing.T) {
	i := clienttest.Start(t)
	c, ctx := i.Client, t.Context()
	a := add(t, c, i.Root, "site", "a")
	b := add(t, c, i.Root, "site", "b")
	pump := add(t, c, a, "sensor", "pump")

	if err := c.NodeMirror(ctx, pump, b); err != nil {
		t.Fatal(err)
	}
	if got := parents(t, c, pump); !strings.Contains(got, a) || !strings.Contains(got, b) {
		t.Errorf("mirrored: parents %q", got)
	}
	if err := c.NodeMove(ctx, pump, "", b); err != nil {
		t.Fatal(err)
	}
	if got := parents(t, c, pump); got != b {
		t.Errorf("moved: parents %q, want %q", got, b)
	}
	if err := c.NodeMove(ctx, pump, b, a); err != nil {
		t.Fatal(err)
	}
	if got := parents(t, c, pump); got != a {
		t.Errorf("moved back: parents %q, want %q", got, a)
	}
	if err := c.NodeRemove(ctx, pump, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(ctx, "pump"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("removed: got %v", err)
	}
	if id, err := c.Resolve(ctx, pump); id != pump || err != nil {
		t.Errorf("removed, by id: got %q, %v: its history is still there", id, err)
	}
	if got := tombstones(t, c, a, pump); got != "0 1 2 3" {
		t.Errorf("tombstones: got %q, want 0 1 2 3", got)
	}
	for _, tc := range []struct {
		err  error
		code api.Code
	}{
		{c.NodeMirror(ctx, a, a), api.CodeCycle},
		{c.NodeMove(ctx, a, b, b), api.CodeNotFound},
		{c.NodeMove(ctx, a, "", "nobody"), api.CodeNotFound},
		{c.NodeRemove(ctx, i.Root, ""), api.CodeInvalid},
		{c.NodeMove(ctx, a, "", i.Root), ""},
	} {
		if api.CodeOf(tc.err) != tc.code {
			t.Errorf("got %v, want %q", tc.err, tc.code)
		}
	}
}

func tombstones(t *testing.T, c *client.Client, up, down string) string {
	t.Helper()
	var list []string
	req := api.HistoryRequest{Up: up, Type: point.TypeTombstone, Limit: 2} // several pages
	err := c.History(t.Context(), down, req, func(r *api.HistoryReply) error {
		for k := range r.Samples {
			list = append(list, client.SampleText(&r.Samples[k]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestWatch(t *testing.T) {
	i := clienttest.Start(t)
	c := i.Client
	pump := add(t, c, i.Root, "sensor", "pump")
	errEnough := errors.New("enough")
	ready := make(chan struct{})
	seen := make(chan point.Point, 1)
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(t.Context(), i.Root, func() { close(ready) }, func(p *point.Point) error {
			seen <- *p
			return errEnough
		})
	}()
	<-ready
	want := point.Point{Series: point.Series{Node: pump, Type: "speed", Key: "a/b"}, DataType: point.Float, Data: point.FloatData(2.5)}
	if err := c.Write(t.Context(), []point.Point{want}); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.Series != want.Series || got.Text() != "2.5" || got.Time == 0 {
		t.Errorf("got %+v", got)
	}
	if err := <-done; !errors.Is(err, errEnough) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := c.Watch(ctx, i.Root, cancel, nil); err != nil {
		t.Errorf("ended: got %v", err)
	}
}

func TestBegin(t *testing.T) {
	i := clienttest.Start(t)
	c := i.Client
	pump := add(t, c, i.Root, "sensor", "pump")
	good := point.Point{Series: point.Series{Node: pump, Type: "speed", Key: "0"}, Time: 1, DataType: point.Float, Data: point.FloatData(1)}
	bad := good
	bad.Node = "nobody"
	for _, tc := range []struct {
		p    point.Point
		code api.Code
	}{{good, ""}, {bad, api.CodeNotFound}} {
		wait, err := c.Begin([]point.Point{tc.p})
		if err != nil {
			t.Fatal(err)
		}
		if err := wait(t.Context()); api.CodeOf(err) != tc.code {
			t.Errorf("got %v, want %q", err, tc.code)
		}
	}
}

func TestDevices(t *testing.T) {
	i := clienttest.Start(t)
	i.Answer(t, "fleet.add", func(body json.RawMessage) (any, error) {
		var req api.DeviceAdd
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		return api.DeviceToken{ID: "id-" + req.Name, Token: req.Plan}, nil
	})
	i.Answer(t, "fleet.list", func(json.RawMessage) (any, error) { return []api.Device{{ID: "a"}, {ID: "b"}}, nil })
	i.Answer(t, "fleet.revoke", func(json.RawMessage) (any, error) {
		return nil, api.Errorf(api.CodeNotFound, "see `device list`", "no such gateway")
	})
	token, err := i.Client.DeviceAdd(t.Context(), api.DeviceAdd{Name: "gw", Plan: "catm"})
	if err != nil || token.ID != "id-gw" || token.Token != "catm" {
		t.Errorf("add: got %+v, %v", token, err)
	}
	if list, err := i.Client.Devices(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("list: got %+v, %v", list, err)
	}
	if err := i.Client.DeviceRevoke(t.Context(), "x"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("revoke: got %v", err)
	}
	if err := i.Client.DeviceRemove(t.Context(), "x"); api.CodeOf(err) != api.CodeBusy {
		t.Errorf("nobody answers: got %v", err)
	}
}

func TestDialNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := client.Dial(t.Context(), dir); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("empty: got %v", err)
	}
	if err := (client.Running{Listen: "127.0.0.1:1", PID: 7}).Write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(t.Context(), dir); api.CodeOf(err) != api.CodeNotFound || !strings.Contains(err.Error(), "process 7") {
		t.Errorf("gone: got %v", err)
	}
	if err := errors.Join(client.RemoveRunning(dir), client.RemoveRunning(dir)); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := client.NewID()
		if len(id) != 16 || id[0] < 'a' || point.CheckID(id) != nil || seen[id] {
			t.Fatalf("bad id %q", id)
		}
		seen[id] = true
	}
}
