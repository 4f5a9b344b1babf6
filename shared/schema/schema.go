// Package schema owns what is known of the types of nodes: which settings a
// type has, with their kinds, units, ranges and defaults, and what it tells.
//
// Both ends read it: the gateway that puts settings in force and the command
// line that refuses what a type does not know. It is pure.
package schema

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sapflow/sapflow/shared/point"
)

// Codes of a refused setting.
const (
	CodeUnknown = "unknown" // the type of node has no such setting
	CodeRange   = "range"   // the value is of the right type but not allowed
	CodeType    = "type"    // the value is of the wrong type
	CodeDriver  = "driver"  // the device or the system refuses it
)

// Refused is a setting that cannot be put in force.
type Refused struct{ Code, Reason string }

// Error returns the reason.
func (r *Refused) Error() string { return r.Reason }

// Kind is what values of a setting are.
type Kind string

// The kinds of settings.
const (
	Number  Kind = "number"
	Integer Kind = "integer"
	Bool    Kind = "bool" // 0 or 1
	Text    Kind = "text"
)

// Setting is a point of a node that changes what the node does. Its key is 0.
type Setting struct {
	Name    string   `json:"name"`
	Kind    Kind     `json:"kind"`
	Unit    string   `json:"unit,omitempty"`
	Range   *Range   `json:"range,omitempty"`   // of a number or an integer
	Words   []string `json:"values,omitempty"`  // that a text may be; nil for any
	Default any      `json:"default,omitempty"` // float64, bool or string; nil for none
	Help    string   `json:"help"`
	// Probed tells that the driver answers it itself, after it was tried.
	Probed bool `json:"-"`
}

// Range is what a number may be, both ends included.
type Range struct {
	Least float64 `json:"least"`
	Most  float64 `json:"most"`
}

// Type is a type of node.
type Type struct {
	Name     string    `json:"type"`
	Help     string    `json:"help"`
	Below    string    `json:"below"` // what a node of this type stands below
	Settings []Setting `json:"settings"`
	// Open tells that people and programs write points of their own to the node
	// besides.
	Open   bool     `json:"open,omitempty"`
	Points []string `json:"points"` // what the node tells, by type of point
}

// Setting returns the setting of a name, nil if there is none.
func (t *Type) Setting(name string) *Setting {
	for i := range t.Settings {
		if t.Settings[i].Name == name {
			return &t.Settings[i]
		}
	}
	return nil
}

// Tells whether the node itself writes points of a type.
func (t *Type) Tells(pointType string) bool { return slices.Contains(t.Points, pointType) }

// Check returns why a point is no setting of the type, nil if it is one.
func (t *Type) Check(p *point.Point) *Refused {
	s := t.Setting(p.Type)
	if t.Open && s == nil {
		return nil
	}
	if s == nil || p.Key != point.NoKey {
		return &Refused{CodeUnknown, fmt.Sprintf("a %s has no setting %s; do you mean %s?", t.Name, nameOf(p), t.Nearest(p.Type))}
	}
	return s.Check(p)
}

func nameOf(p *point.Point) string {
	if p.Key == point.NoKey {
		return p.Type
	}
	return p.Type + "/" + p.Key
}

// Nearest returns the setting whose name is most like a word.
func (t *Type) Nearest(word string) string {
	names := make([]string, len(t.Settings))
	for i := range t.Settings {
		names[i] = t.Settings[i].Name
	}
	return Nearest(word, names)
}

// Check returns why a value is not allowed, nil if it is.
func (s *Setting) Check(p *point.Point) *Refused {
	switch s.Kind {
	case Text:
		if p.DataType != point.String {
			return &Refused{CodeType, "must be a text"}
		}
		if s.Words != nil && !slices.Contains(s.Words, string(p.Data)) {
			return &Refused{CodeRange, "must be " + OneOf(s.Words)}
		}
		return nil
	case Bool:
		if v, ok := p.Number(); !ok || v != 0 && v != 1 {
			return &Refused{CodeType, "must be true or false, as 1 or 0"}
		}
		return nil
	}
	v, ok := p.Number()
	switch {
	case !ok:
		return &Refused{CodeType, "must be a number"}
	case math.IsNaN(v) || math.IsInf(v, 0):
		return &Refused{CodeRange, "must be a finite number"}
	case s.Range != nil && (v < s.Range.Least || v > s.Range.Most):
		return &Refused{CodeRange, strings.TrimRight(fmt.Sprintf("must be between %.12g and %.12g %s", s.Range.Least, s.Range.Most, s.Unit), " ")}
	case s.Kind == Integer && v != math.Trunc(v):
		return &Refused{CodeRange, "must be a whole number"}
	}
	return nil
}

// OneOf returns words as people list them.
func OneOf(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Of returns the type of a name, nil if nothing is known of it.
func Of(name string) *Type {
	for _, t := range Types() {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Nearest returns the word of a list that is most like a word, "" of an empty
// list.
func Nearest(word string, list []string) (best string) {
	least := math.MaxInt
	for _, w := range list {
		if d := distance(word, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance returns how many letters must be put in, taken out or replaced to
// make b of a, capitals apart.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1) // distances of the beginning of a to those of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := i + 1
		for j := range len(b) {
			d := row[j]
			if a[i] != b[j] {
				d = 1 + min(d, left, row[j+1])
			}
			row[j], left = left, d
		}
		row[len(b)] = left
	}
	return row[len(b)]
}
