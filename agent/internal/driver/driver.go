// Package driver owns what measures: it runs a driver for each node of a type
// that has one, gives it its settings, takes its readings, and answers what
// the hub has set.
//
// A driver knows its device and nothing else: no subjects, no log, no other
// driver. What fails in one, a panic included, ends that one, which is started
// again ever more rarely; the others do not notice.
//
//	tree --> Manager --> Node --> Driver --> Port --> reduce --> bus
//	             |                             |
//	             +---------- applied <---------+
package driver

import (
	"context"
	"errors"
	"time"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Driver works for one node and the parts of it, which are nodes below it.
type Driver interface {
	// Run works until ctx ends, and then returns soon. It puts settings in
	// force as they change, without a start. It returns before only with an
	// error: then it is run again after a while, or at once when a setting
	// changes.
	Run(ctx context.Context, p *Port) error
}

// Kind is a type of node that there is a driver for.
type Kind struct {
	Type  *schema.Type
	Parts []*schema.Type // what is part of such a node when it is below it
	New   func() Driver  // called for each Run
}

// ErrRemoved is returned for a node that somebody has removed.
var ErrRemoved = errors.New("the node was removed")

// Node is a node as its settings have it at a moment. It does not change.
type Node struct {
	ID    string
	Type  *schema.Type
	Parts []*Node // those that are not disabled, in order of their ids

	settings map[string]point.Point // those that are allowed
}

// Given returns a setting that somebody has made, as it was written.
func (n *Node) Given(name string) (p point.Point, ok bool) {
	p, ok = n.settings[name]
	return p, ok
}

func (n *Node) standard(name string) any {
	if s := n.Type.Setting(name); s != nil {
		return s.Default
	}
	return nil
}

// Number returns a setting that is a number, 0 without a default.
func (n *Node) Number(name string) float64 {
	if p, ok := n.settings[name]; ok {
		v, _ := p.Number()
		return v
	}
	v, _ := n.standard(name).(float64)
	return v
}

// Int is Number for a whole number.
func (n *Node) Int(name string) int { return int(n.Number(name)) }

// Millis is Number for a time in milliseconds.
func (n *Node) Millis(name string) time.Duration {
	return time.Duration(n.Number(name) * float64(time.Millisecond))
}

// Bool returns a setting that is on or off.
func (n *Node) Bool(name string) bool {
	if p, ok := n.settings[name]; ok {
		v, _ := p.Number()
		return v == 1
	}
	v, _ := n.standard(name).(bool)
	return v
}

// Text returns a setting that is a text, "" without a default.
func (n *Node) Text(name string) string {
	if p, ok := n.settings[name]; ok {
		return string(p.Data)
	}
	v, _ := n.standard(name).(string)
	return v
}

// Same tells whether settings of two nodes are the same.
func (n *Node) Same(m *Node, names ...string) bool {
	for _, name := range names {
		a, _ := n.settings[name]
		b, _ := m.settings[name]
		if a.Time != b.Time || a.DataType != b.DataType || string(a.Data) != string(b.Data) {
			return false
		}
	}
	return true
}

// Float returns a reading as a point.
func Float(node, typ, key string, at uint64, v float64) point.Point {
	return point.Point{Series: point.Series{Node: node, Type: typ, Key: key}, Time: at, DataType: point.Float, Data: point.FloatData(v)}
}
