package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// rawGateway speaks the link by hand, with a valid credential: what a gateway
// with a fault, or a hostile one, may send.
type rawGateway struct {
	t     *testing.T
	hub   *hub
	id    string
	key   nkeys.KeyPair
	jwt   string
	addr  string        // where the hub listens for gateways
	ahead time.Duration // of its clock

	line    sync.Mutex
	leaf    *natstest.Leaf
	foreign []string // messages that are not for it, which it heard all the same

	hellos  chan link.Hello
	acks    chan link.Ack
	conn    uint32
	session frame.Session // of what the hub sends
	number  uint32
	tail    frame.Position // end of its log at the hub

	mu    sync.Mutex
	in    frame.Position // end of the hub's log here
	state *state.State   // what the hub has sent
}

// claim enrols a public key over HTTP and returns status and body.
func claim(t *testing.T, hubHTTP, token string, key nkeys.KeyPair) (status int, body []byte) {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign([]byte("sapflow-enroll\n" + token + "\n" + public))
	if err != nil {
		t.Fatal(err)
	}
	req, err := json.Marshal(map[string]string{
		"token": token, "publicKey": public, "signature": base64.RawURLEncoding.EncodeToString(signature),
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+hubHTTP+"/api/v1/enroll", "application/json", bytes.NewReader(req))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func newUser(t *testing.T) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// addRawGateway adds, enrols and connects one.
func (h *hub) addRawGateway(name string) *rawGateway { return h.addRawGatewayOf(h.t, name) }

// addRawGatewayOf adds one that lives as long as a test of this hub.
func (h *hub) addRawGatewayOf(t *testing.T, name string) *rawGateway {
	t.Helper()
	token, err := h.client.DeviceAdd(t.Context(), api.DeviceAdd{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	key := newUser(t)
	status, body := claim(t, h.run.HTTP, token.Token, key)
	var reply struct {
		ID      string `json:"id"`
		JWT     string `json:"jwt"`
		LeafURL string `json:"leafUrl"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || status != http.StatusOK || reply.ID != token.ID {
		t.Fatalf("enrol: %d %s", status, body)
	}
	u, err := url.Parse(reply.LeafURL)
	if err != nil {
		t.Fatal(err)
	}
	r := &rawGateway{
		t: t, hub: h, id: reply.ID, key: key, jwt: reply.JWT, addr: u.Host,
		state: state.New(), tail: frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(0).Next(rand.Uint64())}},
		hellos: make(chan link.Hello, 100), acks: make(chan link.Ack, 100),
	}
	t.Cleanup(func() {
		if l := r.current(); l != nil {
			l.Close()
		}
	})
	if err := r.dial(); err != nil {
		t.Fatal(err)
	}
	return r
}

// credential is what it connects with.
func (r *rawGateway) credential() natstest.LeafConfig {
	return natstest.LeafConfig{
		Addr: r.addr, JWT: r.jwt, Sign: r.key.Sign, Message: r.receive,
		Connect: map[string]any{"name": r.id + "-raw"},
	}
}

// dial connects, in place of the connection that there was.
func (r *rawGateway) dial() error {
	leaf, err := natstest.DialLeaf(r.t.Context(), r.credential())
	if err != nil {
		return err
	}
	if err := leaf.Subscribe(subject.ToGateway(r.id, "*")); err != nil {
		return err
	}
	r.line.Lock()
	old := r.leaf
	r.leaf = leaf
	r.line.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

func (r *rawGateway) current() *natstest.Leaf {
	r.line.Lock()
	defer r.line.Unlock()
	return r.leaf
}

// connected connects again if the hub has hung up.
func (r *rawGateway) connected() *natstest.Leaf {
	r.t.Helper()
	l := r.current()
	select {
	case <-l.Done():
		eventually(r.t, "the hub lets a gateway in again", func() bool { return r.dial() == nil })
		return r.current()
	default:
		return l
	}
}

// receive takes what the hub sends, and acks its frames.
func (r *rawGateway) receive(subj, _ string, data []byte) {
	switch subj {
	default:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.foreign = append(r.foreign, subj)
	case subject.ToGateway(r.id, subject.Hello):
		if h, err := link.DecodeHello(data); err == nil {
			select {
			case r.hellos <- h:
			default: // nobody asks
			}
		}
	case subject.ToGateway(r.id, subject.Ack):
		if a, err := link.DecodeAck(data); err == nil {
			select {
			case r.acks <- a:
			default:
			}
		}
	case subject.ToGateway(r.id, subject.Frame):
		r.mu.Lock()
		conn := r.conn
		r.mu.Unlock()
		q, err := link.DecodeParcel(data, &r.session, conn, state.Hub)
		if err != nil || q.Frame == nil {
			return
		}
		r.mu.Lock()
		for i := range q.Frame.Entries {
			if e := &q.Frame.Entries[i]; !q.Frame.Future(e) {
				r.state.Merge(e)
			}
		}
		if q.Frame.Kind != frame.Heads {
			r.in = q.Frame.End()
		}
		ack := link.Ack{Conn: q.Conn, Number: q.Number, Cursor: r.in, Time: now()}
		r.mu.Unlock()
		_ = r.current().Publish(subject.FromGateway(r.id, subject.Ack), ack.Encode())
	}
}

// get returns what the hub has sent of a series.
func (r *rawGateway) get(s point.Series) *frame.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Get(s)
}

// hello opens a session.
func (r *rawGateway) hello() link.Hello {
	r.t.Helper()
	r.mu.Lock()
	r.conn, r.number = rand.Uint32()|1, 0
	r.mu.Unlock()
	var answer link.Hello
	again := time.NewTicker(time.Second)
	defer again.Stop()
	greet := func() {
		r.mu.Lock()
		h := link.Hello{
			Conn: r.conn, Version: frame.Version, Idle: 5 * time.Minute, Time: r.clock(),
			Out: r.tail, OutFirst: 1, In: r.in,
		}
		r.mu.Unlock()
		r.publish(subject.FromGateway(r.id, subject.Hello), h.Encode())
	}
	greet()
	eventually(r.t, "the hub answers a hello", func() bool {
		for {
			select {
			case answer = <-r.hellos:
				if answer.Conn == r.conn {
					return true
				}
			case <-again.C: // the hub takes one a second
				greet()
			default:
				return false
			}
		}
	})
	return answer
}

func (r *rawGateway) clock() uint64 { return point.Nanos(time.Now().Add(r.ahead)) }

func (r *rawGateway) publish(subj string, data []byte) {
	r.t.Helper()
	if err := r.connected().Publish(subj, data); err != nil {
		r.t.Fatal(err)
	}
}

// frame returns the next frame of its log, with points as one group.
func (r *rawGateway) frame(points ...point.Point) *frame.Frame {
	f := &frame.Frame{
		Kind: frame.Log, Now: r.clock(), Epoch: r.tail.Epoch, Prev: r.tail.Seq, First: r.tail.Seq + 1, Base: r.tail.Sum,
	}
	for i, p := range points {
		if p.Time == 0 {
			p.Time = r.clock()
		}
		f.Entries = append(f.Entries, frame.Entry{
			Point: p, Author: r.id, At: frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}, More: i < len(points)-1,
		})
	}
	f.Seal()
	return f
}

// parcel returns a frame as it goes over the link.
func (r *rawGateway) parcel(f *frame.Frame) []byte {
	r.number++
	q := link.Parcel{Conn: r.conn, Number: r.number, Frame: f}
	return q.Encode(&frame.Session{}, frame.Version)
}

// send sends a frame and returns the hub's answer to it.
func (r *rawGateway) send(f *frame.Frame) link.Ack {
	r.t.Helper()
	r.publish(subject.FromGateway(r.id, subject.Frame), r.parcel(f))
	ack := r.ack()
	if ack.Done {
		ack.Cursor = f.End()
	}
	if ack.Code == link.OK && ack.Cursor == f.End() {
		r.tail = ack.Cursor
	}
	return ack
}

// ack returns the hub's answer to the last parcel.
func (r *rawGateway) ack() (a link.Ack) {
	r.t.Helper()
	eventually(r.t, "the hub acks a frame", func() bool {
		select {
		case a = <-r.acks:
			return a.Conn == r.conn && a.Number == r.number
		default:
			return false
		}
	})
	return a
}
