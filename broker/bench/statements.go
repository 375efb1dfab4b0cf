package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"
)

// countStatements is what PostgreSQL needs to count its statements, if that is asked for: it costs a little.
var countStatements = []string{"shared_preload_libraries = pg_stat_statements", "pg_stat_statements.max = 1000", "pg_stat_statements.track = all", "pg_stat_statements.track_utility = on", "pg_stat_statements.track_planning = on"}

// statements are what a database server counted, of the cluster's databases alone.
type statements struct {
	conn   *pgx.Conn
	file   string
	before map[string]int64 // commits, by database
	wal    [2]int64         // bytes and syncs
}

// countFrom begins to count.
func (e *engines) countFrom(ctx context.Context) (s *statements, err error) {
	s = &statements{file: e.r.o.Statements}
	if s.conn, err = pgx.Connect(ctx, e.databases[0].Superuser("regard")); err != nil {
		return nil, err
	}
	if _, err = s.conn.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err == nil {
		_, err = s.conn.Exec(ctx, "SELECT pg_stat_statements_reset()")
	}
	if err == nil {
		s.before, err = s.commits(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.conn.Close(ctx))
	}
	return s, nil
}

func (s *statements) commits(ctx context.Context) (map[string]int64, error) {
	rows, err := s.conn.Query(ctx, "SELECT datname, xact_commit FROM pg_stat_database WHERE datname IN ('regard', 'trillian')")
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	var name string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { out[name] = n; return nil })
	if err != nil {
		return nil, err
	}
	return out, s.conn.QueryRow(ctx, "SELECT wal_bytes::bigint, wal_sync FROM pg_stat_wal").Scan(&s.wal[0], &s.wal[1])
}

// write writes what was counted since, for so many answers.
func (s *statements) write(ctx context.Context, answers int64) (err error) {
	defer func() { err = errors.Join(err, s.conn.Close(ctx)) }()
	f, err := os.Create(s.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	wal := s.wal
	now, err := s.commits(ctx)
	if err != nil {
		return err
	}
	per := func(n int64) float64 { return float64(n) / float64(max(answers, 1)) }
	fmt.Fprintf(f, "%d answers\n", answers)
	for _, name := range []string{"regard", "trillian"} {
		fmt.Fprintf(f, "database %s: %.4f commits an answer, reading ones too\n", name, per(now[name]-s.before[name]))
	}
	fmt.Fprintf(f, "server: %.0f bytes of write-ahead log and %.4f syncs an answer, those of Trillian alone included\n\n", per(s.wal[0]-wal[0]), per(s.wal[1]-wal[1]))
	rows, err := s.conn.Query(ctx, `SELECT d.datname, s.query, s.calls, s.plans, s.rows, s.total_exec_time, s.total_plan_time, s.wal_bytes::bigint, s.shared_blks_hit + s.shared_blks_read, s.toplevel
		FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname IN ('regard', 'trillian') ORDER BY s.total_exec_time + s.total_plan_time DESC LIMIT 60`)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(f, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "µs an answer\tplanning\tcalls\tplans\trows\tWAL bytes\tpages\tms a call\tdatabase\t  statement\n")
	var database, query string
	var calls, plans, n, wrote, pages int64
	var exec, plan float64
	var top bool
	_, err = pgx.ForEachRow(rows, []any{&database, &query, &calls, &plans, &n, &exec, &plan, &wrote, &pages, &top}, func() error {
		query = strings.Join(slices.Collect(strings.FieldsSeq(query)), " ")
		if len(query) > 160 {
			query = query[:160]
		}
		if !top {
			query = "(within) " + query
		}
		_, err := fmt.Fprintf(t, "%.1f\t%.1f\t%.4f\t%.4f\t%.3f\t%.0f\t%.1f\t%.3f\t%s\t  %s\n", 1000*per(int64(exec+plan)), 1000*per(int64(plan)), per(calls), per(plans), per(n), per(wrote), per(pages), (exec+plan)/float64(max(calls, 1)), database, query)
		return err
	})
	return errors.Join(err, t.Flush())
}
