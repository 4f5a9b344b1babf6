package journal

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a store.
var (
	// ErrEmpty is returned when there is no message at or after a place.
	ErrEmpty = errors.New("no such message")
	// ErrConflict is returned when somebody else wrote to the subject.
	ErrConflict = errors.New("another writer was there first")
	// ErrDiskFull is returned when the server has no space left.
	ErrDiskFull = errors.New("no space left for the log")
)

// Message is one stored frame.
type Message struct {
	Seq     uint64 // stream sequence
	Subject string
	Data    []byte
}

// Store is what a log needs of a stream: the messages of one subject, or of
// several for a reader.
type Store interface {
	// Append stores data if last is still the stream sequence of the
	// subject's last message, 0 for none. It returns when data is durable.
	// After any error but ErrConflict the message may be stored all the same.
	Append(ctx context.Context, data []byte, last uint64) (seq uint64, err error)
	// Last returns the newest message, or ErrEmpty.
	Last(ctx context.Context) (Message, error)
	// Next returns the first message at or after a stream sequence, or ErrEmpty.
	Next(ctx context.Context, seq uint64) (Message, error)
}

// ioTimeout bounds one exchange with the store. It is local: on the slowest
// flash a synced write takes a second.
const ioTimeout = 10 * time.Second

// JetStream is a Store on a subject of a JetStream stream. The subject of a
// reader may have wildcards.
type JetStream struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
}

var _ Store = (*JetStream)(nil)

// Ensure creates a stream or brings it to its configuration, and touches it
// only when they differ: after a power cut a stream may be hidden, and
// creating it again with the same configuration brings all of it back.
func Ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*ioTimeout)
	defer cancel()
	s, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if s, err = js.CreateStream(ctx, want); err != nil {
			return nil, fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", want.Name, err)
	}
	have := s.CachedInfo().Config
	if have.MaxMsgsPerSubject == unlimited(want.MaxMsgsPerSubject) && reflect.DeepEqual(have.Subjects, want.Subjects) && have.Replicas == max(1, want.Replicas) {
		return s, nil
	}
	if s, err = js.UpdateStream(ctx, want); err != nil {
		return nil, fmt.Errorf("update stream %s: %w", want.Name, err)
	}
	return s, nil
}

// unlimited returns what the server makes of a limit of 0.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// LogStream returns the configuration of a stream of logs: no limit by age,
// count or bytes, because frames go by position only.
func LogStream(name, subjects string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Subjects: []string{subjects},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		AllowDirect: true, DenyDelete: true, Replicas: 1,
	}
}

// NewStore returns the store on one subject of a stream.
func NewStore(js jetstream.JetStream, stream jetstream.Stream, subject string) *JetStream {
	return &JetStream{js: js, stream: stream, subject: subject}
}

// Append implements Store.
func (s *JetStream) Append(ctx context.Context, data []byte, last uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: s.subject, Data: data},
		jetstream.WithExpectLastSequencePerSubject(last), jetstream.WithExpectStream(s.stream.CachedInfo().Config.Name))
	if err != nil {
		var api *jetstream.APIError
		if errors.As(err, &api) {
			switch api.ErrorCode {
			case jetstream.JSErrCodeStreamWrongLastSequence:
				return 0, fmt.Errorf("append to %s after %d: %w", s.subject, last, ErrConflict)
			case jsInsufficientResources, jsStoreFailed:
				return 0, fmt.Errorf("append to %s: %w: %s", s.subject, ErrDiskFull, api.Description)
			}
		}
		return 0, fmt.Errorf("append to %s: %w", s.subject, err)
	}
	return ack.Sequence, nil
}

// Codes of the server that the client does not name.
const (
	jsInsufficientResources = 10023
	jsStoreFailed           = 10077
)

// Of returns the store on one subject of the same stream.
func (s *JetStream) Of(subject string) *JetStream { return NewStore(s.js, s.stream, subject) }

// Bytes returns what the messages of the stream take.
func (s *JetStream) Bytes(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	info, err := s.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at stream: %w", err)
	}
	return info.State.Bytes, nil
}

// Purge removes the messages before a stream sequence, of one subject or, for
// "", of the whole stream.
func (s *JetStream) Purge(ctx context.Context, subject string, below uint64) error {
	if below <= 1 { // 0 would mean all
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*ioTimeout)
	defer cancel()
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSequence(below)}
	if subject != "" {
		opts = append(opts, jetstream.WithPurgeSubject(subject))
	}
	if err := s.stream.Purge(ctx, opts...); err != nil {
		return fmt.Errorf("remove messages before %d: %w", below, err)
	}
	return nil
}

// Last implements Store.
func (s *JetStream) Last(ctx context.Context) (Message, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return message(s.stream.GetLastMsgForSubject(ctx, s.subject))
}

// Next implements Store.
func (s *JetStream) Next(ctx context.Context, seq uint64) (Message, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	return message(s.stream.GetMsg(ctx, max(1, seq), jetstream.WithGetMsgSubject(s.subject)))
}

func message(m *jetstream.RawStreamMsg, err error) (Message, error) {
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Message{}, ErrEmpty
	}
	if err != nil {
		return Message{}, fmt.Errorf("read log: %w", err)
	}
	return Message{Seq: m.Sequence, Subject: m.Subject, Data: m.Data}, nil
}
