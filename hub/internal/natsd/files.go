package natsd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sapflow/sapflow/hub/internal/cred"
)

// RemoveStreams removes streams of the core account from the directory of a
// server that does not run: asking a server to delete them one by one takes
// it as long as loading them, minutes for some thousand. A crash on the way
// leaves streams whole, or damaged ones that the server reports and leaves
// aside or that have lost messages.
func RemoveStreams(dir string, keys *cred.Keys, match func(name string) bool) (removed int, err error) {
	path := filepath.Join(dir, "jetstream", keys.AccountID(cred.CORE), "streams")
	entries, err := os.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("remove streams: %w", err)
	}
	for _, e := range entries {
		if !match(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return removed, fmt.Errorf("remove streams: %w", err)
		}
		removed++
	}
	return removed, nil
}
