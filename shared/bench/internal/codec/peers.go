package codec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// milli is a millisecond of a point's time.
const milli = 1_000_000

func millis(e *frame.Entry) int64 { return int64(e.Time / milli) }

// entry makes a point again.
func (n *numbers) entry(number uint64, ms int64, dt point.DataType, data []byte) (frame.Entry, error) {
	if number >= uint64(len(n.list)) {
		return frame.Entry{}, fmt.Errorf("series %d", number)
	}
	return frame.Entry{Point: point.Point{Series: n.list[number], Time: uint64(ms) * milli, DataType: dt, Data: data}}, nil
}

func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// A peer is packed with the best level of zstd where that is smaller, without
// its checksum; one byte tells.
const (
	plain  = 0
	packed = 1
)

var packer = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true))
})

var unpacker = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
})

func pack(b []byte) []byte {
	e, err := packer()
	if err != nil {
		panic(err) // options are constant
	}
	if small := e.EncodeAll(b, []byte{packed}); len(small) <= len(b) {
		return small
	}
	return append([]byte{plain}, b...)
}

func unpack(b []byte) ([]byte, error) {
	d, err := unpacker()
	if err != nil {
		return nil, err
	}
	if len(b) == 0 || b[0] == plain {
		return b[min(1, len(b)):], nil
	}
	return d.DecodeAll(b[1:], nil)
}

// reading is a point in JSON. A float that is no number goes as its bits.
type reading struct {
	Series uint64   `json:"s"`
	Time   int64    `json:"t"`
	Float  *float64 `json:"v,omitempty"`
	Bits   *uint64  `json:"b,omitempty"`
	Uint   *uint64  `json:"u,omitempty"`
	Text   *string  `json:"x,omitempty"`
}

func (n *numbers) reading(e *frame.Entry) reading {
	r := reading{Series: uint64(n.of[e.Series]), Time: millis(e)}
	if v, ok := e.Float64(); ok {
		if bits := math.Float64bits(v); math.IsNaN(v) || math.IsInf(v, 0) {
			r.Bits = &bits
		} else {
			r.Float = &v
		}
	} else if v, ok := e.Uint64(); ok {
		r.Uint = &v
	} else {
		text := string(e.Data)
		r.Text = &text
	}
	return r
}

func (n *numbers) fromReading(r *reading) (frame.Entry, error) {
	switch {
	case r.Float != nil:
		return n.entry(r.Series, r.Time, point.Float, point.FloatData(*r.Float))
	case r.Bits != nil:
		return n.entry(r.Series, r.Time, point.Float, word(*r.Bits))
	case r.Uint != nil:
		return n.entry(r.Series, r.Time, point.Uint, word(*r.Uint))
	case r.Text != nil:
		return n.entry(r.Series, r.Time, point.String, []byte(*r.Text))
	}
	return frame.Entry{}, errors.New("a reading without a value")
}

// jsonZstd is a list of readings.
func jsonZstd(n *numbers) codec {
	return codec{
		name: "JSON + zstd",
		encode: func(entries []frame.Entry) []byte {
			list := make([]reading, len(entries))
			for i := range entries {
				list[i] = n.reading(&entries[i])
			}
			b, err := json.Marshal(list)
			if err != nil {
				panic(err) // numbers and text always encode
			}
			return pack(b)
		},
		decode: func(b []byte) ([]frame.Entry, error) {
			b, err := unpack(b)
			if err != nil {
				return nil, err
			}
			var list []reading
			if err := json.Unmarshal(b, &list); err != nil {
				return nil, err
			}
			return n.fromReadings(nil, list)
		},
	}
}

func (n *numbers) fromReadings(entries []frame.Entry, list []reading) ([]frame.Entry, error) {
	for i := range list {
		e, err := n.fromReading(&list[i])
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Field numbers of
//
//	message Batch { repeated uint32 series = 1; repeated Point points = 2; }
//	message Point {
//	  uint32 series = 1;  // index into Batch.series
//	  sint64 time = 2;    // ms after the point before
//	  oneof value { double float = 3; uint64 uint = 4; string text = 5; }
//	}
const (
	batchSeries = 1
	batchPoints = 2
	pointSeries = 1
	pointTime   = 2
	pointFloat  = 3
	pointUint   = 4
	pointText   = 5
)

// protobuf is a list of points with the table of its series once.
func protobuf(n *numbers) codec {
	return codec{
		name: "protobuf + zstd",
		encode: func(entries []frame.Entry) []byte {
			var table []byte
			index := map[point.Series]uint64{}
			for i := range entries {
				s := entries[i].Series
				if _, known := index[s]; !known {
					index[s] = uint64(len(index))
					table = protowire.AppendVarint(table, uint64(n.of[s]))
				}
			}
			b := protowire.AppendBytes(protowire.AppendTag(nil, batchSeries, protowire.BytesType), table)
			var last int64
			var p []byte
			for i := range entries {
				e := &entries[i]
				p = p[:0]
				if k := index[e.Series]; k != 0 { // as proto3 leaves zeros out
					p = protowire.AppendVarint(protowire.AppendTag(p, pointSeries, protowire.VarintType), k)
				}
				if d := millis(e) - last; d != 0 {
					p = protowire.AppendVarint(protowire.AppendTag(p, pointTime, protowire.VarintType), protowire.EncodeZigZag(d))
					last += d
				}
				if v, ok := e.Float64(); ok {
					p = protowire.AppendFixed64(protowire.AppendTag(p, pointFloat, protowire.Fixed64Type), math.Float64bits(v))
				} else if v, ok := e.Uint64(); ok {
					p = protowire.AppendVarint(protowire.AppendTag(p, pointUint, protowire.VarintType), v)
				} else {
					p = protowire.AppendBytes(protowire.AppendTag(p, pointText, protowire.BytesType), e.Data)
				}
				b = protowire.AppendBytes(protowire.AppendTag(b, batchPoints, protowire.BytesType), p)
			}
			return pack(b)
		},
		decode: func(b []byte) ([]frame.Entry, error) {
			b, err := unpack(b)
			if err != nil {
				return nil, err
			}
			return n.fromBatch(b)
		},
	}
}

func (n *numbers) fromBatch(b []byte) (entries []frame.Entry, err error) {
	var table []uint64
	var last int64
	for len(b) > 0 {
		field, _, used := protowire.ConsumeTag(b)
		if used < 0 {
			return nil, protowire.ParseError(used)
		}
		b = b[used:]
		body, used := protowire.ConsumeBytes(b)
		if used < 0 {
			return nil, protowire.ParseError(used)
		}
		b = b[used:]
		if field == batchPoints {
			e, err := n.fromPoint(body, table, &last)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
			continue
		}
		for len(body) > 0 {
			v, used := protowire.ConsumeVarint(body)
			if used < 0 {
				return nil, protowire.ParseError(used)
			}
			table, body = append(table, v), body[used:]
		}
	}
	return entries, nil
}

func (n *numbers) fromPoint(b []byte, table []uint64, last *int64) (frame.Entry, error) {
	var series, v uint64
	dt, data := point.DataType(0), []byte(nil)
	for len(b) > 0 {
		field, kind, used := protowire.ConsumeTag(b)
		if used < 0 {
			return frame.Entry{}, protowire.ParseError(used)
		}
		b = b[used:]
		switch kind {
		case protowire.VarintType:
			v, used = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, used = protowire.ConsumeFixed64(b)
		default:
			data, used = protowire.ConsumeBytes(b)
		}
		if used < 0 {
			return frame.Entry{}, protowire.ParseError(used)
		}
		b = b[used:]
		switch field {
		case pointSeries:
			series = v
		case pointTime:
			*last += protowire.DecodeZigZag(v)
		case pointFloat:
			dt, data = point.Float, word(v)
		case pointUint:
			dt, data = point.Uint, word(v)
		case pointText:
			dt = point.String
		}
	}
	if series >= uint64(len(table)) {
		return frame.Entry{}, fmt.Errorf("index %d", series)
	}
	return n.entry(table[series], *last, dt, data)
}

// exact is the largest whole number below which a float holds every one.
const exact = 1 << 53

// xor holds each series as one XOR chunk of Prometheus: number of the series,
// kind, length, chunk. Counters up to 2^53 are in it as floats; what a float
// cannot hold, text and larger counters, lies behind the chunks as JSON.
func xor(n *numbers) codec {
	return codec{
		name: "Prometheus XOR + zstd",
		encode: func(entries []frame.Entry) []byte {
			type key struct {
				series int
				kind   point.DataType
			}
			var order []key
			chunks := map[key]*chunkenc.XORChunk{}
			appenders := map[key]chunkenc.Appender{}
			var rest []reading
			for i := range entries {
				e := &entries[i]
				v, ok := e.Float64()
				if u, isUint := e.Uint64(); isUint && u <= exact {
					v, ok = float64(u), true
				}
				if !ok {
					rest = append(rest, n.reading(e))
					continue
				}
				k := key{n.of[e.Series], e.DataType}
				a := appenders[k]
				if a == nil {
					c := chunkenc.NewXORChunk()
					var err error
					if a, err = c.Appender(); err != nil {
						panic(err) // only for a chunk that holds something
					}
					order, chunks[k], appenders[k] = append(order, k), c, a
				}
				a.Append(0, millis(e), v)
			}
			b := binary.AppendUvarint(nil, uint64(len(order)))
			for _, k := range order {
				c := chunks[k].Bytes()
				b = append(binary.AppendUvarint(b, uint64(k.series)), byte(k.kind))
				b = append(binary.AppendUvarint(b, uint64(len(c))), c...)
			}
			if len(rest) > 0 {
				side, err := json.Marshal(rest)
				if err != nil {
					panic(err) // numbers and text always encode
				}
				b = append(b, side...)
			}
			return pack(b)
		},
		decode: func(b []byte) ([]frame.Entry, error) {
			b, err := unpack(b)
			if err != nil {
				return nil, err
			}
			return n.fromChunks(b)
		},
	}
}

func (n *numbers) fromChunks(b []byte) (entries []frame.Entry, err error) {
	uvarint := func() uint64 {
		v, used := binary.Uvarint(b)
		if used <= 0 {
			err, used = errors.New("chunks are truncated"), len(b)
		}
		b = b[used:]
		return v
	}
	for count := uvarint(); count > 0; count-- {
		series := uvarint()
		if len(b) == 0 {
			return nil, errors.New("chunks are truncated")
		}
		kind := point.DataType(b[0])
		b = b[1:]
		size := uvarint()
		if err != nil || size > uint64(len(b)) {
			return nil, errors.New("chunks are truncated")
		}
		c, err := chunkenc.FromData(chunkenc.EncXOR, b[:size])
		if err != nil {
			return nil, err
		}
		b = b[size:]
		it := c.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			ms, v := it.At()
			data := point.FloatData(v)
			if kind == point.Uint {
				data = word(uint64(v))
			}
			e, err := n.entry(series, ms, kind, data)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
	}
	if len(b) == 0 || err != nil {
		return entries, err
	}
	var rest []reading
	if err := json.Unmarshal(b, &rest); err != nil {
		return nil, err
	}
	return n.fromReadings(entries, rest)
}
