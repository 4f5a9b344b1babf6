// Package reduce leaves out readings that tell nothing: those within a dead
// band, those too soon after the last one, and those that become one in a
// window.
//
// It is pure: it has no clock, only the times of the readings. A window comes
// before the rest: what is left of it is what dead band and intervals see.
// Nothing that is kept is changed but by a window, and what is left out is
// counted.
package reduce

import (
	"math"
)

// Rule says what to leave out; the zero Rule keeps everything.
type Rule struct {
	DeadBand float64 // a value no further than this from the last one kept is left out
	Min, Max uint64  // ns: sooner than Min is left out, Max or later is kept; 0 is no bound
	Window   uint64  // ns: readings of so long become one; 0 is no window
	Average  bool    // which of them
	Least    bool
	Most     bool
}

// Value tells which value of a window a reading is.
type Value uint8

// The values of a window. A reading that went through none is Average too: it
// is the average of itself.
const (
	Average Value = iota
	Least
	Most
	values
)

// Reading is a value at a time.
type Reading struct {
	At uint64 // ns
	V  float64
	Is Value
}

// Filter reduces one series. The zero Filter with the zero Rule keeps
// everything.
type Filter struct {
	Rule   Rule
	window window
	last   [values]struct {
		Reading
		any bool
	}
	reduced uint64
}

// window gathers the readings from a multiple of its length on.
type window struct {
	from         uint64
	n            uint64 // of them numbers
	all          uint64
	mean, lo, hi float64
}

// Put takes a reading and appends what is kept to out: of a window that has
// ended its values, at its end. A reading that is older than the window goes
// into it all the same.
func (f *Filter) Put(out []Reading, at uint64, v float64) []Reading {
	if f.Rule.Window == 0 {
		return f.keep(out, Reading{At: at, V: v})
	}
	from := at - at%f.Rule.Window
	if f.window.all > 0 && from > f.window.from {
		out = f.Flush(out)
	}
	w := &f.window
	if w.all == 0 {
		*w = window{from: from, lo: math.NaN(), hi: math.NaN(), mean: math.NaN()}
	}
	w.all++
	if !math.IsNaN(v) {
		w.add(v)
	}
	return out
}

func (w *window) add(v float64) {
	w.n++
	if w.n == 1 {
		w.mean, w.lo, w.hi = v, v, v
		return
	}
	// Weighted, not by the difference, which the largest numbers exceed.
	n := float64(w.n)
	w.mean = w.mean*((n-1)/n) + v/n
	w.lo, w.hi = min(w.lo, v), max(w.hi, v)
}

// Flush ends the window and appends what is kept of it.
func (f *Filter) Flush(out []Reading) []Reading {
	w, at := f.window, f.window.from+f.Rule.Window
	f.window = window{}
	if w.all == 0 {
		return out
	}
	before := len(out)
	left := f.reduced
	for _, r := range []struct {
		wanted bool
		Reading
	}{{f.Rule.Average, Reading{at, w.mean, Average}}, {f.Rule.Least, Reading{at, w.lo, Least}}, {f.Rule.Most, Reading{at, w.hi, Most}}} {
		if r.wanted {
			out = f.keep(out, r.Reading)
		}
	}
	// Readings count, not values: all but those that stand for the window.
	f.reduced = left + w.all - min(w.all, uint64(len(out)-before))
	return out
}

// keep appends a reading unless it is to be left out.
func (f *Filter) keep(out []Reading, r Reading) []Reading {
	last := &f.last[r.Is]
	if last.any && f.drops(last.Reading, r) {
		f.reduced++
		return out
	}
	last.Reading, last.any = r, true
	return append(out, r)
}

func (f *Filter) drops(last, r Reading) bool {
	if r.At < last.At {
		return false // late: what came after it says nothing about it
	}
	since := r.At - last.At
	switch {
	case f.Rule.Max > 0 && since >= f.Rule.Max:
		return false
	case f.Rule.Min > 0 && since < f.Rule.Min:
		return true
	case f.Rule.DeadBand == 0:
		return false
	}
	return same(last.V, r.V) || math.Abs(r.V-last.V) <= f.Rule.DeadBand
}

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

// Reduced returns how many readings were left out so far.
func (f *Filter) Reduced() uint64 { return f.reduced }
