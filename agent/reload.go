package main

import (
	"slices"

	"github.com/sapflow/sapflow/shared/cli"
)

// live are the settings that change without a restart.
var live = []string{"logLevel", "store.max", "store.maxAge"}

// reload reads the settings again and does what they say, as far as it is
// possible without a restart.
func (a *agent) reload() {
	if a.cfg.Reload == nil {
		return
	}
	cfg, changed, err := a.cfg.Reload()
	if err == nil {
		err = cli.SetLevel(cfg.LogLevel)
	}
	if err != nil {
		a.log.Error().Err(err).Msg("settings not read again, the old ones hold")
		return
	}
	a.keeper.SetLimits(cfg.Store.Max, cfg.Store.MaxAge)
	a.log.Info().Strs("changed", changed).Msg("settings read again")
	if later := slices.DeleteFunc(changed, func(key string) bool { return slices.Contains(live, key) }); len(later) > 0 {
		a.log.Warn().Strs("settings", later).Msg("these settings need a restart")
	}
}
