package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"modernc.org/sqlite"
)

// conn is a connection to SQLite with its prepared statements: the writer's, or the folder's. It speaks to the driver without database/sql, whose locks and conversions cost as much as a small
// statement. One goroutine at a time.
type conn struct {
	dc    driver.Conn
	stmts map[string]statement
	args  []driver.NamedValue // scratch
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func openConn(dsn string) (*conn, error) {
	dc, err := (&sqlite.Driver{}).Open(dsn)
	if err != nil {
		return nil, err
	}
	return &conn{dc: dc, stmts: map[string]statement{}}, nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.dc.Close())...)
}

func (c *conn) prepare(query string) (statement, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	ds, err := c.dc.Prepare(query)
	if err != nil {
		return nil, err
	}
	s, ok := ds.(statement)
	if !ok {
		return nil, errors.Join(errors.New("store: an SQLite driver without context methods"), ds.Close())
	}
	c.stmts[query] = s
	return s, nil
}

func (c *conn) bind(args []any) ([]driver.NamedValue, error) {
	c.args = c.args[:0]
	for i, a := range args {
		switch v := a.(type) {
		case int64, string, nil:
		case []byte:
			if v == nil {
				a = nil // as database/sql has it
			}
		default:
			var err error
			if a, err = driver.DefaultParameterConverter.ConvertValue(a); err != nil {
				return nil, err
			}
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args, nil
}

// exec runs one statement and returns how many rows it changed. Statements are short and never interrupted: a context that can end costs a goroutine for each of them.
func (c *conn) exec(query string, args ...any) (int64, error) {
	s, err := c.prepare(query)
	if err != nil {
		return 0, err
	}
	bound, err := c.bind(args)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(context.Background(), bound)
	clear(bound) // the scratch must not keep what was written
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// insert inserts rows, whose values lie one behind the other, with few statements; there is one for each of a few numbers of rows, and it stays prepared.
func (c *conn) insert(into string, width int, values []any) error {
	for _, step := range insertSteps {
		for n := step * width; len(values) >= n; values = values[n:] {
			if _, err := c.exec(insertRows(into, width, step), values[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

var insertSteps = []int{64, 16, 4, 1}

func insertRows(into string, width, rows int) string {
	row := "(?" + strings.Repeat(",?", width-1) + ")"
	return into + " VALUES " + row + strings.Repeat(","+row, rows-1)
}

// row is a row of an answer, or why there is none.
type row struct {
	values []driver.Value
	err    error
}

var errEnough = errors.New("no more rows are wanted")

// row returns the first row of an answer.
func (c *conn) row(query string, args ...any) row {
	first := row{err: sql.ErrNoRows}
	err := c.rows(query, func(r row) error {
		first = r
		return errEnough
	}, args...)
	if err != nil && err != errEnough {
		return row{err: err}
	}
	return first
}

// rows calls fn for the rows of an answer. What they hold is overwritten by the next one, but for blobs.
func (c *conn) rows(query string, fn func(row) error, args ...any) (err error) {
	s, err := c.prepare(query)
	if err != nil {
		return err
	}
	bound, err := c.bind(args)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.Background(), bound)
	clear(bound)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	values := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(values); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := fn(row{values: values}); err != nil {
			return err
		}
	}
}

// Scan is that of database/sql for the types that are used here.
func (r row) Scan(to ...any) error {
	if r.err != nil {
		return r.err
	}
	if len(to) != len(r.values) {
		return fmt.Errorf("store: %d columns for %d variables", len(r.values), len(to))
	}
	for i, v := range to {
		if err := scan(v, r.values[i]); err != nil {
			return fmt.Errorf("store: column %d: %w", i, err)
		}
	}
	return nil
}

func scan(to any, v driver.Value) error {
	if s, ok := to.(sql.Scanner); ok {
		return s.Scan(v)
	}
	switch to := to.(type) {
	case *int64:
		n, ok := v.(int64)
		if !ok {
			return fmt.Errorf("a %T is no number", v)
		}
		*to = n
	case *bool:
		switch v := v.(type) {
		case bool:
			*to = v
		case int64:
			*to = v != 0
		default:
			return fmt.Errorf("a %T is no truth value", v)
		}
	case *string:
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("a %T is no text", v)
		}
		*to = text
	case *[]byte:
		b, ok := v.([]byte)
		if !ok && v != nil {
			return fmt.Errorf("a %T is no blob", v)
		}
		*to = b
	default:
		return fmt.Errorf("no way to scan into a %T", to)
	}
	return nil
}
