package store

import (
	"context"
	"database/sql"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
)

// asked notes what a store reads by, on its way.
type asked struct {
	q interface {
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}
	seen []question
}

type question struct {
	text string
	args []any
}

func (a *asked) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	a.seen = append(a.seen, question{query, args})
	return a.q.QueryContext(ctx, query, args...)
}

func (a *asked) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	a.seen = append(a.seen, question{query, args})
	return a.q.QueryRowContext(ctx, query, args...)
}

// TestPagesReadTheirOwn: what a page of one person reads is found by what is theirs, however much others have: nothing is scanned, and no index is walked but from a place that is given.
func TestPagesReadTheirOwn(t *testing.T) { EachEngine(t, testPagesReadTheirOwn) }

func testPagesReadTheirOwn(t *testing.T, open Opener) {
	s := open(t, t.TempDir())
	a := &asked{q: s.r.q}
	s.r.q = a
	me, other := keys.Owner{1}, keys.Owner{2}
	at := time.UnixMilli(1_764_000_000_000)
	for _, c := range []struct {
		name string
		read func(context.Context) error
	}{
		{"a session", func(ctx context.Context) error { _, err := s.Session(ctx, [32]byte{1}); return err }},
		{"identifiers", func(ctx context.Context) error { _, err := s.Identifiers(ctx, me); return err }},
		{"an account", func(ctx context.Context) error { _, err := s.Citizen(ctx, me); return err }},
		{"contests", func(ctx context.Context) error { _, err := s.ContestsOf(ctx, me, 10); return err }},
		{"a contest", func(ctx context.Context) error { _, err := s.Contest(ctx, ID{1}, "", me); return err }},
		{"erasure requests", func(ctx context.Context) error { _, err := s.ErasureRequests(ctx, me, 10); return err }},
		{"notices", func(ctx context.Context) error { _, err := s.Notices(ctx, me, 0, 10); return err }},
		{"more notices", func(ctx context.Context) error { _, err := s.Notices(ctx, me, 9, 10); return err }},
		{"a delegation", func(ctx context.Context) error { _, err := s.Delegation(ctx, ID{1}); return err }},
		{"those of a delegate", func(ctx context.Context) error { _, err := s.Delegations(ctx, me, keys.Owner{}, ID{}, 10); return err }},
		{"those of a delegate, further on", func(ctx context.Context) error { _, err := s.Delegations(ctx, me, keys.Owner{}, ID{9}, 10); return err }},
		{"those about somebody", func(ctx context.Context) error { _, err := s.Delegations(ctx, keys.Owner{}, me, ID{}, 10); return err }},
		{"those about somebody, further on", func(ctx context.Context) error { _, err := s.Delegations(ctx, keys.Owner{}, me, ID{9}, 10); return err }},
		{"those between two", func(ctx context.Context) error { _, err := s.Delegations(ctx, other, me, ID{}, 10); return err }},
		{"details that are left", func(ctx context.Context) error { _, err := s.PersonParts(ctx, me, 1, 1000); return err }},
		{"records", func(ctx context.Context) error { _, err := s.RecordsOf(ctx, me, "", 0, 10); return err }},
		{"an entry", func(ctx context.Context) error { _, err := s.RowAt(ctx, 1); return err }},
		{"a disclosure's entries", func(ctx context.Context) error { _, err := s.RowsOf(ctx, ID{1}); return err }},
	} {
		a.seen = nil
		if err := c.read(t.Context()); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(a.seen) == 0 {
			t.Errorf("%s: nothing was read", c.name)
		}
		for _, q := range a.seen {
			if wrong := s.walks(t, q); wrong != "" {
				t.Errorf("%s: %s\nis answered by\n%s", c.name, q.text, wrong)
			}
		}
	}
	// What this finds.
	arg := map[bool]string{false: "?", true: "$1"}[s.pg]
	for _, q := range []question{
		{"SELECT id FROM contests WHERE filed > " + arg, []any{at.UnixMilli()}},
		{"SELECT id FROM contests WHERE id > " + arg + " AND lang = 'fr' ORDER BY id LIMIT 1", []any{make([]byte, 16)}},
		{"SELECT count(*) FROM notices WHERE log_index = " + arg, []any{1}},
	} {
		if s.walks(t, q) == "" {
			t.Errorf("%s walks through everybody's, and isn't found", q.text)
		}
	}
}

// place is how SQLite says that it looks something up by a value: not through a whole table or index, nor from a value on.
var place = regexp.MustCompile(`^(SEARCH .*\([^)]*=\?|SCAN CONSTANT ROW|SCAN \(?subquery|(CO-ROUTINE|MATERIALIZE|COMPOUND QUERY|LEFT-MOST SUBQUERY|UNION ALL|LIST SUBQUERY|SCALAR SUBQUERY|CORRELATED|USE TEMP B-TREE|REUSE|MULTI-INDEX OR|INDEX \d|BLOOM FILTER))`)

// walks is the plan of a query if it goes through what others have, too.
func (s *Store) walks(t *testing.T, q question) string {
	t.Helper()
	tx, err := s.r.db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // it only read
	explain := "EXPLAIN QUERY PLAN "
	if s.pg {
		explain = "EXPLAIN "
		if _, err := tx.ExecContext(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := tx.QueryContext(t.Context(), explain+q.text, q.args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	plan, bad, scans := "", false, 0
	for rows.Next() {
		var text string
		into := []any{&text}
		if !s.pg {
			into = []any{new(int), new(int), new(int), &text}
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		plan += text + "\n"
		bad = bad || s.pg && strings.Contains(text, "Seq Scan") || !s.pg && !place.MatchString(text)
		if indexScan.MatchString(text) {
			scans++
		}
		if indexCond.MatchString(text) {
			scans--
		}
	}
	bad = bad || scans > 0
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if !bad {
		return ""
	}
	return plan
}

// PostgreSQL, told to avoid what scans a table, walks through an index where none leads to a place: without a condition, or from a value on.
var (
	indexScan = regexp.MustCompile(`Index (Only )?Scan`)
	indexCond = regexp.MustCompile(`Index Cond: .* = `)
)
