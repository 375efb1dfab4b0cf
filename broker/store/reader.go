package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"sync"
)

// querier reads: outside any transaction, or as of one moment.
type querier struct {
	q interface {
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}
	pg bool
}

func (q querier) text(query string) string {
	if q.pg {
		return forPostgres(query)
	}
	return query
}

func (q querier) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.q.QueryContext(ctx, q.text(query), args...)
}

func (q querier) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return q.q.QueryRowContext(ctx, q.text(query), args...)
}

// reader is the pool of connections that only read.
type reader struct {
	querier
	db *sql.DB
}

func newReader(db *sql.DB, conns int, pg bool) *reader {
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return &reader{querier{db, pg}, db}
}

// snapshot reads as of one moment.
type snapshot struct {
	querier
	*sql.Tx
}

func (s snapshot) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s.querier.QueryContext(ctx, query, args...)
}

func (s snapshot) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return s.querier.QueryRowContext(ctx, query, args...)
}

func (r *reader) snapshot(ctx context.Context) (snapshot, error) {
	o := &sql.TxOptions{ReadOnly: true}
	if r.pg {
		o.Isolation = sql.LevelRepeatableRead
	}
	tx, err := r.db.BeginTx(ctx, o)
	return snapshot{querier{tx, r.pg}, tx}, err
}

func (r *reader) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	return r.db.PrepareContext(ctx, r.text(query))
}

var postgresTexts sync.Map // of queries, which are few

// forPostgres writes a query as PostgreSQL has it. The two differ, in what is used here, in placeholders and in the empty blob.
func forPostgres(query string) string {
	if text, ok := postgresTexts.Load(query); ok {
		return text.(string)
	}
	var b strings.Builder
	last, quoted := 0, false
	for i := 0; i < len(query); i++ {
		switch c := query[i]; {
		case c == '\'':
			quoted = !quoted
			b.WriteByte(c)
		case quoted:
			b.WriteByte(c)
		case c == 'x' && strings.HasPrefix(query[i:], "x''"):
			b.WriteString("''::bytea")
			i += 2
		case c == '?':
			end := i + 1
			for end < len(query) && query[end] >= '0' && query[end] <= '9' {
				end++
			}
			n := last + 1 // one more than the greatest so far (https://sqlite.org/lang_expr.html#varparam)
			if end > i+1 {
				n, _ = strconv.Atoi(query[i+1 : end])
			}
			last = max(last, n)
			b.WriteString("$" + strconv.Itoa(n))
			i = end - 1
		default:
			b.WriteByte(c)
		}
	}
	postgresTexts.Store(query, b.String())
	return b.String()
}
