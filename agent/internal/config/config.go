// Package config owns the settings of the agent and where they come from: a
// flag counts before the environment (SAPFLOW_*), that before the YAML file,
// that before the default. What the settings do belongs to run.
package config

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/cli"
)

// The defaults.
const (
	DefaultListen   = "127.0.0.1:4222"
	DefaultMetrics  = "127.0.0.1:9464"
	DefaultLogLevel = "info"

	DefaultSnapshotEvery = 10 * time.Minute
	// DefaultStoreTail is some 3 hours of 30 points a second and up to 6 MB:
	// then a chunk is full at once, and is seldom written again.
	DefaultStoreTail = 384 << 10
)

// Config says how an agent runs.
type Config struct {
	// Data is the directory of all that the agent stores, identity included;
	// required.
	Data string
	// Listen is host:port where local programs connect by NATS, port 0 for a
	// free one; default 127.0.0.1:4222.
	Listen string
	// ListenGiven tells that somebody chose Listen: if it is taken that is an
	// error. The default moves to a free port.
	ListenGiven bool
	// CommitEvery is how often points are made durable that nobody waits for;
	// default 0, by the gateway's plan.
	CommitEvery time.Duration
	// Store says how much is stored.
	Store cli.StoreConfig
	// SnapshotEvery is how often the state is written besides at a stop;
	// default 10 min. It costs flash, and bounds how much of the logs a start
	// after a crash reads.
	SnapshotEvery time.Duration
	// Proxy is an HTTP proxy on the way to the hub; default nil, by HTTPS_PROXY
	// and NO_PROXY. It may hold a password.
	Proxy *url.URL
	// Metrics is host:port of /metrics, /healthz and /readyz, port 0 for a free
	// one; default 127.0.0.1:9464. It must be on loopback.
	Metrics string
	// MetricsGiven tells that somebody chose Metrics: if it is taken that is an
	// error. The default moves to a free port.
	MetricsGiven bool
	// LogLevel is debug, info, warn or error; default info.
	LogLevel string

	// Reload loads the settings again, for SIGHUP, and tells which of the file
	// have changed; main sets it.
	Reload func() (Config, []string, error)
	// Log gets what the agent has to say; the zero value is silent. Main sets
	// it.
	Log zerolog.Logger
	// Version is what the agent calls itself; main sets it.
	Version string
}

// Settings are settings as a person gives them, by flag, environment or file:
// nil where nothing was said. Its tags are for kong and for YAML.
type Settings struct {
	Data          *string           `yaml:"data" env:"SAPFLOW_DATA" placeholder:"DIR" help:"Directory of all that the agent stores."`
	Listen        *string           `yaml:"listen" env:"SAPFLOW_LISTEN" placeholder:"127.0.0.1:4222" help:"Address where local programs connect by NATS. The default moves to a free port when it is taken."`
	CommitEvery   *time.Duration    `yaml:"commitEvery" env:"SAPFLOW_COMMIT_EVERY" placeholder:"10s" help:"How often points are made durable that nobody waits for, by the gateway's plan by default."`
	SnapshotEvery *time.Duration    `yaml:"snapshotEvery" env:"SAPFLOW_SNAPSHOT_EVERY" placeholder:"10m" help:"How often the state is written besides at a stop; a start after a crash reads what came since."`
	Proxy         *string           `yaml:"proxy" env:"SAPFLOW_PROXY" placeholder:"URL" help:"HTTP proxy on the way to the hub, by HTTPS_PROXY and NO_PROXY by default. Keep a password out of the command line: others can read that."`
	Store         cli.StoreSettings `yaml:"store" embed:"" prefix:"store-"`
	Metrics       *string           `yaml:"metrics" env:"SAPFLOW_METRICS" placeholder:"127.0.0.1:9464" help:"Address of /metrics, /healthz and /readyz, on this machine. The default moves to a free port when it is taken."`
	LogLevel      *string           `yaml:"logLevel" env:"SAPFLOW_LOG_LEVEL" placeholder:"info" help:"debug, info, warn or error."`
}

// Load completes what flags and environment gave with the YAML file at path,
// if it is not "", and the defaults, and checks it.
func (s Settings) Load(path string) (Config, error) {
	var f Settings
	if path != "" {
		if err := cli.ReadSettings(path, &f); err != nil {
			return Config{}, err
		}
	}
	c := Config{
		Data:          cli.First("", s.Data, f.Data),
		Listen:        cli.First(DefaultListen, s.Listen, f.Listen),
		ListenGiven:   s.Listen != nil || f.Listen != nil,
		CommitEvery:   cli.First(0, s.CommitEvery, f.CommitEvery),
		SnapshotEvery: cli.First(DefaultSnapshotEvery, s.SnapshotEvery, f.SnapshotEvery),
		Metrics:       cli.First(DefaultMetrics, s.Metrics, f.Metrics),
		MetricsGiven:  s.Metrics != nil || f.Metrics != nil,
		LogLevel:      cli.First(DefaultLogLevel, s.LogLevel, f.LogLevel),
	}
	c.Store = s.Store.Load(f.Store, DefaultStoreTail)
	var err error
	if c.Proxy, err = parseProxy(cli.First("", s.Proxy, f.Proxy)); err != nil {
		return Config{}, cli.Locate(path, s, err)
	}
	return c, cli.Locate(path, s, c.check())
}

// Reloader returns a function that loads the settings again and tells which of
// the file at path have changed since it was last read.
func (s Settings) Reloader(path string) func() (Config, []string, error) {
	return cli.Reloader[Settings](path, s.Load)
}

// parseProxy reads the address of a proxy, nil for "". Its error does not show
// the address, which may hold a password.
func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, cli.BadSetting("proxy", "is not an address such as http://user:password@proxy.example.com:3128")
	}
	return u, nil
}

func (c Config) check() error {
	if c.Data == "" {
		return errors.New("where does the agent store? Give --data DIR")
	}
	if c.CommitEvery < 0 {
		return cli.BadSetting("commitEvery", "is %s, it must not be negative", c.CommitEvery)
	}
	if c.SnapshotEvery <= 0 {
		return cli.BadSetting("snapshotEvery", "is %s, it must be more than 0", c.SnapshotEvery)
	}
	return errors.Join(c.Store.Check(), cli.CheckLevel(c.LogLevel), cli.CheckAddress("listen", c.Listen), cli.CheckAddress("metrics", c.Metrics))
}

// First is what a file says about the first contact with a hub.
type First struct {
	// URL is the address of the hub, http or https, required.
	URL string `yaml:"url"`
	// Token is the claim token; without one the hub must know the key.
	Token string `yaml:"token"`
	// Pin is the certificate of the hub, sha256:<hex>; default none, the
	// system's authorities are trusted.
	Pin string `yaml:"pin"`
	// CA is a file with the authorities to trust.
	CA string `yaml:"ca"`
	// Name and Plan are what the gateway would like to be.
	Name string `yaml:"name"`
	Plan string `yaml:"plan"`
	// Insecure allows plain http beyond this machine.
	Insecure bool `yaml:"insecure"`
}

// String hides the token.
func (f First) String() string { return "first contact with " + f.URL }

// GoString hides the token.
func (f First) GoString() string { return f.String() }

// ReadFirst reads such a file.
func ReadFirst(path string) (First, error) {
	var f First
	if err := cli.ReadSettings(path, &f); err != nil {
		return f, err
	}
	if f.URL == "" {
		return f, fmt.Errorf("%s: url is missing, the address of the hub", path)
	}
	return f, nil
}
