package recorder

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Recording is a list of operations in their order.
type Recording []Op

// Below returns the operations on directories of a name and what is below
// them.
func (r Recording) Below(name string) Recording {
	below := map[int]bool{} // files and directories
	var list Recording
	for _, op := range r {
		here := below[op.File] || below[op.Dir] || below[op.NewDir]
		switch op.Kind {
		case Mkdir, Create, Link, Rename:
			if here = below[op.Dir] || below[op.NewDir] || op.Name == name; here {
				below[op.File] = true
			}
		case Unlink, Rmdir:
			here = below[op.Dir]
		}
		if here || op.Kind == Settle {
			list = append(list, op)
		}
	}
	return list
}

// Written returns how many bytes the operations after a moment of the clock
// write.
func (r Recording) Written(after uint64) (bytes int64) {
	for i := range r {
		if r[i].At > after {
			bytes += int64(len(r[i].Data))
		}
	}
	return bytes
}

// Model says what a disk still has of what it was told when the power goes.
//
// Names (create, link, rename, unlink and directories) are one ordered
// journal, as on ext4: the disk has a prefix of it, of random length, at least
// up to what was synced. A sync of a directory covers all names so far; a sync
// of a file covers those up to the last that names the file. That is less than
// ext4 keeps, which commits the whole journal with most syncs.
//
// Contents are each file's own: a sync covers what the file has by then. Of
// what was written or truncated since, the models keep:
//
//   - Dropped: nothing; of one file in four everything, as if the kernel had
//     just written that one back.
//   - Torn: a random prefix, and of the write behind it a random number of
//     bytes.
//   - Zeroed: a random prefix has given the file its length, but of the 4 KiB
//     pages that it touched each is there or not by coin; one that is not has
//     what was there at the last sync, zeros beyond that.
//
// Kept is no loss at all: the process was killed, the machine goes on.
type Model int

// The models.
const (
	Kept Model = iota
	Dropped
	Torn
	Zeroed
)

// Models are those of a power loss.
var Models = [...]Model{Dropped, Torn, Zeroed}

// String returns the name of the model.
func (m Model) String() string {
	return [...]string{"killed", "dropped", "torn", "zeroed"}[m]
}

const (
	page     = 4096
	wholeOne = 4 // Dropped keeps the unsynced part of one file in so many
)

// UpTo returns the operations up to a moment of the clock.
func (r Recording) UpTo(at uint64) Recording {
	n, _ := slices.BinarySearchFunc(r, at+1, func(op Op, at uint64) int {
		if op.At < at {
			return -1
		}
		return 1
	})
	return r[:n]
}

// Build writes what the disk holds after all operations of the recording into
// the directory dir, which it makes.
func (r Recording) Build(dir string, m Model, rng *rand.Rand) error {
	d := r.read()
	keep := len(d.names)
	if m != Kept {
		keep = d.covered + rng.IntN(keep-d.covered+1)
	}
	return d.write(dir, 0, tree(d.names[:keep]), func(file int) []byte {
		return d.contents[file].after(m, rng)
	})
}

// disk is what a recording told it.
type disk struct {
	names    []Op // changes of names, in order
	covered  int  // how many of them a sync has covered
	contents map[int]*content
	modes    map[int]os.FileMode
}

// content is what happened to the content of one file.
type content struct {
	ops    []Op // Write and Truncate
	synced int  // how many of them a sync has covered
}

func (r Recording) read() *disk {
	d := &disk{contents: map[int]*content{}, modes: map[int]os.FileMode{}}
	named := map[int]int{} // by file: how many names a sync of it covers
	for _, op := range r {
		switch op.Kind {
		case Write, Truncate:
			c := d.content(op.File)
			c.ops = append(c.ops, op)
		case Sync:
			if c, isFile := d.contents[op.File]; isFile {
				c.synced = len(c.ops)
				d.covered = max(d.covered, named[op.File])
			} else {
				d.covered = len(d.names)
			}
		case Settle:
			d.covered = len(d.names)
			for _, c := range d.contents {
				c.synced = len(c.ops)
			}
		default:
			d.names = append(d.names, op)
			named[op.File] = len(d.names)
			if op.Kind == Create {
				d.content(op.File)
			}
			if op.Kind == Create || op.Kind == Mkdir {
				d.modes[op.File] = op.Mode
			}
		}
	}
	return d
}

func (d *disk) content(file int) *content {
	c := d.contents[file]
	if c == nil {
		c = &content{}
		d.contents[file] = c
	}
	return c
}

// tree returns the names of each directory.
func tree(names []Op) map[int]map[string]int {
	dirs := map[int]map[string]int{0: {}}
	for _, op := range names {
		switch op.Kind {
		case Create, Link:
			dirs[op.Dir][op.Name] = op.File
		case Mkdir:
			dirs[op.Dir][op.Name] = op.File
			dirs[op.File] = map[string]int{}
		case Rename:
			delete(dirs[op.Dir], op.Name)
			dirs[op.NewDir][op.NewName] = op.File
		case Unlink, Rmdir:
			delete(dirs[op.Dir], op.Name)
		}
	}
	return dirs
}

// write writes a directory and all below it. Names come in their order, so
// that the same seed makes the same image.
func (d *disk) write(path string, id int, dirs map[int]map[string]int, data func(file int) []byte) error {
	mode := os.FileMode(0o700)
	if id != 0 {
		mode = d.modes[id]
	}
	if err := os.Mkdir(path, mode); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(dirs[id])) {
		child, at := dirs[id][name], filepath.Join(path, name)
		var err error
		if _, isDir := dirs[child]; isDir {
			err = d.write(at, child, dirs, data)
		} else {
			err = os.WriteFile(at, data(child), d.modes[child])
		}
		if err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	return nil
}

// after returns what the file holds when the power has gone.
func (c *content) after(m Model, rng *rand.Rand) []byte {
	n, all := c.synced, len(c.ops)
	switch {
	case m == Kept || n == all:
		return play(nil, c.ops)
	case m == Dropped:
		if rng.IntN(wholeOne) == 0 {
			n = all
		}
		return play(nil, c.ops[:n])
	}
	upTo := n + rng.IntN(all-n+1)
	whole := play(nil, c.ops[:upTo])
	if m == Torn {
		if upTo < all && c.ops[upTo].Kind == Write {
			part := c.ops[upTo] // a copy
			part.Data = part.Data[:rng.IntN(len(part.Data)+1)]
			whole = play(whole, []Op{part})
		}
		return whole
	}
	old := play(nil, c.ops[:n])
	for _, p := range touched(c.ops[n:upTo]) {
		if rng.IntN(2) == 0 {
			forget(whole, old, p*page)
		}
	}
	return whole
}

// touched returns the pages that operations wrote to, in order.
func touched(ops []Op) []int64 {
	pages := map[int64]bool{}
	for _, op := range ops {
		for p := op.Off / page; op.Kind == Write && p*page < op.Off+int64(len(op.Data)); p++ {
			pages[p] = true
		}
	}
	return slices.Sorted(maps.Keys(pages))
}

// forget gives a page of data at off what it had in old, zeros beyond.
func forget(data, old []byte, off int64) {
	if off >= int64(len(data)) {
		return // truncated since
	}
	p := data[off:min(int64(len(data)), off+page)]
	clear(p)
	if off < int64(len(old)) {
		copy(p, old[off:])
	}
}

// play applies operations to data and returns the result.
func play(data []byte, ops []Op) []byte {
	for _, op := range ops {
		end := op.Size
		if op.Kind == Write {
			end = max(int64(len(data)), op.Off+int64(len(op.Data)))
		}
		if n := int64(len(data)); end > n {
			data = slices.Grow(data, int(end-n))[:end]
			clear(data[n:])
		} else {
			data = data[:end]
		}
		if op.Kind == Write {
			copy(data[op.Off:], op.Data)
		}
	}
	return data
}
