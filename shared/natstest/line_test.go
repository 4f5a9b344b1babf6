package natstest

import (
	"testing"
	"time"
)

func TestLineKeepsOrderAndSeed(t *testing.T) {
	cfg := LinkConfig{Rate: 1000, Delay: 100 * time.Millisecond, Jitter: 300 * time.Millisecond, Seed: 7}
	start := time.Unix(1_700_000_000, 0)
	arrivals := func(cfg LinkConfig) (list []time.Duration) {
		w := newLine(cfg.scaled(), up)
		for range 200 {
			left, due := w.send(start, 10)
			if due.Sub(left) < cfg.scaled().Delay {
				t.Fatalf("a piece took %s", due.Sub(left))
			}
			list = append(list, due.Sub(start))
		}
		return list
	}
	got, again := arrivals(cfg), arrivals(cfg)
	swings := 0
	for i, d := range got {
		if d != again[i] {
			t.Fatalf("piece %d: %s, then %s from the same seed", i, d, again[i])
		}
		steady := time.Duration(i+1)*10*time.Millisecond + cfg.Delay
		if d < steady || d > steady+cfg.Jitter {
			t.Errorf("piece %d arrives after %s, without jitter after %s", i, d, steady)
		}
		if i > 0 && d < got[i-1] {
			t.Errorf("piece %d overtakes", i)
		}
		if d > steady+cfg.Jitter/2 {
			swings++
		}
	}
	if swings == 0 || swings == len(got) {
		t.Errorf("%d of %d pieces are late by more than half of the jitter", swings, len(got))
	}
	cfg.Scale = 10
	if last := arrivals(cfg)[199]; last < 210*time.Millisecond || last > 240*time.Millisecond {
		t.Errorf("2 s pass in %s at ten times the speed", last)
	}
}
