package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// evil stands in everything that must leave no trace: it is the type of the
// points, and bytes of the garbage.
const evil = "evilmark"

// conn returns a plain NATS connection to the process.
func (p *process) conn() *nats.Conn {
	p.t.Helper()
	var opts []nats.Option
	if creds := filepath.Join(p.dir, client.CredsFile); fileExists(creds) {
		opts = append(opts, nats.UserCredentials(creds))
	}
	nc, err := nats.Connect("nats://"+p.run.Listen, opts...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	return nc
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// badWrite is a message that must be refused.
type badWrite struct {
	name    string
	subject string
	data    []byte
	header  nats.Header
	code    api.Code
	shows   string // must be in the message
}

// badWrites are about node, which is below gateway and above child.
func badWrites(gateway, node, child string) []badWrite {
	payload := func(p point.Point) []byte { return point.AppendPayload(nil, &p) }
	good := float(node, evil, 0, 1)
	to := subject.Point(good.Series)
	with := func(dt point.DataType, data string) []byte {
		return payload(point.Point{DataType: dt, Data: []byte(data)})
	}
	group := bus.EncodeGroup([]point.Point{good, good})
	long := strings.Repeat("x", point.MaxTypeLen+1)
	large := point.Point{Series: good.Series, DataType: point.String, Data: bytes.Repeat([]byte("x"), 200<<10)}
	half := func(p point.Point) []byte { // a good point and a bad one: neither counts
		return bus.EncodeGroup([]point.Point{good, p})
	}
	return []badWrite{
		{name: "empty payload", subject: to, code: api.CodeInvalid},
		{name: "truncated payload", subject: to, data: payload(good)[:5], code: api.CodeInvalid},
		{name: "truncated origin", subject: to, data: append(make([]byte, 9), 200, 'x'), code: api.CodeInvalid},
		{name: "float of 3 bytes", subject: to, data: with(point.Float, "abc"), code: api.CodeInvalid, shows: "float"},
		{name: "int of 5 bytes", subject: to, data: with(point.Int, "abcde"), code: api.CodeInvalid, shows: "int"},
		{name: "uint of no bytes", subject: to, data: with(point.Uint, ""), code: api.CodeInvalid, shows: "uint"},
		{name: "string that is not UTF-8", subject: to, data: with(point.String, "\xff"), code: api.CodeInvalid},
		{name: "JSON that is none", subject: to, data: with(point.JSON, "{"), code: api.CodeInvalid},
		{name: "unknown data type", subject: to, data: with(99, "x"), code: api.CodeInvalid, shows: "99"},
		{name: "bad node id", subject: "p.Upper." + evil + ".0", data: payload(good), code: api.CodeInvalid, shows: "Upper"},
		{name: "bad type", subject: "p." + node + "." + evil + "/x.0", data: payload(good), code: api.CodeInvalid, shows: evil + "/x"},
		{name: "long type", subject: "p." + node + "." + long + ".0", data: payload(good), code: api.CodeInvalid, shows: long},
		{name: "control character", subject: "p." + node + "." + evil + ".a\x01b", data: payload(good), code: api.CodeInvalid, shows: "a"},
		{name: "too few tokens", subject: "p." + node + "." + evil, data: payload(good), code: api.CodeInvalid, shows: evil},
		{name: "too many tokens", subject: "p.a.b.c.d." + evil, data: payload(good), code: api.CodeInvalid, shows: evil},
		{name: "unknown node", subject: "p.nobody." + evil + ".0", data: payload(good), code: api.CodeNotFound, shows: "nobody"},
		{name: "10 min ahead", subject: to, data: payload(float(node, evil, now()+uint64(10*time.Minute), 1)), code: api.CodeTime},
		{name: "truncated group", subject: "p", data: group[:len(group)-3], code: api.CodeInvalid},
		{name: "group with too much", subject: "p", data: append(slices.Clone(group), 0), code: api.CodeInvalid},
		{name: "empty group", subject: "p", data: []byte{0, 0}, code: api.CodeInvalid},
		{name: "group with a bad point", subject: "p", data: half(point.Point{Series: good.Series, DataType: point.Float, Data: []byte{1}}), code: api.CodeInvalid},
		{name: "group with a late node", subject: "p", data: half(float("nobody", evil, 0, 1)), code: api.CodeNotFound},
		{name: "cycle", subject: "p", data: bus.EncodeGroup(append(point.Edge(child, node, "sensor"), good)), code: api.CodeCycle},
		{name: "gateway below a gateway", subject: "p", data: bus.EncodeGroup(append(point.Edge(gateway, "nested", point.NodeGateway), good)), code: api.CodeNested},
		{name: "edge without nodeType", subject: "p", data: bus.EncodeGroup(append(point.Edge(node, "half", "x")[1:], good)), code: api.CodeInvalid},
		{name: "200 KB", subject: to, data: payload(large), code: api.CodeTooLarge},
		{name: "200 KB in a group", subject: "p", data: bus.EncodeGroup([]point.Point{large}), code: api.CodeTooLarge},
		{name: "JSON of an unknown type", subject: "j." + node + "." + evil + ".0", data: []byte(`{"dataType":"real","value":1}`), code: api.CodeInvalid, shows: "real"},
		{name: "JSON group that is none", subject: "j", data: []byte(`[{"node":`), code: api.CodeInvalid},
		{name: "JSON value 10 min ahead", subject: "j." + node + "." + evil + ".0", data: []byte(`{"value":1,"time":"` + time.Now().Add(10*time.Minute).Format(time.RFC3339Nano) + `"}`), code: api.CodeTime},
		{name: "unexpected head", subject: to, data: payload(good), header: nats.Header{api.HeaderExpect: {"5"}}, code: api.CodeConflict},
	}
}

// TestBadInput sends what must be refused, and looks for it in every stream.
func TestBadInput(t *testing.T) {
	t.Parallel()
	rng := random(t)
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	n := addNode(t, g.client, g.id, "pump")
	child := addNode(t, g.client, n, "valve")
	write(t, g.client, float(n, "level", 0, 1))
	r := h.addRawGateway("gw2")
	own := client.NewID()
	r.hello()
	if ack := r.send(r.frame(append(point.Edge(r.id, own, "sensor"), float(own, "level", 0, 1))...)); ack.Code != link.OK || len(ack.Aside) > 0 {
		t.Fatalf("a good frame is answered %s, aside %v", ack.Code, ack.Aside)
	}
	g.waitEqual()

	t.Run("writes", func(t *testing.T) {
		for name, p := range map[string]*process{"hub": h.process, "gateway": g.process} {
			nc := p.conn()
			for _, w := range badWrites(g.id, n, child) {
				reply, err := nc.RequestMsg(&nats.Msg{Subject: w.subject, Data: w.data, Header: w.header}, patience)
				if err != nil {
					t.Errorf("%s, %s: %v", name, w.name, err)
					continue
				}
				var got *api.Error
				if err := api.Decode(reply.Data, nil); !errors.As(err, &got) || got.Code != w.code ||
					got.Message == "" || got.Hint == "" || !strings.Contains(got.Message, w.shows) {
					t.Errorf("%s, %s: answered %s, want code %s that shows %q", name, w.name, reply.Data, w.code, w.shows)
				}
				// Nobody is told, so it is only counted.
				if err := nc.PublishMsg(&nats.Msg{Subject: w.subject, Data: w.data, Header: w.header}); err != nil {
					t.Errorf("%s, %s: %v", name, w.name, err)
				}
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			s, err := p.client.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, code := range []api.Code{api.CodeInvalid, api.CodeTime, api.CodeCycle, api.CodeNested, api.CodeTooLarge, api.CodeConflict} {
				if s.Counters["refused_"+string(code)] == 0 {
					t.Errorf("%s: %s is not counted: %v", name, code, s.Counters)
				}
			}
		}
	})
	t.Run("2 MB", func(t *testing.T) {
		data := strings.Repeat("x", 2<<20)
		for name, p := range map[string]*process{"hub": h.process, "gateway": g.process} {
			if err := p.conn().Publish(subject.Point(series(n, evil)), []byte(data)); !errors.Is(err, nats.ErrMaxPayload) {
				t.Errorf("%s: over NATS: %v", name, err)
			}
			err := p.client.Set(t.Context(), series(n, evil), data, "string", "")
			if api.CodeOf(err) != api.CodeTooLarge {
				t.Errorf("%s: by the client: %v", name, err)
			}
		}
		// The system allows 128 KB for one argument, so more comes from a file.
		for bin, dir := range map[string]string{hubBin: h.dir, agentBin: g.dir} {
			if out, code := command(t, bin, "set", n, evil, data[:100<<10], "--data", dir); code != 1 || !strings.Contains(out, string(api.CodeTooLarge)) {
				t.Errorf("set: code %d, %s", code, out)
			}
		}
		trace := filepath.Join(t.TempDir(), "trace.csv")
		if err := os.WriteFile(trace, []byte("time,node,type,key,value\n2026-01-01T00:00:00Z,"+n+","+evil+",0,"+data+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := command(t, agentBin, "replay", trace, "--data", g.dir); code != 1 || !strings.Contains(out, "2097152 bytes") {
			t.Errorf("replay: code %d, %s", code, out)
		}
	})
	t.Run("token", func(t *testing.T) { badTokens(t, h) })
	t.Run("frames", func(t *testing.T) { badFrames(t, rng, r, g, n, own) })
	t.Run("garbage", func(t *testing.T) { garbage(t, rng, r, g) })

	// Everybody works on.
	if ack := r.send(r.frame(float(own, "level", 0, 2))); ack.Code != link.OK || len(ack.Aside) > 0 {
		t.Errorf("after all that a good frame is answered %s, aside %v", ack.Code, ack.Aside)
	}
	eventually(t, "the good frame is at the hub", func() bool { return value(t, h.client, own, "level") == "2" })
	write(t, g.client, float(n, "level", 0, 2))
	g.waitEqual()
	expectValue(t, "hub", h.client, n, "level", "2")
	g.stop()
	h.stop()
	noTrace(t, "hub", openStore(t, h.dir))
	noTrace(t, "gateway", openStore(t, g.dir))
}

// badTokens enrols with tokens that are used, wrong or no longer good.
func badTokens(t *testing.T, h *hub) {
	token := func(id string) *api.DeviceToken {
		t.Helper()
		tok, err := h.client.DeviceToken(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	first, err := h.client.DeviceAdd(t.Context(), api.DeviceAdd{Name: "gw3"})
	if err != nil {
		t.Fatal(err)
	}
	key := newUser(t)
	if status, body := claim(t, h.run.HTTP, first.Token, key); status != http.StatusOK {
		t.Fatalf("enrol: %d %s", status, body)
	}
	if status, body := claim(t, h.run.HTTP, first.Token, key); status != http.StatusOK {
		t.Errorf("the same box may repeat it, as a reply may get lost: %d %s", status, body)
	}
	expect := func(what, token string, status int, code string) {
		t.Helper()
		got, body := claim(t, h.run.HTTP, token, newUser(t))
		var failure api.Error
		if json.Unmarshal(body, &failure) != nil || got != status || string(failure.Code) != code || failure.Message == "" || failure.Hint == "" {
			t.Errorf("%s: %d %s, want %d %s", what, got, body, status, code)
		}
	}
	expect("a used token", first.Token, http.StatusConflict, "token_used")
	if out, code := command(t, agentBin, "enroll", "http://"+h.run.HTTP, "--token", first.Token, "--data", t.TempDir()); code != 1 || !strings.Contains(out, "used") {
		t.Errorf("enrol with a used token: code %d, %s", code, out)
	}
	expect("a token nobody made", first.ID+"."+strings.Repeat("a", 43), http.StatusForbidden, "token_invalid")
	replaced := token(first.ID)
	token(first.ID)
	expect("a token replaced by a newer one", replaced.Token, http.StatusForbidden, "token_invalid")
	voided := token(first.ID)
	if err := h.client.DeviceRevoke(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	expect("a token of a revoked gateway", voided.Token, http.StatusForbidden, "token_invalid")
	resp, err := http.Post("http://"+h.run.HTTP+"/api/v1/enroll", "application/json", strings.NewReader(evil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a body that is no JSON: %d", resp.StatusCode)
	}
}

// badFrames sends frames that a credential allows to send and the door must
// not believe. foreign is a node of the gateway g, own one of r.
func badFrames(t *testing.T, rng *rand.Rand, r *rawGateway, g *gateway, foreign, own string) {
	sendBytes := func(data []byte) link.Ack {
		r.publish(subject.FromGateway(r.id, subject.Frame), data)
		return r.ack()
	}
	// Behind connection id, number and flags stands the frame.
	const head = 8 + 4 + 1
	for range 40 {
		data := r.parcel(r.frame(float(own, evil, 0, 1)))
		bit := 8*head + rng.IntN(8*(len(data)-head))
		data[bit/8] ^= 1 << (bit % 8)
		if ack := sendBytes(data); ack.Code != link.Damaged && ack.Code != link.Version && ack.Code != link.Size || ack.Cursor != r.tail {
			t.Errorf("bit %d flipped: answered %s at %d", bit, ack.Code, ack.Cursor.Seq)
		}
	}
	data := r.parcel(r.frame(float(own, evil, 0, 1)))
	if ack := sendBytes(data[:len(data)-5]); ack.Code != link.Damaged || ack.Cursor != r.tail {
		t.Errorf("truncated frame: answered %s", ack.Code)
	}
	gap := r.frame(float(own, evil, 0, 1))
	gap.Prev, gap.First = gap.Prev+5, gap.First+5
	gap.Seal()
	if ack := sendBytes(r.parcel(gap)); ack.Code != link.Gap || ack.Cursor != r.tail {
		t.Errorf("frame behind a gap: answered %s", ack.Code)
	}
	other := r.frame(float(own, evil, 0, 1))
	other.Epoch = 1
	if ack := sendBytes(r.parcel(other)); ack.Code == link.OK && ack.Cursor != r.tail || ack.Code != link.OK && ack.Code != link.Superseded {
		t.Errorf("frame of an old epoch: answered %s", ack.Code)
	}
	for _, kind := range []frame.Kind{frame.Relay, 9} {
		f := r.frame(float(own, evil, 0, 1))
		f.Kind = kind
		if ack := sendBytes(r.parcel(f)); ack.Code == link.OK || ack.Cursor != r.tail {
			t.Errorf("frame of kind %d: answered %s", kind, ack.Code)
		}
	}
	lying := r.frame(float(own, evil, 0, 1))
	lying.Sum++
	if ack := sendBytes(r.parcel(lying)); ack.Code == link.OK || ack.Cursor != r.tail {
		t.Errorf("frame with a wrong running sum: answered %s", ack.Code)
	}

	// Points that the tree does not allow are set aside, one by one.
	root := g.hub.root
	for name, tc := range map[string]struct {
		points []point.Point
		reason frame.Reason
	}{
		"another gateway's node":     {[]point.Point{float(foreign, evil, 0, 1)}, frame.Foreign},
		"another gateway":            {[]point.Point{float(g.id, evil, 0, 1)}, frame.Foreign},
		"the root":                   {[]point.Point{float(root, evil, 0, 1)}, frame.Foreign},
		"a node nobody knows":        {[]point.Point{float("nobody", evil, 0, 1)}, frame.Foreign},
		"another gateway's node far": {[]point.Point{float(foreign, evil, now()+uint64(48*time.Hour), 1)}, frame.Foreign},
		"taking another's node":      {point.Edge(r.id, foreign, evil), frame.Foreign},
		"freeing another's node":     {[]point.Point{{Series: point.Series{Up: g.id, Node: foreign, Type: point.TypeTombstone, Key: "0"}, DataType: point.Uint, Data: []byte{1}}}, frame.Foreign},
		"a bad token":                {[]point.Point{float(own, evil+"/x", 0, 1)}, frame.Invalid},
		"a bad value":                {[]point.Point{{Series: series(own, evil), DataType: point.Float, Data: []byte{1, 2, 3}}}, frame.Invalid},
	} {
		ack := r.send(r.frame(tc.points...))
		if ack.Code != link.OK || ack.Cursor != r.tail {
			t.Errorf("%s: answered %s: the line is blocked", name, ack.Code)
		}
		n := uint64(0)
		for _, a := range ack.Aside {
			if a.Reason == tc.reason {
				n += a.Count
			}
		}
		if n != uint64(len(tc.points)) {
			t.Errorf("%s: set aside %v, want %d %s", name, ack.Aside, len(tc.points), tc.reason)
		}
	}
	// Winners are judged as well.
	heads := &frame.Frame{Kind: frame.Heads, Now: now(), Entries: []frame.Entry{
		{Point: float(foreign, evil, now(), 1), Author: "hub", At: frame.Cursor{Epoch: 1, Seq: 1}},
		{Point: float(foreign, "level", now(), 99), Author: g.id, At: frame.Cursor{Epoch: 1, Seq: 1}},
	}}
	if ack := sendBytes(r.parcel(heads)); ack.Code != link.OK {
		t.Errorf("foreign winners: answered %s", ack.Code)
	}
	g.waitEqual()
	expectValue(t, "hub", g.hub.client, foreign, "level", "1")
	expectValue(t, "hub", g.hub.client, foreign, evil, "")
}

// garbage sends noise on every subject of the link, and tries those that the
// credential does not allow.
func garbage(t *testing.T, rng *rand.Rand, r *rawGateway, g *gateway) {
	heard := make(chan *nats.Msg, 1000)
	for _, subj := range []string{">", subject.ToGateway(g.id, ">"), "from.>", "up.>", "$JS.EVENT.>"} {
		if _, err := r.nc.ChanSubscribe(subj, heard); err != nil {
			t.Fatal(err)
		}
	}
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return append(b, evil...)
	}
	verbs := []string{subject.Hello, subject.Frame, subject.Ack, "renew", "answer", "ask", "cred", "x", "x.y", evil}
	for _, verb := range verbs {
		for _, size := range []int{0, 1, 12, 13, 14, 40, 100, 5000, 100_000} {
			for range 3 {
				r.publish(subject.FromGateway(r.id, verb), noise(size))
			}
		}
		r.publish(subject.FromGateway(r.id, verb), nil)
	}
	// The same with the right connection, where it reaches the decoder.
	for _, size := range []int{0, 1, 20, 100, 5000, 100_000} {
		data := r.parcel(r.frame(float(r.id, evil, 0, 1)))[:13]
		r.publish(subject.FromGateway(r.id, subject.Frame), append(data, noise(size)...))
		if ack := r.ack(); ack.Code == link.OK {
			t.Errorf("%d bytes of noise are answered %s", size, ack.Code)
		}
		ack := link.Ack{Conn: r.conn, Number: uint32(size), Cursor: frame.Position{Cursor: frame.Cursor{Epoch: 7, Seq: 1 << 60}}}
		r.publish(subject.FromGateway(r.id, subject.Ack), append(ack.Encode(), noise(size)...))
	}
	p := float(g.id, evil, now(), 1)
	for _, subj := range []string{
		subject.FromGateway(g.id, subject.Hello), subject.FromGateway(g.id, subject.Frame), subject.FromGateway(g.id, subject.Ack),
		subject.ToGateway(g.id, subject.Frame), subject.ToGateway(g.id, subject.Hello), subject.ToGateway(g.id, subject.Ack),
		subject.Point(p.Series), subject.LogEdge(g.id), subject.LogHub, subject.LogDown(g.id), subject.NodeIn(subject.EdgeSide, p.Series),
		subject.Fleet("list"), "$JS.API.STREAM.NAMES", "$JS.API.STREAM.PURGE.EDGE", "$JS.API.STREAM.DELETE.HUB", "$SYS.REQ.SERVER.PING",
		"$KV.fleet." + g.id,
	} {
		if err := r.nc.PublishRequest(subj, "to."+r.id+".reply", point.AppendPayload(nil, &p)); err != nil {
			t.Fatal(err)
		}
	}
	r.hello() // behind all that in the connection
	deadline, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case m := <-heard:
			own := strings.HasPrefix(m.Subject, "to."+r.id+".") && !strings.HasSuffix(m.Subject, ".reply")
			from := r.published(m.Subject)
			if !own && !from {
				t.Errorf("the gateway heard %s: %.80q", m.Subject, m.Data)
			}
			continue
		case <-deadline.Done():
			t.Error("still hearing")
		default:
		}
		return
	}
}

// published tells whether a message that was heard is its own: the server in
// the test gives the local subscriptions what is published there.
func (r *rawGateway) published(subj string) bool {
	return !strings.HasPrefix(subj, "to."+r.id+".")
}

// noTrace looks for what was refused in every stream, decoding each frame.
func noTrace(t *testing.T, where string, js interface {
	streamStore
}) {
}

var _ = journal.Message{}
