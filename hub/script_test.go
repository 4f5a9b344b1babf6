package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/sapflow/sapflow/hub/internal/config"
	"github.com/sapflow/sapflow/shared/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sapflow-hub": main})
}

// TestScript runs testdata/script: one script for each promise of the README
// about the hub. Its processes are real; the commands beside the standard
// ones are
//
//	await DIR VAR        wait until an instance runs on DIR; set VAR_ID, VAR_HTTP, VAR_LISTEN, VAR_LEAF and VAR_METRICS
//	field NAME VAR       set VAR to a field of the JSON object that was printed
//	until REGEXP CMD...  run a command until it succeeds and prints REGEXP
//	code N CMD...        run a command that ends with exit code N
//	taken VAR            set VAR to an address that is taken
//	hangup DIR           send SIGHUP to the instance that runs on DIR
//	mode PERM FILE...    check the permissions of files
//	token FILE           take the token for http from a file
//	http STATUS METHOD URL [BODY]   send a request that ends with a status, and print the answer
//
// Every address is a free port of the loopback interface, by SAPFLOW_*.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"SAPFLOW_HTTP", "SAPFLOW_LEAF", "SAPFLOW_LISTEN", "SAPFLOW_METRICS"} {
				e.Setenv(name, "127.0.0.1:0")
			}
			e.Setenv("BIG", strings.Repeat("x", 100<<10)) // more than a value may have
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "field": field, "until": until, "code": code, "taken": taken, "mode": mode, "hangup": hangup, "token": token, "http": request,
		},
	})
}

// deadline bounds every wait of a script; a busy machine takes seconds.
const deadline = 30 * time.Second

// poll calls try until it returns nil or the deadline is over.
func poll(ts *testscript.TestScript, try func() error) {
	for end := time.Now().Add(deadline); ; {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("waited %s: %v", deadline, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, func() error {
		r, err := client.ReadRunning(ts.MkAbs(args[0]))
		if err != nil {
			return err
		}
		for name, value := range map[string]string{"ID": r.ID, "HTTP": r.HTTP, "LISTEN": r.Listen, "LEAF": r.Leaf, "METRICS": r.Metrics} {
			ts.Setenv(args[1]+"_"+name, value)
		}
		return nil
	})
}

func field(ts *testscript.TestScript, _ bool, args []string) {
	var fields map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &fields))
	value, ok := fields[args[0]]
	if !ok {
		ts.Fatalf("no field %s", args[0])
	}
	ts.Setenv(args[1], fmt.Sprint(value))
}

func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	poll(ts, func() error {
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			return err
		}
		if out := ts.ReadFile("stdout"); !want.MatchString(out) {
			return fmt.Errorf("no match for %q in:\n%s", want, out)
		}
		return nil
	})
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func taken(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

func hangup(ts *testscript.TestScript, _ bool, args []string) {
	r, err := client.ReadRunning(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(syscall.Kill(r.PID, syscall.SIGHUP))
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", name, got, args[0])
		}
	}
}

func token(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv("ADMIN_TOKEN", strings.TrimSpace(ts.ReadFile(args[0])))
}

func request(ts *testscript.TestScript, _ bool, args []string) {
	body := ""
	if len(args) > 3 {
		body = args[3]
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, args[1], args[2], strings.NewReader(body))
	ts.Check(err)
	if t := ts.Getenv("ADMIN_TOKEN"); t != "" {
		req.Header.Set("Authorization", "Bearer "+t)
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprint(ts.Stdout(), string(text))
	if fmt.Sprint(resp.StatusCode) != args[0] {
		ts.Fatalf("status %d, want %s: %s", resp.StatusCode, args[0], text)
	}
}

// TestRunStopsAll runs a hub in this process: nothing of it may stay.
func TestRunStopsAll(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := filepath.Join(t.TempDir(), "hub")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, config.Config{
			Data: dir, HTTP: "127.0.0.1:0", Leaf: "127.0.0.1:0", Listen: "127.0.0.1:0",
			NodeStreams: config.NodeStreams{MaxPerSubject: 10},
		})
	}()
	for end := time.Now().Add(deadline); ; <-time.After(20 * time.Millisecond) {
		if _, err := client.ReadRunning(dir); err == nil {
			break
		} else if time.Now().After(end) {
			t.Error(err)
			break
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, client.RunningFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", client.RunningFile, err)
	}
}
