package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/keys"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Locks are those of lane.go: rest, all, order.
var Locks = []any{int64(lockRest), int64(lockAll), int64(lockOrder)}

// Forget removes what stands beside the log about somebody, as an erasure does.
func (s *Store) Forget(ctx context.Context, owner keys.Owner, now time.Time) error {
	return s.keep(ctx, func(t *tx) error { return forget(t, owner, now) })
}

// Opener opens the store of a directory, or the one that stands for it on another engine.
type Opener func(t testing.TB, dir string, set ...func(*Config)) *Store

// EachEngine runs a test on SQLite and on PostgreSQL.
func EachEngine(t *testing.T, test func(t *testing.T, open Opener)) {
	t.Run("sqlite", func(t *testing.T) { test(t, OpenSQLite) })
	t.Run("postgres", func(t *testing.T) {
		d := Databases(t)
		test(t, d.Open)
	})
}

// EachEngineB is EachEngine for benchmarks; the server syncs.
func EachEngineB(b *testing.B, bench func(b *testing.B, open Opener)) {
	b.Run("sqlite", func(b *testing.B) { bench(b, OpenSQLite) })
	b.Run("postgres", func(b *testing.B) {
		bench(b, DatabasesOn(b, pgtest.Own(b, "fsync = on", "shared_buffers = 256MB", "max_wal_size = 2GB")).Open)
	})
}

// OpenSQLite is an Opener.
func OpenSQLite(t testing.TB, dir string, set ...func(*Config)) *Store {
	t.Helper()
	return opened(t, Config{Dir: dir}, set)
}

func opened(t testing.TB, cfg Config, set []func(*Config)) *Store {
	t.Helper()
	for _, f := range set {
		f(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// PostgresDatabases are those of a test.
type PostgresDatabases struct {
	Cluster *pgcluster.Cluster
	mu      sync.Mutex
	names   map[string]string
}

// Databases are on the server that the tests share.
func Databases(t testing.TB) *PostgresDatabases {
	t.Helper()
	return DatabasesOn(t, pgtest.Shared(t))
}

// DatabasesOn are on another server.
func DatabasesOn(t testing.TB, c *pgcluster.Cluster) *PostgresDatabases {
	t.Helper()
	return &PostgresDatabases{Cluster: c, names: map[string]string{}}
}

var (
	databases atomic.Int64
	templates struct {
		sync.Mutex
		on map[*pgcluster.Cluster]error
	}
)

// template is a database that is migrated.
const template = "regard_template"

// Name of the database that stands for a directory. It is made if there is none.
func (d *PostgresDatabases) Name(t testing.TB, dir string) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if name, ok := d.names[dir]; ok {
		return name
	}
	templates.Lock()
	defer templates.Unlock()
	if _, ok := templates.on[d.Cluster]; !ok {
		if templates.on == nil {
			templates.on = map[*pgcluster.Cluster]error{}
		}
		err := d.Cluster.SQL(t.Context(), "postgres", "CREATE DATABASE "+template)
		if err == nil {
			err = Migrate(t.Context(), d.Cluster.Superuser(template))
		}
		templates.on[d.Cluster] = err
	}
	if err := templates.on[d.Cluster]; err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("store_%d", databases.Add(1))
	if err := d.Cluster.SQL(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatal(err)
	}
	d.names[dir] = name
	return name
}

// Config of the store that stands for a directory.
func (d *PostgresDatabases) Config(t testing.TB, dir string) Config {
	t.Helper()
	name := d.Name(t, dir)
	return Config{Postgres: d.Cluster.DSN(name, "regard_broker"), Keeper: d.Cluster.DSN(name, "regard_keeper")}
}

// Open is an Opener.
func (d *PostgresDatabases) Open(t testing.TB, dir string, set ...func(*Config)) *Store {
	t.Helper()
	return opened(t, d.Config(t, dir), append(set, func(c *Config) { c.Dir = "" }))
}

// looksUpBy fails the test if a query isn't answered by an index of a name without sorting. PostgreSQL names the indexes of partitions by itself, so there it may be any.
func looksUpBy(t *testing.T, s *Store, index, query string, args ...any) {
	t.Helper()
	var plan strings.Builder
	if !s.pg {
		err := s.each(t.Context(), "EXPLAIN QUERY PLAN "+query, func(scan func(...any) error) error {
			var a, b, c int
			var text string
			err := scan(&a, &b, &c, &text)
			plan.WriteString(text + "\n")
			return err
		}, args...)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan.String(), index) || strings.Contains(plan.String(), "TEMP B-TREE") {
			t.Errorf("%s\nis answered by\n%s", query, &plan)
		}
		return
	}
	tx, err := s.r.snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() //nolint:errcheck // it only read
	if _, err := tx.ExecContext(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.QueryContext(t.Context(), "EXPLAIN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(text + "\n")
	}
	if err := rows.Err(); err != nil || strings.Contains(plan.String(), "Seq Scan") || strings.Contains(plan.String(), "Sort  (") {
		t.Errorf("%s\nis answered by\n%s%v", query, &plan, err)
	}
}
