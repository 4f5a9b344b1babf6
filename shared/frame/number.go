package frame

import "math/bits"

// number learns how large numbers are: the class (the number of bits) of one
// that is expected near a middle class takes few decisions, and so do the
// highest bits below the leading one. The rest is taken as it is.
type number struct {
	class [1 << classBits]prob
	far   [1 << farBits]prob // classes outside the window
	sign  [3]prob
	high  [1 << classBits][1 << highBits]prob
}

const (
	classBits = 4
	highBits  = 3
	farBits   = 7
	window    = 1<<classBits - 1 // classes that the tree tells apart; its last leaf is all others
)

// unsigned codes v; the classes around middle are told apart best.
func (m *number) unsigned(c *coder, v uint64, middle int) uint64 {
	base := uint(max(0, min(middle-window/2-2, 64-window+1)))
	k := uint(bits.Len64(v))
	leaf := k - base
	if leaf >= window { // k < base wraps
		leaf = window
	}
	leaf = c.tree(m.class[:], classBits, leaf)
	if leaf < window {
		k = base + leaf
	} else if k = c.tree(m.far[:], farBits, k); k > 64 {
		c.fail()
		return 0
	}
	if k < 2 {
		return uint64(k)
	}
	return 1<<(k-1) | m.mantissa(c, v, k-1, leaf)
}

// mantissa codes the n bits below the leading one.
func (m *number) mantissa(c *coder, v uint64, n, leaf uint) uint64 {
	h := min(n, highBits)
	rest := n - h
	top := uint64(c.tree(m.high[leaf][:], h, uint(v>>rest)&(1<<h-1)))
	return top<<rest | c.plain(v, rest)
}

// signed codes v, positive and negative alike.
func (m *number) signed(c *coder, v int64, middle int) int64 {
	size := m.unsigned(c, abs(v), middle)
	if size == 0 {
		return 0
	}
	if c.flag(&m.sign[min(bits.Len64(size), len(m.sign))-1], v < 0) {
		return -int64(size)
	}
	return int64(size)
}
