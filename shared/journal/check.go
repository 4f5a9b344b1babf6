package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/sapflow/sapflow/shared/frame"
)

// Problem is something in a stored log that should not be.
type Problem struct {
	Subject   string `json:"subject"`
	StreamSeq uint64 `json:"streamSeq"` // of the message, or of the one that shows what is missing
	Epoch     string `json:"epoch,omitempty"`
	What      string `json:"what"`
	From      uint64 `json:"from,omitempty"` // first and last point that are lost, 0 if none or not known
	To        uint64 `json:"to,omitempty"`
}

// String returns the problem as one line.
func (p Problem) String() string {
	text := fmt.Sprintf("%s, stream sequence %d", p.Subject, p.StreamSeq)
	if p.Epoch != "" {
		text += ", epoch " + p.Epoch
	}
	text += ": " + p.What
	if p.From > 0 {
		text += fmt.Sprintf("; points %d..%d are lost", p.From, p.To)
	}
	return text
}

// Summary is what Check found of one log.
type Summary struct {
	Subject   string    `json:"subject"`
	Frames    int       `json:"frames"`
	Points    uint64    `json:"points"` // held
	Bytes     uint64    `json:"bytes"`
	Epochs    int       `json:"epochs"`
	Gaps      int       `json:"gaps"` // recorded by the log itself
	GapPoints uint64    `json:"gapPoints"`
	Oldest    uint64    `json:"oldest,omitempty"` // time of the oldest and newest point, ns
	Newest    uint64    `json:"newest,omitempty"`
	Problems  []Problem `json:"problems,omitempty"`

	end frame.Position
	bad []uint64 // stream sequences of damaged frames since the last good one
}

// Walk calls visit for each message of a store up to a stream sequence, in
// order. A message that the server finds damaged is passed over by it.
func Walk(ctx context.Context, s Store, last uint64, visit func(Message)) error {
	for seq := uint64(1); seq <= last; {
		m, err := s.Next(ctx, seq)
		if errors.Is(err, ErrEmpty) || err == nil && m.Seq > last {
			return nil
		}
		if err != nil {
			return err
		}
		visit(m)
		seq = m.Seq + 1
	}
	return nil
}

// Check reads every frame of the logs in a store up to a stream sequence and
// verifies its checksum and that it continues the one before: epoch, numbers
// and running checksum. Logs are in the order in which they begin. Frames that
// are gone before the first one held are no problem: a log may drop its oldest.
func Check(ctx context.Context, s Store, last uint64) ([]*Summary, error) {
	var list []*Summary
	logs := map[string]*Summary{}
	err := Walk(ctx, s, last, func(m Message) {
		l := logs[m.Subject]
		if l == nil {
			l = &Summary{Subject: m.Subject}
			logs[m.Subject] = l
			list = append(list, l)
		}
		l.add(m)
	})
	for _, l := range list {
		l.finish()
	}
	return list, err
}

func (l *Summary) problem(p Problem) {
	p.Subject = l.Subject
	l.Problems = append(l.Problems, p)
}

// add takes the next message of the log.
func (l *Summary) add(m Message) {
	l.Frames++
	l.Bytes += uint64(len(m.Data))
	f, err := frame.Decode(m.Data, "")
	if err == nil && !f.Verify() {
		err = errors.New("its points do not match its running checksum")
	}
	if err != nil {
		l.problem(Problem{StreamSeq: m.Seq, What: err.Error()})
		l.bad = append(l.bad, m.Seq)
		return
	}
	l.follow(m.Seq, f)
	l.bad = nil
	if l.end.Epoch != f.Epoch {
		l.Epochs++
	}
	l.end = f.End()
	l.Points += uint64(len(f.Entries))
	if n := f.Gap(); n > 0 {
		l.Gaps++
		l.GapPoints += n
	}
	for i := range f.Entries {
		t := f.Entries[i].Time
		if l.Oldest == 0 || t < l.Oldest {
			l.Oldest = t
		}
		l.Newest = max(l.Newest, t)
	}
}

// follow tells whether f continues the log, and what is missing if not.
func (l *Summary) follow(seq uint64, f *frame.Frame) {
	lost := func(epoch frame.Epoch, from, to uint64) {
		p := Problem{StreamSeq: seq, Epoch: epoch.String(), What: "frames before it are missing", From: from, To: to}
		if n := len(l.bad); n > 0 { // which of them is known now
			p.StreamSeq, p.What = l.bad[0], fmt.Sprintf("%d damaged in a row", n)
		}
		l.problem(p)
	}
	switch {
	case l.end == (frame.Position{}): // the first one that is held or whole
		if len(l.bad) > 0 && f.Prev > 0 {
			lost(f.Epoch, 1, f.Prev)
		}
	case f.Epoch == l.end.Epoch:
		switch {
		case f.Prev > l.end.Seq:
			lost(f.Epoch, l.end.Seq+1, f.Prev)
		case f.Prev < l.end.Seq:
			l.problem(Problem{StreamSeq: seq, Epoch: f.Epoch.String(), What: fmt.Sprintf("frame goes on at %d, but the log stood at %d", f.Prev, l.end.Seq)})
		case f.Gap() == 0 && f.Base != l.end.Sum:
			l.problem(Problem{StreamSeq: seq, Epoch: f.Epoch.String(), What: "the running checksum does not continue: the log holds other points before it"})
		}
	case f.Epoch < l.end.Epoch:
		l.problem(Problem{StreamSeq: seq, Epoch: f.Epoch.String(), What: "an earlier epoch follows " + l.end.Epoch.String()})
	default:
		if f.Prev == 0 && f.Before.Epoch == l.end.Epoch && f.Before.Seq > l.end.Seq {
			lost(l.end.Epoch, l.end.Seq+1, f.Before.Seq)
		}
		if f.Prev > 0 {
			lost(f.Epoch, 1, f.Prev)
		}
	}
}

// finish reports damaged frames that no good one follows: what they held
// cannot be told.
func (l *Summary) finish() {
	if len(l.bad) == 0 {
		return
	}
	l.problem(Problem{
		StreamSeq: l.bad[0], Epoch: l.end.Epoch.String(),
		What: fmt.Sprintf("%d damaged at the end: all points after %d are lost", len(l.bad), l.end.Seq),
	})
}
