// Command sapflow-hub is the hub: gateways connect to it, people and programs
// see and set what they measure. `serve` runs it, the other commands talk to
// the one that runs.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // an image may know no time zones

	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/shared/cli"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version = "dev"

const description = `The hub of Sapflow: gateways connect to it, people and programs see and set what they measure.

Examples:

    sapflow-hub serve --data ./hub
    sapflow-hub device add gw1 --data ./hub
    sapflow-hub tree --data ./hub
    sapflow-hub history gw1/office temperature --from -1h --data ./hub

Every command finds the running hub by --data DIR (or SAPFLOW_DATA), or by --url and --creds.`

// commands is the command line.
type commands struct {
	cli.Flags
	Serve   serveCmd    `cmd:"" help:"Run the hub."`
	Device  deviceCmd   `cmd:"" help:"Add, accept, list and revoke gateways."`
	Token   tokenCmd    `cmd:"" help:"Make tokens for gateways that are not known yet."`
	Keys    keysCmd     `cmd:"" help:"Show, check and roll the keys that sign credentials."`
	Audit   auditCmd    `cmd:"" help:"Print who did what about gateways and keys."`
	Node    nodeCmd     `cmd:"" help:"Change the tree."`
	Streams streamsCmd  `cmd:"" help:"Change how node streams are laid out."`
	Get     cli.Get     `cmd:"" help:"Print a node with its points."`
	Set     cli.Set     `cmd:"" help:"Write a value."`
	Tree    cli.Tree    `cmd:"" help:"Print a tree with its present values."`
	Watch   cli.Watch   `cmd:"" help:"Print values as they come."`
	History cli.History `cmd:"" help:"Print what a value was."`
	Import  cli.Import  `cmd:"" help:"Put points of years before into history."`
	Store   cli.Store   `cmd:"" help:"Check or count what a stopped instance has stored."`
	Status  cli.Status  `cmd:"" help:"Print how the hub is."`
}

func main() {
	app := cli.App{Name: "sapflow-hub", Description: description, Version: version, Commands: &commands{}, Store: openStore}
	os.Exit(app.Main())
}

// serveCmd is the command `serve`.
type serveCmd struct {
	Config string `env:"SAPFLOW_CONFIG" placeholder:"FILE" help:"Settings in YAML; flags and environment count before it."`
	config.Settings
}

// Help shows examples.
func (serveCmd) Help() string {
	return "Runs until SIGINT or SIGTERM.\n\nExamples:\n\n" +
		"    sapflow-hub serve --data ./hub\n" +
		"    sapflow-hub serve --config hub.yaml --leaf 0.0.0.0:7422 --tls-cert hub.pem --tls-key hub.key"
}

// Run runs the hub.
func (s serveCmd) Run(ctx context.Context, out *cli.Out) error {
	cfg, err := s.Load(s.Config)
	if err == nil {
		cfg.Log, err = cli.Logger(out.Err, cfg.LogLevel)
	}
	if err != nil {
		return cli.Usage(err)
	}
	cfg.Version, cfg.Reload = version, s.Reloader(s.Config)
	return Run(ctx, cfg)
}
