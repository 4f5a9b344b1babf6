package bus

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/state"
)

// SnapshotFile is what a snapshot file of a stopped instance holds.
type SnapshotFile struct {
	Name   string
	Bytes  int64
	Time   time.Time // when it was written
	Points int       // winners in it
	Meta   Meta
	Err    error // why it cannot be used
}

// Snapshots reads the snapshot files in dir, the newest first.
func Snapshots(dir string) ([]SnapshotFile, error) {
	var list []SnapshotFile
	for _, name := range []string{snapshotFile, snapshotOld} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		f := SnapshotFile{Name: name, Bytes: info.Size(), Time: info.ModTime()}
		s, err := state.Restore(b, &f.Meta)
		if f.Err = err; err == nil {
			s.All(func(*frame.Entry) { f.Points++ })
		}
		list = append(list, f)
	}
	return list, nil
}

// SavedUpTo returns the least of what the two snapshots in dir say of each
// stream, nothing unless there are two that are whole.
func SavedUpTo(dir string, of func(*Meta) map[string]uint64) map[string]uint64 {
	list, err := Snapshots(dir)
	if err != nil || len(list) < 2 || list[0].Err != nil || list[1].Err != nil {
		return nil
	}
	least, other := of(&list[0].Meta), of(&list[1].Meta)
	for stream, seq := range least {
		least[stream] = min(seq, other[stream])
	}
	return least
}
