// Package powerloss pulls the plug: it records what the disks of a hub and a
// gateway are told while real processes write, restart, die and lose each
// other, rebuilds what the disks may hold at random moments, starts both on
// that and looks for anything that was promised and is gone. Plain JetStream
// and SQLite go through the same.
package powerloss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// Config says what is tried and where it goes.
type Config struct {
	Bin    string // directory of the two binaries, required
	Images int    // of Sapflow, required; and of each peer
	Turns  int    // how many writes each of the writers does between two events of the recorded run, required
	Seed   uint64 // of the moments and of what the disks keep
	Peers  bool   // try the peers as well
	JSON   bool   // print JSON; the files are left alone

	Table, Data   string // files for the table and for the same in JSON; "" for none
	Out, Progress io.Writer
}

// Results is what a run has found.
type Results struct {
	Machine report.Machine `json:"machine"`
	Seed    uint64         `json:"seed"`
	Sapflow Tally          `json:"sapflow"`
	Peers   []PeerTally    `json:"peers,omitempty"`
}

// Tally sums up the images of Sapflow.
type Tally struct {
	Operations int            `json:"operations"` // recorded at the gateway
	Acked      int            `json:"acked"`      // points of the recorded run
	Images     int            `json:"images"`
	ByModel    map[string]int `json:"byModel"`
	Both       int            `json:"both"`    // images where the hub lost power as well
	Twice      int            `json:"twice"`   // images of a second loss, soon after a first
	Removed    int            `json:"removed"` // images where the gateway had removed old frames, and said so
	Checked    int            `json:"checked"` // acked points that had to be there, over all images
	Faults     []Fault        `json:"faults"`
}

// Fault is an image that broke a promise. It is left on disk.
type Fault struct {
	Image int    `json:"image"`
	At    uint64 `json:"at"`
	Model string `json:"model"`
	Both  bool   `json:"both"`
	Kind  string `json:"kind"`
	What  string `json:"what"`
	Left  string `json:"left"`
}

// String tells a fault in a line.
func (f Fault) String() string {
	who := "the gateway"
	if f.Both {
		who = "both"
	}
	return fmt.Sprintf("image %d, operation %d, %s of %s: %s; left in %s", f.Image, f.At, f.Model, who, f.What, f.Left)
}

// Run records, pulls the plug and tells.
func Run(ctx context.Context, cfg Config) error {
	r, err := Try(ctx, cfg)
	if err != nil {
		return err
	}
	switch {
	case cfg.JSON:
		err = report.Print(cfg.Out, r)
	case cfg.Table != "":
		if _, err = fmt.Fprint(cfg.Out, r.Markdown()); err == nil {
			err = report.WriteSection(cfg.Table, "powerloss", r.Markdown())
		}
		if err == nil {
			err = report.WriteJSON(cfg.Data, r)
		}
	default:
		_, err = fmt.Fprint(cfg.Out, r.Markdown())
	}
	if err == nil && len(r.Sapflow.Faults) > 0 {
		err = fmt.Errorf("%d of %d images broke a promise; the first: %s", len(r.Sapflow.Faults), r.Sapflow.Images, r.Sapflow.Faults[0])
	}
	return err
}

// Try is Run without telling.
func Try(ctx context.Context, cfg Config) (*Results, error) {
	dir, err := lab.TempDir("powerloss")
	if err != nil {
		return nil, err
	}
	r := &Results{Machine: report.Here(), Seed: cfg.Seed}
	if err := sapflow(ctx, cfg, filepath.Join(dir, "sapflow"), &r.Sapflow); err != nil {
		return nil, fmt.Errorf("%w (files are in %s)", err, dir)
	}
	if cfg.Peers {
		if r.Peers, err = peers(ctx, cfg, filepath.Join(dir, "peers")); err != nil {
			return nil, fmt.Errorf("%w (files are in %s)", err, dir)
		}
	}
	if len(r.Sapflow.Faults) > 0 {
		return r, nil // they show in dir
	}
	return r, os.RemoveAll(dir)
}

const (
	// Of round images the last twice are of a second loss of power, soon after
	// the start that follows a first.
	round = 30
	twice = 6
	// twiceTurns is the length of what happens between the two.
	twiceTurns = 3
)

// sapflow records a run and tries its images.
func sapflow(ctx context.Context, cfg Config, dir string, t *Tally) error {
	s, err := record(ctx, cfg, dir)
	if err != nil {
		return fmt.Errorf("record a run: %w", err)
	}
	defer s.link.Close()
	t.Operations, t.ByModel = len(s.gateway), map[string]int{}
	for _, w := range s.written {
		if w.acked != 0 {
			t.Acked++
		}
	}
	began := time.Now()
	from := s
	for n := range cfg.Images {
		switch n % round {
		case 0:
			from = s
		case round - twice:
			if from, err = s.again(ctx, twiceTurns, filepath.Join(dir, fmt.Sprintf("again-%d", n)), s.late(cfg.Seed, n)); err != nil {
				return fmt.Errorf("record a run after a power loss: %w", err)
			}
		}
		if err := t.add(ctx, from, from.image(cfg.Seed, n), cfg.Progress); err != nil {
			return err
		}
		if from != s {
			t.Twice++
		}
		if (n+1)%25 == 0 {
			_, _ = fmt.Fprintf(cfg.Progress, "%d of %d images, %d faults, %s\n", n+1, cfg.Images, len(t.Faults), time.Since(began).Round(time.Second))
		}
	}
	return nil
}

// add tries an image and counts it.
func (t *Tally) add(ctx context.Context, s *session, i image, progress io.Writer) error {
	checked, removed, fault := s.try(ctx, i)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t.Images++
	t.ByModel[i.model.String()]++
	t.Checked += checked
	if i.both {
		t.Both++
	}
	if removed {
		t.Removed++
	}
	if fault == nil {
		return nil
	}
	f, err := s.keep(i, fault)
	if err != nil {
		return err
	}
	t.Faults = append(t.Faults, f)
	_, _ = fmt.Fprintln(progress, f)
	return nil
}

// late is an image of the second half of the run, when there are nodes to
// write to.
func (s *session) late(seed uint64, n int) image {
	half := s.gateway[len(s.gateway)/2].At
	for {
		if i := s.image(seed+1, n); i.at >= half {
			return i
		}
		n += round
	}
}

// image is one moment at which the power goes.
type image struct {
	n     int
	at    uint64
	model recorder.Model
	both  bool // the hub loses power too; else it is killed, which is no loss
	seed  uint64
}

// hubToo lets the hub lose power in one image of so many.
const hubToo = 5

// image chooses the moment of an image: half of them are anywhere, half at or
// just behind a change of names, where files are replaced and streams made.
func (s *session) image(seed uint64, n int) image {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	ops := s.gateway
	first := len(ops.UpTo(s.begun))
	at := first + rng.IntN(len(ops)-first)
	if n%2 == 1 {
		for k := range ops[first:] { // the next one, in a circle
			j := first + (at-first+k)%(len(ops)-first)
			if kind := ops[j].Kind; kind != recorder.Write && kind != recorder.Sync {
				at = min(j+rng.IntN(4), len(ops)-1)
				break
			}
		}
	}
	return image{
		n: n, at: ops[at].At, model: recorder.Models[n%len(recorder.Models)], both: n%hubToo == hubToo-1,
		seed: rng.Uint64(),
	}
}

// build writes the disks of an image below dir.
func (s *session) build(i image, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(i.seed, 0))
	hubModel := recorder.Kept
	if i.both {
		hubModel = i.model
	}
	if err := s.hub.UpTo(i.at).Build(filepath.Join(dir, hubName), hubModel, rng); err != nil {
		return err
	}
	return s.gateway.UpTo(i.at).Build(filepath.Join(dir, gatewayName), i.model, rng)
}

// keep builds an image again, for a person to look at.
func (s *session) keep(i image, fault error) (Fault, error) {
	left := filepath.Join(s.dir, fmt.Sprintf("image-%d", i.n))
	f := Fault{Image: i.n, At: i.at, Model: i.model.String(), Both: i.both, Kind: "other", What: fault.Error(), Left: left}
	for _, kind := range []error{errStart, errLost, errDiffer, errSequence} {
		if errors.Is(fault, kind) {
			f.Kind = kind.Error()
		}
	}
	return f, s.build(i, left)
}
