package client_test

import (
	"math"
	"regexp"
	"strconv"
	"testing"

	"github.com/sapflow/sapflow/shared/client"
)

// decimal is a number as people write it, but for the digits that it must have.
var decimal = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?$`)

// FuzzNumber compares Number with what it is meant to read.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{
		"0", "-0", "42", "+1.5", ".5", "5.", "1e5", "1E-7", "0.1", "0e0", "00", "0012", "-01", "+-1", "--1", "1-", "1e", "e5", "",
		".", "-", "1.2.3", "0x1p-2", "1_000", "Inf", "nan", "1e400", "1e-400", "123456789012345678901234567890", " 1", "1 ", "١",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := strconv.ParseFloat(text, 64)
		isNumber := err == nil && decimal.MatchString(text)
		v, ok := client.Number(text)
		if ok != isNumber || ok && math.Float64bits(v) != math.Float64bits(want) {
			t.Errorf("%q: got %v, %v, want %v, %v", text, v, ok, want, isNumber)
		}
	})
}
