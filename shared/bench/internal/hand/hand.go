// Package hand is a gateway that speaks the link by hand, over a leaf without a
// server: a frame and its ack can be timed, and thousands fit into one process.
package hand

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// Gateway is a gateway with a credential. Its methods are for one goroutine.
type Gateway struct {
	ID string

	key    nkeys.KeyPair
	jwt    string
	addr   string // host:port for gateways
	leaf   *natstest.Leaf
	hellos chan link.Hello // closed never; what is too much is dropped
	acks   chan link.Ack   // likewise

	number uint32
	tail   frame.Position // end of its log at the hub

	mu      sync.Mutex
	out     *natstest.Leaf // for acks of what the hub sends
	conn    uint32
	session frame.Session // of what the hub sends
	in      frame.Position
}

// Enrolled is what the hub answers to a token.
type Enrolled struct {
	ID      string `json:"id"`
	JWT     string `json:"jwt"`
	LeafURL string `json:"leafUrl"`
}

// ErrBusy tells that the hub takes no more enrolments now.
var ErrBusy = errors.New("too many enrolments at once")

// Enrol has a key take a gateway with its token.
func Enrol(ctx context.Context, hub *client.Running, token string, key nkeys.KeyPair) (reply Enrolled, err error) {
	public, err := key.PublicKey()
	if err != nil {
		return reply, err
	}
	signature, err := key.Sign([]byte("sapflow-enroll\n" + token + "\n" + public))
	if err != nil {
		return reply, err
	}
	body, err := json.Marshal(map[string]string{
		"token": token, "publicKey": public, "signature": base64.RawURLEncoding.EncodeToString(signature),
	})
	if err != nil {
		return reply, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+hub.HTTP+"/api/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return reply, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusTooManyRequests {
		return reply, ErrBusy
	}
	if body, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(body, &reply)
}

// New adds a gateway at the hub behind c and enrols it; it is not connected.
func New(ctx context.Context, c *client.Client, hub *client.Running, name string) (*Gateway, error) {
	device, err := c.DeviceAdd(ctx, api.DeviceAdd{Name: name})
	if err != nil {
		return nil, err
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	reply, err := Enrol(ctx, hub, device.Token, key)
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", name, err)
	}
	return With(reply, key)
}

// With returns a gateway that was enrolled with a key.
func With(reply Enrolled, key nkeys.KeyPair) (*Gateway, error) {
	u, err := url.Parse(reply.LeafURL)
	if err != nil {
		return nil, err
	}
	return &Gateway{
		ID: reply.ID, key: key, jwt: reply.JWT, addr: u.Host, hellos: make(chan link.Hello, 16), acks: make(chan link.Ack, 16),
		tail: frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(0).Next(rand.Uint64())}},
	}, nil
}

// Dial connects, in place of a connection that there was.
func (g *Gateway) Dial(ctx context.Context) error {
	g.Hang()
	leaf, err := natstest.DialLeaf(ctx, natstest.LeafConfig{
		Addr: g.addr, JWT: g.jwt, Sign: g.key.Sign, Message: g.receive, Connect: map[string]any{"name": g.ID + "-hand"},
	})
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.leaf, g.out = leaf, leaf
	g.mu.Unlock()
	return leaf.Subscribe(subject.ToGateway(g.ID, "*"))
}

// Hang ends the connection, if there is one.
func (g *Gateway) Hang() {
	if g.leaf != nil {
		g.leaf.Close()
		g.leaf = nil
	}
}

// Done is closed when the hub has ended the connection.
func (g *Gateway) Done() <-chan struct{} { return g.leaf.Done() }

// Fleet adds, enrols and connects gateways. hang ends them, also after an
// error.
func Fleet(ctx context.Context, hub *lab.Instance, n int) (list []*Gateway, hang func(), err error) {
	hang = func() {
		for _, g := range list {
			g.Hang()
		}
	}
	c, err := hub.Dial(ctx)
	if err != nil {
		return nil, hang, err
	}
	defer c.Close()
	running, err := client.ReadRunning(hub.Dir)
	if err != nil {
		return nil, hang, err
	}
	for i := range n {
		g, err := New(ctx, c, running, fmt.Sprintf("gateway-%d", i+1))
		if err == nil {
			err = g.Dial(ctx)
		}
		if err != nil {
			return list, hang, err
		}
		list = append(list, g)
		if err := g.Greet(ctx); err != nil {
			return list, hang, err
		}
	}
	return list, hang, nil
}

// receive takes what the hub sends, and acks its frames.
func (g *Gateway) receive(subj, _ string, data []byte) {
	switch subj {
	case subject.ToGateway(g.ID, subject.Hello):
		if h, err := link.DecodeHello(data); err == nil {
			select {
			case g.hellos <- h:
			default:
			}
		}
	case subject.ToGateway(g.ID, subject.Ack):
		if a, err := link.DecodeAck(data); err == nil {
			select {
			case g.acks <- a:
			default:
			}
		}
	case subject.ToGateway(g.ID, subject.Frame):
		g.mu.Lock()
		defer g.mu.Unlock()
		q, err := link.DecodeParcel(data, &g.session, g.conn, state.Hub)
		if err != nil || q.Frame == nil || g.out == nil {
			return
		}
		if q.Frame.Kind != frame.Heads {
			g.in = q.Frame.End()
		}
		ack := link.Ack{Conn: q.Conn, Number: q.Number, Cursor: g.in, Time: now()}
		_ = g.out.Publish(subject.FromGateway(g.ID, subject.Ack), ack.Encode()) // without it the hub says hello
	}
}

const (
	greetEvery = 2 * time.Second // the hub takes one hello a second
	// greetWait bounds the wait for a greeting.
	greetWait = 30 * time.Second
	// answerWait is how long a gateway waits for an ack before it greets again.
	answerWait = 15 * time.Second
)

// Greet opens a session.
func (g *Gateway) Greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, greetWait)
	defer cancel()
	g.mu.Lock()
	g.conn, g.number, g.session = rand.Uint32()|1, 0, frame.Session{}
	h := link.Hello{Conn: g.conn, Version: frame.Version, Idle: 5 * time.Minute, Time: now(), Out: g.tail, OutFirst: 1, In: g.in}
	g.mu.Unlock()
	again := time.NewTicker(greetEvery)
	defer again.Stop()
	for {
		if err := g.say(subject.Hello, h.Encode()); err != nil {
			return err
		}
		for asked := true; asked; {
			select {
			case answer := <-g.hellos:
				if answer.Conn == g.conn {
					return nil
				}
			case <-again.C:
				asked = false
			case <-ctx.Done():
				return fmt.Errorf("the hub does not answer a greeting: %w", ctx.Err())
			}
		}
	}
}

func now() uint64 { return point.Nanos(time.Now()) }

// Tail returns the end of its log at the hub.
func (g *Gateway) Tail() frame.Position { return g.tail }

// Took tells that the hub holds its log up to a place.
func (g *Gateway) Took(tail frame.Position) { g.tail = tail }

// Frame returns a frame of n points behind tail.
func (g *Gateway) Frame(tail frame.Position, n int) *frame.Frame {
	f := &frame.Frame{Kind: frame.Log, Now: now(), Epoch: tail.Epoch, Prev: tail.Seq, First: tail.Seq + 1, Base: tail.Sum}
	for i := range n {
		f.Entries = append(f.Entries, frame.Entry{
			Point: point.Point{
				Series: point.Series{Node: g.ID, Type: "value", Key: fmt.Sprint(i % 30)},
				Time:   f.Now - uint64(n-i), DataType: point.Float, Data: point.FloatData(float64(i % 100)),
			},
			Author: g.ID, At: frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)},
		})
	}
	f.Seal()
	return f
}

// Parcel returns a frame as it goes over the link, with the next number.
func (g *Gateway) Parcel(f *frame.Frame) []byte {
	g.number++
	q := link.Parcel{Conn: g.conn, Number: g.number, Frame: f}
	return q.Encode(&frame.Session{}, frame.Version)
}

// Publish sends a parcel.
func (g *Gateway) Publish(data []byte) error { return g.say(subject.Frame, data) }

var errHung = errors.New("not connected")

func (g *Gateway) say(verb string, data []byte) error {
	if g.leaf == nil {
		return errHung
	}
	return g.leaf.Publish(subject.FromGateway(g.ID, verb), data)
}

// ErrNoAck tells that a frame or its ack was lost.
var ErrNoAck = errors.New("frame not acked")

// RateError tells that the hub does not take a frame for some time.
type RateError struct{ Retry time.Duration }

// Error tells how long.
func (e RateError) Error() string { return "too much at once, try again in " + e.Retry.String() }

// Acked waits until the hub has acked the parcel sent last, whose frame ends
// at end. It may return a RateError.
func (g *Gateway) Acked(ctx context.Context, end frame.Position) error {
	late := time.NewTimer(answerWait)
	defer late.Stop()
	for {
		select {
		case a := <-g.acks:
			switch {
			case a.Conn != g.conn || a.Number != g.number:
				continue
			case a.Code == link.Rate:
				return RateError{a.Retry}
			case a.Code != link.OK || !a.Done && a.Cursor != end:
				return fmt.Errorf("frame refused: %s", a.Code)
			}
			g.tail = end
			return nil
		case <-late.C:
			return ErrNoAck
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Send sends a frame and waits for its ack.
func (g *Gateway) Send(ctx context.Context, f *frame.Frame) error {
	if err := g.Publish(g.Parcel(f)); err != nil {
		return err
	}
	return g.Acked(ctx, f.End())
}

// SendPatiently is Send with a greeting and another try where an ack is lost.
func (g *Gateway) SendPatiently(ctx context.Context, f *frame.Frame) error {
	err := g.Send(ctx, f)
	for errors.Is(err, ErrNoAck) {
		if err = g.Greet(ctx); err == nil {
			err = g.Send(ctx, f)
		}
	}
	return err
}
