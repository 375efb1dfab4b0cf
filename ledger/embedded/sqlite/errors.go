package sqlite

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Error is a failure of SQLite or of the disk under it. It carries a gRPC status,
// so that it reaches a Trillian client as what it is: ResourceExhausted (disk
// full), DataLoss (damaged file), Unavailable (locked, I/O error) or Internal.
type Error struct {
	op   string
	code codes.Code
	hint string
	err  error
}

func (e *Error) Error() string {
	if e.hint == "" {
		return fmt.Sprintf("%s the log database: %v", e.op, e.err)
	}
	return fmt.Sprintf("%s the log database: %v: %s", e.op, e.err, e.hint)
}

// Unwrap returns the driver's error.
func (e *Error) Unwrap() error { return e.err }

// GRPCStatus is how the gRPC server finds the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }

// wrapErr gives a driver error its meaning. Constraint texts name columns, never
// values, so nothing of a leaf gets into an error.
func wrapErr(op string, err error) error {
	var se *sqlite.Error
	if err == nil || !errors.As(err, &se) {
		return err
	}
	e := &Error{op: op, code: codes.Internal, err: err}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		e.code, e.hint = codes.ResourceExhausted, "free some space and try again, nothing was written"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		e.code, e.hint = codes.DataLoss, "the file is damaged: stop, keep it for examination and restore the log from a backup or from its tiles"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		e.code, e.hint = codes.Unavailable, "another program has the file open: close it and try again"
	case sqlite3.SQLITE_IOERR:
		e.code, e.hint = codes.Unavailable, "the disk failed; it is unknown whether this write was kept: repeat it"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
		e.code, e.hint = codes.Unavailable, "check that this user may write the file and its directory"
	}
	return e
}
