package point_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/sapflow/sapflow/shared/point"
)

// refusal fails unless err is a point.Error about what that names the token,
// and says it in its sentence.
func refusal(t *testing.T, err error, what, token string) {
	t.Helper()
	var e *point.Error
	if !errors.As(err, &e) {
		t.Errorf("%s %q: got %v, want a *point.Error", what, token, err)
		return
	}
	named := token
	if len(named) > 80 {
		named = token[:80] + "..."
	}
	if e.What != what || e.Token != named {
		t.Errorf("%s %q: the error is about %s %q", what, token, e.What, e.Token)
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("%s %q", what, named)) || e.Reason == "" {
		t.Errorf("%s %q: the sentence %q does not name it", what, token, err)
	}
}

func TestCheckID(t *testing.T) {
	long := strings.Repeat("a", point.MaxIDLen)
	rule := regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	for _, id := range []string{"a", "0", "a-b_c", "9-", "x_", "k7f2", long, strings.Repeat("0", 63)} {
		if err := point.CheckID(id); err != nil || !rule.MatchString(id) {
			t.Errorf("id %q: got %v, want accepted", id, err)
		}
	}
	for _, id := range []string{
		"", long + "a", "-a", "_a", "A", "aB", "a.b", "a b", " a", "a/b", "a*", ">", "é", "aé", "a\x00", "a\n", "\xff", strings.Repeat("a", 300),
	} {
		refusal(t, point.CheckID(id), "node id", id)
		if rule.MatchString(id) {
			t.Errorf("id %q matches the rule, want a test that agrees with it", id)
		}
	}
}

func TestCheckSeries(t *testing.T) {
	ok := point.Series{Node: "n1", Type: "temp", Key: "0"}
	edge := point.Series{Up: "site", Node: "n1", Type: "nodeType", Key: "0"}
	with := func(s point.Series, change func(*point.Series)) point.Series { change(&s); return s }
	withType := func(v string) point.Series { return with(ok, func(s *point.Series) { s.Type = v }) }
	withKey := func(v string) point.Series { return with(ok, func(s *point.Series) { s.Key = v }) }
	appliedKey := func(v string) point.Series { return point.Series{Node: "n1", Type: "applied", Key: v} }

	for _, s := range []point.Series{
		ok, edge,
		withType(strings.Repeat("t", 48)), withType(strings.Repeat("é", 24)), withType("größe"), withType("温度"), withType("$x#y"), withType(`a\"b`),
		withKey(strings.Repeat("k", 64)), withKey(strings.Repeat("温", 21)), withKey("a/b"), withKey("/"), withKey("_-:;,!"), withKey("🙂"),
		appliedKey("temp/0"), appliedKey(strings.Repeat("k", 113)), appliedKey(strings.Repeat("t", 48) + "/" + strings.Repeat("k", 64)),
	} {
		if err := point.CheckSeries(s); err != nil {
			t.Errorf("%s: got %v, want accepted", s, err)
		}
	}

	type bad struct {
		what, token string
		s           point.Series
	}
	cases := []bad{
		{"node id", "N", with(ok, func(s *point.Series) { s.Node = "N" })},
		{"node id", "", with(ok, func(s *point.Series) { s.Node = "" })},
		{"node id", "a.b", with(edge, func(s *point.Series) { s.Node = "a.b" })},
		{"node id", "Up", with(edge, func(s *point.Series) { s.Up = "Up" })},
		{"node id", "*", with(edge, func(s *point.Series) { s.Up = "*" })},
		{"type", "a/b", withType("a/b")},
		{"type", "/", withType("/")},
		{"key", strings.Repeat("k", 65), with(edge, func(s *point.Series) { s.Key = strings.Repeat("k", 65) })},
		{"key", strings.Repeat("k", 114), appliedKey(strings.Repeat("k", 114))},
	}
	both := map[string]string{
		"empty": "", "dot": "a.b", "star": "*", "star inside": "a*b", "greater": ">", "blank": "a b", "only a blank": " ",
		"leading blank": " a", "trailing blank": "a ", "tab": "a\tb", "newline": "a\n", "carriage return": "\ra", "nul": "a\x00", "delete": "a\x7f",
		"escape": "\x1b[m", "next line": "a\u0085b", "no-break space": "a\u00a0b", "ideographic space": "a\u3000b", "line separator": "a\u2028b",
		"zero width space": "a\u200bb", "byte order mark": "\ufeffa", "right-to-left override": "a\u202eb", "private use": "a\ue000b",
		"not UTF-8": "a\xff", "cut rune": "gr\xc3", "overlong dot": "\xc0\xae", "surrogate": "\xed\xa0\x80",
	}
	for _, token := range both {
		cases = append(cases, bad{"type", token, withType(token)}, bad{"key", token, withKey(token)}, bad{"key", token, appliedKey(token)})
	}
	for _, token := range []string{strings.Repeat("t", 49), strings.Repeat("é", 24) + "t", strings.Repeat("t", 4000)} {
		cases = append(cases, bad{"type", token, withType(token)})
	}
	for _, token := range []string{strings.Repeat("k", 65), strings.Repeat("温", 21) + "kk", strings.Repeat("k", 4000)} {
		cases = append(cases, bad{"key", token, withKey(token)})
	}
	for _, c := range cases {
		refusal(t, point.CheckSeries(c.s), c.what, c.token)
		refusal(t, point.Check(&point.Point{Series: c.s}), c.what, c.token)
	}
}

func TestCheckValue(t *testing.T) {
	sizes := map[point.DataType][]int{
		point.Float: {4, 8}, point.Int: {1, 2, 4, 8}, point.Uint: {1, 2, 4, 8},
	}
	for dt, good := range sizes {
		for n := range 18 {
			want := false
			for _, g := range good {
				want = want || n == g
			}
			err := point.CheckValue(value(dt, make([]byte, n)))
			if want && err != nil {
				t.Errorf("%s of %d bytes: got %v, want accepted", dt, n, err)
			}
			if !want {
				refusal(t, err, "value", dt.String())
			}
		}
	}
	for _, c := range []struct {
		dt   point.DataType
		data string
		ok   bool
	}{
		{point.Unknown, "", true},
		{point.Unknown, "\xff\x00", true},
		{point.Protobuf, "", true},
		{point.Protobuf, "\xff", true},
		{point.String, "", true},
		{point.String, "any text\n\x00", true},
		{point.String, "Süd", true},
		{point.String, "S\xfcd", false},
		{point.String, "cut \xc3", false},
		{point.JSON, `{}`, true},
		{point.JSON, ` [1, "ü", null] `, true},
		{point.JSON, `1`, true},
		{point.JSON, ``, false},
		{point.JSON, `{`, false},
		{point.JSON, `NaN`, false},
		{point.JSON, `{} {}`, false},
		{point.JSON, "\"\xff\"", false}, // JSON is UTF-8
		{point.JSON, strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), false},
	} {
		err := point.CheckValue(value(c.dt, []byte(c.data)))
		if c.ok && err != nil {
			t.Errorf("%s %.40q: got %v, want accepted", c.dt, c.data, err)
		}
		if !c.ok {
			refusal(t, err, "value", c.dt.String())
		}
	}
	for dt := 7; dt < 256; dt++ {
		refusal(t, point.CheckValue(value(point.DataType(dt), nil)), "value", fmt.Sprint(dt))
	}
}

func TestCheckOrigin(t *testing.T) {
	for _, origin := range []string{"", "anna", strings.Repeat("o", 255), "driver with blanks.and dots\n"} {
		if err := point.CheckValue(&point.Point{Origin: origin}); err != nil {
			t.Errorf("origin %q: got %v, want accepted", origin, err)
		}
	}
	for _, origin := range []string{strings.Repeat("o", 256), strings.Repeat("é", 128), "\xff"} {
		refusal(t, point.CheckValue(&point.Point{Origin: origin}), "origin", origin)
	}
}

func TestCheckEdge(t *testing.T) {
	edge := func(typ string, dt point.DataType, data string) *point.Point {
		return &point.Point{Series: point.Series{Up: "a", Node: "b", Type: typ, Key: "0"}, DataType: dt, Data: []byte(data)}
	}
	for _, p := range []*point.Point{
		edge("nodeType", point.String, "gateway"),
		edge("tombstone", point.Uint, "\x00"),
		edge("tombstone", point.Uint, "\x01\x00"),
		edge("tombstone", point.Uint, "\x01\x00\x00\x00\x00\x00\x00\x00"),
		edge("order", point.Float, "\x00\x00\x00\x00"), // any other type is free
	} {
		if err := point.Check(p); err != nil {
			t.Errorf("edge %s %s %q: got %v, want accepted", p.Type, p.DataType, p.Data, err)
		}
		p.Up = "" // a node's own points of these names are nobody's business
		p.DataType, p.Data = point.JSON, []byte(`null`)
		if err := point.Check(p); err != nil {
			t.Errorf("node point %s: got %v, want accepted", p.Type, err)
		}
	}
	for _, p := range []*point.Point{
		edge("nodeType", point.String, ""),
		edge("nodeType", point.JSON, `"gateway"`),
		edge("nodeType", point.Unknown, "gateway"),
		edge("tombstone", point.Int, "\x01"),
		edge("tombstone", point.Float, "\x00\x00\x00\x00"),
		edge("tombstone", point.String, "1"),
		edge("tombstone", point.JSON, "true"),
	} {
		refusal(t, point.Check(p), "value", p.Type)
	}
	refusal(t, point.Check(edge("tombstone", point.Uint, "")), "value", "uint")
	for _, p := range point.Edge("up", "down", "sensor") {
		if err := point.Check(&p); err != nil || !p.IsEdge() || p.Key != point.NoKey {
			t.Errorf("Edge: %s: got %v, want an edge point that is accepted", p.Series, err)
		}
	}
}
