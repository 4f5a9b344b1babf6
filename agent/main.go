// Command sapflow-agent is the agent of a gateway: it keeps what the gateway
// measures and carries it to the hub. `enroll` makes it known there, `run`
// runs it, the other commands talk to the one that runs.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // a gateway may know no time zones

	"github.com/sapflow/sapflow/agent/internal/config"
	"github.com/sapflow/sapflow/shared/cli"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version = "dev"

const description = `The agent of a Sapflow gateway: it keeps what the gateway measures and carries it to the hub.

Examples:

    sapflow-agent enroll https://hub.example.com --token TOKEN --data ./gw1
    sapflow-agent run --data ./gw1
    sapflow-agent tree --data ./gw1
    sapflow-agent replay trace.csv --shift-to-now --data ./gw1

Every command finds the running agent by --data DIR (or SAPFLOW_DATA), or by --url and --creds.`

// commands is the command line.
type commands struct {
	cli.Flags
	Enroll  enrollCmd   `cmd:"" help:"Make this gateway known to a hub."`
	Key     keyCmd      `cmd:"" help:"Print the public key of this gateway."`
	Run     runCmd      `cmd:"" help:"Run the agent."`
	Store   cli.Store   `cmd:"" help:"Check or count what a stopped instance has stored."`
	Status  statusCmd   `cmd:"" help:"Print how the agent and its link are."`
	Tree    cli.Tree    `cmd:"" help:"Print a tree with its present values."`
	Get     cli.Get     `cmd:"" help:"Print a node with its points."`
	Set     cli.Set     `cmd:"" help:"Write a value."`
	Watch   cli.Watch   `cmd:"" help:"Print values as they come."`
	History cli.History `cmd:"" help:"Print what a value was."`
	Import  cli.Import  `cmd:"" help:"Put points of years before into history."`
	Replay  replayCmd   `cmd:"" help:"Feed a recorded trace."`
	Dump    dumpCmd     `cmd:"" help:"Show what a frame holds."`
}

func main() {
	app := cli.App{Name: "sapflow-agent", Description: description, Version: version, Commands: &commands{}, Store: openStore}
	os.Exit(app.Main())
}

// runCmd is the command `run`.
type runCmd struct {
	Config string `env:"SAPFLOW_CONFIG" placeholder:"FILE" help:"Settings in YAML; flags and environment count before it."`
	config.Settings
}

// Help shows an example.
func (runCmd) Help() string {
	return "Runs until SIGINT or SIGTERM.\n\nExample:\n\n    sapflow-agent run --data /var/lib/sapflow"
}

// Run runs the agent.
func (r runCmd) Run(ctx context.Context, out *cli.Out) error {
	cfg, err := r.Load(r.Config)
	if err == nil {
		cfg.Log, err = cli.Logger(out.Err, cfg.LogLevel)
	}
	if err != nil {
		return cli.Usage(err)
	}
	cfg.Version, cfg.Reload = version, r.Reloader(r.Config)
	return Run(ctx, cfg)
}
