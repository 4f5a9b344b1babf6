package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mattn/go-isatty"
)

// Out is where a command prints: its results, and what is not a result.
type Out struct {
	io.Writer
	Err io.Writer
}

// JSON prints v as one line of JSON.
func (o *Out) JSON(v any) error {
	enc := json.NewEncoder(o)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Table prints rows of cells in aligned columns, the first row as a heading.
func (o *Out) Table(rows [][]string) error {
	w := tabwriter.NewWriter(o, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = Printable(cell); cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// Println prints a line.
func (o *Out) Println(text string) error {
	_, err := fmt.Fprintln(o, text)
	return err
}

// Notef prints a line that is not a result to standard error.
func (o *Out) Notef(format string, args ...any) { fmt.Fprintf(o.Err, format+"\n", args...) }

// progressEvery is how often progress is shown.
const progressEvery = 200 * time.Millisecond

// Progress returns what shows how far a command is, in place on a terminal and
// from any goroutine, and what removes it at the end. Elsewhere they do
// nothing.
func (o *Out) Progress() (show func(format string, args ...any), end func()) {
	const line = "\r\033[K"
	if !IsTerminal(o.Err) {
		return func(string, ...any) {}, func() {}
	}
	var mu sync.Mutex
	var last time.Time
	show = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			fmt.Fprintf(o.Err, line+format, args...)
		}
	}
	return show, func() { fmt.Fprint(o.Err, line) }
}

// IsTerminal tells whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// maxCell bounds a value in a table, in characters.
const maxCell = 72

// Printable returns s fit for one cell of a terminal: control characters,
// which could move the cursor, are replaced, and a long text is cut.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxCell {
		return string(runes[:maxCell-3]) + "..."
	}
	return s
}

// Age returns how long ago an RFC 3339 time was, in its largest unit.
func Age(now time.Time, text string) string {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	d := now.Sub(t)
	if d < -time.Second {
		return "in " + span(-d)
	}
	return span(max(d, 0))
}

func span(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= unit.d {
			return fmt.Sprintf("%d%s", d/unit.d, unit.name)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
