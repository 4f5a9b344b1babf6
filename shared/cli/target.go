package cli

import (
	"context"
	"os"
	"strings"

	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// Environment variables that lead to an instance when no flag does.
const (
	envData  = "SAPFLOW_DATA"
	envURL   = "SAPFLOW_URL"
	envCreds = "SAPFLOW_CREDS"
)

// Target are the flags that say which running instance a command is for.
type Target struct {
	Data  string `help:"Data directory of the instance ($$SAPFLOW_DATA)." placeholder:"DIR"`
	URL   string `name:"url" help:"NATS address of the instance, instead of --data ($$SAPFLOW_URL)." placeholder:"nats://HOST:PORT"`
	Creds string `help:"Credentials file, with --url ($$SAPFLOW_CREDS)." placeholder:"FILE"`
}

// Dir returns the data directory of the instance, "" if it is reached by an
// address.
func (t Target) Dir() string {
	if t.URL == "" && t.Data == "" && os.Getenv(envURL) == "" {
		return os.Getenv(envData)
	}
	return t.Data
}

// Dial connects to the instance: a flag counts before the environment, an
// address before a directory.
func (t Target) Dial(ctx context.Context) (*client.Client, error) {
	if t.URL == "" && t.Data == "" {
		t.URL, t.Data = os.Getenv(envURL), os.Getenv(envData)
	}
	if t.Creds == "" {
		t.Creds = os.Getenv(envCreds)
	}
	switch {
	case t.URL != "":
		return client.Connect(ctx, client.Config{URL: t.URL, Creds: t.Creds})
	case t.Data != "":
		return client.Dial(ctx, t.Data)
	}
	return nil, Usagef("which instance? Give --data DIR, or --url and --creds")
}

// Do connects, runs f and disconnects.
func (t Target) Do(ctx context.Context, f func(*client.Client) error) error {
	c, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}

// node returns the id of the node that people call name, the root for "".
func node(ctx context.Context, c *client.Client, name string) (string, error) {
	if name == "" {
		return c.Root(ctx)
	}
	return c.Resolve(ctx, name)
}

// seriesOf returns the series of a node that TYPE[/KEY] names.
func seriesOf(node, typeKey string) (point.Series, error) {
	s := point.Series{Node: node, Key: point.NoKey}
	var keyed bool
	if s.Type, s.Key, keyed = strings.Cut(typeKey, "/"); !keyed {
		s.Key = point.NoKey
	}
	return s, Usage(point.CheckSeries(s))
}
