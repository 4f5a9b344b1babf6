package cred

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sapflow/sapflow/shared/daemon"
)

// readJSON fills v from a file; a file that is not there leaves v as it is.
func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		// Not shown: the text around a syntax error may be a seed.
		return fmt.Errorf("%s is damaged: restore it from a backup", path)
	}
	return nil
}

// writeJSON replaces a file so that after a power cut either the old or the
// new content is there, whole.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return daemon.WriteFile(path, data)
}
