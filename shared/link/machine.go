// Package link owns the protocol between a gateway and the hub: one frame in
// flight each way, acked, over subjects that both ends compute (PROTOCOL.md).
//
// Machine is the protocol: a pure state machine without clock, goroutine or
// NATS. Peer drives one with a journal and a connection. Both directions and
// both ends run the same code; the gateway opens sessions, the hub answers.
// The link guarantees that every frame of a log is stored at the other end
// once and in order, or reported as a gap; what a frame means it leaves to
// the journal and the bus.
package link

import (
	"errors"
	"fmt"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
)

// Waits of the protocol. Nothing is resent on a timer: TCP does that. A wait
// that ends leads to a hello, and one more to a new connection.
const (
	answerWait = 15 * time.Second // at least; longer for a large frame
	localWait  = 5 * time.Second  // before what failed here is tried again: a full disk, mostly
	faultWait  = time.Minute      // before a frame is tried again that the other end cannot read
)

// Event is something that happened to a machine.
type Event interface{ event() }

// Events.
type (
	// Connected: the way to the other end is open.
	Connected struct{}
	// Disconnected: it is closed.
	Disconnected struct{}
	// Greeted: a hello arrived.
	Greeted struct{ Hello Hello }
	// Arrived: a parcel arrived.
	Arrived struct{ Parcel Parcel }
	// Answered: an ack arrived.
	Answered struct{ Ack Ack }
	// Appended: the own log has more.
	Appended struct{}
	// HeadsDue: the other end should get heads.
	HeadsDue struct{}
	// LiveDue: the other end should get the newest values before the log
	// brings them.
	LiveDue struct{}
	// Fired: the timer ran out.
	Fired struct{}

	// Located answers Locate.
	Located struct {
		Err    error // nil, journal.ErrUnknown, ErrAhead, ErrDiffers, or a failure to read
		Clone  bool  // the epoch is not of this log although the other end has acked this log before
		Parted bool  // the other end went back, or another way: each may hold winners that the other lacks
	}
	// Forked answers Fork.
	Forked struct{ Err error }
	// Fetched answers Fetch.
	Fetched struct {
		Frame *frame.Frame // nil: nothing to send
		More  bool         // the log goes on behind it
		Err   error
	}
	// Gathered answers Gather.
	Gathered struct {
		Frame *frame.Frame // nil: no heads to send
		Live  bool         // as in Gather
		More  bool         // another piece follows
		Err   error        // they could not be made durable
	}
	// Stored answers Store and Merge.
	Stored struct {
		In    frame.Position // end of the other's log here
		Code  Code
		Retry time.Duration
		Aside []AsideCount
		Want  bool // this end lacks heads
	}
)

func (Connected) event()    {}
func (Disconnected) event() {}
func (Greeted) event()      {}
func (Arrived) event()      {}
func (Answered) event()     {}
func (Appended) event()     {}
func (HeadsDue) event()     {}
func (LiveDue) event()      {}
func (Fired) event()        {}
func (Located) event()      {}
func (Forked) event()       {}
func (Fetched) event()      {}
func (Gathered) event()     {}
func (Stored) event()       {}

// Action is something that the driver of a machine must do. An action that
// is answered by an event is the last of its list, and its answer comes
// before any other event.
type Action interface{ action() }

// Actions.
type (
	// Greet: send a hello with this connection id.
	Greet struct{ Conn uint32 }
	// Send: send a parcel.
	Send struct{ Parcel Parcel }
	// Reply: send an ack; the driver adds time and newest number.
	Reply struct{ Ack Ack }
	// Locate: find a position in the own log; answered by Located.
	Locate struct{ Pos frame.Position }
	// Fork: start a new epoch of the own log after Before, repeating what the
	// other end has not acked; answered by Forked.
	Fork struct {
		Before frame.Position
		Acked  frame.Cursor
	}
	// Fetch: read the own log after a position; answered by Fetched.
	Fetch struct{ After frame.Position }
	// Gather: make the next piece of heads, the first if First, or the newest
	// values if Live; answered by Gathered.
	// With All they are all winners that the other end should have, else those
	// that SendHeads was called for.
	Gather struct{ First, Live, All bool }
	// Store: judge, store and apply a log frame; answered by Stored.
	Store struct{ Frame *frame.Frame }
	// Merge: merge a heads frame, durably unless it is Live; answered by
	// Stored.
	Merge struct {
		Frame *frame.Frame
		Live  bool
	}
	// Wait: set the one timer, replacing it; 0 stops it. With Sent the driver
	// makes it three times what the parcel just sent should take, if longer.
	Wait struct {
		For  time.Duration
		Sent bool
	}
	// Idle: set the timer to the interval of empty frames.
	Idle struct{}
	// Cut: close the connection, so that a new one is made.
	Cut struct{}
	// Acked: the other end holds the own log up to a position.
	Acked struct{ Pos frame.Position }
	// HeadsSent: the other end has all heads that were gathered.
	HeadsSent struct{}
	// LiveSent: the other end has the newest values that were gathered last.
	LiveSent struct{}
	// Halt: stop for good, for a reason that people must see.
	Halt struct{ Reason string }
)

func (Greet) action()     {}
func (Send) action()      {}
func (Reply) action()     {}
func (Locate) action()    {}
func (Fork) action()      {}
func (Fetch) action()     {}
func (Gather) action()    {}
func (Store) action()     {}
func (Merge) action()     {}
func (Wait) action()      {}
func (Idle) action()      {}
func (Cut) action()       {}
func (Acked) action()     {}
func (HeadsSent) action() {}
func (LiveSent) action()  {}
func (Halt) action()      {}

// Phase is where a session stands.
type Phase uint8

// The phases of a session.
const (
	Down     Phase = iota // no connection, or nobody said hello
	Greeting              // this end waits for a hello
	Locating              // looking for the other end's position in the own log
	Open                  // frames flow
	Halted                // stopped for good
)

var phaseNames = [...]string{"down", "greeting", "locating", "open", "halted"}

// String returns the name of the phase.
func (p Phase) String() string { return phaseNames[p] }

// ReasonClone is the reason of Halt for two gateways with one credential.
const ReasonClone = "another gateway uses this credential and has written since; enrol this one again"

// Machine is one end of a link. The zero value is not ready: use NewMachine.
type Machine struct {
	gateway bool // opens sessions
	random  func() uint64

	phase Phase
	up    bool
	conn  uint32 // session, 0 for none
	asked bool   // the hub asked for a hello and waits

	// Sending.
	target  frame.Position // where the other end says it stands, while locating
	answer  bool           // a hello is owed once located
	acked   frame.Position // end of the own log at the other end
	number  uint32         // of the last parcel sent
	flying  *Parcel        // in flight
	fetched bool           // the log had nothing after acked
	waiting bool           // the other end asked to wait
	heads   headsState
	mended  frame.Cursor // end of the gap that heads were sent for last
	live    bool         // newest values must be sent
	turn    bool         // the last parcel was of newest values: the log is next
	want    bool         // ask for the other end's heads with the next parcel

	// Receiving.
	in     frame.Position
	parcel *Parcel // being stored
}

type headsState struct {
	due     bool // heads must be sent
	all     bool // all of them
	started bool // the first piece has been gathered
	more    bool // after the piece in flight another follows
	again   bool // new ones became due meanwhile
	// and all of them
	againAll bool
}

// NewMachine returns a machine that is down. A gateway opens sessions; the
// hub answers. in is the end of the other's log here, acked the last known
// end of the own log there, random makes connection ids.
func NewMachine(gateway bool, in, acked frame.Position, random func() uint64) *Machine {
	return &Machine{gateway: gateway, in: in, acked: acked, random: random}
}

// Phase returns where the session stands.
func (m *Machine) Phase() Phase { return m.phase }

// AckedPosition returns the end of the own log that the other end is known to
// hold.
func (m *Machine) AckedPosition() frame.Position { return m.acked }

// Step takes one event and returns what to do, in order.
func (m *Machine) Step(ev Event) []Action {
	if m.phase == Halted {
		return nil
	}
	switch ev := ev.(type) {
	case Connected:
		m.up = true
		if m.gateway {
			return m.greet()
		}
	case Disconnected:
		m.up = false
		m.close()
		return []Action{Wait{}}
	case Greeted:
		return m.greeted(ev.Hello)
	case Located:
		return m.located(ev)
	case Forked:
		return m.forked(ev)
	case Arrived:
		return m.arrived(ev.Parcel)
	case Stored:
		return m.stored(ev)
	case Answered:
		return m.answered(ev.Ack)
	case Appended:
		m.fetched = false
		return m.pump()
	case HeadsDue:
		if m.heads.started {
			m.heads.again = true
		} else {
			m.heads.due = true
		}
		return m.pump()
	case LiveDue:
		m.live = true
		return m.pump()
	case Fetched:
		return m.gotFrame(ev)
	case Gathered:
		return m.gotHeads(ev)
	case Fired:
		return m.fired()
	}
	return nil
}

// close ends the session.
func (m *Machine) close() {
	m.live = m.live || m.flying != nil && m.flying.Live
	m.phase, m.conn, m.flying, m.parcel = Down, 0, nil, nil
	m.waiting, m.asked, m.answer = false, false, false
	m.heads.restart()
}

func (h *headsState) restart() {
	*h = headsState{due: h.due || h.started, all: h.all || h.againAll}
}

// exchange has all heads sent.
func (h *headsState) exchange() {
	if h.started {
		h.again, h.againAll = true, true
		return
	}
	h.due, h.all = true, true
}

// next is what is due once what was gathered has got there.
func (h *headsState) next() headsState {
	return headsState{due: h.again, all: h.againAll}
}

// greet opens a new session at the gateway; the hub asks for one.
func (m *Machine) greet() []Action {
	m.close()
	if !m.gateway {
		m.asked = true
		return []Action{Greet{}, Wait{For: answerWait}}
	}
	if !m.up {
		return nil
	}
	m.phase = Greeting
	for m.conn == 0 {
		m.conn = uint32(m.random())
	}
	return []Action{Greet{Conn: m.conn}, Wait{For: answerWait}}
}

func (m *Machine) greeted(h Hello) []Action {
	if m.gateway {
		switch {
		case h.Conn == 0:
			return m.greet()
		case h.Conn != m.conn || m.phase != Greeting:
			return nil // an answer to an earlier session
		}
	} else {
		if h.Conn == 0 {
			return nil
		}
		m.close()
		m.up, m.conn, m.answer = true, h.Conn, true
	}
	if h.In == (frame.Position{}) && !m.gateway {
		// A new or replaced box lacks what was there before; and if it got
		// winners already but no frame, this end may be the one that lost some.
		m.heads.exchange()
		m.want = true
	}
	m.number = 0
	return m.locate(h.In)
}

func (m *Machine) locate(pos frame.Position) []Action {
	m.phase, m.target = Locating, pos
	return []Action{Wait{}, Locate{pos}}
}

func (m *Machine) located(ev Located) []Action {
	if m.phase != Locating {
		return nil
	}
	switch {
	case ev.Err == nil:
		if ev.Parted {
			m.heads.exchange()
			m.want = true
		}
		return m.open()
	case ev.Clone:
		m.close()
		m.phase = Halted
		return []Action{Wait{}, Halt{ReasonClone}}
	case errors.Is(ev.Err, journal.ErrUnknown), errors.Is(ev.Err, journal.ErrAhead), errors.Is(ev.Err, journal.ErrDiffers):
		return []Action{Fork{Before: m.target, Acked: m.common(ev.Err)}}
	}
	return m.retreat()
}

// common returns up to where the two ends surely hold the same when the other
// one stands where this log cannot go on: what was acked, unless the other end
// has gone back behind it or is not the one that acked. Then all goes again.
func (m *Machine) common(err error) frame.Cursor {
	if errors.Is(err, journal.ErrUnknown) || m.target.Cursor.Less(m.acked.Cursor) {
		return frame.Cursor{}
	}
	return m.acked.Cursor
}

// retreat gives the session up after a failure here; the timer brings a new one.
func (m *Machine) retreat() []Action {
	m.close()
	m.phase = Greeting
	return []Action{Wait{For: answerWait}}
}

func (m *Machine) forked(ev Forked) []Action {
	if m.phase != Locating {
		return nil
	}
	if ev.Err != nil {
		return m.retreat()
	}
	// The two ends have parted: each may hold winners that the other lacks.
	m.heads.exchange()
	m.want = true
	return m.open()
}

func (m *Machine) open() []Action {
	m.phase, m.acked, m.fetched = Open, m.target, false
	actions := []Action{Acked{m.acked}}
	if m.answer {
		m.answer = false
		actions = append(actions, Greet{Conn: m.conn})
	}
	return append(actions, m.pump()...)
}

// pump sends the next parcel if none is in flight. Heads go before the log:
// they say what holds now, the log what was. Newest values go in turn with it.
func (m *Machine) pump() []Action {
	if m.phase != Open || m.flying != nil || m.waiting || m.parcel != nil {
		return nil
	}
	switch {
	case m.heads.due:
		return []Action{Gather{First: !m.heads.started, All: m.heads.all}}
	case m.live && (!m.turn || m.fetched):
		return []Action{Gather{Live: true}}
	case !m.fetched:
		return []Action{Fetch{m.acked}}
	}
	return []Action{Idle{}}
}

func (m *Machine) gotHeads(ev Gathered) []Action {
	if m.phase != Open || m.flying != nil {
		return nil
	}
	if ev.Err != nil {
		m.waiting = true
		m.heads.restart()
		return []Action{Wait{For: localWait}}
	}
	switch {
	case ev.Live:
		m.live, m.turn = ev.More, true
		if ev.Frame == nil {
			return m.pump()
		}
		return m.send(Parcel{Frame: ev.Frame, Live: true})
	case ev.Frame == nil:
		m.heads = m.heads.next()
		return append([]Action{HeadsSent{}}, m.pump()...)
	}
	m.heads.started, m.heads.more = true, ev.More
	return m.send(Parcel{Frame: ev.Frame})
}

func (m *Machine) gotFrame(ev Fetched) []Action {
	if m.phase != Open || m.flying != nil {
		return nil
	}
	switch {
	case ev.Err != nil:
		m.waiting = true
		return []Action{Wait{For: localWait}}
	case ev.Frame == nil:
		m.fetched, m.turn = true, false
		if m.want {
			return m.send(Parcel{Frame: m.empty()})
		}
		return m.pump()
	}
	if end := (frame.Cursor{Epoch: ev.Frame.Epoch, Seq: ev.Frame.First}); ev.Frame.Gap() > 0 && m.mended != end {
		// What is missing may have been the newest of its series: before the
		// other end hears of the gap it gets all that holds.
		m.mended = end
		m.heads.exchange()
		return m.pump()
	}
	m.fetched, m.turn = !ev.More, false
	return m.send(Parcel{Frame: ev.Frame})
}

// empty returns a frame without points at the end of what is acked.
func (m *Machine) empty() *frame.Frame {
	return &frame.Frame{
		Kind: frame.Log, Epoch: m.acked.Epoch, Prev: m.acked.Seq,
		First: m.acked.Seq + 1, Last: m.acked.Seq, Base: m.acked.Sum, Sum: m.acked.Sum,
	}
}

func (m *Machine) send(p Parcel) []Action {
	m.number++
	p.Conn, p.Number, p.Want = m.conn, m.number, m.want
	m.flying = &p
	return []Action{Send{*m.flying}, Wait{For: answerWait, Sent: true}}
}

func (m *Machine) answered(a Ack) []Action {
	if m.phase != Open || m.flying == nil || a.Conn != m.conn || a.Number != m.flying.Number {
		return nil
	}
	p := m.flying
	m.flying = nil
	if a.Want {
		m.heads.exchange()
	}
	switch a.Code {
	case OK:
	case Gap, Superseded:
		m.live = m.live || p.Live
		return m.greet()
	case Series: // again, with all that the other end has not learnt
		m.again(p)
		return m.pump()
	case Rate, Busy, DiskFull:
		return m.pause(p, max(a.Retry, time.Second))
	default: // the other end cannot read the frame
		return m.pause(p, faultWait)
	}
	if p.Want {
		m.want = false
	}
	if p.Live {
		return append([]Action{LiveSent{}}, m.pump()...)
	}
	if p.Frame.Kind == frame.Heads {
		return m.headsAcked()
	}
	if a.Done {
		a.Cursor = p.Frame.End()
	}
	if a.Cursor == p.Frame.End() {
		m.acked = a.Cursor
		return append([]Action{Acked{m.acked}}, m.pump()...)
	}
	if !m.acked.Less(a.Cursor.Cursor) {
		return m.greet() // nothing moves: not again and again
	}
	return m.locate(a.Cursor) // it holds more or less than expected: cut again there
}

// again has what a parcel carried sent once more.
func (m *Machine) again(p *Parcel) {
	m.live = m.live || p.Live
	m.fetched = false
	m.heads.restart()
}

// pause has it sent once more after a while.
func (m *Machine) pause(p *Parcel, d time.Duration) []Action {
	m.again(p)
	m.waiting = true
	return []Action{Wait{For: d}}
}

func (m *Machine) headsAcked() []Action {
	if m.heads.more {
		return m.pump()
	}
	if m.heads = m.heads.next(); m.heads.due {
		return m.pump()
	}
	return append([]Action{HeadsSent{}}, m.pump()...)
}

func (m *Machine) arrived(p Parcel) []Action {
	if m.phase != Open || p.Conn != m.conn {
		if !m.gateway && p.Conn != m.conn && !m.asked && m.phase != Locating {
			return m.greet()
		}
		return nil
	}
	if m.parcel != nil {
		return nil // a second one before the ack of the first: not of this protocol
	}
	if p.Frame == nil {
		return []Action{m.reply(&p, p.Fault, p.Retry)}
	}
	if p.Frame.Kind == frame.Heads {
		m.parcel = &p
		return []Action{Merge{p.Frame, p.Live}}
	}
	switch p.Frame.Follows(m.in) {
	case frame.Continues:
		m.parcel = &p
		return []Action{Store{p.Frame}}
	case frame.Missing:
		return []Action{m.reply(&p, Gap, 0)}
	case frame.Superseded:
		return []Action{m.reply(&p, Superseded, 0)}
	}
	return m.finish([]Action{m.reply(&p, OK, 0)}, &p) // known: the cursor tells
}

func (m *Machine) reply(p *Parcel, code Code, retry time.Duration) Reply {
	done := code == OK && (p.Frame.Kind == frame.Heads || p.Frame.End() == m.in)
	return Reply{Ack{Conn: p.Conn, Number: p.Number, Code: code, Retry: retry, Done: done, Cursor: m.in}}
}

func (m *Machine) stored(ev Stored) []Action {
	p := m.parcel
	m.parcel, m.in = nil, ev.In
	if p == nil || m.phase != Open {
		return nil
	}
	r := m.reply(p, ev.Code, ev.Retry)
	r.Ack.Aside, r.Ack.Want = ev.Aside, ev.Want
	return m.finish([]Action{r}, p)
}

// finish notes what a parcel asked for besides, and goes on sending.
func (m *Machine) finish(actions []Action, p *Parcel) []Action {
	if p.Want {
		m.heads.exchange()
	}
	return append(actions, m.pump()...)
}

func (m *Machine) fired() []Action {
	switch {
	case m.phase == Open && m.waiting:
		m.waiting, m.fetched = false, false
		return m.pump()
	case m.phase == Open && m.flying != nil:
		return m.greet()
	case m.phase == Open:
		if m.gateway {
			return m.send(Parcel{Frame: m.empty()})
		}
		return nil
	case m.gateway && m.phase == Greeting && m.conn == 0:
		return m.greet()
	case m.gateway && m.phase == Greeting:
		m.close()
		m.up = false
		return []Action{Cut{}}
	}
	m.close()
	return nil
}

// String describes an action for logs and goldens.
func String(a Action) string {
	switch a := a.(type) {
	case Send:
		return fmt.Sprintf("Send #%d %s", a.Parcel.Number, describe(&a.Parcel))
	case Reply:
		return fmt.Sprintf("Reply #%d %s cursor %s", a.Ack.Number, a.Ack.Code, place(a.Ack.Cursor))
	case Locate:
		return "Locate " + place(a.Pos)
	case Fork:
		return fmt.Sprintf("Fork after %s, acked %d", place(a.Before), a.Acked.Seq)
	case Fetch:
		return "Fetch after " + place(a.After)
	case Store:
		return fmt.Sprintf("Store %d..%d", a.Frame.First, a.Frame.Last)
	case Merge:
		what := "heads"
		if a.Live {
			what = "newest values"
		}
		return fmt.Sprintf("Merge %d %s", len(a.Frame.Entries), what)
	case Acked:
		return "Acked " + place(a.Pos)
	case Wait:
		if a.For == 0 {
			return "Wait stop"
		}
		return fmt.Sprintf("Wait %s", a.For)
	}
	return fmt.Sprintf("%T%+v", a, a)[len("link."):]
}

func place(p frame.Position) string { return fmt.Sprintf("%d/%d", p.Epoch.Generation(), p.Seq) }

func describe(p *Parcel) string {
	want := ""
	if p.Want {
		want = " want heads"
	}
	if p.Live {
		return fmt.Sprintf("%d newest values%s", len(p.Frame.Entries), want)
	}
	if p.Frame.Kind == frame.Heads {
		return fmt.Sprintf("%d heads%s", len(p.Frame.Entries), want)
	}
	return fmt.Sprintf("epoch %d %d..%d prev %d%s", p.Frame.Epoch.Generation(), p.Frame.First, p.Frame.Last, p.Frame.Prev, want)
}
