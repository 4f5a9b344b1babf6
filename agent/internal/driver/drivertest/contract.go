package drivertest

import (
	"testing"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Rig is a driver with a device that works.
type Rig struct {
	Kind driver.Kind
	// Device starts the device and returns settings of a node, and points that
	// make its parts below it.
	Device func(t *testing.T, node string) (settings map[string]any, parts []point.Point)
	// Act makes the device give a reading, where it does not by itself.
	Act func(t *testing.T, settings map[string]any)
	// Quick are settings that make readings come often.
	Quick map[string]any
}

// Contract holds a driver to what all are held to.
func Contract(t *testing.T, r Rig) {
	t.Helper()
	const id = "under-test"
	typ := r.Kind.Type
	if schema.Of(typ.Name) != typ {
		t.Fatalf("schema does not list %s", typ.Name)
	}
	w := New(t, r.Kind)
	settings, parts := map[string]any{}, []point.Point(nil)
	if r.Device != nil {
		settings, parts = r.Device(t, id)
	}
	for name, v := range r.Quick {
		settings[name] = v
	}
	w.Hub(Node(Gateway, id, typ.Name, settings)...)
	if parts != nil {
		w.Hub(parts...)
	}
	readings := func() (n int) {
		if r.Act != nil {
			r.Act(t, settings)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.merged {
			if !e.IsEdge() && e.Author != "hub" && e.Origin == "" && !schema.Readings.Tells(e.Type) && e.Type != point.TypeDescription {
				n++
				if e.Time%1e6 != 0 {
					t.Fatalf("%s is of %d ns, not of a whole millisecond", e.Series, e.Time)
				}
			}
		}
		return n
	}
	more := func(what string) {
		t.Helper()
		before := readings()
		w.Eventually(what, func() bool { return readings() > before })
	}
	more("it measures")

	// Every setting is answered: what is allowed, what is not, what is unknown.
	for name := range settings {
		w.Answered(id, name, "")
	}
	for _, s := range typ.Settings {
		if _, given := settings[s.Name]; given || s.Name == schema.Disabled {
			continue
		}
		if s.Default != nil && !s.Probed {
			w.Set(id, s.Name, s.Default)
			w.Answered(id, s.Name, "")
		}
		switch {
		case s.Range != nil:
			w.Set(id, s.Name, s.Range.Most+1)
			w.Answered(id, s.Name, schema.CodeRange)
		case s.Words != nil:
			w.Set(id, s.Name, "no such word")
			w.Answered(id, s.Name, schema.CodeRange)
		}
		if s.Kind == schema.Text {
			w.Set(id, s.Name, 5)
		} else {
			w.Set(id, s.Name, "text")
		}
		w.Answered(id, s.Name, schema.CodeType)
		if s.Default != nil {
			w.Set(id, s.Name, s.Default)
		}
	}
	w.Set(id, "nosuchsetting", 1)
	w.Answered(id, "nosuchsetting", schema.CodeUnknown)
	more("it measures after all that")

	// It stops and starts.
	w.Set(id, schema.Disabled, true)
	w.Answered(id, schema.Disabled, "")
	w.Eventually("it stands", func() bool { return len(w.Running()) == 0 })
	w.Set(id, schema.Disabled, false)
	more("it measures again")
	if e := w.Text(id, schema.Error); e != "" {
		t.Errorf("it tells an error: %s", e)
	}

	// All that the node itself tells is in its type.
	w.mu.Lock()
	for _, e := range w.merged {
		if e.Node == id && e.Author != "hub" && !e.IsEdge() && !typ.Tells(e.Type) && typ.Setting(e.Type) == nil {
			t.Errorf("the type does not say that it tells %s", e.Type)
		}
	}
	w.mu.Unlock()

	// Removed it ends, and leaves nothing behind.
	w.Remove(Gateway, id)
	w.Eventually("it ends", func() bool { return len(w.Running()) == 0 })
	before := readings()
	w.Stop()
	if n := readings(); r.Act == nil && n != before {
		t.Errorf("%d readings after its end", n-before)
	}
}
