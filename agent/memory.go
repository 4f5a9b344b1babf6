package main

import (
	"math"
	"runtime/debug"
	"syscall"
)

// Memory that the collector works towards: a part of the machine's, within a
// bound.
const (
	memoryPart = 4
	maxMemory  = 128 << 20
)

// limitMemory tells the garbage collector how much the agent should take,
// unless GOMEMLIMIT says it.
func limitMemory() {
	var info syscall.Sysinfo_t
	if debug.SetMemoryLimit(-1) != math.MaxInt64 || syscall.Sysinfo(&info) != nil {
		return
	}
	debug.SetMemoryLimit(int64(min(uint64(info.Totalram)*uint64(info.Unit)/memoryPart, maxMemory)))
}
