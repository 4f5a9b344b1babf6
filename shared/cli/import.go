package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/trace"
)

// Import is the command `import`.
type Import struct {
	Target
	File   string `arg:"" type:"existingfile" help:"CSV with the columns time,node,type,key,value; it may be compressed by gzip. - for standard input."`
	Parent string `placeholder:"NODE" help:"Where nodes are looked for by their description, and made. By default the root."`
	DryRun bool   `help:"Read and check the file, and change nothing."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help shows examples.
func (Import) Help() string {
	return "Puts points of years before into history, in any order, at full speed and beside live ones. Only this instance has them: nothing goes to the other end. " +
		"A node is named by its id or its description, and made as a sensor if there is none. " +
		"Where the newest point is newer than the present value it is written as by `set`. To import a file again does no harm.\n\n" +
		"Examples:\n\n    import 2019.csv.gz --dry-run\n    import 2019.csv.gz --parent site1\n    import - < export.csv"
}

// imported is what `import --json` prints.
type imported struct {
	DryRun bool `json:"dryRun,omitempty"`
	trace.ImportResult
}

// Run imports a file.
func (i Import) Run(ctx context.Context, out *Out) error {
	f := os.Stdin
	if i.File != "-" {
		var err error
		if f, err = os.Open(i.File); err != nil {
			return err
		}
		defer f.Close()
	}
	show, end := out.Progress()
	cfg := trace.ImportConfig{File: f, DryRun: i.DryRun, Progress: func(c trace.ImportCounts) {
		show("%d points, %.0f points/s", c.Imported, c.PointsPerSecond)
	}}
	return i.Do(ctx, func(c *client.Client) (err error) {
		cfg.Client = c
		if i.Parent != "" {
			if cfg.Parent, err = c.Resolve(ctx, i.Parent); err != nil {
				return err
			}
		}
		r, err := trace.Import(ctx, cfg)
		end()
		if printErr := i.print(out, r); err == nil {
			err = printErr
		}
		if err == nil {
			return Refused(r.Refused, r.Refusals)
		}
		if r.Line > 0 && !i.DryRun {
			out.Notef("note: the file is in history up to line %d; import it again to go on, which does no harm", r.Line)
		}
		return err
	})
}

func (i Import) print(out *Out, r trace.ImportResult) error {
	if i.JSON {
		return out.JSON(imported{i.DryRun, r})
	}
	text := "read %d, imported %d, refused %d, new nodes %d, series %d, %.2f s, %.0f points/s"
	if i.DryRun {
		text = "dry run: read %d, to import %d, to refuse %d, nodes to make %d, series %d, %.2f s, %.0f points/s"
	}
	return out.Println(fmt.Sprintf(text, r.Read, r.Imported, r.Refused, r.Nodes, r.Series, r.Seconds, r.PointsPerSecond))
}

// Refused returns the error of a file of which lines were refused, nil for
// none. list has the first of them.
func Refused(count int, list []trace.Refusal) error {
	if count == 0 {
		return nil
	}
	var lines []string
	for _, r := range list {
		lines = append(lines, fmt.Sprintf("line %d: %s", r.Line, r.Reason))
	}
	if count > len(list) {
		lines = append(lines, "...")
	}
	return fmt.Errorf("%d lines were refused: %s", count, strings.Join(lines, " | "))
}
