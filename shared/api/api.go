// Package api owns what agent, hub and programs say to each other about the
// tree: requests, replies and error codes (API.md). It knows no NATS.
package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/tree"
)

// Code names a class of errors; programs compare codes, people read messages.
type Code string

// The codes of public replies. They never change.
const (
	CodeInvalid      Code = "invalid"         // a token, value or request is malformed
	CodeTooLarge     Code = "too_large"       // a value or group is over 64 KB
	CodeTime         Code = "time"            // more than 5 min in the future
	CodeNotFound     Code = "not_found"       // no such node, series or gateway
	CodeAmbiguous    Code = "ambiguous"       // a name fits several nodes
	CodeCycle        Code = "cycle"           // the edge closes a cycle
	CodeNested       Code = "nested_boundary" // a gateway below a gateway
	CodeForeign      Code = "foreign"         // the node is outside the writer's rights
	CodeConflict     Code = "conflict"        // the head is not the expected one
	CodeUnauthorized Code = "unauthorized"    // the credential does not allow it
	CodeDiskFull     Code = "disk_full"       // accepted in memory, not durable
	CodeBusy         Code = "busy"            // try again later
	CodeInternal     Code = "internal"        // see the log of the instance
)

// The codes of enrolment and of gateways.
const (
	CodeTokenInvalid Code = "token_invalid" // never given out, replaced or withdrawn
	CodeTokenUsed    Code = "token_used"    // by another key, or as often as it may be
	CodeTokenExpired Code = "token_expired"
	CodeKeyInvalid   Code = "key_invalid"   // of a wrong kind, or void
	CodeKeyUnknown   Code = "key_unknown"   // nobody has registered or let in that key
	CodeProofInvalid Code = "proof_invalid" // the signature is not by the key
	CodeRejected     Code = "rejected"      // an operator turned the gateway away
	CodeRevoked      Code = "revoked"       // an operator made its key void
	CodeBadRequest   Code = "bad_request"   // the body of an HTTP request cannot be read
)

// statuses are the HTTP statuses of codes; what is missing is 400.
var statuses = map[Code]int{
	CodeTooLarge: http.StatusRequestEntityTooLarge, CodeNotFound: http.StatusNotFound, CodeAmbiguous: http.StatusConflict,
	CodeForeign: http.StatusForbidden, CodeConflict: http.StatusConflict, CodeUnauthorized: http.StatusUnauthorized,
	CodeDiskFull: http.StatusInsufficientStorage, CodeBusy: http.StatusTooManyRequests, CodeInternal: http.StatusInternalServerError,
	CodeTokenInvalid: http.StatusForbidden, CodeTokenUsed: http.StatusConflict, CodeTokenExpired: http.StatusForbidden,
	CodeKeyUnknown: http.StatusForbidden, CodeRejected: http.StatusForbidden, CodeRevoked: http.StatusForbidden,
}

// WriteError answers an HTTP request with an error, which is the body:
// {code, message, hint}. All answers that are errors are made here.
func WriteError(w http.ResponseWriter, err error) {
	e := From(err)
	WriteJSON(w, e.Code.Status(), e)
}

// WriteJSON answers an HTTP request with v.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other end is gone: nobody to tell
}

// Status returns the HTTP status that goes with a code.
func (c Code) Status() int { return cmp.Or(statuses[c], http.StatusBadRequest) }

// Error is an error as it crosses the network.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the message and, in a second sentence, the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Is lets errors.Is compare by code: errors.Is(err, &api.Error{Code: c}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an error of a code.
func Errorf(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// From turns any error into one that may cross the network. It hides what it
// does not know: internals belong in the log.
func From(err error) *Error {
	var e *Error
	var p *point.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &p):
		return Errorf(CodeInvalid, "see the rules for points in API.md", "%s", p.Error())
	case errors.Is(err, point.ErrShort):
		return Errorf(CodeInvalid, "see FORMAT.md for the payload of a point", "%s", err)
	case errors.Is(err, tree.ErrCycle):
		return Errorf(CodeCycle, "a node cannot be moved below itself", "%s", err)
	case errors.Is(err, tree.ErrNested):
		return Errorf(CodeNested, "put the gateway beside the other one, below a site", "%s", err)
	}
	return Errorf(CodeInternal, "see the log of the instance", "internal error")
}

// CodeOf returns the code of an error, CodeInternal if it carries none, and
// "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return From(err).Code
}

// Reply is the answer to every request: the result, or an error.
type Reply struct {
	Error  *Error          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Encode returns a reply with the result or the error.
func Encode(result any, err error) []byte {
	var r Reply
	if err == nil && result != nil {
		r.Result, err = json.Marshal(result)
	}
	if err != nil {
		r.Error, r.Result = From(err), nil
	}
	b, _ := json.Marshal(r)
	return b
}

// Decode reads a reply into result, which may be nil.
func Decode(b []byte, result any) error {
	var r Reply
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("decode reply: %w", err)
	}
	if r.Error != nil {
		return r.Error
	}
	if result == nil || r.Result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	return nil
}

// HeaderExpect makes a write conditional on the time of the head.
const HeaderExpect = "Sapflow-Expect"

// Point is a point in a reply.
type Point struct {
	Node     string          `json:"node,omitempty"` // left out where the node is plain
	Up       string          `json:"up,omitempty"`
	Down     string          `json:"down,omitempty"`
	Type     string          `json:"type"`
	Key      string          `json:"key"`
	Time     string          `json:"time"` // RFC 3339 with nanoseconds
	DataType string          `json:"dataType,omitempty"`
	Value    json.RawMessage `json:"value"`
	Origin   string          `json:"origin"`
	Author   string          `json:"author"`
}

// Write is one point of a group on the subject j, or, with value, dataType
// and time alone, the body of a single write.
type Write struct {
	Node     string          `json:"node,omitempty"`
	Up       string          `json:"up,omitempty"`
	Down     string          `json:"down,omitempty"`
	Type     string          `json:"type,omitempty"`
	Key      string          `json:"key,omitempty"`
	DataType string          `json:"dataType,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
	Time     string          `json:"time,omitempty"`
	Origin   string          `json:"origin,omitempty"`
	Removed  bool            `json:"removed,omitempty"`
}

// Child names a node below another.
type Child struct {
	ID       string `json:"id"`
	NodeType string `json:"nodeType"`
}

// Node is a node with its state, as `get` prints it.
type Node struct {
	ID       string   `json:"id"`
	NodeType string   `json:"nodeType"`
	Parents  []string `json:"parents"`
	Points   []Point  `json:"points"`
	Children []Child  `json:"children"`
	Edges    []Point  `json:"edges,omitempty"`   // points of the edges below it, if asked
	Removed  bool     `json:"removed,omitempty"` // it cannot be reached from the root
}

// NodesRequest asks q.<node>.nodes for nodes with their state.
type NodesRequest struct {
	Depth  int    `json:"depth,omitempty"`  // levels below the node, 0 = the node alone, -1 = all
	Type   string `json:"type,omitempty"`   // only nodes of this type
	Edges  bool   `json:"edges,omitempty"`  // with the points of their edges, removed ones included
	Cursor string `json:"cursor,omitempty"` // Next of the page before
}

// NodesReply is one page of nodes.
type NodesReply struct {
	Nodes []Node `json:"nodes"`
	Next  string `json:"next,omitempty"` // cursor of the next page
}

// Branch is a node in the reply of q.<node>.tree.
type Branch struct {
	ID          string   `json:"id"`
	NodeType    string   `json:"nodeType"`
	Description string   `json:"description,omitempty"`
	Parents     []string `json:"parents,omitempty"`
}

// TreeRequest asks q.<node>.tree for the nodes below a node.
type TreeRequest struct {
	Cursor string `json:"cursor,omitempty"`
}

// TreeReply is one page of a subtree in breadth-first order, the node first.
type TreeReply struct {
	Nodes []Branch `json:"nodes"`
	Next  string   `json:"next,omitempty"`
}

// HistoryRequest asks q.<node>.history for points by their own time: of one
// series, or series by series of several.
type HistoryRequest struct {
	Up      string `json:"up,omitempty"`      // set for the points of an edge from Up to the node
	Type    string `json:"type,omitempty"`    // all types of the node by default
	Key     string `json:"key,omitempty"`     // "0" by default, "*" for all; all if no type is given
	Depth   int    `json:"depth,omitempty"`   // levels below the node to take in as well, -1 for all
	From    string `json:"from,omitempty"`    // RFC 3339, included; from the beginning by default
	To      string `json:"to,omitempty"`      // RFC 3339, excluded; to the end by default
	Newest  int    `json:"newest,omitempty"`  // only the last so many points of each series before To
	Every   string `json:"every,omitempty"`   // bucket width, such as "1m"; single points by default
	Buckets int    `json:"buckets,omitempty"` // instead of Every: about how many, of a width that the clock has; needs From
	Zone    string `json:"zone,omitempty"`    // where the clock is that buckets follow, such as Europe/Vienna; UTC by default
	Authors string `json:"authors,omitempty"` // AuthorsApart: each author's points by themselves; together by default
	Format  string `json:"format,omitempty"`  // FormatColumns: the reply is Columns; JSON by default
	Cursor  string `json:"cursor,omitempty"`  // Next of the page before
	Limit   int    `json:"limit,omitempty"`   // points or buckets of a page; what fits by default
}

// Values of a HistoryRequest.
const (
	AuthorsApart  = "apart"
	FormatColumns = "columns"
	AllKeys       = "*"
)

// SeriesName names a series, in replies about several.
type SeriesName struct {
	Up     string `json:"up,omitempty"`
	Node   string `json:"node,omitempty"`
	Type   string `json:"type,omitempty"`
	Key    string `json:"key,omitempty"`
	Author string `json:"author,omitempty"`
}

// Sample is one point of history.
type Sample struct {
	Time     string          `json:"time"`
	DataType string          `json:"dataType"`
	Value    json.RawMessage `json:"value"`
	Text     string          `json:"text,omitempty"` // where value alone does not give the same bits back
	Size     int             `json:"size,omitempty"` // bytes, where not the default of the data type
	Removed  bool            `json:"removed,omitempty"`
	Origin   string          `json:"origin,omitempty"`
	Author   string          `json:"author"`
	Up       string          `json:"up,omitempty"` // the series, if several may come
	Node     string          `json:"node,omitempty"`
	Type     string          `json:"type,omitempty"`
	Key      string          `json:"key,omitempty"`
}

// Bucket summarises the points of one span of time. Min, max and mean are
// over the numbers that are not NaN.
type Bucket struct {
	Time     string          `json:"time"` // its start
	Count    int             `json:"count"`
	NaN      int             `json:"nan,omitempty"`
	Min      json.RawMessage `json:"min"`
	Max      json.RawMessage `json:"max"`
	Mean     json.RawMessage `json:"mean"`
	Last     json.RawMessage `json:"last"`
	DataType string          `json:"dataType"` // of last
	First    json.RawMessage `json:"first"`
	*SeriesName
}

// Gap is a span of a log that this instance does not have.
type Gap struct {
	Author string `json:"author"`
	From   uint64 `json:"from"` // sequence numbers, of a gap in a log
	To     uint64 `json:"to"`
	Count  uint64 `json:"count"`           // points of whatever series; 0 if nobody knows
	Start  string `json:"start,omitempty"` // when, RFC 3339
	End    string `json:"end,omitempty"`
	Reason string `json:"reason"` // one of the Reasons
}

// Reasons of a Gap.
const (
	ReasonGap     = "gap"     // it never came here
	ReasonRemoved = "removed" // it was here and had to make room
	ReasonDamaged = "damaged" // it was here and cannot be read
)

// HistoryReply is one page of history.
type HistoryReply struct {
	Samples []Sample `json:"samples,omitempty"`
	Buckets []Bucket `json:"buckets,omitempty"`
	Every   string   `json:"every,omitempty"` // width of the buckets
	Gaps    []Gap    `json:"gaps,omitempty"`
	Next    string   `json:"next,omitempty"`
}

// Imported is the answer to an import.
type Imported struct {
	Points int `json:"points"`
}

// Status is what q.status and `status` tell about a running instance.
type Status struct {
	ID            string            `json:"id"`
	Version       string            `json:"version"`
	Connected     bool              `json:"connected"`
	BacklogPoints uint64            `json:"backlogPoints"`
	TxBytes       uint64            `json:"txBytes"`
	RxBytes       uint64            `json:"rxBytes"`
	StoreBytes    uint64            `json:"storeBytes"`
	StoreMax      uint64            `json:"storeMax,omitempty"`      // what the logs may take; none: what the disk holds
	RemovedPoints uint64            `json:"removedPoints,omitempty"` // had to make room
	UnsentPoints  uint64            `json:"unsentPoints,omitempty"`  // of them: those that the hub never got
	DroppedPoints uint64            `json:"droppedPoints,omitempty"` // could not wait any longer for a full disk
	Listen        string            `json:"listen"`
	Link          string            `json:"link,omitempty"` // what the link is doing, or why it stopped
	LossWindow    string            `json:"lossWindow,omitempty"`
	MonthBytes    uint64            `json:"monthBytes,omitempty"`    // of the line, both ways, this month
	MonthForecast uint64            `json:"monthForecast,omitempty"` // of the whole month at that rate
	LinkBytes     map[string]uint64 `json:"linkBytes,omitempty"`     // of the line since it was enrolled, by direction and class: tx-live, rx-control, ...
	Rate          int               `json:"rate,omitempty"`          // of the line as measured, bytes a second
	RoundTrip     int64             `json:"roundTrip,omitempty"`     // ms
	Counters      map[string]int    `json:"counters,omitempty"`
}

// Applied is the JSON value of a gateway's answer to a setting.
type Applied struct {
	Time   string `json:"time"` // of the setting
	OK     bool   `json:"ok"`
	Code   string `json:"code,omitempty"` // unknown, range, type, driver
	Reason string `json:"reason,omitempty"`
}

// DeviceAdd asks fleet.add for a new gateway.
type DeviceAdd struct {
	Name   string `json:"name"`
	Parent string `json:"parent,omitempty"` // node id, the root by default
	Plan   string `json:"plan,omitempty"`
	// Key is the public key of a gateway that enrols without a token.
	Key     string `json:"key,omitempty"`
	Expires string `json:"expires,omitempty"` // span until the token ends, such as 168h
}

// DeviceRef names a gateway in a fleet request.
type DeviceRef struct {
	ID      string `json:"id"`
	Expires string `json:"expires,omitempty"` // of fleet.token: span until the token ends
}

// DeviceAccept lets a gateway in that waits: as a new node below Parent, or in
// the place of the gateway Node.
type DeviceAccept struct {
	ID     string `json:"id"` // of the gateway that waits, or the beginning of it
	Parent string `json:"parent,omitempty"`
	Node   string `json:"node,omitempty"`
	Name   string `json:"name,omitempty"`
}

// DeviceToken is a new token and the line that an installer pastes.
type DeviceToken struct {
	ID     string `json:"id"`
	Token  string `json:"token,omitempty"`
	Enroll string `json:"enroll"`
}

// TokenAdd asks fleet.tokenadd for a token that is not for one gateway: each
// box that enrols with it becomes a new one below Parent.
type TokenAdd struct {
	Parent  string `json:"parent,omitempty"` // node id, the root by default
	Plan    string `json:"plan,omitempty"`
	Count   int    `json:"count,omitempty"`   // boxes that may use it, 1 by default
	Auto    bool   `json:"auto,omitempty"`    // let them in at once; else they wait for fleet.accept
	Expires string `json:"expires,omitempty"` // span until it ends, such as 168h
}

// Token is what the hub knows about such a token.
type Token struct {
	ID      string `json:"id"`
	Parent  string `json:"parent"`
	Plan    string `json:"plan,omitempty"`
	Count   int    `json:"count"`
	Used    int    `json:"used"`
	Auto    bool   `json:"auto"`
	Created string `json:"created"`
	Expires string `json:"expires"`
}

// Device is what the hub knows about a gateway.
type Device struct {
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Plan      string         `json:"plan"`
	State     string         `json:"state"` // new, pending, accepted, rejected, revoked
	Online    bool           `json:"online"`
	Late      bool           `json:"late,omitempty"` // connected, and silent for two of the intervals it announced
	LastSeen  string         `json:"lastSeen,omitempty"`
	LagPoints uint64         `json:"lagPoints"`
	Month     uint64         `json:"monthBytes,omitempty"`    // as the gateway reported last
	Forecast  uint64         `json:"monthForecast,omitempty"` // of the whole month at that rate
	ClockSkew float64        `json:"clockSkew,omitempty"`     // seconds its clock is ahead, as it reported last
	Aside     map[string]int `json:"aside,omitempty"`         // points set aside, by reason
	Refused   map[string]int `json:"refused,omitempty"`       // what it was refused since the hub started, and how often
	Link      string         `json:"link,omitempty"`          // what the link says, e.g. a clone
	Key       string         `json:"key,omitempty"`           // its public key
	Expires   string         `json:"expires,omitempty"`       // when its credential ends
	Node      string         `json:"node,omitempty"`          // of one that waits: the gateway whose place it asks for
	Parent    string         `json:"parent,omitempty"`        // of one that waits: where its token puts it
	From      string         `json:"from,omitempty"`          // of one that waits: the address it asked from last
	Clones    int            `json:"clones,omitempty"`        // how often its key was seen in two places
	Clone     string         `json:"clone,omitempty"`         // how and when, the last time
}

// KeyRoll asks fleet.roll for a new signing key.
type KeyRoll struct {
	Slot int  `json:"slot"`          // 0-15
	Now  bool `json:"now,omitempty"` // what the old one signed ends at once
}

// KeyRolled is a signing key that was replaced.
type KeyRolled struct {
	Slot    int    `json:"slot"`
	Key     string `json:"key"`     // the new public key
	Renewed int    `json:"renewed"` // gateways that were sent a new credential
	Cut     int    `json:"cut"`     // of them, those that did not come with it in time
}

// AuditRequest asks fleet.audit for entries.
type AuditRequest struct {
	After uint64 `json:"after,omitempty"` // entries with a higher number; the newest by default
	Limit int    `json:"limit,omitempty"` // 100 by default, 1,000 at most
	About string `json:"about,omitempty"` // only about this gateway, token or key
}

// AuditEntry is one entry: who did what to what, when and from where.
type AuditEntry struct {
	Seq    uint64            `json:"seq"`
	Time   string            `json:"time"`
	Who    string            `json:"who"`  // local, admin, gateway ID, key KEY, hub
	From   string            `json:"from"` // address, or nats for programs with local.creds
	What   string            `json:"what"` // such as device.revoked
	On     string            `json:"on,omitempty"`
	Code   Code              `json:"code,omitempty"` // why it was refused
	Detail map[string]string `json:"detail,omitempty"`
}
