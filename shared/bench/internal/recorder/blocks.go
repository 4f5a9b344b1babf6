package recorder

import (
	"time"
)

// Blocks estimates what reaches the flash, in blocks of 4 KiB.
type Blocks struct {
	Pages   int // of contents, each as often as it goes to the disk
	Journal int // of the file system's journal
	Syncs   int // of files and directories
}

// Bytes returns the size of all blocks.
func (b Blocks) Bytes() int64 { return int64(b.Pages+b.Journal) * page }

const (
	// commitBlocks go to the journal with each commit: its descriptor, the
	// inode, and the record that ends it.
	commitBlocks = 3
	// allocateBlocks are besides where a file got new pages: the bitmap.
	allocateBlocks = 1
	// nameBlocks are besides for each change of a name: the directory, and the
	// inode that it names.
	nameBlocks = 2
	// writeBack is how long a page stays dirty that nobody syncs
	// (vm.dirty_expire_centisecs).
	writeBack = 30 * time.Second
)

// wear follows what is dirty.
type wear struct {
	Blocks
	dirty map[int]map[int64]time.Time // by file and page: since when
	pages map[int]int64               // by file: how many it has
	grown map[int]bool                // files that got pages since their last commit
	names int                         // changes that no commit has covered
}

// Wear estimates what the operations after a moment of the clock make a disk
// with ext4 write: a sync writes the pages that the file has dirty and commits
// the journal; pages that nobody syncs go after 30 s, with a commit for each
// file.
func (r Recording) Wear(after uint64) Blocks {
	w := &wear{dirty: map[int]map[int64]time.Time{}, pages: map[int]int64{}, grown: map[int]bool{}}
	counting := false
	for _, op := range r {
		if !counting && op.At > after {
			counting, w.Blocks = true, Blocks{}
		}
		w.expire(op.When)
		switch op.Kind {
		case Write:
			w.write(op)
		case Truncate:
			w.pages[op.File] = (op.Size + page - 1) / page
			w.grown[op.File] = true
			for p := range w.dirty[op.File] {
				if p >= w.pages[op.File] {
					delete(w.dirty[op.File], p)
				}
			}
		case Sync:
			w.Syncs++
			w.flush(op.File)
		case Settle:
		default:
			w.names++
		}
	}
	if !counting {
		return Blocks{}
	}
	for file := range w.dirty {
		w.flush(file)
	}
	return w.Blocks
}

func (w *wear) write(op Op) {
	d := w.dirty[op.File]
	if d == nil {
		d = map[int64]time.Time{}
		w.dirty[op.File] = d
	}
	for _, p := range touched([]Op{op}) {
		if _, known := d[p]; !known {
			d[p] = op.When
		}
		if p >= w.pages[op.File] {
			w.pages[op.File], w.grown[op.File] = p+1, true
		}
	}
}

// flush writes what a file has dirty and commits.
func (w *wear) flush(file int) {
	dirty := w.dirty[file]
	if len(dirty) == 0 && w.names == 0 && !w.grown[file] {
		return // there is nothing to commit
	}
	w.Pages += len(dirty)
	w.Journal += commitBlocks + nameBlocks*w.names
	if w.grown[file] {
		w.Journal += allocateBlocks
	}
	delete(w.dirty, file)
	delete(w.grown, file)
	w.names = 0
}

// expire writes the files that have been dirty for too long.
func (w *wear) expire(now time.Time) {
	for file, pages := range w.dirty {
		for _, since := range pages {
			if now.Sub(since) > writeBack {
				w.flush(file)
				break
			}
		}
	}
}
