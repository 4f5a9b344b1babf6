package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// attack is what a gateway with a good credential, or somebody without one,
// does to reach another gateway. It must be refused, change nothing of the
// victim and leave a trace.
type attack struct {
	name string
	run  func(a *attacker)
	// trace is what grows: "refused.X" and "aside.X" of the attacker's device,
	// "status.X" of the hub's counters. "" with why there is none.
	trace, silent string
}

// attacker is a gateway of its own for each attack, beside the same victim.
type attacker struct {
	*rawGateway
	h *hub
	v *victim
}

// victim is a gateway at work.
type victim struct {
	*rawGateway
	pump string
	sent int // values of the pump
}

// attacks are those of facts/auth.md, F1 to F12 (F6, a rolled signing key, is
// nothing that a gateway can do; F8 is a figure), and one for each right that
// a device has and each field that the door reads.
var attacks = []attack{
	// What the server judges: subjects, subscriptions, what CONNECT says.
	{name: "foreign frame", run: hangsUp("LMSG from.{victim}.frame 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "foreign ack", run: hangsUp("LMSG from.{victim}.ack 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "foreign hello", run: hangsUp("LMSG from.{victim}.hello 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "message to another gateway", run: hangsUp("LMSG to.{victim}.frame 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "point for the hub's programs", run: hangsUp("LMSG p.{pump}.v.0 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "message for the hub's programs", run: hangsUp("LMSG up.{root}.{pump}.v.0 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "listen to another gateway", run: hangsUp("LS+ to.{victim}.frame\r\n"), trace: "refused.rights"},
	{name: "listen to what another gateway says", run: hangsUp("LS+ from.{victim}.frame\r\n"), trace: "refused.rights"},
	{name: "listen to system events", run: hangsUp("LS+ $SYS.ACCOUNT.x\r\n"), trace: "refused.rights"},
	{name: "F1 $JS.ACK of another's message", run: jsAck, trace: "status.door_refused"},
	{name: "F10 $JS.API", run: hangsUp("LMSG $JS.API.CONSUMER.CREATE.EDGE 2\r\n{}\r\n"), trace: "refused.rights"},
	{name: "F10 $JS.API with reply", run: hangsUp("LMSG $JS.API.STREAM.PURGE.EDGE to.{victim}.ack 2\r\n{}\r\n"), trace: "refused.rights"},
	{name: "$SYS", run: hangsUp("LMSG $SYS.REQ.SERVER.PING 0\r\n\r\n"), trace: "refused.rights"},
	{name: "F9 id * as subject", run: hangsUp("LMSG from.*.frame 2\r\nhi\r\n"), trace: "refused.rights"},
	{name: "F11 is_hub", run: isHub, trace: "status.door_refused"},
	{name: "F3 $LDS of another", run: echoLoop, trace: "refused.interest"},
	{name: "F3 $LDS of the hub", run: echoHubLoop, trace: "refused.rights"},
	{name: "F4 name of another", run: serverName, trace: "refused.name"},
	{name: "wildcard interest", run: overhear, trace: "refused.interest"},
	{name: "100,000 subscriptions", run: manySubscriptions, trace: "refused.subs"},
	{name: "message over the limit", run: hangsUp("LMSG from.{attacker}.frame 300000\r\n"), trace: "refused.payload"},
	{name: "not the protocol", run: hangsUp("LEAF ME ALONE\r\n"), trace: "refused.rights"},
	{name: "F12 500 connections that say nothing", run: idleConnections, silent: "the server tells nobody about those it waited for"},

	// What a credential proves.
	{name: "no credential", run: refusedAs(func(c *natstest.LeafConfig) { c.JWT, c.Sign = "", nil }), trace: "status.leaf_refused_auth"},
	{name: "stolen JWT without the key", run: refusedAs(func(c *natstest.LeafConfig) { c.Sign = must(nkeys.CreateUser()).Sign }), trace: "refused.auth"},
	{name: "replayed signature", run: replayed, trace: "refused.auth"},
	{name: "modified JWT", run: modifiedJWT, trace: "status.leaf_refused_auth"},
	{name: "foreign-signed JWT", run: foreignSigned, trace: "status.leaf_refused_auth"},
	{name: "revoked gateway", run: revoked, trace: "refused.revoked"},
	{name: "plain client with a leaf credential", run: plainClient, trace: "refused.auth"},
	{name: "plain client on the leaf port", run: clientOnLeafPort, trace: "status.leaf_refused_auth"},
	{name: "token used twice and raced for", run: tokenRace, silent: "the registry tells it, not the door"},

	// What the door judges.
	{name: "F2 reply into another's subject", run: withReply("to.{victim}.ack"), trace: "refused.reply"},
	{name: "F2 reply into the API", run: withReply("$JS.API.STREAM.PURGE.EDGE"), trace: "refused.reply"},
	{name: "F7 reply to itself", run: withReply("to.{attacker}.answer"), trace: "refused.reply"},
	{name: "F5 headers", run: withHeaders, trace: "refused.header"},
	{name: "verb that is none", run: nonsense, trace: "refused.malformed"},
	{name: "frame about another's node", run: foreignPoint, trace: "aside.foreign"},
	{name: "frame about what is above it", run: pointAbove, trace: "aside.foreign"},
	{name: "another's node hijacked by an edge", run: hijack, trace: "aside.foreign"},
	{name: "another gateway hijacked by an edge", run: hijackGateway, trace: "aside.foreign"},
	{name: "another's node hijacked by an edge of the past", run: hijackPast, trace: "aside.foreign"},
	{name: "winners about another's node", run: foreignHeads, trace: "aside.foreign"},
	{name: "winner that the hub is said to have authored", run: forgedAuthor, trace: "aside.foreign"},
	{name: "a gateway below it", run: nested, trace: "aside.nested_boundary"},
	{name: "circle", run: circle, trace: "aside.cycle"},
	{name: "epoch that is long over", run: oldEpoch, trace: "refused.superseded"},
	{name: "epoch far ahead", run: farEpoch, trace: "refused.damaged"},
	{name: "epoch that follows nothing", run: looseEpoch, trace: "refused.gap"},
	{name: "seq far ahead", run: farSeq, trace: "refused.gap"},
	{name: "hello from far ahead", run: farHello, trace: "refused.malformed"},
	{name: "other points under the same numbers", run: forgedSum, trace: "refused.gap"},
	{name: "bits flipped", run: flipped, trace: "refused.damaged"},
	{name: "version of the future", run: futureVersion, trace: "refused.version"},
	{name: "frame that continues nothing", run: looseSession, trace: "refused.series"},
	{name: "decompression bomb", run: bomb, trace: "refused.rate"},
	{name: "hellos without end", run: manyHellos, trace: "refused.hello"},
	{name: "winners asked for without end", run: manyWishes, trace: "refused.heads"},
	{name: "winners sent without end", run: manyHeads, trace: "refused.rate"},
	{name: "nodes without end", run: manyNodes, trace: "aside.limit"},
	{name: "series without end", run: manySeries, trace: "aside.limit"},
	{name: "frames without waiting", run: flood, trace: "refused.flood"},
}

// Limits of the hub that is attacked.
const (
	attackPoints = 8000
	attackNodes  = 10
	attackSeries = 60
)

// TestAttacks lets each attack loose on one hub and looks after each one
// whether the victim is as it was and goes on.
func TestAttacks(t *testing.T) {
	t.Parallel()
	h := startHub(t, fmt.Sprintf("--limits-points=%d", attackPoints), fmt.Sprintf("--limits-nodes=%d", attackNodes), fmt.Sprintf("--limits-series=%d", attackSeries))
	v := newVictim(h)
	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) {
			before := v.fingerprint(t)
			status := h.counters(t)
			a := &attacker{rawGateway: h.addRawGatewayOf(t, "attacker"), h: h, v: v}
			c.run(a)
			if t.Failed() {
				return
			}
			if c.trace != "" {
				eventually(t, "a trace in "+c.trace, func() bool {
					if what, ok := strings.CutPrefix(c.trace, "status."); ok {
						return h.counters(t)[what] > status[what]
					}
					return a.traces()[c.trace] > 0
				})
			} else if c.silent == "" {
				t.Error("leaves no trace, and nobody says why")
			}
			v.check(t, before)
		})
	}
	v.checkStored()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// counters are those of the hub.
func (h *hub) counters(t *testing.T) map[string]int {
	t.Helper()
	s, err := h.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Counters
}

// traces are what the hub counted of the attacker.
func (a *attacker) traces() map[string]int {
	a.t.Helper()
	d, err := a.h.client.Device(a.t.Context(), a.id)
	if err != nil {
		a.t.Fatal(err)
	}
	all := map[string]int{}
	for what, n := range d.Refused {
		all["refused."+what] = n
	}
	for what, n := range d.Aside {
		all["aside."+what] = n
	}
	return all
}

func newVictim(h *hub) *victim {
	v := &victim{rawGateway: h.addRawGateway("victim")}
	v.pump = "pump" + v.id[4:]
	if err := v.leaf.Subscribe("$LDS." + v.id); err != nil { // as a server does
		v.t.Fatal(err)
	}
	v.hello()
	if ack := v.send(v.frame(append(point.Edge(v.id, v.pump, "sensor"), float(v.pump, "limit", 0, 7))...)); ack.Code != link.OK || len(ack.Aside) > 0 {
		v.t.Fatalf("the victim's own node: %+v", ack)
	}
	v.work(v.t)
	return v
}

// work sends a value and has it acked in the session that there is.
func (v *victim) work(t *testing.T) {
	t.Helper()
	v.sent++
	if ack := v.send(v.frame(float(v.pump, "v", 0, float64(v.sent)))); ack.Code != link.OK || ack.Cursor != v.tail || len(ack.Aside) > 0 {
		t.Fatalf("value %d of the victim: %+v", v.sent, ack)
	}
}

// print is all of the victim that others can see.
type print struct {
	leaf   *natstest.Leaf
	told   []string
	nodes  map[string]api.Node // but for the pump's value, which goes on
	device api.Device
	in     frame.Position
}

func (v *victim) fingerprint(t *testing.T) (p print) {
	t.Helper()
	h := v.hub
	p.leaf, p.nodes = v.current(), below(t, h.client, v.id)
	pump := p.nodes[v.pump]
	pump.Points = slices.DeleteFunc(pump.Points, func(p api.Point) bool { return p.Type == "v" })
	p.nodes[v.pump] = pump
	d, err := h.client.Device(t.Context(), v.id)
	if err != nil {
		t.Fatal(err)
	}
	p.device = *d
	p.device.LastSeen = ""
	p.told = p.leaf.Told()
	v.mu.Lock()
	defer v.mu.Unlock()
	p.in = v.in
	return p
}

// check tells whether the victim is as it was, has heard nothing that is not
// for it, and goes on where it was.
func (v *victim) check(t *testing.T, want print) {
	t.Helper()
	if err := v.current().Flush(t.Context()); err != nil {
		t.Fatalf("the victim's connection: %v", err)
	}
	if got := v.fingerprint(t); !reflect.DeepEqual(got, want) {
		t.Errorf("the victim is not as it was:\n got %+v\nwant %+v", got, want)
	}
	v.mu.Lock()
	foreign := v.foreign
	v.mu.Unlock()
	if len(foreign) > 0 || len(v.hellos) > 0 || len(v.acks) > 0 {
		t.Errorf("the victim heard %q, %d hellos and %d acks that nobody asked for", foreign, len(v.hellos), len(v.acks))
	}
	v.work(t)
	eventually(t, "the victim's value arrives", func() bool { return value(t, v.hub.client, v.pump, "v") == fmt.Sprint(v.sent) })
	list := history(t, v.hub.client, v.pump, "v")
	if len(list) != v.sent {
		t.Errorf("the victim's history has %d values, want %d", len(list), v.sent)
	}
	for i := range list {
		if string(list[i].Value) != fmt.Sprint(i+1) || list[i].Author != v.id {
			t.Errorf("value %d of the victim is %s by %s", i+1, list[i].Value, list[i].Author)
		}
	}
}

// checkStored stops the hub and looks at all that it has stored of the victim.
func (v *victim) checkStored() {
	v.t.Helper()
	v.hub.stop()
	js := openStore(v.t, v.hub.dir)
	points := 0
	stored(v.t, js, subject.StreamEdge, func(m journal.Message) {
		f, err := frame.Decode(m.Data, subject.ParseLog(m.Subject))
		if err != nil {
			v.t.Fatal(err)
		}
		for i := range f.Entries {
			if e := &f.Entries[i]; e.Node == v.pump && e.Type == "v" {
				if points++; e.Author != v.id || !bytes.Equal(e.Data, point.FloatData(float64(points))) {
					v.t.Errorf("value %d of the victim is %+v", points, e)
				}
			} else if e.Author != v.id && (e.Node == v.id || e.Node == v.pump || e.Up == v.id || e.Up == v.pump) {
				v.t.Errorf("stored about the victim: %+v", e)
			}
		}
	})
	if points != v.sent {
		v.t.Errorf("EDGE has %d values of the victim, want %d", points, v.sent)
	}
	points = 0
	for _, name := range streamNames(v.t, js) {
		stored(v.t, js, name, func(m journal.Message) {
			if m.Subject == subject.Point(series(v.pump, "v")) {
				points++
			}
			if m.Subject == subject.LogDown(v.id) {
				f, err := frame.Decode(m.Data, v.id)
				if err != nil {
					v.t.Fatal(err)
				}
				for i := range f.Entries {
					if e := &f.Entries[i]; e.Author != "hub" || e.Up != v.hub.root && e.Node != v.id {
						v.t.Errorf("for the victim: %+v", e)
					}
				}
			}
		})
	}
	if points != v.sent {
		v.t.Errorf("node streams have %d values of the victim, want %d", points, v.sent)
	}
}

// fill puts names into a line.
func (a *attacker) fill(line string) string {
	return strings.NewReplacer("{victim}", a.v.id, "{pump}", a.v.pump, "{attacker}", a.id, "{root}", a.h.root).Replace(line)
}

// dialAs opens one more connection with the attacker's credential, changed.
func (a *attacker) dialAs(change func(*natstest.LeafConfig)) (*natstest.Leaf, error) {
	c := a.credential()
	c.Connect = map[string]any{"name": a.id + "-second"}
	if change != nil {
		change(&c)
	}
	l, err := natstest.DialLeaf(a.t.Context(), c)
	if err == nil {
		a.t.Cleanup(l.Close)
	}
	return l, err
}

func (a *attacker) second() *natstest.Leaf {
	a.t.Helper()
	l, err := a.dialAs(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

// gone waits until the hub has hung up.
func (a *attacker) gone(l *natstest.Leaf) {
	a.t.Helper()
	eventually(a.t, "the hub hangs up", func() bool {
		select {
		case <-l.Done():
			return true
		default:
			return false
		}
	})
}

// hangsUp is an attack that ends the connection.
func hangsUp(line string) func(*attacker) {
	return func(a *attacker) {
		l := a.second()
		_ = l.Send(a.fill(line)) // may be cut in the middle
		a.gone(l)
	}
}

// jsAck tries what the leaf protocol lets through whatever the rights are.
func jsAck(a *attacker) {
	l := a.second()
	for _, line := range []string{
		"LMSG $JS.ACK.EDGE.x.1.1.1.1.1 5\r\n+TERM\r\n",
		"LMSG $JS.ACK.EDGE.x.1.1.1.1.1 to.{attacker}.x 4\r\n+NXT\r\n",
	} {
		if err := l.Send(a.fill(line)); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := l.Flush(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// isHub claims to be the hub of the leaf connection, for which the server
// checks less.
func isHub(a *attacker) {
	l, err := a.dialAs(func(c *natstest.LeafConfig) {
		c.Connect["is_hub"] = true
		c.Message = func(subj, _ string, _ []byte) {
			if !strings.HasPrefix(subj, "to."+a.id+".") {
				a.t.Errorf("overheard %s", subj)
			}
		}
	})
	if err != nil {
		a.t.Fatal(err)
	}
	good := string(a.v.parcelAgain())
	for _, line := range []string{
		"LS+ >\r\n", "LS+ to.{victim}.frame\r\n", "LS+ to.{victim}.>\r\n", "LS+ from.>\r\n",
		"LMSG from.*.frame 2\r\nhi\r\n", "LMSG > 2\r\nhi\r\n", "LMSG from.{attacker}.x.y 2\r\nhi\r\n",
		fmt.Sprintf("LMSG from.{victim}.frame %d\r\n", len(good)) + good + "\r\n",
		"LMSG to.{victim}.frame 2\r\nhi\r\n",
	} {
		_ = l.Send(a.fill(line)) // it may be gone
	}
	_ = l.Flush(a.t.Context())
	a.v.work(a.t) // answered to the victim alone
	_ = l.Flush(a.t.Context())
}

// parcelAgain returns a parcel of the victim's own session, not counted.
func (v *victim) parcelAgain() []byte {
	q := link.Parcel{Conn: v.conn, Number: v.number + 1, Frame: v.frame(float(v.pump, "v", 0, -1))}
	return q.Encode(&frame.Session{}, frame.Version)
}

func echoLoop(a *attacker) {
	l := a.second()
	if err := errors.Join(l.Subscribe("$LDS."+a.v.id), l.Flush(a.t.Context()), a.v.current().Flush(a.t.Context())); err != nil {
		a.t.Fatal(err)
	}
	a.gone(l)
}

func echoHubLoop(a *attacker) {
	l := a.second()
	for _, told := range l.Told() {
		if strings.HasPrefix(told, "$LDS.") {
			_ = l.Subscribe(told)
			a.gone(l)
			return
		}
	}
	a.t.Fatalf("the hub tells no loop subject: %q", l.Told())
}

func serverName(a *attacker) {
	l, err := a.dialAs(func(c *natstest.LeafConfig) {
		c.Connect["name"], c.Connect["cluster"] = a.v.id+"-0123456789abcdef", a.v.id+"-0123456789abcdef"
	})
	if err == nil {
		a.gone(l)
	}
}

// overhear asks for everything while the victim works.
func overhear(a *attacker) {
	var mu sync.Mutex
	var heard []string
	l, err := a.dialAs(func(c *natstest.LeafConfig) {
		c.Message = func(subj, _ string, _ []byte) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, subj)
		}
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if err := errors.Join(l.Subscribe(">"), l.Subscribe("to.*.>"), l.Subscribe("from.>"), l.Flush(a.t.Context())); err != nil {
		a.t.Fatal(err)
	}
	a.v.work(a.t)
	a.hello() // whose answer both connections hear
	eventually(a.t, "it hears what is its own", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(heard, subject.ToGateway(a.id, subject.Hello))
	})
	a.gone(l)
	mu.Lock()
	defer mu.Unlock()
	for _, s := range heard {
		if !strings.HasPrefix(s, "to."+a.id+".") {
			a.t.Errorf("overheard %s", s)
		}
	}
}

func manySubscriptions(a *attacker) {
	l := a.second()
	var lines strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&lines, "LS+ to.%s.x%d\r\n", a.id, i)
	}
	_ = l.Send(lines.String())
	a.gone(l)
}

func idleConnections(a *attacker) {
	conns := make([]net.Conn, 500)
	for i := range conns {
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			a.t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	a.v.work(a.t)
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			a.t.Fatalf("a connection that says nothing stays: %v", err)
		}
	}
}

// refusedAs is a connection that the hub does not let in.
func refusedAs(change func(*natstest.LeafConfig)) func(*attacker) {
	return func(a *attacker) {
		a.t.Helper()
		if l, err := a.dialAs(change); err == nil {
			l.Close()
			a.t.Error("the hub let it in")
		} else if !strings.Contains(err.Error(), "Authorization Violation") {
			a.t.Errorf("got %v, want an authorization violation", err)
		}
	}
}

func replayed(a *attacker) {
	var old []byte
	sign := a.key.Sign
	if _, err := a.dialAs(func(c *natstest.LeafConfig) {
		c.Sign = func(nonce []byte) (s []byte, err error) {
			old, err = sign(nonce)
			return old, err
		}
	}); err != nil {
		a.t.Fatal(err)
	}
	refusedAs(func(c *natstest.LeafConfig) { c.Sign = func([]byte) ([]byte, error) { return old, nil } })(a)
}

// claims decodes the claims of a JWT as they are.
func claims(t *testing.T, token string) (parts []string, c map[string]any) {
	t.Helper()
	parts = strings.Split(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return parts, c
}

func modifiedJWT(a *attacker) {
	parts, c := claims(a.t, a.jwt)
	c["name"] = a.v.id
	b, err := json.Marshal(c)
	if err != nil {
		a.t.Fatal(err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(b)
	refusedAs(func(c *natstest.LeafConfig) { c.JWT = strings.Join(parts, ".") })(a)
}

func foreignSigned(a *attacker) {
	honest, err := jwt.DecodeUserClaims(a.jwt)
	if err != nil {
		a.t.Fatal(err)
	}
	account := must(nkeys.CreateAccount())
	for _, issuer := range []string{"", honest.IssuerAccount} {
		c := jwt.NewUserClaims(must(a.key.PublicKey()))
		c.Name, c.IssuerAccount = a.v.id, issuer
		c.Pub.Allow.Add(">")
		c.Sub.Allow.Add(">")
		token := must(c.Encode(account))
		refusedAs(func(c *natstest.LeafConfig) { c.JWT = token })(a)
	}
}

func revoked(a *attacker) {
	if err := a.h.client.DeviceRevoke(a.t.Context(), a.id); err != nil {
		a.t.Fatal(err)
	}
	a.gone(a.current())
	refusedAs(nil)(a)
}

func plainClient(a *attacker) {
	nc, err := nats.Connect("nats://"+a.h.run.Listen, nats.UserJWT(func() (string, error) { return a.jwt, nil }, a.key.Sign), nats.NoReconnect())
	if err == nil {
		nc.Close()
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		a.t.Errorf("got %v, want %v", err, nats.ErrAuthorization)
	}
}

func clientOnLeafPort(a *attacker) {
	nc, err := nats.Connect("nats://"+a.addr, nats.UserJWT(func() (string, error) { return a.jwt, nil }, a.key.Sign), nats.NoReconnect())
	if err == nil {
		nc.Close()
		a.t.Error("the hub let it in")
	}
	refusedAs(func(c *natstest.LeafConfig) { c.JWT, c.Sign = "", nil })(a)
}

func tokenRace(a *attacker) {
	token, err := a.h.client.DeviceAdd(a.t.Context(), api.DeviceAdd{Name: "raced for"})
	if err != nil {
		a.t.Fatal(err)
	}
	const racers = 8
	codes := make(chan int, racers)
	for range racers {
		key := newUser(a.t)
		go func() {
			status, _ := claim(a.t, a.h.run.HTTP, token.Token, key)
			codes <- status
		}()
	}
	got := map[int]int{}
	for range racers {
		got[<-codes]++
	}
	if !maps.Equal(got, map[int]int{http.StatusOK: 1, http.StatusConflict: racers - 1}) {
		a.t.Errorf("answers by status: %v, want one 200", got)
	}
	if status, _ := claim(a.t, a.h.run.HTTP, token.Token, newUser(a.t)); status != http.StatusConflict {
		a.t.Errorf("used again: %d, want 409", status)
	}
}

// good sends a frame that is taken as a whole, and returns the ack.
func (a *attacker) good(points ...point.Point) link.Ack {
	a.t.Helper()
	ack := a.send(a.frame(points...))
	if ack.Code != link.OK || ack.Cursor != a.tail {
		a.t.Fatalf("a frame of its own: %+v", ack)
	}
	return ack
}

// aside sends a frame of which the first bad points are set aside, for a
// reason, and the rest is taken.
func (a *attacker) aside(reason frame.Reason, bad int, points ...point.Point) {
	a.t.Helper()
	mark := rand.Uint32()
	ack := a.good(append(points, float(a.id, "mark", 0, float64(mark)))...)
	if len(ack.Aside) != 1 || ack.Aside[0] != (link.AsideCount{Reason: reason, Count: uint64(bad)}) {
		a.t.Errorf("set aside: %+v, want %d as %s", ack.Aside, bad, reason)
	}
	eventually(a.t, "the rest of the frame is taken", func() bool { return value(a.t, a.h.client, a.id, "mark") == fmt.Sprint(mark) })
}

func withReply(reply string) func(*attacker) {
	return func(a *attacker) {
		a.hello()
		f := a.frame(float(a.id, "v", 0, 1))
		if err := a.current().PublishMsg(subject.FromGateway(a.id, subject.Frame), a.fill(reply), "", a.parcel(f)); err != nil {
			a.t.Fatal(err)
		}
		if ack := a.ack(); ack.Code != link.OK {
			a.t.Errorf("got %s, want it taken", ack.Code)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.foreign) > 0 {
			a.t.Errorf("answered on %q", a.foreign)
		}
	}
}

func withHeaders(a *attacker) {
	a.hello()
	for _, header := range []string{
		"Nats-Msg-Id: 1", "Nats-Rollup: all", "Nats-Rollup: sub", "Nats-Expected-Last-Sequence: 0",
		"Nats-Expected-Last-Subject-Sequence: 99", "Nats-Expected-Stream: DOWN", "Nats-Expected-Last-Msg-Id: x", "Nats-TTL: 1s",
	} {
		f := a.frame(float(a.id, "v", 0, 1))
		if err := a.current().PublishMsg(subject.FromGateway(a.id, subject.Frame), "", header+"\r\n", a.parcel(f)); err != nil {
			a.t.Fatal(err)
		}
		ack := a.ack()
		if ack.Code != link.OK || !ack.Done {
			a.t.Fatalf("%s: got %+v, want it taken", header, ack)
		}
		a.tail = f.End()
		a.v.work(a.t)
	}
}

func nonsense(a *attacker) {
	a.hello()
	for _, verb := range []string{"renew", "nonsense", "answer"} {
		a.publish(subject.FromGateway(a.id, verb), []byte("hi"))
	}
	a.publish(subject.FromGateway(a.id, subject.Frame), nil)
	a.good(float(a.id, "v", 0, 1))
}

func foreignPoint(a *attacker) {
	a.hello()
	a.aside(frame.Foreign, 3, float(a.v.pump, "v", 0, 1), float(a.v.id, "plan", 0, 1), float(a.v.pump, "limit", 1, 1))
}

func pointAbove(a *attacker) {
	a.hello()
	a.aside(frame.Foreign, 2, float(a.h.root, "v", 0, 1), float("nobody", "v", 0, 1))
}

// edges returns the points of an edge with a time.
func edges(up, down, nodeType string, at uint64) []point.Point {
	list := point.Edge(up, down, nodeType)
	for i := range list {
		list[i].Time = at
	}
	return list
}

func hijack(a *attacker) {
	a.hello()
	a.aside(frame.Foreign, 3, append(point.Edge(a.id, a.v.pump, "sensor"), float(a.v.pump, "v", 0, 1))...)
	// Both ends become equal: the hub takes the edge away again.
	eventually(a.t, "the hub corrects the edge", func() bool {
		e := a.get(point.Series{Up: a.id, Node: a.v.pump, Type: point.TypeTombstone, Key: point.NoKey})
		return e != nil && e.Author == "hub" && e.Data[0] == 1
	})
}

func hijackGateway(a *attacker) {
	a.hello()
	for _, nodeType := range []string{"gateway", "sensor"} {
		a.aside(frame.Foreign, 2, point.Edge(a.id, a.v.id, nodeType)...)
	}
}

func hijackPast(a *attacker) {
	a.hello()
	for _, at := range []uint64{1, a.clock() + uint64(time.Hour), 1<<64 - 1} {
		a.aside(frame.Foreign, 2, edges(a.id, a.v.pump, "sensor", at)...)
		a.aside(frame.Foreign, 2, edges(a.h.root, a.v.pump, "sensor", at)...)
		a.aside(frame.Foreign, 2, edges(a.v.id, a.v.pump, "sensor", at)...)
	}
}

// winners sends a frame of winners.
func (a *attacker) winners(entries ...frame.Entry) link.Ack {
	a.t.Helper()
	return a.send(&frame.Frame{Kind: frame.Heads, Now: a.clock(), Entries: entries})
}

func (a *attacker) head(author string, p point.Point) frame.Entry {
	p.Time = a.clock() + uint64(time.Minute)
	return frame.Entry{Point: p, Author: author, At: frame.Cursor{Epoch: 1 << 62, Seq: 1 << 40}}
}

func foreignHeads(a *attacker) {
	a.hello()
	for _, author := range []string{a.id, a.v.id, "hub"} {
		if ack := a.winners(a.head(author, float(a.v.pump, "v", 0, -1)), a.head(author, float(a.v.pump, "limit", 0, -1))); ack.Code != link.OK {
			a.t.Errorf("got %s, want it taken without its points", ack.Code)
		}
	}
	a.aside(frame.Foreign, 1, float(a.v.pump, "v", 0, 1))
}

func forgedAuthor(a *attacker) {
	a.hello()
	a.winners(a.head("hub", float(a.id, "setting", 0, -1)), a.head("hub", point.Edge(a.id, a.v.pump, "sensor")[0]))
	a.aside(frame.Foreign, 1, float(a.v.pump, "v", 0, 1))
	// It lied about a node of its own, and a person's change still wins.
	set(a.t, a.h.client, a.id, "setting", "5")
	if got := value(a.t, a.h.client, a.id, "setting"); got != "5" {
		a.t.Errorf("setting is %s, want 5", got)
	}
}

func nested(a *attacker) {
	a.hello()
	a.aside(frame.Nested, 1, point.Edge(a.id, "gw"+a.id[2:], "gateway")...)
}

func circle(a *attacker) {
	a.hello()
	x, y := "x"+a.id[1:], "y"+a.id[1:]
	a.good(append(point.Edge(a.id, x, "sensor"), point.Edge(x, y, "sensor")...)...)
	a.aside(frame.Cycle, 1, point.Edge(y, x, "sensor")...)
}

// refused sends a frame and wants a code; the place stays.
func (a *attacker) refuses(f *frame.Frame, want link.Code) {
	a.t.Helper()
	before := a.tail
	if ack := a.send(f); ack.Code != want || ack.Cursor != before {
		a.t.Errorf("got %s at %d, want %s at %d", ack.Code, ack.Cursor.Seq, want, before.Seq)
	}
}

func oldEpoch(a *attacker) {
	a.hello()
	a.good(float(a.id, "v", 0, 1))
	f := a.frame(float(a.id, "v", 0, 2))
	f.Epoch, f.Before = frame.Epoch(1), a.tail
	a.refuses(f, link.Superseded)
}

func farEpoch(a *attacker) {
	a.hello()
	a.good(float(a.id, "v", 0, 1))
	f := a.frame()
	*f = frame.Frame{Kind: frame.Log, Now: f.Now, Epoch: a.tail.Epoch + 5000<<40, First: 1, Before: a.tail}
	f.Seal()
	a.refuses(f, link.Damaged)
}

func looseEpoch(a *attacker) {
	a.hello()
	a.good(float(a.id, "v", 0, 1))
	f := a.frame(float(a.id, "v", 0, 2))
	*f = frame.Frame{Kind: frame.Log, Now: f.Now, Epoch: a.tail.Epoch.Next(1), First: 1, Entries: f.Entries}
	f.Seal()
	a.refuses(f, link.Gap)
}

func farSeq(a *attacker) {
	a.hello()
	a.good(float(a.id, "v", 0, 1))
	f := a.frame(float(a.id, "v", 0, 2))
	f.Prev, f.First = 1<<40, 1<<40+1
	f.Seal()
	a.refuses(f, link.Gap)
}

func farHello(a *attacker) {
	a.hello()
	lie := link.Hello{Conn: 5, Version: frame.Version, In: frame.Position{Cursor: frame.Cursor{Epoch: 1<<64 - 1, Seq: 1<<64 - 1}}}
	a.publish(subject.FromGateway(a.id, subject.Hello), lie.Encode())
	a.good(float(a.id, "v", 0, 1))
	// Within what may be true the hub repeats its log in a new epoch, a few times.
	for range 5 {
		a.in = frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(0).Next(rand.Uint64()), Seq: 1 << 30}}
		h := link.Hello{Conn: rand.Uint32() | 1, Version: frame.Version, Out: a.tail, In: a.in}
		a.publish(subject.FromGateway(a.id, subject.Hello), h.Encode())
	}
}

func forgedSum(a *attacker) {
	a.hello()
	a.good(float(a.id, "v", 0, 1))
	f := a.frame(float(a.id, "v", 0, 2))
	f.Base++
	f.Seal()
	a.refuses(f, link.Gap)
}

func flipped(a *attacker) {
	a.hello()
	data := a.parcel(a.frame(float(a.id, "v", 0, 1)))
	data[len(data)-9] ^= 4
	a.publish(subject.FromGateway(a.id, subject.Frame), data)
	if ack := a.ack(); ack.Code != link.Damaged {
		a.t.Errorf("got %s, want %s", ack.Code, link.Damaged)
	}
}

func futureVersion(a *attacker) {
	a.hello()
	data := a.parcel(a.frame(float(a.id, "v", 0, 1)))
	data[6] = 99 // behind connection, number and flags
	a.publish(subject.FromGateway(a.id, subject.Frame), data)
	if ack := a.ack(); ack.Code != link.Version {
		a.t.Errorf("got %s, want %s", ack.Code, link.Version)
	}
}

func looseSession(a *attacker) {
	a.hello()
	var s frame.Session
	s.Encode(a.frame(float(a.id, "v", 0, 1)), frame.Version)
	a.number++
	q := link.Parcel{Conn: a.conn, Number: a.number, Frame: a.frame(float(a.id, "v", 0, 2))}
	a.publish(subject.FromGateway(a.id, subject.Frame), q.Encode(&s, frame.Version))
	if ack := a.ack(); ack.Code != link.Series {
		a.t.Errorf("got %s, want %s", ack.Code, link.Series)
	}
}

// bomb trains a session until a few bytes stand for a frame full of points.
func bomb(a *attacker) {
	a.hello()
	var s frame.Session
	at := a.clock() - uint64(time.Hour)
	taken := 0
	for range 10 {
		f := &frame.Frame{Kind: frame.Log, Now: a.clock(), Epoch: a.tail.Epoch, Prev: a.tail.Seq, First: a.tail.Seq + 1, Base: a.tail.Sum}
		for i := range frame.MaxPoints {
			at += 1_000_000
			f.Entries = append(f.Entries, frame.Entry{Point: float(a.id, "v", at, 1), At: frame.Cursor{Epoch: f.Epoch, Seq: f.First + uint64(i)}})
		}
		f.Seal()
		a.number++
		q := link.Parcel{Conn: a.conn, Number: a.number, Frame: f}
		data := q.Encode(&s, frame.Version)
		a.publish(subject.FromGateway(a.id, subject.Frame), data)
		ack := a.ack()
		if ack.Code == link.Rate {
			if len(data) > 400 {
				a.t.Errorf("the bomb takes %d bytes, which is none", len(data))
			}
			if ack.Retry <= 0 {
				a.t.Error("refused for the rate without a time")
			}
			if most := 10*attackPoints/frame.MaxPoints + 1; taken > most {
				a.t.Errorf("%d bombs went off, want up to %d", taken, most)
			}
			return
		}
		if ack.Code != link.OK || !ack.Done {
			a.t.Fatalf("got %+v", ack)
		}
		taken++
		a.tail = f.End()
	}
	a.t.Errorf("%d bombs went off", taken)
}

func manyHellos(a *attacker) {
	a.hello()
	for range 200 {
		h := link.Hello{Conn: rand.Uint32() | 1, Version: frame.Version, Out: a.tail, OutFirst: 1}
		a.publish(subject.FromGateway(a.id, subject.Hello), h.Encode())
		if err := a.current().Flush(a.t.Context()); err != nil {
			a.t.Fatal(err)
		}
	}
}

func manyWishes(a *attacker) {
	a.hello()
	for range 30 {
		a.number++
		q := link.Parcel{Conn: a.conn, Number: a.number, Want: true, Frame: a.frame()}
		a.publish(subject.FromGateway(a.id, subject.Frame), q.Encode(&frame.Session{}, frame.Version))
		if ack := a.ack(); ack.Code != link.OK {
			a.t.Fatalf("got %s, want %s", ack.Code, link.OK)
		}
		if a.traces()["refused.heads"] > 0 {
			return
		}
	}
}

func manyHeads(a *attacker) {
	a.hello()
	for range 300 { // after some the hub takes its time
		if ack := a.winners(a.head(a.id, float(a.id, "v", 0, 1))); ack.Code != link.OK {
			a.t.Fatalf("got %s", ack.Code)
		}
		if a.traces()["refused.rate"] > 0 {
			return
		}
	}
	a.t.Error("300 snapshots for one gateway, and none had to wait")
}

func manyNodes(a *attacker) {
	a.hello()
	taken := 0
	for i := range 2 * attackNodes {
		ack := a.good(point.Edge(a.id, fmt.Sprintf("n%d%s", i, a.id[3:]), "sensor")...)
		if len(ack.Aside) == 0 {
			taken++
		} else if ack.Retry == 0 {
			a.t.Error("set aside for the limit without a time")
		}
		// One that is taken away takes its place all the same.
		gone := point.Edge(a.id, fmt.Sprintf("n%d%s", i, a.id[3:]), "sensor")[1]
		gone.Data = []byte{1}
		a.good(gone)
	}
	if taken != attackNodes {
		a.t.Errorf("%d nodes taken, want %d", taken, attackNodes)
	}
}

func manySeries(a *attacker) {
	a.hello()
	var points []point.Point
	for i := range 2 * attackSeries {
		p := float(a.id, "v", 0, 1)
		p.Key = fmt.Sprint(i)
		points = append(points, p)
	}
	ack := a.good(points...)
	if len(ack.Aside) != 1 || ack.Aside[0].Reason != frame.Limit || ack.Aside[0].Count < attackSeries {
		a.t.Errorf("set aside: %+v", ack.Aside)
	}
	list := 0
	for _, n := range below(a.t, a.h.client, a.id) {
		list += len(n.Points)
	}
	if list > attackSeries {
		a.t.Errorf("the hub keeps %d series, want up to %d", list, attackSeries)
	}
}

func flood(a *attacker) {
	a.hello()
	data := a.parcel(a.frame(float(a.id, "v", 0, 1)))
	l := a.current()
	for range 1_000_000 {
		if l.Publish(subject.FromGateway(a.id, subject.Frame), data) != nil {
			break
		}
	}
	a.gone(l)
}
