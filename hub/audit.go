package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// auditCmd is the command `audit`.
type auditCmd struct {
	cli.Target
	About string `placeholder:"ID" help:"Only about this gateway, token or key."`
	After uint64 `placeholder:"SEQ" help:"Entries after this number, instead of the newest."`
	Limit int    `default:"100" help:"How many, 1000 at most."`
	JSON  bool   `name:"json" help:"Print a line of JSON for each entry."`
}

// Help shows an example.
func (auditCmd) Help() string {
	return "Who did what about gateways and keys, when and from where.\n\nExample:\n\n    sapflow-hub audit --about liiwc3zqbtn8bmi3"
}

// Run prints entries.
func (a auditCmd) Run(ctx context.Context, out *cli.Out) error {
	return a.Do(ctx, func(c *client.Client) error {
		list, err := c.Audit(ctx, api.AuditRequest{After: a.After, Limit: a.Limit, About: a.About})
		if err != nil {
			return err
		}
		rows := [][]string{{"TIME", "WHO", "FROM", "WHAT", "ON", "MORE"}}
		for i := range list {
			e := &list[i]
			if a.JSON {
				if err := out.JSON(e); err != nil {
					return err
				}
				continue
			}
			var more []string
			if e.Code != "" {
				more = append(more, string(e.Code))
			}
			for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
				more = append(more, k+"="+e.Detail[k])
			}
			rows = append(rows, []string{e.Time, e.Who, e.From, e.What, e.On, strings.Join(more, " ")})
		}
		if a.JSON {
			return nil
		}
		return out.Table(rows)
	})
}
