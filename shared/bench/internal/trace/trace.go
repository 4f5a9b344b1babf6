// Package trace owns the series that codecs and links are measured with: the
// recorded office and three generators. They were fixed before the codec was
// tuned and are not changed with it.
package trace

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// Generator makes points in the order in which a gateway logs them.
type Generator struct {
	Name string
	What string
	// Next returns the points of one second, all series in the same order.
	Next func() []frame.Entry
}

// Nodes is how many series a generator has.
const Nodes = 30

// Start is when the generators begin, a whole second.
const Start = uint64(1_700_000_000_000_000_000)

const (
	second = uint64(1_000_000_000)
	milli  = uint64(1_000_000)
)

// Seed is what the figures of RESULTS.md were made with.
const Seed = 20261124

// All returns the generators, new from the seed.
func All(seed uint64) []Generator { return []Generator{G1(seed), G2(seed), G3(seed)} }

// series returns names as an instance makes them: random ids of 16 characters.
func series(r *rand.Rand) (list [Nodes]point.Series) {
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	for i := range list {
		id := make([]byte, 16)
		for k := range id {
			id[k] = letters[r.IntN(len(letters))]
		}
		list[i] = point.Series{Node: string(id), Type: "value", Key: point.NoKey}
	}
	return list
}

// G1 is a pump station: 30 nodes at 1 Hz with a jitter of +-20 ms in whole
// milliseconds; 25 walks quantised to 0.01 of which 1 % of the values burst, 3
// counters, and short strings on one node each second and on one every other.
// Its zero-order entropy is about 1.1 bytes a point: 5.4 bits of jitter and
// 3.4 bits of value.
func G1(seed uint64) Generator {
	r := rand.New(rand.NewPCG(seed, 1))
	names := series(r)
	words := []string{"ok", "idle", "running", "ramp up", "ramp down", "fault E12", "fault E40", "service", "off"}
	var walks [Nodes]int // hundredths
	var counters [Nodes]uint64
	var states [Nodes]string
	for i := range Nodes {
		walks[i], counters[i], states[i] = 1500+r.IntN(8000), uint64(r.IntN(1_000_000)), words[0]
	}
	n := uint64(0)
	next := func() (list []frame.Entry) {
		for i := range Nodes {
			t := Start + n*second + uint64(r.IntN(41))*milli - 20*milli
			p := point.Point{Series: names[i], Time: t}
			switch {
			case i < 3:
				counters[i] += uint64(r.IntN(5))
				p.DataType, p.Data = point.Uint, binary.LittleEndian.AppendUint64(nil, counters[i])
			case i == 3, i == 4:
				if i == 4 && n%2 == 1 {
					continue
				}
				if r.IntN(10) == 0 {
					states[i] = words[r.IntN(len(words))]
				}
				p.DataType, p.Data = point.String, []byte(states[i])
			default:
				walks[i] += int(math.Round(r.NormFloat64() * 3))
				v := walks[i]
				if r.IntN(100) == 0 {
					v += r.IntN(2001) - 1000
				}
				p.DataType, p.Data = point.Float, point.FloatData(float64(v)/100)
			}
			list = append(list, frame.Entry{Point: p})
		}
		n++
		return list
	}
	return Generator{"g1", "30 nodes at 1 Hz, jitter, walks of 0.01, counters, strings, bursts", next}
}

// G2 is 30 doubles at 1 Hz that drift smoothly, with noise in the last digits.
func G2(seed uint64) Generator {
	r := rand.New(rand.NewPCG(seed, 2))
	names := series(r)
	var level, slope [Nodes]float64
	for i := range Nodes {
		level[i] = 10 + 90*r.Float64()
	}
	n := uint64(0)
	next := func() (list []frame.Entry) {
		for i := range Nodes {
			slope[i] = 0.99*slope[i] + r.NormFloat64()*1e-4
			level[i] += slope[i]
			v := level[i] + r.NormFloat64()*1e-6
			list = append(list, frame.Entry{Point: point.Point{
				Series: names[i], Time: Start + n*second, DataType: point.Float, Data: point.FloatData(v),
			}})
		}
		n++
		return list
	}
	return Generator{"g2", "30 drifting doubles at 1 Hz, noise in the last digits", next}
}

// G3 is 30 series of random 64 bits at 1 Hz, which no codec can shrink.
func G3(seed uint64) Generator {
	r := rand.New(rand.NewPCG(seed, 3))
	names := series(r)
	n := uint64(0)
	next := func() (list []frame.Entry) {
		for i := range Nodes {
			list = append(list, frame.Entry{Point: point.Point{
				Series: names[i], Time: Start + n*second, DataType: point.Float,
				Data: binary.LittleEndian.AppendUint64(nil, r.Uint64()),
			}})
		}
		n++
		return list
	}
	return Generator{"g3", "30 series of random 64 bits at 1 Hz", next}
}

// Points returns the next n points of a generator.
func (g *Generator) Points(n int) []frame.Entry {
	var list []frame.Entry
	for len(list) < n {
		list = append(list, g.Next()...)
	}
	return list[:n:n]
}

// String names a generator.
func (g *Generator) String() string { return fmt.Sprintf("%s: %s", g.Name, g.What) }
