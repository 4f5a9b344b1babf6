package client

import (
	"context"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/subject"
)

// Verbs of the hub's requests about gateways.
const (
	fleetAdd    = "add"
	fleetToken  = "token"
	fleetList   = "list"
	fleetShow   = "show"
	fleetRevoke = "revoke"
	fleetRemove = "remove"
)

// DeviceAdd adds a gateway and returns the token that it enrols with.
func (c *Client) DeviceAdd(ctx context.Context, req api.DeviceAdd) (*api.DeviceToken, error) {
	return fleet[api.DeviceToken](ctx, c, fleetAdd, req)
}

// DeviceToken makes a new token for a gateway, whose box was replaced.
func (c *Client) DeviceToken(ctx context.Context, id string) (*api.DeviceToken, error) {
	return fleet[api.DeviceToken](ctx, c, fleetToken, api.DeviceRef{ID: id})
}

// Devices returns all gateways.
func (c *Client) Devices(ctx context.Context) ([]api.Device, error) {
	list, err := fleet[[]api.Device](ctx, c, fleetList, struct{}{})
	if err != nil {
		return nil, err
	}
	return *list, nil
}

// Device returns a gateway.
func (c *Client) Device(ctx context.Context, id string) (*api.Device, error) {
	return fleet[api.Device](ctx, c, fleetShow, api.DeviceRef{ID: id})
}

// DeviceRevoke makes the key of a gateway void and closes its connection.
func (c *Client) DeviceRevoke(ctx context.Context, id string) error {
	return c.ask(ctx, subject.Fleet(fleetRevoke), api.DeviceRef{ID: id}, nil)
}

// DeviceRemove revokes a gateway and forgets it.
func (c *Client) DeviceRemove(ctx context.Context, id string) error {
	return c.ask(ctx, subject.Fleet(fleetRemove), api.DeviceRef{ID: id}, nil)
}

func fleet[T any](ctx context.Context, c *Client, verb string, req any) (*T, error) {
	result := new(T)
	if err := c.ask(ctx, subject.Fleet(verb), req, result); err != nil {
		return nil, err
	}
	return result, nil
}
