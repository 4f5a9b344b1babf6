package identity

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// The files of DIR/identity.
const (
	identityFile = "identity.json" // record
	jwtFile      = "device.jwt"    // what the hub issued
	seedFile     = "user.seed"     // what never leaves
	pendingFile  = "pending.json"  // pending; there while an enrolment is unfinished
)

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		// Not shown: the text around a syntax error may be a seed.
		return errors.New(path + " is damaged")
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

// writeFile replaces a file so that after a power cut either the old or the
// new content is there, whole. Only its owner may read it.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
