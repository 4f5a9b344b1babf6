package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/frame"
)

// Span tells what was removed from the beginning of a log.
type Span struct {
	Stream string `json:"stream"`
	Below  uint64 `json:"below"`            // stream sequence: what stood before it is gone
	Points uint64 `json:"points"`           // how many
	Unsent uint64 `json:"unsent,omitempty"` // of them: those that nobody else has; maybe fewer until the other end was heard

	End  frame.Cursor `json:"end"`  // place of the last point that is gone
	Told uint64       `json:"told"` // of Unsent: those that the reader of the log was told of, as gaps
	Gap  uint64       `json:"gap"`  // of Told: the last gap
	At   frame.Cursor `json:"at"`   // the place before that gap
}

// Shelf is a stream of logs that a Keeper may remove frames from.
type Shelf struct {
	Name  string     // of the stream
	Store *JetStream // all its logs
	// Acked returns up to where another instance holds a log; nil if nobody
	// needs to.
	Acked func(subject string) frame.Cursor
	// Single tells that the stream has one log.
	Single bool
	// Spare tells that what is acked is no history here: it goes before all else.
	Spare bool
	// Chunked returns up to which message history needs no frame; nil if it
	// needs none.
	Chunked func() uint64
	// Safe returns up to which message state and views need no frame, once a
	// snapshot of now has been saved.
	Safe func() uint64
}

// KeeperConfig says what a keeper looks after. All fields but Max and Log must
// be set.
type KeeperConfig struct {
	Shelves []Shelf
	Max     uint64 // bytes of all shelves together; 0 for no limit
	// MaxAge is how old history gets; 0 for no limit.
	MaxAge time.Duration
	// Free returns the bytes left on the disk, and how many must be left.
	Free func() (free, reserve uint64)
	// Now returns hub time, ns.
	Now   func() uint64
	Spans map[string]Span // by subject, from the snapshot
	// Save writes a snapshot that holds Keeper.Planned.
	Save func() error
	// Saved returns, by shelf, up to which message state and views need no frame
	// with the snapshots that there are.
	Saved func() map[string]uint64
	Log   zerolog.Logger
}

// History is what a keeper needs of the chunks.
type History interface {
	// Settle makes chunks of all frames that there are.
	Settle(ctx context.Context) error
	// Bytes returns what the chunks take.
	Bytes(ctx context.Context) (uint64, error)
	// Remove removes the oldest chunks, bytes or as much as may go, must even of
	// the newest, and all that is older than a time in ns; it returns how many
	// bytes.
	Remove(ctx context.Context, bytes, must, before uint64) (uint64, error)
}

// Keeper removes the oldest frames of logs once they are in chunks. Those that
// others hold as well go after a day: until then they serve a reader that was
// restored from a backup. When all takes more than it may, they go earlier,
// then the oldest chunks, and frames that nobody else has only when that is not
// enough for Max. It never removes what the older of two snapshots does not
// cover, nor the last frame of a log, which is the writer's cursor.
type Keeper struct {
	cfg  KeeperConfig
	kick chan struct{} // capacity 1: the disk is full, or the logs have grown

	max    atomic.Uint64 // Config.Max, or what it was set to since
	maxAge atomic.Int64  // Config.MaxAge, likewise
	grown  atomic.Uint64 // bytes since the last look that they brought about

	mu      sync.Mutex
	spans   map[string]Span
	planned *plan   // what they will be; nil when nothing is planned
	history History // nil for none

	// Of Run and Tidy only.
	untold   bool      // no snapshot tells of spans yet
	undone   bool      // not all that spans tell of is removed yet
	retired  time.Time // when frames last went for their age
	relieved time.Time // when chunks last went to make room
}

const (
	// tidyEvery is how often a keeper looks.
	tidyEvery = 10 * time.Second
	// slack is what it removes at once besides: one part in so many of Max.
	slack = 16
	// blockBytes is what the server gives back to the disk at once.
	blockBytes = 8 << 20
	// messageBytes is about what a message takes besides its data.
	messageBytes = 60
	// frameAge is how long frames stay that are in chunks and held by others, ns.
	frameAge = uint64(24 * time.Hour)
	// retireEvery is how often those that are older go.
	retireEvery = time.Hour
	// relieveEvery is how often chunks are written and removed for a disk that
	// something else fills: the server gives their room back some minutes later.
	relieveEvery = 5 * time.Minute
	// purgeBytes is what must be left on the disk for a removal, of maxRemoved
	// messages at most. The server writes down which ones are gone, 30 B each,
	// and without room for that it never answers again (nats-server 2.15.2).
	purgeBytes = 1 << 20
	maxRemoved = purgeBytes / 32
)

// NewKeeper returns a keeper that is not running.
func NewKeeper(cfg KeeperConfig) *Keeper {
	k := &Keeper{cfg: cfg, kick: make(chan struct{}, 1), spans: maps.Clone(cfg.Spans)}
	if k.spans == nil {
		k.spans = map[string]Span{}
	}
	k.max.Store(cfg.Max)
	k.maxAge.Store(int64(cfg.MaxAge))
	return k
}

// SetLimits sets Config.Max and Config.MaxAge, from the next look on.
func (k *Keeper) SetLimits(maxBytes uint64, maxAge time.Duration) {
	k.max.Store(maxBytes)
	k.maxAge.Store(int64(maxAge))
	k.Kick()
}

// Max returns the bytes that all shelves may take together; 0 for no limit.
func (k *Keeper) Max() uint64 { return k.max.Load() }

// Attach gives the keeper the chunks, whose bytes count for Max. It is called
// before Run.
func (k *Keeper) Attach(h History) { k.history = h }

// Kick has the keeper look at once.
func (k *Keeper) Kick() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// Grew tells that the logs have grown. When it is much of what they may take,
// the keeper looks before its time.
func (k *Keeper) Grew(bytes int) {
	limit := k.Max()
	if limit == 0 {
		return
	}
	if n := k.grown.Add(uint64(bytes)); n > limit/slack {
		k.grown.Store(0)
		k.Kick()
	}
}

// Planned returns what a snapshot has to know: what is removed, or will be as
// soon as it is saved.
func (k *Keeper) Planned() map[string]Span {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.planned != nil {
		return k.planned.on(k.spans)
	}
	return maps.Clone(k.spans)
}

// Spans returns what was removed, by subject.
func (k *Keeper) Spans() map[string]Span {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.spans)
}

// Telling notes that the reader of a log, who stands at a place, is about to
// be told of the gap before f. It must be saved first: only so does a crash
// not make it uncertain whether the reader has got points or the gap. A gap at
// the same place takes the place of the last one, which did not get through.
func (k *Keeper) Telling(subject string, at frame.Cursor, f *frame.Frame) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.spans[subject]
	if !ok || s.End.Epoch < f.Epoch {
		return // nothing of it was removed
	}
	last := f.First - 1
	if s.End.Epoch == f.Epoch {
		last = min(last, s.End.Seq)
	}
	if s.At == at {
		s.Told -= s.Gap
	}
	s.At, s.Gap = at, last-min(last, f.Prev)
	s.Told += s.Gap
	k.spans[subject] = s
}

// Reached notes where the reader of a log stands. When it is behind all that
// was removed, it lacks what it was told of and no more, whatever was thought
// while it was not heard.
func (k *Keeper) Reached(subject string, at frame.Cursor) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.spans[subject]
	switch {
	case !ok:
		return
	case !at.Less(s.End):
		s.Unsent = s.Told
	case at == (frame.Cursor{}): // another reader than the one that was told
		s.Told, s.Gap, s.At = 0, 0, at
	}
	k.spans[subject] = s
}

// Run tidies until ctx ends. A removal that a crash interrupted is finished
// first.
func (k *Keeper) Run(ctx context.Context) error {
	k.undone = true
	if err := k.finish(ctx); err != nil && ctx.Err() == nil {
		k.cfg.Log.Error().Err(err).Msg("removal not finished")
	}
	full := false
	return daemon.Every(ctx, tidyEvery, k.kick, func() {
		err, before := k.Tidy(ctx), full
		if full = errors.Is(err, ErrDiskFull); full && before {
			return // said already
		}
		if err != nil && ctx.Err() == nil {
			k.cfg.Log.Error().Err(err).Msg("nothing removed, trying again")
		}
	})
}

// Tidy removes what is too much.
func (k *Keeper) Tidy(ctx context.Context) error {
	if k.untold {
		k.untold = k.cfg.Save() != nil
	}
	if err := k.finish(ctx); err != nil {
		return err
	}
	need, must, err := k.excess(ctx)
	if err != nil {
		return err
	}
	if need == 0 {
		return k.retire(ctx)
	}
	if k.history != nil && (must > 0 || time.Since(k.relieved) > relieveEvery) { // so that what goes is in chunks
		if err := k.history.Settle(ctx); err != nil {
			k.cfg.Log.Warn().Err(err).Msg("no chunks before a removal")
		}
	}
	plan, err := k.plan(ctx, func(s *Shelf) uint64 { return s.Safe() }, need, must)
	if plan == nil || err != nil {
		return err
	}
	if err := k.save(plan); err != nil {
		// A disk that is full has no room for that: what goes now is what the
		// snapshots that there are do without, and the next one tells of it.
		k.cfg.Log.Warn().Err(err).Msg("no snapshot before a removal")
		saved := k.cfg.Saved()
		if need, must, err = k.excess(ctx); err != nil { // chunks have gone meanwhile
			return err
		}
		plan, err = k.plan(ctx, func(s *Shelf) uint64 { return saved[s.Name] }, need, must)
		if plan == nil || err != nil {
			return err
		}
		k.untold = true
	}
	k.decide(plan)
	return k.remove(ctx)
}

// retire removes frames that are in chunks, held by others and a day old, and
// that the snapshots which there are do without.
func (k *Keeper) retire(ctx context.Context) error {
	if k.history == nil || time.Since(k.retired) < retireEvery {
		return nil
	}
	k.retired = time.Now()
	now := k.cfg.Now()
	if age := uint64(k.maxAge.Load()); age > 0 && age < now {
		if _, err := k.history.Remove(ctx, 0, 0, now-age); err != nil {
			return err
		}
	}
	saved := k.cfg.Saved()
	p := k.newPlan(func(s *Shelf) uint64 { return saved[s.Name] })
	if err := p.pass(ctx, false, math.MaxUint64, now-min(now, frameAge)); err != nil || p.frames == 0 {
		return err
	}
	if p.frames == maxRemoved { // there are more
		k.retired = time.Time{}
	}
	k.decide(p)
	return k.remove(ctx)
}

// save writes a plan into both snapshots: the older one must do without the
// frames as well.
func (k *Keeper) save(p *plan) error {
	k.setPlanned(p)
	defer k.setPlanned(nil)
	for range 2 {
		if err := k.cfg.Save(); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) setPlanned(p *plan) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.planned = p
}

// plan is what the spans become from what they were.
type plan struct {
	*Keeper
	safe          func(*Shelf) uint64
	before, spans map[string]Span
	freed         uint64
	frames        int  // that go
	needed        bool // something could go a little later
}

func (k *Keeper) newPlan(safe func(*Shelf) uint64) *plan {
	before := k.Spans()
	return &plan{Keeper: k, safe: safe, before: before, spans: maps.Clone(before)}
}

// on returns the spans of a plan with what was heard of readers since it was
// made.
func (p *plan) on(now map[string]Span) map[string]Span {
	spans := maps.Clone(p.spans)
	for subject, s := range spans {
		n := now[subject]
		s.Unsent += n.Unsent - p.before[subject].Unsent
		s.Told, s.Gap, s.At = n.Told, n.Gap, n.At
		spans[subject] = s
	}
	return spans
}

// decide makes a plan what is removed.
func (k *Keeper) decide(p *plan) {
	k.mu.Lock()
	defer k.mu.Unlock()
	spans := p.on(k.spans)
	for subject, s := range spans {
		if old := k.spans[subject]; s.Below > old.Below {
			k.cfg.Log.Info().Str("log", subject).Uint64("points", s.Points-old.Points).Uint64("nobody_else_has", s.Unsent-old.Unsent).Msg("oldest frames are removed")
		}
	}
	k.spans = spans
}

// excess returns how many bytes should go, and how many of them must even if
// nobody else has them.
func (k *Keeper) excess(ctx context.Context) (need, must uint64, err error) {
	// Twice what a guard asks for: a snapshot must still be possible.
	if free, reserve := k.cfg.Free(); free < 2*reserve {
		need = 2*reserve - free + blockBytes
	}
	limit := k.Max()
	if limit == 0 {
		return need, 0, nil
	}
	used := uint64(0)
	for i := range k.cfg.Shelves {
		n, err := k.cfg.Shelves[i].Store.Bytes(ctx)
		if err != nil {
			return 0, 0, err
		}
		used += n
	}
	if k.history != nil {
		n, err := k.history.Bytes(ctx)
		if err != nil {
			return 0, 0, err
		}
		used += n
	}
	if used <= limit {
		return need, 0, nil
	}
	must = used - limit
	return max(need, must+limit/slack), must, nil
}

// plan returns what the spans are when enough has gone, the oldest first; nil
// if nothing can go. safe tells up to where a shelf is not needed. Chunks go at
// once. What nobody else has goes only where nothing else could go a little
// later.
func (k *Keeper) plan(ctx context.Context, safe func(*Shelf) uint64, need, must uint64) (*plan, error) {
	p := k.newPlan(safe)
	if err := p.pass(ctx, false, need, math.MaxUint64); err != nil {
		return nil, err
	}
	if k.history != nil && p.freed < need && (p.freed < must || time.Since(k.relieved) > relieveEvery) {
		k.relieved = time.Now()
		n, err := k.history.Remove(ctx, need-p.freed, must-min(must, p.freed), 0)
		if err != nil {
			return nil, err
		}
		if p.freed += n; n > 0 {
			k.cfg.Log.Info().Uint64("bytes", n).Msg("oldest history is removed")
		}
	}
	if !p.needed {
		if err := p.pass(ctx, true, must, math.MaxUint64); err != nil {
			return nil, err
		}
	}
	if p.freed < must && p.frames < maxRemoved {
		k.cfg.Log.Warn().Uint64("bytes", must-p.freed).Bool("later", p.needed).Msg("store.max is exceeded: what is left cannot go, or not yet")
	}
	if p.frames == 0 {
		return nil, nil
	}
	return p, nil
}

// pass plans the removal of frames from before a time, of those that nobody
// else has only if unsent, until the plan frees as much as goal.
func (p *plan) pass(ctx context.Context, unsent bool, goal, before uint64) error {
	if p.freed >= goal {
		return nil
	}
	var list []*walk
	for i := range p.cfg.Shelves {
		s := &p.cfg.Shelves[i]
		w := &walk{Shelf: s, safe: p.safe(s), spans: p.spans, unsent: unsent, before: before, last: map[string]uint64{}, passed: map[string]bool{}}
		if s.Chunked != nil {
			w.safe = min(w.safe, s.Chunked())
		}
		if err := w.advance(ctx); err != nil {
			return err
		}
		list = append(list, w)
	}
	for p.freed < goal && p.frames < maxRemoved {
		w := oldest(list)
		if w == nil {
			break
		}
		p.frames++
		p.freed += uint64(len(w.msg.Data)) + messageBytes
		w.take()
		if err := w.advance(ctx); err != nil {
			return err
		}
	}
	for _, w := range list {
		p.needed = p.needed || w.needed
	}
	return nil
}

// walk goes over the frames of a shelf that may go, the oldest first.
type walk struct {
	*Shelf
	safe   uint64
	spans  map[string]Span
	unsent bool   // what nobody else has may go as well
	before uint64 // ns: only frames from before
	needed bool   // it ended before a frame that others hold and state or a view still needs

	msg    Message // the next one that may go
	frame  *frame.Frame
	acked  bool              // somebody else has it
	last   map[string]uint64 // newest message of each log, which stays
	passed map[string]bool   // logs of which a frame must stay, and so all behind it
}

// oldest returns the walk whose next frame is the oldest, nil at the end.
func oldest(list []*walk) *walk {
	var first *walk
	for _, w := range list {
		if w.frame != nil && (first == nil || w.earlier(first)) {
			first = w
		}
	}
	return first
}

// earlier tells whether the next frame of w goes before that of v.
func (w *walk) earlier(v *walk) bool {
	if spare := w.Spare && w.acked; spare != (v.Spare && v.acked) {
		return spare
	}
	return w.frame.Now < v.frame.Now
}

// advance finds the next frame that may go.
func (w *walk) advance(ctx context.Context) error {
	for w.frame = nil; ; {
		m, err := w.Store.Next(ctx, w.msg.Seq+1)
		if errors.Is(err, ErrEmpty) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.Seq > w.safe {
			f, err := frame.DecodeHeader(m.Data)
			w.needed = !w.passed[m.Subject] && (err != nil || w.held(m.Subject, f))
			return nil
		}
		w.msg = m
		if w.passed[m.Subject] || m.Seq < w.spans[m.Subject].Below {
			continue
		}
		if w.last[m.Subject] == 0 {
			last, err := w.Store.Of(m.Subject).Last(ctx)
			if err != nil {
				return err
			}
			w.last[m.Subject] = last.Seq
		}
		f, err := frame.DecodeHeader(m.Data)
		if err != nil { // of no use to anybody
			f = &frame.Frame{First: 1}
		}
		w.acked = err != nil || w.held(m.Subject, f)
		if m.Seq == w.last[m.Subject] || !w.acked && (!w.unsent || w.Spare) {
			if w.passed[m.Subject] = true; w.Single {
				return nil // all behind it stays
			}
			continue
		}
		if f.Now < w.before {
			w.frame = f
		}
		return nil
	}
}

// held tells whether others have a frame.
func (s *Shelf) held(subject string, f *frame.Frame) bool {
	return s.Acked == nil || !s.Acked(subject).Less(f.End().Cursor)
}

// take puts the frame into the span of its log.
func (w *walk) take() {
	s := w.spans[w.msg.Subject]
	s.Stream, s.Below = w.Name, w.msg.Seq+1
	if end := w.frame.End().Cursor; s.End.Less(end) {
		s.End = end
	}
	n := w.frame.Points() + w.frame.Gap()
	if s.Points += n; !w.acked {
		s.Unsent += n
	}
	w.spans[w.msg.Subject] = s
}

// finish finishes the last removal. Its error tells that no other may begin.
func (k *Keeper) finish(ctx context.Context) error {
	if free, reserve := k.cfg.Free(); free < purgeBytes && reserve > 0 {
		return fmt.Errorf("%d KB left on the disk, a removal needs %d KB: %w", free>>10, purgeBytes>>10, ErrDiskFull)
	}
	if !k.undone {
		return nil
	}
	return k.remove(ctx)
}

// remove makes the streams what the spans say. It may be repeated.
func (k *Keeper) remove(ctx context.Context) error {
	k.undone = true
	spans := k.Spans()
	for i := range k.cfg.Shelves {
		s := &k.cfg.Shelves[i]
		kept, err := s.firstKept(ctx, spans)
		if err != nil {
			return err
		}
		if err := s.Store.Purge(ctx, "", kept); err != nil {
			return err
		}
		for subject, span := range spans { // logs that a quiet one stands before
			if span.Stream != s.Name || span.Below <= kept {
				continue
			}
			if err := s.Store.Purge(ctx, subject, span.Below); err != nil {
				return err
			}
		}
	}
	k.undone = false
	return nil
}

// firstKept returns the stream sequence of the first message that stays.
func (s *Shelf) firstKept(ctx context.Context, spans map[string]Span) (uint64, error) {
	for seq := uint64(1); ; {
		m, err := s.Store.Next(ctx, seq)
		if errors.Is(err, ErrEmpty) {
			return 0, nil
		}
		if err != nil || m.Seq >= spans[m.Subject].Below {
			return m.Seq, err
		}
		seq = m.Seq + 1
	}
}
