package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// tokenCmd are the commands below `token`.
type tokenCmd struct {
	Add    tokenAdd    `cmd:"" help:"Make a token for gateways that are not known yet."`
	List   tokenList   `cmd:"" help:"List such tokens."`
	Remove tokenRemove `cmd:"" help:"Withdraw one; who has used it stays."`
}

type tokenAdd struct {
	cli.Target
	Site   string `xor:"kind" placeholder:"NODE" help:"For one gateway, which is made below this node at once."`
	Count  int    `xor:"kind" placeholder:"N" help:"For so many gateways, which wait until they are accepted."`
	Auto   bool   `help:"With --count: let them in at once."`
	Parent string `placeholder:"NODE" help:"With --count: node above them, the root by default."`
	Plan   string `placeholder:"PLAN" help:"wired, lte or catm; what the gateway says by default."`
	Expire string `name:"expires" placeholder:"168h" help:"Span until the token ends."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help shows examples.
func (tokenAdd) Help() string {
	return "Examples:\n\n    sapflow-hub token add --site Norway --plan catm\n    sapflow-hub token add --count 50 --parent Norway --expires 48h"
}

// Run makes a token.
func (t tokenAdd) Run(ctx context.Context, out *cli.Out) error {
	if t.Site == "" && t.Count == 0 {
		return cli.Usagef("for whom? Give --site NODE, or --count N")
	}
	return t.Do(ctx, func(c *client.Client) error {
		req := api.TokenAdd{Plan: t.Plan, Count: t.Count, Auto: t.Auto, Expires: t.Expire}
		parent := t.Parent
		if t.Site != "" {
			parent, req.Count, req.Auto = t.Site, 1, true
		}
		var err error
		if req.Parent, err = resolveOrRoot(ctx, c, parent); err != nil {
			return err
		}
		token, err := c.TokenAdd(ctx, req)
		if err != nil {
			return err
		}
		return printToken(out, token, t.JSON)
	})
}

type tokenList struct {
	cli.Target
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists tokens.
func (t tokenList) Run(ctx context.Context, out *cli.Out) error {
	return t.Do(ctx, func(c *client.Client) error {
		list, err := c.Tokens(ctx)
		switch {
		case err != nil:
			return err
		case t.JSON:
			return out.JSON(list)
		}
		rows := [][]string{{"ID", "PARENT", "PLAN", "USED", "AUTO", "ENDS IN"}}
		for _, k := range list {
			ends, _ := time.Parse(time.RFC3339Nano, k.Expires)
			left := "over"
			if d := time.Until(ends); d > 0 {
				left = d.Round(time.Minute).String()
			}
			rows = append(rows, []string{k.ID, k.Parent, k.Plan, fmt.Sprintf("%d of %d", k.Used, k.Count), fmt.Sprint(k.Auto), left})
		}
		return out.Table(rows)
	})
}

type tokenRemove struct {
	cli.Target
	ID string `arg:"" name:"id" help:"Id of the token."`
}

// Run withdraws a token.
func (t tokenRemove) Run(ctx context.Context) error {
	return t.Do(ctx, func(c *client.Client) error { return c.TokenRemove(ctx, t.ID) })
}
