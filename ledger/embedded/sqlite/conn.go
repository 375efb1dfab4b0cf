package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
)

// conn is one SQLite connection with its prepared statements. It speaks to the
// driver without database/sql: the pool here is a channel, and statements with
// hundreds of arguments go to it without a conversion and a lock for each call.
// One goroutine at a time.
type conn struct {
	dc    driver.Conn
	stmts map[string]statement
	args  []driver.NamedValue // scratch

	// Of the writer: what the last transaction left, for this one and for the next one.
	before, after *kept
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type connOptions struct {
	path     string
	vfs      string // "" is the operating system's
	maxPages int64  // 0 is unlimited
	walPages int64  // 0 is defaultWALPages
	readOnly bool
}

// Cache sizes in KiB: the writer's holds the right edge of every B-tree many
// times over; readers ask for tiles and recent leaves.
const (
	writerCacheKiB = 16 << 10
	readerCacheKiB = 4 << 10
	// defaultWALPages is after how many pages a commit copies the WAL back into the
	// database. Larger means rarer and longer pauses: 2000 pages are 8 MB.
	defaultWALPages = 2000
)

func openConn(o connOptions) (*conn, error) {
	q := url.Values{}
	q.Set("_busy_timeout", "5000")
	q.Set("_synchronous", "FULL")
	q.Set("_defensive", "1")
	q.Set("_dqs", "0")
	cache := int64(writerCacheKiB)
	if o.readOnly {
		q.Set("_query_only", "1")
		cache = readerCacheKiB
	} else {
		q.Set("_txlock", "immediate")
	}
	if o.vfs != "" {
		q.Set("vfs", o.vfs)
	}
	if o.walPages == 0 {
		o.walPages = defaultWALPages
	}
	for _, p := range []string{
		fmt.Sprintf("cache_size(-%d)", cache),
		fmt.Sprintf("wal_autocheckpoint(%d)", o.walPages),
		"journal_size_limit(67108864)",
		"temp_store(MEMORY)",
		"trusted_schema(0)",
		"cell_size_check(1)",
	} {
		q.Add("_pragma", p)
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: o.path}).EscapedPath(), RawQuery: q.Encode()}
	dc, err := (&sqlite.Driver{}).Open(dsn.String())
	if err != nil {
		return nil, wrapErr("opening", err)
	}
	c := &conn{dc: dc, stmts: make(map[string]statement)}
	if o.readOnly {
		return c, nil
	}
	if o.maxPages > 0 {
		var got int64
		if err := c.queryInts(fmt.Sprintf(`PRAGMA max_page_count = %d`, o.maxPages), &got); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// useWAL comes after the checks, since it writes.
func (c *conn) useWAL() error {
	var mode string
	if err := c.query(`PRAGMA journal_mode = WAL`, func(r []driver.Value) error {
		mode, _ = r[0].(string)
		return nil
	}); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file system does not support SQLite's WAL (journal mode is %q): use a local disk", mode)
	}
	// What recovery found in the WAL of a killed process may never have been
	// synced, and would be answered AlreadyExists without another sync. So it is
	// synced here, by copying it into the database.
	return c.query(`PRAGMA wal_checkpoint(TRUNCATE)`, func(r []driver.Value) error {
		if integer(r[0]) != 0 {
			return errors.New("another program is reading the file: close it and try again")
		}
		return nil
	})
}

func (c *conn) close() {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	_ = c.dc.Close()
}

func (c *conn) prepare(sql string) (statement, error) {
	if s, ok := c.stmts[sql]; ok {
		return s, nil
	}
	ds, err := c.dc.Prepare(sql)
	if err != nil {
		return nil, wrapErr("preparing a statement", err)
	}
	s, ok := ds.(statement)
	if !ok {
		_ = ds.Close()
		return nil, errors.New("sqlite driver without context methods")
	}
	c.stmts[sql] = s
	return s, nil
}

func (c *conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// exec runs one statement and returns the number of rows it changed. Arguments
// are int64, string, []byte or nil. Statements are short and never interrupted:
// a context that can end costs a goroutine for each of them.
func (c *conn) exec(sql string, args ...any) (int64, error) {
	return c.execNamed(sql, c.bind(args))
}

func (c *conn) execNamed(sql string, args []driver.NamedValue) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), args)
	clear(args) // the scratch must not keep leaves alive
	if err != nil {
		return 0, wrapErr("writing", err)
	}
	return r.RowsAffected()
}

// query calls scan for each row. The slice is reused, its []byte values aren't.
func (c *conn) query(sql string, scan func(row []driver.Value) error, args ...any) (err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.Background(), c.bind(args))
	if err != nil {
		return wrapErr("reading", err)
	}
	defer func() {
		if e := rows.Close(); err == nil && e != nil {
			err = wrapErr("reading", e)
		}
	}()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(row); err == io.EOF {
			return nil
		} else if err != nil {
			return wrapErr("reading", err)
		}
		if err := scan(row); err != nil {
			return err
		}
	}
}

func (c *conn) queryInts(sql string, to ...*int64) error {
	found := false
	err := c.query(sql, func(r []driver.Value) error {
		found = true
		for i := range to {
			v, ok := r[i].(int64)
			if !ok {
				return fmt.Errorf("%s: column %d is no integer", sql, i)
			}
			*to[i] = v
		}
		return nil
	})
	if err == nil && !found {
		return fmt.Errorf("%s: no answer", sql)
	}
	return err
}

func (c *conn) begin(write bool) error {
	sql := `BEGIN`
	if write {
		sql = `BEGIN IMMEDIATE`
	}
	_, err := c.exec(sql)
	return err
}

func (c *conn) commit() error   { _, err := c.exec(`COMMIT`); return err }
func (c *conn) rollback() error { _, err := c.exec(`ROLLBACK`); return err }

// blob copes with SQLite's answer to an empty one, which is nil.
func blob(v driver.Value) []byte {
	b, _ := v.([]byte)
	return b
}

func integer(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}
