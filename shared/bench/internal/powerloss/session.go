package powerloss

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Names of the instances, and of their directories.
const (
	hubName     = "hub"
	gatewayName = "gw"
)

// session is a recorded run.
type session struct {
	dir, bin string
	link     *lab.Link // what the gateway was told to dial
	id       string    // of the gateway
	begun    uint64    // by then the gateway was enrolled, or had its power back

	clock        recorder.Clock
	hub, gateway recorder.Recording
	hubSide      []point.Series // written at the hub
	gatewaySide  []point.Series // written at the gateway

	mu      sync.Mutex
	last    int64 // newest time given
	written map[sample]*write
}

// sample names a point by its place in history.
type sample struct {
	series point.Series
	time   uint64
}

// write is a point that was written.
type write struct {
	value float64
	acked uint64 // by then, 0 for never
}

const (
	writers = 3
	// storeMax bounds the gateway's logs in bytes: more than what waits while
	// the hub is away, so that only frames go that the hub has, but no more than
	// the texts of one bulk.
	storeMax  = bulkTexts * textBytes
	bulkTexts = 120
	textBytes = 1024
	// snapshotEvery puts many snapshots into a short run.
	snapshotEvery = "400ms"
)

// record runs a hub and a gateway from nothing with their data on recorders.
func record(ctx context.Context, cfg Config, dir string) (*session, error) {
	link, err := lab.NewLink()
	if err != nil {
		return nil, err
	}
	s := &session{dir: dir, bin: cfg.Bin, link: link, written: map[sample]*write{}}
	err = s.run(ctx, cfg.Turns, func(r *run) (err error) {
		if err := r.startHub(ctx); err != nil {
			return err
		}
		if r.gateway, err = r.lab.Enrol(ctx, r.hub, gatewayName); err != nil {
			return err
		}
		s.id, s.begun = r.gateway.ID, s.clock.Now()
		return r.play(ctx)
	})
	if err != nil {
		link.Close()
	}
	return s, err
}

// again records a short run that begins with the start after a power loss, so
// that the power can go a second time before all is in order again.
func (s *session) again(ctx context.Context, turns int, dir string, i image) (*session, error) {
	after := &session{
		dir: dir, bin: s.bin, link: s.link, id: s.id, last: s.last,
		hubSide: s.hubSide, gatewaySide: s.gatewaySide, written: map[sample]*write{},
	}
	for key, w := range s.written {
		c := &write{value: w.value}
		if w.acked != 0 && w.acked <= i.at {
			c.acked = 1 // before all of this run
		}
		after.written[key] = c
	}
	start := filepath.Join(dir, "start")
	if err := s.build(i, start); err != nil {
		return nil, err
	}
	return after, after.run(ctx, turns, func(r *run) error {
		for name, d := range r.disks {
			if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(start, name)+"/.", d.Mount).CombinedOutput(); err != nil {
				return fmt.Errorf("copy an image: %w: %s", err, out)
			}
			d.Settle()
		}
		after.begun = after.clock.Now()
		r.link.Lead("")
		r.gateway = r.lab.Gateway(gatewayName, s.id)
		r.configure(r.gateway)
		if _, err := r.gateway.Start(ctx); err != nil {
			return err
		}
		if err := r.startHub(ctx); err != nil {
			return err
		}
		return r.parts(ctx, r.quietly, r.killed(&r.gateway), r.restart)
	})
}

// run runs a hub and a gateway through a plot, and keeps what was recorded.
func (s *session) run(ctx context.Context, turns int, plot func(*run) error) (err error) {
	r := &run{
		session: s, turns: turns, disks: map[string]*recorder.Recorder{},
		lab: &lab.Lab{Dir: filepath.Join(s.dir, "run"), Bin: s.bin, Seen: map[string]string{}},
	}
	defer func() {
		err = errors.Join(err, r.lab.Close())
		for _, d := range r.disks {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, name := range []string{hubName, gatewayName} {
		d, err := recorder.Mount(r.lab.Dir, name, &s.clock)
		if err != nil {
			return err
		}
		r.disks[name], r.lab.Seen[name] = d, d.Mount
	}
	r.hub = r.lab.Hub("--leaf-advertise", s.advertised())
	if err := plot(r); err != nil {
		return err
	}
	if err := errors.Join(r.gateway.Stop(), r.hub.Stop()); err != nil {
		return err
	}
	s.hub, s.gateway = r.disks[hubName].Ops(), r.disks[gatewayName].Ops()
	return nil
}

func (s *session) advertised() string { return "nats-leaf://" + s.link.Addr() }

// run is a session while it is recorded.
type run struct {
	*session
	turns        int
	lab          *lab.Lab
	disks        map[string]*recorder.Recorder // by instance
	hub, gateway *lab.Instance
}

// play is the plot: each part leaves other traces on the disks.
func (r *run) play(ctx context.Context) error {
	r.configure(r.gateway)
	if _, err := r.gateway.Start(ctx); err != nil {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	return r.parts(ctx,
		r.quietly, r.bulk, r.restart, r.withoutHub, r.flood, r.killed(&r.gateway), r.altered, r.killed(&r.hub), r.bulk, r.restart, r.quietly,
	)
}

// parts plays parts of a plot.
func (r *run) parts(ctx context.Context, list ...func(context.Context) error) error {
	for _, part := range list {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// configure lets much happen at a gateway in a short time.
func (s *session) configure(gateway *lab.Instance) {
	gateway.SetFlag("--snapshot-every", snapshotEvery)
	gateway.SetFlag("--store-max", strconv.Itoa(storeMax))
}

// prepare makes nodes, and lets frames go often.
func (r *run) prepare(ctx context.Context) error {
	up, err := r.hub.Dial(ctx)
	if err != nil {
		return err
	}
	defer up.Close()
	for typ, seconds := range map[string]string{"flushInterval": "0.2", "commitInterval": "0.1"} {
		if err := up.Set(ctx, point.Series{Node: r.id, Type: typ, Key: point.NoKey}, seconds, "", ""); err != nil {
			return err
		}
	}
	c, err := r.gateway.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for n := range writers {
		node, err := c.NodeAdd(ctx, r.id, "sensor", fmt.Sprintf("sensor-%d", n+1))
		if err != nil {
			return err
		}
		for _, typ := range []string{"temperature", "pressure"} {
			r.gatewaySide = append(r.gatewaySide, point.Series{Node: node, Type: typ, Key: point.NoKey})
		}
	}
	r.hubSide = []point.Series{{Node: r.id, Type: "limit", Key: point.NoKey}}
	return lab.CaughtUp(ctx, c)
}

func (r *run) startHub(ctx context.Context) error {
	if _, err := r.hub.Start(ctx); err != nil {
		return err
	}
	leaf, err := r.hub.Leaf()
	if err == nil {
		r.link.Lead(leaf)
	}
	return err
}

func (r *run) quietly(ctx context.Context) error { return r.write(ctx) }

// bulk writes texts that take the room of what is older, once the hub has it.
// Nobody looks for them in history.
func (r *run) bulk(ctx context.Context) error {
	c, err := r.gateway.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := r.texts(ctx, c); err != nil {
		return err
	}
	return r.write(ctx)
}

// flood writes texts until the gateway says that it has removed points that
// somebody looks for.
func (r *run) flood(ctx context.Context) error {
	c, err := r.gateway.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = lab.Until(ctx, "old points make room", turnPause, func() (removed bool, err error) {
		if err := r.texts(ctx, c); err != nil {
			return false, err
		}
		for _, series := range r.gatewaySide {
			err := c.History(ctx, series.Node, api.HistoryRequest{Type: series.Type, Key: series.Key}, func(r *api.HistoryReply) error {
				removed = removed || slices.ContainsFunc(r.Gaps, func(g api.Gap) bool { return g.Reason == api.ReasonRemoved })
				return nil
			})
			if err != nil {
				return false, err
			}
		}
		return removed, nil
	})
	if err != nil {
		return err
	}
	return r.write(ctx)
}

func (r *run) texts(ctx context.Context, c *client.Client) error {
	if err := lab.CaughtUp(ctx, c); err != nil {
		return err
	}
	const group = 20
	for range bulkTexts / group {
		var points []point.Point
		for key := range group {
			text := make([]byte, textBytes/2)
			_, _ = rand.Read(text) // never fails
			points = append(points, point.Point{
				Series:   point.Series{Node: r.id, Type: "text", Key: strconv.Itoa(key)},
				DataType: point.String, Data: hex.AppendEncode(nil, text),
			})
		}
		if err := c.Write(ctx, points); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) restart(ctx context.Context) error {
	if err := r.gateway.Stop(); err != nil {
		return err
	}
	if _, err := r.gateway.Start(ctx); err != nil {
		return err
	}
	return r.write(ctx)
}

// withoutHub writes while the hub is down, and while it returns.
func (r *run) withoutHub(ctx context.Context) error {
	r.link.Lead("")
	if err := r.hub.Stop(); err != nil {
		return err
	}
	if err := r.writeGateway(ctx, r.turns); err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error { return r.writeGateway(ctx, r.turns) })
	group.Go(func() error { return r.startHub(ctx) })
	return group.Wait()
}

// killed kills an instance in the middle of writes, and starts it again.
func (r *run) killed(who **lab.Instance) func(context.Context) error {
	return func(ctx context.Context) error {
		writing, end := context.WithCancel(ctx)
		defer end()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.write(writing) // it is to be cut off
		}()
		err := lab.Pause(ctx, time.Duration(r.turns)*turnPause/2)
		(*who).Crash()
		r.link.Lead("")
		end()
		<-done
		if err != nil {
			return err
		}
		if *who == r.hub {
			err = r.startHub(ctx)
		} else {
			_, err = r.gateway.Start(ctx)
			if leaf, leafErr := r.hub.Leaf(); leafErr == nil {
				r.link.Lead(leaf)
			}
		}
		if err != nil {
			return err
		}
		return r.write(ctx)
	}
}

// altered starts the gateway on a stream that another version has set up
// otherwise, so that it updates it.
func (r *run) altered(ctx context.Context) error {
	if err := r.gateway.Stop(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := lab.Launch("other version", r.gateway.Dir+".altered.log", self, AlterCommand, r.gateway.Seen, subject.StreamEdge)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
	if said := p.LastWords(); said != altered {
		return fmt.Errorf("change a stream as another version would: it said %q", said)
	}
	if _, err := r.gateway.Start(ctx); err != nil {
		return err
	}
	return r.write(ctx)
}

// write writes at both ends.
func (r *run) write(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.writeGateway(ctx, r.turns) })
	group.Go(func() error { return r.writeHub(ctx, r.turns/4+1) })
	return group.Wait()
}

func (r *run) writeHub(ctx context.Context, turns int) error {
	c, err := r.hub.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for range turns {
		if err := r.acked(ctx, c, r.hubSide); err != nil {
			return err
		}
		if err := lab.Pause(ctx, 4*turnPause); err != nil {
			return err
		}
	}
	return nil
}

// turnPause keeps the writers from filling the record with nothing else.
const turnPause = 10 * time.Millisecond

// writeGateway lets each writer write its node's points at the gateway: as a
// group that waits, and every third time single points that do not.
func (r *run) writeGateway(ctx context.Context, turns int) error {
	url, err := r.gateway.URL()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for n := range writers {
		own := r.gatewaySide[2*n : 2*n+2]
		group.Go(func() error {
			c, err := client.Connect(ctx, client.Config{URL: url})
			if err != nil {
				return err
			}
			defer c.Close()
			nc, err := nats.Connect(url)
			if err != nil {
				return err
			}
			defer nc.Close()
			for turn := range turns {
				if turn%3 == 2 {
					err = r.unacked(nc, own)
				} else {
					err = r.acked(ctx, c, own)
				}
				if err == nil {
					err = lab.Pause(ctx, turnPause)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// acked writes a point of each series as a group and notes when it was acked.
// An instance that has just started answers questions before it takes writes.
func (s *session) acked(ctx context.Context, c *client.Client, list []point.Series) error {
	points, notes := s.next(list)
	err := lab.Until(ctx, "a write is taken", turnPause, func() (bool, error) {
		err := c.Write(ctx, points)
		if api.CodeOf(err) == api.CodeBusy {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	at := s.clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range notes {
		w.acked = at
	}
	return nil
}

// unacked publishes a point of each series.
func (s *session) unacked(nc *nats.Conn, list []point.Series) error {
	points, _ := s.next(list)
	for i := range points {
		if err := nc.Publish(subject.Point(points[i].Series), point.AppendPayload(nil, &points[i])); err != nil {
			return err
		}
	}
	return nil
}

// next returns points of now, each with a time and a value of its own, and
// their notes.
func (s *session) next(list []point.Series) ([]point.Point, []*write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last+1, time.Now().UnixNano())
	var points []point.Point
	var notes []*write
	for _, series := range list {
		w := &write{value: float64(len(s.written))}
		p := point.Point{Series: series, Time: uint64(s.last), DataType: point.Float, Data: point.FloatData(w.value)}
		s.written[sample{series, p.Time}] = w
		points, notes = append(points, p), append(notes, w)
	}
	return points, notes
}
