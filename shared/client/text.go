package client

import (
	"encoding/json"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
)

// SampleText returns the value of a sample as text that parses back to the
// same bits.
func SampleText(s *api.Sample) string {
	switch {
	case s.Text != "":
		return s.Text
	case s.DataType == point.JSON.String():
		return string(s.Value)
	}
	return ValueText(s.Value)
}

// ValueText returns a JSON value as text: a string without its quotes,
// anything else as it is. null is "".
func ValueText(value json.RawMessage) string {
	var s string
	switch {
	case string(value) == "null":
		return ""
	case len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &s) == nil:
		return s
	}
	return string(value)
}
