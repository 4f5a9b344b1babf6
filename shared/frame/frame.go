// Package frame owns the frame: an ordered batch of points that is the unit
// of commit on disk and of transfer on the wire, and its codec (FORMAT.md).
//
// A log frame is a piece of one author's log and says where it stands there;
// a heads frame carries winners only, each with the place in its own author's
// log, and is never history. The package knows no NATS, no clock and no
// files. Encoded frames carry a checksum; decoding never panics and never
// allocates more than MaxPoints entries and twice MaxBody of texts, whatever a
// frame claims.
package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"

	"github.com/sapflow/sapflow/shared/point"
)

// Epoch names one unbroken run of sequence numbers of a log: 24 bits of
// generation above 40 random bits. The generation grows with every new epoch
// of a log, so that any two epochs of an author are ordered without knowing
// how one followed the other; the random bits tell two boxes apart that start
// the same generation.
type Epoch uint64

const epochRandomBits = 40

// Next returns the epoch after e (and after any other epoch given), with the
// random bits taken from random.
func (e Epoch) Next(random uint64, others ...Epoch) Epoch {
	gen := e.Generation()
	for _, o := range others {
		gen = max(gen, o.Generation())
	}
	return Epoch((gen+1)<<epochRandomBits | random&(1<<epochRandomBits-1))
}

// Generation returns the ordered part of the epoch.
func (e Epoch) Generation() uint64 { return uint64(e >> epochRandomBits) }

// String returns the epoch as generation-random.
func (e Epoch) String() string {
	return fmt.Sprintf("%d-%010x", e.Generation(), uint64(e&(1<<epochRandomBits-1)))
}

// Cursor is a place in a log: the epoch and the sequence number of a point.
type Cursor struct {
	Epoch Epoch
	Seq   uint64
}

// Less orders the cursors of one author's log.
func (c Cursor) Less(d Cursor) bool {
	if c.Epoch != d.Epoch {
		return c.Epoch < d.Epoch
	}
	return c.Seq < d.Seq
}

// Position is a cursor with the running checksum of all points of the epoch
// up to it. The zero Position stands before everything.
type Position struct {
	Cursor
	Sum uint64
}

// Append appends the position as it stands in messages: epoch, sequence number
// and checksum, 8 bytes each, little endian.
func (p Position) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Epoch))
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	return binary.LittleEndian.AppendUint64(b, p.Sum)
}

// Entry is a point in a frame.
type Entry struct {
	point.Point
	Author string // the instance that accepted the point
	At     Cursor // its place in the author's log
	More   bool   // the next entry belongs to the same group
}

// Kind tells what a frame is for. The numbers are stored and never change.
type Kind uint8

// The kinds of frames.
const (
	Log   Kind = 1 // a piece of one author's log
	Relay Kind = 2 // a piece of a log that repeats other authors' points
	Heads Kind = 3 // winners; no log
)

// Aside is a point that the receiver did not store: its sequence number
// stays used, so that the frame keeps its bounds and its checksum.
type Aside struct {
	Seq    uint64
	Reason Reason
}

// Reason tells why a point was set aside. The numbers are stored.
type Reason uint8

// The reasons to set a point aside.
const (
	Invalid Reason = 1 // the point itself is malformed
	Foreign Reason = 2 // its node is not, and was not then, below the author
	Nested  Reason = 3 // a gateway below a gateway
	Cycle   Reason = 4 // an edge that closes a circle
	Limit   Reason = 5 // a new node or series where there may be no more
)

var reasonNames = map[Reason]string{Invalid: "invalid", Foreign: "foreign", Nested: "nested_boundary", Cycle: "cycle", Limit: "limit"}

// String returns the code of the reason.
func (r Reason) String() string {
	if n, ok := reasonNames[r]; ok {
		return n
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Covers says up to which message of each source stream a relay frame has
// repeated what concerns its receiver.
type Covers struct {
	Edge uint64 // stream sequence in EDGE
	Hub  uint64 // stream sequence in HUB
}

// Frame is a batch of points. For Log and Relay frames Entries hold the
// points First..Last in order, less those set aside; an empty range (Last <
// First) carries no points and keeps a link alive, or, when Prev < First-1,
// tells of a gap.
type Frame struct {
	Kind Kind
	Now  uint64 // the author's estimate of hub time at commit, ns

	// Log and Relay only.
	Epoch  Epoch
	Prev   uint64   // sequence number this frame continues at
	First  uint64   // sequence number of its first point; > Prev+1 after a gap
	Last   uint64   // of its last point; First-1 when it has none
	Base   uint64   // running checksum before First
	Sum    uint64   // running checksum at Last
	Before Position // in the first frame of an epoch: where the epoch before ended
	Covers Covers   // Relay only
	Again  Cursor   // place in an earlier epoch of the same log that this frame repeats up to

	Entries []Entry
	Aside   []Aside
}

var sumTable = crc64.MakeTable(crc64.ECMA)

// AddSum returns the running checksum after one more point: over its subject
// and payload, each with its length.
func AddSum(sum uint64, p *point.Point, scratch []byte) (uint64, []byte) {
	b := append(scratch[:0], 0, 0, 0, 0)
	b = p.Series.Append(b)
	n := len(b) - 4
	b[0], b[1] = byte(n), byte(n>>8)
	m := point.PayloadLen(p)
	b[2], b[3] = byte(m), byte(m>>8) // a hint that parts the two; the rest of the length follows from the total
	b = point.AppendPayload(b, p)
	return crc64.Update(sum, sumTable, b), b
}

// Seal numbers the entries from First and fills Last and Sum. The author of a
// log calls it once, before the frame is encoded.
func (f *Frame) Seal() {
	f.Last = f.First + uint64(len(f.Entries)) - 1
	f.Sum = sumOver(f.Base, f.Entries)
}

func sumOver(sum uint64, entries []Entry) uint64 {
	var scratch []byte
	for i := range entries {
		sum, scratch = AddSum(sum, &entries[i].Point, scratch)
	}
	return sum
}

// Verify tells whether the running checksum of a frame that nothing was set
// aside of matches its points.
func (f *Frame) Verify() bool {
	return len(f.Aside) > 0 || sumOver(f.Base, f.Entries) == f.Sum
}

// End returns the position after the frame.
func (f *Frame) End() Position {
	return Position{Cursor{f.Epoch, f.Last}, f.Sum}
}

// FutureLimit is how far beyond Now a point of a frame may lie, in ns, and
// still be state; beyond that it is history only, at every instance alike.
const FutureLimit = 24 * 3600 * 1_000_000_000

// Future tells whether e is too far ahead to be state.
func (f *Frame) Future(e *Entry) bool { return e.Time > f.Now && e.Time-f.Now > FutureLimit }

// AnyFuture tells whether one of some entries of the frame is.
func (f *Frame) AnyFuture(entries []Entry) bool {
	for i := range entries {
		if f.Future(&entries[i]) {
			return true
		}
	}
	return false
}

// Admit moves Now so that none of the entries is too far ahead: they are state
// at their author, whose clock may have been wrong or been put back since.
func (f *Frame) Admit() {
	for i := range f.Entries {
		if e := &f.Entries[i]; f.Future(e) {
			f.Now = e.Time - FutureLimit
		}
	}
}

// Points returns how many sequence numbers the frame covers.
func (f *Frame) Points() uint64 { return f.Last + 1 - f.First }

// Gap returns how many sequence numbers are missing before the frame.
func (f *Frame) Gap() uint64 { return f.First - 1 - f.Prev }

// Relation tells how a frame stands to the position that a reader has
// reached in the log.
type Relation uint8

// The relations of a frame to a position.
const (
	Continues  Relation = iota // it is the next one
	Repeats                    // all of it is known
	Overlaps                   // some of it is known: cut it again at the position
	Missing                    // something before it is missing
	Superseded                 // it belongs to an epoch that the reader has left
)

// Follows tells how f stands to the position cur.
func (f *Frame) Follows(cur Position) Relation {
	switch {
	case f.Epoch == cur.Epoch:
		switch {
		case f.Prev == cur.Seq:
			if f.Base != cur.Sum && f.Gap() == 0 {
				return Missing // the same numbers with other content
			}
			return Continues
		case f.Last <= cur.Seq:
			return Repeats
		case f.Prev < cur.Seq:
			return Overlaps
		}
		return Missing
	case f.Epoch.Generation() <= cur.Epoch.Generation():
		return Superseded
	case f.Prev == 0 && f.Before == cur:
		return Continues
	}
	return Missing
}

// Cut returns what f holds after sequence number seq. It fails in the middle
// of a group, and for a frame whose points are not all there.
func (f *Frame) Cut(seq uint64) (*Frame, error) {
	if seq <= f.Prev {
		return f, nil
	}
	g := *f
	if seq < f.First { // in the gap
		g.Prev, g.Before = seq, Position{}
		return &g, nil
	}
	n := seq - f.First + 1
	if len(f.Aside) > 0 || n == 0 || n > uint64(len(f.Entries)) || f.Entries[n-1].More {
		return nil, fmt.Errorf("cut frame %d..%d after %d: %w", f.First, f.Last, seq, ErrCut)
	}
	g.Base = sumOver(f.Base, f.Entries[:n])
	g.Prev, g.First, g.Before = seq, seq+1, Position{}
	g.Entries = f.Entries[n:]
	return &g, nil
}

// Truncate returns the beginning of f with at least one group and at most
// limit points where groups allow it; f itself if it is small enough.
func (f *Frame) Truncate(limit int) *Frame {
	if len(f.Entries) <= limit || len(f.Aside) > 0 {
		return f
	}
	n := groupEnd(f.Entries, 0)
	for n < len(f.Entries) {
		end := groupEnd(f.Entries, n)
		if end > limit {
			break
		}
		n = end
	}
	if n == len(f.Entries) {
		return f
	}
	g := *f
	g.Entries = f.Entries[:n]
	g.Seal()
	g.Covers, g.Again = Covers{}, Cursor{} // only the end of the whole frame covers its source
	return &g
}

func groupEnd(entries []Entry, i int) int {
	for i < len(entries) && entries[i].More {
		i++
	}
	return i + 1
}

// Merge returns one frame that holds f and then g, which must continue f in
// the same epoch without a gap, with the same points before it. What was too
// far ahead to be state in either stays so.
func (f *Frame) Merge(g *Frame) (*Frame, error) {
	if f.Epoch != g.Epoch || f.Kind != g.Kind || g.Prev != f.Last || g.Gap() != 0 || g.Base != f.Sum ||
		g.Now < f.Now || f.AnyFuture(f.Entries) ||
		len(f.Aside)+len(g.Aside) > 0 || f.Points()+g.Points() > MaxPoints {
		return nil, fmt.Errorf("merge frame %d..%d with %d..%d: %w", f.First, f.Last, g.First, g.Last, ErrCut)
	}
	m := *f
	m.Now, m.Last, m.Sum, m.Covers, m.Again = g.Now, g.Last, g.Sum, g.Covers, g.Again
	m.Entries = append(f.Entries[:len(f.Entries):len(f.Entries)], g.Entries...)
	return &m, nil
}

// Groups calls visit for each group of entries, in order, until it returns
// false.
func Groups(entries []Entry, visit func([]Entry) bool) {
	for i := 0; i < len(entries); {
		end := groupEnd(entries, i)
		if !visit(entries[i:end]) {
			return
		}
		i = end
	}
}
