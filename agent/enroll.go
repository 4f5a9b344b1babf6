package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sapflow/sapflow/agent/internal/identity"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/daemon"
)

// enrollCmd is the command `enroll`.
type enrollCmd struct {
	URL       string `arg:"" name:"url" help:"Address of the hub, http or https."`
	Key       bool   `xor:"token" help:"Enrol with the key alone, which the hub knows (see the command key)."`
	Token     string `env:"SAPFLOW_TOKEN" xor:"token" placeholder:"TOKEN" help:"Token from device add. Other users may see a flag, so the environment or --token-file is better."`
	TokenFile string `xor:"token" placeholder:"FILE" help:"File that holds the token."`
	Data      string `required:"" env:"SAPFLOW_DATA" placeholder:"DIR" help:"Data directory of the agent."`
	Insecure  bool   `help:"Allow plain http beyond this machine: others on the way see the token."`
	Pin       string `placeholder:"sha256:..." help:"Key of the hub's certificate, from the enrol line, instead of an authority."`
	CA        string `name:"ca" placeholder:"FILE" help:"Authorities to trust in PEM, instead of the system's."`
	Name      string `help:"What the gateway would like to be called, where the token does not say."`
	Plan      string `enum:"wired,lte,catm," default:"" help:"What its link costs, likewise: wired, lte or catm."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (enrollCmd) Help() string {
	return "Makes a key, of which the secret half never leaves this machine, and trades the token for a credential. After an error it may be run again with the same token.\n\n" +
		"Example:\n\n    sapflow-agent enroll https://hub.example.com --token-file token --data /var/lib/sapflow"
}

// enrolled is what `enroll --json` prints.
type enrolled struct {
	ID    string `json:"id"`
	Hub   string `json:"hub"`
	State string `json:"state,omitempty"` // pending: it waits to be let in
	Key   string `json:"key,omitempty"`
}

// Run enrols the gateway.
func (e enrollCmd) Run(ctx context.Context, out *cli.Out) error {
	token, err := e.token()
	if err != nil {
		return err
	}
	if err := daemon.BecomeOwner(e.Data); err != nil {
		return err
	}
	id, err := identity.Enroll(ctx, identity.EnrollConfig{
		HubURL: e.URL, Token: token, Name: e.Name, Plan: e.Plan, Dir: e.Data, CAFile: e.CA, Pin: e.Pin, Insecure: e.Insecure,
	})
	var waiting *identity.Waiting
	switch {
	case errors.As(err, &waiting) && e.JSON:
		return out.JSON(enrolled{Hub: e.URL, State: "pending", Key: waiting.Key})
	case errors.As(err, &waiting):
		return out.Println(waiting.Error() + "\nmeanwhile run: sapflow-agent run --data " + e.Data)
	case err != nil:
		return err
	case e.JSON:
		return out.JSON(enrolled{ID: id.ID(), Hub: id.HubURL()})
	}
	return out.Println(fmt.Sprintf("enrolled as %s; now run: sapflow-agent run --data %s", id.ID(), e.Data))
}

func (e enrollCmd) token() (string, error) {
	if e.TokenFile == "" {
		if e.Token == "" && !e.Key {
			return "", cli.Usagef("the token is missing: give --token, --token-file or SAPFLOW_TOKEN")
		}
		return e.Token, nil
	}
	b, err := os.ReadFile(e.TokenFile)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// keyCmd is the command `key`.
type keyCmd struct {
	Data string `required:"" env:"SAPFLOW_DATA" placeholder:"DIR" help:"Data directory of the agent."`
}

// Help shows an example.
func (keyCmd) Help() string {
	return "A hub that knows the key lets the gateway in without a token:\n\n    sapflow-hub device add NAME --key KEY"
}

// Run prints the public key.
func (k keyCmd) Run(out *cli.Out) error {
	key, err := identity.Key(k.Data)
	if err != nil {
		return err
	}
	return out.Println(key)
}
