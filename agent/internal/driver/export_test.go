package driver

import (
	"maps"
	"slices"
)

// Live returns the nodes whose drivers run or are ending.
func (m *Manager) Live() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(m.running)), maps.Keys(m.stopping))
}
