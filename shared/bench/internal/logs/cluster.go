package logs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/peer"
)

const clusterTitle = "What syncing costs a log with copies: frames of 2 KB, one in flight on each subject, answered once stored. R3: three stock servers on the\n" +
	"same disk and cores, the client at the leader. Killed: SIGKILL of the leader while 16 write; what had been acked was looked for afterwards."

const (
	frameBytes = 2 << 10
	inParallel = 16
	// clusterWait bounds what a cluster takes to agree, after a kill as well.
	clusterWait = time.Minute
	tryWait     = 2 * time.Second
)

// framePayload is a frame that tells its number.
func framePayload(v float64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, frameBytes), uint64(v))[:frameBytes]
}

// clusters measures appends with one copy and with three.
func clusters(ctx context.Context, b *bench) error {
	for range b.Runs {
		for _, c := range []struct {
			name     string
			replicas int
			synced   bool
		}{
			{"R1, sync always (the embedded server)", 1, true},
			{"R1, default sync", 1, false},
			{"R3, sync always", 3, true},
			{"R3, default sync", 3, false},
		} {
			err := b.inLab(func(l *lab.Lab) error { return b.cluster(ctx, l, c.name, c.replicas, c.synced) })
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

func (b *bench) cluster(ctx context.Context, l *lab.Lab, name string, replicas int, synced bool) (err error) {
	window := 2 * time.Second
	if b.Quick {
		window = 500 * time.Millisecond
	}
	servers, err := startServers(ctx, l.Dir, replicas, synced)
	defer func() {
		for _, s := range servers {
			s.Kill()
		}
	}()
	if err != nil {
		return err
	}
	leader, err := makeStream(ctx, servers, replicas)
	if err != nil {
		return err
	}
	for _, n := range []int{1, inParallel} {
		a, err := peer.Request(ctx, peer.Target{URL: leader.url, Subject: peer.Stored, Payload: framePayload}, n, window)
		if err != nil {
			return err
		}
		with := fmt.Sprintf(", %d subjects", n)
		if n == 1 {
			with = ", 1 subject"
		}
		for _, f := range []struct {
			column, unit string
			value        float64
		}{
			{"p50" + with, "ms", milliseconds(a.Delay(0.5))},
			{"p99" + with, "ms", milliseconds(a.Delay(0.99))},
			{"frames" + with, "/s", a.PerSecond},
		} {
			b.Add(row{Name: name, Unit: f.unit}, f.column, f.value)
		}
	}
	if replicas == 1 {
		return nil
	}
	acked, lost, err := killOne(ctx, servers, leader, window)
	if err != nil {
		return err
	}
	b.Add(row{Name: name}, "acked while the leader was killed", float64(acked))
	b.Add(row{Name: name}, "of these lost", float64(lost))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// stockServer is a server that may be one of several.
type stockServer struct {
	*lab.Process
	name, url string
}

// startServers starts one server alone or several that know each other.
func startServers(ctx context.Context, dir string, n int, synced bool) (list []stockServer, err error) {
	ports := make([]int, n)
	if n > 1 {
		if ports, err = freePorts(n); err != nil {
			return nil, err
		}
	}
	var routes []string
	for _, p := range ports {
		routes = append(routes, "nats://127.0.0.1:"+strconv.Itoa(p))
	}
	for i, port := range ports {
		cfg := peer.StockConfig{Name: fmt.Sprintf("s%d", i+1), SyncAlways: synced, ClusterPort: port, Routes: strings.Join(routes, ",")}
		cfg.Dir = filepath.Join(dir, cfg.Name)
		p, url, err := peer.StartStock(ctx, cfg)
		if err != nil {
			return list, err
		}
		list = append(list, stockServer{p, cfg.Name, url})
	}
	return list, nil
}

// freePorts returns ports of loopback that were free a moment ago: routes are
// told before anybody listens.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// makeStream makes the stream, once the servers have agreed on who decides,
// and returns its leader.
func makeStream(ctx context.Context, servers []stockServer, replicas int) (leader stockServer, err error) {
	if replicas == 1 {
		return servers[0], nil // which has made it
	}
	ctx, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	nc, js, err := connect(servers)
	if err != nil {
		return leader, err
	}
	defer nc.Close()
	err = lab.Until(ctx, "the cluster makes a stream", 50*time.Millisecond, func() (bool, error) {
		once, cancel := context.WithTimeout(ctx, tryWait)
		defer cancel()
		s, err := js.CreateOrUpdateStream(once, peer.StreamConfig(replicas))
		if err != nil {
			return false, nil // not yet
		}
		info, err := s.Info(once)
		if err != nil || info.Cluster == nil {
			return false, nil
		}
		for _, s := range servers {
			if s.name == info.Cluster.Leader {
				leader = s
			}
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return false, nil
			}
		}
		return leader.Process != nil, nil
	})
	return leader, err
}

// connect connects to whichever of the servers answers.
func connect(servers []stockServer) (*nats.Conn, jetstream.JetStream, error) {
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.url)
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // of the killed server
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	return nc, js, err
}

// killOne has writers append, kills the leader meanwhile, and returns how many
// appends were acked and how many of these the others do not have.
func killOne(ctx context.Context, servers []stockServer, leader stockServer, window time.Duration) (acked, lost int, err error) {
	nc, js, err := connect(servers)
	if err != nil {
		return 0, 0, err
	}
	defer nc.Close()
	type key struct {
		subject string
		number  uint64
	}
	var mu sync.Mutex
	has := map[key]bool{} // acked; true once found
	const base = 1e9      // what was written before has smaller numbers
	go func() {           // ends with the window
		if lab.Pause(ctx, window/2) == nil {
			leader.Kill()
		}
	}()
	_, err = peer.Write(ctx, inParallel, 2*window, func(n int, v float64) error {
		m, err := nc.Request(peer.Stored(n), framePayload(base+v), time.Second)
		if err != nil || strings.Contains(string(m.Data), `"error"`) {
			return lab.Pause(ctx, 20*time.Millisecond) // nobody leads yet
		}
		mu.Lock()
		defer mu.Unlock()
		has[key{peer.Stored(n), uint64(base + v)}] = false
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	var s jetstream.Stream
	err = lab.Until(ctx, "the cluster answers again", 50*time.Millisecond, func() (bool, error) {
		once, cancel := context.WithTimeout(ctx, tryWait) // what a dead server was asked nobody answers
		defer cancel()
		s, err = js.Stream(once, peer.Stream)
		return err == nil && s.CachedInfo().Cluster.Leader != "" && s.CachedInfo().Cluster.Leader != leader.name, nil
	})
	if err != nil {
		return 0, 0, err
	}
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return 0, 0, err
	}
	msgs, err := cons.Messages()
	if err != nil {
		return 0, 0, err
	}
	defer msgs.Stop()
	for read, all := uint64(0), s.CachedInfo().State.Msgs; read < all; read++ {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return 0, 0, fmt.Errorf("read what the cluster has: %w", err)
		}
		k := key{m.Subject(), binary.LittleEndian.Uint64(m.Data())}
		if _, ok := has[k]; ok {
			has[k] = true
		}
	}
	for _, found := range has {
		if !found {
			lost++
		}
	}
	return len(has), lost, nil
}
