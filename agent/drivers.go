package main

import (
	"context"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/agent/internal/driver/host"
	"github.com/sapflow/sapflow/agent/internal/driver/influx"
	"github.com/sapflow/sapflow/agent/internal/driver/modbus"
	"github.com/sapflow/sapflow/agent/internal/driver/simulate"
)

// newDrivers makes what runs drivers, which hears of every change from then on.
func (a *agent) newDrivers(context.Context) error {
	a.drivers = driver.New(driver.Config{
		Instance: a.bus, Now: a.clock.Now,
		Kinds: []driver.Kind{host.Kind(host.Config{}), influx.Kind(), modbus.Kind(), simulate.Kind()},
		Log:   a.log.With().Str("component", "driver").Logger(),
	})
	return nil
}

// startDrivers lets them measure, once what they measure can be stored.
func (a *agent) startDrivers(context.Context) error {
	a.stages.Start("drivers", a.drivers.Run)
	return nil
}
