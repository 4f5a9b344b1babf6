package natstest

// A bill holds the bytes each way as a provider of the line counts them: IP
// packets. The link sees only the data of its TCP connections, so the packets
// around it are an estimate:
//
//   - data goes in segments of 1,400 B, the last one of a piece shorter, each
//     with 20 B of IPv4, 20 B of TCP and 12 B of time stamps;
//   - every second segment of a connection's way is answered by a packet
//     without data; the others are taken to be acked by data that goes back;
//   - a handshake is a SYN each way with 20 B of options and an ack; a close is
//     a FIN and an ack each way. A connection that is reset costs nothing more.
//
// What it leaves out: data that is sent twice by TCP, keep-alives, IPv6 (20 B
// a packet more), and what went into a black hole.
type bill [2]uint64

const (
	segmentBytes = 1400
	headerBytes  = 20 + 20 + 12
	synBytes     = 20 + 20 + 20
)

// meter counts the segments of one way of a connection.
type meter struct{ segments uint64 }

// open adds a handshake, which the near end begins.
func (b *bill) open() {
	b[up] += synBytes + headerBytes
	b[down] += synBytes
}

// data adds n bytes that cross the link as one piece.
func (b *bill) data(m *meter, way, n int) {
	acked := m.segments / 2
	segments := (uint64(n) + segmentBytes - 1) / segmentBytes
	m.segments += segments
	b[way] += uint64(n) + segments*headerBytes
	b[1-way] += (m.segments/2 - acked) * headerBytes
}

// close adds a FIN that crosses the link and its ack.
func (b *bill) close(way int) {
	b[way] += headerBytes
	b[1-way] += headerBytes
}
