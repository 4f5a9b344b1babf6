package e2e_test

import (
	"context"
	"sync"
	"testing"

	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/subject"
)

// TestFlood has a gateway send without waiting for acks while another goes on
// as it should: no frame of the other may be lost on the way it shares with
// the flood. The flooding one may come back.
func TestFlood(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	flooding, other := h.addRawGateway("flooding"), h.addRawGateway("other")
	flooding.hello()
	other.hello()
	data := flooding.parcel(flooding.frame(float(flooding.id, "v", 0, 1)))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for ctx.Err() == nil && flooding.nc.Publish(subject.FromGateway(flooding.id, subject.Frame), data) == nil {
		}
	}()
	go func() { // ends with the test
		for {
			select {
			case <-flooding.acks:
			case <-t.Context().Done():
				return
			}
		}
	}()
	for n := range 200 {
		if ack := other.send(other.frame(float(other.id, "v", 0, float64(n)))); ack.Code != link.OK || ack.Cursor.Seq != uint64(n+1) {
			t.Fatalf("frame %d of the other gateway: %+v", n, ack)
		}
	}
	stop()
	wg.Wait()
	flooding.hello()
}
