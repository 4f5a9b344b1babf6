package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/point"
)

// columns of a trace; their order in the file is free.
var columns = []string{"time", "node", "type", "key", "value"}

// row is one line of a trace.
type row struct {
	line  int
	node  string // description, or id
	point point.Point
}

// reader reads the rows of a trace.
type reader struct {
	csv   *csv.Reader
	place [5]int // of each column
}

// newReader reads the header of a trace, which may be compressed by gzip.
func newReader(r io.Reader) (*reader, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("read trace: %w", err)
		}
		buffered = bufio.NewReaderSize(unzipped, 64<<10)
	}
	t := &reader{csv: csv.NewReader(buffered)}
	t.csv.ReuseRecord = true
	header, err := t.csv.Read()
	if err != nil {
		return nil, fmt.Errorf("read trace: header: %w", err)
	}
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // spreadsheets write one
	for i, name := range columns {
		t.place[i] = -1
		for k, have := range header {
			if have == name {
				t.place[i] = k
			}
		}
		if t.place[i] < 0 {
			return nil, fmt.Errorf("read trace: the header has no column %q, it must have %s", name, strings.Join(columns, ","))
		}
	}
	return t, nil
}

// badRow is a line that is not a point; reading goes on behind it.
type badRow struct {
	line int
	err  error
}

// Error says what is wrong with the line.
func (b *badRow) Error() string { return b.err.Error() }

// next returns the next row, a *badRow, or io.EOF. Its time is not checked
// against any clock.
func (t *reader) next() (row, error) {
	record, err := t.csv.Read()
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return row{}, &badRow{parse.StartLine, parse.Err}
	}
	if err != nil {
		return row{}, err
	}
	line, _ := t.csv.FieldPos(0)
	field := func(i int) string { return record[t.place[i]] }
	at, err := time.Parse(time.RFC3339Nano, field(0))
	if err != nil {
		return row{}, &badRow{line, fmt.Errorf("time %q is not RFC 3339", field(0))}
	}
	r := row{line: line, node: strings.Clone(field(1)), point: value(field(4))}
	r.point.Time = point.Nanos(at)
	r.point.Type, r.point.Key = strings.Clone(field(2)), strings.Clone(field(3))
	if r.point.Key == "" {
		r.point.Key = point.NoKey
	}
	if r.node == "" || r.point.Time == 0 {
		return row{}, &badRow{line, errors.New("node or time is missing")}
	}
	return r, nil
}

// value returns a point with the value of a text: a number is exactly the
// float64 that is printed, anything else a string.
func value(text string) point.Point {
	v, ok := client.Number(text)
	if !ok {
		switch text {
		case "NaN":
			v, ok = math.NaN(), true
		case "Inf", "+Inf":
			v, ok = math.Inf(1), true
		case "-Inf":
			v, ok = math.Inf(-1), true
		}
	}
	if ok {
		return point.Point{DataType: point.Float, Data: point.FloatData(v)}
	}
	return point.Point{DataType: point.String, Data: []byte(text)}
}

// newest returns the latest time in a trace.
func newest(r io.Reader) (uint64, error) {
	t, err := newReader(r)
	if err != nil {
		return 0, err
	}
	var last uint64
	for {
		row, err := t.next()
		var bad *badRow
		switch {
		case errors.As(err, &bad): // told when it is sent
		case err == io.EOF:
			return last, nil
		case err != nil:
			return 0, fmt.Errorf("read trace: %w", err)
		default:
			last = max(last, row.point.Time)
		}
	}
}
