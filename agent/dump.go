package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/cli"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// dumpCmd is the command `dump`.
type dumpCmd struct {
	File string `arg:"" help:"File that holds one frame, as bytes or in hexadecimal; - for standard input."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help shows an example.
func (dumpCmd) Help() string {
	return "Shows what a frame of any version holds, as it lies in a log. Its layout is in shared/frame/FORMAT.md.\n\n" +
		"Example:\n\n    sapflow-agent dump frame.bin"
}

// maxDump bounds what is read: more than any frame has.
const maxDump = 1 << 20

// dumped is a frame for people and scripts.
type dumped struct {
	Version uint8         `json:"version"`
	Kind    string        `json:"kind"`
	Bytes   int           `json:"bytes"`
	Now     string        `json:"now"`
	Epoch   string        `json:"epoch,omitempty"`
	Prev    uint64        `json:"prev"`
	First   uint64        `json:"first"`
	Last    uint64        `json:"last"`
	Sum     string        `json:"sum,omitempty"`
	Aside   int           `json:"aside,omitempty"`
	Points  []dumpedPoint `json:"points"`
}

type dumpedPoint struct {
	Seq     uint64     `json:"seq"`
	Subject string     `json:"subject"`
	Time    string     `json:"time"`
	Type    string     `json:"dataType"`
	Value   jsonString `json:"value"`
	Author  string     `json:"author,omitempty"`
	Origin  string     `json:"origin,omitempty"`
	Removed bool       `json:"removed,omitempty"`
	More    bool       `json:"more,omitempty"`
}

// jsonString is JSON that is passed on as it is.
type jsonString string

// MarshalJSON returns it.
func (s jsonString) MarshalJSON() ([]byte, error) { return []byte(s), nil }

var kindNames = map[frame.Kind]string{frame.Log: "log", frame.Relay: "relay", frame.Heads: "heads"}

// Run prints a frame.
func (d dumpCmd) Run(_ context.Context, out *cli.Out) error {
	b, err := d.read()
	if err != nil {
		return err
	}
	f, err := frame.Decode(b, "")
	if err != nil {
		return fmt.Errorf("%s: %w", d.File, err)
	}
	shown := show(f, b)
	if d.JSON {
		return out.JSON(shown)
	}
	rows := [][]string{{"SEQ", "SUBJECT", "TIME", "TYPE", "VALUE", "ORIGIN"}}
	for _, p := range shown.Points {
		rows = append(rows, []string{strconv.FormatUint(p.Seq, 10), p.Subject, p.Time, p.Type, string(p.Value), p.Origin})
	}
	if err := out.Println(fmt.Sprintf("version %d, %s, %d bytes, now %s, epoch %s, %d..%d after %d, %d set aside",
		shown.Version, shown.Kind, shown.Bytes, shown.Now, shown.Epoch, shown.First, shown.Last, shown.Prev, shown.Aside)); err != nil {
		return err
	}
	return out.Table(rows)
}

func (d dumpCmd) read() ([]byte, error) {
	in := io.Reader(os.Stdin)
	if d.File != "-" {
		file, err := os.Open(d.File)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // only read
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxDump+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.File, err)
	}
	if len(b) > maxDump {
		return nil, fmt.Errorf("%s is larger than any frame", d.File)
	}
	if text, err := hex.DecodeString(string(bytes.Join(bytes.Fields(b), nil))); err == nil {
		return text, nil
	}
	return b, nil
}

func show(f *frame.Frame, b []byte) dumped {
	d := dumped{
		Version: b[0], Kind: kindNames[f.Kind], Bytes: len(b), Now: timeText(f.Now),
		Prev: f.Prev, First: f.First, Last: f.Last, Aside: len(f.Aside), Points: []dumpedPoint{},
	}
	if f.Kind != frame.Heads {
		d.Epoch, d.Sum = f.Epoch.String(), fmt.Sprintf("%016x", f.Sum)
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		d.Points = append(d.Points, dumpedPoint{
			Seq: e.At.Seq, Subject: e.Series.String(), Time: timeText(e.Time), Type: e.DataType.String(),
			Value: jsonString(e.AppendJSON(nil)), Author: e.Author, Origin: e.Origin, Removed: e.Removed(), More: e.More,
		})
	}
	return d
}

func timeText(ns uint64) string { return point.TimeOf(ns).UTC().Format(time.RFC3339Nano) }
