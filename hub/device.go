package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// deviceCmd are the commands below `device`.
type deviceCmd struct {
	Add    deviceAdd    `cmd:"" help:"Add a gateway and print the line that enrols it."`
	Token  deviceToken  `cmd:"" help:"Make a new token for a gateway whose box was replaced."`
	List   deviceList   `cmd:"" help:"List the gateways."`
	Show   deviceShow   `cmd:"" help:"Print how a gateway is."`
	Accept deviceAccept `cmd:"" help:"Let a gateway in that waits."`
	Reject deviceReject `cmd:"" help:"Turn a gateway away that waits."`
	Revoke deviceRevoke `cmd:"" help:"Make the key of a gateway void and cut it off."`
	Remove deviceRemove `cmd:"" help:"Revoke a gateway and forget it."`
}

type deviceAdd struct {
	cli.Target
	Name   string `arg:"" help:"Its description."`
	Parent string `placeholder:"NODE" help:"Node above it, the root by default."`
	Plan   string `enum:"wired,lte,catm" default:"wired" help:"What its link costs: wired, lte or catm."`
	Key    string `placeholder:"KEY" help:"Its public key (sapflow-agent key), instead of a token."`
	Expire string `name:"expires" placeholder:"168h" help:"Span until the token ends."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (deviceAdd) Help() string {
	return "The token is good once. Paste the line at the gateway.\n\nExample:\n\n    sapflow-hub device add pump-house --plan catm --parent Norway"
}

// Run adds a gateway.
func (d deviceAdd) Run(ctx context.Context, out *cli.Out) error {
	return d.Do(ctx, func(c *client.Client) error {
		parent, err := resolveOrRoot(ctx, c, d.Parent)
		if err != nil {
			return err
		}
		t, err := c.DeviceAdd(ctx, api.DeviceAdd{Name: d.Name, Parent: parent, Plan: d.Plan, Key: d.Key, Expires: d.Expire})
		if err != nil {
			return err
		}
		return printToken(out, t, d.JSON)
	})
}

func printToken(out *cli.Out, t *api.DeviceToken, asJSON bool) error {
	if asJSON {
		return out.JSON(t)
	}
	if t.Token == "" {
		return out.Println(fmt.Sprintf("id     %s\n\nRun this at the gateway:\n\n    %s\n", t.ID, t.Enroll))
	}
	return out.Println(fmt.Sprintf("id     %s\ntoken  %s\n\nRun this at the gateway:\n\n    %s\n", t.ID, t.Token, t.Enroll))
}

// deviceRef are the arguments of a command about one gateway.
type deviceRef struct {
	cli.Target
	Node string `arg:"" help:"Gateway: its id, the beginning of it, or its description."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// do connects and runs f with the gateway's id. A gateway whose node was
// removed is known by its id only.
func (d deviceRef) do(ctx context.Context, f func(c *client.Client, id string) error) error {
	return d.Do(ctx, func(c *client.Client) error {
		id, err := c.Resolve(ctx, d.Node)
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			id, err = d.Node, nil
		}
		if err != nil {
			return err
		}
		return f(c, id)
	})
}

type deviceToken struct {
	deviceRef
	Expire string `name:"expires" placeholder:"168h" help:"Span until the token ends."`
}

// Run makes a token.
func (d deviceToken) Run(ctx context.Context, out *cli.Out) error {
	return d.do(ctx, func(c *client.Client, id string) error {
		t, err := c.DeviceTokenFor(ctx, api.DeviceRef{ID: id, Expires: d.Expire})
		if err != nil {
			return err
		}
		return printToken(out, t, d.JSON)
	})
}

type deviceShow struct{ deviceRef }

// Run prints a gateway.
func (d deviceShow) Run(ctx context.Context, out *cli.Out) error {
	return d.do(ctx, func(c *client.Client, id string) error {
		device, err := c.Device(ctx, id)
		switch {
		case err != nil:
			return err
		case d.JSON:
			return out.JSON(device)
		}
		rows := [][]string{
			{"id", device.ID},
			{"name", device.Name},
			{"plan", device.Plan},
			{"state", device.State},
			{"online", onlineText(device)},
			{"key", device.Key},
			{"credential ends", device.Expires},
			{"link", device.Link},
			{"this month", cli.MonthText(device.Month, device.Forecast)},
			{"behind", fmt.Sprintf("%d points", device.LagPoints)},
		}
		if device.State == "pending" || device.State == "rejected" { // it has no node
			rows = append(rows[:4], []string{"asked", cli.Age(time.Now(), device.LastSeen) + " ago"}, []string{"from", device.From}, []string{"key", device.Key})
			if device.Node != "" {
				rows = append(rows, []string{"was", device.Node})
			}
			return out.Table(rows)
		}
		if device.Clones > 0 {
			rows = append(rows, []string{"clones", fmt.Sprintf("%d, the last: %s", device.Clones, device.Clone)})
		}
		if skew := time.Duration(device.ClockSkew * float64(time.Second)); skew != 0 {
			rows = append(rows, []string{"clock", fmt.Sprintf("wrong by %s, stamps are corrected", skew.Round(time.Second))})
		}
		for _, reason := range slices.Sorted(maps.Keys(device.Aside)) {
			rows = append(rows, []string{"set aside", fmt.Sprintf("%d points: %s", device.Aside[reason], reason)})
		}
		for _, what := range slices.Sorted(maps.Keys(device.Refused)) {
			rows = append(rows, []string{"refused", fmt.Sprintf("%d times: %s", device.Refused[what], what)})
		}
		return out.Table(rows)
	})
}

func onlineText(d *api.Device) string {
	switch {
	case d.Late:
		return "yes, but late: silent for " + cli.Age(time.Now(), d.LastSeen)
	case d.Online:
		return "yes"
	case d.LastSeen == "":
		return "never seen"
	}
	return "no, seen " + cli.Age(time.Now(), d.LastSeen) + " ago"
}

type deviceAccept struct {
	cli.Target
	Gateway string `arg:"" help:"The gateway that waits: the beginning of its key, or its name."`
	Parent  string `xor:"place" placeholder:"NODE" help:"Make a new gateway below this node; where its token said by default."`
	Node    string `xor:"place" placeholder:"NODE" help:"Let it take the place of this gateway, whose box was replaced."`
	Name    string `help:"Description of the new gateway; what it calls itself by default."`
	JSON    bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (deviceAccept) Help() string {
	return "Compare the key with what the gateway prints.\n\nExample:\n\n    sapflow-hub device accept ub3xkq7hmc2eu5pl --parent Norway"
}

// Run lets a gateway in.
func (d deviceAccept) Run(ctx context.Context, out *cli.Out) error {
	return d.Do(ctx, func(c *client.Client) error {
		req := api.DeviceAccept{ID: d.Gateway, Name: d.Name}
		var err error
		if d.Parent != "" {
			req.Parent, err = c.Resolve(ctx, d.Parent)
		}
		if d.Node != "" {
			req.Node, err = c.Resolve(ctx, d.Node)
		}
		if err != nil {
			return err
		}
		device, err := c.DeviceAccept(ctx, req)
		switch {
		case err != nil:
			return err
		case d.JSON:
			return out.JSON(device)
		}
		return out.Println("accepted as " + device.ID)
	})
}

type deviceReject struct {
	cli.Target
	Gateway string `arg:"" help:"The gateway that waits: the beginning of its key, or its name."`
	JSON    bool   `name:"json" help:"Print JSON."`
}

// Run turns a gateway away.
func (d deviceReject) Run(ctx context.Context, out *cli.Out) error {
	return d.Do(ctx, func(c *client.Client) error {
		device, err := c.DeviceReject(ctx, d.Gateway)
		if err != nil || !d.JSON {
			return err
		}
		return out.JSON(device)
	})
}

type deviceRevoke struct{ deviceRef }

// Run revokes a gateway.
func (d deviceRevoke) Run(ctx context.Context, out *cli.Out) error {
	return d.void(ctx, out, (*client.Client).DeviceRevoke)
}

type deviceRemove struct{ deviceRef }

// Run removes a gateway.
func (d deviceRemove) Run(ctx context.Context, out *cli.Out) error {
	return d.void(ctx, out, (*client.Client).DeviceRemove)
}

// void runs a command that has no result.
func (d deviceRef) void(ctx context.Context, out *cli.Out, f func(*client.Client, context.Context, string) error) error {
	return d.do(ctx, func(c *client.Client, id string) error {
		if err := f(c, ctx, id); err != nil || !d.JSON {
			return err
		}
		return out.JSON(nodeID{id})
	})
}

type deviceList struct {
	cli.Target
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists the gateways.
func (d deviceList) Run(ctx context.Context, out *cli.Out) error {
	return d.Do(ctx, func(c *client.Client) error {
		list, err := c.Devices(ctx)
		if err != nil {
			return err
		}
		if d.JSON {
			if list == nil {
				list = []api.Device{}
			}
			return out.JSON(list)
		}
		rows := [][]string{{"NAME", "ID", "PLAN", "STATE", "ONLINE", "BEHIND"}}
		for i := range list {
			g := &list[i]
			rows = append(rows, []string{g.Name, g.ID, g.Plan, g.State, onlineText(g), fmt.Sprint(g.LagPoints)})
		}
		return out.Table(rows)
	})
}
