package powerloss

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// Kinds of faults.
var (
	errStart    = errors.New("it does not start")
	errLost     = errors.New("acked points are lost")
	errDiffer   = errors.New("both ends stay different")
	errSequence = errors.New("a place in a log has two contents")
)

// patience bounds how long an image may take until both ends agree.
const patience = 30 * time.Second

// probe is written at the gateway after the power has returned, before it
// has heard of the hub: these points must not take numbers that the hub has
// seen.
func (s *session) probe() point.Series {
	return point.Series{Node: s.id, Type: "probe", Key: point.NoKey}
}

// probes is how many are written.
const probes = 3

// try starts both ends on an image and returns how many acked points had to
// be there, whether the gateway had removed others, and what promise is broken.
func (s *session) try(ctx context.Context, i image) (checked int, removed bool, err error) {
	dir := filepath.Join(s.dir, "image")
	if err := os.RemoveAll(dir); err != nil {
		return 0, false, err
	}
	if err := s.build(i, dir); err != nil {
		return 0, false, err
	}
	after := &session{link: s.link, id: s.id, written: map[sample]*write{}}
	maps.Copy(after.written, s.written) // probes are added, notes are only read
	s.link.Lead("")                     // nobody is there yet
	l := &lab.Lab{Dir: dir, Bin: s.bin}
	hub, gateway := l.Hub("--leaf-advertise", s.advertised()), l.Gateway(gatewayName, s.id)
	s.configure(gateway)
	closed := false
	defer func() {
		if !closed {
			_ = l.Close() // the fault is known
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var start errgroup.Group
	start.Go(func() error { _, err := hub.Start(ctx); return err })
	start.Go(func() error {
		if _, err := gateway.Start(ctx); err != nil {
			return err
		}
		c, err := gateway.Dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		for range probes {
			if err := after.acked(ctx, c, []point.Series{s.probe()}); err != nil {
				return fmt.Errorf("write after the start: %w", err)
			}
		}
		return nil
	})
	if err := start.Wait(); err != nil {
		return 0, false, fmt.Errorf("%w: %w", errStart, err)
	}
	leaf, err := hub.Leaf()
	if err != nil {
		return 0, false, err
	}
	s.link.Lead(leaf)
	e := &ends{session: s, after: after}
	if e.hub, err = hub.Dial(ctx); err != nil {
		return 0, false, err
	}
	defer e.hub.Close()
	if e.gateway, err = gateway.Dial(ctx); err != nil {
		return 0, false, err
	}
	defer e.gateway.Close()
	both, err := e.agree(ctx)
	if err != nil {
		return 0, false, err
	}
	if checked, err = after.complete(both, i.at); err != nil {
		return checked, both[0].removed, err
	}
	closed = true
	if err := l.Close(); err != nil {
		return checked, both[0].removed, fmt.Errorf("it does not stop: %w", err)
	}
	return checked, both[0].removed, compareLogs(ctx, filepath.Join(dir, hubName), filepath.Join(dir, gatewayName))
}

// ends are both instances, running.
type ends struct {
	*session
	after        *session
	hub, gateway *client.Client
}

// told is the history of all series as one end tells it.
type told struct {
	values  map[sample]float64
	removed bool // a span is gone, and it says so
}

// agree waits until both ends tell the same, and returns the history of the
// gateway's end and the hub's.
func (e *ends) agree(ctx context.Context) (both [2]told, err error) {
	if err := lab.CaughtUp(ctx, e.gateway); err != nil {
		return both, err
	}
	var differ error
	err = lab.Until(ctx, "both ends are equal", 50*time.Millisecond, func() (bool, error) {
		if differ, err = e.compareState(ctx); err != nil || differ != nil {
			return false, err
		}
		for n, c := range []*client.Client{e.gateway, e.hub} {
			if both[n], err = e.history(ctx, c); err != nil {
				return false, err
			}
		}
		differ = sameHistory(both[0], both[1])
		return differ == nil, nil
	})
	if differ != nil {
		err = fmt.Errorf("%w: %w", errDiffer, differ)
	}
	return both, err
}

// compareState tells what differs below the gateway.
func (e *ends) compareState(ctx context.Context) (differ, err error) {
	var states [2]map[string]string
	for n, c := range []*client.Client{e.gateway, e.hub} {
		nodes, err := c.Nodes(ctx, e.id, api.NodesRequest{Depth: -1, Edges: true})
		if err != nil {
			return nil, err
		}
		states[n] = map[string]string{}
		for _, node := range nodes {
			for _, list := range [][]api.Point{node.Points, node.Edges} {
				for _, p := range list {
					text, err := json.Marshal(p)
					if err != nil {
						return nil, err
					}
					states[n][fmt.Sprint(node.ID, p.Up, p.Down, " ", p.Type, "/", p.Key)] = string(text)
				}
			}
		}
	}
	if reflect.DeepEqual(states[0], states[1]) {
		return nil, nil
	}
	for _, key := range slices.Sorted(maps.Keys(states[0])) {
		if states[0][key] != states[1][key] {
			return fmt.Errorf("state of %s is %s at the gateway, %s at the hub", key, states[0][key], cmp.Or(states[1][key], "missing")), nil
		}
	}
	return fmt.Errorf("the hub has %d heads, the gateway %d", len(states[1]), len(states[0])), nil
}

// history asks for everything that may have been written.
func (e *ends) history(ctx context.Context, c *client.Client) (told, error) {
	t := told{values: map[sample]float64{}}
	for _, series := range slices.Concat(e.gatewaySide, e.hubSide, []point.Series{e.probe()}) {
		err := c.History(ctx, series.Node, api.HistoryRequest{Type: series.Type, Key: series.Key}, func(r *api.HistoryReply) error {
			for _, g := range r.Gaps {
				t.removed = t.removed || g.Reason == api.ReasonRemoved
			}
			for _, got := range r.Samples {
				at, err := time.Parse(time.RFC3339Nano, got.Time)
				if err != nil {
					return err
				}
				v, err := strconv.ParseFloat(string(got.Value), 64)
				if err != nil {
					return err
				}
				t.values[sample{series, uint64(at.UnixNano())}] = v
			}
			return nil
		})
		if api.CodeOf(err) == api.CodeNotFound {
			continue // the node was not there yet
		}
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

// sameHistory tells what differs. A gateway that has removed old frames, and
// says so, may have less than the hub.
func sameHistory(gateway, hub told) error {
	for key, v := range hub.values {
		if got, ok := gateway.values[key]; (!ok && !gateway.removed) || (ok && got != v) {
			return fmt.Errorf("%s at %d is %v at the hub, at the gateway %v (%t)", key.series, key.time, v, got, ok)
		}
	}
	for key := range gateway.values {
		if _, ok := hub.values[key]; !ok {
			return fmt.Errorf("%s at %d is at the gateway only", key.series, key.time)
		}
	}
	return nil
}

// complete tells what was acked by a moment, or written after it, and is
// missing, and what is there that nobody wrote. What the gateway has removed
// must be at the hub.
func (s *session) complete(both [2]told, at uint64) (checked int, err error) {
	var lost []sample
	for key, w := range s.written {
		if must := w.acked != 0 && w.acked <= at || key.series == s.probe(); !must {
			continue
		}
		checked++
		v, ok := both[0].values[key]
		if !ok && both[0].removed {
			v, ok = both[1].values[key]
		}
		if !ok || v != w.value {
			lost = append(lost, key)
		}
	}
	if len(lost) > 0 {
		return checked, fmt.Errorf("%w: %d of %d, one is %s at %d", errLost, len(lost), checked, lost[0].series, lost[0].time)
	}
	for _, t := range both {
		for key, v := range t.values {
			if w := s.written[key]; w == nil || w.value != v {
				return checked, fmt.Errorf("%s at %d is %v, which nobody wrote", key.series, key.time, v)
			}
		}
	}
	if len(both[0].values) == 0 {
		return checked, errors.New("no history at all")
	}
	return checked, nil
}
