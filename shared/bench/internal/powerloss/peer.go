package powerloss

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/sapflow/sapflow/shared/bench/internal/lab"
)

// peer is another way to keep points.
type peer struct {
	name, what string
	open       func(dir string) (keeper, error)
	every      time.Duration // between two commits; 0: each record before its ack
}

// keeper keeps numbered records, each as large as a point.
type keeper interface {
	// prepare makes what records need, if it is missing.
	prepare(ctx context.Context) (missing bool, err error)
	keep(ctx context.Context, record uint64) error
	commit() error
	// all returns the records that are there.
	all(ctx context.Context) (map[uint64]bool, error)
	close() error
}

// The peers. Those of a power loss ack each record, those of wear commit at
// an interval.
var (
	lossPeers = []peer{
		{name: "jetstream", what: "JetStream, default sync", open: openJetStream(nil)},
		{name: "jetstream-always", what: "JetStream, sync always", open: openJetStream(func(o *server.Options) { o.SyncAlways = true })},
		{name: "sqlite", what: "SQLite, WAL, synchronous FULL", open: openSQLite},
	}
	wearPeers = []peer{
		{name: "jetstream-10s", what: "JetStream, a message a point, sync_interval 10 s", open: openJetStream(func(o *server.Options) { o.SyncInterval = wearCommit })},
		{name: "sqlite-10s", what: "SQLite, WAL, synchronous FULL, 10 s transactions", open: openSQLite, every: wearCommit},
	}
)

// payload is a record of the size of a point with a float: 20 bytes.
func payload(record uint64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 12), record)
}

type stockStore struct {
	*store
	stream jetstream.Stream
}

func openJetStream(set func(*server.Options)) func(string) (keeper, error) {
	return func(dir string) (keeper, error) {
		s, err := openStore(dir, "", set)
		if err != nil {
			return nil, err
		}
		return &stockStore{store: s}, nil
	}
}

func (s *stockStore) prepare(ctx context.Context) (missing bool, err error) {
	s.stream, err = s.js.Stream(ctx, "S")
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, err
	}
	s.stream, err = s.js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	return true, err
}

func (s *stockStore) keep(ctx context.Context, record uint64) error {
	_, err := s.js.Publish(ctx, "s.n"+strconv.Itoa(int(record%30))+".t.0", payload(record))
	return err
}

func (s *stockStore) commit() error { return nil }

func (s *stockStore) all(ctx context.Context) (map[uint64]bool, error) {
	found := map[uint64]bool{}
	info, err := s.stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && info.State.Msgs > 0; seq++ {
		m, err := s.stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(m.Data) != len(payload(0)) {
			return nil, fmt.Errorf("message %d is damaged", seq)
		}
		found[binary.LittleEndian.Uint64(m.Data[12:])] = true
	}
	return found, nil
}

func (s *stockStore) close() error {
	s.store.close()
	return nil
}

// rows is a table of points.
type rows struct {
	db   *sql.DB
	stmt *sql.Stmt
	mu   sync.Mutex
	open bool // a transaction
	long bool // transactions go on until commit
}

// openSQLite opens a database in WAL mode. One process uses it, so that the
// shared memory of the WAL is not a mapped file.
func openSQLite(dir string) (keeper, error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "points.db"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA locking_mode=EXCLUSIVE", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"} {
		if _, err := db.Exec(q); err != nil {
			_ = db.Close()
			return nil, fmt.Errorf("%s: %w", q, err)
		}
	}
	return &rows{db: db}, nil
}

func (r *rows) prepare(ctx context.Context) (missing bool, err error) {
	var n int
	if err := r.db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'points'").Scan(&n); err != nil {
		return false, err
	}
	if n == 0 {
		if _, err := r.db.ExecContext(ctx, "CREATE TABLE points (record INTEGER, node INTEGER, payload BLOB)"); err != nil {
			return true, err
		}
	}
	r.stmt, err = r.db.PrepareContext(ctx, "INSERT INTO points VALUES (?, ?, ?)")
	return n == 0, err
}

func (r *rows) keep(ctx context.Context, record uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.long && !r.open {
		if _, err := r.db.ExecContext(ctx, "BEGIN"); err != nil {
			return err
		}
		r.open = true
	}
	_, err := r.stmt.ExecContext(ctx, int64(record), int64(record%30), payload(record))
	return err
}

func (r *rows) commit() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open {
		return nil
	}
	r.open = false
	_, err := r.db.Exec("COMMIT")
	return err
}

func (r *rows) all(ctx context.Context) (map[uint64]bool, error) {
	found := map[uint64]bool{}
	list, err := r.db.QueryContext(ctx, "SELECT record FROM points")
	if err != nil {
		return nil, err
	}
	defer list.Close()
	for list.Next() {
		var n int64
		if err := list.Scan(&n); err != nil {
			return nil, err
		}
		found[uint64(n)] = true
	}
	return found, list.Err()
}

func (r *rows) close() error { return errors.Join(r.commit(), r.db.Close()) }

// PeerCommand runs a peer as a process, for this program's own use.
const PeerCommand = "peer"

// deskSubject is where a peer is told to keep a record.
func deskSubject(name string) string { return "keep." + name }

// RunPeer runs the peer args[0] on the directory args[1] until ctx ends; it
// takes records at the server args[2].
func RunPeer(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("give a peer, a directory and an address")
	}
	var p *peer
	for _, list := range [][]peer{lossPeers, wearPeers} {
		for i := range list {
			if list[i].name == args[0] {
				p = &list[i]
			}
		}
	}
	if p == nil {
		return fmt.Errorf("there is no peer %q", args[0])
	}
	k, err := p.open(args[1])
	if err != nil {
		return err
	}
	if r, ok := k.(*rows); ok {
		r.long = p.every > 0
	}
	return errors.Join(serve(ctx, p, k, args[2]), k.close())
}

// serve keeps records until ctx ends.
func serve(ctx context.Context, p *peer, k keeper, url string) error {
	if _, err := k.prepare(ctx); err != nil {
		return err
	}
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	var failed error
	sub, err := nc.Subscribe(deskSubject(p.name), func(m *nats.Msg) { // one after the other
		record, err := strconv.ParseUint(string(m.Data), 10, 64)
		if err == nil {
			err = k.keep(ctx, record)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			return // no ack
		}
		_ = m.Respond(nil) // a lost ack is no ack
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		return err
	}
	var due <-chan time.Time
	if p.every > 0 {
		t := time.NewTicker(p.every)
		defer t.Stop()
		due = t.C
	}
	for {
		select {
		case <-ctx.Done():
			err := sub.Drain()
			for err == nil && sub.IsValid() {
				err = lab.Pause(context.Background(), time.Millisecond)
			}
			if ctx.Err() != nil && errors.Is(failed, context.Canceled) {
				failed = nil
			}
			return errors.Join(err, failed)
		case <-due:
			if err := k.commit(); err != nil {
				return err
			}
		}
	}
}

// desk is where this process hands records to peers.
type desk struct {
	ns *server.Server
	nc *nats.Conn
}

func openDesk() (*desk, error) {
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	ns.Start()
	d := &desk{ns: ns}
	if !ns.ReadyForConnections(readyWait) {
		d.close()
		return nil, errors.New("the server for peers is not ready")
	}
	if d.nc, err = nats.Connect("", nats.InProcessServer(ns)); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *desk) close() {
	if d.nc != nil {
		d.nc.Close()
	}
	d.ns.Shutdown()
	d.ns.WaitForShutdown()
}

// hand hands a record over and waits for its ack, and for the peer to be
// there.
func (d *desk) hand(ctx context.Context, p *peer, record uint64) error {
	for {
		_, err := d.nc.RequestWithContext(ctx, deskSubject(p.name), []byte(strconv.FormatUint(record, 10)))
		if !errors.Is(err, nats.ErrNoResponders) {
			return err
		}
		if err := lab.Pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}
