package link

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// at returns a position in an epoch of some generation.
func at(generation, seq uint64) frame.Position {
	if generation == 0 {
		return frame.Position{}
	}
	return frame.Position{Cursor: frame.Cursor{Epoch: frame.Epoch(generation << 40), Seq: seq}, Sum: seq}
}

// piece returns a log frame first..last that continues at first-1.
func piece(generation, first, last uint64) *frame.Frame {
	p := at(generation, first-1)
	return &frame.Frame{
		Kind: frame.Log, Epoch: p.Epoch, Prev: first - 1, First: first, Last: last,
		Base: p.Sum, Sum: last, Entries: make([]frame.Entry, last+1-first),
	}
}

// gap returns a piece that follows a gap behind prev.
func gap(generation, prev, first, last uint64) *frame.Frame {
	f := piece(generation, first, last)
	f.Prev = prev
	return f
}

func heads(n int) *frame.Frame {
	return &frame.Frame{Kind: frame.Heads, Entries: make([]frame.Entry, n)}
}

// TestGolden drives one end step by step through what can happen and keeps
// the log of it.
func TestGolden(t *testing.T) {
	started := []Event{Connected{}, Greeted{Hello{Conn: 7, In: at(1, 10)}}, Located{}}
	for name, c := range map[string]struct {
		hub    bool
		events []Event
	}{
		"first_contact_gateway": {events: []Event{
			Connected{},
			Greeted{Hello{Conn: 7}},
			Located{},
			Fetched{Frame: piece(1, 1, 5)},
			Answered{Ack{Conn: 7, Number: 1, Cursor: at(1, 5)}},
			Fetched{},
			Appended{},
			Fetched{Frame: piece(1, 6, 6)},
			Answered{Ack{Conn: 7, Number: 2, Cursor: at(1, 6)}},
			Fetched{},
			Fired{},
			Answered{Ack{Conn: 7, Number: 3, Cursor: at(1, 6)}},
		}},
		"first_contact_hub": {hub: true, events: []Event{
			Greeted{Hello{Conn: 9}},
			Located{},
			Gathered{Frame: heads(3), More: true},
			Answered{Ack{Conn: 9, Number: 1}},
			Gathered{Frame: heads(1)},
			Answered{Ack{Conn: 9, Number: 2}},
			Fetched{},
			Arrived{Parcel{Conn: 9, Number: 1, Frame: piece(1, 1, 5)}},
			Stored{In: at(1, 5), Aside: []AsideCount{{frame.Foreign, 2}}},
		}},
		"cut_again": {events: append(started, Fetched{Frame: piece(1, 11, 20)},
			Answered{Ack{Conn: 7, Number: 1, Cursor: at(1, 15)}}, Located{}, Fetched{Frame: piece(1, 16, 20)})},
		"repeat_and_overlap": {hub: true, events: []Event{
			Greeted{Hello{Conn: 9, In: at(3, 1)}},
			Located{},
			Fetched{},
			Arrived{Parcel{Conn: 9, Number: 1, Frame: piece(1, 1, 5)}},
			Stored{In: at(1, 5)},
			Fetched{},
			Arrived{Parcel{Conn: 9, Number: 2, Frame: piece(1, 1, 5)}},
			Fetched{},
			Arrived{Parcel{Conn: 9, Number: 3, Frame: piece(1, 4, 9)}},
			Fetched{},
			Arrived{Parcel{Conn: 9, Number: 4, Frame: piece(1, 9, 9)}},
			Arrived{Parcel{Conn: 9, Number: 5, Fault: Damaged}},
		}},
		"heads_before_gap": {events: append(started, Fetched{Frame: gap(1, 10, 15, 20)}, Gathered{Frame: heads(2)}, Answered{Ack{Conn: 7, Number: 1}}, Fetched{Frame: gap(1, 10, 15, 20)}, Answered{Ack{Conn: 7, Number: 2, Done: true}})},
		"gap_says_hello":   {events: append(started, Fetched{Frame: piece(1, 11, 20)}, Answered{Ack{Conn: 7, Number: 1, Code: Gap}})},
		"busy_waits":       {events: append(started, Fetched{Frame: piece(1, 11, 20)}, Answered{Ack{Conn: 7, Number: 1, Code: Busy, Retry: 5 * time.Second}}, Appended{}, Fired{})},
		"stale_is_ignored": {events: append(started, Fetched{Frame: piece(1, 11, 20)}, Answered{Ack{Conn: 6, Number: 1}}, Answered{Ack{Conn: 7, Number: 2}}, Greeted{Hello{Conn: 6}}, Arrived{Parcel{Conn: 6, Number: 1, Frame: piece(1, 1, 1)}})},
		"silence_cuts":     {events: append(started, Fetched{Frame: piece(1, 11, 20)}, Fired{}, Fired{}, Disconnected{}, Connected{})},
		"box_replaced": {events: []Event{
			Connected{},
			Greeted{Hello{Conn: 7, In: at(5, 99)}},
			Located{Err: fmt.Errorf("x: %w", journal.ErrUnknown)},
			Forked{},
			Gathered{Frame: heads(2)},
			Answered{Ack{Conn: 7, Number: 1}},
			Fetched{Frame: piece(6, 1, 4)},
		}},
		"hub_restored": {hub: true, events: []Event{
			Greeted{Hello{Conn: 9, In: at(3, 500)}},
			Located{Err: fmt.Errorf("x: %w", journal.ErrAhead)},
			Forked{},
			Gathered{},
			Fetched{},
		}},
		"clone_halts":       {events: []Event{Connected{}, Greeted{Hello{Conn: 7, In: at(9, 1)}}, Located{Err: journal.ErrUnknown, Clone: true}, Appended{}, Connected{}}},
		"log_unreadable":    {events: []Event{Connected{}, Greeted{Hello{Conn: 7}}, Located{Err: errors.New("disk")}, Fired{}}},
		"hub_asks_stranger": {hub: true, events: []Event{Arrived{Parcel{Conn: 3, Number: 4, Frame: piece(1, 1, 1)}}, Arrived{Parcel{Conn: 3, Number: 4, Frame: piece(1, 1, 1)}}, Greeted{Hello{Conn: 9}}}},
		"wanted_heads":      {hub: true, events: []Event{Greeted{Hello{Conn: 9, In: at(1, 1)}}, Located{}, Fetched{}, Arrived{Parcel{Conn: 9, Number: 1, Want: true, Frame: heads(1)}}, Stored{}, Gathered{Frame: heads(2)}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMachine(!c.hub, frame.Position{}, frame.Position{}, func() uint64 { return 7 })
			var b strings.Builder
			for _, ev := range c.events {
				fmt.Fprintf(&b, "%T\n", ev)
				for _, a := range m.Step(ev) {
					fmt.Fprintf(&b, "    %s\n", String(a))
				}
			}
			fmt.Fprintf(&b, "phase %s, acked %s\n", m.Phase(), place(m.AckedPosition()))
			name := filepath.Join("testdata", name+".golden")
			got := strings.ReplaceAll(b.String(), "link.", "")
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}
