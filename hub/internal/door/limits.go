package door

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/subject"
)

// Limits bound what one gateway may cost the hub; 0 is no bound.
type Limits struct {
	bus.Limits
	Bytes  int // of frames, a second
	Points int // of frames, a second; a frame counts as frameCost points besides
}

const (
	// burst is how many seconds of a rate a gateway may save up: a backlog of
	// some hours then comes at once.
	burst = 10 * time.Second
	// frameCost is what a frame costs beside its points, as points: one of a
	// single point takes the hub 0.7 ms, 3.5 us are for the point.
	frameCost = 100
	// correctionCost is what a point costs that the hub has to write for one.
	correctionCost = 10
	// helloEvery and helloBurst bound sessions: each has the hub look up places
	// in logs. A gateway says hello once a connection.
	helloEvery = time.Second
	helloBurst = 20
	// headsEvery and headsBurst bound how often the winners below a gateway are
	// gathered for it: after a fork, or when it asks.
	headsEvery = 10 * time.Second
	headsBurst = 10
	// savesEvery and savesBurst bound the frames of winners that a snapshot has
	// to make durable: 256 of them hold some 360,000 series.
	savesEvery = time.Second
	savesBurst = 256
	// othersEvery and othersBurst bound what is said besides the link: wishes for
	// a new credential, and that another box has the key.
	othersEvery = time.Second
	othersBurst = 10
)

// What a gateway is refused, as it is counted.
const (
	refusedRate    = "rate"    // a frame came too soon
	refusedHello   = "hello"   // a hello did
	refusedHeads   = "heads"   // so did a wish for winners
	refusedDropped = "dropped" // a message found no room: sent without waiting for acks
	refusedFlood   = "flood"   // a connection was closed for that
	refusedReply   = "reply"   // a reply subject was ignored
	refusedHeader  = "header"  // headers were
	// refusedMalformed is a message that is none of the link, or a frame that
	// cannot be read.
	refusedMalformed = "malformed"
)

// limiter is what one gateway has left. It is safe for concurrent use.
type limiter struct {
	bytes, points        *rate.Limiter // take what they are asked for and say later how long to wait
	hellos, heads, saves *rate.Limiter
	others               *rate.Limiter
	refused              func(what string)
}

var _ link.Limiter = (*limiter)(nil)

func newLimiter(l Limits, refused func(string)) *limiter {
	return &limiter{
		bytes: perSecond(l.Bytes), points: perSecond(l.Points),
		hellos: rate.NewLimiter(rate.Every(helloEvery), helloBurst),
		heads:  rate.NewLimiter(rate.Every(headsEvery), headsBurst),
		saves:  rate.NewLimiter(rate.Every(savesEvery), savesBurst),

		others:  rate.NewLimiter(rate.Every(othersEvery), othersBurst),
		refused: refused,
	}
}

func perSecond(n int) *rate.Limiter {
	if n == 0 {
		return rate.NewLimiter(rate.Inf, math.MaxInt)
	}
	return rate.NewLimiter(rate.Limit(n), n*int(burst/time.Second))
}

// take takes n, of which there may be less: what is owed is waited for before
// the next time.
func take(l *rate.Limiter, n int) { l.ReserveN(time.Now(), min(n, l.Burst())) }

// owed returns how long it takes until nothing is owed, in whole ms as an ack
// tells it.
func owed(l *rate.Limiter) time.Duration {
	tokens := l.Tokens()
	if tokens >= 0 || l.Limit() == rate.Inf {
		return 0
	}
	return time.Duration(-tokens/float64(l.Limit())*1e3+1) * time.Millisecond
}

// Admit refuses frames of a gateway that owes, before any work is done for
// them: what a small frame unpacks to is known afterwards only.
func (l *limiter) Admit(verb string, bytes int) time.Duration {
	switch verb {
	case subject.Hello:
		if !l.hellos.Allow() {
			l.refused(refusedHello)
			return helloEvery
		}
	case subject.Frame:
		if wait := max(owed(l.bytes), owed(l.points)); wait > 0 {
			l.refused(refusedRate)
			return wait
		}
		take(l.bytes, bytes)
		take(l.points, frameCost)
	}
	return 0
}

// Took takes what a frame has turned out to hold.
func (l *limiter) Took(points int) { take(l.points, points) }

// save returns when a frame of winners may be made durable. A refusal would
// have all of them sent again.
func (l *limiter) save(ctx context.Context) error {
	if l.saves.Allow() {
		return nil
	}
	l.refused(refusedRate)
	return l.saves.Wait(ctx)
}

// corrected takes what it costs to answer edges that were set aside.
func (l *limiter) corrected(edges int) { take(l.points, correctionCost*edges) }

const (
	// saveShare is how much of the time may go into snapshots that gateways ask
	// for in the long run: one part in so many. Writing one stops all that
	// changes state.
	saveShare = 10
	// saveSpare is how much of it may be saved up, so that an exchange of all
	// winners after a fork does not wait.
	saveSpare = 2 * time.Minute
	// maxRest bounds what a large snapshot has others wait for the next one: a
	// gateway that waits for its ack gives up after 15 s.
	maxRest = 3 * time.Second
)

// saver writes one snapshot for all who wait for one.
type saver struct {
	save func() error
	turn chan struct{} // capacity 1: held by who writes
	time *rate.Limiter // that there is for it, in ms

	mu   sync.Mutex
	next *saving // not begun, nil if nobody waits
}

type saving struct {
	done chan struct{} // closed when err is there
	err  error
}

func newSaver(save func() error) *saver {
	return &saver{save: save, turn: make(chan struct{}, 1), time: rate.NewLimiter(1000/saveShare, int(saveSpare/time.Millisecond))}
}

// Save returns when a snapshot that was begun after the call is durable, or
// with the error of ctx.
func (s *saver) Save(ctx context.Context) error {
	s.mu.Lock()
	round := s.next
	first := round == nil
	if first {
		round = &saving{done: make(chan struct{})}
		s.next = round
	}
	s.mu.Unlock()
	if first {
		round.err = s.run(ctx)
		close(round.done)
	}
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run writes the snapshot of a round when it may begin.
func (s *saver) run(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		s.begin()
		return ctx.Err()
	}
	timer := time.NewTimer(min(owed(s.time), maxRest))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		s.begin()
		return ctx.Err()
	}
	s.begin()
	began := time.Now()
	err := s.save()
	take(s.time, int(time.Since(began)/time.Millisecond))
	return err
}

// begin ends the time in which others join a round.
func (s *saver) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
}
