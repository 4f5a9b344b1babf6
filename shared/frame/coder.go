package frame

// coder is a binary range coder with adaptive probabilities. It works in
// either direction, so that the layout of a frame is described once: each
// method takes a value and returns it; when it decodes, it ignores what it was
// given and returns what it read.
type coder struct {
	decoding bool
	width    uint32 // of the interval that is left
	failed   bool   // decoding: the bytes say something impossible

	// Encoding.
	low   uint64 // lower end of the interval, with a carry in bit 32
	begun bool   // cache holds a byte
	cache byte   // last byte that a carry may still change
	held  int    // bytes 0xff behind it, which a carry would turn to 0
	out   []byte

	// Decoding.
	code uint32 // where in the interval the number that was read lies
	in   []byte
	next int // byte to read; behind the end follow zeros
}

const (
	coderTop   = 1 << 24 // below it the interval gets another byte
	coderBytes = 4       // that the decoder reads ahead
)

func encoder(out []byte) *coder {
	return &coder{width: 1<<32 - 1, out: out}
}

func decoder(in []byte) *coder {
	c := &coder{decoding: true, width: 1<<32 - 1, in: in}
	for range coderBytes {
		c.code = c.code<<8 | uint32(c.nextByte())
	}
	return c
}

func (c *coder) nextByte() byte {
	i := c.next
	c.next++
	if i < len(c.in) {
		return c.in[i]
	}
	return 0
}

// shift moves the highest byte of low out.
func (c *coder) shift() {
	if c.low < 0xff<<24 || c.low > 1<<32-1 { // settled: no carry can come any more, or it has come
		carry := byte(c.low >> 32)
		if c.begun {
			c.out = append(c.out, c.cache+carry)
		}
		for ; c.held > 0; c.held-- {
			c.out = append(c.out, 0xff+carry)
		}
		c.begun, c.cache = true, byte(c.low>>24)
	} else {
		c.held++
	}
	c.low = c.low << 8 & (1<<32 - 1)
}

// finish returns what was encoded, as short as it can be: trailing zeros are
// left out.
func (c *coder) finish() []byte {
	// The number of the interval with the most zeros at its end.
	for zeros := uint(32); ; zeros -= 8 {
		mask := uint64(1)<<zeros - 1
		if v := (c.low + mask) &^ mask; v < c.low+uint64(c.width) {
			c.low = v
			break
		}
	}
	for range coderBytes + 1 {
		c.shift()
	}
	n := len(c.out)
	for n > 0 && c.out[n-1] == 0 {
		n--
	}
	return c.out[:n]
}

// spent tells whether all bytes that were given have been used.
func (c *coder) spent() bool { return c.next >= len(c.in) }

// fail marks the input as impossible. What follows reads as zeros. A writer
// does not fail: what it writes beyond the limits a reader will refuse.
func (c *coder) fail() {
	if c.decoding {
		c.failed, c.in, c.code = true, nil, 0
	}
}

// prob is the probability of a 0, learnt from what came before. The zero
// value is one half.
type prob struct {
	off  int16  // from one half, in 1/65536
	seen uint16 // how often it was used, up to len(learn)-1
}

const (
	probHalf = 1 << 15
	probEdge = 48 // the least probability
)

// learn holds how far a probability moves towards what it has seen, in
// 1/65536: far at first, little later.
var learn = func() (t [60]int32) {
	for i := range t {
		t[i] = int32(65536 / (float64(i) + 1.6))
	}
	return t
}()

// bit codes one decision.
func (c *coder) bit(p *prob, b uint) uint {
	zero := int32(p.off) + probHalf
	bound := (c.width >> 16) * uint32(zero)
	if c.decoding {
		b = 0
		if c.code >= bound {
			b = 1
		}
	}
	rate := learn[p.seen]
	if int(p.seen) < len(learn)-1 {
		p.seen++
	}
	if b == 0 {
		c.width = bound
		p.off += int16((1<<16 - probEdge - zero) * (rate >> 1) >> 15)
	} else {
		if c.decoding {
			c.code -= bound
		} else {
			c.low += uint64(bound)
		}
		c.width -= bound
		p.off -= int16((zero - probEdge) * (rate >> 1) >> 15)
	}
	if c.width < coderTop {
		c.widen()
	}
	return b
}

// widen moves bytes out or in until the interval is wide enough again.
func (c *coder) widen() {
	for c.width < coderTop {
		c.width <<= 8
		if c.decoding {
			c.code = c.code<<8 | uint32(c.nextByte())
		} else {
			c.shift()
		}
	}
}

func (c *coder) flag(p *prob, b bool) bool {
	var v uint
	if b {
		v = 1
	}
	return c.bit(p, v) == 1
}

// plain codes the lowest n bits of v, of which nothing is known.
func (c *coder) plain(v uint64, n uint) (got uint64) {
	for n > 0 {
		k := min(n, 16)
		n -= k
		c.width >>= k
		if c.decoding {
			d := min(c.code/c.width, 1<<k-1)
			c.code -= d * c.width
			got = got<<k | uint64(d)
		} else {
			part := v >> n & (1<<k - 1)
			c.low += part * uint64(c.width)
			got = got<<k | part
		}
		c.widen()
	}
	return got
}

// tree codes a number of n bits, the highest first; ps has 1<<n entries.
func (c *coder) tree(ps []prob, n uint, v uint) uint {
	node := uint(1)
	for i := n; i > 0; {
		i--
		node = node<<1 | c.bit(&ps[node], v>>i&1)
	}
	return node - 1<<n
}

// u64 codes 8 bytes of which nothing is known.
func (c *coder) u64(v uint64) uint64 { return c.plain(v, 64) }
