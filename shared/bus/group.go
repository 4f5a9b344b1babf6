package bus

import (
	"encoding/binary"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// EncodeGroup returns the body of a write to the bare subject p.
func EncodeGroup(points []point.Point) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(points)))
	for i := range points {
		p := &points[i]
		s := p.Series.String()
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
		b = binary.LittleEndian.AppendUint32(b, uint32(point.PayloadLen(p)))
		b = point.AppendPayload(b, p)
	}
	return b
}

// DecodeGroup reads the body of a write to the bare subject p:
// count u16 | (subjectLen u16 | subject without p. | payloadLen u32 | payload)*
func DecodeGroup(b []byte) ([]point.Point, error) {
	short := api.Errorf(api.CodeInvalid, "see API.md for the layout of a group", "group is truncated")
	if len(b) < 2 {
		return nil, short
	}
	n := int(binary.LittleEndian.Uint16(b))
	b = b[2:]
	if n > len(b)/6 {
		return nil, short
	}
	points := make([]point.Point, n)
	for i := range points {
		if len(b) < 2 {
			return nil, short
		}
		size := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; len(b) < size+4 {
			return nil, short
		}
		name := string(b[:size])
		payload := uint64(binary.LittleEndian.Uint32(b[size:]))
		if b = b[size+4:]; uint64(len(b)) < payload {
			return nil, short
		}
		s, ok := subject.ParseSeries(name)
		if !ok {
			return nil, api.Errorf(api.CodeInvalid, "name points as <node>.<type>.<key> or <up>.<down>.<type>.<key>", "%q has the wrong number of tokens", name)
		}
		points[i].Series = s
		if err := point.DecodePayload(b[:payload], &points[i]); err != nil {
			return nil, err
		}
		b = b[payload:]
	}
	if len(b) > 0 {
		return nil, api.Errorf(api.CodeInvalid, "see API.md for the layout of a group", "group has %d bytes too many", len(b))
	}
	return points, nil
}
