// Package point owns the point: one timestamped value of a node or an edge,
// the payload that carries it on the wire and on disk, and the checks that a
// point passes before an instance accepts it.
//
// It leaves subjects to package subject and who may write what to the tree
// and the door. It uses the standard library only. A payload that decodes
// encodes again to the same bytes.
package point

import (
	"math"
	"strings"
	"time"
)

// Series names what a point is a value of: a type and key of a node, or of
// the edge from Up to Node when Up is set.
type Series struct {
	Up   string // up node of an edge; empty for a node's own points
	Node string // the node, or the down node of an edge
	Type string
	Key  string // "0" when there is nothing to tell apart
}

// IsEdge tells whether the series belongs to an edge.
func (s Series) IsEdge() bool { return s.Up != "" }

// Holder returns the node whose subtree the series belongs to: the up node of
// an edge, else the node itself.
func (s Series) Holder() string {
	if s.IsEdge() {
		return s.Up
	}
	return s.Node
}

// String returns the series as it stands in a subject: node.type.key, or
// up.down.type.key.
func (s Series) String() string { return string(s.Append(nil)) }

// Append appends String to b.
func (s Series) Append(b []byte) []byte {
	if s.IsEdge() {
		b = append(append(b, s.Up...), '.')
	}
	b = append(append(b, s.Node...), '.')
	b = append(append(b, s.Type...), '.')
	return append(b, s.Key...)
}

// Compare orders series by node, up node, type and key.
func (s Series) Compare(t Series) int {
	if c := strings.Compare(s.Node, t.Node); c != 0 {
		return c
	}
	if c := strings.Compare(s.Up, t.Up); c != 0 {
		return c
	}
	if c := strings.Compare(s.Type, t.Type); c != 0 {
		return c
	}
	return strings.Compare(s.Key, t.Key)
}

// Types and keys that the model itself gives a meaning.
const (
	TypeNodeType    = "nodeType"    // edge: type of the down node, a string
	TypeTombstone   = "tombstone"   // edge: uint, odd means the edge is removed
	TypeDescription = "description" // node: its name
	TypeApplied     = "applied"     // node: a gateway's answer to a setting
	TypePlan        = "plan"        // gateway: wired, lte or catm

	TypeMonthBytes    = "monthBytes"    // gateway: bytes of its line this month, both ways
	TypeMonthForecast = "monthForecast" // gateway: of the whole month at that rate
	TypeClockSkew     = "clockSkew"     // gateway: seconds its clock is ahead of the hub's, 0 for less than 5 min
	NoKey             = "0"             // the key of a point that has none to tell apart
)

// Node types that the model itself gives a meaning.
const (
	NodeRoot    = "root"    // the hub's root
	NodeGateway = "gateway" // the boundary: all below it is replicated to that gateway
)

// DataType tells how the bytes of a value are read.
type DataType uint8

// The data types of a payload. Their numbers are stored and never change.
const (
	Unknown  DataType = 0 // custom bytes
	Float    DataType = 1 // IEEE 754, 4 or 8 bytes
	Int      DataType = 2 // two's complement, 1, 2, 4 or 8 bytes
	Uint     DataType = 3 // 1, 2, 4 or 8 bytes
	String   DataType = 4 // UTF-8
	JSON     DataType = 5
	Protobuf DataType = 6
)

var dataTypeNames = [...]string{"unknown", "float", "int", "uint", "string", "json", "protobuf"}

// String returns the name of the data type as the command line writes it.
func (d DataType) String() string {
	if int(d) < len(dataTypeNames) {
		return dataTypeNames[d]
	}
	return "invalid"
}

// ParseDataType returns the data type of a name; "bool" is a uint of one byte.
func ParseDataType(name string) (DataType, bool) {
	if name == "bool" {
		return Uint, true
	}
	for i, n := range dataTypeNames {
		if n == name {
			return DataType(i), true
		}
	}
	return 0, false
}

// Point is one value of a series at a time.
type Point struct {
	Series
	Time      uint64 // ns since 1970, UTC
	Tombstone uint8  // odd: the point is removed
	Origin    string // free text of the writer, at most 255 bytes, never compared
	DataType  DataType
	Data      []byte // little endian for numbers
}

// Removed tells whether the point marks its series as removed.
func (p *Point) Removed() bool { return p.Tombstone%2 == 1 }

// At returns the time of the point in UTC.
func (p *Point) At() time.Time { return TimeOf(p.Time) }

// TimeOf returns a point's time as a time.Time in UTC, exact over the whole
// range of uint64 (until the year 2554).
func TimeOf(ns uint64) time.Time {
	return time.Unix(int64(ns/1e9), int64(ns%1e9)).UTC()
}

// Nanos returns t in ns since 1970; times before 1970 are 0, times that a
// uint64 cannot hold (from 2554 on) its largest value.
func Nanos(t time.Time) uint64 {
	if t.Unix() < 0 {
		return 0
	}
	if t.After(TimeOf(math.MaxUint64)) {
		return math.MaxUint64
	}
	return uint64(t.Unix())*1e9 + uint64(t.Nanosecond())
}

// Edge returns the two points that make an edge from up to down.
func Edge(up, down, nodeType string) []Point {
	return []Point{
		{Series: Series{up, down, TypeNodeType, NoKey}, DataType: String, Data: []byte(nodeType)},
		{Series: Series{up, down, TypeTombstone, NoKey}, DataType: Uint, Data: []byte{0}},
	}
}
