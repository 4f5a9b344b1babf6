package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/sapflow/sapflow/shared/frame"
)

// snapshotMagic begins a snapshot file: name and version.
const snapshotMagic = "SAPSTAT1"

// headsPerFrame bounds the heads frames of a snapshot.
const headsPerFrame = 4096

// maxFrameData bounds the values of one heads frame, less the last one, well
// below what a frame may unpack to.
const maxFrameData = frame.MaxBody / 4

// ErrSnapshot is returned for a snapshot that is damaged; an older one or
// the logs have what it had.
var ErrSnapshot = errors.New("snapshot is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot returns the bytes of a snapshot: all winners as heads frames, and
// meta, which tells how far the logs are covered:
//
//	"SAPSTAT1" | u32 metaLen | meta JSON | (u32 frameLen | heads frame)* | u32 crc32c
func (s *State) Snapshot(meta any) ([]byte, error) {
	m, err := json.Marshal(meta)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot meta: %w", err)
	}
	b := append([]byte(snapshotMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(snapshotMagic):], uint32(len(m)))
	b = append(b, m...)
	f := frame.Frame{Kind: frame.Heads}
	size := 0
	flush := func() {
		enc := f.Encode()
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(enc))), enc...)
		f.Entries, size = f.Entries[:0], 0
	}
	s.All(func(e *frame.Entry) {
		f.Entries = append(f.Entries, *e)
		if size += len(e.Data); len(f.Entries) == headsPerFrame || size >= maxFrameData {
			flush()
		}
	})
	if len(f.Entries) > 0 {
		flush()
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// Restore reads a snapshot into a new state and into meta.
func Restore(b []byte, meta any) (*State, error) {
	if len(b) < len(snapshotMagic)+8 || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: not a snapshot", ErrSnapshot)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrSnapshot)
	}
	rest := b[len(snapshotMagic):end]
	next := func() ([]byte, bool) {
		if len(rest) < 4 {
			return nil, false
		}
		n := binary.LittleEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			return nil, false
		}
		part := rest[4 : 4+n]
		rest = rest[4+n:]
		return part, true
	}
	m, ok := next()
	if !ok || json.Unmarshal(m, meta) != nil {
		return nil, fmt.Errorf("%w: meta", ErrSnapshot)
	}
	s := New()
	for len(rest) > 0 {
		part, ok := next()
		if !ok {
			return nil, fmt.Errorf("%w: frame length", ErrSnapshot)
		}
		f, err := frame.Decode(part, "")
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		for i := range f.Entries {
			s.Merge(&f.Entries[i])
		}
	}
	return s, nil
}
