package e2e_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/natstest"
	"github.com/sapflow/sapflow/shared/point"
)

// past is days of readings of some nodes, a reading each second.
type past struct {
	from, to uint64
	columns  map[point.Series]*frame.Column
}

// makePast makes readings that ended an hour ago.
func makePast(t *testing.T, rng *rand.Rand, nodes []string, seconds int) *past {
	t.Helper()
	end := uint64(time.Now().Add(-time.Hour).Truncate(time.Hour).UnixNano())
	p := &past{from: end - uint64(seconds)*1e9, to: end, columns: map[point.Series]*frame.Column{}}
	for _, n := range nodes {
		c, v := &frame.Column{}, 2000+rng.IntN(1000)
		for s := range seconds {
			v += rng.IntN(7) - 3
			pt := float(n, "level", p.from+uint64(s)*1e9+uint64(rng.IntN(40))*1e6, float64(v)/100)
			c.Append(&pt)
		}
		p.columns[series(n, "level")] = c
	}
	return p
}

// questions are asked again and again about the same past.
func (p *past) questions() (list []api.HistoryRequest) {
	text := func(ns uint64) string { return point.TimeOf(ns).Format(time.RFC3339Nano) }
	span := p.to - p.from
	for _, r := range []api.HistoryRequest{
		{From: text(p.from), To: text(p.from + 3600*1e9)},
		{From: text(p.from + span/2 + 123456789), To: text(p.from + span/2 + 600*1e9)},
		{Every: "1h"},
		{Every: "24h", Zone: "Asia/Kathmandu"},
		{Every: "97m"},
		{Newest: 10, To: text(p.from + span/3)},
		{Buckets: 50, From: text(p.from)},
	} {
		if r.From == "" {
			r.From = text(p.from)
		}
		if r.To == "" {
			r.To = text(p.to)
		}
		r.Type = "level"
		list = append(list, r)
	}
	return list
}

// answers asks all questions about some nodes.
func (p *past) answers(t *testing.T, c *client.Client, nodes []string) string {
	t.Helper()
	var out strings.Builder
	for _, n := range nodes {
		for _, r := range p.questions() {
			err := c.History(t.Context(), n, r, func(page *api.HistoryReply) error {
				page.Next = "" // says which page it is, not what is in it
				b, err := json.Marshal(page)
				fmt.Fprintf(&out, "%s\n", b)
				return err
			})
			if err != nil {
				t.Fatalf("history of %s: %v", n, err)
			}
		}
	}
	return out.String()
}

// TestHistoryBesideIngest: what is past stays as it is while years come in
// beside it, live points become chunks and the agent is killed; every point
// that was acked is in history once, at both ends.
func TestHistoryBesideIngest(t *testing.T) {
	t.Parallel()
	rng := random(t)
	const tail = "20000" // chunks are written often
	h := startHub(t, "--node-streams-layout", "none", "--store-tail", tail)
	g, enroll := h.newGateway("gw1", "", natstest.LinkConfig{}, "--store-tail", tail)
	enroll()
	g.start()
	var nodes []string
	for n := range 10 { // more than one group of columns
		nodes = append(nodes, addNode(t, g.client, g.id, fmt.Sprintf("pump%d", n)))
	}
	old := makePast(t, rng, nodes, 6*3600)
	if err := g.client.Import(t.Context(), g.id, old.columns); err != nil {
		t.Fatal(err)
	}
	want := old.answers(t, g.client, nodes[:3])

	// Live points, each in its frame and late ones between, and more years.
	const rounds, each = 60, 3000
	live := map[uint64]float64{}
	begin := now()
	for round := range rounds {
		var list []point.Point
		for i := range each {
			at := begin + uint64(round*each+i)*1e6
			if rng.IntN(20) == 0 {
				at = begin - uint64(rng.IntN(1e9)) // late, sometimes the same again
			}
			v := float64(rng.IntN(1000)) / 10
			live[at] = v
			list = append(list, float(nodes[1], "flow", at, v))
		}
		for len(list) > 0 {
			n := min(len(list), 500)
			write(t, g.client, list[:n]...)
			list = list[n:]
		}
		if round%12 == 5 {
			more := makePast(t, rng, nodes[5:], 1200)
			for s, c := range more.columns { // years before
				moved := &frame.Column{}
				for i := range c.Len() {
					p := c.Point(i)
					p.Time -= uint64(1+round) * 30 * 24 * 3600 * 1e9
					moved.Append(&p)
				}
				more.columns[s] = moved
			}
			if err := g.client.Import(t.Context(), g.id, more.columns); err != nil {
				t.Fatal(err)
			}
		}
		if round%20 == 11 {
			g.kill()
			g.start()
		}
		if round%20 == 17 {
			h.crash()
		}
		if round%10 == 0 {
			if got := old.answers(t, g.client, nodes[:3]); got != want {
				t.Fatalf("round %d: the past has changed", round)
			}
		}
	}
	g.waitEqual()
	for _, end := range []struct {
		name string
		c    *client.Client
	}{{"gateway", g.client}, {"hub", h.client}} {
		got := map[uint64]float64{}
		last := uint64(0)
		err := end.c.Columns(t.Context(), nodes[1], api.HistoryRequest{Type: "flow"}, func(list []client.Column, gaps []api.Gap) error {
			if len(gaps) > 0 {
				t.Errorf("%s: gaps %v", end.name, gaps)
			}
			for i := range list {
				for k, at := range list[i].Times {
					if at <= last {
						t.Errorf("%s: %d after %d", end.name, at, last)
					}
					last = at
					got[at], _ = list[i].Number(k)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, live) {
			t.Errorf("%s: %d points, want %d, or other values", end.name, len(got), len(live))
		}
		var all api.Bucket
		err = end.c.History(t.Context(), nodes[1], api.HistoryRequest{Type: "flow", Every: "876000h"}, func(r *api.HistoryReply) error {
			all = r.Buckets[0]
			return nil
		})
		sum, least := 0.0, math.Inf(1)
		for _, v := range live {
			sum, least = sum+v, min(least, v)
		}
		var mean, low float64
		_ = json.Unmarshal(all.Mean, &mean)
		_ = json.Unmarshal(all.Min, &low)
		if err != nil || all.Count != len(live) || low != least || math.Abs(mean-sum/float64(len(live))) > 1e-9 {
			t.Errorf("%s: %v, one bucket has %d points, mean %v, min %v; want %d, %v, %v", end.name, err, all.Count, mean, low, len(live), sum/float64(len(live)), least)
		}
	}
	g.stop()
	h.stop()
	checkStores(t, h, g)
	for _, dir := range []string{h.dir, g.dir} {
		out, code := command(t, agentBin, "store", "stats", "--json", "--data", dir)
		if dir == h.dir {
			out, code = command(t, hubBin, "store", "stats", "--json", "--data", dir)
		}
		var s struct {
			History struct{ Points uint64 }
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 || s.History.Points < uint64(len(live))/2 {
			t.Errorf("%s: code %d, %d points in chunks: want most of %d\n%s", dir, code, s.History.Points, len(live), out)
		}
	}
}
