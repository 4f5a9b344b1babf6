package identity

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/sapflow/sapflow/shared/daemon"
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
	return daemon.WriteFile(path, data)
}
