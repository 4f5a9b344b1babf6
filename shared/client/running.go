package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

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
	ID      string `json:"id"`
	Listen  string `json:"listen"`            // host:port where programs connect by NATS
	HTTP    string `json:"http,omitempty"`    // host:port of the HTTP API
	Leaf    string `json:"leaf,omitempty"`    // host:port where gateways connect
	Token   string `json:"token,omitempty"`   // for Listen, where it asks for one
	Metrics string `json:"metrics,omitempty"` // host:port of /metrics
	PID     int    `json:"pid"`
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

// runningBytes is the length that the file is filled up to, so that one takes
// the place of another on a disk without space.
const runningBytes = 512

// Write makes DIR/run.json, readable by its owner only, whole at every moment.
// On a full disk it writes over the one that an earlier run has left.
func (r Running) Write(dataDir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write %s: %w", RunningFile, err)
	}
	data = append(data, bytes.Repeat([]byte{' '}, max(0, runningBytes-len(data)-1))...)
	data = append(data, '\n')
	name := filepath.Join(dataDir, RunningFile)
	err = daemon.WriteFile(name, data)
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	f, openErr := os.OpenFile(name, os.O_WRONLY, 0)
	if openErr != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// RemoveRunning takes DIR/run.json away when the instance stops.
func RemoveRunning(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, RunningFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", RunningFile, err)
	}
	return nil
}
