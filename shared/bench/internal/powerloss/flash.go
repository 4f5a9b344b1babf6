package powerloss

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// flash is a disk of its own: ext4 on a loop device, which counts what
// reaches it.
type flash struct {
	dir  string
	stat string // file of the kernel's counts
}

const (
	flashBytes  = 256 << 20
	sectorBytes = 512
	// sectorsWritten is the place of the sectors written in the counts of a
	// block device (Documentation/block/stat.rst).
	sectorsWritten = 6
)

// openFlash makes a disk in the file image and mounts it at dir, which it
// makes.
func openFlash(ctx context.Context, image, dir string) (*flash, error) {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Truncate(flashBytes)
		_ = f.Close() // nothing was written
	}
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", image}, // nothing is left for later
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a disk: %s: %w: %s; it needs root, loop devices and e2fsprogs", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	d := &flash{dir: dir}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return d, fmt.Errorf("find the disk of %s: %w", dir, err)
	}
	d.stat = fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev))
	return d, nil
}

// written returns the bytes that have reached the disk.
func (d *flash) written() (int64, error) {
	b, err := os.ReadFile(d.stat)
	if err != nil {
		return 0, fmt.Errorf("bytes written to %s: %w", d.dir, err)
	}
	fields := strings.Fields(string(b))
	if len(fields) <= sectorsWritten {
		return 0, fmt.Errorf("bytes written to %s: %s is not understood", d.dir, d.stat)
	}
	n, err := strconv.ParseInt(fields[sectorsWritten], 10, 64)
	return n * sectorBytes, err
}

// close unmounts the disk; its image stays.
func (d *flash) close() error {
	if err := syscall.Unmount(d.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", d.dir, err)
	}
	return nil
}
