package driver_test

import (
	"testing"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/agent/internal/driver/simulate"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// rig is a driver with a device that works.
type rig struct {
	kind driver.Kind
	// device starts the device and returns settings of a node, and points that
	// make its parts below it.
	device func(t *testing.T, node string) (settings map[string]any, parts []point.Point)
	// act makes the device give a reading, where it does not by itself.
	act func(t *testing.T, settings map[string]any)
	// quick are settings that make readings come often.
	quick map[string]any
}

// TestContract holds every driver to the same.
func TestContract(t *testing.T) {
	for name, r := range map[string]rig{
		"simulate": {kind: simulate.Kind(), quick: map[string]any{"period": 20}},
	} {
		t.Run(name, func(t *testing.T) { r.run(t) })
	}
}

func (r *rig) run(t *testing.T) {
	const id = "under-test"
	typ := r.kind.Type
	if schema.Of(typ.Name) != typ {
		t.Fatalf("schema does not list %s", typ.Name)
	}
	w := newWorld(t, r.kind)
	settings, parts := map[string]any{}, []point.Point(nil)
	if r.device != nil {
		settings, parts = r.device(t, id)
	}
	for name, v := range r.quick {
		settings[name] = v
	}
	w.hub(node(gateway, id, typ.Name, settings)...)
	if parts != nil {
		w.hub(parts...)
	}
	readings := func() (n int) {
		if r.act != nil {
			r.act(t, settings)
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
		w.eventually(what, func() bool { return readings() > before })
	}
	more("it measures")

	// Every setting is answered: what is allowed, what is not, what is unknown.
	for name := range settings {
		w.answered(id, name, "")
	}
	for _, s := range typ.Settings {
		if _, given := settings[s.Name]; given || s.Name == schema.Disabled {
			continue
		}
		if s.Default != nil && !s.Probed {
			w.set(id, s.Name, s.Default)
			w.answered(id, s.Name, "")
		}
		switch {
		case s.Range != nil:
			w.set(id, s.Name, s.Range.Most+1)
			w.answered(id, s.Name, schema.CodeRange)
		case s.Words != nil:
			w.set(id, s.Name, "no such word")
			w.answered(id, s.Name, schema.CodeRange)
		}
		if s.Kind == schema.Text {
			w.set(id, s.Name, 5)
		} else {
			w.set(id, s.Name, "text")
		}
		w.answered(id, s.Name, schema.CodeType)
		if s.Default != nil {
			w.set(id, s.Name, s.Default)
		}
	}
	w.set(id, "nosuchsetting", 1)
	w.answered(id, "nosuchsetting", schema.CodeUnknown)
	more("it measures after all that")

	// It stops and starts.
	w.set(id, schema.Disabled, true)
	w.answered(id, schema.Disabled, "")
	w.eventually("it stands", func() bool { return len(w.running()) == 0 })
	w.set(id, schema.Disabled, false)
	more("it measures again")
	if e := w.text(id, schema.Error); e != "" {
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
	w.remove(gateway, id)
	w.eventually("it ends", func() bool { return len(w.running()) == 0 })
	before := readings()
	w.stop()
	if n := readings(); r.act == nil && n != before {
		t.Errorf("%d readings after its end", n-before)
	}
}
