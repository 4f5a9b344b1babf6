package gauge

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// started is when the process did.
var started = time.Now()

// writeProcess writes what the system knows about the process.
func writeProcess(w *Writer) {
	w.Gauge("process_start_time_seconds", "Start of the process, Unix time.").Set(float64(started.UnixMilli()) / 1e3)
	var use syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &use) == nil {
		w.Counter("process_cpu_seconds_total", "CPU time used.").Set(time.Duration(use.Utime.Nano() + use.Stime.Nano()).Seconds())
	}
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := bytes.Fields(data); len(f) > 1 {
			pages, _ := strconv.ParseFloat(string(f[1]), 64)
			w.Gauge("process_resident_memory_bytes", "Memory of the process.").Set(pages * float64(os.Getpagesize()))
		}
	}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		w.Gauge("process_open_files", "Open files and sockets.").Set(float64(len(list)))
	}
	w.Gauge("process_goroutines", "Goroutines that exist.").Set(float64(runtime.NumGoroutine()))
}
