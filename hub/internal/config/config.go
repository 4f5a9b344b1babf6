// Package config owns the settings of the hub and where they come from: a
// flag counts before the environment (SAPFLOW_*), that before the YAML file,
// that before the default. What the settings do belongs to run.
package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/shared/cli"
)

// The defaults: everything on loopback.
const (
	DefaultHTTP          = "127.0.0.1:8080"
	DefaultLeaf          = "127.0.0.1:7422"
	DefaultListen        = "127.0.0.1:4223"
	DefaultMaxPerSubject = 1000
	DefaultMetrics       = "127.0.0.1:9465"
	DefaultCredentialTTL = 30 * 24 * time.Hour
	DefaultLogLevel      = "info"
	DefaultStoreTail     = 1 << 20 // up to 16 MB
)

// The defaults of what one gateway may do: far above what one does that is at
// work, below what would take the hub from the others. A backlog comes at the
// speed of any radio: 100,000 points a second are 1 to 2 Mbit/s.
const (
	DefaultMaxBytes  = 2_000_000
	DefaultMaxPoints = 100_000
	DefaultMaxNodes  = 2_000
	DefaultMaxSeries = 200_000
)

// Config says how a hub runs.
type Config struct {
	// Data is the directory of all that the hub stores, required.
	Data string
	// HTTP is host:port of the web and of enrolment, port 0 for a free one;
	// default 127.0.0.1:8080.
	HTTP string
	// Leaf is host:port where gateways connect, port 0 for a free one; default
	// 127.0.0.1:7422.
	Leaf string
	// Listen is host:port where programs connect by NATS, port 0 for a free
	// one; default 127.0.0.1:4223.
	Listen string
	// ListenGiven tells that somebody chose Listen: if it is taken that is an
	// error. The default moves to a free port.
	ListenGiven bool
	// LeafAdvertise is the URL that an enrolled gateway is told to dial, to be
	// set when gateways reach Leaf through a load balancer or a tunnel;
	// default the address of Leaf.
	LeafAdvertise string
	// HTTPAdvertise is the URL that enrol lines show; default the address of
	// HTTP.
	HTTPAdvertise string
	// TLSCert and TLSKey are PEM files for Leaf and HTTP, both or none; default
	// none: plain on loopback, beyond it the hub's own certificate, which enrol
	// lines pin.
	TLSCert, TLSKey string
	// TLSOwn uses the hub's own certificate on loopback too; default false.
	TLSOwn bool
	// Insecure is plain beyond loopback as well; default false.
	Insecure bool
	// KeysFile is a file with the keys, such as a mounted secret; default none,
	// they lie in Data.
	KeysFile string
	// CredentialTTL is how long the credential of a gateway is good; default
	// 30 days, which is the most. It is renewed when two thirds of it are over.
	CredentialTTL time.Duration
	// Reenroll lets a gateway whose credential has ended have a new one for
	// proving its key; default false: it waits until somebody accepts it.
	Reenroll bool
	// NodeStreams says how the points of nodes lie in streams.
	NodeStreams NodeStreams
	// Limits bound what one gateway may do.
	Limits Limits
	// Store says how much is stored.
	Store cli.StoreConfig
	// Metrics is host:port of /metrics, /healthz and /readyz, port 0 for a free
	// one; default 127.0.0.1:9465. Whoever reaches it sees names of gateways.
	Metrics string
	// MetricsGiven tells that somebody chose Metrics: if it is taken that is an
	// error. The default moves to a free port.
	MetricsGiven bool
	// LogLevel is debug, info, warn or error; default info.
	LogLevel string

	// Reload loads the settings again, for SIGHUP, and tells which of the file
	// have changed; main sets it.
	Reload func() (Config, []string, error)
	// Log gets what the hub has to say; the zero value is silent. Main sets it.
	Log zerolog.Logger
	// Version is what the hub calls itself; main sets it.
	Version string
}

// NodeStreams says how the points of nodes lie in streams.
type NodeStreams struct {
	// Layout is node, shard or none, chosen when the hub is created; "" is what the
	// hub has, and node for a new one.
	Layout string
	// MaxPerSubject is how many points each series keeps in a stream of its
	// node, at least 1; default 1000.
	MaxPerSubject int
}

// Limits bound what one gateway may do; 0 is no bound.
type Limits struct {
	// Bytes and Points are of frames, a second, of which it may save up 10 s;
	// default 2,000,000 and 100,000.
	Bytes, Points int
	// Nodes and Series are below it, those included that it has removed; default
	// 2,000 and 200,000.
	Nodes, Series int
}

// Settings are settings as a person gives them, by flag, environment or file:
// nil where nothing was said. Its tags are for kong and for YAML.
type Settings struct {
	Data          *string             `yaml:"data" env:"SAPFLOW_DATA" placeholder:"DIR" help:"Directory of all that the hub stores."`
	HTTP          *string             `yaml:"http" name:"http" env:"SAPFLOW_HTTP" placeholder:"127.0.0.1:8080" help:"Address of the web and of enrolment."`
	Leaf          *string             `yaml:"leaf" env:"SAPFLOW_LEAF" placeholder:"127.0.0.1:7422" help:"Address where gateways connect."`
	Listen        *string             `yaml:"listen" env:"SAPFLOW_LISTEN" placeholder:"127.0.0.1:4223" help:"Address where programs connect by NATS. The default moves to a free port when it is taken."`
	LeafAdvertise *string             `yaml:"leafAdvertise" env:"SAPFLOW_LEAF_ADVERTISE" placeholder:"URL" help:"What an enrolled gateway is told to dial, instead of the address of --leaf."`
	HTTPAdvertise *string             `yaml:"httpAdvertise" name:"http-advertise" env:"SAPFLOW_HTTP_ADVERTISE" placeholder:"URL" help:"What enrol lines show, instead of the address of --http."`
	TLSCert       *string             `yaml:"tlsCert" name:"tls-cert" env:"SAPFLOW_TLS_CERT" placeholder:"FILE" help:"Certificate in PEM."`
	TLSKey        *string             `yaml:"tlsKey" name:"tls-key" env:"SAPFLOW_TLS_KEY" placeholder:"FILE" help:"Key of the certificate in PEM."`
	TLSOwn        *bool               `yaml:"tlsOwn" name:"tls-own" env:"SAPFLOW_TLS_OWN" help:"Use the hub's own certificate on this machine too; without --tls-cert it is used beyond it anyway."`
	Insecure      *bool               `yaml:"insecure" env:"SAPFLOW_INSECURE" help:"No TLS beyond this machine: others on the way see tokens and points."`
	KeysFile      *string             `yaml:"keysFile" env:"SAPFLOW_KEYS_FILE" placeholder:"FILE" help:"File with the keys as keys show prints them, such as a mounted secret; or the text in SAPFLOW_KEYS. In --data by default."`
	CredentialTTL *cli.Span           `yaml:"credentialTTL" name:"credential-ttl" env:"SAPFLOW_CREDENTIAL_TTL" placeholder:"30d" help:"How long the credential of a gateway is good, 30d at most. It is renewed when two thirds are over."`
	Reenroll      *bool               `yaml:"reenroll" env:"SAPFLOW_REENROLL" help:"Let a gateway that was away until its credential ended have a new one; else it waits for device accept."`
	NodeStreams   NodeStreamsSettings `yaml:"nodeStreams" embed:"" prefix:"node-streams-"`
	Limits        LimitsSettings      `yaml:"limits" embed:"" prefix:"limits-"`
	Store         cli.StoreSettings   `yaml:"store" embed:"" prefix:"store-"`
	Metrics       *string             `yaml:"metrics" env:"SAPFLOW_METRICS" placeholder:"127.0.0.1:9465" help:"Address of /metrics, /healthz and /readyz, without TLS. The default moves to a free port when it is taken."`
	LogLevel      *string             `yaml:"logLevel" env:"SAPFLOW_LOG_LEVEL" placeholder:"info" help:"debug, info, warn or error."`
}

// NodeStreamsSettings are settings for NodeStreams.
type NodeStreamsSettings struct {
	Layout        *string `yaml:"layout" env:"SAPFLOW_NODE_STREAMS_LAYOUT" placeholder:"node" help:"Of a new hub: node, two streams for every node, shard, a fixed number that nodes share, or none."`
	MaxPerSubject *int    `yaml:"maxPerSubject" env:"SAPFLOW_NODE_STREAMS_MAX_PER_SUBJECT" placeholder:"1000" help:"Points of each series that the streams of a node keep."`
}

// LimitsSettings are settings for Limits.
type LimitsSettings struct {
	Bytes  *cli.Size `yaml:"bytes" env:"SAPFLOW_LIMITS_BYTES" placeholder:"2MB" help:"What one gateway may send a second, on average over 10 s. 0 is no limit, here and below."`
	Points *int      `yaml:"points" env:"SAPFLOW_LIMITS_POINTS" placeholder:"100000" help:"Points that one gateway may send a second, on average over 10 s."`
	Nodes  *int      `yaml:"nodes" env:"SAPFLOW_LIMITS_NODES" placeholder:"2000" help:"Nodes that may be below one gateway, those included that it has removed."`
	Series *int      `yaml:"series" env:"SAPFLOW_LIMITS_SERIES" placeholder:"200000" help:"Values (node, type and key) that one gateway and the nodes below it may have."`
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
		HTTP:          cli.First(DefaultHTTP, s.HTTP, f.HTTP),
		Leaf:          cli.First(DefaultLeaf, s.Leaf, f.Leaf),
		Listen:        cli.First(DefaultListen, s.Listen, f.Listen),
		ListenGiven:   s.Listen != nil || f.Listen != nil,
		LeafAdvertise: cli.First("", s.LeafAdvertise, f.LeafAdvertise),
		HTTPAdvertise: cli.First("", s.HTTPAdvertise, f.HTTPAdvertise),
		TLSOwn:        cli.First(false, s.TLSOwn, f.TLSOwn),
		Insecure:      cli.First(false, s.Insecure, f.Insecure),
		KeysFile:      cli.First("", s.KeysFile, f.KeysFile),
		TLSCert:       cli.First("", s.TLSCert, f.TLSCert),
		TLSKey:        cli.First("", s.TLSKey, f.TLSKey),
		CredentialTTL: time.Duration(cli.First(cli.Span(DefaultCredentialTTL), s.CredentialTTL, f.CredentialTTL)),
		Reenroll:      cli.First(false, s.Reenroll, f.Reenroll),
		NodeStreams: NodeStreams{
			Layout:        cli.First("", s.NodeStreams.Layout, f.NodeStreams.Layout),
			MaxPerSubject: cli.First(DefaultMaxPerSubject, s.NodeStreams.MaxPerSubject, f.NodeStreams.MaxPerSubject),
		},
		Limits: Limits{
			Bytes:  int(cli.First(DefaultMaxBytes, s.Limits.Bytes, f.Limits.Bytes)),
			Points: cli.First(DefaultMaxPoints, s.Limits.Points, f.Limits.Points),
			Nodes:  cli.First(DefaultMaxNodes, s.Limits.Nodes, f.Limits.Nodes),
			Series: cli.First(DefaultMaxSeries, s.Limits.Series, f.Limits.Series),
		},
		Metrics:      cli.First(DefaultMetrics, s.Metrics, f.Metrics),
		MetricsGiven: s.Metrics != nil || f.Metrics != nil,
		LogLevel:     cli.First(DefaultLogLevel, s.LogLevel, f.LogLevel),
	}
	c.Store = s.Store.Load(f.Store, DefaultStoreTail)
	return c, cli.Locate(path, s, c.check())
}

// Reloader returns a function that loads the settings again and tells which of
// the file at path have changed since it was last read.
func (s Settings) Reloader(path string) func() (Config, []string, error) {
	return cli.Reloader[Settings](path, s.Load)
}

func (c Config) check() error {
	if c.Data == "" {
		return errors.New("where does the hub store? Give --data DIR")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("a certificate needs its key, and a key its certificate: give --tls-cert and --tls-key")
	}
	if c.Insecure && (c.TLSCert != "" || c.TLSOwn) {
		return errors.New("insecure means no TLS: leave out --tls-cert and --tls-own, or --insecure")
	}
	if l := c.NodeStreams.Layout; l != "" && l != "node" && l != "shard" && l != "none" {
		return cli.BadSetting("nodeStreams.layout", "is %q, it must be node, shard or none", l)
	}
	if c.CredentialTTL < time.Second || c.CredentialTTL > DefaultCredentialTTL {
		return cli.BadSetting("credentialTTL", "is %s, it must be within 1s and 30d", c.CredentialTTL)
	}
	if c.NodeStreams.MaxPerSubject < 1 {
		return cli.BadSetting("nodeStreams.maxPerSubject", "is %d, it must be at least 1", c.NodeStreams.MaxPerSubject)
	}
	return errors.Join(
		c.Limits.check(), c.Store.Check(), cli.CheckLevel(c.LogLevel), cli.CheckAddress("http", c.HTTP), cli.CheckAddress("leaf", c.Leaf), cli.CheckAddress("listen", c.Listen), cli.CheckAddress("metrics", c.Metrics),
	)
}

// A rate is at least what the largest frame takes in 10 s.
const (
	leastBytes  = 25_000
	leastPoints = 4_000
	maxLimit    = 1_000_000_000
)

func (l Limits) check() error {
	for name, v := range map[string]struct{ have, least int }{
		"bytes": {l.Bytes, leastBytes}, "points": {l.Points, leastPoints}, "nodes": {l.Nodes, 1}, "series": {l.Series, 1},
	} {
		if v.have != 0 && v.have < v.least || v.have > maxLimit {
			return cli.BadSetting("limits."+name, "is %d, it must be 0, for none, or %d to %d", v.have, v.least, maxLimit)
		}
	}
	return nil
}

// Told returns the settings as the record of changes shows them. None of them
// is a secret.
func (c Config) Told() map[string]string {
	return map[string]string{
		"http": c.HTTP, "leaf": c.Leaf, "listen": c.Listen, "leafAdvertise": c.LeafAdvertise, "httpAdvertise": c.HTTPAdvertise,
		"tlsCert": c.TLSCert, "tlsOwn": fmt.Sprint(c.TLSOwn), "insecure": fmt.Sprint(c.Insecure), "keysFile": c.KeysFile,
		"credentialTTL": c.CredentialTTL.String(), "reenroll": fmt.Sprint(c.Reenroll),
		"storeMax": fmt.Sprint(c.Store.Max), "storeMaxAge": c.Store.MaxAge.String(), "logLevel": c.LogLevel, "version": c.Version,
	}
}
