package natslog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
)

const (
	// emptyIndex is more than the index of an empty stream takes.
	emptyIndex = 64
	// checksumSize is what the server compares, the end of the last message.
	checksumSize = 8
)

// Mend makes the files below the directory of a server that does not run safe
// to open. It removes the index of an empty stream where a block ends in
// zeros, as it may after a loss of power: the server (2.15.2) takes these for
// the checksum of no message, believes that nothing came after the index, and
// drops the block. Without an index it reads what the block holds.
func Mend(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a first start
	}
	if err != nil {
		return fmt.Errorf("look for streams: %w", err)
	}
	defer root.Close()
	files := root.FS()
	indexes, err := fs.Glob(files, "jetstream/*/streams/*/msgs/index.db")
	if err != nil {
		return fmt.Errorf("look for streams: %w", err)
	}
	for _, index := range indexes {
		if info, err := fs.Stat(files, index); err != nil || info.Size() > emptyIndex {
			continue
		}
		blocks, err := fs.Glob(files, path.Dir(index)+"/*.blk")
		if err != nil {
			return fmt.Errorf("look for blocks: %w", err)
		}
		for _, block := range blocks {
			zeros, err := endsInZeros(root, block)
			if err == nil && zeros {
				err = root.Remove(index)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("mend the index of a stream: %w", err)
			}
		}
	}
	return nil
}

func endsInZeros(root *os.Root, name string) (bool, error) {
	f, err := root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < checksumSize {
		return false, err
	}
	var end [checksumSize]byte
	_, err = f.ReadAt(end[:], info.Size()-checksumSize)
	return end == [checksumSize]byte{}, err
}
