package subject

import (
	"testing"

	"github.com/sapflow/sapflow/shared/point"
)

// The names are stored on disk and known to programs: this table is their
// definition, not a copy of the code.
func TestNames(t *testing.T) {
	node := point.Series{Node: "n1", Type: "temp", Key: "0"}
	edge := point.Series{Up: "a", Node: "b", Type: "tombstone", Key: "0"}
	for _, c := range []struct{ got, want string }{
		{Point(node), "p.n1.temp.0"},
		{Point(edge), "p.a.b.tombstone.0"},
		{Up("g", node), "up.g.n1.temp.0"},
		{Up("g", edge), "up.g.a.b.tombstone.0"},
		{UpAll("g"), "up.g.>"},
		{Ask("n1", "nodes"), "q.n1.nodes"},
		{Instance("status"), "q.status"},
		{FromGateway("d", Hello), "from.d.hello"},
		{ToGateway("d", Ack), "to.d.ack"},
		{LogEdge("d"), "log.edge.d"},
		{LogDown("d"), "log.down.d"},
		{LogsOf(StreamDown), "log.down.*"},
		{LogsOf(StreamHub), "log.hub.*"},
		{NodeStream(EdgeSide, "n1"), "NE_n1"},
		{NodeStream(HubSide, "n1"), "NH_n1"},
		{NodeIn(HubSide, edge), "n.h.a.b.tombstone.0"},
		{NodeInAll(EdgeSide, "n1"), "n.e.n1.>"},
		{NodeStored("n1"), "p.n1.>"},
		{ShardStream(EdgeSide, 7), "SE_7"},
		{ShardIn(HubSide, 12, edge), "s.12.h.a.b.tombstone.0"},
		{ShardInAll(EdgeSide, 7), "s.7.e.>"},
		{ShardStored, "p.>"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	if s, ok := ParseSeries("n1.temp.0"); !ok || s != (point.Series{Node: "n1", Type: "temp", Key: "0"}) {
		t.Errorf("node series: %v %v", s, ok)
	}
	if s, ok := ParseSeries("a.b.nodeType.0"); !ok || s.Up != "a" || s.Node != "b" {
		t.Errorf("edge series: %v %v", s, ok)
	}
	for _, bad := range []string{"", "a", "a.b", "a.b.c.d.e"} {
		if _, ok := ParseSeries(bad); ok {
			t.Errorf("ParseSeries(%q) accepted", bad)
		}
	}
	if id, verb, ok := ParseFrom("from.d.frame"); !ok || id != "d" || verb != "frame" {
		t.Errorf("ParseFrom: %q %q %v", id, verb, ok)
	}
	for _, bad := range []string{"from.d", "from.d.x.y", "to.d.x"} {
		if _, _, ok := ParseFrom(bad); ok {
			t.Errorf("ParseFrom(%q) accepted", bad)
		}
	}
	if anc, s, ok := ParseUp("up.g.a.b.tombstone.0"); !ok || anc != "g" || s.Up != "a" {
		t.Errorf("ParseUp: %q %v %v", anc, s, ok)
	}
	if side, node, ok := ParseNodeStream("NH_n1"); !ok || side != HubSide || node != "n1" {
		t.Errorf("ParseNodeStream: %c %q %v", side, node, ok)
	}
	for name, want := range map[string]bool{"SE_7": true, "SH_0": true, "NE_s": false, "EDGE": false} {
		if IsShardStream(name) != want {
			t.Errorf("IsShardStream(%q) is not %v", name, want)
		}
	}
}
