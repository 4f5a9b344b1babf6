package gauge

import (
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/journal"
)

// Disk returns the bytes left on the disk, and how many must be left.
type Disk func() (free, reserve uint64)

// WriteLog writes what both ends tell of the log they write, of the store and
// of what they refused.
func WriteLog(w *Writer, h journal.Health, s *api.Status, disk Disk) {
	w.Gauge("log_pending_points", "Points that wait to be made durable.").Set(float64(h.Pending))
	w.Gauge("log_overdue_seconds", "How long the oldest of them has waited beyond the commit interval with no attempt ending.").Set(h.Overdue.Seconds())
	w.Gauge("log_commit_interval_seconds", "The most that a power cut can lose of what nobody waited for.").Set(h.Every.Seconds())
	w.Gauge("log_failing", "Whether the last commit failed.").Bool(h.Failing)
	w.Counter("log_frames_total", "Frames made durable.").Set(float64(h.Frames))
	w.Counter("log_points_total", "Points made durable.").Set(float64(h.Points))
	w.Counter("log_dropped_points_total", "Points that could not wait any longer for a full disk, since the store was made.").Set(float64(s.DroppedPoints))
	free, reserve := disk()
	w.Gauge("disk_free_bytes", "Room on the disk of the store.").Set(float64(free))
	w.Gauge("disk_reserve_bytes", "Room that is kept free: with less, nothing is written.").Set(float64(reserve))
	w.Gauge("store_bytes", "What logs and history take.").Set(float64(s.StoreBytes))
	w.Gauge("store_limit_bytes", "What they may take; 0 for what the disk holds.").Set(float64(s.StoreMax))
	w.Counter("removed_points_total", "Points that had to make room, since the store was made.").Set(float64(s.RemovedPoints))
	events := w.Counter("events_total", "What was refused, set aside or failed, by kind.")
	for name, n := range s.Counters {
		events.Set(float64(n), "event", name)
	}
}
