package trace_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/trace"
)

const header = "time,node,type,key,value\n"

// rows reads a trace and says what each line is.
func rows(t *testing.T, text string) (list []string) {
	t.Helper()
	r, err := trace.NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := r.Next()
		var bad *trace.BadRow
		switch {
		case err == io.EOF:
			return list
		case errors.As(err, &bad):
			list = append(list, fmt.Sprintf("%d: %s", bad.Line, bad.Err))
		case err != nil:
			return append(list, err.Error())
		default:
			p := row.Point()
			list = append(list, fmt.Sprintf("%d: %q %q %q %d %s %q", row.Line, row.Node, row.Type, row.Key, row.Time, p.DataType, p.Text()))
		}
	}
}

// plainly does the same with package csv alone.
func plainly(text string) (list []string) {
	r := csv.NewReader(strings.NewReader(text))
	_, _ = r.Read()
	for {
		record, err := r.Read()
		var parse *csv.ParseError
		switch {
		case err == io.EOF:
			return list
		case errors.As(err, &parse):
			list = append(list, fmt.Sprintf("%d: %s", parse.StartLine, parse.Err))
			continue
		case err != nil:
			return append(list, err.Error())
		}
		line, _ := r.FieldPos(0)
		at, err := time.Parse(time.RFC3339Nano, record[0])
		if err != nil {
			list = append(list, fmt.Sprintf("%d: time %q is not RFC 3339", line, record[0]))
			continue
		}
		if record[1] == "" || point.Nanos(at) == 0 {
			list = append(list, fmt.Sprintf("%d: node or time is missing", line))
			continue
		}
		if record[3] == "" {
			record[3] = point.NoKey
		}
		row := trace.Row{Name: &trace.Name{}, Text: []byte(record[4])}
		p := row.Point()
		list = append(list, fmt.Sprintf("%d: %q %q %q %d %s %q", line, record[1], record[2], record[3], point.Nanos(at), p.DataType, p.Text()))
	}
}

// FuzzReader holds the lines that Reader cuts itself to what package csv reads.
func FuzzReader(f *testing.F) {
	for _, text := range []string{
		"",
		"2015-02-02T14:20:00Z,office,temp,0,23.70\n",
		"2015-02-02T14:20:00Z,office,temp,0,23.70", // no end of line
		"2015-02-02T14:20:00.123456789+01:00,office,temp,,x\r\n\r\n\n2015-02-02T14:20:00Z,b,c,d,e\r\n",
		"2015-02-02T14:20:00Z,\"a, b\",temp,0,\"two\nlines\"\n2015-02-02T14:20:01Z,c,d,0,1\n",
		"2015-02-02T14:20:00Z,a\"b,temp,0,1\n2015-02-02T14:20:01Z,\"c\"d,e,0,1\nx\n2015-02-02T14:20:01Z,c,d,0,1\n",
		"2015-02-02T14:20:00Z,a,b,0,\"open\n2015-02-02T14:20:01Z,c,d,0,1\n",
		"2015-02-02T14:20:00Z,\"a\n\nb\",c\n,,,,\n2015-02-29T14:20:00Z,a,b,0,1\n2015-02-02T1:20:00,5Z,b,0,1\n",
		"1969-12-31T23:59:59Z,a,b,0,1\n2600-01-01T00:00:00Z,a,b,0,NaN\n0000-01-01T00:00:00Z,a,b,0,-Inf\n2015-02-02T14:20:00z,a,b,0,0012\n",
		"\ufeff2015-02-02T14:20:00Z,a,b,0,1\n2015-02-02T14:20:60Z,a,b,0,1\n2015-02-02T24:00:00Z,a,b,0,1\n2015-02-02 14:20:00Z,a,b,0,1\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = header + text
		got, want := rows(t, text), plainly(text)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestReaderLong has lines that the buffer ends in, and one that is longer.
func TestReaderLong(t *testing.T) {
	var text strings.Builder
	text.WriteString(header)
	for i := range 20_000 {
		fmt.Fprintf(&text, "2015-02-02T14:20:00Z,n%d,temp,0,%d\n", i%7, i)
		if i == 9000 {
			fmt.Fprintf(&text, "2015-02-02T14:20:00Z,long,temp,0,%s\n", strings.Repeat("x", 1<<20))
		}
	}
	got, want := rows(t, text.String()), plainly(text.String())
	if len(got) != 20_001 {
		t.Fatalf("got %d rows", len(got))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("row %d: got %.80s, want %.80s", i, got[i], want[i])
		}
	}
}

// TestReaderNames checks that a name stands for its fields and no others.
func TestReaderNames(t *testing.T) {
	const at = "2015-02-02T14:20:00Z,"
	r, err := trace.NewReader(strings.NewReader(header + at + "ab,c,d,1\n" + at + "a,bc,d,1\n" + at + "a,b,cd,1\n" + at + "ab,c,d,2\n" + at + "ab,c,,2\n" + at + "ab,c,0,2\n"))
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for {
		row, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, row.Number)
	}
	if fmt.Sprint(numbers) != "[0 1 2 0 3 4]" {
		t.Errorf("got %v", numbers)
	}
}

func TestNewest(t *testing.T) {
	at, err := trace.Newest(strings.NewReader(header + "2015-02-02T14:20:00Z,a,b,0,1\nyesterday,a,b,0,1\n2014-02-02T14:20:00Z,a,b,0,1\n"))
	if want := point.Nanos(time.Date(2015, 2, 2, 14, 20, 0, 0, time.UTC)); at != want || err != nil {
		t.Errorf("got %d, %v, want %d", at, err, want)
	}
}

func BenchmarkReader(b *testing.B) {
	var text strings.Builder
	text.WriteString(header)
	const n = 10_000
	for i := range n {
		fmt.Fprintf(&text, "2015-02-02T14:20:%02d.%03dZ,sensor-%02d,temperature,0,%d.%02d\n", i/30%60, i%1000, i%30, i%100, i%97)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r, err := trace.NewReader(strings.NewReader(text.String()))
		if err != nil {
			b.Fatal(err)
		}
		for range n {
			row, err := r.Next()
			if err != nil {
				b.Fatal(err)
			}
			row.Point()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}
