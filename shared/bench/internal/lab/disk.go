package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// DropCaches has the kernel forget what it keeps of disks in memory. It needs
// root.
func DropCaches() error {
	syscall.Sync() // only what is clean goes
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		return fmt.Errorf("drop the page cache: %w", err)
	}
	return nil
}

// ReadLimit is a control group whose processes read so many bytes a second of
// a disk at most.
type ReadLimit struct{ dir string }

// blockGroups is where control groups for disks are, in version 1.
const blockGroups = "/sys/fs/cgroup/blkio"

// NewReadLimit makes a group for the disk that a file is on. It needs root and
// control groups of version 1.
func NewReadLimit(path string, bytesPerSecond int) (*ReadLimit, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("limit reading: %w", err)
	}
	l := &ReadLimit{filepath.Join(blockGroups, "sapflow-bench-"+strconv.Itoa(os.Getpid()))}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, fmt.Errorf("limit reading: %w", err)
	}
	rule := fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), bytesPerSecond)
	if err := os.WriteFile(filepath.Join(l.dir, "blkio.throttle.read_bps_device"), []byte(rule), 0o644); err != nil {
		_ = os.Remove(l.dir)
		return nil, fmt.Errorf("limit reading of %s: %w", path, err)
	}
	return l, nil
}

// Add puts a process into the group.
func (l *ReadLimit) Add(pid int) error {
	return os.WriteFile(filepath.Join(l.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// Close lets go of the processes in the group and removes it.
func (l *ReadLimit) Close() error {
	list, err := os.ReadFile(filepath.Join(l.dir, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("end the limit of reading: %w", err)
	}
	for _, pid := range strings.Fields(string(list)) {
		if err := os.WriteFile(filepath.Join(blockGroups, "cgroup.procs"), []byte(pid), 0o644); err != nil {
			return fmt.Errorf("end the limit of reading: %w", err)
		}
	}
	return os.Remove(l.dir)
}
