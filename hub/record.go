package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sapflow/sapflow/hub/internal/streams"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/point"
)

// recordFile is where a data directory keeps what makes it this hub's.
const recordFile = "hub.json"

// record is what a hub is from its creation on.
type record struct {
	Root        string         `json:"root"`
	NodeStreams streams.Layout `json:"nodeStreams"`
}

// openRecord reads the record of a hub, or makes that of a new one. layout is
// what was asked for, "" for what there is.
func openRecord(dir *daemon.Dir, layout string) (record, error) {
	rec, err := readRecord(dir.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rec.Root = client.NewID()
		if layout != "" {
			if rec.NodeStreams, err = streams.ParseLayout(layout); err != nil {
				return rec, err
			}
		}
		return rec, rec.write(dir)
	case err != nil:
		return rec, err
	case layout != "" && layout != rec.NodeStreams.String():
		return rec, fmt.Errorf("this hub keeps its node streams in layout %s, not %s; to change that, stop it and run: sapflow-hub streams rebuild --layout %s --data %s",
			rec.NodeStreams, layout, layout, dir.Path)
	}
	return rec, nil
}

func readRecord(dir string) (rec record, err error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("%s is damaged: %w", recordFile, err)
	}
	return rec, point.CheckID(rec.Root)
}

// write makes the record durable.
func (r record) write(dir *daemon.Dir) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return daemon.WriteFile(dir.Join(recordFile), b)
}
