package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// badType is the type of every point that must leave no trace.
const badType = "bad"

// badPoint returns a whole float of a node, to be spoiled.
func badPoint(node string, at uint64) point.Point { return float(node, badType, at, 1) }

// TestBadInput sends each kind of bad input to running processes: a typed
// error, and no trace of it in any stream of either end.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	g := h.addGateway("gw1", "", natstest.LinkConfig{})
	pump := addNode(t, g.client, g.id, "pump")
	valve := addNode(t, g.client, pump, "valve")
	g.waitEqual()

	nc, err := nats.Connect("nats://" + g.run.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	whole := func(p point.Point) []byte { return point.AppendPayload(nil, &p) }
	short := badPoint(pump, 1)
	short.Data = short.Data[:5]
	large := badPoint(pump, 1)
	large.DataType, large.Data = point.String, bytes.Repeat([]byte("x"), 200<<10)
	bad := subject.Point(series(pump, badType))
	for name, c := range map[string]struct {
		subject string
		body    []byte
		want    api.Code
	}{
		"truncated payload": {bad, whole(badPoint(pump, 1))[:9], api.CodeInvalid},
		"wrong length":      {bad, whole(short), api.CodeInvalid},
		"bad token":         {"p." + pump + ".a/b.0", whole(badPoint(pump, 1)), api.CodeInvalid},
		"10 min ahead":      {bad, whole(badPoint(pump, now()+uint64(10*time.Minute))), api.CodeTime},
		"cycle":             {"j", fmt.Appendf(nil, `[{"up":%q,"down":%q,"type":"nodeType","value":"sensor"},{"node":%q,"type":"bad","value":1}]`, valve, pump, pump), api.CodeCycle},
		"200 KB":            {bad, whole(large), api.CodeTooLarge},
	} {
		m, err := nc.Request(c.subject, c.body, patience)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := api.CodeOf(api.Decode(m.Data, nil)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if _, err := nc.Request(bad, make([]byte, 2<<20), patience); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("2 MB over NATS: got %v, want %v", err, nats.ErrMaxPayload)
	}
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := command(t, agentBin, "set", pump, badType, "--file", file, "--data", g.dir); code != 1 || !strings.Contains(out, string(api.CodeTooLarge)) {
		t.Errorf("2 MB by the command line: exit %d, %s", code, out)
	}

	checkBadFrames(t, h, pump)
	checkTokenOnce(t, h)

	g.waitEqual()
	g.stop()
	h.stop()
	checkNoTrace(t, h.dir, state.Hub)
	checkNoTrace(t, g.dir, g.id)
}

// checkBadFrames is a gateway with a valid credential that sends nonsense and
// then what it should.
func checkBadFrames(t *testing.T, h *hub, foreign string) {
	t.Helper()
	r := h.addRawGateway("gw2")
	r.hello()
	sensor := "s" + r.id[1:]
	if ack := r.send(r.frame(append(point.Edge(r.id, sensor, "sensor"), float(sensor, "v", 0, 1))...)); ack.Code != link.OK {
		t.Fatalf("a good frame: %+v", ack)
	}
	flipped := r.parcel(r.frame(badPoint(sensor, 0)))
	flipped[len(flipped)-9] ^= 4
	r.publish(subject.FromGateway(r.id, subject.Frame), flipped)
	if ack := r.ack(); ack.Code != link.Damaged || ack.Cursor != r.tail {
		t.Errorf("a flipped bit: got %s at %d, want %s at %d", ack.Code, ack.Cursor.Seq, link.Damaged, r.tail.Seq)
	}
	before := r.tail.Seq
	ack := r.send(r.frame(badPoint(foreign, 0), badPoint(h.root, 0)))
	if ack.Code != link.OK || len(ack.Aside) != 1 || ack.Aside[0] != (link.AsideCount{Reason: frame.Foreign, Count: 2}) || r.tail.Seq != before+2 {
		t.Errorf("another gateway's node: got %+v, want 2 points set aside as foreign", ack)
	}
	gap := r.frame(badPoint(sensor, 0))
	gap.Prev, gap.First, gap.Last = gap.Prev+7, gap.First+7, gap.Last+7
	if ack := r.send(gap); ack.Code != link.Gap {
		t.Errorf("a frame that does not continue: got %s, want %s", ack.Code, link.Gap)
	}
	rng := random(t)
	for _, verb := range []string{subject.Hello, subject.Frame, subject.Ack, "renew", "answer", "nonsense"} {
		for n := range 40 {
			garbage := make([]byte, n*n)
			for i := range garbage {
				garbage[i] = byte(rng.Uint32())
			}
			r.publish(subject.FromGateway(r.id, verb), garbage)
		}
	}
	r.hello()
	if ack := r.send(r.frame(float(sensor, "v", 0, 2))); ack.Code != link.OK {
		t.Errorf("a good frame after garbage: %+v", ack)
	}
	eventually(t, "the hub goes on after garbage", func() bool { return value(t, h.client, sensor, "v") == "2" })
}

// checkTokenOnce uses a token twice.
func checkTokenOnce(t *testing.T, h *hub) {
	t.Helper()
	token, err := h.client.DeviceAdd(t.Context(), api.DeviceAdd{Name: "gw3"})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := claim(t, h.run.HTTP, token.Token, newUser(t)); status != http.StatusOK {
		t.Fatalf("first use: %d %s", status, body)
	}
	if status, body := claim(t, h.run.HTTP, token.Token, newUser(t)); status != http.StatusConflict || !bytes.Contains(body, []byte(`"token_used"`)) {
		t.Errorf("second use: %d %s, want 409 token_used", status, body)
	}
}

// checkNoTrace reads every stream below a data directory.
func checkNoTrace(t *testing.T, dir, author string) {
	t.Helper()
	js := openStore(t, dir)
	for _, name := range streamNames(t, js) {
		stored(t, js, name, func(m journal.Message) {
			if strings.HasPrefix(m.Subject, "p.") {
				if p := decode(t, m); p.Type == badType {
					t.Errorf("%s holds a bad point of %s", name, p.Node)
				}
				return
			}
			if !strings.HasPrefix(m.Subject, "log.") {
				return
			}
			f, err := frame.Decode(m.Data, author)
			if err != nil {
				t.Errorf("%s message %d: %v", name, m.Seq, err)
				return
			}
			for i := range f.Entries {
				if f.Entries[i].Type == badType {
					t.Errorf("%s holds a bad point of %s", name, f.Entries[i].Node)
				}
			}
		})
	}
}
