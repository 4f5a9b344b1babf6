// Package subject owns every subject, stream and bucket name of Sapflow, as
// small typed functions, so that no other package spells one out.
//
// The public ones (p, j, q, up) are the same at both ends and never change;
// the log and node stream subjects are private to an instance.
package subject

import (
	"strconv"
	"strings"

	"github.com/sapflow/sapflow/shared/point"
)

// Verbs of the public subjects.
const (
	Write     = "p"  // one point, or a group with the bare subject
	WriteJSON = "j"  // the same in JSON
	Query     = "q"  // nodes, tree, history
	Live      = "up" // points that became state
)

// Point returns the public subject that a program writes s to.
func Point(s point.Series) string { return Write + "." + s.String() }

// Up returns the subject on which ancestor's listeners hear s.
func Up(ancestor string, s point.Series) string { return Live + "." + ancestor + "." + s.String() }

// UpAll returns the subscription for all that happens below a node.
func UpAll(ancestor string) string { return Live + "." + ancestor + ".>" }

// Ask returns the subject of a query about a node: q.<node>.<verb>.
func Ask(node, verb string) string { return Query + "." + node + "." + verb }

// Import returns the subject on which an instance takes points of a node and
// those below it into its history.
func Import(node string) string { return "import." + node }

// ImportAny is the subscription for all imports.
const ImportAny = "import.*"

// ParseImport returns the node of a subject of Import.
func ParseImport(s string) (node string, ok bool) { return strings.CutPrefix(s, "import.") }

// Fleet returns the subject of a request about gateways, which only the
// hub's own trusted programs may send.
func Fleet(verb string) string { return "fleet." + verb }

// Instance returns the subject on which a running instance tells about
// itself: q.<verb> cannot clash with q.<node>.<verb>, which has a token more.
func Instance(verb string) string { return Query + "." + verb }

// ParseSeries reads the tokens behind a verb: node.type.key or
// up.down.type.key. It checks the count of tokens only; point.CheckSeries
// judges their content.
func ParseSeries(tokens string) (point.Series, bool) {
	var parts [4]string
	n := 0
	for rest, more := tokens, true; more; n++ {
		if n == len(parts) {
			return point.Series{}, false
		}
		parts[n], rest, more = strings.Cut(rest, ".")
	}
	switch n {
	case 3:
		return point.Series{Node: parts[0], Type: parts[1], Key: parts[2]}, true
	case 4:
		return point.Series{Up: parts[0], Node: parts[1], Type: parts[2], Key: parts[3]}, true
	}
	return point.Series{}, false
}

// ParseUp reads an up subject: the ancestor it was sent for, and the series.
func ParseUp(s string) (ancestor string, series point.Series, ok bool) {
	rest, ok := strings.CutPrefix(s, Live+".")
	if !ok {
		return "", point.Series{}, false
	}
	ancestor, tokens, ok := strings.Cut(rest, ".")
	if !ok {
		return "", point.Series{}, false
	}
	series, ok = ParseSeries(tokens)
	return ancestor, series, ok
}

// Verbs of the link between a gateway and the hub.
const (
	Hello = "hello"
	Frame = "frame"
	Ack   = "ack"
	Renew = "renew" // a gateway asks for a new credential
	Cred  = "cred"  // and gets it
	Clone = "clone" // a gateway has found that another one has its credential
)

// FromGateway returns the subject on which gateway id sends a link verb.
func FromGateway(id, verb string) string { return "from." + id + "." + verb }

// ToGateway returns the subject on which gateway id is sent a link verb.
func ToGateway(id, verb string) string { return "to." + id + "." + verb }

// FromAny is the hub's subscription for all gateways.
const FromAny = "from.>"

// ParseFrom splits a subject of FromGateway.
func ParseFrom(s string) (id, verb string, ok bool) {
	rest, ok := strings.CutPrefix(s, "from.")
	if !ok {
		return "", "", false
	}
	id, verb, ok = strings.Cut(rest, ".")
	return id, verb, ok && !strings.Contains(verb, ".")
}

// Streams of logs. EDGE holds what gateways authored, DOWN what the hub sends
// to each gateway, HUB what the hub authored.
const (
	StreamEdge = "EDGE"
	StreamDown = "DOWN"
	StreamHub  = "HUB"
)

// LogEdge returns the subject of the log that gateway id writes.
func LogEdge(id string) string { return "log.edge." + id }

// LogDown returns the subject of the log that is sent to gateway id.
func LogDown(id string) string { return "log.down." + id }

// LogHub is the subject of what the hub authored.
const LogHub = "log.hub.0"

// LogsOf returns the subjects of a log stream.
func LogsOf(stream string) string { return "log." + strings.ToLower(stream) + ".*" }

// ParseLog returns the gateway of a log subject.
func ParseLog(s string) (id string) { return s[strings.LastIndexByte(s, '.')+1:] }

// Side tells who authored the points of a node stream.
type Side byte

// The two sides of a node.
const (
	EdgeSide Side = 'e' // authored by gateways
	HubSide  Side = 'h' // authored by the hub
)

// NodeStream returns the name of one of the two streams of a node.
func NodeStream(side Side, node string) string {
	return "N" + strings.ToUpper(string(side)) + "_" + node
}

// ParseNodeStream splits a name of NodeStream.
func ParseNodeStream(name string) (side Side, node string, ok bool) {
	switch {
	case strings.HasPrefix(name, "NE_"):
		return EdgeSide, name[3:], true
	case strings.HasPrefix(name, "NH_"):
		return HubSide, name[3:], true
	}
	return 0, "", false
}

// NodeIn returns the private subject that a node stream listens on for s;
// the points of an edge are in the streams of the up node.
func NodeIn(side Side, s point.Series) string { return "n." + string(side) + "." + s.String() }

// NodeInAll returns what a node stream listens on.
func NodeInAll(side Side, node string) string { return "n." + string(side) + "." + node + ".>" }

// NodeStored returns what a node stream stores its messages at.
func NodeStored(node string) string { return Write + "." + node + ".>" }

// ShardStream returns the name of the stream of one side of a shard, where
// several nodes share streams.
func ShardStream(side Side, shard int) string {
	return "S" + strings.ToUpper(string(side)) + "_" + strconv.Itoa(shard)
}

// IsShardStream tells whether a name is one of ShardStream.
func IsShardStream(name string) bool {
	return strings.HasPrefix(name, "SE_") || strings.HasPrefix(name, "SH_")
}

// ShardIn returns the private subject that the stream of a shard listens on
// for s.
func ShardIn(side Side, shard int, s point.Series) string {
	return "s." + strconv.Itoa(shard) + "." + string(side) + "." + s.String()
}

// ShardInAll returns what the stream of a shard listens on.
func ShardInAll(side Side, shard int) string {
	return "s." + strconv.Itoa(shard) + "." + string(side) + ".>"
}

// ShardStored is what the streams of shards store their messages at.
const ShardStored = Write + ".>"

// StreamAudit is the stream of who did what about gateways.
const StreamAudit = "AUDIT"

// Audit returns the private subject of an entry of a kind.
func Audit(kind string) string { return "audit." + kind }

// BucketFleet is the key-value bucket of the gateways.
const BucketFleet = "fleet"

// StreamHistory is the stream of chunks.
const StreamHistory = "HISTORY"

// HistoryAll is what the stream of chunks listens on.
const HistoryAll = "hist.>"

// HistoryLevel tells the chunks of points from those of their summaries.
type HistoryLevel byte

// The levels of history.
const (
	HistoryPoints    HistoryLevel = 'p'
	HistorySummaries HistoryLevel = 's'
)

// HistoryChunk returns the subject of the chunk of a group that begins at a
// time in ns.
func HistoryChunk(level HistoryLevel, group int, start uint64) string {
	return "hist." + string(level) + "." + strconv.Itoa(group) + "." + strconv.FormatUint(start, 10)
}

// HistoryChain returns the subjects of all chunks of a group.
func HistoryChain(level HistoryLevel, group int) string {
	return "hist." + string(level) + "." + strconv.Itoa(group) + ".*"
}

// HistoryNames returns the subject of a page of the names of columns.
func HistoryNames(page int) string { return "hist.names." + strconv.Itoa(page) }

// HistoryNamesAll returns the subjects of all these pages.
const HistoryNamesAll = "hist.names.*"

// HistoryDone is the subject of how far logs have been made chunks.
const HistoryDone = "hist.done"

// HistoryImport is the subject of what an import is writing.
const HistoryImport = "hist.import"

// HistoryGaps returns the subject of the gaps of the logs of an author.
func HistoryGaps(author string) string { return "hist.gaps." + author }

// HistoryGapsAll returns the subjects of all gaps.
const HistoryGapsAll = "hist.gaps.*"

// HistoryRemoved returns the subject of what was removed of a group.
func HistoryRemoved(group int) string { return "hist.removed." + strconv.Itoa(group) }

// HistoryRemovedAll returns the subjects of all that was removed.
const HistoryRemovedAll = "hist.removed.*"
