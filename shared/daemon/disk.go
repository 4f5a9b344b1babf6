package daemon

import (
	"fmt"
	"syscall"
)

// How much of a disk stays free: a part of it within bounds. It holds what the
// server and snapshots write besides the logs.
const (
	reservePart = 50
	minReserve  = 2 << 20
	maxReserve  = 64 << 20
)

// Free returns how many bytes are left on the disk of the directory, and how
// many must be left. Of a disk that does not tell it expects the best.
func (d *Dir) Free() (free, reserve uint64) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.Path, &st); err != nil {
		return maxReserve, 0
	}
	size := uint64(st.Bsize)
	return st.Bavail * size, min(max(st.Blocks*size/reservePart, minReserve), maxReserve)
}

// Writable returns why nothing can be written to the directory: no rights, or
// a disk that the system has made read-only after errors.
func (d *Dir) Writable() error {
	const write = 2 // W_OK
	if err := syscall.Access(d.Path, write); err != nil {
		return fmt.Errorf("write to %s: %w", d.Path, err)
	}
	return nil
}
