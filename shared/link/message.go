package link

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
)

// ErrMessage is returned for bytes that are no message of the link.
var ErrMessage = errors.New("message of the link is malformed")

// Code is the receiver's answer to a frame. The numbers are on the wire.
type Code uint8

// The codes of an ack.
const (
	OK         Code = 0
	Gap        Code = 1 // something before the frame is missing: say hello
	Superseded Code = 2 // the epoch has been left: say hello
	Damaged    Code = 3 // checksum or layout
	Version    Code = 4 // a version that the receiver does not read
	Size       Code = 5
	Rate       Code = 6 // too much at once: retry later
	Series     Code = 7 // a series number that is not known: send names
	Busy       Code = 8 // retry later
	DiskFull   Code = 9 // retry later
)

var codeNames = [...]string{"ok", "gap", "superseded", "damaged", "version", "size", "rate", "series", "busy", "disk_full"}

// String returns the name of the code.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "unknown"
}

// Hello opens a session, and answers the one that does. With Conn 0 it asks
// the gateway to open one.
type Hello struct {
	Conn     uint32         // random, chosen by the gateway
	Version  uint8          // newest frame version that the sender reads
	Idle     time.Duration  // longest silence to expect, in ms on the wire
	Time     uint64         // the sender's estimate of hub time, ns
	Out      frame.Position // end of the log that the sender writes
	OutFirst uint64         // first number of it still held
	In       frame.Position // how much of the other's log the sender holds
}

const positionLen = 24

func readPosition(b []byte) frame.Position {
	return frame.Position{
		Cursor: frame.Cursor{Epoch: frame.Epoch(binary.LittleEndian.Uint64(b)), Seq: binary.LittleEndian.Uint64(b[8:])},
		Sum:    binary.LittleEndian.Uint64(b[16:]),
	}
}

const helloLen = 4 + 1 + 4 + 8 + positionLen + 8 + positionLen

// Encode returns the bytes of the hello.
func (h *Hello) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, helloLen), h.Conn)
	b = append(b, h.Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Idle.Milliseconds()))
	b = binary.LittleEndian.AppendUint64(b, h.Time)
	b = h.Out.Append(b)
	b = binary.LittleEndian.AppendUint64(b, h.OutFirst)
	return h.In.Append(b)
}

// DecodeHello reads a hello. Bytes that follow belong to a later version.
func DecodeHello(b []byte) (Hello, error) {
	if len(b) < helloLen {
		return Hello{}, ErrMessage
	}
	return Hello{
		Conn:     binary.LittleEndian.Uint32(b),
		Version:  b[4],
		Idle:     time.Duration(binary.LittleEndian.Uint32(b[5:])) * time.Millisecond,
		Time:     binary.LittleEndian.Uint64(b[9:]),
		Out:      readPosition(b[17:]),
		OutFirst: binary.LittleEndian.Uint64(b[17+positionLen:]),
		In:       readPosition(b[25+positionLen:]),
	}, nil
}

// Parcel is a frame on its way, in a session.
type Parcel struct {
	Conn   uint32
	Number uint32 // from 1
	Want   bool   // the sender wants the heads of the other end
	Live   bool   // heads that the log brings as well: the receiver need not keep them
	Frame  *frame.Frame
	Fault  Code          // why Frame is nil, at the receiver
	Retry  time.Duration // with Fault Rate: when the frame may come again
}

const (
	flagWant = 1 << 0
	flagLive = 1 << 1
)

// Encode returns the bytes of the parcel, its frame in a version that the
// other end reads and without what s has told it before.
func (p *Parcel) Encode(s *frame.Session, version uint8) []byte {
	b := appendHead(nil, p.Conn, p.Number)
	var flags byte
	if p.Want {
		flags |= flagWant
	}
	if p.Live {
		flags |= flagLive
	}
	return append(append(b, flags), s.Encode(p.Frame, version)...)
}

// appendHead appends what parcel and ack begin with.
func appendHead(b []byte, conn, number uint32) []byte {
	return binary.AppendUvarint(binary.LittleEndian.AppendUint32(b, conn), uint64(number))
}

// readHead reads it; rest has at least one byte.
func readHead(b []byte) (conn, number uint32, rest []byte, err error) {
	if len(b) < 4 {
		return 0, 0, nil, ErrMessage
	}
	v, n := binary.Uvarint(b[4:])
	if n <= 0 || v > 1<<32-1 || len(b) < 4+n+1 {
		return 0, 0, nil, ErrMessage
	}
	return binary.LittleEndian.Uint32(b), uint32(v), b[4+n:], nil
}

// DecodeParcel reads a parcel of the session conn, whose log belongs to
// author. A frame that cannot be read leaves its reason in Fault; one of
// another session is not read.
func DecodeParcel(b []byte, s *frame.Session, conn uint32, author string) (Parcel, error) {
	c, number, rest, err := readHead(b)
	if err != nil {
		return Parcel{}, err
	}
	p := Parcel{Conn: c, Number: number, Want: rest[0]&flagWant != 0, Live: rest[0]&flagLive != 0}
	if c != conn {
		return p, nil
	}
	f, err := s.Decode(rest[1:], author)
	switch {
	case errors.Is(err, frame.ErrVersion):
		p.Fault = Version
	case errors.Is(err, frame.ErrTooLarge):
		p.Fault = Size
	case errors.Is(err, frame.ErrSession):
		p.Fault = Series
	case err != nil:
		p.Fault = Damaged
	default:
		p.Frame = f
	}
	return p, nil
}

// putOff reads a parcel, but not its frame, which may come again after a while.
func putOff(b []byte, wait time.Duration) (Parcel, error) {
	c, number, _, err := readHead(b)
	return Parcel{Conn: c, Number: number, Fault: Rate, Retry: wait}, err
}

// Ack answers a parcel.
type Ack struct {
	Conn   uint32
	Number uint32
	Code   Code
	Want   bool           // the receiver wants the heads of the other end
	Done   bool           // the receiver holds the log up to the end of the frame; else Cursor says
	Cursor frame.Position // how much of the log the receiver holds now
	Time   uint64         // the receiver's estimate of hub time, ns, in whole ms on the wire
	Newest uint64         // newest number of the receiver's own log
	Retry  time.Duration  // for Rate, Busy and DiskFull, in ms on the wire
	Aside  []AsideCount   // points set aside
}

// AsideCount counts points that were set aside for one reason.
type AsideCount struct {
	Reason frame.Reason
	Count  uint64
}

const (
	codeMask  = 0x0f
	ackWant   = 1 << 4
	ackCursor = 1 << 5
)

// Encode returns the bytes of the ack.
func (a *Ack) Encode() []byte {
	b := appendHead(nil, a.Conn, a.Number)
	flags := byte(a.Code)
	if a.Want {
		flags |= ackWant
	}
	if !a.Done {
		flags |= ackCursor
	}
	b = binary.AppendUvarint(append(b, flags), a.Time/uint64(time.Millisecond))
	b = binary.AppendUvarint(b, a.Newest)
	if !a.Done {
		b = a.Cursor.Append(b)
	}
	if a.Retry == 0 && len(a.Aside) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(a.Retry.Milliseconds()))
	for _, c := range a.Aside {
		b = binary.AppendUvarint(append(b, byte(c.Reason)), c.Count)
	}
	return b
}

// maxRetry bounds the wait that an ack may ask for.
const maxRetry = time.Hour

// DecodeAck reads an ack.
func DecodeAck(b []byte) (a Ack, err error) {
	if a.Conn, a.Number, b, err = readHead(b); err != nil {
		return Ack{}, err
	}
	a.Code, a.Want, a.Done = Code(b[0]&codeMask), b[0]&ackWant != 0, b[0]&ackCursor == 0
	rest := b[1:]
	failed := false
	next := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			failed, rest = true, nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	a.Time, a.Newest = next()*uint64(time.Millisecond), next()
	if !a.Done {
		if len(rest) < positionLen {
			return Ack{}, ErrMessage
		}
		a.Cursor, rest = readPosition(rest), rest[positionLen:]
	}
	if len(rest) > 0 {
		a.Retry = time.Duration(min(next(), uint64(maxRetry.Milliseconds()))) * time.Millisecond
	}
	for len(rest) > 0 {
		reason := frame.Reason(rest[0])
		rest = rest[1:]
		a.Aside = append(a.Aside, AsideCount{reason, next()})
	}
	if failed {
		return Ack{}, ErrMessage
	}
	return a, nil
}
