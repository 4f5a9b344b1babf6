package powerloss

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/journal"
	"github.com/sapflow/sapflow/shared/subject"
)

// readyWait bounds the start of a server.
const readyWait = 20 * time.Second

// store is a JetStream store, served to this process only.
type store struct {
	ns *server.Server
	nc *nats.Conn
	js jetstream.JetStream
}

// openStore serves a store directory. An instance keeps its streams in an
// account of its own, which is the only name below jetstream; "" is the
// account of a plain server.
func openStore(dir, account string, set func(*server.Options)) (*store, error) {
	opts := &server.Options{}
	if account != "" {
		err := opts.ProcessConfigString(fmt.Sprintf(`accounts { %q { jetstream: enabled, users: [{user: bench, password: bench}] } }, no_auth_user: bench`, account))
		if err != nil {
			return nil, err
		}
	}
	opts.Host, opts.Port, opts.DontListen, opts.NoSigs, opts.NoLog = "127.0.0.1", -1, true, true, true
	opts.JetStream, opts.StoreDir = true, dir
	if set != nil {
		set(opts)
	}
	s := &store{}
	var err error
	if s.ns, err = server.NewServer(opts); err != nil {
		return nil, err
	}
	s.ns.Start()
	if !s.ns.ReadyForConnections(readyWait) {
		s.close()
		return nil, fmt.Errorf("a server on %s is not ready", dir)
	}
	if s.nc, err = nats.Connect("", nats.InProcessServer(s.ns)); err == nil {
		s.js, err = jetstream.New(s.nc)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

// openData serves the logs of a stopped instance.
func openData(dataDir string) (*store, error) {
	logs, err := filepath.Glob(filepath.Join(dataDir, server.JetStreamStoreDir, "*", "streams", subject.StreamEdge))
	if err != nil || len(logs) != 1 {
		return nil, fmt.Errorf("%s has logs of %d accounts, %w", dataDir, len(logs), err)
	}
	return openStore(dataDir, filepath.Base(filepath.Dir(filepath.Dir(logs[0]))), nil)
}

// place is where a point stands in a log.
type place struct {
	log   string
	epoch frame.Epoch
	seq   uint64
}

// readLogs adds the points of both logs between hub and gateway that a
// stopped instance has to seen, and tells a place that has two contents.
func readLogs(ctx context.Context, dataDir string, seen map[place]string) error {
	s, err := openData(dataDir)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	defer s.close()
	for _, name := range []string{subject.StreamEdge, subject.StreamDown} {
		// The server leaves a stream hidden that was cut while it was made, also
		// after it was made again; every start makes it again.
		stream, err := journal.Ensure(ctx, s.js, journal.LogStream(name, subject.LogsOf(name)))
		if err != nil {
			return fmt.Errorf("read log %s: %w", name, err)
		}
		frames := 0
		from := journal.NewStore(s.js, stream, subject.LogsOf(name))
		for seq := uint64(1); ; {
			m, err := from.Next(ctx, seq)
			if errors.Is(err, journal.ErrEmpty) {
				break
			}
			if err != nil {
				return err
			}
			seq = m.Seq + 1
			frames++
			if err := addFrame(name, m, seen); err != nil {
				return err
			}
		}
		if name == subject.StreamEdge && frames == 0 { // the probes at least
			return fmt.Errorf("log %s in %s is empty", name, dataDir)
		}
	}
	return nil
}

// addFrame adds the points of a frame; set aside ones leave holes.
func addFrame(log string, m journal.Message, seen map[place]string) error {
	f, err := frame.Decode(m.Data, subject.ParseLog(m.Subject))
	if err != nil {
		return fmt.Errorf("log %s, message %d: %w", log, m.Seq, err)
	}
	aside := map[uint64]bool{}
	for _, a := range f.Aside {
		aside[a.Seq] = true
	}
	seq := f.First
	for i := range f.Entries {
		for aside[seq] {
			seq++
		}
		e := &f.Entries[i]
		at := place{log, f.Epoch, seq}
		is := fmt.Sprintf("%s %d %d %t %q %q", e.Series, e.Time, e.DataType, e.Removed(), e.Origin, e.Data)
		if was, ok := seen[at]; ok && was != is {
			return fmt.Errorf("%w: log %s, epoch %s, point %d is %s and was %s", errSequence, log, f.Epoch, seq, is, was)
		}
		seen[at] = is
		seq++
	}
	return nil
}

// compareLogs tells a place in a log that has another content at one end than
// at the other.
func compareLogs(ctx context.Context, dirs ...string) error {
	seen := map[place]string{}
	for _, dir := range dirs {
		if err := readLogs(ctx, dir, seen); err != nil {
			return err
		}
	}
	return nil
}

// AlterCommand changes a stream, for this program's own use: it is a process
// of its own because the store is on a recorder.
const AlterCommand = "alter-stream"

// altered is what it says when it is done.
const altered = "altered"

// Alter gives the stream args[1] of the stopped instance on args[0] one
// subject more.
func Alter(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("give a directory and a stream")
	}
	s, err := openData(args[0])
	if err != nil {
		return err
	}
	defer s.close()
	stream, err := s.js.Stream(ctx, args[1])
	if err != nil {
		return err
	}
	cfg := stream.CachedInfo().Config
	cfg.Subjects = append(cfg.Subjects, "log.other")
	if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
		return err
	}
	fmt.Println(altered)
	return nil
}
