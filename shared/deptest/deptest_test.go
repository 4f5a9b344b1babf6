// Package deptest holds the imports to the rules that the compiler cannot see.
package deptest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sapflow/sapflow/"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) (list []pkg) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		list = append(list, p)
	}
	if len(list) < 20 {
		t.Fatalf("only %d packages found", len(list))
	}
	return list
}

func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

// helpers are packages that tests share.
var helpers = []string{"shared/natstest", "shared/client/clienttest", "agent/internal/driver/drivertest"}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			own, isOwn := strings.CutPrefix(imp, module)
			switch {
			case strings.HasPrefix(imp, "github.com/nats-io/nats-server/") &&
				!under(p.ImportPath, "agent/internal/leaf", "hub/internal/natsd", "shared/natstest", "shared/client/clienttest"):
				t.Errorf("%s imports %s: only the two servers and the tests' servers may, the rest connects to them", p.ImportPath, imp)
			case imp == "os/exec":
				t.Errorf("%s imports os/exec: agent and hub start no programs", p.ImportPath)
			case isOwn && under(p.ImportPath, "shared") && under(own, "agent", "hub"):
				t.Errorf("%s imports %s: shared never imports agent or hub", p.ImportPath, own)
			case isOwn && under(p.ImportPath, "agent") && under(own, "hub"), isOwn && under(p.ImportPath, "hub") && under(own, "agent"):
				t.Errorf("%s imports %s: agent and hub never import each other", p.ImportPath, own)
			case isOwn && under(p.ImportPath, "agent/internal/driver") && under(own, "agent/internal/driver") && p.ImportPath != "agent/internal/driver" && own != "agent/internal/driver":
				t.Errorf("%s imports %s: drivers know their contract, and never import each other", p.ImportPath, own)
			case isOwn && under(own, helpers...) && !under(p.ImportPath, helpers...):
				t.Errorf("%s imports %s: only tests may", p.ImportPath, own)
			}
		}
	}
}

func TestPurePackages(t *testing.T) {
	pure := []string{"shared/point", "shared/subject", "shared/frame", "shared/tree", "shared/state", "shared/api", "shared/schema"}
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "github.com/nats-io/") {
				t.Errorf("%s depends on %s: it must know no NATS", p.ImportPath, dep)
			}
			if p.ImportPath == "shared/point" && strings.Contains(dep, ".") && !strings.HasPrefix(dep, "vendor/") && !strings.HasPrefix(dep, module) {
				t.Errorf("%s depends on %s: it uses the standard library only", p.ImportPath, dep)
			}
		}
	}
}
