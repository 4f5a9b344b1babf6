package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/agent/internal/config"
	"github.com/sapflow/sapflow/agent/internal/identity"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/daemon"
)

// firstFile is where an installer leaves what a gateway needs to enrol.
const firstFile = "sapflow.yaml"

// The waits between two tries of a first contact. A hub that cannot be reached
// is tried often at first: the modem of a gateway comes up after the agent.
const (
	firstTry, longestTry = 5 * time.Second, 5 * time.Minute
	refusedTry           = 15 * time.Minute
)

// first is an agent that is not enrolled yet.
type first struct {
	data  string
	log   zerolog.Logger
	said  string
	tries int
}

// contact makes the gateway known to a hub, however long that takes: with what
// firstFile says, or with its key, if it waits to be let in.
func (f *first) contact(ctx context.Context) (*identity.Identity, error) {
	defer f.forget()
	for {
		cfg, file, err := f.how()
		if err != nil {
			return nil, err
		}
		id, err := identity.Enroll(ctx, *cfg)
		if err == nil {
			if file != "" {
				f.used(file)
			}
			f.log.Info().Str("id", id.ID()).Msg("gateway is enrolled")
			return id, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		wait := f.after(err)
		f.tell(err)
		timer := time.NewTimer(wait + rand.N(wait/8+1)) // a fleet does not ask as one
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// how returns how to enrol, and the file that says so.
func (f *first) how() (*identity.EnrollConfig, string, error) {
	cfg, err := identity.Begun(f.data)
	if cfg != nil || err != nil {
		return cfg, f.file(), err
	}
	name := f.file()
	if name == "" {
		return nil, "", fmt.Errorf("%w; add it at the hub with `sapflow-hub device add NAME` and paste the enrol line here, or leave a %s in %s",
			identity.ErrNotEnrolled, firstFile, f.data)
	}
	c, err := config.ReadFirst(name)
	if err != nil {
		return nil, "", err
	}
	return &identity.EnrollConfig{HubURL: c.URL, Token: c.Token, Name: c.Name, Plan: c.Plan, Dir: f.data, CAFile: c.CA, Pin: c.Pin, Insecure: c.Insecure}, name, nil
}

func (f *first) file() string {
	name := filepath.Join(f.data, firstFile)
	if _, err := os.Stat(name); err != nil {
		return ""
	}
	return name
}

// after returns how long to wait after an error.
func (f *first) after(err error) time.Duration {
	var waiting *identity.Waiting
	var refusal *identity.Refusal
	switch {
	case errors.As(err, &waiting):
		f.tries = 0
		return waiting.Retry
	case errors.As(err, &refusal) && refusal.Code != string(api.CodeBusy):
		return refusedTry
	}
	f.tries++
	return min(firstTry<<min(f.tries-1, 10), longestTry)
}

// tell says once what is wrong, in the log and to `status`.
func (f *first) tell(err error) {
	text := err.Error()
	var waiting *identity.Waiting
	if errors.As(err, &waiting) {
		text = waiting.Error()
	}
	if text == f.said {
		return
	}
	f.said = text
	f.log.Warn().Str("error", text).Msg("not enrolled yet")
	if err := daemon.WriteFile(filepath.Join(f.data, stateFile), []byte(text)); err != nil {
		f.log.Warn().Err(err).Msg("status does not know why")
	}
}

// used removes a file whose token has done its work: others could still use it.
func (f *first) used(file string) {
	if err := errors.Join(os.Remove(file), daemon.SyncDir(filepath.Dir(file))); err != nil {
		f.log.Warn().Err(err).Msg("the file of the first contact holds a token and could not be removed")
	}
}

// clear removes what a loss of power behind the first contact has left.
func (f *first) clear() {
	f.forget()
	if name := f.file(); name != "" {
		f.used(name)
		f.log.Info().Str("file", name).Msg("this gateway is enrolled; the file of the first contact is removed, its token could still be used")
	}
}

func (f *first) forget() { _ = os.Remove(filepath.Join(f.data, stateFile)) }

// stateFile says why a gateway is not enrolled yet, for `status`.
const stateFile = "first.txt"

// statusCmd is the command `status`.
type statusCmd struct{ cli.Status }

// Run prints how the agent is, also of one that waits to be let in.
func (s statusCmd) Run(ctx context.Context, out *cli.Out) error {
	err := s.Status.Run(ctx, out)
	if api.CodeOf(err) != api.CodeNotFound || s.Dir() == "" {
		return err
	}
	text, read := os.ReadFile(filepath.Join(s.Dir(), stateFile))
	if errors.Is(read, fs.ErrNotExist) {
		return err
	}
	if read != nil {
		return read
	}
	return s.Print(out, &api.Status{Version: version, Link: "not enrolled: " + string(text)})
}
