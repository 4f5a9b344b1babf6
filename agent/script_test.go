package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sapflow/sapflow/shared/client"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sapflow-agent": main})
}

// TestScript runs testdata/script: one script for each promise of the README
// about the agent. Its processes are real, and there is a real sapflow-hub;
// the commands beside the standard ones are
//
//	await DIR VAR        wait until an instance runs on DIR; set VAR_ID, VAR_HTTP, VAR_LISTEN, VAR_LEAF and VAR_METRICS
//	field NAME VAR       set VAR to a field of the JSON object that was printed
//	until REGEXP CMD...  run a command until it succeeds and prints REGEXP
//	code N CMD...        run a command that ends with exit code N
//	taken VAR            set VAR to an address that is taken
//	mode PERM FILE...    check the permissions of files
//	hangup DIR           send SIGHUP to the instance that runs on DIR
//	certificate          make cert.pem and key.pem for 127.0.0.1
//
// Every address is a free port of the loopback interface, by SAPFLOW_*.
func TestScript(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "sapflow-hub"), "../hub")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hub: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			if err := foreign(e); err != nil {
				return err
			}
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			for _, name := range []string{"SAPFLOW_HTTP", "SAPFLOW_LEAF", "SAPFLOW_LISTEN", "SAPFLOW_METRICS"} {
				e.Setenv(name, "127.0.0.1:0")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "field": field, "until": until, "code": code, "taken": taken, "mode": mode, "hangup": hangup, "certificate": certificate,
		},
	})
}

// foreign lets a script's sapflow-agent be the binary AGENT_BIN, of another
// machine, run by AGENT_RUNNER: make qemu.
func foreign(e *testscript.Env) error {
	agent, runner := os.Getenv("AGENT_BIN"), os.Getenv("AGENT_RUNNER")
	if agent == "" {
		return nil
	}
	dir := filepath.Join(e.WorkDir, ".foreign")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	e.Setenv("PATH", dir+string(filepath.ListSeparator)+e.Getenv("PATH"))
	script := fmt.Sprintf("#!/bin/sh\nexec %s %s \"$@\"\n", runner, agent)
	return os.WriteFile(filepath.Join(dir, "sapflow-agent"), []byte(script), 0o700)
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

func certificate(ts *testscript.TestScript, _ bool, _ []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(block), 0o600))
	}
}
