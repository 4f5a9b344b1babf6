package main

import "github.com/sapflow/sapflow/shared/cli"

// reload reads the settings again and does what they say, as far as it is
// possible without a restart.
func (a *agent) reload() {
	if a.cfg.Reload == nil {
		return
	}
	cli.Reload(a.log, func() (cli.Live, []string, error) {
		cfg, changed, err := a.cfg.Reload()
		return cli.Live{LogLevel: cfg.LogLevel, Store: cfg.Store}, changed, err
	}, a.keeper.SetLimits)
}
