package streams

import (
	"fmt"
	"hash/fnv"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// Names of layouts.
const (
	LayoutNode  = "node"  // two streams for every node
	LayoutShard = "shard" // a fixed number of streams that nodes share
	LayoutNone  = "none"  // no streams: nobody wants to read them
)

// shards is how many streams a side a new hub of LayoutShard has. With few, a
// program that reads one for the sake of some nodes, or a stream that is made
// anew, has more to do; each costs an answer a batch. Filled from the logs of
// 15,000 nodes (`streams rebuild`), 1 to 64 are equal within 15 %, 256 take 3 to
// 20 % more of the processor by run.
const shards = 16

// Layout says which streams hold the points of which nodes. The zero value
// is LayoutNode.
type Layout struct {
	Shards int  `json:"shards,omitempty"` // streams a side, 0 for two streams a node
	None   bool `json:"none,omitempty"`   // no streams
}

// ParseLayout returns a layout by its name.
func ParseLayout(name string) (Layout, error) {
	switch name {
	case LayoutNode:
		return Layout{}, nil
	case LayoutShard:
		return Layout{Shards: shards}, nil
	case LayoutNone:
		return Layout{None: true}, nil
	}
	return Layout{}, fmt.Errorf("layout of node streams %q is none of %s, %s and %s", name, LayoutNode, LayoutShard, LayoutNone)
}

// String returns the name of the layout.
func (l Layout) String() string {
	switch {
	case l.None:
		return LayoutNone
	case l.Shards > 0:
		return LayoutShard
	}
	return LayoutNode
}

func (l Layout) shard(node string) int {
	h := fnv.New32a()
	h.Write([]byte(node))
	return int(h.Sum32() % uint32(l.Shards))
}

// stream returns the name of the stream with one side of a node.
func (l Layout) stream(side subject.Side, node string) string {
	if l.Shards == 0 {
		return subject.NodeStream(side, node)
	}
	return subject.ShardStream(side, l.shard(node))
}

// in returns the subject that the stream of s takes its points from.
func (l Layout) in(side subject.Side, s point.Series) string {
	if l.Shards == 0 {
		return subject.NodeIn(side, s)
	}
	return subject.ShardIn(side, l.shard(s.Holder()), s)
}

// listening is where a stream listens and where it stores what it hears.
type listening struct {
	side       subject.Side
	in, stored string
}

// want returns the streams that must exist for nodes, by name.
func (l Layout) want(nodes []string) map[string]listening {
	want := map[string]listening{}
	for _, side := range []subject.Side{subject.EdgeSide, subject.HubSide} {
		for i := range l.Shards {
			want[subject.ShardStream(side, i)] = listening{side, subject.ShardInAll(side, i), subject.ShardStored}
		}
		if l != (Layout{}) {
			continue
		}
		for _, n := range nodes {
			want[subject.NodeStream(side, n)] = listening{side, subject.NodeInAll(side, n), subject.NodeStored(n)}
		}
	}
	return want
}

// config returns the configuration of a stream.
func (w listening) config(name string, maxPerSubject int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Subjects:          []string{w.in},
		SubjectTransform:  &jetstream.SubjectTransformConfig{Source: w.in, Destination: w.stored},
		Storage:           jetstream.FileStorage,
		MaxMsgsPerSubject: int64(maxPerSubject),
		AllowDirect:       true,
		PersistMode:       jetstream.AsyncPersistMode,
	}
}

// Owned tells whether a stream is a node stream of any layout.
func Owned(name string) bool {
	_, _, ok := subject.ParseNodeStream(name)
	return ok || subject.IsShardStream(name)
}
