package point

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what an instance accepts.
const (
	MaxTypeLen       = 48
	MaxKeyLen        = 64
	MaxAppliedKeyLen = MaxTypeLen + 1 + MaxKeyLen // "<type>/<key>"
	MaxIDLen         = 63
	MaxOriginLen     = 255
	// MaxGroupBytes bounds the payload of one point and of one group, so that
	// a group fits a frame whole.
	MaxGroupBytes = 64 << 10
)

// Error is a point that is refused: what is wrong with which token or value.
type Error struct {
	What   string // "node id", "type", "key", "value", "origin", "time"
	Token  string // the offending token, shortened
	Reason string
}

// Error returns the sentence for people.
func (e *Error) Error() string { return fmt.Sprintf("%s %q: %s", e.What, e.Token, e.Reason) }

func refuse(what, token, reason string) error {
	if len(token) > 80 {
		token = token[:80] + "..."
	}
	return &Error{What: what, Token: token, Reason: reason}
}

// CheckID tells whether id may name a node.
func CheckID(id string) error {
	if id == "" || len(id) > MaxIDLen {
		return refuse("node id", id, fmt.Sprintf("must have 1 to %d characters", MaxIDLen))
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '-') {
			return refuse("node id", id, "must match ^[a-z0-9][a-z0-9_-]{0,62}$")
		}
	}
	return nil
}

// checkToken applies the rules that types and keys share.
func checkToken(what, s string, maxLen int) error {
	if s == "" || len(s) > maxLen {
		return refuse(what, s, fmt.Sprintf("must have 1 to %d bytes", maxLen))
	}
	if !utf8.ValidString(s) {
		return refuse(what, s, "is not UTF-8")
	}
	for _, r := range s {
		switch {
		case r == '.' || r == '*' || r == '>':
			return refuse(what, s, "must not contain '.', '*' or '>'")
		case r == ' ' || !unicode.IsPrint(r):
			return refuse(what, s, "must not contain blanks or control characters")
		}
	}
	return nil
}

// CheckType tells whether a type may stand in a subject.
func CheckType(typ string) error {
	if err := checkToken("type", typ, MaxTypeLen); err != nil {
		return err
	}
	if strings.Contains(typ, "/") {
		return refuse("type", typ, "must not contain '/'")
	}
	return nil
}

// CheckKey tells whether a key may stand in a subject.
func CheckKey(key string) error { return checkToken("key", key, MaxKeyLen) }

// CheckSeries tells whether the names of a series may stand in a subject.
func CheckSeries(s Series) error {
	if err := CheckID(s.Node); err != nil {
		return err
	}
	if s.IsEdge() {
		if err := CheckID(s.Up); err != nil {
			return err
		}
	}
	if err := CheckType(s.Type); err != nil {
		return err
	}
	maxKey := MaxKeyLen
	if s.Type == TypeApplied {
		maxKey = MaxAppliedKeyLen
	}
	return checkToken("key", s.Key, maxKey)
}

// CheckValue tells whether the value of p fits its data type.
func CheckValue(p *Point) error {
	switch n := len(p.Data); p.DataType {
	case Float:
		if n != 4 && n != 8 {
			return refuse("value", "float", fmt.Sprintf("has %d bytes, a float has 4 or 8", n))
		}
	case Int, Uint:
		if n != 1 && n != 2 && n != 4 && n != 8 {
			return refuse("value", p.DataType.String(), fmt.Sprintf("has %d bytes, an integer has 1, 2, 4 or 8", n))
		}
	case String:
		if !utf8.Valid(p.Data) {
			return refuse("value", "string", "is not UTF-8")
		}
	case JSON:
		if !validJSON(p.Data) {
			return refuse("value", "json", "is not valid JSON")
		}
	case Unknown, Protobuf:
	default:
		return refuse("value", fmt.Sprint(uint8(p.DataType)), "data type is not known")
	}
	if len(p.Origin) > MaxOriginLen {
		return refuse("origin", p.Origin, fmt.Sprintf("is longer than %d bytes", MaxOriginLen))
	}
	if !utf8.ValidString(p.Origin) {
		return refuse("origin", p.Origin, "is not UTF-8")
	}
	if p.IsEdge() {
		return checkEdgeValue(p)
	}
	return nil
}

// validJSON asks for UTF-8 besides, which package json leaves to the reader.
func validJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

// checkEdgeValue holds the two points that every edge has to their types,
// because the tree is built from them.
func checkEdgeValue(p *Point) error {
	switch p.Type {
	case TypeNodeType:
		if p.DataType != String || len(p.Data) == 0 {
			return refuse("value", TypeNodeType, "must be a string that is not empty")
		}
	case TypeTombstone:
		if p.DataType != Uint {
			return refuse("value", TypeTombstone, "must be a uint")
		}
	}
	return nil
}

// Check tells whether p may be stored: its names and its value.
func Check(p *Point) error {
	if err := CheckSeries(p.Series); err != nil {
		return err
	}
	return CheckValue(p)
}
