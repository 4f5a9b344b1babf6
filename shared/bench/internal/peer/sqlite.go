package peer

import (
	"context"
	"database/sql"
	"fmt"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// SQLite is a database in the writer's process, as it is meant to be used:
// WAL, every transaction synced, rows clustered by series and time. A value is
// stored as it comes: a number as a REAL, a payload as a BLOB.
type SQLite struct {
	db     *sql.DB
	insert *sql.Stmt
}

const (
	sqliteSchema = `CREATE TABLE point (series INTEGER, time INTEGER, value, PRIMARY KEY (series, time)) WITHOUT ROWID`
	sqliteInsert = `INSERT OR REPLACE INTO point VALUES (?, ?, ?)`
)

// OpenSQLite makes a database at path.
func OpenSQLite(path string) (*SQLite, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, fmt.Errorf("open SQLite: %w", err)
	}
	db.SetMaxOpenConns(1) // it takes one writer at a time anyway: who waits here does not poll
	s := &SQLite{db: db}
	if _, err = db.Exec(sqliteSchema); err == nil {
		s.insert, err = db.Prepare(sqliteInsert)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open SQLite: %w", err)
	}
	return s, nil
}

// Close closes the database.
func (s *SQLite) Close() error { return s.db.Close() }

// Insert stores one point in a transaction of its own.
func (s *SQLite) Insert(series int, time int64, value any) error {
	_, err := s.insert.Exec(series, time, value)
	return err
}

// InsertAll stores n points, which at tells, in one transaction.
func (s *SQLite) InsertAll(n int, at func(i int) (series int, time int64, value any)) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	insert := tx.Stmt(s.insert)
	for i := range n {
		series, time, value := at(i)
		if _, err := insert.Exec(series, time, value); err != nil {
			_ = tx.Rollback()
			return err
		}
	}
	return tx.Commit()
}

// Query asks the table point.
func (s *SQLite) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s.db.QueryContext(ctx, query, args...)
}
