package natsd

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"github.com/sapflow/sapflow/hub/internal/cred"
)

// What happened to a connection of a gateway.
const (
	Opened = "opened" // let in; it may take a moment until Leafs has it
	Closed = "closed" // by either end, or cut; not for what the gateway did
	// It tried what no gateway does.
	RefusedRights  = "rights"  // a subject beyond its own, or not the protocol
	RefusedPayload = "payload" // a message that is too large
	RefusedSubs    = "subs"    // too many subscriptions
	RefusedSyntax  = "syntax"  // not the protocol either
	// RefusedInterest is a wish to hear more than its own. The server accepts
	// wildcards and filters what it delivers, which costs it for each message.
	RefusedInterest = "interest"
	// It was not let in, or not any longer.
	RefusedAuth    = "auth"    // no credential, or not one of ours, or without its key
	RefusedExpired = "expired" // a credential of the past
	RefusedRevoked = "revoked" // a void one
)

// closings are the server's reasons that say something about the other end.
var closings = map[string]string{
	"Protocol Violation":               RefusedRights,
	"Maximum Message Payload Exceeded": RefusedPayload,
	"Maximum Subscriptions Exceeded":   RefusedSubs,
	"Maximum Control Line Exceeded":    RefusedSyntax,
	"Parse Error":                      RefusedSyntax,
	"Message Header Violation":         RefusedSyntax,
	"Incorrect Port":                   RefusedSyntax,
	"Authentication Expired":           RefusedExpired,
	"Credentials Revoked":              RefusedRevoked,
}

// Event is something that happened to a connection of a gateway, or of who
// says to be one.
type Event struct {
	What string
	// ID and PublicKey are the gateway and its key as a credential of this hub
	// says, "" without one. A refused one may come from who has no key to it.
	ID, PublicKey string
	CID           uint64 // the server's number of the connection
	Host          string
	ServerName    string // what the other end calls itself; not authenticated
	Reason        string // in the server's words
}

// Refused tells whether the event is of something that was refused.
func (e Event) Refused() bool { return e.What != Opened && e.What != Closed }

// NotLetIn tells whether a credential was refused.
func (e Event) NotLetIn() bool {
	return e.What == RefusedAuth || e.What == RefusedExpired || e.What == RefusedRevoked
}

// Evicted tells whether a connection ended because another one came under the
// name of the same box.
func (e Event) Evicted() bool { return e.Reason == "Duplicate Remote LeafNode Connection" }

// maxEvents bounds the events that wait to be told; the newest are dropped:
// who floods has been told of.
const maxEvents = 4096

// Watch tells what happens to connections of gateways, one after the other,
// until the returned function is called. tell must not block for long.
func (s *Server) Watch(tell func(Event)) (stop func(), err error) {
	nc, err := s.Connect(cred.SYS, "events")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	devices := s.keys.AccountID(cred.DEVICES)
	var turn sync.Mutex
	for subject, of := range map[string]func(*connEvent) string{
		"$SYS.ACCOUNT." + devices + ".CONNECT":    func(*connEvent) string { return Opened },
		"$SYS.ACCOUNT." + devices + ".DISCONNECT": func(e *connEvent) string { return closings[e.Reason] },
		"$SYS.SERVER.*.CLIENT.AUTH.ERR":           func(*connEvent) string { return RefusedAuth },
	} {
		sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
			var e connEvent
			if json.Unmarshal(m.Data, &e) != nil || e.Client.Account == devices && e.Client.Kind != "Leafnode" {
				return // the door itself
			}
			turn.Lock()
			defer turn.Unlock()
			tell(s.event(of(&e), &e))
		})
		if err == nil {
			err = sub.SetPendingLimits(maxEvents, -1)
		}
		if err != nil {
			return nil, fmt.Errorf("watch connections: %w", err)
		}
	}
	return nc.Close, nc.Flush()
}

// connEvent is what the server says of a connection.
type connEvent struct {
	Client struct {
		Account string `json:"acc"`
		ID      uint64 `json:"id"`
		Name    string `json:"name"`
		Host    string `json:"host"`
		Kind    string `json:"kind"`
		JWT     string `json:"jwt"`
	} `json:"client"`
	Reason string `json:"reason"`
}

func (s *Server) event(what string, e *connEvent) Event {
	if what == "" {
		what = Closed
	}
	event := Event{What: what, CID: e.Client.ID, Host: e.Client.Host, ServerName: e.Client.Name, Reason: e.Reason}
	claims, err := jwt.DecodeUserClaims(e.Client.JWT)
	account := s.devices.Load()
	if err != nil || !account.DidSign(claims) {
		return event
	}
	event.ID, event.PublicKey = claims.Name, claims.Subject
	if what == RefusedAuth { // why, as far as the credential tells
		switch {
		case account.IsClaimRevoked(claims):
			event.What = RefusedRevoked
		case claims.Expires > 0 && claims.Expires <= time.Now().Unix():
			event.What = RefusedExpired
		}
	}
	return event
}
