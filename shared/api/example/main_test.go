package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/point"
)

// TestDay runs the example against an instance.
func TestDay(t *testing.T) {
	i := clienttest.Start(t)
	start := time.Now().Add(-time.Hour).Truncate(time.Second).UTC()
	var want bytes.Buffer
	for n, v := range []float64{20, 81, 85, 79, 20} {
		at := start.Add(time.Duration(n) * time.Minute)
		p := point.Point{
			Series: point.Series{Node: i.Root, Type: "temperature", Key: point.NoKey},
			Time:   point.Nanos(at), DataType: point.Float, Data: point.FloatData(v),
		}
		if err := i.Client.Write(t.Context(), []point.Point{p}); err != nil {
			t.Fatal(err)
		}
		if n == 1 || n == 3 {
			fmt.Fprintf(&want, "%s %v above: %t\n", at.Format(time.RFC3339), v, n == 1)
		}
	}
	var got bytes.Buffer
	if err := run(t.Context(), &got, []string{i.Dir, i.Root, "temperature", "80"}); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("got\n%swant\n%s", &got, &want)
	}
}

// TestDocumented: API.md shows the program that is tested here.
func TestDocumented(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(program), "\tc, err := client.Dial")
	doc, err := os.ReadFile("../API.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.ReplaceAll(string(doc), "\n    ", "\n")
	if !strings.Contains(shown, strings.TrimSuffix("\tc, err := client.Dial"+body, "\n")) {
		t.Error("API.md does not show main.go from client.Dial on")
	}
}
