package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/bus"
	"github.com/sapflow/sapflow/shared/history"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/subject"
)

// OpenStore opens the store in the data directory of a stopped instance.
type OpenStore func(ctx context.Context, dir string) (*Stopped, error)

// Stopped is the store of a stopped instance.
type Stopped struct {
	Stores []jetstream.JetStream
	// Purpose tells what a stream that is no log is for.
	Purpose func(stream string) string
	// Views returns what is wrong with views; nil has none. ends are the last
	// stream sequences of the logs.
	Views func(ctx context.Context, ends map[string]uint64) ([]string, error)
	Close func() error
}

// Store are the commands about the store of a stopped instance.
type Store struct {
	Check StoreCheck `cmd:"" help:"Read all that is stored and print what is damaged or missing."`
	Stats StoreStats `cmd:"" help:"Print what is stored, by purpose."`
}

// StoreTarget are the flags of commands about a store.
type StoreTarget struct {
	Data string `env:"SAPFLOW_DATA" placeholder:"DIR" help:"Data directory of the instance, which must be stopped."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// stored is what a store holds.
type stored struct {
	Streams   []storedStream   `json:"streams"`
	Snapshots []storedSnapshot `json:"snapshots"`
	Removed   []journal.Span   `json:"removed,omitempty"` // oldest frames that a limit removed
	History   *history.Report  `json:"history,omitempty"`
	FreeBytes uint64           `json:"freeBytes"`
	Problems  []string         `json:"problems"`
}

type storedStream struct {
	Name     string             `json:"name"`
	Purpose  string             `json:"purpose"`
	Messages uint64             `json:"messages"`
	Bytes    uint64             `json:"bytes"` // on disk
	Logs     []*journal.Summary `json:"logs,omitempty"`
	last     uint64
	in       jetstream.JetStream
}

type storedSnapshot struct {
	Name   string    `json:"name"`
	Bytes  int64     `json:"bytes"`
	Time   time.Time `json:"time"`
	Points int       `json:"points"`
}

// purposes of the logs.
var purposes = map[string]string{
	subject.StreamEdge: "what gateways authored", subject.StreamDown: "what goes to gateways", subject.StreamHub: "what the hub authored",
}

// read reads a store whole.
func (t StoreTarget) read(ctx context.Context, open OpenStore) (r *stored, err error) {
	if t.Data == "" {
		return nil, Usagef("which store? Give --data DIR")
	}
	if _, err := os.Stat(filepath.Join(t.Data, "jetstream")); err != nil {
		return nil, fmt.Errorf("there is no store in %s; give the data directory of an instance that has run", t.Data)
	}
	s, err := open(ctx, t.Data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r = &stored{Problems: []string{}}
	ends := map[string]uint64{}
	for _, js := range s.Stores {
		list := js.ListStreams(ctx)
		for info := range list.Info() {
			name, st := info.Config.Name, info.State
			stream := storedStream{Name: name, Purpose: purposes[name], Messages: st.Msgs, Bytes: st.Bytes, last: st.LastSeq, in: js}
			switch {
			case name == subject.StreamHistory:
				stream.Purpose = "history"
			case stream.Purpose == "":
				stream.Purpose = s.Purpose(name)
			default:
				ends[name] = st.LastSeq
			}
			r.Streams = append(r.Streams, stream)
		}
		if err := list.Err(); err != nil {
			return nil, fmt.Errorf("list streams: %w", err)
		}
	}
	if err := r.hidden(t.Data); err != nil {
		return nil, err
	}
	for i := range r.Streams {
		stream := &r.Streams[i]
		switch {
		case stream.Name == subject.StreamHistory:
			err = r.chunks(ctx, stream.in)
		case purposes[stream.Name] != "":
			err = r.log(ctx, stream.in, stream)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := r.snapshots(t.Data, ends); err != nil {
		return nil, err
	}
	if s.Views != nil {
		problems, err := s.Views(ctx, ends)
		if err != nil {
			return nil, err
		}
		r.Problems = append(r.Problems, problems...)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(t.Data, &disk); err != nil {
		return nil, fmt.Errorf("free space of %s: %w", t.Data, err)
	}
	r.FreeBytes = disk.Bavail * uint64(disk.Bsize)
	return r, nil
}

// hidden looks for streams on disk that the server did not load.
func (r *stored) hidden(dir string) error {
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	for _, path := range found {
		name := filepath.Base(path)
		if !slices.ContainsFunc(r.Streams, func(s storedStream) bool { return s.Name == name }) {
			r.Problems = append(r.Problems, fmt.Sprintf("stream %s is on disk, but the server cannot load it; a start of the instance makes it good if it needs it", name))
		}
	}
	return err
}

func (r *stored) chunks(ctx context.Context, js jetstream.JetStream) error {
	s, err := js.Stream(ctx, subject.StreamHistory)
	if err == nil {
		r.History, err = history.Check(ctx, js, s)
	}
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	r.Problems = append(r.Problems, r.History.Problems...)
	r.History.Problems = nil
	return nil
}

func (r *stored) log(ctx context.Context, js jetstream.JetStream, stream *storedStream) error {
	s, err := js.Stream(ctx, stream.Name)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", stream.Name, err)
	}
	stream.Logs, err = journal.Check(ctx, journal.NewStore(js, s, subject.LogsOf(stream.Name)), stream.last)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream.Name, err)
	}
	for _, l := range stream.Logs {
		for _, p := range l.Problems {
			r.Problems = append(r.Problems, "stream "+stream.Name+", "+p.String())
		}
	}
	return nil
}

// snapshots reads the snapshot files, and compares them with the ends of the
// logs: what a snapshot covers and a log has not was lost at the log's end.
func (r *stored) snapshots(dir string, ends map[string]uint64) error {
	files, err := bus.Snapshots(dir)
	if err != nil {
		return fmt.Errorf("read snapshots: %w", err)
	}
	for i, f := range files {
		if f.Err != nil {
			r.Problems = append(r.Problems, fmt.Sprintf("%s: %s; the other one or the logs are used", f.Name, f.Err))
			continue
		}
		if len(r.Snapshots) == 0 {
			r.Removed = slices.SortedFunc(maps.Values(f.Meta.Removed), func(a, b journal.Span) int {
				return cmp.Or(strings.Compare(a.Stream, b.Stream), cmp.Compare(a.Below, b.Below))
			})
		}
		r.Snapshots = append(r.Snapshots, storedSnapshot{f.Name, f.Bytes, f.Time, f.Points})
		for stream, seq := range f.Meta.Streams {
			if end := ends[stream]; i == 0 && seq > end {
				r.Problems = append(r.Problems, fmt.Sprintf("stream %s ends at %d, but %s covers it up to %d: frames at its end are lost, the winners of them are in the snapshot", stream, end, f.Name, seq))
			}
		}
	}
	return nil
}

// logRows is a table of the logs.
func (r *stored) logRows() [][]string {
	rows := [][]string{{"STREAM", "LOG", "FRAMES", "POINTS", "BYTES", "B/POINT", "EPOCHS", "GAPS", "OLDEST", "NEWEST"}}
	for _, s := range r.Streams {
		for _, l := range s.Logs {
			each := ""
			if l.Points > 0 {
				each = fmt.Sprintf("%.2f", float64(l.Bytes)/float64(l.Points))
			}
			rows = append(rows, []string{
				s.Name, l.Subject, strconv.Itoa(l.Frames), strconv.FormatUint(l.Points, 10), sizeText(l.Bytes), each,
				strconv.Itoa(l.Epochs), strconv.Itoa(l.Gaps), dateText(l.Oldest), dateText(l.Newest),
			})
		}
	}
	return rows
}

func dateText(ns uint64) string {
	if ns == 0 {
		return ""
	}
	return point.TimeOf(ns).UTC().Format(time.RFC3339)
}

// StoreCheck is the command `store check`.
type StoreCheck struct{ StoreTarget }

// Help tells what is read, with an example.
func (StoreCheck) Help() string {
	return "Reads every frame of every log and verifies its checksum and that it continues the one before, reads the snapshot files, and compares views with the logs. " +
		"Ends with code 1 if there is a problem.\n\nExample:\n\n    store check --data ./gw1"
}

// Run checks a store.
func (c StoreCheck) Run(ctx context.Context, out *Out, open OpenStore) error {
	r, err := c.read(ctx, open)
	if err != nil {
		return err
	}
	if c.JSON {
		err = out.JSON(r)
	} else {
		err = c.print(out, r)
	}
	if n := len(r.Problems); err == nil && n > 0 {
		return fmt.Errorf("the store has %d problems; what is lost here may be at the other end, which sends it when it has it", n)
	}
	return err
}

func (c StoreCheck) print(out *Out, r *stored) error {
	if err := out.Table(r.logRows()); err != nil {
		return err
	}
	for _, s := range r.Snapshots {
		if err := out.Println(fmt.Sprintf("%s is whole: %d points", s.Name, s.Points)); err != nil {
			return err
		}
	}
	for _, p := range r.Problems {
		if err := out.Println("problem: " + p); err != nil {
			return err
		}
	}
	if len(r.Problems) == 0 {
		return out.Println("no problem found")
	}
	return nil
}

// StoreStats is the command `store stats`.
type StoreStats struct{ StoreTarget }

// Help shows an example.
func (StoreStats) Help() string {
	return "Prints what the streams of a stopped instance hold, its snapshots and the free space.\n\nExample:\n\n    store stats --data ./gw1"
}

// Run prints what is stored.
func (c StoreStats) Run(ctx context.Context, out *Out, open OpenStore) error {
	r, err := c.read(ctx, open)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.JSON(r)
	}
	if err := out.Table(r.purposeRows()); err != nil {
		return err
	}
	if err := out.Println(""); err != nil {
		return err
	}
	if err := out.Table(r.logRows()); err != nil {
		return err
	}
	rows := [][]string{}
	for _, s := range r.Snapshots {
		rows = append(rows, []string{s.Name, fmt.Sprintf("%d points, %s, %s ago", s.Points, sizeText(uint64(s.Bytes)), span(time.Since(s.Time)))})
	}
	for _, s := range r.Removed {
		rows = append(rows, []string{"removed", fmt.Sprintf("frames of %d points of %s, %d of them nowhere else", s.Points, s.Stream, s.Unsent)})
	}
	if h := r.History; h != nil {
		rows = append(rows, []string{"history", fmt.Sprintf("%d points of %d series in %d chunks, %s%s", h.Points, h.Columns, h.Chunks, sizeText(h.Bytes), each(h.Bytes, h.Points))})
		if h.Removed > 0 {
			rows = append(rows, []string{"", fmt.Sprintf("%d points had to make room", h.Removed)})
		}
	}
	rows = append(rows, []string{"free", sizeText(r.FreeBytes)})
	if n := len(r.Problems); n > 0 {
		rows = append(rows, []string{"problems", fmt.Sprintf("%d, see store check", n)})
	}
	if err := out.Println(""); err != nil {
		return err
	}
	return out.Table(rows)
}

// each returns how many bytes a point takes, "" for no point.
func each(bytes, points uint64) string {
	if points == 0 {
		return ""
	}
	return fmt.Sprintf(", %.2f B a point", float64(bytes)/float64(points))
}

// purposeRows is a table of streams by purpose.
func (r *stored) purposeRows() [][]string {
	type sum struct{ streams, messages, bytes uint64 }
	sums := map[string]*sum{}
	var order []string
	for _, s := range r.Streams {
		t := sums[s.Purpose]
		if t == nil {
			t = &sum{}
			sums[s.Purpose] = t
			order = append(order, s.Purpose)
		}
		t.streams++
		t.messages += s.Messages
		t.bytes += s.Bytes
	}
	rows := [][]string{{"PURPOSE", "STREAMS", "MESSAGES", "ON DISK"}}
	for _, p := range order {
		t := sums[p]
		rows = append(rows, []string{p, strconv.FormatUint(t.streams, 10), strconv.FormatUint(t.messages, 10), sizeText(t.bytes)})
	}
	return rows
}
