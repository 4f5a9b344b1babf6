package point

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// payloadOverhead is the fixed part of a payload: time, tombstone, origin
// length and data type.
const payloadOverhead = 8 + 1 + 1 + 1

// ErrShort is returned for a payload that ends before its fixed part or its
// origin does.
var ErrShort = errors.New("payload is truncated")

// AppendPayload appends the payload of p (FORMAT.md) to b. The origin must
// not exceed 255 bytes; Check refuses longer ones.
func AppendPayload(b []byte, p *Point) []byte {
	b = binary.LittleEndian.AppendUint64(b, p.Time)
	b = append(b, p.Tombstone, uint8(len(p.Origin)))
	b = append(b, p.Origin...)
	b = append(b, uint8(p.DataType))
	return append(b, p.Data...)
}

// PayloadLen returns the number of bytes that AppendPayload adds.
func PayloadLen(p *Point) int { return payloadOverhead + len(p.Origin) + len(p.Data) }

// DecodePayload reads a payload into p and leaves its series alone. Data
// refers to b. It checks the structure only: Check judges the value.
func DecodePayload(b []byte, p *Point) error {
	if len(b) < payloadOverhead {
		return fmt.Errorf("%w: %d bytes, need at least %d", ErrShort, len(b), payloadOverhead)
	}
	originLen := int(b[9])
	if len(b) < payloadOverhead+originLen {
		return fmt.Errorf("%w: %d bytes, need at least %d", ErrShort, len(b), payloadOverhead+originLen)
	}
	p.Time = binary.LittleEndian.Uint64(b)
	p.Tombstone = b[8]
	p.Origin = string(b[10 : 10+originLen])
	p.DataType = DataType(b[10+originLen])
	p.Data = b[payloadOverhead+originLen:]
	return nil
}
