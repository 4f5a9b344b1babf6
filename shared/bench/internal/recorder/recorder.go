// Package recorder owns what a disk is told: a file system on FUSE that passes
// everything on to a directory and records, in order, each change and each
// sync, and images of what a disk could hold after losing power at any point
// of a recording. It needs Linux, /dev/fuse and root.
//
// Writes reach the recorder as the process makes them: the kernel's
// write-back cache is off, and each change is recorded under one lock with its
// effect. Memory-mapped writes would come when the kernel pleases; nothing
// that is recorded here makes any. A recording is kept in memory.
package recorder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Kind tells what an operation did.
type Kind uint8

// The kinds of operations.
const (
	Create   Kind = iota // File with Mode became Name in Dir
	Mkdir                // the same of a directory
	Link                 // File got one name more: Name in Dir
	Rename               // Name in Dir, which is File, became NewName in NewDir
	Unlink               // Name in Dir is gone
	Rmdir                // the same of a directory
	Write                // Data went to File at Off
	Truncate             // File has Size bytes
	Sync                 // what File has is on the disk: fsync, fdatasync; also of a directory
	Settle               // everything is on the disk
)

// Op is one operation. Files and directories are told by numbers that are
// never used again; the root is 0.
type Op struct {
	At      uint64 // of the clock; grows within a recording
	When    time.Time
	Kind    Kind
	File    int
	Dir     int
	Name    string
	NewDir  int
	NewName string
	Mode    os.FileMode
	Off     int64
	Size    int64
	Data    []byte
}

// Clock numbers operations. Recorders that share one have a common order: what
// caused an operation has a lower number, in whichever directory it was.
type Clock struct{ n atomic.Uint64 }

// Now returns the number of the newest operation.
func (c *Clock) Now() uint64 { return c.n.Load() }

// Recorder is a directory whose changes are recorded.
type Recorder struct {
	Mount string // where processes see the directory

	backing string
	clock   *Clock
	server  *fuse.Server

	mu  sync.Mutex
	ops []Op
	ids map[identity]int
}

// identity is that of a file as long as the file system stands: an inode
// number that is used again comes with another generation.
type identity struct{ ino, gen uint64 }

// ErrNoFUSE is returned where the kernel offers no FUSE.
var ErrNoFUSE = errors.New("/dev/fuse is missing or closed to this user: recording what a disk is told needs FUSE, as root, with the module fuse loaded (modprobe fuse)")

// maxWrite is how much of one write the kernel passes on in one piece.
const maxWrite = 1 << 20

// Open mounts a recorder of the empty directory backing at the empty
// directory mount. This process must not use files below mount itself: it
// would wait for its own answers. It uses backing.
func Open(backing, mount string, clock *Clock) (*Recorder, error) {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	_ = f.Close()
	root, err := fs.NewLoopbackRoot(backing)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", backing, err)
	}
	r := &Recorder{Mount: mount, backing: backing, clock: clock, ids: map[identity]int{}}
	r.server, err = fs.Mount(mount, &node{LoopbackNode: root.(*fs.LoopbackNode), r: r}, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, MaxWrite: maxWrite, DisableXAttrs: true, FsName: "recorder", Name: "recorder",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount a recorder at %s: %w", mount, err)
	}
	return r, nil
}

// Mount makes the directory name in dir and a recorder of it beside.
func Mount(dir, name string, clock *Clock) (*Recorder, error) {
	backing, at := filepath.Join(dir, name), filepath.Join(dir, name+".seen")
	for _, d := range []string{backing, at} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make a recorder: %w", err)
		}
	}
	return Open(backing, at, clock)
}

// Close unmounts. Whoever still has files open there gets errors.
func (r *Recorder) Close() error {
	if err := r.server.Unmount(); err != nil {
		if syscall.Unmount(r.Mount, syscall.MNT_DETACH) != nil {
			return fmt.Errorf("unmount %s: %w", r.Mount, err)
		}
	}
	return nil
}

// Ops returns what was recorded so far. The operations must not be changed.
func (r *Recorder) Ops() Recording {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.ops)
}

// Settle records that all is on the disk by now, as it is some time after
// whatever set the directory up.
func (r *Recorder) Settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(Op{Kind: Settle})
}

// add records an operation; mu is held since before its effect.
func (r *Recorder) add(op Op) {
	op.At, op.When = r.clock.n.Add(1), time.Now()
	r.ops = append(r.ops, op)
}

// id returns the number of an inode; known is false for one that was never
// seen. mu is held.
func (r *Recorder) id(n *fs.Inode) (id int, known bool) {
	if n.IsRoot() {
		return 0, true
	}
	a := n.StableAttr()
	key := identity{a.Ino, a.Gen}
	if id, known = r.ids[key]; !known {
		id = len(r.ids) + 1
		r.ids[key] = id
	}
	return id, known
}

// node is a file or directory.
type node struct {
	*fs.LoopbackNode
	r *Recorder
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
	_ fs.NodeFsyncer     = (*node)(nil)
)

// WrapChild implements fs.NodeWrapChilder.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: ops.(*fs.LoopbackNode), r: n.r}
}

// record does something and records it if it worked; tell is given the node's
// own number.
func (n *node) record(do func() syscall.Errno, tell func(self int) Op) syscall.Errno {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	errno := do()
	if errno == fs.OK {
		self, _ := n.r.id(n.EmbeddedInode())
		n.r.add(tell(self))
	}
	return errno
}

// Create implements fs.NodeCreater; it is also called for a file that another
// has just created.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	child, f, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != fs.OK {
		return nil, nil, 0, errno
	}
	dir, _ := n.r.id(n.EmbeddedInode())
	file, known := n.r.id(child)
	switch {
	case !known:
		n.r.add(Op{Kind: Create, File: file, Dir: dir, Name: name, Mode: os.FileMode(mode).Perm()})
	case flags&syscall.O_TRUNC != 0:
		n.r.add(Op{Kind: Truncate, File: file})
	}
	return child, &handle{f.(*fs.LoopbackFile), n.r, file}, 0, fs.OK
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	errno = n.record(func() syscall.Errno {
		child, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return errno
	}, func(self int) Op {
		id, _ := n.r.id(child)
		return Op{Kind: Mkdir, File: id, Dir: self, Name: name, Mode: os.FileMode(mode).Perm()}
	})
	return child, errno
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	t, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	errno = n.record(func() syscall.Errno {
		child, errno = n.LoopbackNode.Link(ctx, t.LoopbackNode, name, out)
		return errno
	}, func(self int) Op {
		id, _ := n.r.id(child)
		return Op{Kind: Link, File: id, Dir: self, Name: name}
	})
	return child, errno
}

// Rename implements fs.NodeRenamer.
func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	t, ok := to.(*node)
	if !ok || flags != 0 { // an exchange of two names is not recorded
		return syscall.EINVAL
	}
	return n.record(func() syscall.Errno {
		return n.LoopbackNode.Rename(ctx, name, t.LoopbackNode, newName, 0)
	}, func(self int) Op {
		id, _ := n.r.id(n.GetChild(name)) // the kernel looked it up before
		dir, _ := n.r.id(t.EmbeddedInode())
		return Op{Kind: Rename, File: id, Dir: self, Name: name, NewDir: dir, NewName: newName}
	})
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.record(func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) },
		func(self int) Op { return Op{Kind: Unlink, Dir: self, Name: name} })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.record(func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) },
		func(self int) Op { return Op{Kind: Rmdir, Dir: self, Name: name} })
}

// Mknod implements fs.NodeMknoder: nobody here needs it.
func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink implements fs.NodeSymlinker: nobody here needs it.
func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// CopyFileRange implements fs.NodeCopyFileRanger: the kernel reads and writes
// instead.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// Open implements fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	f, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != fs.OK {
		return nil, 0, errno
	}
	file, _ := n.r.id(n.EmbeddedInode())
	if flags&syscall.O_TRUNC != 0 {
		n.r.add(Op{Kind: Truncate, File: file})
	}
	return &handle{f.(*fs.LoopbackFile), n.r, file}, 0, fs.OK
}

// OpendirHandle implements fs.NodeOpendirHandler; what it returns does not
// sync, so that Fsync is asked.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, more, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != fs.OK {
		return nil, 0, errno
	}
	return dirHandle{f.(dirStream)}, more, fs.OK
}

// dirStream is how a directory is read.
type dirStream interface {
	fs.FileReaddirenter
	fs.FileReleasedirer
	fs.FileSeekdirer
}

type dirHandle struct{ dirStream }

// Setattr implements fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	set := func() syscall.Errno { return n.LoopbackNode.Setattr(ctx, f, in, out) }
	size, ok := in.GetSize()
	if !ok {
		return set()
	}
	return n.record(set, func(self int) Op { return Op{Kind: Truncate, File: self, Size: int64(size)} })
}

// Fsync implements fs.NodeFsyncer, for files and directories.
func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	return n.record(func() syscall.Errno {
		if h, ok := f.(*handle); ok {
			return h.LoopbackFile.Fsync(ctx, flags)
		}
		return fs.OK // the directory below is nobody's last copy
	}, func(self int) Op { return Op{Kind: Sync, File: self} })
}

// handle is an open file.
type handle struct {
	*fs.LoopbackFile
	r    *Recorder
	file int
}

// PassthroughFd implements fs.FilePassthroughFder: the kernel must not write
// past the recorder.
func (h *handle) PassthroughFd() (int, bool) { return 0, false }

// Write implements fs.FileWriter.
func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	n, errno := h.LoopbackFile.Write(ctx, data, off)
	if errno == fs.OK {
		h.r.add(Op{Kind: Write, File: h.file, Off: off, Data: slices.Clone(data[:n])})
	}
	return n, errno
}

// Allocate implements fs.FileAllocater. Only what makes a file longer is a
// change that a reader sees; holes are not punched.
func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if mode != 0 {
		return syscall.EOPNOTSUPP
	}
	h.r.mu.Lock()
	defer h.r.mu.Unlock()
	var before, after fuse.AttrOut
	errno := h.Getattr(ctx, &before)
	if errno == fs.OK {
		errno = h.LoopbackFile.Allocate(ctx, off, size, mode)
	}
	if errno == fs.OK {
		errno = h.Getattr(ctx, &after)
	}
	if errno == fs.OK && after.Size != before.Size {
		h.r.add(Op{Kind: Truncate, File: h.file, Size: int64(after.Size)})
	}
	return errno
}
