package logs

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
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

const floodTitle = "A flood: one gateway sends frames as fast as the hub acks them, or one again and again without waiting; nine others send a point a second each. From\n" +
	"the moment such a frame is sent until its ack has come; the gateways speak the link by hand and share the cores with the hub."

// quiet is how many gateways send a frame a second.
const quiet = 9

// storm is what one gateway does.
type storm struct {
	name   string
	points int // of a frame; 0: it is silent
	waits  bool
}

var storms = [...]storm{
	{"no flood", 0, true},
	{"frames of 1 point", 1, true},
	{"frames of 1,000 points", 1000, true},
	{"frames of 10,000 points", 10_000, true},
	{"a frame of 1 point again and again, without waiting", 1, false},
}

// floods measures how long gateways wait for their acks while another floods
// the hub.
func floods(ctx context.Context, b *bench) error {
	window := 5 * time.Second
	if b.Quick {
		window = 3 * time.Second
	}
	return b.inLab(func(l *lab.Lab) error {
		hub := l.Hub("--node-streams-layout", "shard")
		if _, err := hub.Start(ctx); err != nil {
			return err
		}
		var gateways []*rawGateway
		defer func() {
			for _, g := range gateways {
				g.close()
			}
		}()
		for i := range quiet + 1 {
			g, err := connectRaw(ctx, hub, fmt.Sprintf("gateway-%d", i+1))
			if err != nil {
				return err
			}
			gateways = append(gateways, g)
			if err := g.greet(ctx); err != nil {
				return err
			}
		}
		for range b.Runs {
			for _, s := range storms {
				if err := b.flood(ctx, gateways, s, window); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				if _, err := hub.Quiet(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bench) flood(ctx context.Context, gateways []*rawGateway, s storm, window time.Duration) error {
	flooding, cancel := context.WithTimeout(ctx, window)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	lists := make([][]time.Duration, quiet)
	for i, g := range gateways[:quiet] {
		group.Go(func() (err error) {
			lists[i], err = g.tick(ctx, flooding, time.Second*time.Duration(i)/quiet)
			return err
		})
	}
	sent := 0
	group.Go(func() (err error) {
		g := gateways[quiet]
		switch {
		case s.points == 0:
		case s.waits:
			sent, err = g.floodAcked(ctx, flooding, s.points)
		default:
			sent, err = g.floodBlind(ctx, flooding, s.points)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	delays := slices.Concat(lists...)
	slices.Sort(delays)
	r := row{Name: s.name}
	for _, f := range []struct {
		column, unit string
		value        float64
	}{
		{"ack of the others, p50", "ms", milliseconds(peer.Quantile(delays, 0.5))},
		{"p99", "ms", milliseconds(peer.Quantile(delays, 0.99))},
		{"acks", "", float64(len(delays))},
		{"frames of the flood", "/s", float64(sent) / window.Seconds()},
	} {
		r.Unit = f.unit
		b.Add(r, f.column, f.value)
	}
	return nil
}

// rawGateway speaks the link by hand with a valid credential, so that a frame
// and its ack can be timed.
type rawGateway struct {
	id     string
	ns     *server.Server
	nc     *nats.Conn
	hellos chan link.Hello // closed never; what is too much is dropped
	acks   chan link.Ack   // likewise

	number uint32
	tail   frame.Position // end of its log at the hub

	mu      sync.Mutex
	conn    uint32
	session frame.Session // of what the hub sends
	in      frame.Position
}

// connectRaw adds a gateway at the hub, enrols and connects it.
func connectRaw(ctx context.Context, hub *lab.Instance, name string) (g *rawGateway, err error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	reply, err := enrolKey(ctx, hub, name, key)
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", name, err)
	}
	u, err := url.Parse(reply.LeafURL)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{ServerName: reply.ID + "-raw", DontListen: true, NoSigs: true, NoLog: true}
	if err := opts.ProcessConfigString(`accounts { UPLINK { users: [{user: bench, password: bench}] } }`); err != nil {
		return nil, err
	}
	opts.LeafNode.ReconnectInterval = 100 * time.Millisecond
	opts.LeafNode.Remotes = []*server.RemoteLeafOpts{{
		LocalAccount: "UPLINK", URLs: []*url.URL{u}, IgnoreDiscoveredServers: true,
		SignatureCB: func(nonce []byte) (string, []byte, error) {
			signature, err := key.Sign(nonce)
			return reply.JWT, signature, err
		},
	}}
	g = &rawGateway{
		id: reply.ID, hellos: make(chan link.Hello, 16), acks: make(chan link.Ack, 16),
		tail: frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(0).Next(rand.Uint64())}},
	}
	if g.ns, err = server.NewServer(opts); err != nil {
		return nil, err
	}
	g.ns.Start()
	if g.ns.ReadyForConnections(time.Minute) {
		g.nc, err = nats.Connect("", nats.InProcessServer(g.ns), nats.UserInfo("bench", "bench"))
	} else {
		err = errors.New("server of a gateway is not ready")
	}
	if err == nil {
		_, err = g.nc.Subscribe(subject.ToGateway(g.id, "*"), g.receive)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *rawGateway) close() {
	if g.nc != nil {
		g.nc.Close()
	}
	g.ns.Shutdown()
	g.ns.WaitForShutdown()
}

// enrolled is what the hub answers to a token.
type enrolled struct {
	ID      string `json:"id"`
	JWT     string `json:"jwt"`
	LeafURL string `json:"leafUrl"`
}

// enrolKey adds a gateway and enrols a key for it.
func enrolKey(ctx context.Context, hub *lab.Instance, name string, key nkeys.KeyPair) (reply enrolled, err error) {
	c, err := hub.Dial(ctx)
	if err != nil {
		return reply, err
	}
	defer c.Close()
	device, err := c.DeviceAdd(ctx, api.DeviceAdd{Name: name})
	if err != nil {
		return reply, err
	}
	running, err := client.ReadRunning(hub.Dir)
	if err != nil {
		return reply, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return reply, err
	}
	signature, err := key.Sign([]byte("sapflow-enroll\n" + device.Token + "\n" + public))
	if err != nil {
		return reply, err
	}
	body, err := json.Marshal(map[string]string{
		"token": device.Token, "publicKey": public, "signature": base64.RawURLEncoding.EncodeToString(signature),
	})
	if err != nil {
		return reply, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+running.HTTP+"/api/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return reply, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return reply, fmt.Errorf("%s: %s %w", resp.Status, body, errors.Join(err))
	}
	return reply, json.Unmarshal(body, &reply)
}

// receive takes what the hub sends, and acks its frames.
func (g *rawGateway) receive(m *nats.Msg) {
	switch m.Subject {
	case subject.ToGateway(g.id, subject.Hello):
		if h, err := link.DecodeHello(m.Data); err == nil {
			select {
			case g.hellos <- h:
			default:
			}
		}
	case subject.ToGateway(g.id, subject.Ack):
		if a, err := link.DecodeAck(m.Data); err == nil {
			select {
			case g.acks <- a:
			default:
			}
		}
	case subject.ToGateway(g.id, subject.Frame):
		g.mu.Lock()
		defer g.mu.Unlock()
		q, err := link.DecodeParcel(m.Data, &g.session, g.conn, state.Hub)
		if err != nil || q.Frame == nil {
			return
		}
		if q.Frame.Kind != frame.Heads {
			g.in = q.Frame.End()
		}
		ack := link.Ack{Conn: q.Conn, Number: q.Number, Cursor: g.in, Time: now()}
		_ = g.nc.Publish(subject.FromGateway(g.id, subject.Ack), ack.Encode()) // without it the hub says hello
	}
}

const (
	greetEvery = time.Second // the first ones go nowhere until the leaf is up
	// rawWait bounds the wait for a greeting.
	rawWait = 30 * time.Second
	// answerWait is how long a gateway waits for an ack before it greets again.
	answerWait = 15 * time.Second
)

// greet opens a session.
func (g *rawGateway) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rawWait)
	defer cancel()
	g.mu.Lock()
	g.conn, g.number, g.session = rand.Uint32()|1, 0, frame.Session{}
	h := link.Hello{Conn: g.conn, Version: frame.Version, Idle: 5 * time.Minute, Time: now(), Out: g.tail, OutFirst: 1, In: g.in}
	g.mu.Unlock()
	again := time.NewTicker(greetEvery)
	defer again.Stop()
	for {
		if err := g.nc.Publish(subject.FromGateway(g.id, subject.Hello), h.Encode()); err != nil {
			return err
		}
		select {
		case answer := <-g.hellos:
			if answer.Conn == g.conn {
				return nil
			}
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the hub does not answer a greeting: %w", ctx.Err())
		}
	}
}

func now() uint64 { return point.Nanos(time.Now()) }

// frame returns a frame of n points behind tail.
func (g *rawGateway) frame(tail frame.Position, n int) *frame.Frame {
	f := &frame.Frame{Kind: frame.Log, Now: now(), Epoch: tail.Epoch, Prev: tail.Seq, First: tail.Seq + 1, Base: tail.Sum}
	for i := range n {
		f.Entries = append(f.Entries, frame.Entry{
			Point: point.Point{
				Series: point.Series{Node: g.id, Type: "value", Key: fmt.Sprint(i % 30)},
				Time:   f.Now - uint64(n-i), DataType: point.Float, Data: point.FloatData(float64(i % 100)),
			},
			Author: g.id, At: frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)},
		})
	}
	f.Seal()
	return f
}

// parcel returns a frame as it goes over the link.
func (g *rawGateway) parcel(f *frame.Frame) []byte {
	g.number++
	q := link.Parcel{Conn: g.conn, Number: g.number, Frame: f}
	return q.Encode(&frame.Session{}, frame.Version)
}

func (g *rawGateway) publish(data []byte) error {
	return g.nc.Publish(subject.FromGateway(g.id, subject.Frame), data)
}

// errNoAck tells that the frame or its ack was lost.
var errNoAck = errors.New("frame not acked")

// acked waits until the hub has acked the parcel with a number, whose frame
// ends at end.
func (g *rawGateway) acked(ctx context.Context, number uint32, end frame.Position) error {
	late := time.NewTimer(answerWait)
	defer late.Stop()
	for {
		select {
		case a := <-g.acks:
			if a.Conn != g.conn || a.Number != number {
				continue
			}
			if a.Code != link.OK || !a.Done && a.Cursor != end {
				return fmt.Errorf("frame refused: %s", a.Code)
			}
			g.tail = end
			return nil
		case <-late.C:
			return errNoAck
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tick sends a frame of one point a second until end, from a moment on, and
// returns how long each ack took.
func (g *rawGateway) tick(ctx, end context.Context, from time.Duration) (delays []time.Duration, err error) {
	if lab.Pause(end, from) != nil {
		return nil, ctx.Err()
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		f := g.frame(g.tail, 1)
		began := time.Now()
		err := g.send(ctx, f)
		for errors.Is(err, errNoAck) {
			if err = g.greet(ctx); err == nil {
				err = g.send(ctx, f)
			}
		}
		if err != nil {
			return nil, err
		}
		delays = append(delays, time.Since(began))
		select {
		case <-end.Done():
			return delays, ctx.Err()
		case <-ticker.C:
		}
	}
}

// send sends a frame and waits for its ack.
func (g *rawGateway) send(ctx context.Context, f *frame.Frame) error {
	if err := g.publish(g.parcel(f)); err != nil {
		return err
	}
	return g.acked(ctx, g.number, f.End())
}

// floodAcked sends frame after frame, each as soon as the one before is acked,
// until end; it makes the next while it waits.
func (g *rawGateway) floodAcked(ctx, end context.Context, points int) (sent int, err error) {
	f := g.frame(g.tail, points)
	data := g.parcel(f)
	for end.Err() == nil {
		number := g.number
		if err := g.publish(data); err != nil {
			return sent, err
		}
		next := g.frame(f.End(), points)
		nextData := g.parcel(next)
		if err := g.acked(ctx, number, f.End()); err != nil {
			return sent, err
		}
		sent++
		f, data = next, nextData
	}
	g.number-- // the last one was not sent
	return sent, ctx.Err()
}

// floodBlind sends one frame again and again until end, and begins a new
// session then.
func (g *rawGateway) floodBlind(ctx, end context.Context, points int) (sent int, err error) {
	f := g.frame(g.tail, points)
	data := g.parcel(f)
	for ; end.Err() == nil; sent++ {
		if err := g.publish(data); err != nil {
			return sent, err
		}
	}
	if err := g.nc.FlushTimeout(rawWait); err != nil {
		return sent, err
	}
	g.tail = f.End()
	return sent, g.greet(ctx)
}
