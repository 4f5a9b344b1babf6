package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/client"
)

// keysCmd are the commands below `keys`.
type keysCmd struct {
	Show  keysShow  `cmd:"" help:"Print all secret keys of a hub, for a backup."`
	Check keysCheck `cmd:"" help:"Tell which keys a hub has and what is wrong with them."`
	Roll  keysRoll  `cmd:"" help:"Replace the keys that sign the credentials of gateways."`
}

// keyFiles say where the keys of a hub are.
type keyFiles struct {
	Data     string `required:"" env:"SAPFLOW_DATA" placeholder:"DIR" help:"Directory of the hub."`
	KeysFile string `env:"SAPFLOW_KEYS_FILE" placeholder:"FILE" help:"File with the keys, where they lie outside of it."`
}

func (k keyFiles) dir() string { return filepath.Join(k.Data, keysDir) }

// keysDir is where a data directory has its keys.
const keysDir = "keys"

// keySource returns where keys from outside are: in a file, or in the
// environment, which no flag can be for, as others see the arguments of a
// process.
func keySource(file string) cred.Source {
	if file != "" {
		return cred.Source{File: file}
	}
	return cred.Source{Text: os.Getenv("SAPFLOW_KEYS")}
}

type keysShow struct{ keyFiles }

// Help says what to do with it.
func (keysShow) Help() string {
	return "Whoever has them can make gateways: keep them as you keep a password. `serve --keys-file FILE` and SAPFLOW_KEYS take what is printed.\n\n" +
		"Example:\n\n    sapflow-hub keys show --data ./hub | age -r AGE1... >hub-keys.age"
}

// Run prints the keys.
func (k keysShow) Run(out *cli.Out) error {
	text, err := cred.Show(k.dir())
	if err != nil {
		return err
	}
	if cli.IsTerminal(out.Writer) {
		out.Notef("These are secrets. They are on the screen now.")
	}
	return out.Println(string(text))
}

type keysCheck struct {
	keyFiles
	JSON bool `name:"json" help:"Print JSON."`
}

// Run checks the keys.
func (k keysCheck) Run(out *cli.Out) error {
	list, problems, err := cred.Check(k.dir(), keySource(k.KeysFile))
	if err != nil {
		return err
	}
	if k.JSON {
		err = out.JSON(struct {
			Keys     []cred.Public `json:"keys"`
			Problems []string      `json:"problems"`
		}{list, append([]string{}, problems...)})
	} else {
		rows := [][]string{}
		for _, p := range list {
			rows = append(rows, []string{p.Use, p.Key})
		}
		err = out.Table(rows)
	}
	for _, p := range problems {
		err = errors.Join(err, errors.New(p))
	}
	return err
}

type keysRoll struct {
	cli.Target
	Slot int  `default:"-1" placeholder:"N" help:"One of the 16 keys, 0-15; all of them, one after the other, by default."`
	Now  bool `help:"Do not wait until the credentials of the old key end: it is known to others."`
	JSON bool `name:"json" help:"Print JSON."`
}

// Help says what happens.
func (keysRoll) Help() string {
	return "A new key signs from now on. Gateways that are connected get a new credential at once; what the old key signed stays good for 30 days, or with --now for 10 seconds.\n\n" +
		"Example:\n\n    sapflow-hub keys roll --data ./hub"
}

// Run rolls keys.
func (k keysRoll) Run(ctx context.Context, out *cli.Out) error {
	return k.Do(ctx, func(c *client.Client) error {
		slots := []int{k.Slot}
		if k.Slot < 0 {
			slots = nil
			for i := range cred.Slots {
				slots = append(slots, i)
			}
		}
		rows := [][]string{{"KEY", "PUBLIC", "RENEWED", "CUT"}}
		for _, slot := range slots {
			done, err := c.KeyRoll(ctx, api.KeyRoll{Slot: slot, Now: k.Now})
			if err != nil {
				return err
			}
			if k.JSON {
				if err := out.JSON(done); err != nil {
					return err
				}
			}
			rows = append(rows, []string{fmt.Sprint(slot), done.Key, fmt.Sprint(done.Renewed), fmt.Sprint(done.Cut)})
		}
		if k.JSON {
			return nil
		}
		return out.Table(rows)
	})
}
