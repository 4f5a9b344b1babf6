package door

import "maps"

// Infos returns what each gate knows about its gateway, by id.
func (d *Door) Infos() map[string]Info {
	d.mu.Lock()
	gates := maps.Clone(d.gates)
	d.mu.Unlock()
	infos := make(map[string]Info, len(gates))
	for id, g := range gates {
		infos[id] = g.Info()
	}
	return infos
}
