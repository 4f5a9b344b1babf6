package peer

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// AsyncWindow is how many messages of PublishAll wait for their acks.
	AsyncWindow = 4096
	// stallWait bounds the wait for room in it.
	stallWait = 30 * time.Second
)

// PublishAll publishes messages, subject and payload, to a stock server and
// returns how long it took until all were acked.
func PublishAll(ctx context.Context, nc *nats.Conn, messages iter.Seq2[string, []byte]) (time.Duration, error) {
	failed := make(chan error, 1)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(AsyncWindow), jetstream.WithPublishAsyncErrHandler(
		func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			select {
			case failed <- err:
			default: // one is enough
			}
		}))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for subject, payload := range messages {
		if _, err := js.PublishAsync(subject, payload, jetstream.WithStallWait(stallWait)); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	took := time.Since(began)
	select {
	case err := <-failed:
		return 0, fmt.Errorf("publish: %w", err)
	default:
		return took, nil
	}
}
