package link

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
)

// These tests run two real peers with real logs over a radio that is made of
// timers, in the time of a synctest bubble: an hour takes a second, and what
// is asserted about time is exact.

// radio is a line with a rate and a delay, one queue each way.
type radio struct {
	rate  float64 // bytes a second
	delay time.Duration
	nat   time.Duration // silence after which the way down is forgotten; 0 for never

	mu     sync.Mutex
	up     bool
	dark   bool         // open at both ends, nothing arrives
	life   int          // of the connection: what is on its way when it ends is lost
	free   [2]time.Time // when the last byte has left
	used   time.Time    // when something was sent last
	bytes  [2]int
	pings  []time.Duration // how long each took
	made   int             // connections
	notify func(up bool)
}

// perMessage is about what NATS adds to a message.
const perMessage = 40

// send moves n bytes one way and calls arrive when they are there.
func (r *radio) send(way, n int, arrive func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.nat > 0 && !r.used.IsZero() && now.Sub(r.used) > r.nat {
		r.dark = true
	}
	r.used = now
	if !r.up {
		return
	}
	if r.free[way].Before(now) {
		r.free[way] = now
	}
	r.free[way] = r.free[way].Add(time.Duration(float64(n) / r.rate * float64(time.Second)))
	r.bytes[way] += n
	life := r.life
	time.AfterFunc(r.free[way].Add(r.delay).Sub(now), func() {
		r.mu.Lock()
		lost := r.dark || !r.up || r.life != life
		r.mu.Unlock()
		if !lost {
			arrive()
		}
	})
}

// stall holds everything back for a while.
func (r *radio) stall(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for way := range r.free {
		if now := time.Now(); r.free[way].Before(now) {
			r.free[way] = now
		}
		r.free[way] = r.free[way].Add(d)
	}
}

// redial is how long a new connection takes.
const redial = 2 * time.Second

// cut ends the connection and has it made anew after a while.
func (r *radio) cut(again time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.dark = false, false
	r.life++
	life := r.life
	go r.notify(false)
	time.AfterFunc(again, func() {
		r.mu.Lock()
		mine := r.life == life
		r.mu.Unlock()
		if mine {
			r.open()
		}
	})
}

// open makes a connection.
func (r *radio) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.free, r.used = true, [2]time.Time{}, time.Time{}
	r.made++
	go r.notify(true)
}

func (r *radio) halfOpen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dark = true
}

// ping sends a PING that the far end answers, as nats-server does.
func (r *radio) ping(ctx context.Context, every time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		began := time.Now()
		r.send(0, 6, func() {
			r.send(1, 6, func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.pings = append(r.pings, time.Since(began))
			})
		})
	}
}

// locked is a disk that two goroutines share.
type locked struct {
	mu sync.Mutex
	disk
}

func (d *locked) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk.Append(ctx, data, last)
}

func (d *locked) Last(ctx context.Context) (journal.Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk.Last(ctx)
}

func (d *locked) Next(ctx context.Context, seq uint64) (journal.Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk.Next(ctx, seq)
}

// station is a gateway and a hub at two ends of a radio.
type station struct {
	t       *testing.T
	radio   *radio
	log     *journal.Log
	gw, hub *Peer
	stored  locked // the gateway's log at the hub
	in      *journal.Replica
	rng     *rand.Rand
	level   [30]int

	mu     sync.Mutex
	heads  map[point.Series]frame.Entry // own winners of the gateway
	dirty  map[point.Series]bool
	urgent map[point.Series]bool
	seen   map[point.Series]uint64 // newest time that the hub knows
	delays []time.Duration         // of values that went live
	waits  []time.Duration         // of points that came with the log
	alarms map[uint64]time.Duration
	spent  [Classes]int
	afford func(Class, int) time.Duration
	pace   func() Pace
	sent   [2]map[byte]int // frames each way, by version
}

func newStation(t *testing.T, rate float64, trip time.Duration, pace Pace) *station {
	return newStationOf(t, rate, trip, pace, frame.Version, frame.Version)
}

// newStationOf has ends that read and write frames up to a version.
func newStationOf(t *testing.T, rate float64, trip time.Duration, pace Pace, gwVersion, hubVersion uint8) *station {
	ctx := t.Context()
	s := &station{
		t: t, rng: rand.New(rand.NewPCG(1, 2)), radio: &radio{rate: rate, delay: trip / 2},
		heads: map[point.Series]frame.Entry{}, dirty: map[point.Series]bool{}, urgent: map[point.Series]bool{},
		seen: map[point.Series]uint64{}, alarms: map[uint64]time.Duration{},
	}
	now := func() uint64 { return point.Nanos(time.Now()) }
	var gw *Peer
	var err error
	s.log, err = journal.Open(ctx, journal.Config{
		Store: &locked{}, Author: "gw", Every: pace.Flush, Now: now,
		Notify: func(journal.Committed) { gw.Appended() }, Queued: func() { gw.Appended() },
	})
	if err != nil {
		t.Fatal(err)
	}
	down, err := journal.OpenReplica(ctx, &locked{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := journal.OpenReplica(ctx, &s.stored)
	if err != nil {
		t.Fatal(err)
	}
	s.in = in
	out, err := journal.Open(ctx, journal.Config{Store: &locked{}, Author: "gw", Kind: frame.Relay, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	carry := func(way int, to **Peer) func(string, []byte) error {
		s.sent[way] = map[byte]int{}
		return func(verb string, data []byte) error {
			if verb == subject.Frame {
				if _, _, rest, err := readHead(data); err == nil {
					s.mu.Lock()
					s.sent[way][rest[1]]++
					s.mu.Unlock()
				}
			}
			s.radio.send(way, len(data)+perMessage, func() { (*to).Deliver(verb, data) })
			return nil
		}
	}
	common := Config{
		Now: now, Random: journal.RandomBits, OnAcked: func(frame.Position) {}, HeadsSent: func() {},
		Cut: func() { s.radio.cut(redial) },
	}
	c := common
	c.Version = gwVersion
	c.Gateway, c.Out, c.In, c.Author, c.Send = true, s.log, down, state.Hub, carry(0, &s.hub)
	c.Heads = func(context.Context, bool) ([]frame.Entry, error) { return nil, nil }
	c.Live, c.LiveSent = s.live, func([]frame.Entry) {}
	c.Store = func(ctx context.Context, f *frame.Frame) ([]AsideCount, error) {
		_, err := down.Append(ctx, f)
		return nil, err
	}
	c.Merge = func(context.Context, *frame.Frame, bool) error { return nil }
	s.pace = func() Pace { return pace }
	c.Pace = func() Pace { return s.pace() }
	c.Afford = func(class Class, n int) time.Duration {
		if s.afford == nil {
			return 0
		}
		return s.afford(class, n)
	}
	c.Spent = func(class Class, sent, received int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.spent[class] += sent + received
	}
	gw = NewPeer(c)
	s.gw = gw
	c = common
	c.Version = hubVersion
	c.Out, c.In, c.Author, c.Send = out, in, "gw", carry(1, &s.gw)
	c.Heads = func(context.Context, bool) ([]frame.Entry, error) { return nil, nil }
	c.Cut = func() {}
	c.Store = func(ctx context.Context, f *frame.Frame) ([]AsideCount, error) {
		if !f.Verify() {
			t.Error("frame does not match its sum")
		}
		_, err := in.Append(ctx, f)
		s.arrived(f, false)
		return nil, err
	}
	c.Merge = func(_ context.Context, f *frame.Frame, _ bool) error { s.arrived(f, true); return nil }
	s.hub = NewPeer(c)
	s.radio.notify = gw.SetConnected
	return s
}

// run starts all parts until the returned function is called.
func (s *station) run() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.log.Run(ctx) })
	wg.Go(func() { _ = s.gw.Run(ctx) })
	wg.Go(func() { _ = s.hub.Run(ctx) })
	wg.Go(func() { s.radio.ping(ctx, 2*time.Minute) })
	return func() { cancel(); wg.Wait() }
}

// sample writes one second of 30 sensors, at a time.
func (s *station) sample(at time.Time) {
	list := make([]frame.Entry, len(s.level))
	for i := range list {
		s.level[i] += int(s.rng.NormFloat64() * 3)
		list[i].Point = point.Point{
			Series:   point.Series{Node: fmt.Sprintf("sensor-%02d-abcdef", i), Type: "value", Key: point.NoKey},
			Time:     point.Nanos(at.Truncate(time.Millisecond)) + uint64(s.rng.IntN(40))*1e6,
			DataType: point.Float, Data: point.FloatData(float64(2000+s.level[i]) / 100),
		}
	}
	s.write(list...)
}

func (s *station) write(list ...frame.Entry) {
	for i := range list {
		one := list[i : i+1]
		if err := s.log.Add(one, nil); err != nil {
			s.t.Error(err)
			return
		}
		s.mu.Lock()
		s.heads[one[0].Series], s.dirty[one[0].Series] = one[0], true
		s.mu.Unlock()
	}
}

// backlog writes the samples of the last hours.
func (s *station) backlog(hours int) {
	begin := time.Now().Add(-time.Duration(hours) * time.Hour)
	for i := range hours * 3600 {
		s.sample(begin.Add(time.Duration(i) * time.Second))
		if i%300 == 0 {
			if err := s.log.Commit(s.t.Context()); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// alarm writes a point that goes ahead of everything.
func (s *station) alarm() {
	e := frame.Entry{Point: point.Point{
		Series: point.Series{Node: "door-abcdefghijkl", Type: "alarm", Key: point.NoKey},
		Time:   point.Nanos(time.Now()) / 1e6 * 1e6, DataType: point.Uint, Data: []byte{1},
	}}
	s.write(e)
	s.mu.Lock()
	s.urgent[e.Series] = true
	s.mu.Unlock()
	s.gw.LiveDue()
}

func (s *station) live(ctx context.Context, all bool) (list []frame.Entry, err error) {
	if err := s.log.Commit(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	take := func(m map[point.Series]bool) {
		for series := range m {
			list = append(list, s.heads[series])
			delete(m, series)
		}
	}
	if take(s.urgent); all {
		take(s.dirty)
	}
	slices.SortFunc(list, func(a, b frame.Entry) int { return a.Series.Compare(b.Series) })
	return list, nil
}

// arrived notes what the hub knows now.
func (s *station) arrived(f *frame.Frame, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range f.Entries {
		e := &f.Entries[i]
		if !live {
			s.waits = append(s.waits, time.Since(point.TimeOf(e.Time)))
		}
		if e.Time <= s.seen[e.Series] {
			continue
		}
		s.seen[e.Series] = e.Time
		delay := time.Since(point.TimeOf(e.Time))
		if e.Type == "alarm" {
			s.alarms[e.Time] = delay
		} else if live {
			s.delays = append(s.delays, delay)
		}
	}
}

// check compares what the hub stored with what the gateway wrote: each point
// once, in order.
func (s *station) check() {
	s.t.Helper()
	synctest.Wait()
	next := uint64(1)
	for i, data := range s.stored.msgs {
		f, err := frame.Decode(data, "gw")
		if err != nil {
			s.t.Fatalf("frame %d: %v", i, err)
		}
		if f.First != next || f.Gap() != 0 {
			s.t.Fatalf("frame %d begins at %d, want %d", i, f.First, next)
		}
		next = f.Last + 1
	}
	if tail := s.log.Tail().Seq; next != tail+1 {
		s.t.Errorf("the hub has %d points, the gateway wrote %d", next-1, tail)
	}
}

func (s *station) caughtUp() bool { return s.log.Lag(s.gw.Status().Acked) == 0 }

func percentile(list []time.Duration, p float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)-1, int(float64(len(list))*p))]
}

// TestFlush writes at moments that have nothing to do with the flush: no point
// waits for a commit besides, and a flush is one commit.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip = 150 * time.Millisecond
		pace := Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute}
		s := newStation(t, 50*125, trip, pace)
		stop := s.run()
		defer stop()
		s.radio.open()
		const minutes = 30
		for range minutes * 60 {
			s.write(frame.Entry{Point: point.Point{
				Series: point.Series{Node: "sensor", Type: "value", Key: point.NoKey},
				Time:   point.Nanos(time.Now()), DataType: point.Float, Data: point.FloatData(1),
			}})
			time.Sleep(time.Duration(600+s.rng.IntN(800)) * time.Millisecond)
		}
		time.Sleep(2 * pace.Flush)
		s.check()
		s.mu.Lock()
		defer s.mu.Unlock()
		if worst := percentile(s.waits, 1); len(s.waits) == 0 || worst > pace.Flush+2*trip {
			t.Errorf("of %d points the last one came after %s, want at most a flush and two round trips", len(s.waits), worst)
		}
		if frames, most := int(s.log.Stream()), minutes*60*11/100+2; frames > most {
			t.Errorf("%d commits, want at most %d: one a flush", frames, most)
		}
	})
}

// TestBurst writes 30 points every minute, with some time between them: they
// go in one frame.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute}
		s := newStation(t, 50*125, 150*time.Millisecond, pace)
		stop := s.run()
		defer stop()
		s.radio.open()
		const bursts = 10
		for range bursts {
			for i := range 30 {
				s.write(frame.Entry{Point: point.Point{
					Series: point.Series{Node: fmt.Sprint("sensor-", i), Type: "value", Key: point.NoKey},
					Time:   point.Nanos(time.Now()), DataType: point.Float, Data: point.FloatData(1),
				}})
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(time.Minute)
		}
		s.check()
		if frames := len(s.stored.msgs); frames != bursts {
			t.Errorf("%d frames, want one for each of %d bursts", frames, bursts)
		}
	})
}

// A new interval of empty frames is announced by a new session.
func TestAnnounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := Pace{Flush: time.Second, Idle: 5 * time.Minute}
		s := newStation(t, 50*125, 150*time.Millisecond, pace)
		s.pace = func() Pace { s.mu.Lock(); defer s.mu.Unlock(); return pace }
		stop := s.run()
		defer stop()
		s.radio.open()
		for _, idle := range []time.Duration{pace.Idle, 15 * time.Minute} {
			s.mu.Lock()
			pace.Idle = idle
			s.mu.Unlock()
			s.gw.PaceChanged()
			time.Sleep(time.Minute)
			if got := s.hub.Status().Idle; got != idle {
				t.Errorf("the hub expects a silence of %s, want %s", got, idle)
			}
		}
		if hellos := s.gw.Status().Hellos; hellos != 2 {
			t.Errorf("%d sessions, want one for each interval", hellos)
		}
	})
}

// TestRadio is an hour with a backlog of six more, cuts, stalls of 10 s, half
// an hour half-open, and a router that forgets silent connections.
func TestRadio(t *testing.T) {
	for _, kbit := range []int{20, 50, 100} {
		for _, trip := range []time.Duration{150 * time.Millisecond, 300 * time.Millisecond} {
			t.Run(fmt.Sprintf("%dkbit,%s", kbit, trip), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { anHour(t, kbit, trip) })
			})
		}
	}
}

func anHour(t *testing.T, kbit int, trip time.Duration) {
	pace := Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute}
	s := newStation(t, float64(kbit)*125, trip, pace)
	s.radio.nat = 4 * time.Minute // shorter than the longest silence
	begin := time.Now()
	for i := range 3600 {
		s.sample(begin.Add(time.Duration(i-3600) * time.Second))
	}
	stop := s.run()
	defer stop()
	s.radio.open()
	faults := 0
	for i := range 3600 {
		switch {
		case i%600 == 250:
			s.radio.stall(10 * time.Second)
		case i%900 == 400:
			s.radio.cut(time.Minute)
			faults++
		case i == 1700: // found by the next frame
			s.radio.halfOpen()
			faults++
		}
		if i < 2500 || i > 3100 { // ten minutes of silence
			s.sample(time.Now())
		}
		time.Sleep(time.Second)
	}
	synctest.Wait()
	faults += 2 // the router forgot it during the silence, twice at most
	for n := 0; !s.caughtUp(); n++ {
		if n > 3600 {
			t.Fatalf("still %d points behind", s.log.Lag(s.gw.Status().Acked))
		}
		time.Sleep(time.Second)
	}
	s.check()
	if s.radio.made > 1+faults {
		t.Errorf("%d connections, want at most one and one for each of %d faults", s.radio.made, faults)
	}
	// A ping waits behind one frame each way, and a stall.
	limit := 10*time.Second + 3*longestFrame + 2*trip
	if worst := percentile(s.radio.pings, 1); len(s.radio.pings) == 0 || worst > limit {
		t.Errorf("%d pings, the slowest took %s, want at most %s", len(s.radio.pings), worst, limit)
	}
	t.Logf("%d connections, %d B up, %d B down, %d points, slowest ping %s", s.radio.made, s.radio.bytes[0], s.radio.bytes[1], s.log.Tail().Seq, percentile(s.radio.pings, 1))
}

var hoursFlag = flag.Int("hours", 6, "hours of 30 sensors that TestDrain sends")

// TestDrain sends hours of 30 sensors over 50 kbit/s while they go on: the
// line is used, and values that are new do not wait for those that are old.
func TestDrain(t *testing.T) {
	for _, trip := range []time.Duration{150 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(trip.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { drain(t, trip) })
		})
	}
}

func drain(t *testing.T, trip time.Duration) {
	hours := *hoursFlag
	pace := Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute}
	s := newStation(t, 50*125, trip, pace)
	begin := time.Now()
	s.backlog(hours)
	stop := s.run()
	defer stop()
	s.radio.open()
	n := 0
	for ; s.gw.Status().Behind || n < 10; n++ {
		if n > 2*3600 {
			t.Fatalf("still %d points behind", s.log.Lag(s.gw.Status().Acked))
		}
		s.sample(time.Now())
		if n%60 == 30 {
			s.alarm()
		}
		time.Sleep(time.Second)
	}
	took := time.Since(begin)
	s.mu.Lock()
	frames := s.spent[Backlog] + s.spent[Live]
	share := float64(frames) / (took.Seconds() * s.radio.rate)
	delays, alarms := slices.Clone(s.delays), []time.Duration{}
	for _, d := range s.alarms {
		alarms = append(alarms, d)
	}
	s.mu.Unlock()
	frameTime := min(max(tripsPerFrame*trip, shortestFrame), longestFrame)
	t.Logf("%s: %d h took %s, frames used %.1f %% of the line, live p50 %s p99 %s, alarms at most %s of %d",
		trip, hours, took, 100*share, percentile(delays, 0.5), percentile(delays, 0.99), percentile(alarms, 1), len(alarms))
	if share < 0.88 {
		t.Errorf("frames used %.1f %% of the line, want 88", 100*share)
	}
	if limit := 20*time.Minute*time.Duration(hours)/24 + time.Minute; took > limit {
		t.Errorf("it took %s, want at most %s", took, limit)
	}
	// A value is at most one flush old when it leaves, behind one frame.
	if got, limit := percentile(delays, 0.99), pace.Flush+2*trip+2*frameTime; len(delays) == 0 || got > limit {
		t.Errorf("p99 of %d live values: %s, want at most %s", len(delays), got, limit)
	}
	if got, limit := percentile(alarms, 1), trip+50*time.Millisecond+2*frameTime; len(alarms) != (n+29)/60 || got > limit {
		t.Errorf("%d alarms of %d, the slowest took %s, want at most %s", len(alarms), (n+29)/60, got, limit)
	}
	for !s.caughtUp() {
		time.Sleep(time.Second)
	}
	s.check()
}

// TestShortLives: a line that breaks every four seconds moves a backlog all
// the same, although a frame would take longer than that.
func TestShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, 20*125, 300*time.Millisecond, Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute})
		s.backlog(2)
		stop := s.run()
		defer stop()
		s.radio.open()
		lives := 0
		for ; !s.caughtUp(); lives++ {
			if lives > 600 {
				t.Fatalf("still %d points behind after %d connections", s.log.Lag(s.gw.Status().Acked), lives)
			}
			time.Sleep(4 * time.Second)
			s.radio.cut(redial)
			time.Sleep(redial)
		}
		s.check()
		t.Logf("%d connections for %d points", lives, s.log.Tail().Seq)
	})
}

// TestAlarmIdle: an alarm on an idle line takes one way and little else.
func TestAlarmIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const trip = 300 * time.Millisecond
		s := newStation(t, 50*125, trip, Pace{Flush: time.Minute, Idle: 15 * time.Minute})
		stop := s.run()
		defer stop()
		s.radio.open()
		time.Sleep(10 * time.Second)
		for range 5 {
			synctest.Wait()
			before := s.radio.bytes
			s.alarm()
			time.Sleep(70 * time.Second)
			synctest.Wait()
			t.Logf("an alarm: %d B up, %d B down, with its place in the log", s.radio.bytes[0]-before[0], s.radio.bytes[1]-before[1])
		}
		for at, d := range s.alarms {
			if d > trip+50*time.Millisecond {
				t.Errorf("alarm at %d took %s", at, d)
			}
		}
		if len(s.alarms) != 5 {
			t.Errorf("got %d alarms, want 5", len(s.alarms))
		}
	})
}

// TestOldVersion: an end that knows version 1 of the frame only gets no other,
// whichever end it is.
func TestOldVersion(t *testing.T) {
	// The codec's zstd is made once, and must not belong to a bubble.
	old := (&frame.Session{}).Encode(&frame.Frame{Kind: frame.Log, First: 1, Last: 200, Entries: make([]frame.Entry, 200)}, 1)
	if _, err := frame.Decode(old, "gw"); err != nil {
		t.Fatal(err)
	}
	for name, versions := range map[string][2]uint8{"old gateway": {1, 2}, "old hub": {2, 1}, "both new": {2, 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStationOf(t, 50*125, 150*time.Millisecond, Pace{Flush: 10 * time.Second, Idle: 5 * time.Minute}, versions[0], versions[1])
				stop := s.run()
				defer stop()
				s.radio.open()
				for range 300 {
					s.sample(time.Now())
					time.Sleep(time.Second)
				}
				for !s.caughtUp() {
					time.Sleep(time.Second)
				}
				s.check()
				want := min(versions[0], versions[1])
				for way, sent := range s.sent {
					if len(sent) != 1 || sent[want] == 0 {
						t.Errorf("way %d: frames by version are %v, want only %d", way, sent, want)
					}
				}
			})
		})
	}
}

// TestBudget: a gateway that has used up its budget sends its alarms in time,
// and all the rest the day after.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, 50*125, 150*time.Millisecond, Pace{Flush: time.Minute, Idle: 15 * time.Minute})
		s.radio.nat = 20 * time.Minute // empty frames go on
		begin := time.Now()
		day := begin.Add(24 * time.Hour)
		s.afford = func(class Class, _ int) time.Duration { return max(0, time.Until(day)) }
		stop := s.run()
		defer stop()
		s.radio.open()
		for i := range 25 * 60 { // minutes
			s.sample(time.Now())
			if i%120 == 60 {
				s.alarm()
			}
			if i == 23*60 {
				if pos := s.in.Position(); pos.Seq > 0 {
					t.Errorf("%d points went although the budget was used up", pos.Seq)
				}
			}
			time.Sleep(time.Minute)
		}
		for !s.caughtUp() {
			time.Sleep(time.Second)
		}
		s.check()
		if len(s.alarms) != 12 {
			t.Errorf("got %d alarms, want 12", len(s.alarms))
		}
		for at, d := range s.alarms {
			if d > 400*time.Millisecond { // it may meet an empty frame
				t.Errorf("alarm at %d took %s", at, d)
			}
		}
		if s.radio.made != 1 {
			t.Errorf("%d connections, want 1", s.radio.made)
		}
	})
}
