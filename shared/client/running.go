package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/daemon"
)

// Files in a data directory that lead a program to the instance.
const (
	RunningFile = "run.json"    // Running; there while an instance runs
	CredsFile   = "local.creds" // credential of trusted local programs, if one is asked
)

const hintStart = "start the instance there, or name another with --data or --url"

// Running tells where the instance of a data directory can be reached.
type Running struct {
	ID     string `json:"id"`
	Listen string `json:"listen"`          // host:port where programs connect by NATS
	HTTP   string `json:"http,omitempty"`  // host:port of the HTTP API
	Leaf   string `json:"leaf,omitempty"`  // host:port where gateways connect
	Token  string `json:"token,omitempty"` // for Listen, where it asks for one
	PID    int    `json:"pid"`
}

// ReadRunning reads DIR/run.json.
func ReadRunning(dataDir string) (*Running, error) {
	data, err := os.ReadFile(filepath.Join(dataDir, RunningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeNotFound, hintStart, "no instance runs on %s", dataDir)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeUnauthorized, "run it as the user of the instance", "cannot read where the instance is: %s", err)
	}
	r := &Running{}
	if json.Unmarshal(data, r) != nil || r.Listen == "" {
		return nil, api.Errorf(api.CodeNotFound, hintStart, "%s in %s is damaged", RunningFile, dataDir)
	}
	return r, nil
}

// Write makes DIR/run.json, readable by its owner only, whole at every moment.
func (r Running) Write(dataDir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write %s: %w", RunningFile, err)
	}
	return daemon.WriteFile(filepath.Join(dataDir, RunningFile), append(data, '\n'))
}

// RemoveRunning takes DIR/run.json away when the instance stops.
func RemoveRunning(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, RunningFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", RunningFile, err)
	}
	return nil
}
