package radio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/point"
)

// mqtt is a broker at the hub and one at the gateway that is bridged to it,
// QoS 1 all the way, JSON for each reading. Queues have no bound, and small
// packets do not wait for acks of TCP, which would cost it time; the rest is as
// mosquitto comes.
type mqtt struct {
	site        *site
	hub, edge   *lab.Process
	atHub, here paho.Client
	written     int
}

// message is a reading.
type message struct {
	Time  int64 `json:"t"` // ms
	Value any   `json:"v"`
}

const mqttWait = 20 * time.Second

func (s *mqtt) Start(ctx context.Context, at *site) error {
	s.site = at
	var hubAddr, edgeAddr string
	var err error
	if s.hub, hubAddr, err = broker(at, "hub", ""); err != nil {
		return err
	}
	at.link.SetTarget(hubAddr)
	bridge := "connection hub\naddress " + at.link.Addr() +
		"\ntopic up/# out 1\ntopic down/# in 1\nbridge_protocol_version mqttv311\ncleansession false\nrestart_timeout 1\n"
	if s.edge, edgeAddr, err = broker(at, "gateway", bridge); err != nil {
		return err
	}
	if s.atHub, err = join(ctx, hubAddr, "up/#", at.points); err != nil {
		return err
	}
	s.here, err = join(ctx, edgeAddr, "down/#", at.changes)
	return err
}

// broker starts mosquitto with a configuration on a port of loopback. It does
// not choose one itself, so one that is free now is given.
func broker(at *site, name, more string) (*lab.Process, string, error) {
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return nil, "", errors.New("mosquitto is not installed (Debian: apt install mosquitto)")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	addr := l.Addr().(*net.TCPAddr)
	_ = l.Close()
	file := filepath.Join(at.dir, name+".conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nset_tcp_nodelay true\n%s", addr.Port, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, "", err
	}
	p, err := lab.Launch("mosquitto at the "+name, file+".log", bin, "-c", file)
	return p, addr.String(), err
}

// join connects to a broker and notes what it hears.
func join(ctx context.Context, addr, topic string, a *arrivals) (paho.Client, error) {
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("bench").SetOrderMatters(true))
	err := lab.Until(ctx, "mosquitto answers", poll, func() (bool, error) {
		t := c.Connect()
		return t.WaitTimeout(mqttWait) && t.Error() == nil, nil
	})
	if err != nil {
		return c, err
	}
	return c, settle(c.Subscribe(topic, 1, func(_ paho.Client, m paho.Message) {
		tokens := strings.Split(m.Topic(), "/")
		var v message
		if len(tokens) == 3 && json.Unmarshal(m.Payload(), &v) == nil {
			a.add(mark{tokens[1], v.Time})
		}
	}))
}

func settle(t paho.Token) error {
	if !t.WaitTimeout(mqttWait) {
		return errors.New("mosquitto does not answer")
	}
	return t.Error()
}

func send(c paho.Client, way string, p *point.Point) (paho.Token, error) {
	v := message{Time: int64(p.Time / uint64(time.Millisecond)), Value: p.Text()}
	if f, ok := p.Number(); ok {
		v.Value = f
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return c.Publish(way+"/"+p.Node+"/"+p.Type, 1, false, b), nil
}

func (s *mqtt) Write(_ context.Context, points []point.Point) error {
	s.written += len(points)
	var tokens []paho.Token
	for i := range points {
		t, err := send(s.here, "up", &points[i])
		if err != nil {
			return err
		}
		tokens = append(tokens, t)
	}
	for _, t := range tokens {
		if err := settle(t); err != nil {
			return err
		}
	}
	return nil
}

func (s *mqtt) Configure(_ context.Context, node string, value float64) error {
	p := setpoint(node, value)
	t, err := send(s.atHub, "down", &p)
	if err != nil {
		return err
	}
	return settle(t)
}

func (s *mqtt) Behind(context.Context) (int, error) { return s.written - s.site.points.count(), nil }

func (s *mqtt) Close() error {
	for _, c := range []paho.Client{s.here, s.atHub} {
		if c != nil {
			c.Disconnect(0)
		}
	}
	var errs []error
	for _, p := range []*lab.Process{s.edge, s.hub} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	return errors.Join(errs...)
}
