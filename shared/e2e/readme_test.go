package e2e_test

import (
	"bufio"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sapflow/sapflow/shared/client"
)

// TestReadme runs the commands of the README in order, as they stand there;
// only addresses, which are free ports here, and the token are put in.
func TestReadme(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	must(os.Symlink(hubBin, filepath.Join(dir, "bin", "sapflow-hub")))
	must(os.Symlink(agentBin, filepath.Join(dir, "bin", "sapflow-agent")))
	unzip(t, "testdata/occupancy.csv.gz", filepath.Join(dir, "office.csv"))

	run := func(line string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "exec "+line)
		cmd.Dir = dir
		cmd.Env = append(environ(), "SAPFLOW_HTTP=127.0.0.1:0", "SAPFLOW_LEAF=127.0.0.1:0", "SAPFLOW_LISTEN=127.0.0.1:0")
		return cmd
	}
	background := func(line string) (stop func()) {
		t.Helper()
		cmd := run(line)
		must(cmd.Start())
		stop = sync.OnceFunc(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		})
		t.Cleanup(stop)
		return stop
	}
	running := func(data string) (r *client.Running) {
		t.Helper()
		eventually(t, data+" is ready", func() bool {
			var err error
			r, err = client.ReadRunning(filepath.Join(dir, data))
			return err == nil
		})
		return r
	}
	var token, url string
	var stopHub func()
	count := 0
	for _, line := range readmeCommands(t) {
		count++
		line, _, _ = strings.Cut(line, "#")
		line = strings.NewReplacer("TOKEN", token, "http://127.0.0.1:8080", url).Replace(strings.TrimSpace(line))
		verb := strings.Fields(line)[1]
		switch {
		case verb == "serve":
			stopHub = background(line)
			url = "http://" + running("hub-data").HTTP
			continue
		case verb == "run":
			background(line)
			running("gw-data")
			continue
		case verb == "streams", verb == "store":
			stopHub()
		case verb == "watch":
			line = strings.Replace(line, "watch", "watch --count 1", 1)
			background("sh -c 'while ! bin/sapflow-agent set office note hello --data gw-data; do :; done; while bin/sapflow-agent set office note hello --data gw-data; do :; done'")
		case verb == "history": // the replay must have climbed
			eventually(t, "the trace is at the hub", func() bool {
				out, err := run(line).Output()
				return err == nil && strings.Count(string(out), "\n") > 20
			})
		}
		out, err := run(line).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		if m := regexp.MustCompile(`--token (\S+)`).FindSubmatch(out); verb == "device" && m != nil {
			token = string(m[1])
		}
	}
	if count < 10 {
		t.Errorf("found %d commands in the README, want at least 10", count)
	}
}

// readmeCommands returns the lines of the README that run a binary.
func readmeCommands(t *testing.T) (lines []string) {
	t.Helper()
	f, err := os.Open("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := s.Text(); strings.HasPrefix(line, "    bin/sapflow-") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func unzip(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, z); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
