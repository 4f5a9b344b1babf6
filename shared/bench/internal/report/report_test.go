package report_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

func TestWriteSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "RESULTS.md")
	const text = "# Figures\n<!-- a: by make a -->\nold\n<!-- end of a -->\nbetween\n<!-- b: by make b -->\n<!-- end of b -->\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "b"} {
		if err := report.WriteSection(path, name, "new "+name+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	const want = "# Figures\n<!-- a: by make a -->\nnew a\n<!-- end of a -->\nbetween\n<!-- b: by make b -->\nnew b\n<!-- end of b -->\n"
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if err := report.WriteSection(path, "c", ""); err == nil {
		t.Error("wrote a section that is not there")
	}
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 8.614: "8.61", 99.4: "99.4", 999: "999", 1000: "1,000", 1234567.8: "1,234,568"} {
		if got := report.Format(v); got != want {
			t.Errorf("%v is told as %q, want %q", v, got, want)
		}
	}
}
