// Package manage answers the operator's requests about gateways (fleet.*, and
// the same by HTTP): it
// puts together what a gateway consists of, the registry's record, the node
// in the tree and the gate in the door. Only the hub's own trusted programs
// may ask.
package manage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/hub/internal/cred"
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
	Audit    *audit.Log
	Root     string // node that new gateways go below by default
	Registry *fleet.Registry
	Instance *bus.Instance
	Door     *door.Door
	Enroll   func(token string) string // the line that an installer pastes; without a token that of a key
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
			result, err := s.Do(audit.By(ctx, "local", "nats"), strings.TrimPrefix(m.Subject, subject.Fleet("")), m.Data)
			if strings.HasPrefix(m.Reply, "_INBOX") {
				_ = s.cfg.Conn.Publish(m.Reply, api.Encode(result, err))
			}
		}
	}
}

// Do does what a request asks. Programs send it by NATS and by HTTP; who they
// are stands in ctx, see package audit.
func (s *Service) Do(ctx context.Context, verb string, data []byte) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	h := handlers[verb]
	if h == nil {
		return nil, api.Errorf(api.CodeInvalid, "ask "+strings.Join(slices.Sorted(maps.Keys(handlers)), ", "), "no request %q", verb)
	}
	result, err := h(s, ctx, data)
	if err != nil && api.CodeOf(err) == api.CodeInternal {
		s.cfg.Log.Error().Err(err).Str("request", verb).Msg("request failed")
	}
	return result, err
}

// handlers are what can be asked.
var handlers = map[string]func(*Service, context.Context, []byte) (any, error){
	"add":    with((*Service).add),
	"token":  with((*Service).token),
	"list":   with((*Service).list),
	"show":   with((*Service).show),
	"revoke": with((*Service).revoke),
	"remove": with((*Service).remove),
	"accept": with((*Service).accept),
	"reject": with((*Service).reject),

	"tokenadd":    with((*Service).tokenAdd),
	"tokenlist":   with((*Service).tokenList),
	"tokenremove": with((*Service).tokenRemove),
	"audit":       with((*Service).audit),
	"roll":        with((*Service).roll),
}

// with reads the request of a handler; an empty one is a zero one.
func with[Q, R any](f func(*Service, context.Context, Q) (R, error)) func(*Service, context.Context, []byte) (any, error) {
	return func(s *Service, ctx context.Context, data []byte) (any, error) {
		var req Q
		if len(bytes.TrimSpace(data)) > 0 {
			if err := json.Unmarshal(data, &req); err != nil {
				return nil, invalid(err)
			}
		}
		return f(s, ctx, req)
	}
}

// none is a request or a result without content.
type none = *struct{}

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

// checked completes and checks what a new gateway shall be.
func (s *Service) checked(req *api.DeviceAdd) error {
	req.Plan, req.Parent = cmp.Or(req.Plan, plans[0]), cmp.Or(req.Parent, s.cfg.Root)
	if !slices.Contains(plans, req.Plan) {
		return api.Errorf(api.CodeInvalid, "use wired, lte or catm", "plan %q is not known", req.Plan)
	}
	if strings.TrimSpace(req.Name) == "" {
		return api.Errorf(api.CodeInvalid, "sapflow-hub device add NAME", "a gateway needs a name")
	}
	return nil
}

// add makes a gateway.
func (s *Service) add(ctx context.Context, req api.DeviceAdd) (*api.DeviceToken, error) {
	ttl, err := span(req.Expires)
	if err == nil {
		err = s.checked(&req)
	}
	if err != nil {
		return nil, err
	}
	id := client.NewID()
	if err := s.Make(ctx, fleet.Device{ID: id, Name: req.Name, Plan: req.Plan}, req.Parent); err != nil {
		return nil, err
	}
	s.cfg.Log.Info().Str("node_id", id).Str("name", req.Name).Msg("gateway added")
	if req.Key == "" {
		return s.newToken(ctx, id, ttl)
	}
	if err := s.cfg.Registry.Register(ctx, id, req.Key); err != nil {
		_, _ = s.remove(ctx, api.DeviceRef{ID: id}) // the error that matters is the first
		return nil, err
	}
	return &api.DeviceToken{ID: id, Enroll: s.cfg.Enroll("")}, nil
}

// Make makes the node of a gateway and its record: the node first, so that a
// record without a node, or a token for it, never stands alone. It may be
// repeated.
func (s *Service) Make(ctx context.Context, d fleet.Device, parent string) error {
	if !slices.Contains(plans, d.Plan) {
		d.Plan = plans[0]
	}
	parent = cmp.Or(parent, s.cfg.Root)
	if err := s.site(parent, d.ID); err != nil {
		return err
	}
	points := append(point.Edge(parent, d.ID, point.NodeGateway),
		point.Point{Series: point.Series{Node: d.ID, Type: point.TypeDescription, Key: point.NoKey}, DataType: point.String, Data: []byte(d.Name)},
		point.Point{Series: point.Series{Node: d.ID, Type: point.TypePlan, Key: point.NoKey}, DataType: point.String, Data: []byte(d.Plan)},
	)
	// The gate opens before the node exists, so that the relay finds it.
	if _, err := s.cfg.Door.Admit(ctx, d.ID); err != nil {
		return err
	}
	if err := s.write(ctx, points); err != nil {
		s.cfg.Door.Dismiss(d.ID)
		return err
	}
	if err := s.cfg.Registry.Add(ctx, d); err != nil && !errors.Is(err, fleet.ErrExists) {
		return err
	}
	return nil
}

// span reads a span such as 168h, 0 for "".
func span(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, api.Errorf(api.CodeInvalid, "give a span such as 168h", "%q is not a span", text)
	}
	return d, nil
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

func (s *Service) token(ctx context.Context, ref api.DeviceRef) (*api.DeviceToken, error) {
	ttl, err := span(ref.Expires)
	if err != nil {
		return nil, err
	}
	return s.newToken(ctx, ref.ID, ttl)
}

func (s *Service) newToken(ctx context.Context, id string, ttl time.Duration) (*api.DeviceToken, error) {
	token, err := s.cfg.Registry.Token(ctx, id, ttl)
	if err != nil {
		return nil, s.known(err, id)
	}
	return &api.DeviceToken{ID: id, Token: token, Enroll: s.cfg.Enroll(token)}, nil
}

func (s *Service) show(ctx context.Context, ref api.DeviceRef) (*api.Device, error) {
	d, err := s.cfg.Registry.Get(ctx, ref.ID)
	if errors.Is(err, fleet.ErrNotFound) {
		a, err := s.cfg.Registry.Applicant(ctx, ref.ID)
		if err != nil {
			return nil, s.known(err, ref.ID)
		}
		return applicant(a), nil
	}
	if err != nil {
		return nil, err
	}
	device := s.device(d)
	return &device, nil
}

// applicant is a gateway without a node.
func applicant(a fleet.Applicant) *api.Device {
	return &api.Device{
		ID: fleet.KeyID(a.PublicKey), Name: a.Name, Plan: a.Plan, State: a.State, Key: a.PublicKey, Node: a.Node, Parent: a.Parent, From: a.From,
		LastSeen: text(a.AskedAt),
	}
}

// text returns a time as in replies, "" for none.
func text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (s *Service) revoke(ctx context.Context, ref api.DeviceRef) (none, error) {
	return nil, s.known(s.cfg.Registry.Revoke(ctx, ref.ID), ref.ID)
}

func (s *Service) accept(ctx context.Context, req api.DeviceAccept) (*api.Device, error) {
	if req.Parent != "" && req.Node != "" {
		return nil, api.Errorf(api.CodeInvalid, "give --parent for a new gateway, --node for one whose box was replaced", "a parent and a node cannot both be given")
	}
	d, err := s.cfg.Registry.Accept(ctx, req.ID, req.Parent, req.Node, req.Name)
	if err != nil {
		return nil, s.known(err, cmp.Or(req.Node, req.ID))
	}
	device := s.device(d)
	return &device, nil
}

func (s *Service) reject(ctx context.Context, ref api.DeviceRef) (*api.Device, error) {
	a, err := s.cfg.Registry.Reject(ctx, ref.ID)
	if err != nil {
		return nil, s.known(err, ref.ID)
	}
	return applicant(a), nil
}

func (s *Service) tokenAdd(ctx context.Context, req api.TokenAdd) (*api.DeviceToken, error) {
	ttl, err := span(req.Expires)
	if err != nil {
		return nil, err
	}
	if req.Parent == "" {
		req.Parent = s.cfg.Root
	}
	if req.Plan != "" && !slices.Contains(plans, req.Plan) {
		return nil, api.Errorf(api.CodeInvalid, "use wired, lte or catm", "plan %q is not known", req.Plan)
	}
	if err := s.site(req.Parent, client.NewID()); err != nil {
		return nil, err
	}
	want := fleet.Token{Parent: req.Parent, Plan: req.Plan, Count: req.Count, Auto: req.Auto}
	if ttl > 0 {
		want.Expires = time.Now().UTC().Add(ttl)
	}
	t, token, err := s.cfg.Registry.AddToken(ctx, want)
	if err != nil {
		return nil, err
	}
	return &api.DeviceToken{ID: t.ID, Token: token, Enroll: s.cfg.Enroll(token)}, nil
}

// site tells what is wrong with a node that a gateway shall come below.
func (s *Service) site(node, id string) (err error) {
	s.cfg.Instance.View(func(_ *state.State, t *tree.Tree) {
		if !t.Has(node) {
			err = api.Errorf(api.CodeNotFound, "see `sapflow-hub tree`", "there is no node %s", node)
			return
		}
		err = t.Check(node, id, point.NodeGateway)
	})
	return err
}

func (s *Service) tokenList(ctx context.Context, _ none) ([]api.Token, error) {
	tokens, err := s.cfg.Registry.Tokens(ctx)
	list := []api.Token{}
	for _, t := range tokens {
		list = append(list, api.Token{
			ID: t.ID, Parent: t.Parent, Plan: t.Plan, Count: t.Count, Used: len(t.Keys), Auto: t.Auto, Created: text(t.CreatedAt), Expires: text(t.Expires),
		})
	}
	return list, err
}

func (s *Service) tokenRemove(ctx context.Context, ref api.DeviceRef) (none, error) {
	err := s.cfg.Registry.RemoveToken(ctx, ref.ID)
	if errors.Is(err, fleet.ErrNotFound) {
		err = api.Errorf(api.CodeNotFound, "see `sapflow-hub token list`", "there is no token %s", ref.ID)
	}
	return nil, err
}

func (s *Service) roll(ctx context.Context, req api.KeyRoll) (*api.KeyRolled, error) {
	if req.Slot < 0 || req.Slot >= cred.Slots {
		return nil, api.Errorf(api.CodeInvalid, "there are 0 to 15", "there is no signing key %d", req.Slot)
	}
	done, err := s.cfg.Registry.Roll(ctx, req.Slot, req.Now)
	if errors.Is(err, cred.ErrOutside) {
		err = api.Errorf(api.CodeInvalid, "move them into the data directory to roll them there", "%s", cred.ErrOutside)
	}
	return &done, err
}

func (s *Service) audit(ctx context.Context, req api.AuditRequest) ([]audit.Entry, error) {
	return s.cfg.Audit.List(ctx, req)
}

// remove revokes a gateway and takes its node out of the tree; its history
// stays. One that waits is forgotten.
func (s *Service) remove(ctx context.Context, ref api.DeviceRef) (none, error) {
	id := ref.ID
	err := s.cfg.Registry.Remove(ctx, id)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, s.known(s.cfg.Registry.Forget(ctx, id), id)
	}
	if err != nil {
		return nil, err
	}
	s.cfg.Door.Dismiss(id)
	points := s.cfg.Instance.Detach(id)
	if len(points) == 0 {
		return nil, nil
	}
	return nil, s.write(ctx, points)
}

func (s *Service) list(ctx context.Context, _ none) ([]api.Device, error) {
	devices, err := s.cfg.Registry.List(ctx)
	if err != nil {
		return nil, err
	}
	list := []api.Device{}
	for _, d := range devices {
		list = append(list, s.device(d))
	}
	applicants, err := s.cfg.Registry.Applicants(ctx)
	for _, a := range applicants {
		if a.State == fleet.StatePending || a.State == fleet.StateRejected {
			list = append(list, *applicant(a))
		}
	}
	return list, err
}

func (s *Service) device(d fleet.Device) api.Device {
	out := api.Device{
		ID: d.ID, Name: d.Name, Plan: d.Plan, State: d.State, Online: s.cfg.Online(d.ID), Key: d.PublicKey, Expires: text(d.Expires), Clones: d.Clones,
	}
	if d.Clones > 0 {
		out.Clone = d.Clone + ", " + text(d.CloneAt)
	}
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
