package powerloss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

const (
	// wearCommit is the commit interval that wear is measured at.
	wearCommit = 10 * time.Second
	// wearNodes write a point a second each.
	wearNodes = 30
	// wearPlan is the gateway's plan; it commits every 10 s.
	wearPlan = "lte"
)

// WearConfig says how wear of flash is measured.
type WearConfig struct {
	Bin  string        // directory of the two binaries, required
	For  time.Duration // how long, required; from 10 min on a snapshot is in it
	JSON bool          // print JSON; the files are left alone

	Table, Data   string // files for the table and for the same in JSON; "" for none
	Out, Progress io.Writer
}

// WearResults is what was measured.
type WearResults struct {
	Machine report.Machine `json:"machine"`
	Seconds float64        `json:"seconds"`
	Rows    []WearRow      `json:"rows"`
}

// WearRow is the wear of one way to keep points, in MB a day.
type WearRow struct {
	What    string  `json:"what"`
	Points  int     `json:"points"`  // in the time measured
	Syncs   float64 `json:"syncs"`   // a minute
	Pages   float64 `json:"pages"`   // contents, from the recorder
	Blocks  float64 `json:"blocks"`  // with the journal, estimated
	Process float64 `json:"process"` // write_bytes of a second process, on a disk of its own
	Device  float64 `json:"device"`  // what reached that disk
}

// Wear measures what reaches the flash at 30 points a second.
func Wear(ctx context.Context, cfg WearConfig) error {
	dir, err := lab.TempDir("wear")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &WearResults{Machine: report.Here(), Seconds: cfg.For.Seconds()}
	if r.Rows, err = measureWear(ctx, cfg, dir); err != nil {
		return err
	}
	if cfg.JSON {
		return report.Print(cfg.Out, r)
	}
	if _, err := fmt.Fprint(cfg.Out, r.Markdown()); err != nil || cfg.Table == "" {
		return err
	}
	return errors.Join(report.WriteSection(cfg.Table, "wear", r.Markdown()), report.WriteJSON(cfg.Data, r))
}

// worn is one way to keep points, twice: on a recorder and on a disk of its
// own.
type worn struct {
	what  string
	disk  *recorder.Recorder
	flash *flash
	plain *lab.Process      // the one on flash
	feed  func(n int) error // keeps a point in both

	from            uint64 // moment of the clock at which measuring began
	process, device int64  // what plain had written, and flash got, by then
}

// wearing is a measurement of wear.
type wearing struct {
	dir      string
	lab      *lab.Lab
	desk     *desk
	clock    recorder.Clock
	disks    []*recorder.Recorder
	flashes  []*flash
	children []*lab.Process
	conns    []*nats.Conn // that feed the gateways
}

func measureWear(ctx context.Context, cfg WearConfig, dir string) (rows []WearRow, err error) {
	d, err := openDesk()
	if err != nil {
		return nil, err
	}
	m := &wearing{dir: dir, desk: d, lab: &lab.Lab{Dir: dir, Bin: cfg.Bin, Seen: map[string]string{}}}
	defer func() { err = errors.Join(err, m.close()) }()
	sapflow, err := m.sapflow(ctx)
	if err != nil {
		return nil, err
	}
	list := []*worn{sapflow}
	for i := range wearPeers {
		w, err := m.peer(ctx, &wearPeers[i])
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	return feedAll(ctx, cfg, &m.clock, list)
}

// close stops everything, then unmounts.
func (m *wearing) close() error {
	for _, nc := range m.conns {
		nc.Close()
	}
	errs := []error{m.lab.Close()}
	for _, p := range m.children {
		errs = append(errs, p.Stop())
	}
	m.desk.close()
	for _, d := range m.disks {
		errs = append(errs, d.Close())
	}
	for _, f := range m.flashes {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// places makes a recorder and a disk for one way to keep points.
func (m *wearing) places(ctx context.Context, w *worn, name, plain string) (err error) {
	if w.disk, err = recorder.Mount(m.dir, name, &m.clock); err != nil {
		return err
	}
	m.disks = append(m.disks, w.disk)
	w.flash, err = openFlash(ctx, filepath.Join(m.dir, plain+".img"), filepath.Join(m.dir, plain))
	if w.flash != nil {
		m.flashes = append(m.flashes, w.flash)
	}
	return err
}

// peer runs a peer twice.
func (m *wearing) peer(ctx context.Context, p *peer) (*worn, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worn{what: p.what, feed: func(n int) error {
		return m.desk.nc.Publish(deskSubject(p.name), fmt.Append(nil, n))
	}}
	if err := m.places(ctx, w, p.name, p.name+"."+plainName); err != nil {
		return nil, err
	}
	for _, at := range []string{w.disk.Mount, w.flash.dir} {
		if w.plain, err = lab.Launch(p.what, at+".log", self, PeerCommand, p.name, at, m.desk.ns.ClientURL()); err != nil {
			return nil, err
		}
		m.children = append(m.children, w.plain)
	}
	return w, nil
}

// plainName is the gateway on a disk of its own.
const plainName = "plain"

// sapflow runs two gateways at a hub.
func (m *wearing) sapflow(ctx context.Context) (*worn, error) {
	w := &worn{what: fmt.Sprintf("Sapflow, plan %s, commit 10 s", wearPlan)}
	if err := m.places(ctx, w, gatewayName, plainName); err != nil {
		return nil, err
	}
	m.lab.Seen[gatewayName] = w.disk.Mount
	hub := m.lab.Hub()
	if _, err := hub.Start(ctx); err != nil {
		return nil, err
	}
	var series [][]point.Series
	for _, name := range []string{gatewayName, plainName} {
		g, err := m.lab.Enrol(ctx, hub, name)
		if err != nil {
			return nil, err
		}
		if err := setPlan(ctx, hub, g.ID); err != nil {
			return nil, err
		}
		if _, err := g.Start(ctx); err != nil {
			return nil, err
		}
		nodes, err := addSensors(ctx, g)
		if err != nil {
			return nil, err
		}
		url, err := g.URL()
		if err != nil {
			return nil, err
		}
		nc, err := nats.Connect(url)
		if err != nil {
			return nil, err
		}
		m.conns, series, w.plain = append(m.conns, nc), append(series, nodes), g.Process
	}
	w.feed = func(k int) error {
		p := point.Point{DataType: point.Float, Data: point.FloatData(20 + float64(k*k%700)/100)}
		body := point.AppendPayload(nil, &p)
		for n, nc := range m.conns {
			if err := nc.Publish(subject.Point(series[n][k%wearNodes]), body); err != nil {
				return err
			}
		}
		return nil
	}
	return w, nil
}

func setPlan(ctx context.Context, hub *lab.Instance, gateway string) error {
	c, err := hub.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Set(ctx, point.Series{Node: gateway, Type: point.TypePlan, Key: point.NoKey}, wearPlan, "", "")
}

// addSensors makes the nodes of a gateway and waits until the hub has them.
func addSensors(ctx context.Context, gateway *lab.Instance) ([]point.Series, error) {
	nodes, err := gateway.AddSensors(ctx, wearNodes)
	if err != nil {
		return nil, err
	}
	var list []point.Series
	for _, node := range nodes {
		list = append(list, point.Series{Node: node, Type: "temperature", Key: point.NoKey})
	}
	return list, gateway.CaughtUp(ctx)
}

// warm lets each store make what it makes once, and the kernel write it.
const warm = 5 * wearCommit

// feedAll gives all the same points, and measures once they are warm.
func feedAll(ctx context.Context, cfg WearConfig, clock *recorder.Clock, list []*worn) ([]WearRow, error) {
	tick := time.NewTicker(time.Second / wearNodes)
	defer tick.Stop()
	began := time.Now()
	var start time.Time
	for k, first := 0, 0; ; k++ {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		for _, w := range list {
			if err := w.feed(k); err != nil {
				return nil, fmt.Errorf("%s: %w", w.what, err)
			}
		}
		switch {
		case start.IsZero() && time.Since(began) > warm:
			start, first = time.Now(), k
			for _, w := range list {
				var err error
				if w.process, w.device, err = w.counts(); err != nil {
					return nil, err
				}
				w.from = clock.Now()
			}
		case !start.IsZero() && time.Since(start) > cfg.For:
			return tell(list, k-first, time.Since(start))
		}
		if k%(60*wearNodes) == 0 {
			_, _ = fmt.Fprintf(cfg.Progress, "%s of %s\n", time.Since(began).Round(time.Second), (cfg.For + warm).Round(time.Second))
		}
	}
}

// counts returns what the process on the plain disk has written, and what the
// disk got.
func (w *worn) counts() (process, device int64, err error) {
	if process, err = w.plain.Written(); err == nil {
		device, err = w.flash.written()
	}
	return process, device, err
}

func tell(list []*worn, points int, took time.Duration) ([]WearRow, error) {
	day := float64(24*time.Hour) / float64(took)
	var rows []WearRow
	for _, w := range list {
		process, device, err := w.counts()
		if err != nil {
			return nil, err
		}
		b := w.disk.Ops().Wear(w.from)
		rows = append(rows, WearRow{
			What: w.what, Points: points, Syncs: float64(b.Syncs) / took.Minutes(),
			Pages: float64(b.Pages) * 4096 * day / 1e6, Blocks: float64(b.Bytes()) * day / 1e6,
			Process: float64(process-w.process) * day / 1e6, Device: float64(device-w.device) * day / 1e6,
		})
	}
	return rows, nil
}

// Markdown returns the results as a table.
func (r *WearResults) Markdown() string {
	var w strings.Builder
	fmt.Fprintf(&w, "\n%s; %s scaled to a day.\n\n", r.Machine, time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
	fmt.Fprint(&w, "| MB a day at 30 points/s | reached the device | pages, /proc/PID/io | pages, recorder | with the journal, estimated | syncs a minute |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s |\n", row.What, report.Format(row.Device), report.Format(row.Process),
			report.Format(row.Pages), report.Format(row.Blocks), report.Format(row.Syncs))
	}
	fmt.Fprint(&w, wearNotes)
	return w.String()
}

const wearNotes = `
Each keeps the same 30 points a second twice: on a file system that records, and on a disk of its own, ext4 on a loop device, where the
kernel counts what the process writes and what reaches the device. Pages are of 4 KiB, each as often as a sync, or the kernel after 30 s,
writes it. The journal is estimated: 3 blocks a commit (descriptor, inode, end), 1 where a file got pages, 2 for each change of a name.
The target for Sapflow is 160 MB a day. With every message synced nats-server opens its files with O_SYNC: on such a disk a write of
2 KB every 10 s makes 37 KB reach the device that way, 23 KB with one fsync behind it, 18 KB if the space was allocated before.
`
