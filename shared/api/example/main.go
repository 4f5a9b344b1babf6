// Command example reads the last day of a value where it was measured, and
// prints when it was above a limit:
//
//	go run ./shared/api/example ./gw1 pump temperature 80
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
)

func main() {
	if err := run(context.Background(), os.Stdout, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: example DIR NODE TYPE LIMIT")
	}
	limit, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, args[0]) // the instance that runs on a data directory
	if err != nil {
		return err
	}
	defer c.Close()
	node, err := c.Resolve(ctx, args[1])
	if err != nil {
		return err
	}
	day := api.HistoryRequest{Type: args[2], From: time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)}
	above := false
	return c.Columns(ctx, node, day, func(columns []client.Column, _ []api.Gap) error {
		for _, column := range columns {
			for i, at := range column.Times {
				v, ok := column.Number(i)
				if ok && (v > limit) != above {
					above = !above
					fmt.Fprintf(out, "%s %v above: %t\n", time.Unix(0, int64(at)).UTC().Format(time.RFC3339), v, above)
				}
			}
		}
		return nil
	})
}
