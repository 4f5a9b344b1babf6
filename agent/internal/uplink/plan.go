package uplink

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sapflow/sapflow/agent/internal/settings"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
)

// Plan is how a gateway uses its line. The names are what the setting `plan`
// accepts.
type Plan struct {
	Flush  time.Duration // between two pieces of the log
	Commit time.Duration // how often the log is made durable
	Idle   time.Duration // longest silence of the line
	Report time.Duration // between two reports of bytes
}

// The plans. A frame and its ack take about 130 B besides their points, which
// is what fewer and larger frames save.
var plans = map[string]Plan{
	"wired": {Flush: time.Second, Commit: time.Second, Idle: 5 * time.Minute, Report: 5 * time.Minute},
	"lte":   {Flush: 10 * time.Second, Commit: 10 * time.Second, Idle: 10 * time.Minute, Report: time.Hour},
	"catm":  {Flush: time.Minute, Commit: 10 * time.Second, Idle: 15 * time.Minute, Report: 6 * time.Hour},
}

// DefaultPlan holds until the hub has set one.
const DefaultPlan = "wired"

// Types of the settings of a link, points of the gateway's node.
const (
	SettingPlan   = point.TypePlan
	SettingFlush  = "flushInterval"  // seconds
	SettingCommit = "commitInterval" // seconds
	SettingBytes  = "bytesPerMonth"  // both ways, 0 for no limit
	SettingPace   = "pace"           // even or free
	SettingWaits  = "mayWait"        // nothing, backlog or live
	SettingAlarms = "alarms"         // types that are alarms: type or type/key, blanks between
)

const (
	paceEven = "even" // the budget is spread over the month
	paceFree = "free" // it may be used at any time of the month

	waitsNothing = "nothing"
	waitsBacklog = "backlog"
	waitsLive    = "live" // and the backlog
)

// rules are the settings in force. The zero rules are not ready.
type rules struct {
	mu     sync.Mutex
	plan   Plan
	flush  time.Duration // 0: by the plan
	commit time.Duration // 0: by the plan
	local  time.Duration // commit interval of this machine's configuration, 0: by the plan
	budget uint64
	pace   string
	waits  string
	alarms map[string]bool
}

func (r *rules) pacing() link.Pace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return link.Pace{Flush: r.flushEvery(), Idle: r.plan.Idle}
}

func (r *rules) flushEvery() time.Duration {
	if r.flush > 0 {
		return r.flush
	}
	return r.plan.Flush
}

// commitEvery returns how often the log is made durable: as often as it goes
// out where nobody said otherwise.
func (r *rules) commitEvery() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.commit > 0:
		return r.commit
	case r.local > 0:
		return r.local
	}
	return min(r.plan.Commit, r.flushEvery())
}

func (r *rules) reportEvery() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Report
}

// isAlarm tells whether a point goes ahead of everything.
func (r *rules) isAlarm(p *point.Point) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alarms[p.Type] || r.alarms[p.Type+"/"+p.Key]
}

// Settings returns the settings of the link. The caller must not change them.
func (u *Uplink) Settings() map[string]settings.Setting { return u.settings }

func (u *Uplink) newSettings() map[string]settings.Setting {
	r := &u.rules
	set := func(apply func()) {
		r.mu.Lock()
		apply()
		r.mu.Unlock()
		u.cfg.Out.SetEvery(r.commitEvery())
		u.peer.PaceChanged()
	}
	names := slices.Sorted(maps.Keys(plans))
	return map[string]settings.Setting{
		SettingPlan:   settings.OneOf(names, DefaultPlan, func(v string) { set(func() { r.plan = plans[v] }) }),
		SettingFlush:  settings.Seconds(0.1, 24*3600, 0, func(d time.Duration) { set(func() { r.flush = d }) }),
		SettingCommit: settings.Seconds(0.1, 60, 0, func(d time.Duration) { set(func() { r.commit = d }) }),
		SettingBytes:  settings.Number(0, 1e15, 0, func(v float64) { set(func() { r.budget = uint64(v) }) }),
		SettingPace:   settings.OneOf([]string{paceEven, paceFree}, paceEven, func(v string) { set(func() { r.pace = v }) }),
		SettingWaits:  settings.OneOf([]string{waitsNothing, waitsBacklog, waitsLive}, waitsLive, func(v string) { set(func() { r.waits = v }) }),
		SettingAlarms: settings.Text(func(v string) *settings.Refused {
			alarms := map[string]bool{}
			for _, name := range strings.Fields(v) {
				typ, key, keyed := strings.Cut(name, "/")
				if point.CheckType(typ) != nil || keyed && point.CheckKey(key) != nil {
					return &settings.Refused{Code: settings.CodeRange, Reason: name + " is not a type, nor a type/key"}
				}
				alarms[name] = true
			}
			set(func() { r.alarms = alarms })
			u.remind()
			return nil
		}),
	}
}
