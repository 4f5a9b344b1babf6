package bus

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
)

// longForm tells whether body is {value, dataType, time, ...} and not itself
// a value, and reads it.
func longForm(body []byte, w *api.Write) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return false
	}
	if fields["value"] == nil && fields["removed"] == nil {
		return false
	}
	for name := range fields {
		switch name {
		case "value", "dataType", "time", "origin", "removed":
		default:
			return false
		}
	}
	return json.Unmarshal(body, w) == nil
}

func (b *Instance) groupFromJSON(body []byte) ([]point.Point, error) {
	var writes []api.Write
	if err := json.Unmarshal(body, &writes); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "send a list of {node or up and down, type, key, value}", "group is not valid JSON: %s", err)
	}
	points := make([]point.Point, len(writes))
	for i := range writes {
		w := &writes[i]
		s := point.Series{Node: w.Node, Type: w.Type, Key: w.Key}
		if w.Up != "" || w.Down != "" {
			if w.Node != "" || w.Up == "" || w.Down == "" {
				return nil, api.Errorf(api.CodeInvalid, "give node, or up and down", "point %d of the group names no node or edge", i)
			}
			s.Up, s.Node = w.Up, w.Down
		}
		if s.Key == "" {
			s.Key = point.NoKey
		}
		p, err := b.fromJSON(s, w)
		if err != nil {
			return nil, err
		}
		points[i] = p
	}
	return points, nil
}

// fromJSON makes a point of a JSON value: of the type given, else the head's
// if the value fits, else what JSON suggests.
func (b *Instance) fromJSON(s point.Series, w *api.Write) (point.Point, error) {
	p := point.Point{Series: s, Origin: w.Origin}
	if w.Time != "" {
		t, err := time.Parse(time.RFC3339Nano, w.Time)
		if err != nil {
			return p, api.Errorf(api.CodeInvalid, "write times as 2006-01-02T15:04:05.999Z", "time %q of %s is not RFC 3339", w.Time, s)
		}
		p.Time = point.Nanos(t)
	}
	b.mu.RLock()
	var head *point.Point
	if h := b.state.Get(s); h != nil {
		p := h.Point // state changes its own in place
		head = &p
	}
	b.mu.RUnlock()
	if w.Removed {
		p.Tombstone = 1
		if head != nil {
			p.DataType, p.Data = head.DataType, head.Data
		}
		if w.Value == nil {
			return p, nil
		}
	}
	value := bytes.TrimSpace(w.Value)
	if w.DataType != "" {
		dt, ok := point.ParseDataType(w.DataType)
		if !ok {
			return p, api.Errorf(api.CodeInvalid, "use float, int, uint, string, json or bool", "data type %q is not known", w.DataType)
		}
		size := 0
		switch {
		case w.DataType == "bool":
			size = 1
		case head != nil && head.DataType == dt && dt <= point.Uint:
			size = len(head.Data)
		}
		text := scalarText(value)
		if dt == point.JSON {
			text = string(value)
		}
		data, err := point.ParseValue(text, dt, size)
		if err != nil && size != 0 && w.DataType != "bool" {
			data, err = point.ParseValue(text, dt, 0)
		}
		p.DataType, p.Data = dt, data
		return p, err
	}
	if head != nil && fits(value, head, &p) {
		return p, nil
	}
	err := guess(value, &p)
	return p, err
}

// scalarText returns what a JSON scalar means as text: a string without its
// quotes.
func scalarText(value []byte) string {
	var s string
	if json.Unmarshal(value, &s) == nil && len(value) > 0 && value[0] == '"' {
		return s
	}
	return string(value)
}

// fits sets p to value with the head's type and size if that loses nothing.
func fits(value []byte, head *point.Point, p *point.Point) bool {
	text := scalarText(value)
	quoted := len(value) > 0 && value[0] == '"'
	switch head.DataType {
	case point.Float:
		if quoted && text != "NaN" && text != "+Inf" && text != "-Inf" {
			return false
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return false
		}
		if len(head.Data) == 4 && !math.IsNaN(v) && float64(float32(v)) != v {
			return false
		}
	case point.Int, point.Uint:
		if _, err := strconv.ParseInt(text, 10, 64); err != nil && text != "true" && text != "false" {
			if _, err := strconv.ParseUint(text, 10, 64); err != nil {
				return false
			}
		}
	case point.String:
		if !quoted {
			return false
		}
	case point.JSON:
		if !json.Valid(value) {
			return false
		}
		text = string(value)
	default:
		return false
	}
	data, err := point.ParseValue(text, head.DataType, len(head.Data))
	if head.DataType >= point.String {
		data, err = point.ParseValue(text, head.DataType, 0)
	}
	if err != nil {
		return false
	}
	p.DataType, p.Data = head.DataType, data
	return true
}

// guess sets p to value with the type that JSON suggests.
func guess(value []byte, p *point.Point) error {
	bad := api.Errorf(api.CodeInvalid, "send a JSON value: 21.5, \"text\", true, {...}", "value of %s is not valid JSON", p.Series)
	if len(value) == 0 || !json.Valid(value) {
		return bad
	}
	switch value[0] {
	case '{', '[':
		p.DataType, p.Data = point.JSON, bytes.Clone(value)
	case '"':
		p.DataType, p.Data = point.String, []byte(scalarText(value))
	case 't':
		p.DataType, p.Data = point.Uint, []byte{1}
	case 'f':
		p.DataType, p.Data = point.Uint, []byte{0}
	case 'n':
		return bad
	default:
		v, err := strconv.ParseFloat(string(value), 64)
		if err != nil {
			return bad
		}
		p.DataType, p.Data = point.Float, point.FloatData(v)
	}
	return nil
}
