package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// Memory that the collector works towards: what is in use half as much again,
// and some. Without a limit it would keep what the store has read once, 4 MB
// at a time, as long as twice of all that fits.
const (
	minMemory   = 44 << 20
	moreMemory  = 16 << 20
	memoryPart  = 4 // of the machine's at most, but for what is in use
	memoryEvery = 5 * time.Second
)

// limitMemory tells the garbage collector until ctx ends how much the agent
// should take, unless GOMEMLIMIT says it.
func limitMemory(ctx context.Context) error {
	var info syscall.Sysinfo_t
	if debug.SetMemoryLimit(-1) != math.MaxInt64 || syscall.Sysinfo(&info) != nil {
		return nil
	}
	most := uint64(info.Totalram) * uint64(info.Unit) / memoryPart
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		metrics.Read(live)
		inUse := live[0].Value.Uint64()
		debug.SetMemoryLimit(int64(max(min(max(minMemory, inUse+inUse/2+moreMemory), most), inUse+inUse/4)))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
