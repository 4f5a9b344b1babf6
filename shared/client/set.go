package client

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Number reads text as a float64 if it is a decimal number in range, as people
// and programs write it; ok is false for a text. Leading zeros make a text:
// 0012 is the name of something.
func Number(text string) (v float64, ok bool) {
	whole := strings.TrimLeft(text, "+-") // more than one is refused below
	if len(whole) > 1 && whole[0] == '0' && isDigit(whole[1]) {
		return 0, false
	}
	for i := range len(text) {
		if c := text[i]; !isDigit(c) && c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-' {
			return 0, false // hex digits, _ and Inf as well
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Set writes one value and returns once it is durable. dataType is float,
// int, uint, string, json or bool; "" keeps the head's type if the text fits
// it, else a number is a float and anything else a string. expect, if not "",
// is the time that the head must have (api.Point.Time).
func (c *Client) Set(ctx context.Context, s point.Series, text, dataType, expect string) error {
	if err := point.CheckSeries(s); err != nil {
		return api.From(err)
	}
	if dataType == "" {
		head, err := c.headType(ctx, s)
		if err != nil {
			return err
		}
		dataType = chooseType(text, head, s.Type)
	}
	value, err := encodeValue(text, dataType)
	if err != nil {
		return err
	}
	body, err := json.Marshal(api.Write{DataType: dataType, Value: value})
	if err != nil {
		return api.Errorf(api.CodeInvalid, "send a value of the given type", "value is not valid: %s", err)
	}
	m := &nats.Msg{Subject: subject.WriteJSON + "." + s.String(), Data: body}
	if expect != "" {
		m.Header = nats.Header{api.HeaderExpect: {expect}}
	}
	return c.exchange(ctx, m, nil)
}

// headType returns the data type of what a node's series holds, "" if it
// holds nothing.
func (c *Client) headType(ctx context.Context, s point.Series) (string, error) {
	if s.IsEdge() {
		return "", nil // edges have no state that can be asked for
	}
	n, err := c.Get(ctx, s.Node)
	if err != nil {
		return "", err
	}
	for i := range n.Points {
		if p := &n.Points[i]; p.Type == s.Type && p.Key == s.Key {
			return p.DataType, nil
		}
	}
	return "", nil
}

// chooseType returns the data type for a text, given the head's.
func chooseType(text, head, pointType string) string {
	if dt, ok := point.ParseDataType(head); ok && dt != point.Unknown && dt != point.Protobuf {
		if _, err := point.ParseValue(text, dt, 0); err == nil {
			return head
		}
	}
	if _, ok := Number(text); ok && pointType != point.TypeDescription {
		return point.Float.String()
	}
	return point.String.String()
}

// encodeValue returns the JSON that stands for a text of a data type: quoted,
// so that no number passes through a reader that rounds it.
func encodeValue(text, dataType string) (json.RawMessage, error) {
	switch dt, ok := point.ParseDataType(dataType); {
	case !ok:
		return nil, api.Errorf(api.CodeInvalid, "use float, int, uint, string, json or bool", "data type %q is not known", dataType)
	case dt == point.JSON:
		if !json.Valid([]byte(text)) {
			return nil, api.Errorf(api.CodeInvalid, "quote it for your shell: '{\"a\": 1}'", "value is not valid JSON")
		}
		return json.RawMessage(text), nil
	case dataType == "bool" && text != "true" && text != "false" && text != "1" && text != "0":
		return nil, api.Errorf(api.CodeInvalid, "write true or false", "value %q is not a bool", text)
	}
	return json.Marshal(text)
}
