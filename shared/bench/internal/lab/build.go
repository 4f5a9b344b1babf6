package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build builds the two binaries into a directory, for tests; root is that of
// the sources.
func Build(ctx context.Context, root, dir string) error {
	for _, name := range []string{"agent", "hub"} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "sapflow-"+name), "./"+name)
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}
