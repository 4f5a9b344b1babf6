// Package host is the driver of the machine itself: CPU, memory, disks,
// network, temperatures, uptime.
//
// What one machine does not have is left out: a part that cannot be read is
// told as an error, and the others are read all the same.
package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/sysfs"
	"golang.org/x/sys/unix"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Config says where the machine is.
type Config struct {
	Proc, Sys string // default /proc and /sys
	Root      string // disks are below; default /
}

// Kind is the type of node that a machine is.
func Kind(cfg Config) driver.Kind {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Sys == "" {
		cfg.Sys = "/sys"
	}
	return driver.Kind{Type: schema.Host, New: func() driver.Driver { return &host{cfg: cfg} }}
}

type host struct {
	cfg  Config
	id   string
	proc procfs.FS
	sys  sysfs.FS

	busy, idle float64 // s of all CPUs at the last reading
}

// Run measures until ctx ends.
func (h *host) Run(ctx context.Context, p *driver.Port) (err error) {
	if h.proc, err = procfs.NewFS(h.cfg.Proc); err != nil {
		return err
	}
	if h.sys, err = sysfs.NewFS(h.cfg.Sys); err != nil {
		return err
	}
	if _, err = h.cpu(0); err != nil { // what is busy is told by two readings
		return err
	}
	return p.Poll(ctx,
		func() (time.Duration, error) { return h.settings(p), nil },
		func(at uint64) error {
			points, err := h.measure(at, strings.Fields(p.Node().Text("disks")))
			p.PutWith(err, h.id, points...)
			return nil
		})
}

func (h *host) settings(p *driver.Port) time.Duration {
	n := p.Node()
	h.id = n.ID
	return time.Duration(n.Number("period") * float64(time.Second))
}

// measure reads all parts.
func (h *host) measure(at uint64, disks []string) (points []point.Point, err error) {
	for _, part := range []func(uint64) ([]point.Point, error){
		h.cpu, h.memory, h.network, h.temperature, func(at uint64) ([]point.Point, error) { return h.disks(at, disks) },
	} {
		list, partErr := part(at)
		points, err = append(points, list...), errors.Join(err, partErr)
	}
	return points, err
}

func (h *host) float(at uint64, typ, key string, v float64) point.Point {
	return driver.Float(h.id, typ, key, at, v)
}

// round keeps a figure that people read short, and so its point.
func round(v float64) float64 { return math.Round(v*10) / 10 }

// cpu tells in % how busy all CPUs were since the last reading, the load of
// the last minute and for how many seconds the machine is up.
func (h *host) cpu(at uint64) ([]point.Point, error) {
	s, err := h.proc.Stat()
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	load, err := h.proc.LoadAvg()
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	c := s.CPUTotal
	idle := c.Idle + c.Iowait
	busy := c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal // guests are users
	spent, rest := busy-h.busy, idle-h.idle
	h.busy, h.idle = busy, idle
	points := []point.Point{h.float(at, "load", point.NoKey, load.Load1)}
	if boot := s.BootTime * 1e9; at > boot {
		points = append(points, h.float(at, "uptime", point.NoKey, float64((at-boot)/1e9)))
	}
	if spent+rest > 0 {
		points = append(points, h.float(at, "cpu", point.NoKey, round(100*spent/(spent+rest))))
	}
	return points, nil
}

// memory tells bytes.
func (h *host) memory(at uint64) ([]point.Point, error) {
	m, err := h.proc.Meminfo()
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	var points []point.Point
	for key, v := range map[string]*uint64{"total": m.MemTotalBytes, "available": m.MemAvailableBytes} {
		if v != nil {
			points = append(points, h.float(at, "memory", key, float64(*v)))
		}
	}
	return points, nil
}

// network tells the bytes of each interface since the machine is up, but not
// those of loopback.
func (h *host) network(at uint64) ([]point.Point, error) {
	devices, err := h.proc.NetDev()
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	var points []point.Point
	for name, d := range devices {
		if name != "lo" {
			points = append(points, h.float(at, "netRx", keyOf(name), float64(d.RxBytes)), h.float(at, "netTx", keyOf(name), float64(d.TxBytes)))
		}
	}
	return points, nil
}

// temperature tells °C of each thermal zone.
func (h *host) temperature(at uint64) ([]point.Point, error) {
	zones, err := h.sys.ClassThermalZoneStats()
	if err != nil {
		return nil, fmt.Errorf("temperature: %w", err)
	}
	count := map[string]int{}
	var points []point.Point
	for _, z := range zones {
		if z.ReadErrors != nil {
			err = errors.Join(err, fmt.Errorf("temperature of %s: %w", z.Type, z.ReadErrors))
			continue
		}
		key := keyOf(z.Type)
		if count[key]++; count[key] > 1 { // several of a kind
			key = fmt.Sprintf("%s-%d", key, count[key])
		}
		points = append(points, h.float(at, "temperature", key, round(float64(z.Temp)/1000)))
	}
	return points, err
}

// disks tells bytes of the file systems that some paths are on.
func (h *host) disks(at uint64, paths []string) (points []point.Point, err error) {
	for _, path := range paths {
		var s unix.Statfs_t
		if statErr := unix.Statfs(filepath.Join(h.cfg.Root, path), &s); statErr != nil {
			err = errors.Join(err, fmt.Errorf("disk %s: %w", path, statErr))
			continue
		}
		size := float64(s.Bsize)
		points = append(points,
			h.float(at, "diskTotal", keyOf(path), float64(s.Blocks)*size),
			h.float(at, "diskFree", keyOf(path), float64(s.Bavail)*size))
	}
	return points, err
}

// keyOf returns a name fit for the key of a point.
func keyOf(name string) string {
	key := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || strings.ContainsRune(".*>", r) {
			return '_'
		}
		return r
	}, name)
	return key[:min(len(key), point.MaxKeyLen)]
}
