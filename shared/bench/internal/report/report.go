// Package report owns how figures are told: rounded, with the machine they
// come from, as a section of a document that leaves the rest of it alone, and
// as JSON.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine says when and where something was measured.
type Machine struct {
	Date  string `json:"date"`
	Cores int    `json:"cores"`
	OS    string `json:"os"`
	Go    string `json:"go"`
}

// Here returns the machine of now.
func Here() Machine {
	return Machine{
		Date: time.Now().UTC().Format("2006-01-02"), Cores: runtime.NumCPU(),
		OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
	}
}

// String returns the machine for the head of a table.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s, %s", m.Date, m.Cores, m.OS, m.Go)
}

// WriteSection puts text into the section of a file: the lines between
// "<!-- NAME: ... -->" and "<!-- end of NAME -->".
func WriteSection(path, name, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write section: %w", err)
	}
	begin, end := "<!-- "+name+": ", "<!-- end of "+name+" -->"
	before, rest, ok := strings.Cut(string(old), begin)
	mark, rest, marked := strings.Cut(rest, "\n")
	_, after, ended := strings.Cut(rest, end)
	if !ok || !marked || !ended {
		return fmt.Errorf("write section: %s lacks a line %q or %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+mark+"\n"+text+end+after), 0o644)
}

// Print writes v as JSON.
func Print(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// WriteJSON writes v to a file.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// Median returns the middle of a list, 0 of an empty one.
func Median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// Format prints three significant digits, whole numbers with commas.
func Format(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a < 1000:
		digits := max(0, 2-int(math.Floor(math.Log10(a))))
		return fmt.Sprintf("%.*f", digits, v)
	}
	return commas(fmt.Sprintf("%.0f", v))
}

// Whole prints a whole number with commas.
func Whole(n int) string { return commas(strconv.Itoa(n)) }

func commas(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
