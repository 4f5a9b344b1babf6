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
	fleetAccept = "accept"
	fleetReject = "reject"

	fleetTokenAdd    = "tokenadd"
	fleetTokenList   = "tokenlist"
	fleetTokenRemove = "tokenremove"
	fleetAudit       = "audit"
	fleetRoll        = "roll"
)

// DeviceAdd adds a gateway and returns the token that it enrols with.
func (c *Client) DeviceAdd(ctx context.Context, req api.DeviceAdd) (*api.DeviceToken, error) {
	return fleet[api.DeviceToken](ctx, c, fleetAdd, req)
}

// DeviceToken makes a new token for a gateway, whose box was replaced.
func (c *Client) DeviceToken(ctx context.Context, id string) (*api.DeviceToken, error) {
	return c.DeviceTokenFor(ctx, api.DeviceRef{ID: id})
}

// DeviceTokenFor makes a new token for a gateway that ends when ref says.
func (c *Client) DeviceTokenFor(ctx context.Context, ref api.DeviceRef) (*api.DeviceToken, error) {
	return fleet[api.DeviceToken](ctx, c, fleetToken, ref)
}

// DeviceAccept lets a gateway in that waits.
func (c *Client) DeviceAccept(ctx context.Context, req api.DeviceAccept) (*api.Device, error) {
	return fleet[api.Device](ctx, c, fleetAccept, req)
}

// DeviceReject turns a gateway away that waits.
func (c *Client) DeviceReject(ctx context.Context, id string) (*api.Device, error) {
	return fleet[api.Device](ctx, c, fleetReject, api.DeviceRef{ID: id})
}

// TokenAdd makes a token for gateways that are not known yet.
func (c *Client) TokenAdd(ctx context.Context, req api.TokenAdd) (*api.DeviceToken, error) {
	return fleet[api.DeviceToken](ctx, c, fleetTokenAdd, req)
}

// Tokens returns the tokens of TokenAdd.
func (c *Client) Tokens(ctx context.Context) ([]api.Token, error) {
	list, err := fleet[[]api.Token](ctx, c, fleetTokenList, struct{}{})
	if err != nil {
		return nil, err
	}
	return *list, nil
}

// TokenRemove withdraws a token of TokenAdd.
func (c *Client) TokenRemove(ctx context.Context, id string) error {
	return c.ask(ctx, subject.Fleet(fleetTokenRemove), api.DeviceRef{ID: id}, nil)
}

// KeyRoll replaces a key that signs credentials of gateways.
func (c *Client) KeyRoll(ctx context.Context, req api.KeyRoll) (*api.KeyRolled, error) {
	return fleet[api.KeyRolled](ctx, c, fleetRoll, req)
}

// Audit returns entries of the record of what was done, in order.
func (c *Client) Audit(ctx context.Context, req api.AuditRequest) ([]api.AuditEntry, error) {
	list, err := fleet[[]api.AuditEntry](ctx, c, fleetAudit, req)
	if err != nil {
		return nil, err
	}
	return *list, nil
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
