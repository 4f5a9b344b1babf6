package uplink

import (
	"testing"

	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// What the command line knows of a gateway's settings is what the agent takes.
func TestSchema(t *testing.T) {
	list := (&Uplink{}).newSettings()
	for name := range list {
		if schema.Gateway.Setting(name) == nil {
			t.Errorf("the schema lacks %s", name)
		}
	}
	for _, s := range schema.Gateway.Settings {
		if s.Name == schema.Description {
			continue
		}
		set := list[s.Name]
		if set == nil {
			t.Errorf("the agent lacks %s", s.Name)
			continue
		}
		refused := func(dt point.DataType, data []byte, code string) {
			t.Helper()
			if r := set(&point.Point{DataType: dt, Data: data}); r == nil || r.Code != code {
				t.Errorf("%s: %+v, want %s", s.Name, r, code)
			}
		}
		if s.Range != nil {
			refused(point.Float, point.FloatData(s.Range.Least-0.01), settings.CodeRange)
			refused(point.Float, point.FloatData(s.Range.Most*1.01), settings.CodeRange)
		}
		if s.Words != nil {
			refused(point.String, []byte("no such word"), settings.CodeRange)
		}
		if s.Kind == schema.Text {
			refused(point.Float, point.FloatData(1), settings.CodeType)
		} else {
			refused(point.String, []byte("text"), settings.CodeType)
		}
	}
}
