package uplink

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
)

// Types of the points that tell what the line costs.
const (
	typeBytes    = "linkBytes" // since the gateway was enrolled, by key: tx, rx, tx-alarm, ...
	typeMonth    = point.TypeMonthBytes
	typeForecast = point.TypeMonthForecast
)

// usage counts the bytes of the line: of the socket, and of its classes. It is
// kept in the snapshot.
type usage struct {
	socket func() (tx, rx uint64) // since the start

	mu     sync.Mutex
	counts map[string]uint64 // by key of typeBytes; tx and rx up to seen
	seen   [2]uint64         // of socket
	months map[string]span   // the last few by name: a clock that is wrong for a while forgets nothing
	month  string            // of now
}

// span is what a month has used.
type span struct {
	used  uint64 // both ways
	since uint64 // when counting began, ns
}

// keptMonths is how many months are remembered.
const keptMonths = 4

const (
	keyTx, keyRx = "tx", "rx"
	keyUsed      = "used "  // in a snapshot, with the month
	keySince     = "since " // in a snapshot, with the month, ns
)

// newUsage goes on from what a snapshot says.
func newUsage(saved map[string]uint64, socket func() (tx, rx uint64)) *usage {
	u := &usage{socket: socket, counts: map[string]uint64{}, months: map[string]span{}}
	for key, n := range saved {
		if month, ok := strings.CutPrefix(key, keyUsed); ok {
			u.months[month] = span{n, saved[keySince+month]}
		} else if !strings.HasPrefix(key, keySince) {
			u.counts[key] = n
		}
	}
	return u
}

func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// save returns what a snapshot keeps.
func (u *usage) save() map[string]uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	saved := maps.Clone(u.counts)
	for month, s := range u.months {
		saved[keyUsed+month], saved[keySince+month] = s.used, s.since
	}
	return saved
}

// byClass returns the bytes of each direction and class.
func (u *usage) byClass() map[string]uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	counts := maps.Clone(u.counts)
	delete(counts, keyTx)
	delete(counts, keyRx)
	return counts
}

// spent counts bytes of a class.
func (u *usage) spent(class link.Class, sent, received int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sent > 0 {
		u.counts[keyTx+"-"+class.String()] += uint64(sent)
	}
	if received > 0 {
		u.counts[keyRx+"-"+class.String()] += uint64(received)
	}
}

// read takes in what the socket has carried since the last time.
func (u *usage) read(now time.Time) {
	tx, rx := u.socket()
	u.month = monthOf(now)
	s, known := u.months[u.month]
	if !known {
		s.since = point.Nanos(now)
		if names := slices.Sorted(maps.Keys(u.months)); len(names) >= keptMonths {
			delete(u.months, names[0])
		}
	}
	s.used += tx - u.seen[0] + rx - u.seen[1]
	u.months[u.month] = s
	u.counts[keyTx] += tx - u.seen[0]
	u.counts[keyRx] += rx - u.seen[1]
	u.seen = [2]uint64{tx, rx}
}

// total returns all bytes each way.
func (u *usage) total(now time.Time) (tx, rx uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read(now)
	return u.counts[keyTx], u.counts[keyRx]
}

// inMonth returns the bytes of this month so far, both ways, and what the
// whole month will have at that rate.
func (u *usage) inMonth(now time.Time) (used, forecast uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read(now)
	first, next := monthBounds(now)
	s := u.months[u.month]
	from := first
	if since := point.TimeOf(s.since); since.After(first) {
		from = since
	}
	past := max(now.Sub(from), time.Minute)
	left := next.Sub(now)
	return s.used, s.used + uint64(float64(s.used)*float64(left)/float64(past))
}

func monthBounds(now time.Time) (first, next time.Time) {
	y, m, _ := now.UTC().Date()
	first = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	return first, first.AddDate(0, 1, 0)
}

// aheadOfPace is how far a budget that is spread over the month may be used
// ahead: so that a new month, or a gateway that was silent, can begin.
const aheadOfPace = 24 * time.Hour

// affords returns how long to wait until n more bytes are within a budget
// for the month.
func (u *usage) affords(now time.Time, budget uint64, pace string, n int) time.Duration {
	if budget == 0 {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read(now)
	first, next := monthBounds(now)
	perSecond := float64(budget) / next.Sub(first).Seconds()
	allowed := float64(budget)
	if pace != paceFree {
		allowed = min(allowed, perSecond*(now.Sub(first)+aheadOfPace).Seconds())
	}
	short := float64(u.months[u.month].used) + float64(n) - allowed
	rest := next.Sub(now) + time.Second // then there is a new budget
	switch {
	case short <= 0:
		return 0
	case pace == paceFree || short/perSecond > rest.Seconds():
		return rest
	}
	return max(time.Duration(short/perSecond*float64(time.Second)), time.Second)
}

// points returns what a report tells.
func (u *usage) points(node string, now time.Time) []point.Point {
	used, forecast := u.inMonth(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []point.Point
	add := func(typ, key string, v uint64) {
		list = append(list, point.Point{
			Series: point.Series{Node: node, Type: typ, Key: key}, Origin: "link",
			DataType: point.Uint, Data: point.UintData(v),
		})
	}
	add(typeMonth, point.NoKey, used)
	add(typeForecast, point.NoKey, forecast)
	for key, n := range u.counts {
		add(typeBytes, key, n)
	}
	return list
}
