package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// Columns is a page of history for programs, or what is imported: encoded
// columns (frame/FORMAT.md), each of one series by one author.
type Columns struct {
	Series []SeriesName `json:"series"`
	Parts  []Part       `json:"parts"` // in the order of series and time
	Gaps   []Gap        `json:"gaps,omitempty"`
	Next   string       `json:"next,omitempty"`
}

// Part is one encoded column.
type Part struct {
	Series int    `json:"series"` // its place in Columns.Series
	Points int    `json:"points"`
	Bytes  int    `json:"bytes"`
	Data   []byte `json:"-"`
}

// MaxImport is how many points a message of import may have: they take 8 MB of
// memory.
const MaxImport = 1 << 19

// columnsVersion begins a message; a JSON error begins with '{'.
const columnsVersion = 1

// Encode returns the message: version (1 byte), length of the JSON head (u32,
// little endian), head, and the data of all parts.
func (c *Columns) Encode() ([]byte, error) {
	size := 0
	for i := range c.Parts {
		c.Parts[i].Bytes = len(c.Parts[i].Data)
		size += c.Parts[i].Bytes
	}
	head, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 5+len(head)+size)
	b = binary.LittleEndian.AppendUint32(append(b, columnsVersion), uint32(len(head)))
	b = append(b, head...)
	for i := range c.Parts {
		b = append(b, c.Parts[i].Data...)
	}
	return b, nil
}

// DecodeColumns reads a message. The parts share memory with b.
func DecodeColumns(b []byte) (*Columns, error) {
	if len(b) < 5 || b[0] != columnsVersion {
		return nil, fmt.Errorf("columns: version or length is wrong")
	}
	n := int64(binary.LittleEndian.Uint32(b[1:]))
	if b = b[5:]; n > int64(len(b)) {
		return nil, fmt.Errorf("columns: head is cut off")
	}
	c := &Columns{}
	if err := json.Unmarshal(b[:n], c); err != nil {
		return nil, fmt.Errorf("columns: %w", err)
	}
	b = b[n:]
	for i := range c.Parts {
		p := &c.Parts[i]
		if p.Bytes < 0 || p.Bytes > len(b) || p.Series < 0 || p.Series >= len(c.Series) {
			return nil, fmt.Errorf("columns: part %d is cut off, or of no series", i)
		}
		p.Data, b = b[:p.Bytes:p.Bytes], b[p.Bytes:]
	}
	return c, nil
}
