package watch

import (
	"testing"
	"time"

	"github.com/sapflow/sapflow/hub/internal/natsd"
)

func TestTogether(t *testing.T) {
	s, now := newSightings(), time.Now()
	one := []natsd.LeafInfo{{ID: "a", CID: 1}, {ID: "b", CID: 2}}
	two := append([]natsd.LeafInfo{{ID: "a", CID: 3, RemoteAddr: "there"}}, one...)
	for _, step := range []struct {
		after time.Duration
		leafs []natsd.LeafInfo
		clone bool
	}{
		{0, one, false},
		{time.Hour, two, false},
		{together - 1, two, false},
		{1, two, true},
		{time.Hour, two, true},
		{0, one, false}, // the pair is over
		{0, two, false},
		{together, two, true},
	} {
		now = now.Add(step.after)
		clones := s.live(step.leafs, now)
		if _, ok := clones["a"]; ok != step.clone || len(clones) > 1 {
			t.Errorf("at %s: got %v, want clone %v", step.after, clones, step.clone)
		}
	}
}

func TestEvictions(t *testing.T) {
	s, now := newSightings(), time.Now()
	for i := 1; i <= 20; i++ { // a line that breaks every 25 s
		if now = now.Add(25 * time.Second); s.evicted("a", now) {
			t.Fatalf("a bad line is a clone after %d breaks", i)
		}
	}
	for i := 1; i <= takeovers; i++ { // two boxes
		if got, want := s.evicted("b", now.Add(time.Duration(i)*time.Second)), i == takeovers; got != want {
			t.Errorf("eviction %d: got %v, want %v", i, got, want)
		}
	}
	for range 1000 {
		s.evicted("b", now)
	}
	if n := len(s.evictions["b"]); n > takeovers {
		t.Errorf("%d evictions are remembered, want %d at most", n, takeovers)
	}
	s.live(nil, now.Add(time.Hour))
	if len(s.evictions) != 0 {
		t.Errorf("remembered for an hour: %v", s.evictions)
	}
}
