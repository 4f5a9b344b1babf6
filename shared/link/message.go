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
	Conn     uint64         // random, chosen by the gateway
	Version  uint8          // newest frame version that the sender reads
	Flush    time.Duration  // longest silence to expect, in ms on the wire
	Time     uint64         // the sender's estimate of hub time, ns
	Out      frame.Position // end of the log that the sender writes
	OutFirst uint64         // first number of it still held
	In       frame.Position // how much of the other's log the sender holds
}

const positionLen = 24

func appendPosition(b []byte, p frame.Position) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Epoch))
	b = binary.LittleEndian.AppendUint64(b, p.Seq)
	return binary.LittleEndian.AppendUint64(b, p.Sum)
}

func readPosition(b []byte) frame.Position {
	return frame.Position{
		Cursor: frame.Cursor{Epoch: frame.Epoch(binary.LittleEndian.Uint64(b)), Seq: binary.LittleEndian.Uint64(b[8:])},
		Sum:    binary.LittleEndian.Uint64(b[16:]),
	}
}

const helloLen = 8 + 1 + 4 + 8 + positionLen + 8 + positionLen

// Encode returns the bytes of the hello.
func (h *Hello) Encode() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, helloLen), h.Conn)
	b = append(b, h.Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Flush.Milliseconds()))
	b = binary.LittleEndian.AppendUint64(b, h.Time)
	b = appendPosition(b, h.Out)
	b = binary.LittleEndian.AppendUint64(b, h.OutFirst)
	return appendPosition(b, h.In)
}

// DecodeHello reads a hello. Bytes that follow belong to a later version.
func DecodeHello(b []byte) (Hello, error) {
	if len(b) < helloLen {
		return Hello{}, ErrMessage
	}
	return Hello{
		Conn:     binary.LittleEndian.Uint64(b),
		Version:  b[8],
		Flush:    time.Duration(binary.LittleEndian.Uint32(b[9:])) * time.Millisecond,
		Time:     binary.LittleEndian.Uint64(b[13:]),
		Out:      readPosition(b[21:]),
		OutFirst: binary.LittleEndian.Uint64(b[21+positionLen:]),
		In:       readPosition(b[29+positionLen:]),
	}, nil
}

// Parcel is a frame on its way, in a session.
type Parcel struct {
	Conn   uint64
	Number uint32 // from 1
	Want   bool   // the sender wants the heads of the other end
	Frame  *frame.Frame
	Fault  Code // why Frame is nil, at the receiver
}

const (
	parcelLen = 8 + 4 + 1
	flagWant  = 1
)

// Encode returns the bytes of the parcel.
func (p *Parcel) Encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, p.Conn)
	b = binary.LittleEndian.AppendUint32(b, p.Number)
	var flags byte
	if p.Want {
		flags |= flagWant
	}
	return append(append(b, flags), p.Frame.Encode()...)
}

// DecodeParcel reads a parcel whose log belongs to author. A frame that
// cannot be read leaves its reason in Fault.
func DecodeParcel(b []byte, author string) (Parcel, error) {
	if len(b) < parcelLen {
		return Parcel{}, ErrMessage
	}
	p := Parcel{
		Conn:   binary.LittleEndian.Uint64(b),
		Number: binary.LittleEndian.Uint32(b[8:]),
		Want:   b[12]&flagWant != 0,
	}
	f, err := frame.Decode(b[parcelLen:], author)
	switch {
	case errors.Is(err, frame.ErrVersion):
		p.Fault = Version
	case errors.Is(err, frame.ErrTooLarge):
		p.Fault = Size
	case err != nil:
		p.Fault = Damaged
	default:
		p.Frame = f
	}
	return p, nil
}

// Ack answers a parcel.
type Ack struct {
	Conn   uint64
	Number uint32
	Code   Code
	Retry  time.Duration  // for Rate, Busy and DiskFull, in ms on the wire
	Want   bool           // the receiver wants the heads of the other end
	Cursor frame.Position // how much of the log the receiver holds now
	Newest uint64         // newest number of the receiver's own log
	Time   uint64         // the receiver's estimate of hub time, ns
	Aside  []AsideCount   // points set aside
}

// AsideCount counts points that were set aside for one reason.
type AsideCount struct {
	Reason frame.Reason
	Count  uint64
}

// Encode returns the bytes of the ack.
func (a *Ack) Encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, a.Conn)
	b = binary.LittleEndian.AppendUint32(b, a.Number)
	var flags byte
	if a.Want {
		flags |= flagWant
	}
	b = append(b, byte(a.Code), flags)
	b = binary.LittleEndian.AppendUint64(b, a.Time)
	b = appendPosition(b, a.Cursor)
	b = binary.AppendUvarint(b, uint64(a.Retry.Milliseconds()))
	b = binary.AppendUvarint(b, a.Newest)
	for _, c := range a.Aside {
		b = binary.AppendUvarint(append(b, byte(c.Reason)), c.Count)
	}
	return b
}

const ackLen = 8 + 4 + 2 + 8 + positionLen

// maxRetry bounds the wait that an ack may ask for.
const maxRetry = time.Hour

// DecodeAck reads an ack.
func DecodeAck(b []byte) (Ack, error) {
	if len(b) < ackLen {
		return Ack{}, ErrMessage
	}
	a := Ack{
		Conn:   binary.LittleEndian.Uint64(b),
		Number: binary.LittleEndian.Uint32(b[8:]),
		Code:   Code(b[12]),
		Want:   b[13]&flagWant != 0,
		Time:   binary.LittleEndian.Uint64(b[14:]),
		Cursor: readPosition(b[22:]),
	}
	rest := b[ackLen:]
	next := func() (v uint64, ok bool) {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, false
		}
		rest = rest[n:]
		return v, true
	}
	retry, ok1 := next()
	newest, ok2 := next()
	if !ok1 || !ok2 {
		return Ack{}, ErrMessage
	}
	a.Retry = time.Duration(min(retry, uint64(maxRetry.Milliseconds()))) * time.Millisecond
	a.Newest = newest
	for len(rest) > 0 {
		reason := frame.Reason(rest[0])
		rest = rest[1:]
		n, ok := next()
		if !ok {
			return Ack{}, ErrMessage
		}
		a.Aside = append(a.Aside, AsideCount{reason, n})
	}
	return a, nil
}
