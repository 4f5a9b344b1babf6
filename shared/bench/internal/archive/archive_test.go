package archive_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/archive"
	"github.com/sapflow/sapflow/shared/bench/internal/lab"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

// TestHistory makes a day of history and reads it in two ways: what the
// agent tells must be what SQLite has.
func TestHistory(t *testing.T) {
	bin, data := t.TempDir(), filepath.Join(t.TempDir(), "gateway")
	if err := lab.Build(t.Context(), "../../../..", bin); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"csv", "memory"} {
		var out bytes.Buffer
		err := archive.Run(t.Context(), archive.Config{
			Bin: bin, Days: 1, Dir: data, Plan: report.Plan{Quick: true, JSON: true, Only: part, Out: &out, Progress: t.Output()},
		})
		if err != nil {
			t.Fatal(err)
		}
		var s report.Sheet
		if err := json.Unmarshal(out.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Figures) == 0 {
			t.Errorf("%s measured nothing", part)
		}
		for _, f := range s.Figures {
			if f.Part != part || !(f.Value > 0) || len(f.Runs) != s.Runs {
				t.Errorf("%s measured %+v", part, f)
			}
		}
	}
}
