// Package client is the Go client of an instance, agent or hub, for programs
// that a person of that machine trusts: the command lines, the demo, tests.
//
// It speaks the public subjects of section 3 only (p, j, q, up and the hub's
// fleet) and keeps nothing between calls. Every request has a deadline; an
// error of the instance comes back as *api.Error.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// requestWait bounds one request: a question about history reads many
	// frames, a write waits for one sync of slow flash.
	requestWait = 30 * time.Second
	// connectWait bounds the way to a hub that may be far.
	connectWait   = 10 * time.Second
	reconnectWait = time.Second
	// watchBytes bounds the live points that wait for a slow reader.
	watchBytes = 64 << 20
)

// Config says where an instance is and as whom to connect.
type Config struct {
	URL     string        // nats://host:port, required
	Creds   string        // file with a JWT and a seed; default none
	Token   string        // token of a listener that asks for one; default none
	Name    string        // shown in the server's list of connections; default "sapflow"
	Options []nats.Option // more, applied last
}

// Client is a connection to one instance. It is safe for concurrent use and
// comes back on its own when the instance is restarted.
type Client struct {
	nc *nats.Conn
}

// Connect connects to the instance at cfg.URL.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	opts := []nats.Option{
		nats.Name("sapflow"), nats.Timeout(timeout(ctx)),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait), nats.PermissionErrOnSubscribe(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // the caller gets it where it asked
	}
	if cfg.Name != "" {
		opts = append(opts, nats.Name(cfg.Name))
	}
	if cfg.Creds != "" {
		if _, err := os.Stat(cfg.Creds); err != nil {
			return nil, api.Errorf(api.CodeUnauthorized, "check --creds", "the credentials cannot be read: %s", err)
		}
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.Token != "" {
		opts = append(opts, nats.Token(cfg.Token))
	}
	nc, err := nats.Connect(cfg.URL, append(opts, cfg.Options...)...)
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return nil, api.Errorf(api.CodeUnauthorized, "give a credential of this instance with --creds", "%s refused the credential", cfg.URL)
	case err != nil:
		return nil, api.Errorf(api.CodeNotFound, "is the instance running, and is the address right?", "cannot connect to %s: %s", cfg.URL, err)
	}
	return &Client{nc: nc}, nil
}

func timeout(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(connectWait, max(time.Millisecond, time.Until(deadline)))
	}
	return connectWait
}

// Dial connects to the instance that runs on a data directory.
func Dial(ctx context.Context, dataDir string, opts ...nats.Option) (*Client, error) {
	r, err := ReadRunning(dataDir)
	if err != nil {
		return nil, err
	}
	cfg := Config{URL: "nats://" + reachable(r.Listen), Token: r.Token, Options: opts}
	creds := filepath.Join(dataDir, CredsFile)
	if _, err := os.Stat(creds); err == nil {
		cfg.Creds = creds
	}
	c, err := Connect(ctx, cfg)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return nil, api.Errorf(api.CodeNotFound, hintStart, "nothing answers for %s: the process %d that ran there has gone", dataDir, r.PID)
	}
	return c, err
}

// reachable returns the address to dial for a listener on every interface.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// Close ends the connection.
func (c *Client) Close() { c.nc.Close() }

// Status tells about the running instance.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	s := &api.Status{}
	return s, c.request(ctx, subject.Instance("status"), nil, s)
}

// Root returns the id of the instance's root node.
func (c *Client) Root(ctx context.Context) (string, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	return s.ID, nil
}

// ask sends a request in JSON.
func (c *Client) ask(ctx context.Context, subj string, req, result any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.request(ctx, subj, body, result)
}

func (c *Client) request(ctx context.Context, subj string, body []byte, result any) error {
	return c.exchange(ctx, &nats.Msg{Subject: subj, Data: body}, result)
}

// exchange sends a request and reads its reply into result, which may be nil.
func (c *Client) exchange(ctx context.Context, m *nats.Msg, result any) error {
	reply, err := c.send(ctx, m)
	if err != nil {
		return err
	}
	return api.Decode(reply, result)
}

// send sends a request and returns its reply.
func (c *Client) send(ctx context.Context, m *nats.Msg) ([]byte, error) {
	if err := c.checkSize(m); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, c.failed(m.Subject, err)
	}
	return reply.Data, nil
}

// checkSize refuses what the server would cut the connection for.
func (c *Client) checkSize(m *nats.Msg) error {
	if size := int64(len(m.Data)); size > c.nc.MaxPayload() {
		return api.Errorf(api.CodeTooLarge, "split it, or store a reference", "message has %d bytes, a value or group at most %d", size, point.MaxGroupBytes)
	}
	return nil
}

// failed explains an error of the connection.
func (c *Client) failed(subj string, err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return api.Errorf(api.CodeBusy, "the instance may be starting, or is not one that can do this", "nobody answers %s at %s", subj, c.nc.ConnectedAddr())
	case errors.Is(c.nc.LastError(), nats.ErrPermissionViolation):
		return api.Errorf(api.CodeUnauthorized, "use a credential with more rights", "the credential does not allow %s", subj)
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeBusy, "try again; a write may have been done all the same", "no answer to %s in time", subj)
	}
	return fmt.Errorf("ask %s: %w", subj, err)
}

// Write writes points as one group and returns once it is durable. Points
// without a time get one.
func (c *Client) Write(ctx context.Context, points []point.Point) error {
	return c.request(ctx, subject.Write, bus.EncodeGroup(points), nil)
}

// Groups of many points end here, well below the 64 KB that an instance accepts.
const (
	GroupPoints = 500
	GroupBytes  = 48 << 10
)

// GroupLen returns how many bytes a point takes in a group.
func GroupLen(p *point.Point) int {
	const lengths = 6
	return lengths + len(p.Series.String()) + point.PayloadLen(p)
}

// GroupOf returns how many of the first points make a group: one at least.
func GroupOf(points []point.Point) int {
	bytes := 0
	for i := range points {
		if bytes += GroupLen(&points[i]); i == GroupPoints || bytes > GroupBytes {
			return max(1, i)
		}
	}
	return len(points)
}

// Begin sends points as one group without waiting: groups are applied in the
// order of the calls. wait returns once the group is durable or refused, and
// must be called once.
func (c *Client) Begin(points []point.Point) (wait func(context.Context) error, err error) {
	m := &nats.Msg{Subject: subject.Write, Reply: c.nc.NewRespInbox(), Data: bus.EncodeGroup(points)}
	if err := c.checkSize(m); err != nil {
		return nil, err
	}
	sub, err := c.nc.SubscribeSync(m.Reply)
	if err == nil {
		err = c.nc.PublishMsg(m)
	}
	if err != nil {
		return nil, c.failed(m.Subject, err)
	}
	return func(ctx context.Context) error {
		defer func() { _ = sub.Unsubscribe() }() // fails only when all is closed
		ctx, cancel := context.WithTimeout(ctx, requestWait)
		defer cancel()
		reply, err := sub.NextMsgWithContext(ctx)
		if err == nil && len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
			err = nats.ErrNoResponders
		}
		if err != nil {
			return c.failed(m.Subject, err)
		}
		return api.Decode(reply.Data, nil)
	}, nil
}

// SetGroup writes values as one group: all or none. See Set for how the type
// of a value is found.
func (c *Client) SetGroup(ctx context.Context, group []api.Write) error {
	return c.ask(ctx, subject.WriteJSON, group, nil)
}

// Nodes returns a node and, to req.Depth, those below it with their state:
// every page, so req.Cursor is not used.
func (c *Client) Nodes(ctx context.Context, node string, req api.NodesRequest) ([]api.Node, error) {
	return pages(func(cursor string) ([]api.Node, string, error) {
		var r api.NodesReply
		req.Cursor = cursor
		err := c.askNode(ctx, node, "nodes", req, &r)
		return r.Nodes, r.Next, err
	})
}

// Tree returns a node and all below it in breadth-first order.
func (c *Client) Tree(ctx context.Context, node string) ([]api.Branch, error) {
	return pages(func(cursor string) ([]api.Branch, string, error) {
		var r api.TreeReply
		err := c.askNode(ctx, node, "tree", api.TreeRequest{Cursor: cursor}, &r)
		return r.Nodes, r.Next, err
	})
}

// restarts bounds how often a list is read again because the tree changed
// between two pages.
const restarts = 20

// pages collects every page of a list, from the first one again when the tree
// has changed meanwhile.
func pages[T any](page func(cursor string) (items []T, next string, err error)) ([]T, error) {
	var list []T
	cursor := ""
	for again := 0; ; {
		items, next, err := page(cursor)
		switch {
		case api.CodeOf(err) == api.CodeConflict && cursor != "" && again < restarts:
			again++
			list, cursor = nil, ""
			continue
		case err != nil:
			return nil, err
		}
		list = append(list, items...)
		if cursor = next; cursor == "" {
			return list, nil
		}
	}
}

// Get returns a node with its state.
func (c *Client) Get(ctx context.Context, node string) (*api.Node, error) {
	nodes, err := c.Nodes(ctx, node, api.NodesRequest{})
	if err != nil {
		return nil, err
	}
	if len(nodes) != 1 {
		return nil, api.Errorf(api.CodeInternal, "see the log of the instance", "asked for one node, got %d", len(nodes))
	}
	return &nodes[0], nil
}

// askNode asks q.<node>.<verb>. An id is checked first: a wrong one could
// make another subject.
func (c *Client) askNode(ctx context.Context, node, verb string, req, result any) error {
	if err := point.CheckID(node); err != nil {
		return api.From(err)
	}
	return c.ask(ctx, subject.Ask(node, verb), req, result)
}

// Watch calls visit for each point that becomes state at a node or below it,
// until ctx ends, which is no error, or visit returns one. ready, if not nil,
// is called once nothing is missed any more. A visit that is too slow for what
// comes ends it with an error, so that points are never lost in silence.
func (c *Client) Watch(ctx context.Context, node string, ready func(), visit func(*point.Point) error) error {
	if err := point.CheckID(node); err != nil {
		return api.From(err)
	}
	subj := subject.UpAll(node)
	sub, err := c.nc.SubscribeSync(subj)
	if err != nil {
		return c.failed(subj, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when all is closed
	if err := sub.SetPendingLimits(-1, watchBytes); err != nil {
		return c.failed(subj, err)
	}
	if err := c.flush(ctx); err != nil {
		return c.failed(subj, err)
	}
	if ready != nil {
		ready()
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, nats.ErrSlowConsumer):
			lost, _ := sub.Dropped()
			return api.Errorf(api.CodeBusy, "read faster, or watch a smaller part of the tree", "%d live points were lost", lost)
		case err != nil:
			return c.failed(subj, err)
		}
		p := &point.Point{}
		_, series, ok := subject.ParseUp(m.Subject)
		if !ok || point.DecodePayload(m.Data, p) != nil {
			continue // not written by an instance
		}
		p.Series = series
		if err := visit(p); err != nil {
			return err
		}
	}
}

func (c *Client) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	return c.nc.FlushWithContext(ctx)
}
