package main

import "github.com/sapflow/sapflow/shared/cli"

// reload reads the settings again and does what they say, as far as it is
// possible without a restart.
func (h *hub) reload() {
	if h.cfg.Reload == nil {
		return
	}
	cli.Reload(h.log, func() (cli.Live, []string, error) {
		cfg, changed, err := h.cfg.Reload()
		return cli.Live{LogLevel: cfg.LogLevel, Store: cfg.Store}, changed, err
	}, h.keeper.SetLimits)
}
