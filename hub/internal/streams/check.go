package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Check compares the newest checkpoint in a data directory with the streams
// of a layout and with the ends of the two logs, and returns what does not
// fit. The next start makes such streams good, or anew.
func Check(ctx context.Context, js jetstream.JetStream, layout Layout, dir string, edge, hub uint64) (problems []string, err error) {
	b, err := os.ReadFile(filepath.Join(dir, CheckpointFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // never filled
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return []string{fmt.Sprintf("%s is damaged: %s; the next start makes all node streams anew", CheckpointFile, err)}, nil
	}
	if len(f.Checkpoints) == 0 {
		return nil, nil
	}
	c := f.Checkpoints[len(f.Checkpoints)-1]
	if c.Place.Edge > edge || c.Place.Hub > hub {
		problems = append(problems, fmt.Sprintf("node streams are filled up to EDGE %d and HUB %d, but the logs end at %d and %d; make them anew: sapflow-hub streams rebuild --layout %s --data %s",
			c.Place.Edge, c.Place.Hub, edge, hub, layout, dir))
	}
	last := map[string]uint64{}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		last[info.Config.Name] = info.State.LastSeq
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list node streams: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Seqs)) {
		if got, ok := last[name]; !ok {
			problems = append(problems, fmt.Sprintf("node stream %s is missing; the next start makes it anew", name))
		} else if seq := c.Seqs[name]; got < seq {
			problems = append(problems, fmt.Sprintf("node stream %s ends at %d, before its checkpoint at %d; the next start fills it from an older one, or makes it anew", name, got, seq))
		}
	}
	return problems, nil
}
