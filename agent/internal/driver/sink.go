package driver

import (
	"math"
	"time"

	"github.com/sapflow/sapflow/agent/internal/driver/reduce"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
	"github.com/sapflow/sapflow/shared/state"
)

// tellEvery is how often a node tells at once that it fails, or works again.
const tellEvery = 10 * time.Second

// sink is where the readings of a node go: reduced, with their times cut, and
// counted.
type sink struct {
	node       string
	rule       reduce.Rule
	resolution uint64 // ns
	series     map[point.Series]*line

	count   counts
	before  counts  // as they were told
	failing string  // what failed last, "" if all is well
	shown   string  // as it was told
	shownAt uint64  // when that was told at once
	rate    float64 // as it was told
	read    uint64  // readings after from
	from    uint64  // the last one that counts for rate, 0 before the first
	to      uint64  // the last one
}

// line is one series of a node.
type line struct {
	filter reduce.Filter
	last   point.Point // for what stays the same: type, size, origin
}

// counts are the counters of a node by their types of points.
type counts map[string]uint64

var counters = []string{schema.Errors, schema.Reduced, schema.Missed}

// resume goes on counting where state has it.
func (s *sink) resume(st *state.State) {
	s.count, s.before = counts{}, counts{}
	get := func(typ string) *point.Point {
		h := st.Get(point.Series{Node: s.node, Type: typ, Key: point.NoKey})
		if h == nil || h.Removed() {
			return &point.Point{}
		}
		return &h.Point
	}
	for _, typ := range counters {
		s.count[typ], _ = get(typ).Uint64()
		s.before[typ] = s.count[typ]
	}
	s.rate, _ = get(schema.Rate).Float64()
	if e := get(schema.Error); e.DataType == point.String {
		s.shown = string(e.Data)
		s.failing = s.shown
	}
}

// setRule puts the settings of a node in force; what the old ones have
// gathered is appended to out.
func (s *sink) setRule(n *Node, out []point.Point) []point.Point {
	seconds := func(name string) uint64 { return uint64(n.Number(name) * 1e9) }
	rule := reduce.Rule{
		DeadBand: n.Number(schema.DeadBand), Min: seconds(schema.MinInterval), Max: seconds(schema.MaxInterval),
		Window: seconds(schema.Window),
	}
	switch n.Text(schema.WindowValue) {
	case schema.WindowMin:
		rule.Least = true
	case schema.WindowMax:
		rule.Most = true
	case schema.WindowAll:
		rule.Average, rule.Least, rule.Most = true, true, true
	default:
		rule.Average = true
	}
	s.resolution = uint64(max(n.Millis(schema.TimeResolution), time.Millisecond))
	if rule == s.rule {
		return out
	}
	out = s.flush(out)
	s.rule = rule
	for _, l := range s.series {
		l.filter.Rule = rule
	}
	return out
}

// put appends what is kept of a reading.
func (s *sink) put(out []point.Point, p *point.Point, now uint64) []point.Point {
	if s.from == 0 || now < s.from { // the first one, or the clock was set back
		s.from, s.read = now, 0
	} else {
		s.read++
	}
	s.to = now
	p.Time -= p.Time % s.resolution
	v, ok := p.Number()
	if !ok || s.rule == (reduce.Rule{Average: true}) {
		return append(out, *p)
	}
	l := s.series[p.Series]
	if l == nil {
		l = &line{filter: reduce.Filter{Rule: s.rule}}
		s.series[p.Series] = l
	}
	l.last = *p
	var kept [2]reduce.Reading
	return s.take(out, l, func(f *reduce.Filter) []reduce.Reading { return f.Put(kept[:0], p.Time, v) })
}

// take appends what a filter keeps, and counts what it leaves out.
func (s *sink) take(out []point.Point, l *line, do func(*reduce.Filter) []reduce.Reading) []point.Point {
	before := l.filter.Reduced()
	for _, r := range do(&l.filter) {
		p := l.last
		if s.rule.Window > 0 { // a value that was not read as it is
			p.DataType, p.Data = point.Float, point.FloatData(r.V)
			p.Key = keyOf(p.Key, r.Is, s.rule)
		}
		p.Time = r.At
		out = append(out, p)
	}
	s.count[schema.Reduced] += l.filter.Reduced() - before
	return out
}

// keyOf returns the key of a value of a window. Alone it stands where readings
// do.
func keyOf(key string, is reduce.Value, rule reduce.Rule) string {
	if !rule.Average || is == reduce.Average {
		return key
	}
	name := "min"
	if is == reduce.Most {
		name = "max"
	}
	if key == point.NoKey {
		return name
	}
	return key + "/" + name
}

// flush appends what windows hold.
func (s *sink) flush(out []point.Point) []point.Point {
	for _, l := range s.series {
		out = s.take(out, l, func(f *reduce.Filter) []reduce.Reading { return f.Flush(nil) })
	}
	return out
}

// fail notes a failure and returns what is to be told at once.
func (s *sink) fail(err error, now uint64) []point.Point {
	s.count[schema.Errors]++
	was := s.failing
	s.failing = cut(err.Error())
	if was != "" || !s.mayTell(now) {
		return nil
	}
	return s.tellErrors(nil)
}

// lose notes readings that could not be written.
func (s *sink) lose(err error) {
	s.count[schema.Errors]++
	s.failing = cut(err.Error())
}

// well notes that all is well, and appends what is to be told at once.
func (s *sink) well(out []point.Point, now uint64) []point.Point {
	if s.failing == "" {
		return out
	}
	s.failing = ""
	if s.shown == "" || !s.mayTell(now) {
		return out
	}
	return s.tellErrors(out)
}

func (s *sink) mayTell(now uint64) bool {
	if s.shownAt > 0 && now >= s.shownAt && now-s.shownAt < uint64(tellEvery) {
		return false
	}
	s.shownAt = now
	return true
}

// tellErrors appends the points about failures that have changed.
func (s *sink) tellErrors(out []point.Point) []point.Point {
	out = s.tell(out, schema.Errors)
	if s.failing != s.shown {
		s.shown = s.failing
		out = append(out, point.Point{Series: s.of(schema.Error), DataType: point.String, Data: []byte(s.failing)})
	}
	return out
}

// tell appends a counter that has changed.
func (s *sink) tell(out []point.Point, typ string) []point.Point {
	if s.count[typ] == s.before[typ] {
		return out
	}
	s.before[typ] = s.count[typ]
	return append(out, point.Point{Series: s.of(typ), DataType: point.Uint, Data: point.UintData(s.count[typ])})
}

func (s *sink) of(typ string) point.Series {
	return point.Series{Node: s.node, Type: typ, Key: point.NoKey}
}

// silentAfter is how long a node has no readings until its rate is 0.
const silentAfter = 15 * time.Minute

// report appends the points about the node that have changed: the rate when
// it has by a tenth.
func (s *sink) report(out []point.Point, now uint64) []point.Point {
	out = s.tellErrors(out)
	for _, typ := range counters {
		out = s.tell(out, typ)
	}
	rate := s.rate
	switch {
	case s.read > 0 && s.to > s.from: // from reading to reading, so that those an hour apart have a rate
		rate = float64(s.read) / (float64(s.to-s.from) / 1e9)
		s.from, s.read = s.to, 0
	case s.to > 0 && now > s.to+uint64(silentAfter):
		rate = 0
	}
	if math.Abs(rate-s.rate) > s.rate/10 || rate == 0 && s.rate > 0 {
		s.rate = rate
		out = append(out, point.Point{Series: s.of(schema.Rate), DataType: point.Float, Data: point.FloatData(rate)})
	}
	return out
}

// maxError bounds the text of an error, in bytes.
const maxError = 200

func cut(text string) string {
	if len(text) <= maxError {
		return text
	}
	for i := range text {
		if i > maxError-len("...") {
			return text[:i-1] + "..."
		}
	}
	return text
}
