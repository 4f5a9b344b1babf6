// Command bench shows and measures Sapflow with the real binaries, which must
// have been built before (make build), and compares its codec. It needs Linux.
//
//	go -C shared/bench run . demo
//	go -C shared/bench run . figures [-quick] [-json]
//	go -C shared/bench run . codec [-quick] [-json]
//	go -C shared/bench run . log [-quick] [-json] [-only PART [-merge]]
//	go -C shared/bench run . fixture -days 90 -data DIR
//	go -C shared/bench run . history [-quick] [-json] [-only PART [-merge]] [-days N] [-data DIR]
//	go -C shared/bench run . link [-quick] [-json] [-only ROW] [-scale N]
//	go -C shared/bench run . gateways [-quick] [-json] [-only PART [-merge]]
//	go -C shared/bench run . powerloss [-images N] [-seed N] [-json]
//	go -C shared/bench run . wear [-for 10m] [-json]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/archive"
	"github.com/sapflow/sapflow/shared/bench/internal/codec"
	"github.com/sapflow/sapflow/shared/bench/internal/demo"
	"github.com/sapflow/sapflow/shared/bench/internal/figures"
	"github.com/sapflow/sapflow/shared/bench/internal/fixture"
	"github.com/sapflow/sapflow/shared/bench/internal/gateways"
	"github.com/sapflow/sapflow/shared/bench/internal/logs"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/bench/internal/powerloss"
	"github.com/sapflow/sapflow/shared/bench/internal/radio"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/cli"
)

const usage = `Usage: bench COMMAND [flags]

    demo      a hub and two gateways, shown and checked in a minute
    figures   measure; writes RESULTS.md and RESULTS.json
    codec     bytes and time a point beside other codecs; writes RESULTS.md and codec.json
    log       the logs at both ends beside plain JetStream and SQLite; writes RESULTS.md and log.json
    fixture   the data directory of a gateway that has been at work for months
    history   months of it beside plain JetStream, SQLite and Parquet; writes RESULTS.md and history.json
    link      cost and behaviour of a line beside NATS and MQTT; writes RESULTS.md and link.json
    gateways  enrolment, keys, revocation, live leafs, a storm of reconnects; writes RESULTS.md and gateways.json
    powerloss what is left when the power goes, beside JetStream and SQLite; writes RESULTS.md and powerloss.json
    wear      what reaches the flash, beside JetStream and SQLite; writes RESULTS.md and wear.json
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var run func(context.Context, []string) error
	switch os.Args[1] {
	case "demo":
		run = runDemo
	case "figures":
		run = runFigures
	case "codec":
		run = runCodec
	case "log":
		run = runLog
	case "fixture":
		run = runFixture
	case "history":
		run = runHistory
	case "link":
		run = runLink
	case "gateways":
		run = runGateways
	case "powerloss":
		run = runPowerLoss
	case "wear":
		run = runWear
	case powerloss.AlterCommand: // started by powerloss itself
		run = powerloss.Alter
	case powerloss.PeerCommand: // the same
		run = powerloss.RunPeer
	case peer.StockCommand: // started by figures and log themselves
		run = peer.RunStock
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := run(ctx, os.Args[2:]); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted")
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", os.Args[1], err)
		os.Exit(1)
	}
}

// trace is the recorded trace, relative to this module.
const trace = "testdata/occupancy.csv.gz"

// binaries adds the flag that says where the binaries are; go -C makes this
// module's directory the current one.
func binaries(f *flag.FlagSet) *string {
	return f.String("bin", "../../bin", "directory of sapflow-hub and sapflow-agent")
}

func runDemo(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("demo", flag.ExitOnError)
	bin := binaries(f)
	stay := f.String("stay", "auto", "stay up at the end until Ctrl-C: yes, no, or auto = on a terminal")
	keep := f.Bool("keep", false, "leave data and logs")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	if *stay != "auto" && *stay != "yes" && *stay != "no" {
		return fmt.Errorf("-stay is auto, yes or no")
	}
	err = demo.Run(ctx, demo.Config{
		Bin: dir, Trace: trace, Keep: *keep, Out: os.Stdout,
		Stay: *stay == "yes" || *stay == "auto" && cli.IsTerminal(os.Stdout),
	})
	return err
}

func checkBin(bin string) (string, error) {
	dir, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"sapflow-hub", "sapflow-agent"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s is missing in %s; run: make build", name, bin)
		}
	}
	return dir, nil
}

func runFigures(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("figures", flag.ExitOnError)
	bin := binaries(f)
	quick := f.Bool("quick", false, "one short run of everything, nothing is written unless -json")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and RESULTS.json")
	only := f.String("only", "", "measure one part: "+figures.PartNames())
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	return figures.Run(ctx, figures.Config{
		Bin: dir, Trace: trace, Quick: *quick, JSON: *asJSON, Only: *only, Out: os.Stdout, Progress: os.Stderr,
		Table: "RESULTS.md", Data: "RESULTS.json",
	})
}

func runCodec(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("codec", flag.ExitOnError)
	quick := f.Bool("quick", false, "3 frames of each, nothing is written")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and codec.json")
	_ = f.Parse(args) // exits
	return codec.Run(ctx, codec.Config{
		Trace: trace, Quick: *quick, JSON: *asJSON, Out: os.Stdout, Table: "RESULTS.md", Data: "codec.json",
	})
}

func runLog(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("log", flag.ExitOnError)
	bin := binaries(f)
	quick := f.Bool("quick", false, "one small run of everything, nothing is written unless -json")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and log.json")
	only := f.String("only", "", "measure one part: "+logs.PartNames())
	merge := f.Bool("merge", false, "with -only: write it into RESULTS.md and log.json, beside the other parts of earlier runs")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	return logs.Run(ctx, logs.Config{
		Bin: dir, Trace: trace, Plan: report.Plan{
			Quick: *quick, JSON: *asJSON, Only: *only, Merge: *merge, Out: os.Stdout, Progress: os.Stderr,
			Table: "RESULTS.md", Data: "log.json",
		},
	})
}

func runFixture(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("fixture", flag.ExitOnError)
	bin := binaries(f)
	days := f.Int("days", 90, "how far its history goes back")
	data := f.String("data", "", "the directory to make, required")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	if *days < 1 || *data == "" {
		return fmt.Errorf("give -data DIR, and -days of at least 1")
	}
	made, err := fixture.Write(ctx, fixture.Config{Bin: dir, Dir: *data, Days: *days, Progress: os.Stderr})
	if err == nil {
		fmt.Println(made)
	}
	return err
}

func runHistory(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("history", flag.ExitOnError)
	bin := binaries(f)
	quick := f.Bool("quick", false, "3 days and one run of everything, nothing is written unless -json")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and history.json")
	only := f.String("only", "", "measure one part: "+archive.PartNames())
	merge := f.Bool("merge", false, "with -only: write it into RESULTS.md and history.json, beside the other parts of earlier runs")
	days := f.Int("days", 0, "how far the history goes back (default 90, 3 with -quick)")
	data := f.String("data", "", "directory of a fixture that is taken, or made there and left; one is made and removed by default")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	if *days == 0 {
		if *days = 90; *quick {
			*days = 3
		}
	}
	if *days < 1 {
		return fmt.Errorf("-days is at least 1")
	}
	return archive.Run(ctx, archive.Config{
		Bin: dir, Trace: trace, Days: *days, Dir: *data, Plan: report.Plan{
			Quick: *quick, JSON: *asJSON, Only: *only, Merge: *merge, Out: os.Stdout, Progress: os.Stderr,
			Table: "RESULTS.md", Data: "history.json",
		},
	})
}

func runLink(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("link", flag.ExitOnError)
	bin := binaries(f)
	quick := f.Bool("quick", false, "short windows and a small backlog, nothing is written unless -json")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and link.json")
	only := f.String("only", "", "measure one row: "+radio.RowNames())
	scale := f.Int("scale", 1, "how much faster than real time a backlog drains; the clocks of the programs do not follow")
	backlog := f.Int("backlog", 0, "points that drain; 2500000 are nearly a day (default 20000)")
	idle := f.Duration("idle", 0, "how long to watch the idle line; from 10m on the hub restarts halfway (default 150s)")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	if *scale < 1 {
		return fmt.Errorf("-scale is at least 1")
	}
	return radio.Run(ctx, radio.Config{
		Idle: *idle, Backlog: *backlog,
		Bin: dir, Quick: *quick, JSON: *asJSON, Only: *only, Scale: *scale, Out: os.Stdout, Progress: os.Stderr,
		Table: "RESULTS.md", Data: "link.json",
	})
}

func runGateways(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("gateways", flag.ExitOnError)
	bin := binaries(f)
	quick := f.Bool("quick", false, "200 gateways and one run, nothing is written unless -json")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and gateways.json")
	only := f.String("only", "", "measure one part: "+gateways.PartNames())
	merge := f.Bool("merge", false, "with -only: write it into RESULTS.md and gateways.json, beside the other parts of earlier runs")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	return gateways.Run(ctx, gateways.Config{
		Bin: dir, Root: "../..", Plan: report.Plan{
			Quick: *quick, JSON: *asJSON, Only: *only, Merge: *merge, Out: os.Stdout, Progress: os.Stderr,
			Table: "RESULTS.md", Data: "gateways.json",
		},
	})
}

func runPowerLoss(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("powerloss", flag.ExitOnError)
	bin := binaries(f)
	images := f.Int("images", 500, "moments at which the power goes; with less than 500 nothing is written")
	turns := f.Int("turns", 10, "length of the recorded run, in writes between two events")
	seed := f.Uint64("seed", 20261124, "of the moments and of what the disks keep")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and powerloss.json")
	alone := f.Bool("alone", false, "without the peers; nothing is written")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	cfg := powerloss.Config{
		Bin: dir, Images: *images, Turns: *turns, Seed: *seed, Peers: !*alone, JSON: *asJSON, Out: os.Stdout, Progress: os.Stderr,
	}
	if *images >= 500 && !*alone {
		cfg.Table, cfg.Data = "RESULTS.md", "powerloss.json"
	}
	return powerloss.Run(ctx, cfg)
}

func runWear(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("wear", flag.ExitOnError)
	bin := binaries(f)
	span := f.Duration("for", 10*time.Minute, "how long to measure; with less than 3m nothing is written")
	asJSON := f.Bool("json", false, "print JSON instead of writing RESULTS.md and wear.json")
	_ = f.Parse(args) // exits
	dir, err := checkBin(*bin)
	if err != nil {
		return err
	}
	cfg := powerloss.WearConfig{Bin: dir, For: *span, JSON: *asJSON, Out: os.Stdout, Progress: os.Stderr}
	if *span >= 3*time.Minute {
		cfg.Table, cfg.Data = "RESULTS.md", "wear.json"
	}
	return powerloss.Wear(ctx, cfg)
}
