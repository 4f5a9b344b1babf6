package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/sapflow/sapflow/agent/internal/leaf"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/gauge"
	"github.com/sapflow/sapflow/shared/subject"
)

// startGauges answers early, so that a start that takes long can be seen.
func (a *agent) startGauges(context.Context) (err error) {
	a.gauges, err = gauge.Listen(gauge.Config{Listen: a.cfg.Metrics, Fallback: !a.cfg.MetricsGiven, Local: true, Version: a.cfg.Version})
	if err != nil {
		return err
	}
	a.stages.Start("metrics", a.gauges.Run)
	return nil
}

// showGauges tells that the agent has started: Prometheus, and systemd.
func (a *agent) showGauges(context.Context) error {
	a.gauges.Attach(gauge.Part{Write: a.writeGauges, Ready: a.ready, Alive: a.alive})
	a.stages.Start("watchdog", daemon.Watchdog(a.alive, a.log))
	return nil
}

// ready returns why the log cannot be written.
func (a *agent) ready() error {
	if a.out.Health().Failing {
		return errors.New("the last commit failed, see the log of the agent")
	}
	return errors.Join(a.dir.Writable(), a.guard.LogRoom())
}

// alive returns why the agent must be started anew: commits no longer end, or
// it no longer answers.
func (a *agent) alive() error {
	return daemon.Progress(a.out.Health().Overdue, a.conns[leaf.LOCAL], subject.Instance("status"))
}

func (a *agent) writeGauges(w *gauge.Writer) {
	s, line := a.bus.Status(), a.nats.Link()
	w.Gauge("link_connected", "Whether the link to the hub is open.").Bool(s.Connected)
	w.Gauge("link_halted", "Whether the link stopped for good: see status.").Bool(a.uplink.Status().Halted != "")
	w.Gauge("link_clock_skew_seconds", "How far this machine's clock is ahead of the hub's, 0 within 5 min.").Set(a.clock.Skew().Seconds())
	w.Gauge("link_rate_bytes_per_second", "The line as measured, 0 if not known.").Set(float64(s.Rate))
	w.Gauge("link_round_trip_seconds", "There and back as measured, 0 if not known.").Set(float64(s.RoundTrip) / 1e3)
	w.Counter("link_dials_total", "Times the hub was dialled.").Set(float64(line.Dials))
	w.Counter("link_transmit_bytes_total", "Bytes sent to the hub on its connections, TLS included.").Set(float64(s.TxBytes))
	w.Counter("link_receive_bytes_total", "Bytes received from the hub on its connections, TLS included.").Set(float64(s.RxBytes))
	classes := w.Counter("link_class_bytes_total", "Bytes of the line since the gateway was enrolled, by purpose.")
	for _, class := range slices.Sorted(maps.Keys(s.LinkBytes)) {
		direction, purpose, _ := strings.Cut(class, "-")
		classes.Set(float64(s.LinkBytes[class]), "direction", direction, "class", purpose)
	}
	w.Gauge("link_month_bytes", "Bytes of the line in this month, both ways.").Set(float64(s.MonthBytes))
	w.Gauge("link_month_forecast_bytes", "Bytes of the whole month at that rate.").Set(float64(s.MonthForecast))
	w.Gauge("backlog_points", "Points that the hub has not acked.").Set(float64(s.BacklogPoints))
	w.Counter("unsent_points_total", "Points that had to make room and that the hub never got, since the store was made.").Set(float64(s.UnsentPoints))
	gauge.WriteLog(w, a.out.Health(), s, a.dir.Free)
}
