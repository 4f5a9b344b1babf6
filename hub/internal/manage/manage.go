// Package manage answers the operator's requests about gateways (fleet.*): it
// puts together what a gateway consists of, the registry's record, the node
// in the tree and the gate in the door. Only the hub's own trusted programs
// may ask.
package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/door"
	"github.com/sapflow/sapflow/hub/internal/fleet"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/state"
	"github.com/sapflow/sapflow/shared/subject"
	"github.com/sapflow/sapflow/shared/tree"
)

// requestWait bounds the work for one request.
const requestWait = 30 * time.Second

// Config says what the service puts together. All fields but Log must be set.
type Config struct {
	Conn     *nats.Conn // where operators' programs are
	Root     string     // node that new gateways go below by default
	Registry *fleet.Registry
	Instance *bus.Instance
	Door     *door.Door
	Enroll   func(token string) string // the line that an installer pastes
	Online   func(id string) bool
	Log      zerolog.Logger
}

// Service answers fleet.*.
type Service struct{ cfg Config }

// New returns a service that does not answer yet.
func New(cfg Config) *Service { return &Service{cfg} }

// Run answers until ctx ends. Requests are handled one after the other:
// people make them.
func (s *Service) Run(ctx context.Context) error {
	msgs := make(chan *nats.Msg, 64)
	sub, err := s.cfg.Conn.ChanSubscribe(subject.Fleet("*"), msgs)
	if err != nil {
		return fmt.Errorf("subscribe for requests: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := s.cfg.Conn.Flush(); err != nil {
		return fmt.Errorf("subscribe for requests: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-msgs:
			ctx, cancel := context.WithTimeout(ctx, requestWait)
			result, err := s.handle(ctx, strings.TrimPrefix(m.Subject, subject.Fleet("")), m.Data)
			cancel()
			if err != nil && api.CodeOf(err) == api.CodeInternal {
				s.cfg.Log.Error().Err(err).Str("subject", m.Subject).Msg("request failed")
			}
			if strings.HasPrefix(m.Reply, "_INBOX") {
				_ = s.cfg.Conn.Publish(m.Reply, api.Encode(result, err))
			}
		}
	}
}

func (s *Service) handle(ctx context.Context, verb string, data []byte) (any, error) {
	var ref api.DeviceRef
	switch verb {
	case "add":
		var req api.DeviceAdd
		if err := json.Unmarshal(data, &req); err != nil {
			return nil, invalid(err)
		}
		return s.add(ctx, req)
	case "list":
		return s.list(ctx)
	}
	if err := json.Unmarshal(data, &ref); err != nil {
		return nil, invalid(err)
	}
	switch verb {
	case "token":
		return s.token(ctx, ref.ID)
	case "show":
		d, err := s.cfg.Registry.Get(ctx, ref.ID)
		if err != nil {
			return nil, s.known(err, ref.ID)
		}
		return s.device(d), nil
	case "revoke":
		return nil, s.known(s.cfg.Registry.Revoke(ctx, ref.ID), ref.ID)
	case "remove":
		return nil, s.remove(ctx, ref.ID)
	}
	return nil, api.Errorf(api.CodeInvalid, "ask add, token, list, show, revoke or remove", "no request %q", verb)
}

func invalid(err error) error {
	return api.Errorf(api.CodeInvalid, "see API.md for the request", "request is not valid: %s", err)
}

// known turns the registry's error for a gateway that is not there into one
// for people.
func (s *Service) known(err error, id string) error {
	if errors.Is(err, fleet.ErrNotFound) {
		return api.Errorf(api.CodeNotFound, "see `sapflow-hub device list`", "there is no gateway %s", id)
	}
	return err
}

var plans = []string{"wired", "lte", "catm"}

// add makes a gateway: its node first, so that a record without a node, or a
// token for it, never stands alone.
func (s *Service) add(ctx context.Context, req api.DeviceAdd) (*api.DeviceToken, error) {
	if req.Plan == "" {
		req.Plan = plans[0]
	}
	if !strings.Contains(" "+strings.Join(plans, " ")+" ", " "+req.Plan+" ") {
		return nil, api.Errorf(api.CodeInvalid, "use wired, lte or catm", "plan %q is not known", req.Plan)
	}
	if strings.TrimSpace(req.Name) == "" {
		return nil, api.Errorf(api.CodeInvalid, "sapflow-hub device add NAME", "a gateway needs a name")
	}
	if req.Parent == "" {
		req.Parent = s.cfg.Root
	}
	id := client.NewID()
	points := append(point.Edge(req.Parent, id, point.NodeGateway),
		point.Point{Series: point.Series{Node: id, Type: point.TypeDescription, Key: point.NoKey}, DataType: point.String, Data: []byte(req.Name)},
		point.Point{Series: point.Series{Node: id, Type: point.TypePlan, Key: point.NoKey}, DataType: point.String, Data: []byte(req.Plan)},
	)
	// The gate opens before the node exists, so that the relay finds it.
	if _, err := s.cfg.Door.Admit(ctx, id); err != nil {
		return nil, err
	}
	if err := s.write(ctx, points); err != nil {
		s.cfg.Door.Dismiss(id)
		return nil, err
	}
	if err := s.cfg.Registry.Add(ctx, fleet.Device{ID: id, Name: req.Name, Plan: req.Plan}); err != nil {
		return nil, err
	}
	s.cfg.Log.Info().Str("node_id", id).Str("name", req.Name).Msg("gateway added")
	return s.token(ctx, id)
}

// write makes points durable.
func (s *Service) write(ctx context.Context, points []point.Point) error {
	done := make(chan error, 1)
	if err := s.cfg.Instance.Write(points, nil, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

func (s *Service) token(ctx context.Context, id string) (*api.DeviceToken, error) {
	token, err := s.cfg.Registry.Token(ctx, id)
	if err != nil {
		return nil, s.known(err, id)
	}
	return &api.DeviceToken{ID: id, Token: token, Enroll: s.cfg.Enroll(token)}, nil
}

// remove revokes a gateway and takes its node out of the tree; its history
// stays.
func (s *Service) remove(ctx context.Context, id string) error {
	if err := s.cfg.Registry.Remove(ctx, id); err != nil {
		return s.known(err, id)
	}
	s.cfg.Door.Dismiss(id)
	points := s.cfg.Instance.Detach(id)
	if len(points) == 0 {
		return nil
	}
	return s.write(ctx, points)
}

func (s *Service) list(ctx context.Context) ([]api.Device, error) {
	devices, err := s.cfg.Registry.List(ctx)
	if err != nil {
		return nil, err
	}
	list := []api.Device{}
	for _, d := range devices {
		list = append(list, s.device(d))
	}
	return list, nil
}

func (s *Service) device(d fleet.Device) api.Device {
	out := api.Device{ID: d.ID, Name: d.Name, Plan: d.Plan, State: d.State, Online: s.cfg.Online(d.ID)}
	s.cfg.Instance.View(func(st *state.State, _ *tree.Tree) {
		get := func(typ string) *frame.Entry {
			return st.Get(point.Series{Node: d.ID, Type: typ, Key: point.NoKey})
		}
		if h := get(point.TypePlan); h != nil && !h.Removed() && h.DataType == point.String {
			out.Plan = string(h.Data)
		}
		if h := get(point.TypeClockSkew); h != nil {
			out.ClockSkew, _ = h.Number()
		}
		if h := get(point.TypeMonthBytes); h != nil {
			out.Month, _ = h.Uint64()
		}
		if h := get(point.TypeMonthForecast); h != nil {
			out.Forecast, _ = h.Uint64()
		}
	})
	if g := s.cfg.Door.Gate(d.ID); g != nil {
		info := g.Info()
		out.LagPoints, out.Aside, out.Link = info.LagPoints, info.Link.Aside, info.Link.Phase.String()
		out.Refused = info.Refused
		if !info.LastSeen.IsZero() {
			out.Late = out.Online && info.Link.Idle > 0 && time.Since(info.LastSeen) > 2*info.Link.Idle
			out.LastSeen = info.LastSeen.UTC().Format(time.RFC3339Nano)
		}
	}
	return out
}
