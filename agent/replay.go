package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/sapflow/sapflow/agent/internal/replay"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// replayCmd is the command `replay`.
type replayCmd struct {
	cli.Target
	File       string `arg:"" type:"existingfile" help:"Trace with the columns time,node,type,key,value; it may be compressed by gzip."`
	Speed      string `default:"max" placeholder:"max" help:"1x for the recorded speed, 10x for ten times that, or max."`
	ShiftToNow bool   `help:"Move all times so that the newest one is now."`
	JSON       bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (replayCmd) Help() string {
	return "A node is named by its description, and made below the gateway if there is none. Ends when every point would survive a power cut.\n\n" +
		"Example:\n\n    sapflow-agent replay trace.csv --speed 10x --shift-to-now --data ./gw1"
}

// Run replays a trace.
func (r replayCmd) Run(ctx context.Context, out *cli.Out) error {
	cfg := replay.Config{
		Open:       func() (io.ReadCloser, error) { return os.Open(r.File) },
		ShiftToNow: r.ShiftToNow,
	}
	var err error
	if cfg.Speed, err = parseSpeed(r.Speed); err != nil {
		return err
	}
	show, end := out.Progress()
	cfg.Progress = func(c replay.Counts) { show("%d read, %d sent, %.0f points/s", c.Read, c.Sent, c.PointsPerSecond) }
	return r.Do(ctx, func(c *client.Client) error {
		cfg.Client = c
		result, err := replay.Run(ctx, cfg)
		end()
		if printErr := r.print(out, result); err == nil {
			err = printErr
		}
		if err == nil {
			err = cli.Refused(result.Refused, result.Refusals)
		}
		return err
	})
}

// parseSpeed reads 1x, 2.5x or max, which is 0.
func parseSpeed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	speed, err := strconv.ParseFloat(strings.TrimSuffix(text, "x"), 64)
	if err != nil || !(speed > 0 && speed < 1e9) {
		return 0, cli.Usagef("--speed %q is neither a factor such as 1x nor max", text)
	}
	return speed, nil
}

func (r replayCmd) print(out *cli.Out, result replay.Result) error {
	if r.JSON {
		return out.JSON(result)
	}
	return out.Println(fmt.Sprintf("read %d, sent %d, refused %d, new nodes %d, %.2f s, %.0f points/s",
		result.Read, result.Sent, result.Refused, result.Nodes, result.Seconds, result.PointsPerSecond))
}
