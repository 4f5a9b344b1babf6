package e2e_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/point"
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
		for ctx.Err() == nil {
			if flooding.current().Publish(subject.FromGateway(flooding.id, subject.Frame), data) != nil {
				_ = flooding.dial() // as often as the hub lets it
			}
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

// TestFloodAcked has a gateway send as much as the hub acks, and more than it
// may, while another goes on as it should: the one is told when to try again,
// and loses nothing if it does; of the other every frame is taken at once.
func TestFloodAcked(t *testing.T) {
	t.Parallel()
	h := startHub(t, "--limits-points=8000")
	flooding, other := h.addRawGateway("flooding"), h.addRawGateway("other")
	flooding.hello()
	other.hello()
	const frames, points = 200, 4000 // the flood is ten times what it may save up
	stop := make(chan struct{})
	taken, refused := 0, 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			list := make([]point.Point, points)
			for i := range list {
				list[i] = float(flooding.id, "v", flooding.clock(), float64(taken))
				list[i].Key = strconv.Itoa(i % 30)
			}
			switch ack := flooding.send(flooding.frame(list...)); {
			case ack.Code == link.OK && ack.Done:
				taken++
			case ack.Code == link.Rate && ack.Retry > 0:
				refused++
			default:
				t.Errorf("frame %d of the flood: %+v", taken, ack)
				return
			}
		}
	})
	for n := range frames {
		if ack := other.send(other.frame(float(other.id, "v", 0, float64(n)))); ack.Code != link.OK || ack.Cursor.Seq != uint64(n+1) {
			t.Fatalf("frame %d of the other gateway: %+v", n, ack)
		}
	}
	eventually(t, "the flood is refused", func() bool { return flooding.refused() > 0 })
	close(stop)
	wg.Wait()
	if refused == 0 || flooding.refused() != refused {
		t.Errorf("refused %d times, counted %d", refused, flooding.refused())
	}
	if n := other.refused(); n > 0 {
		t.Errorf("the other gateway was refused %d times", n)
	}
	// The last frame comes once it may.
	last := flooding.frame(float(flooding.id, "last", 0, 1))
	eventually(t, "the flooding gateway goes on", func() bool { return flooding.send(last).Code == link.OK })
	if want := uint64(taken*points + 1); flooding.tail.Seq != want {
		t.Errorf("the hub holds %d points of the flood, want %d", flooding.tail.Seq, want)
	}
}

// refused returns how often the hub told a gateway that it sent too much.
func (r *rawGateway) refused() int {
	r.t.Helper()
	d, err := r.hub.client.Device(r.t.Context(), r.id)
	if err != nil {
		r.t.Error(err)
		return 0
	}
	return d.Refused["rate"]
}
