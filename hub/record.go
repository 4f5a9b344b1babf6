package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

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
	Operator    string         `json:"operator,omitempty"` // public key; all that is stored belongs to it
	// Settings are those of the last start, so that a change can be told.
	Settings map[string]string `json:"settings,omitempty"`
}

// errOperator is returned for keys of another hub: with them this one would
// find none of its streams.
var errOperator = errors.New("these are the keys of another hub: give those that the data directory was made with")

// owned notes whose the directory is and which settings hold from now on, and
// returns what has changed since the last start.
func (r *record) owned(dir *daemon.Dir, operator string, settings map[string]string) (changed []string, err error) {
	if r.Operator != "" && r.Operator != operator {
		return nil, errOperator
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if r.Settings != nil && r.Settings[name] != settings[name] {
			changed = append(changed, name, r.Settings[name]+" -> "+settings[name])
		}
	}
	if r.Operator == operator && maps.Equal(r.Settings, settings) {
		return nil, nil
	}
	r.Operator, r.Settings = operator, settings
	return changed, r.write(dir)
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
