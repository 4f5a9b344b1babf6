// Package audit owns the record of who did what about gateways and keys, when
// and from where: an append-only stream in the core account.
//
// An entry is appended after what it tells of is durable, before it is
// answered: a hub killed in between leaves a change without its entry, never an
// entry without its change. Refusals that repeat make an entry a minute, with
// their number, so that nobody fills the stream. Of what people write to nodes
// it has the settings of gateways; all of it is in the HUB log with its time.
package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// maxBytes bounds the stream, about a million entries; then the oldest go.
	maxBytes = 256 << 20
	// repeatEvery is how often a refusal that repeats makes an entry.
	repeatEvery = time.Minute
	// maxRepeats bounds the refusals that are remembered for that; beyond it
	// they are counted together.
	maxRepeats = 1024
	// Entries of a page, by default and at most.
	defaultLimit, maxLimit = 100, 1000
	// maxDetail bounds a text that others chose.
	maxDetail = 200
)

// What entries are about.
const (
	TokenMade      = "token.made"
	TokenWithdrawn = "token.withdrawn"
	DeviceAdded    = "device.added"
	DeviceEnrolled = "device.enrolled"
	DevicePending  = "device.pending"
	DeviceAccepted = "device.accepted"
	DeviceRejected = "device.rejected"
	DeviceRenewed  = "device.renewed"
	DeviceRevoked  = "device.revoked"
	DeviceRemoved  = "device.removed"
	DeviceClone    = "device.clone"
	Refused        = "refused"
	KeyRolled      = "key.rolled"
	KeyDropped     = "key.dropped"
	ConfigChanged  = "config.changed"
	HubStarted     = "hub.started"
)

// Entry is an entry of the record.
type Entry = api.AuditEntry

// Log is the record. A nil Log records nothing. It is safe for concurrent use.
type Log struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	log    zerolog.Logger
	now    func() time.Time

	mu      sync.Mutex
	repeats map[string]*repeat
	failed  int
}

// repeat is a refusal that was told a short while ago.
type repeat struct {
	told time.Time
	more int
}

// Open opens the stream, or makes it.
func Open(ctx context.Context, js jetstream.JetStream, now func() time.Time, log zerolog.Logger) (*Log, error) {
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: subject.StreamAudit, Description: "who did what about gateways and keys",
		Subjects: []string{subject.Audit(">")}, Storage: jetstream.FileStorage,
		DenyDelete: true, DenyPurge: true, AllowDirect: true, MaxBytes: maxBytes, Discard: jetstream.DiscardOld,
	})
	if err != nil {
		return nil, fmt.Errorf("open audit: %w", err)
	}
	if now == nil {
		now = time.Now
	}
	return &Log{
		js: js, stream: stream, now: now, log: log.With().Str("component", "audit").Logger(), repeats: map[string]*repeat{},
	}, nil
}

// by is who a context is for.
type by struct{ who, from string }

type byKey struct{}

// By returns a context of what somebody does from somewhere.
func By(ctx context.Context, who, from string) context.Context {
	return context.WithValue(ctx, byKey{}, by{who, from})
}

// From returns where the doer of a context is, "" if nobody said.
func From(ctx context.Context) string {
	b, _ := ctx.Value(byKey{}).(by)
	return b.from
}

// Note records what the doer of ctx did to something. detail are names and
// values in turn; they must hold no secret.
func (l *Log) Note(ctx context.Context, what, on string, detail ...string) {
	l.note(ctx, Entry{What: what, On: on}, detail)
}

// Refuse records that something was refused, and why.
func (l *Log) Refuse(ctx context.Context, on string, err error, detail ...string) {
	if l == nil {
		return
	}
	e := Entry{What: Refused, On: on, Code: api.CodeOf(err)}
	more, tell := l.repeated(on + " " + string(e.Code))
	if !tell {
		return
	}
	if more > 0 {
		detail = append(detail, "more", strconv.Itoa(more))
	}
	l.note(ctx, e, detail)
}

// repeated tells whether to tell a refusal, and how many were not since.
func (l *Log) repeated(key string) (more int, tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	r := l.repeats[key]
	if r == nil && len(l.repeats) >= maxRepeats {
		for k, old := range l.repeats {
			if now.Sub(old.told) >= repeatEvery {
				delete(l.repeats, k)
			}
		}
		if len(l.repeats) >= maxRepeats {
			key = ""
			r = l.repeats[key]
		}
	}
	if r == nil {
		l.repeats[key] = &repeat{told: now}
		return 0, true
	}
	if since := now.Sub(r.told); since >= 0 && since < repeatEvery {
		r.more++
		return 0, false
	}
	more, r.told, r.more = r.more, now, 0
	return more, true
}

func (l *Log) note(ctx context.Context, e Entry, detail []string) {
	if l == nil {
		return
	}
	b, _ := ctx.Value(byKey{}).(by)
	e.Time, e.Who, e.From = l.now().UTC().Format(time.RFC3339Nano), cmp.Or(b.who, "hub"), cmp.Or(b.from, "hub")
	for i := 0; i+1 < len(detail); i += 2 {
		if v := detail[i+1]; v != "" {
			if e.Detail == nil {
				e.Detail = map[string]string{}
			}
			e.Detail[detail[i]] = v[:min(len(v), maxDetail)]
		}
	}
	data, err := json.Marshal(e)
	if err == nil {
		// Whoever asked may have gone: what was done is told all the same.
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, err = l.js.Publish(wait, subject.Audit(e.What), data)
	}
	if err != nil {
		l.mu.Lock()
		l.failed++
		l.mu.Unlock()
		l.log.Error().Err(err).Str("what", e.What).Str("on", e.On).Msg("audit entry not stored")
	}
}

// Failed returns how many entries could not be stored.
func (l *Log) Failed() int {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// List returns entries in order.
func (l *Log) List(ctx context.Context, req api.AuditRequest) ([]Entry, error) {
	limit := min(cmp.Or(max(req.Limit, 0), defaultLimit), maxLimit)
	info, err := l.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	list := []Entry{}
	read := func(seq uint64) error {
		m, err := l.stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil // it made room a moment ago
		}
		if err != nil {
			return fmt.Errorf("read audit: %w", err)
		}
		var e Entry
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return fmt.Errorf("read audit entry %d: %w", seq, err)
		}
		if e.Seq = seq; req.About == "" || e.On == req.About {
			list = append(list, e)
		}
		return nil
	}
	if req.After > 0 {
		for seq := max(req.After+1, info.State.FirstSeq); seq <= info.State.LastSeq && len(list) < limit; seq++ {
			if err := read(seq); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	for seq := info.State.LastSeq; seq >= max(info.State.FirstSeq, 1) && len(list) < limit; seq-- {
		if err := read(seq); err != nil {
			return nil, err
		}
	}
	slices.Reverse(list)
	return list, nil
}
