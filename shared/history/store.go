package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/subject"
)

// ioTimeout bounds one exchange with the store, which is local.
const ioTimeout = 10 * time.Second

// Stream returns the configuration of the stream of an archive: every subject
// holds the newest version of one chunk or record, so that writing it again is
// the one step from the old to the new.
func Stream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: subject.StreamHistory, Subjects: []string{subject.HistoryAll},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, AllowDirect: true, Replicas: 1,
	}
}

// store is a JetStream stream with one message a subject.
type store struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	guard  Guard
}

// put writes a subject. It returns when that is durable.
func (s store) put(ctx context.Context, subj string, data []byte) error {
	if s.guard == nil {
		return s.write(ctx, subj, data)
	}
	return s.guard.Put(func() error { return s.write(ctx, subj, data) })
}

func (s store) write(ctx context.Context, subj string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subj, Data: data}, jetstream.WithExpectStream(subject.StreamHistory)); err != nil {
		return fmt.Errorf("write history %s: %w", subj, err)
	}
	return nil
}

// get reads a subject, nil if there is nothing.
func (s store) get(ctx context.Context, subj string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	m, err := s.stream.GetLastMsgForSubject(ctx, subj)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read history %s: %w", subj, err)
	}
	return m.Data, nil
}

// remove removes a subject.
func (s store) remove(ctx context.Context, subj string) error {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(subj)); err != nil {
		return fmt.Errorf("remove history %s: %w", subj, err)
	}
	return nil
}

// list returns the subjects that match a filter.
func (s store) list(ctx context.Context, filter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*ioTimeout)
	defer cancel()
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("list history: %w", err)
	}
	subjects := make([]string, 0, len(info.State.Subjects))
	for name := range info.State.Subjects {
		subjects = append(subjects, name)
	}
	slices.Sort(subjects)
	return subjects, nil
}

// bytes returns what the stream takes.
func (s store) bytes(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at history: %w", err)
	}
	return info.State.Bytes, nil
}

// starts returns the starts of the leaves of a chain, in order.
func (s store) starts(ctx context.Context, level subject.HistoryLevel, group int) ([]uint64, error) {
	list, err := s.list(ctx, subject.HistoryChain(level, group))
	if err != nil {
		return nil, err
	}
	starts := make([]uint64, 0, len(list))
	for _, name := range list {
		start, err := strconv.ParseUint(name[strings.LastIndexByte(name, '.')+1:], 10, 64)
		if err == nil {
			starts = append(starts, start)
		}
	}
	slices.Sort(starts)
	return starts, nil
}
