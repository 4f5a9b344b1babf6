package main

import (
	"slices"

	"github.com/sapflow/sapflow/shared/cli"
)

// live are the settings that change without a restart.
var live = []string{"logLevel", "store.max", "store.maxAge"}

// reload reads the settings again and does what they say, as far as it is
// possible without a restart.
func (h *hub) reload() {
	if h.cfg.Reload == nil {
		return
	}
	cfg, changed, err := h.cfg.Reload()
	if err == nil {
		err = cli.SetLevel(cfg.LogLevel)
	}
	if err != nil {
		h.log.Error().Err(err).Msg("settings not read again, the old ones hold")
		return
	}
	h.keeper.SetLimits(cfg.Store.Max, cfg.Store.MaxAge)
	h.log.Info().Strs("changed", changed).Msg("settings read again")
	if later := slices.DeleteFunc(changed, func(key string) bool { return slices.Contains(live, key) }); len(later) > 0 {
		h.log.Warn().Strs("settings", later).Msg("these settings need a restart")
	}
}
