package powerloss

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// PeerTally sums up the images of a peer.
type PeerTally struct {
	What       string `json:"what"`
	Operations int    `json:"operations"`
	Acked      int    `json:"acked"`
	Images     int    `json:"images"`
	Broken     int    `json:"broken"`  // did not start, or could not be read
	Missing    int    `json:"missing"` // the stream was not there at the start, though it had been made
	Lost       int    `json:"lost"`    // images that lost acked records, after the stream was made again
	// LostShare is the median part of the acked records that an image of Lost
	// lost.
	LostShare float64 `json:"lostShare"`
}

// peers records a run of each peer and tries its images.
func peers(ctx context.Context, cfg Config, dir string) ([]PeerTally, error) {
	d, err := openDesk()
	if err != nil {
		return nil, err
	}
	defer d.close()
	var list []PeerTally
	for i := range lossPeers {
		t, err := tryPeer(ctx, cfg, d, &lossPeers[i], filepath.Join(dir, lossPeers[i].name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", lossPeers[i].what, err)
		}
		list = append(list, t)
		_, _ = fmt.Fprintf(cfg.Progress, "%s: %d images, %d broken, %d without a stream, %d lost acked records\n", t.What, t.Images, t.Broken, t.Missing, t.Lost)
	}
	return list, nil
}

// peerRun is a recorded run of a peer.
type peerRun struct {
	ops   recorder.Recording
	made  uint64            // by then its stream or table was there
	acked map[uint64]uint64 // by record: by then
}

// recordPeer records a peer that is stopped and started again halfway.
func recordPeer(ctx context.Context, cfg Config, d *desk, p *peer, dir string) (run *peerRun, err error) {
	clock := &recorder.Clock{}
	disk, err := recorder.Mount(dir, "run", clock)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	run = &peerRun{acked: map[uint64]uint64{}}
	record := uint64(0)
	for range 2 {
		child, err := lab.Launch(p.what, filepath.Join(dir, "log"), self, PeerCommand, p.name, disk.Mount, d.ns.ClientURL())
		if err != nil {
			return nil, err
		}
		for range cfg.Turns * 2 * writers {
			if err = handOne(ctx, d, p, record); err != nil {
				break
			}
			run.acked[record] = clock.Now()
			if run.made == 0 {
				disk.Settle() // it was set up long ago
				run.made = clock.Now()
			}
			record++
		}
		if err = errors.Join(err, child.Stop()); err != nil {
			return nil, err
		}
	}
	run.ops = disk.Ops()
	return run, nil
}

func handOne(ctx context.Context, d *desk, p *peer, record uint64) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	return d.hand(ctx, p, record)
}

func tryPeer(ctx context.Context, cfg Config, d *desk, p *peer, dir string) (PeerTally, error) {
	run, err := recordPeer(ctx, cfg, d, p, dir)
	if err != nil {
		return PeerTally{}, err
	}
	t := PeerTally{What: p.what, Operations: len(run.ops), Acked: len(run.acked)}
	first := len(run.ops.UpTo(run.made))
	var shares []float64
	for n := range cfg.Images {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		rng := rand.New(rand.NewPCG(cfg.Seed, uint64(n)))
		at := run.ops[first+rng.IntN(len(run.ops)-first)].At
		image := filepath.Join(dir, "image")
		if err := os.RemoveAll(image); err != nil {
			return t, err
		}
		if err := run.ops.UpTo(at).Build(image, recorder.Models[n%len(recorder.Models)], rng); err != nil {
			return t, err
		}
		t.Images++
		found, missing, err := p.read(ctx, image)
		if missing {
			t.Missing++
		}
		if err != nil {
			t.Broken++
		}
		acked, lost := 0, 0
		for record, by := range run.acked {
			if by <= at {
				acked++
				if !found[record] {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Lost++
			shares = append(shares, float64(lost)/float64(acked))
		}
	}
	t.LostShare = report.Median(shares)
	return t, nil
}

// read opens an image, makes what is missing again, and returns its records.
func (p *peer) read(ctx context.Context, dir string) (found map[uint64]bool, missing bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	k, err := p.open(dir)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if missing, err = k.prepare(ctx); err != nil {
		return nil, missing, err
	}
	found, err = k.all(ctx)
	return found, missing, err
}
