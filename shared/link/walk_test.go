package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

var (
	seedFlag  = flag.Int64("seed", 0, "seed of the random walk; 0 takes the clock")
	walksFlag = flag.Int("walks", 300, "number of random walks")
)

// disk is a store in memory: the one part of this test that is not the real
// thing, so that a disk can be copied back and a run takes milliseconds.
type disk struct {
	msgs [][]byte
	fail func() bool // whether to fail now; nil: never
}

var errDisk = errors.New("disk says no")

func (d *disk) Append(_ context.Context, data []byte, last uint64) (uint64, error) {
	if last != uint64(len(d.msgs)) {
		return 0, journal.ErrConflict
	}
	if d.fail != nil && d.fail() {
		if len(data)%2 == 0 { // the answer is lost, the frame is not
			d.msgs = append(d.msgs, bytes.Clone(data))
		}
		return 0, errDisk
	}
	d.msgs = append(d.msgs, bytes.Clone(data))
	return last + 1, nil
}

func (d *disk) Last(context.Context) (journal.Message, error) {
	if len(d.msgs) == 0 {
		return journal.Message{}, journal.ErrEmpty
	}
	return journal.Message{Seq: uint64(len(d.msgs)), Data: d.msgs[len(d.msgs)-1]}, nil
}

func (d *disk) Next(_ context.Context, seq uint64) (journal.Message, error) {
	seq = max(seq, 1)
	if seq > uint64(len(d.msgs)) {
		return journal.Message{}, journal.ErrEmpty
	}
	return journal.Message{Seq: seq, Data: d.msgs[seq-1]}, nil
}

func (d *disk) copy() *disk { return &disk{slices.Clone(d.msgs), d.fail} }

// end is one end of the link: real journals, state and peer on disks in
// memory, driven by hand.
type end struct {
	name    string
	gateway bool
	out, in *disk
	acked   frame.Position // as a snapshot would have it
	state   *state.State
	saved   []byte // the snapshot of state

	log   *journal.Log
	peer  *Peer
	queue []message // on the way to this end
	other *end
	armed bool
	world *world
}

type backup struct {
	out, in *disk
	state   []byte
	acked   frame.Position
}

func (e *end) backup() backup { return backup{e.out.copy(), e.in.copy(), e.saved, e.acked} }

// save keeps the state as the bus does: with every point in it durable.
func (e *end) save() error {
	if err := e.log.Commit(context.Background()); err != nil {
		return err
	}
	var err error
	e.saved, err = e.state.Snapshot(struct{}{})
	return err
}

type world struct {
	t          *testing.T
	rng        *rand.Rand
	gw, hub    *end
	up         bool
	clock      uint64
	hubSeq     uint64
	parted     bool // a disk was exchanged or copied back: points may be repeated
	rolledBack bool // the gateway's was
	restored   bool // since the ends were last equal
	headsMoved bool // likewise: an end may know winners that no log has brought it
	trace      []string
	written    int
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), clock: 1_800_000_000_000_000_000}
	w.gw = &end{name: "gw", gateway: true, out: &disk{}, in: &disk{}, saved: mustSnapshot(t), world: w}
	w.hub = &end{name: "hub", out: &disk{}, in: &disk{}, saved: mustSnapshot(t), world: w}
	w.gw.other, w.hub.other = w.hub, w.gw
	w.gw.boot()
	w.hub.boot()
	return w
}

// boot opens everything from the disks, as a start after a crash does.
func (e *end) boot() {
	w, ctx := e.world, context.Background()
	kind := frame.Relay
	author := "gw" // who writes the log that arrives
	if e.gateway {
		kind, author = frame.Log, state.Hub
	}
	e.load()
	clean := w.rng.IntN(4) == 0 && !w.parted
	e.out.fail = func() bool { return w.rng.IntN(18) == 0 }
	var err error
again:
	e.log, err = journal.Open(ctx, journal.Config{
		Store: e.out, Author: "gw", Kind: kind, Clean: clean,
		Now: func() uint64 { return w.clock }, Random: w.rng.Uint64,
		Moved: func(list []frame.Entry) { // places decide ties
			for i := range list {
				e.state.Merge(&list[i])
			}
		},
	})
	if errors.Is(err, errDisk) {
		goto again // the process is started again
	}
	if err != nil {
		w.t.Fatalf("%s: open log: %v", e.name, err)
	}
	in, err := journal.OpenReplica(ctx, e.in)
	if err != nil {
		w.t.Fatalf("%s: open replica: %v", e.name, err)
	}
	e.peer = NewPeer(Config{
		Gateway: e.gateway, Out: e.log, In: in, Author: author, Acked: e.acked,
		Send: func(verb string, data []byte) error {
			if w.up {
				e.other.queue = append(e.other.queue, message{verb, data})
			}
			return nil
		},
		Store: func(ctx context.Context, f *frame.Frame) ([]AsideCount, error) {
			if w.rng.IntN(20) == 0 {
				return nil, errors.New("disk says no")
			}
			if !f.Verify() {
				w.t.Fatalf("%s: frame does not match its sum", e.name)
			}
			if _, err := in.Append(ctx, f); err != nil {
				return nil, err
			}
			e.merge(f)
			return nil, nil
		},
		Merge: func(_ context.Context, f *frame.Frame, live bool) error {
			e.merge(f)
			if live {
				return nil
			}
			w.headsMoved = true
			return e.save()
		},
		Live: e.live, LiveSent: func([]frame.Entry) {},
		Version: uint8(1 + w.rng.IntN(2)), // one end may be older than the other
		Afford: func(Class, int) time.Duration {
			if w.rng.IntN(10) == 0 {
				return time.Hour // until settle
			}
			return 0
		},
		Heads:     e.heads,
		HeadsSent: func() {},
		Cut:       func() { w.cut() },
		OnAcked:   func(p frame.Position) { e.acked = p },
		Now:       func() uint64 { return w.clock }, Random: w.rng.Uint64,
	})
	e.peer.timer, e.peer.flush = stopped(), stopped()
	e.queue, e.armed = nil, false
}

// load makes the state of the snapshot and the logs, as a start does.
func (e *end) load() {
	var err error
	if e.state, err = state.Restore(e.saved, &struct{}{}); err != nil {
		e.world.t.Fatal(err)
	}
	in := state.Hub
	if !e.gateway {
		in = "gw"
	}
	for author, d := range map[string]*disk{e.name: e.out, in: e.in} {
		list := e.world.points(d, author)
		e.merge(&frame.Frame{Entries: list})
	}
}

func (e *end) merge(f *frame.Frame) {
	for i := range f.Entries {
		e.state.Merge(&f.Entries[i])
	}
}

func (e *end) heads(ctx context.Context, _ bool) (list []frame.Entry, err error) {
	e.state.All(func(h *frame.Entry) { list = append(list, *h) })
	return list, e.log.Commit(ctx)
}

// live returns what the end itself wrote and still holds.
func (e *end) live(ctx context.Context, _ bool) (list []frame.Entry, err error) {
	e.state.All(func(h *frame.Entry) {
		if e.gateway && h.Author == "gw" {
			list = append(list, *h)
		}
	})
	return list, e.log.Commit(ctx)
}

// step runs an event through the real peer, noting its actions; timers are
// only noted.
func (e *end) step(ev Event) {
	for ev != nil {
		actions := e.peer.machine.Step(ev)
		ev = nil
		for _, a := range actions {
			e.world.note("%s: %s", e.name, String(a))
			switch a := a.(type) {
			case Wait:
				e.armed = a.For > 0
			case Idle:
				e.armed = true
			case Halt:
				e.world.halted(a.Reason)
				return
			default:
				ev = e.peer.do(context.Background(), a)
			}
		}
	}
}

// halted enrols the gateway again, which is what a person does whose gateway
// was put back to an older copy; one that never was must not halt.
func (w *world) halted(reason string) {
	w.note("-- gateway halts and is enrolled again")
	if !w.rolledBack {
		w.fail("gateway halts: %s", reason)
	}
	w.cut()
	w.gw.acked = frame.Position{}
	w.gw.boot()
	w.hub.step(HeadsDue{})
}

// write authors a group of points at an end.
func (e *end) write() {
	w := e.world
	entries := make([]frame.Entry, 1+w.rng.IntN(3))
	for i := range entries {
		if w.rng.IntN(5) > 0 {
			w.clock++
		}
		w.written++
		entries[i].Point = point.Point{
			Series: point.Series{Node: "n" + fmt.Sprint(w.rng.IntN(3)), Type: "v", Key: "0"}, Time: w.clock,
			DataType: point.Uint, Data: binary.LittleEndian.AppendUint64(nil, uint64(w.written)),
		}
	}
	if e.gateway {
		if err := e.log.Add(entries, nil); err != nil {
			w.t.Fatal(err)
		}
		if err := e.log.Commit(context.Background()); err != nil && !errors.Is(err, errDisk) {
			w.t.Fatal(err)
		}
	} else { // the hub's points have their place in its own log
		for i := range entries {
			w.hubSeq++
			entries[i].Author, entries[i].At = state.Hub, frame.Cursor{Epoch: 1 << 40, Seq: w.hubSeq}
			entries[i].More = i < len(entries)-1
		}
		covers := frame.Covers{Hub: w.hubSeq}
		for e.log.Covers() != covers { // as the relay does
			if err := e.log.Relay(context.Background(), slices.Clone(entries), 1, covers); err != nil && !errors.Is(err, errDisk) {
				w.t.Fatal(err)
			}
		}
	}
	for i := range entries {
		e.state.Merge(&entries[i])
	}
	w.note("%s writes %d", e.name, len(entries))
	e.step(Appended{})
}

func (e *end) deliver() bool {
	if len(e.queue) == 0 {
		return false
	}
	m := e.queue[0]
	e.queue = e.queue[1:]
	if ev := e.peer.decode(m); ev != nil {
		e.step(ev)
	}
	return true
}

func (w *world) cut() {
	if !w.up {
		return
	}
	w.note("-- cut")
	w.up = false
	w.gw.queue, w.hub.queue = nil, nil
	w.gw.step(Disconnected{})
	if w.rng.IntN(2) == 0 {
		w.hub.step(Disconnected{})
	}
}

func (w *world) connect() {
	if w.up {
		return
	}
	w.note("-- connect")
	w.up = true
	w.gw.step(Connected{})
}

// crash stops an end at this moment and starts it from its disks; what is on
// the way is lost with the connection.
func (w *world) crash(e *end) {
	w.note("-- crash %s", e.name)
	w.cut()
	if w.rng.IntN(3) == 0 {
		e.acked = frame.Position{} // the snapshot was older
		if e.gateway {
			e.acked = frame.Position{}
		}
	}
	h := e.peer.machine.heads
	e.boot()
	if h.due || h.started {
		e.step(HeadsDue{}) // a snapshot keeps what is due
	}
	e.other.step(Disconnected{})
}

// restore puts an older copy of an end's disks back.
func (w *world) restore(e *end, b backup) {
	w.note("-- restore %s", e.name)
	w.cut()
	w.parted = true
	w.rolledBack = w.rolledBack || e.gateway
	w.restored = true
	e.out, e.in = b.out.copy(), b.in.copy()
	e.saved, e.acked = b.state, b.acked
	if e.gateway {
		e.acked = frame.Position{} // enrolled again, and the hub sends what it knows
		defer w.hub.step(HeadsDue{})
	}
	if w.headsMoved {
		// Positions alone cannot show that this end forgot what the other one
		// knows from heads: it must be said, as a restore command does.
		defer e.other.step(HeadsDue{})
	}
	e.boot()
}

func (w *world) act(backups map[*end][]backup) {
	e := w.gw
	if w.rng.IntN(2) == 0 {
		e = w.hub
	}
	switch n := w.rng.IntN(100); {
	case n < 25:
		e.write()
	case n < 75:
		e.deliver()
	case n < 82:
		w.connect()
	case n < 86:
		w.cut()
	case n < 90:
		if e.armed {
			e.armed = false
			w.note("-- %s timer", e.name)
			e.step(Fired{})
		}
	case n < 93:
		w.crash(e)
	case n < 96:
		backups[e] = append(backups[e], e.backup())
	case n < 97:
		if w.rng.IntN(2) == 0 {
			e.step(LiveDue{})
		}
		if w.rng.IntN(2) == 0 {
			_ = e.save() // a snapshot that fails leaves the one before
		} else {
			e.step(HeadsDue{})
		}
	case n < 98:
		if list := backups[e]; len(list) > 0 && !w.restored {
			w.restore(e, list[w.rng.IntN(len(list))])
		}
	case n == 99 && w.rng.IntN(3) == 0 && !w.restored:
		w.note("-- new box")
		w.restore(w.gw, backup{out: &disk{}, in: &disk{}, state: mustSnapshot(w.t)})
	}
}

func mustSnapshot(t *testing.T) []byte {
	b, err := state.New().Snapshot(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// settle lets the link work undisturbed until both ends have nothing to say.
func (w *world) settle() {
	w.note("-- settle")
	for round := 0; round < 400; round++ {
		w.connect()
		for w.gw.log.Commit(context.Background()) != nil {
			continue // the disk takes it some time
		}
		w.gw.step(Appended{})
		w.hub.step(Appended{})
		for n := 0; w.gw.deliver() || w.hub.deliver(); n++ {
			if n > 10_000 {
				w.fail("the ends do not stop talking")
			}
		}
		if w.up && w.quiet() {
			w.restored, w.headsMoved = false, false
			return
		}
		for _, e := range []*end{w.gw, w.hub} {
			if e.armed && (e.peer.machine.flying != nil || e.peer.machine.waiting || e.peer.machine.phase != Open) {
				e.armed = false
				w.note("-- %s timer", e.name)
				e.step(Fired{})
			}
		}
	}
	w.fail("the ends never settle")
}

func (w *world) quiet() bool {
	for _, e := range []*end{w.gw, w.hub} {
		m := e.peer.machine
		if m.phase != Open || m.flying != nil || m.heads.due || m.waiting || !m.fetched || e.log.Lag(m.acked) != 0 {
			return false
		}
	}
	return true
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	from := max(0, len(w.trace)-400)
	for _, l := range w.trace[from:] {
		w.t.Log(l)
	}
	w.t.Fatalf(format, args...)
}

// points reads all that a disk holds, by identity.
func (w *world) points(d *disk, author string) (list []frame.Entry) {
	for i, data := range d.msgs {
		f, err := frame.Decode(data, author)
		if err != nil {
			w.fail("frame %d: %v", i, err)
		}
		if f.Gap() != 0 {
			w.fail("frame %d: a gap of %d although nothing was removed", i, f.Gap())
		}
		list = append(list, f.Entries...)
	}
	return list
}

func identity(e *frame.Entry) string {
	return fmt.Sprintf("%s %s %d %x", e.Author, e.Series, e.Time, e.Data)
}

// check compares what the ends have.
func (w *world) check() {
	for _, e := range []*end{w.gw, w.hub} {
		author := map[bool]string{true: "gw", false: state.Hub}[e.gateway]
		sent, got := w.points(e.out, author), w.points(e.other.in, author)
		if !w.parted {
			if len(sent) != len(got) {
				w.fail("%s wrote %d points, the other end has %d", e.name, len(sent), len(got))
			}
			for i := range sent {
				if identity(&sent[i]) != identity(&got[i]) || e.gateway && sent[i].At != got[i].At {
					w.fail("%s: point %d is %s there, not %s", e.name, i, identity(&got[i]), identity(&sent[i]))
				}
			}
			continue
		}
		have := map[string]bool{}
		for i := range got {
			have[identity(&got[i])] = true
		}
		for i := range sent {
			if !have[identity(&sent[i])] {
				w.fail("%s: point %s is not at the other end", e.name, identity(&sent[i]))
			}
		}
	}
	for i := 0; i < 3; i++ {
		s := point.Series{Node: "n" + fmt.Sprint(i), Type: "v", Key: "0"}
		a, b := w.gw.state.Get(s), w.hub.state.Get(s)
		if (a == nil) != (b == nil) || a != nil && identity(a) != identity(b) {
			w.fail("state of %s: gateway %s, hub %s", s, head(a), head(b))
		}
	}
}

func head(e *frame.Entry) string {
	if e == nil {
		return "none"
	}
	return fmt.Sprintf("%s at %d/%d", identity(e), e.At.Epoch.Generation(), e.At.Seq)
}

// TestWalk explores losses, repeats, crashes and restores of either end:
// nothing lost, nothing doubled, always ends equal. A second disk is exchanged
// only after the ends have become equal again: winners that are in no log
// travel as heads, and two copies put back in a row can lose them at both ends.
func TestWalk(t *testing.T) {
	seed := uint64(*seedFlag)
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("first seed %d; repeat one walk with -seed N -walks 1", seed)
	for i := range uint64(*walksFlag) {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
			w := newWorld(t, seed+i)
			backups := map[*end][]backup{}
			steps := 50 + w.rng.IntN(400)
			for i := range steps {
				w.act(backups)
				if i%100 == 99 || i == steps-1 {
					w.settle()
					w.check()
				}
			}
		})
	}
}

// TestVerbs holds the verbs to the subjects, which a peer decodes by name.
func TestVerbs(t *testing.T) {
	p := newWorld(t, 1).gw.peer
	p.machine.conn = 1
	p.machine.flying = &Parcel{Conn: 1, Frame: &frame.Frame{}}
	for verb, data := range map[string][]byte{
		subject.Hello: (&Hello{Conn: 1}).Encode(),
		subject.Ack:   (&Ack{Conn: 1, Aside: []AsideCount{{frame.Foreign, 3}}}).Encode(),
		subject.Frame: (&Parcel{Conn: 1, Frame: &frame.Frame{Kind: frame.Log, First: 1}}).Encode(&frame.Session{}, frame.Version),
	} {
		if p.decode(message{verb, data}) == nil {
			t.Errorf("%s is not decoded", verb)
		}
		for n := range data {
			p.decode(message{verb, data[:n]})
		}
	}
	if got := p.status.Aside["foreign"]; got < 3 {
		t.Errorf("points set aside: got %d, want at least 3", got)
	}
}
