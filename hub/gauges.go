package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/shared/daemon"
	"github.com/sapflow/sapflow/shared/gauge"
	"github.com/sapflow/sapflow/shared/link"
	"github.com/sapflow/sapflow/shared/subject"
)

// startGauges answers early, so that a start that takes long can be seen.
func (h *hub) startGauges(context.Context) (err error) {
	h.gauges, err = gauge.Listen(gauge.Config{Listen: h.cfg.Metrics, Fallback: !h.cfg.MetricsGiven, Version: h.cfg.Version})
	if err != nil {
		return err
	}
	h.stages.Start("metrics", h.gauges.Run)
	return nil
}

// showGauges tells that the hub has started: Prometheus, and systemd.
func (h *hub) showGauges(context.Context) error {
	h.gauges.Attach(gauge.Part{Write: h.writeGauges, Ready: h.ready, Alive: h.alive})
	h.stages.Start("watchdog", daemon.Watchdog(h.alive, h.log))
	return nil
}

// ready returns why the logs cannot be written.
func (h *hub) ready() error {
	if h.out.Health().Failing {
		return errors.New("the last commit failed, see the log of the hub")
	}
	return errors.Join(h.dir.Writable(), h.guard.LogRoom())
}

// alive returns why the hub must be started anew: commits no longer end, or it
// no longer answers.
func (h *hub) alive() error {
	return daemon.Progress(h.out.Health().Overdue, h.conns[cred.PEOPLE], subject.Instance("status"))
}

// gaugeWait bounds a question to a stream.
const gaugeWait = time.Second

func (h *hub) writeGauges(w *gauge.Writer) {
	s, infos := h.bus.Status(), h.door.Infos()
	ids := slices.Sorted(maps.Keys(infos))
	online := map[string]bool{}
	for _, l := range h.nats.Leafs() {
		online[l.ID] = true
	}
	each := func(name, help string, value func(id string) float64) {
		m := w.Gauge(name, help)
		for _, id := range ids {
			m.Set(value(id), "gateway", id)
		}
	}
	w.Gauge("gateways", "Gateways that may connect.").Set(float64(len(ids)))
	w.Gauge("gateways_connected", "Gateways that are connected.").Set(float64(len(online)))
	each("gateway_connected", "Whether the gateway is connected.", func(id string) float64 { return bit(online[id]) })
	each("gateway_link_open", "Whether both ends of the gateway's link agree on where they are.", func(id string) float64 { return bit(infos[id].Link.Phase == link.Open) })
	each("gateway_link_halted", "Whether the link stopped for good: see device show.", func(id string) float64 { return bit(infos[id].Link.Halted != "") })
	each("gateway_lag_points", "Points that one end has and the other has not acked.", func(id string) float64 { return float64(infos[id].LagPoints) })
	each("gateway_last_seen_timestamp_seconds", "When the gateway was last heard since the start of the hub, Unix time, 0 for never.", func(id string) float64 {
		if t := infos[id].LastSeen; !t.IsZero() {
			return float64(t.UnixMilli()) / 1e3
		}
		return 0
	})
	w.Counter("door_refused_messages_total", "Messages from gateways that may not connect.").Set(float64(h.door.Refused()))
	w.Gauge("link_receive_bytes", "Message bytes received on the connections there are now.").Set(float64(s.RxBytes))
	w.Gauge("link_transmit_bytes", "Message bytes sent on the connections there are now.").Set(float64(s.TxBytes))
	gauge.WriteLog(w, h.out.Health(), s, h.dir.Free)
	ctx, cancel := context.WithTimeout(context.Background(), gaugeWait)
	defer cancel()
	sizes, messages := map[string]float64{}, map[string]float64{}
	for name, stream := range map[string]jetstream.Stream{
		subject.StreamEdge: h.edge, subject.StreamDown: h.down, subject.StreamHub: h.own, "history": h.chunks,
	} {
		if info, err := stream.Info(ctx); err == nil {
			sizes[name], messages[name] = float64(info.State.Bytes), float64(info.State.Msgs)
		}
	}
	write := func(m gauge.Metric, of map[string]float64) {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			m.Set(of[name], "stream", name)
		}
	}
	write(w.Gauge("stream_bytes", "What a log, or history, takes."), sizes)
	write(w.Gauge("stream_messages", "Frames of a log, or chunks of history."), messages)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
