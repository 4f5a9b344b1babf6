package uplink

import (
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
)

// socket is a counter that tests move.
type socket struct{ tx, rx uint64 }

func (s *socket) bytes() (tx, rx uint64) { return s.tx, s.rx }

func day(month time.Month, day, hour int) time.Time {
	return time.Date(2026, month, day, hour, 0, 0, 0, time.UTC)
}

// TestUsage counts over restarts and months.
func TestUsage(t *testing.T) {
	var s socket
	u := newUsage(nil, s.bytes)
	if used, forecast := u.inMonth(day(11, 11, 0)); used != 0 || forecast != 0 {
		t.Errorf("before anything: %d used, %d forecast", used, forecast)
	}
	s.tx, s.rx = 1000, 500
	u.spent(link.Alarm, 100, 0)
	u.spent(link.Control, 40, 60)
	if used, forecast := u.inMonth(day(11, 16, 0)); used != 1500 || forecast != 6000 { // 5 of 20 days
		t.Errorf("%d used, %d forecast, want 1500 and 6000", used, forecast)
	}
	saved := u.save()

	s = socket{tx: 7} // a new process
	u = newUsage(saved, s.bytes)
	if tx, rx := u.total(day(11, 21, 0)); tx != 1007 || rx != 500 {
		t.Errorf("after a restart: %d sent, %d received, want 1007 and 500", tx, rx)
	}
	if used, forecast := u.inMonth(day(11, 21, 0)); used != 1507 || forecast != 3014 {
		t.Errorf("after a restart: %d used, %d forecast, want 1507 and 3014", used, forecast)
	}
	for key, want := range map[string]uint64{"tx-alarm": 100, "tx-control": 40, "rx-control": 60} {
		if got := u.counts[key]; got != want {
			t.Errorf("%s: got %d, want %d", key, got, want)
		}
	}
	s.rx = 93
	if used, _ := u.inMonth(day(12, 1, 1)); used != 93 {
		t.Errorf("in the next month: %d used, want 93", used)
	}
	if tx, rx := u.total(day(12, 1, 1)); tx != 1007 || rx != 593 {
		t.Errorf("all bytes: %d and %d, want 1007 and 593", tx, rx)
	}
	want := map[string]uint64{"monthBytes/0": 93, "linkBytes/tx": 1007, "linkBytes/rx": 593, "linkBytes/tx-alarm": 100}
	for _, p := range u.points("gw1", day(12, 1, 2)) {
		if point.Check(&p) != nil {
			t.Errorf("%s is no point", p.Series)
		}
		key := p.Type + "/" + p.Key
		if n, _ := p.Uint64(); want[key] != 0 && n != want[key] {
			t.Errorf("%s: got %d, want %d", key, n, want[key])
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("not reported: %v", want)
	}
}

// TestAffords spreads a budget over the month, a day ahead at most.
func TestAffords(t *testing.T) {
	const budget = 30_000 // 1,000 a day of November
	for name, c := range map[string]struct {
		used uint64
		at   time.Time
		pace string
		n    int
		want time.Duration
	}{
		"first day":          {0, day(11, 1, 0), paceEven, 1000, 0},
		"ahead by a day":     {0, day(11, 1, 0), paceEven, 1001, 87 * time.Second},
		"used up":            {11_000, day(11, 11, 0), paceEven, 500, 12 * time.Hour},
		"within":             {10_000, day(11, 11, 0), paceEven, 500, 0},
		"free":               {10_000, day(11, 2, 0), paceFree, 500, 0},
		"all of it":          {30_000, day(11, 20, 0), paceFree, 500, 11 * 24 * time.Hour},
		"all of it, at once": {29_000, day(11, 30, 23), paceEven, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var s socket
			u := newUsage(nil, s.bytes)
			u.inMonth(c.at)
			s.tx = c.used
			got := u.affords(c.at, budget, c.pace, c.n)
			if d := got - c.want; d.Abs() > 2*time.Second {
				t.Errorf("wait %s, want %s", got, c.want)
			}
			if got := u.affords(c.at, 0, c.pace, c.n); got != 0 {
				t.Errorf("without a budget: wait %s", got)
			}
		})
	}
}

// TestAhead: each series is there once, the urgent ones first, until it is
// forgotten.
func TestAhead(t *testing.T) {
	series := func(typ string) point.Series { return point.Series{Node: "n1", Type: typ, Key: point.NoKey} }
	types := func(list []point.Series) (s string) {
		for _, x := range list {
			s += x.Type + " "
		}
		return s
	}
	var a ahead
	a.note(series("alpha"), false)
	a.note(series("level"), false)
	a.note(series("door"), true)
	a.note(series("door"), true)
	if got := types(a.due(false)); got != "door " {
		t.Errorf("urgent: got %q", got)
	}
	if got := types(a.due(true)); got != "door alpha level " {
		t.Errorf("all: got %q", got)
	}
	a.forget([]point.Series{series("door"), series("alpha"), series("nothing")})
	if got := types(a.due(true)); got != "level " {
		t.Errorf("what is left: got %q", got)
	}
}

// TestClockIsWrong: a clock that shows another month for a while does not
// forget what this one has used.
func TestClockIsWrong(t *testing.T) {
	var s socket
	u := newUsage(nil, s.bytes)
	s.tx = 500
	u.inMonth(day(11, 10, 0))
	u.inMonth(day(3, 1, 0))
	u = newUsage(u.save(), s.bytes)
	u.seen = [2]uint64{500, 0} // the same socket here
	if used, _ := u.inMonth(day(11, 10, 1)); used != 500 {
		t.Errorf("%d used, want 500", used)
	}
	for m := range time.Month(12) {
		u.inMonth(day(m+1, 2, 0))
	}
	if n := len(u.months); n > keptMonths {
		t.Errorf("%d months are kept, want %d at most", n, keptMonths)
	}
}
