package link

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/subject"
)

// Limits of a peer.
const (
	// inboxSize bounds the messages that wait for a peer. The protocol has at
	// most one parcel and a few small messages on the way; what comes beyond
	// that is dropped and counted.
	inboxSize = 32
	// maxHeadsBytes bounds a heads frame of either kind, roughly; maxLiveBytes
	// one of newest values, which shall not take long on a slow line.
	maxHeadsBytes = 96 << 10
	maxLiveBytes  = 8 << 10
	// framePoints bounds the points of a frame. At 1.2 B each it takes 3 s at
	// 100 kbit/s.
	framePoints = 32_000
	// liveShare is how much of the bytes newest values may take while the log
	// is behind: one part in so many.
	liveShare = 5
	// leastPoints is what a frame is halved to when lines break again and
	// again; it doubles with each ack.
	leastPoints = 100
	// maxParcel bounds the bytes of a frame: what a connection carries in one
	// message, less what stands around it.
	maxParcel = 240 << 10
	// limitRetry is after how long it may be worth to bring new nodes and series
	// again that were set aside because there were too many.
	limitRetry = time.Hour
	// longestWait bounds the wait for an ack, whatever the line seemed to be.
	longestWait = 5 * time.Minute
)

// Config says what a peer connects.
type Config struct {
	Gateway bool // this end is the gateway
	Out     *journal.Log
	In      *journal.Replica
	Author  string         // who writes In
	Acked   frame.Position // last known end of Out at the other end

	// Send puts a message of a verb on its way; it must not block.
	Send func(verb string, data []byte) error
	// Store judges, stores and applies a frame of In. Its error is retried by
	// the other end.
	Store func(ctx context.Context, f *frame.Frame) ([]AsideCount, error)
	// Merge merges winners of the other end; durable on return unless live,
	// when the log brings them as well.
	Merge func(ctx context.Context, f *frame.Frame, live bool) error
	// Heads returns the winners that the other end should have, all durable
	// here: all of them, or those that SendHeads was called for.
	Heads func(ctx context.Context, all bool) ([]frame.Entry, error)
	// HeadsSent is called when the other end has them.
	HeadsSent func()
	// Live returns own winners that the other end should have before the log
	// brings them, all durable here: those that are urgent, or, while the log
	// is far behind, all that changed since the last time. LiveSent is called
	// with those that it has got, of which there may be fewer. Nil if there are
	// none ever.
	Live     func(ctx context.Context, all bool) ([]frame.Entry, error)
	LiveSent func([]frame.Entry)
	// Cut closes the connection so that a new one is made.
	Cut func()
	// Acked is called when the other end holds more of Out.
	OnAcked func(frame.Position)
	// OnGap is called before the other end, which stands at a place in Out, is
	// told of the gap before f; an error puts it off. Nil if nobody counts.
	OnGap func(at frame.Cursor, f *frame.Frame) error
	// OnTime tells the other end's estimate of hub time.
	OnTime func(ns uint64)
	// Pace says how often the log goes out and how long the line may be
	// silent; asked before each wait. At once and 5 min by default.
	Pace func() Pace
	// Afford returns how long to wait until n bytes of a class may go out, 0
	// for now; nil always allows. Urgent values are not asked about.
	Afford func(class Class, n int) time.Duration
	// Spent tells of bytes of a class that went out or came in.
	Spent func(class Class, sent, received int)
	// Version is the newest frame version of this end, frame.Version by default.
	Version uint8
	// Forks bounds how often the other end can make this one start a new
	// epoch and repeat its log; nil does not bound it.
	Forks *rate.Limiter
	// Limit bounds what the other end may cost this one; nil does not.
	Limit  Limiter
	Now    func() uint64 // estimate of hub time, ns
	Random func() uint64
	Log    zerolog.Logger
}

// Limiter bounds what the other end of a link may cost this one.
type Limiter interface {
	// Admit is asked before a message is read, and returns how long it has to
	// wait, 0 to take it now: a frame is answered with that, other messages are
	// dropped.
	Admit(verb string, bytes int) time.Duration
	// Took tells how many points the frame had that was admitted last.
	Took(points int)
}

// unlimited takes everything.
type unlimited struct{}

func (unlimited) Admit(string, int) time.Duration { return 0 }
func (unlimited) Took(int)                        {}

// Refusal is an error of Store, Merge and Heads that tells the other end why, and
// when to try again. It is not logged: who returns it counts it.
type Refusal struct {
	Code  Code
	Retry time.Duration
}

// Error names the code.
func (r Refusal) Error() string { return "refused: " + r.Code.String() }

// Pace is how a line is used.
type Pace struct {
	Flush time.Duration // between two pieces of the log
	Idle  time.Duration // longest silence; then an empty frame goes out
}

// Class is what bytes on the line are for.
type Class uint8

// The classes, the most urgent first.
const (
	Alarm    Class = iota // values that people wait for, ahead of the log
	Exchange              // winners that the two ends exchange, and all that comes down
	Live                  // the log as it is written, and newest values ahead of it
	Backlog               // the log where it is behind
	Control               // hellos, acks, empty frames
	Classes               // how many there are
)

var classNames = [...]string{"alarm", "exchange", "live", "backlog", "control"}

// String returns the name of the class, as in points and status.
func (c Class) String() string { return classNames[c] }

// Peer runs a Machine at one end of a link.
type Peer struct {
	cfg     Config
	machine *Machine
	inbox   chan message  // closed by nobody; bounded by inboxSize
	kick    chan struct{} // capacity 1: a flag below has changed

	mu        sync.Mutex
	connected bool
	changed   bool // of connected
	appended  bool
	headsDue  bool
	liveDue   bool
	status    Status

	// Used by Run only.
	timer    *time.Timer
	flush    *time.Timer // runs when the log may go out again
	due      time.Time   // when flush ends, zero when it does not run
	flushed  time.Time   // when the log went out last
	line     line
	out, in  frame.Session
	reads    uint8 // newest frame version that the other end reads
	gathered []frame.Entry
	ahead    []frame.Entry // newest values in flight
	limit    int           // points of the next piece of the log after one that did not get through; 0 for none
	spoke    time.Time     // when a parcel went out last
	idle     time.Duration // longest silence that the last hello announced
	behind   bool          // the log holds more than went out last
	retold   bool          // the last ack asked for names
	faults   rate.Sometimes

	// Bytes since it is behind: of the log, and of newest values.
	logBytes, liveBytes int
}

// maxJump bounds how far the generation of an epoch may lie beyond what this
// end knows: it grows by one with each unclean start, and must never run out
// because somebody lies.
const maxJump = 4096

// errForks is returned when the other end asks for too many new epochs.
var errForks = errors.New("too many new epochs")

type message struct {
	verb string
	data []byte
}

// Status is what a peer tells about its link.
type Status struct {
	Phase     Phase
	Halted    string         // why the link stopped for good
	Acked     frame.Position // end of the own log at the other end
	LastHeard time.Time      // of the last message that made sense
	Idle      time.Duration  // longest silence that the other end announced
	Aside     map[string]int // points set aside here or at the other end
	Refused   map[string]int // frames of the other end that were refused for themselves, by code
	Dropped   int            // messages that found the inbox full
	Malformed int            // messages that could not be read
	Hellos    int            // sessions opened
	Rate      int            // measured, bytes a second; 0 if not known
	RoundTrip time.Duration  // measured; 0 if not known
	Flying    bool           // a frame of this end is not acked yet
	Behind    bool           // the log holds more than goes out at once
}

// NewPeer returns a peer that is not connected.
func NewPeer(cfg Config) *Peer {
	if cfg.Pace == nil {
		cfg.Pace = func() Pace { return Pace{Idle: 5 * time.Minute} }
	}
	if cfg.Afford == nil {
		cfg.Afford = func(Class, int) time.Duration { return 0 }
	}
	if cfg.Spent == nil {
		cfg.Spent = func(Class, int, int) {}
	}
	if cfg.Limit == nil {
		cfg.Limit = unlimited{}
	}
	if cfg.Version == 0 {
		cfg.Version = frame.Version
	}
	p := &Peer{
		cfg: cfg, machine: NewMachine(cfg.Gateway, cfg.In.Position(), cfg.Acked, cfg.Random),
		inbox: make(chan message, inboxSize), kick: make(chan struct{}, 1),
		faults: rate.Sometimes{First: 3, Interval: time.Minute},
	}
	p.status.Acked = cfg.Acked
	p.status.Aside, p.status.Refused = map[string]int{}, map[string]int{}
	return p
}

// Deliver hands a message of the other end to the peer, and tells whether
// there was room for it.
func (p *Peer) Deliver(verb string, data []byte) bool {
	select {
	case p.inbox <- message{verb, data}:
		return true
	default:
		p.mu.Lock()
		p.status.Dropped++
		p.mu.Unlock()
		return false
	}
}

// SetConnected tells whether the way to the other end is open.
func (p *Peer) SetConnected(up bool) {
	p.mu.Lock()
	if p.connected != up {
		p.connected, p.changed = up, true
	}
	p.mu.Unlock()
	p.poke()
}

// Appended tells that Out has more, or will have with its next commit.
func (p *Peer) Appended() {
	p.mu.Lock()
	p.appended = true
	p.mu.Unlock()
	p.poke()
}

// SendHeads tells that the other end should get heads.
func (p *Peer) SendHeads() {
	p.mu.Lock()
	p.headsDue = true
	p.mu.Unlock()
	p.poke()
}

// LiveDue tells that the other end should get urgent values at once.
func (p *Peer) LiveDue() {
	p.mu.Lock()
	p.liveDue = true
	p.mu.Unlock()
	p.poke()
}

// PaceChanged tells that Pace or Afford say something else now.
func (p *Peer) PaceChanged() { p.Appended() }

func (p *Peer) poke() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Status returns a copy of what the peer knows.
func (p *Peer) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Aside, s.Refused = maps.Clone(s.Aside), maps.Clone(s.Refused)
	return s
}

// Run runs the link until ctx ends.
func (p *Peer) Run(ctx context.Context) error {
	p.timer, p.flush = stopped(), stopped()
	defer p.timer.Stop()
	defer p.flush.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-p.inbox:
			if ev := p.decode(m); ev != nil {
				p.step(ctx, ev)
			}
		case <-p.kick:
			for _, ev := range p.flags() {
				p.step(ctx, ev)
			}
		case <-p.flush.C:
			p.flushLog(ctx)
		case <-p.timer.C:
			p.step(ctx, Fired{})
		}
		p.mu.Lock()
		s := &p.status
		s.Phase, s.Acked, s.Behind = p.machine.Phase(), p.machine.AckedPosition(), p.behind
		s.Flying = p.machine.flying != nil
		s.Rate, s.RoundTrip = int(p.line.rate), p.line.trip
		p.mu.Unlock()
	}
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (p *Peer) flags() (events []Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.changed && !p.connected:
		events = append(events, Disconnected{})
	case p.changed, p.cfg.Gateway && p.machine.Phase() == Open && p.idle != p.cfg.Pace().Idle:
		events = append(events, Connected{}) // a new session, whose hello says what is new
	}
	if p.headsDue {
		events = append(events, HeadsDue{})
	}
	if p.liveDue {
		events = append(events, LiveDue{})
	}
	if p.appended {
		flush := p.cfg.Pace().Flush
		p.arm(max(flush/burst, flush-time.Since(p.flushed)))
	}
	p.changed, p.headsDue, p.liveDue, p.appended = false, false, false, false
	return events
}

// burst is the part of a flush interval that the first point after a silence
// waits for those that come with it: one frame for all costs half.
const burst = 10

// arm has the log go out after d, unless it does so earlier anyway.
func (p *Peer) arm(d time.Duration) {
	if due := time.Now().Add(d); p.due.IsZero() || due.Before(p.due) {
		p.due = due
		p.flush.Reset(d)
	}
}

// flushLog lets out what the log has, and commits it first: a point that
// waits for the line need not wait for the disk besides. While the log is
// behind, the newest values go ahead at the same pace.
func (p *Peer) flushLog(ctx context.Context) {
	p.due = time.Time{}
	if p.machine.Phase() != Open {
		return // its opening fetches
	}
	p.flushed = time.Now()
	if err := p.cfg.Out.Commit(ctx); err != nil && ctx.Err() == nil { // what is durable goes out all the same
		p.cfg.Log.Warn().Err(err).Msg("commit before a flush failed")
	}
	if p.behind && p.cfg.Live != nil {
		p.step(ctx, LiveDue{})
		p.arm(p.cfg.Pace().Flush) // the line may stay busy for longer
	}
	p.step(ctx, Appended{})
}

func (p *Peer) decode(m message) Event {
	var ev Event
	var err error
	switch m.verb {
	case subject.Hello:
		if p.cfg.Limit.Admit(m.verb, len(m.data)) > 0 {
			return nil
		}
		var h Hello
		if h, err = DecodeHello(m.data); err == nil {
			p.cfg.Spent(Control, 0, len(m.data))
			if h.In.Epoch.Generation() > p.cfg.Out.Tail().Epoch.Generation()+maxJump {
				err = ErrMessage
				break
			}
			p.heard(h.Time)
			p.silence(h.Idle)
			p.reads = h.Version
			p.out.Reset()
			p.in.Reset()
			if p.cfg.Gateway && p.machine.Phase() == Greeting && h.Conn == p.machine.conn {
				p.line.answered() // the hub answers a hello at once
			}
			ev = Greeted{h}
		}
	case subject.Frame:
		var q Parcel
		if q, err = p.parcel(m.data); err == nil {
			p.cfg.Spent(Exchange, 0, len(m.data))
			ev = Arrived{q}
		}
	case subject.Ack:
		var a Ack
		if a, err = DecodeAck(m.data); err == nil {
			p.heard(a.Time)
			p.cfg.Spent(Control, 0, len(m.data))
			p.answered(&a)
			ev = Answered{a}
		}
	default:
		err = ErrMessage
	}
	if err != nil {
		p.malformed()
		p.cfg.Log.Debug().Str("verb", m.verb).Int("bytes", len(m.data)).Msg("message of the link is malformed")
	}
	return ev
}

// parcel reads a parcel of the other end, if it may come now.
func (p *Peer) parcel(data []byte) (q Parcel, err error) {
	if wait := p.cfg.Limit.Admit(subject.Frame, len(data)); wait > 0 {
		if q, err = putOff(data, wait); err == nil && q.Conn == p.machine.conn {
			p.heard(0)
			p.in.Reset() // as the sender does
		}
		return q, err
	}
	if q, err = DecodeParcel(data, &p.in, p.machine.conn, p.cfg.Author); err != nil || q.Conn != p.machine.conn {
		return q, err
	}
	p.heard(0)
	if q.Frame != nil && q.Frame.Epoch.Generation() > p.cfg.In.Position().Epoch.Generation()+maxJump {
		q.Frame, q.Fault = nil, Damaged
	}
	switch {
	case q.Frame != nil:
		p.cfg.Limit.Took(len(q.Frame.Entries))
		return q, nil
	case q.Fault == Damaged || q.Fault == Size: // found out at its end, maybe
		p.cfg.Limit.Took(frame.MaxPoints)
	}
	p.faults.Do(func() {
		p.cfg.Log.Warn().Stringer("code", q.Fault).Int("bytes", len(data)).Msg("frame refused")
	})
	return q, nil
}

func (p *Peer) malformed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Malformed++
}

func (p *Peer) silence(announced time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Idle = announced
}

func (p *Peer) heard(hubTime uint64) {
	p.mu.Lock()
	p.status.LastHeard = time.Now()
	p.mu.Unlock()
	if hubTime != 0 && p.cfg.OnTime != nil {
		p.cfg.OnTime(hubTime)
	}
}

// countRefusal counts what the other end was told was wrong with a frame.
func (p *Peer) countRefusal(c Code) {
	switch c {
	case Gap, Superseded, Damaged, Version, Size, Series:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.status.Refused[c.String()]++
	}
}

func (p *Peer) countAside(counts []AsideCount) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range counts {
		p.status.Aside[c.Reason.String()] += int(c.Count)
	}
}

// step runs one event and all that follows from it.
func (p *Peer) step(ctx context.Context, ev Event) {
	for ev != nil {
		before, flying := p.machine.Phase(), p.machine.flying
		actions := p.machine.Step(ev)
		ev = nil
		if flying != nil && before == Open && p.machine.Phase() != Open && flying.Frame.Kind != frame.Heads {
			// The line did not live long enough for it.
			p.limit = max(leastPoints, len(flying.Frame.Entries)/2)
		}
		for _, a := range actions {
			if answer := p.do(ctx, a); answer != nil {
				ev = answer
			}
		}
		if after := p.machine.Phase(); after != before {
			if after == Down { // the next session begins anew
				p.out.Reset()
				p.in.Reset()
			}
			p.cfg.Log.Debug().Stringer("phase", after).Msg("link phase changed")
		}
	}
}

// do performs an action and returns the event that answers it, if one does.
func (p *Peer) do(ctx context.Context, a Action) Event {
	switch a := a.(type) {
	case Greet:
		p.greet(ctx, a.Conn)
	case Send:
		return p.sendParcel(&a.Parcel)
	case Reply:
		p.countRefusal(a.Ack.Code)
		a.Ack.Time, a.Ack.Newest = p.cfg.Now(), p.cfg.Out.Tail().Seq
		data := a.Ack.Encode()
		p.cfg.Spent(Control, len(data), 0)
		p.send(subject.Ack, data)
	case Locate:
		return p.locate(ctx, a.Pos)
	case Fork:
		if p.cfg.Forks != nil && !p.cfg.Forks.Allow() {
			p.cfg.Log.Warn().Msg("too many new epochs asked for")
			return Forked{Err: errForks}
		}
		err := p.cfg.Out.Fork(ctx, a.Before, a.Acked)
		if err != nil {
			p.cfg.Log.Error().Err(err).Msg("new epoch failed")
		}
		return Forked{Err: err}
	case Fetch:
		return p.fetch(ctx, a.After)
	case Gather:
		if a.Live {
			return p.gatherLive(ctx)
		}
		return p.gather(ctx, a.First, a.All)
	case Store:
		return p.store(ctx, a.Frame)
	case Merge:
		if err := p.cfg.Merge(ctx, a.Frame, a.Live); err != nil {
			return p.failed(err)
		}
		return Stored{In: p.cfg.In.Position()}
	case Wait:
		p.timer.Stop()
		if a.For > 0 {
			d := a.For
			if a.Sent {
				d = max(d, min(3*p.line.expected(), longestWait))
			}
			p.timer.Reset(d)
		}
	case Idle:
		p.timer.Reset(max(0, p.cfg.Pace().Idle-time.Since(p.spoke)))
	case Cut:
		p.cfg.Log.Info().Msg("no answer, connection cut")
		p.mu.Lock()
		p.connected = false // so that the next connection is news, even at once
		p.mu.Unlock()
		p.cfg.Cut()
	case Acked:
		p.cfg.OnAcked(a.Pos)
	case HeadsSent:
		p.cfg.HeadsSent()
	case LiveSent:
		p.cfg.LiveSent(p.ahead)
	case Halt:
		p.mu.Lock()
		p.status.Halted = a.Reason
		p.mu.Unlock()
		p.cfg.Log.Error().Str("reason", a.Reason).Msg("link stopped")
	}
	return nil
}

// locate finds where the other end stands. An epoch that is not of this log
// means a clone only if this log itself was acked, else the other end knows an
// earlier box; and only if it came after what was acked, else an older copy
// of the other end was put back.
func (p *Peer) locate(ctx context.Context, pos frame.Position) Event {
	acked := p.machine.AckedPosition()
	ours := p.cfg.Out.Started(acked.Epoch)
	err := p.cfg.Out.Locate(ctx, pos)
	if err != nil {
		p.cfg.Log.Info().Err(err).Msg("the other end stands elsewhere")
		newer := pos.Epoch.Generation() > acked.Epoch.Generation()
		return Located{Err: err, Clone: p.cfg.Gateway && ours && newer && errors.Is(err, journal.ErrUnknown)}
	}
	behind := ours && p.cfg.Out.Lag(pos) > p.cfg.Out.Lag(acked)
	return Located{Parted: behind || p.cfg.Out.Parted(pos)}
}

func (p *Peer) send(verb string, data []byte) {
	if err := p.cfg.Send(verb, data); err != nil {
		p.cfg.Log.Warn().Err(err).Str("verb", verb).Msg("send failed")
	}
}

func (p *Peer) greet(ctx context.Context, conn uint32) {
	p.idle = p.cfg.Pace().Idle
	h := Hello{
		Conn: conn, Version: p.cfg.Version, Idle: p.idle, Time: p.cfg.Now(),
		Out: p.cfg.Out.Tail(), OutFirst: p.cfg.Out.First(ctx), In: p.cfg.In.Position(),
	}
	p.mu.Lock()
	p.status.Hellos++
	p.mu.Unlock()
	data := h.Encode()
	p.line.sent(len(data), 0)
	p.spoke = time.Now()
	p.cfg.Spent(Control, len(data), 0)
	p.send(subject.Hello, data)
}

// sendParcel encodes and sends a parcel, and notes what it takes.
func (p *Peer) sendParcel(q *Parcel) Event {
	if q.Frame.Now == 0 {
		q.Frame.Now = p.cfg.Now() / uint64(time.Millisecond) * uint64(time.Millisecond)
		q.Frame.Admit()
	}
	data := q.Encode(&p.out, min(p.reads, p.cfg.Version))
	if len(data) > maxParcel { // the connection would not carry it
		p.cfg.Log.Warn().Int("bytes", len(data)).Int("points", len(q.Frame.Entries)).Msg("parcel is too large, a smaller one follows")
		p.limit = max(1, len(q.Frame.Entries)/2)
		p.out.Reset()
		return Answered{Ack{Conn: q.Conn, Number: q.Number, Code: Series}}
	}
	class := p.class(q)
	p.spoke = time.Now()
	p.line.sent(len(data), len(q.Frame.Entries))
	if q.Live {
		p.liveBytes += len(data)
	} else {
		p.logBytes += len(data)
	}
	p.cfg.Spent(class, len(data), 0)
	p.send(subject.Frame, data)
	return nil
}

// class tells what a parcel is for.
func (p *Peer) class(q *Parcel) Class {
	switch {
	case q.Live && !p.behind:
		return Alarm
	case q.Live:
		return Live
	case q.Frame.Kind != frame.Log:
		return Exchange
	case len(q.Frame.Entries) == 0:
		return Control
	case p.behind:
		return Backlog
	}
	return Live
}

// answered learns from an ack how the line is, and what the other end knows.
func (p *Peer) answered(a *Ack) {
	q := p.machine.flying
	if q == nil || a.Conn != q.Conn || a.Number != q.Number {
		return
	}
	p.countAside(a.Aside)
	if again := a.Code == Series; again && p.retold {
		a.Code = Damaged // it got all names: what it says does not help
	} else {
		p.retold = again
	}
	switch p.line.answered(); a.Code {
	case OK:
		if p.limit *= 2; p.limit > framePoints {
			p.limit = 0
		}
	case Size:
		p.limit = max(1, len(q.Frame.Entries)/2)
		fallthrough
	default:
		p.out.Reset() // it may not have read the frame
	}
}

// fetch reads the next piece of the log, if it may go out.
func (p *Peer) fetch(ctx context.Context, after frame.Position) Event {
	points := p.line.points()
	if p.limit > 0 {
		points = min(points, p.limit)
	}
	class, lag := Live, p.cfg.Out.Lag(after)
	if p.behind = p.behind || lag > uint64(points); p.behind {
		class = Backlog
	}
	if wait := p.cfg.Afford(class, p.line.bytes(min(points, int(lag)))); wait > 0 {
		p.arm(wait)
		return Fetched{}
	}
	f, err := p.cfg.Out.After(ctx, after, points)
	if err != nil {
		if ctx.Err() == nil {
			p.cfg.Log.Error().Err(err).Msg("read log failed")
		}
		return Fetched{Err: err}
	}
	if f != nil && f.Gap() > 0 && p.cfg.OnGap != nil {
		if err := p.cfg.OnGap(after.Cursor, f); err != nil {
			p.cfg.Log.Warn().Err(err).Msg("gap not told yet")
			return Fetched{Err: err}
		}
	}
	more := f != nil && f.End() != p.cfg.Out.Tail()
	if p.behind = more; !more {
		p.logBytes, p.liveBytes = 0, 0
	}
	return Fetched{Frame: f, More: more}
}

// gatherLive makes a frame of the newest values.
func (p *Peer) gatherLive(ctx context.Context) Event {
	if p.cfg.Live == nil {
		return Gathered{Live: true}
	}
	all := p.behind && p.liveBytes*liveShare <= p.logBytes+p.liveBytes && p.cfg.Afford(Live, maxLiveBytes) == 0
	list, err := p.cfg.Live(ctx, all)
	if err != nil || len(list) == 0 {
		return Gathered{Live: true, Err: err}
	}
	n := fits(list, maxLiveBytes)
	p.ahead = list[:n]
	f := &frame.Frame{Kind: frame.Heads, Entries: slices.Clone(p.ahead)}
	return Gathered{Live: true, Frame: f, More: n < len(list)}
}

// fits returns how many entries go into a frame of about so many bytes, at
// least one.
func fits(list []frame.Entry, limit int) int {
	n, size := 0, 0
	for n < len(list) && (n == 0 || size+len(list[n].Data) <= limit) {
		size += len(list[n].Data) + 64
		n++
	}
	return n
}

func (p *Peer) gather(ctx context.Context, first, all bool) Event {
	if first {
		var err error
		if p.gathered, err = p.cfg.Heads(ctx, all); err != nil {
			if r := (Refusal{}); !errors.As(err, &r) {
				p.cfg.Log.Warn().Err(err).Msg("heads not sent, trying again")
			}
			return Gathered{Err: err}
		}
	}
	n := fits(p.gathered, maxHeadsBytes)
	if n == 0 {
		return Gathered{}
	}
	f := &frame.Frame{Kind: frame.Heads, Entries: p.gathered[:n]}
	p.gathered = p.gathered[n:]
	return Gathered{Frame: f, More: len(p.gathered) > 0}
}

func (p *Peer) store(ctx context.Context, f *frame.Frame) Event {
	aside, err := p.cfg.Store(ctx, f)
	if err != nil {
		return p.failed(err)
	}
	p.countAside(aside)
	ev := Stored{In: p.cfg.In.Position(), Aside: aside}
	if slices.ContainsFunc(aside, func(c AsideCount) bool { return c.Reason == frame.Limit }) {
		ev.Retry = limitRetry
	}
	return ev
}

func (p *Peer) failed(err error) Event {
	if r := (Refusal{}); errors.As(err, &r) {
		return Stored{In: p.cfg.In.Position(), Code: r.Code, Retry: r.Retry}
	}
	p.cfg.Log.Warn().Err(err).Msg("frame not stored")
	code := Busy
	if errors.Is(err, journal.ErrDiskFull) {
		code = DiskFull
	}
	return Stored{In: p.cfg.In.Position(), Code: code, Retry: 5 * time.Second}
}
