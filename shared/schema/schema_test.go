package schema_test

import (
	"testing"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

func setting(typ string, dt point.DataType, text string) *point.Point {
	data, err := point.ParseValue(text, dt, 0)
	if err != nil {
		panic(err)
	}
	return &point.Point{Series: point.Series{Node: "n", Type: typ, Key: point.NoKey}, DataType: dt, Data: data}
}

func TestCheck(t *testing.T) {
	typ := &schema.Type{Name: "pump", Settings: []schema.Setting{
		{Name: "speed", Kind: schema.Number, Unit: "rpm", Range: &schema.Range{Least: -5, Most: 5}},
		{Name: "steps", Kind: schema.Integer, Range: &schema.Range{Least: 0, Most: 1e6}},
		{Name: "mode", Kind: schema.Text, Words: []string{"auto", "off", "hand"}},
		{Name: "label", Kind: schema.Text},
		{Name: "enabled", Kind: schema.Bool},
	}}
	keyed := setting("speed", point.Float, "1")
	keyed.Key = "x"
	for _, c := range []struct {
		point        *point.Point
		code, reason string
	}{
		{setting("speed", point.Float, "5"), "", ""},
		{setting("speed", point.Int, "-5"), "", ""},
		{setting("speed", point.Float, "5.1"), schema.CodeRange, "must be between -5 and 5 rpm"},
		{setting("speed", point.Float, "NaN"), schema.CodeRange, "must be a finite number"},
		{setting("speed", point.String, "5"), schema.CodeType, "must be a number"},
		{setting("steps", point.Float, "1000000"), "", ""},
		{setting("steps", point.Float, "1000001"), schema.CodeRange, "must be between 0 and 1000000"},
		{setting("steps", point.Float, "1.5"), schema.CodeRange, "must be a whole number"},
		{setting("mode", point.String, "hand"), "", ""},
		{setting("mode", point.String, "Hand"), schema.CodeRange, "must be auto, off or hand"},
		{setting("mode", point.Float, "1"), schema.CodeType, "must be a text"},
		{setting("label", point.String, ""), "", ""},
		{setting("enabled", point.Uint, "1"), "", ""},
		{setting("enabled", point.Float, "0"), "", ""},
		{setting("enabled", point.Float, "2"), schema.CodeType, "must be true or false, as 1 or 0"},
		{setting("Sped", point.Float, "1"), schema.CodeUnknown, "a pump has no setting Sped; do you mean speed?"},
		{keyed, schema.CodeUnknown, "a pump has no setting speed/x; do you mean speed?"},
	} {
		r := typ.Check(c.point)
		if r == nil {
			r = &schema.Refused{}
		}
		if r.Code != c.code || r.Reason != c.reason {
			t.Errorf("%s %s: %q %q, want %q %q", c.point.Series, c.point.Text(), r.Code, r.Reason, c.code, c.reason)
		}
	}
}

// What every type says of itself holds.
func TestTypes(t *testing.T) {
	seen := map[string]bool{}
	for _, typ := range append(schema.Types(), schema.Readings) {
		if seen[typ.Name] || schema.Of(typ.Name) != typ && typ != schema.Readings {
			t.Errorf("%s is not one type", typ.Name)
		}
		seen[typ.Name] = true
		names := map[string]bool{}
		for _, s := range typ.Settings {
			where := typ.Name + " " + s.Name
			if names[s.Name] || typ.Tells(s.Name) {
				t.Errorf("%s is there twice", where)
			}
			names[s.Name] = true
			if point.CheckType(s.Name) != nil || s.Help == "" {
				t.Errorf("%s: no name, or no help", where)
			}
			if s.Range != nil && (s.Range.Least > s.Range.Most || s.Kind != schema.Number && s.Kind != schema.Integer) {
				t.Errorf("%s: range %+v of a %s", where, *s.Range, s.Kind)
			}
			p := point.Point{Series: point.Series{Node: "n", Type: s.Name, Key: point.NoKey}}
			switch v := s.Default.(type) {
			case nil:
				continue
			case float64:
				p.DataType, p.Data = point.Float, point.FloatData(v)
			case bool:
				p.DataType, p.Data = point.Uint, []byte{0}
			case string:
				p.DataType, p.Data = point.String, []byte(v)
			default:
				t.Errorf("%s: default %v is a %T", where, v, v)
			}
			if r := typ.Check(&p); r != nil {
				t.Errorf("%s: the default %s", where, r.Reason)
			}
		}
		for _, p := range typ.Points {
			if point.CheckType(p) != nil {
				t.Errorf("%s: point %q", typ.Name, p)
			}
		}
	}
	if len(seen) < 2 {
		t.Error("no types")
	}
}

func TestNearest(t *testing.T) {
	list := []string{"pollPeriod", "parity", "protocol"}
	for word, want := range map[string]string{"polPeriod": "pollPeriod", "PARITY": "parity", "protcol": "protocol"} {
		if got := schema.Nearest(word, list); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
	if got := schema.Nearest("x", nil); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
