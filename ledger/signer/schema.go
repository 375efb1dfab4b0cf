package signer

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/postgresql"
	"github.com/google/trillian/util/clock"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/regard-broker/regard/ledger/dsn"
	"github.com/regard-broker/regard/ledger/engine"
)

// trillianSchema is storage/postgresql/schema/storage.sql of Trillian, word for word: a test compares them.
//
//go:embed trillian.sql
var trillianSchema string

//go:embed regard.sql
var regardSchema string

// oldest is the first PostgreSQL whose sessions can be made to end when their client falls silent (idle_session_timeout).
const oldest = 140000

// Init prepares a database: Trillian's schema with Regard's additions (regard.sql), one pre-ordered log, and its first root. It returns the id of that tree. What is there already stays as it is,
// so it can be called again, also by several at once; additions are brought up to date. The user of the address becomes the owner of the tables, which is what a signer has to be.
func Init(ctx context.Context, address string) (int64, error) {
	cfg, err := poolConfig(address, "regard signer init")
	if err != nil {
		return 0, err
	}
	engine.RedirectKlog(slog.Default()) // before Trillian's code runs: klog's output is a global
	db, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("opening Trillian's database: %w", err)
	}
	defer db.Close()
	conn, err := db.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("opening Trillian's database: %w", err)
	}
	defer conn.Release()
	// Until the session ends, which is when the pool is closed.
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext('regard'), hashtext('init'))`); err != nil {
		return 0, fmt.Errorf("preparing Trillian's database: %w", err)
	}
	defer func() {
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(hashtext('regard'), hashtext('init'))`)
	}()
	if err := createSchema(ctx, conn.Conn()); err != nil {
		return 0, err
	}
	tree, err := findTree(ctx, postgresql.NewAdminStorage(db), 0)
	if errors.Is(err, errNoTree) {
		tree, err = storage.CreateTree(ctx, postgresql.NewAdminStorage(db), engine.NewTree())
	}
	if err != nil {
		return 0, fmt.Errorf("finding the tree: %w", err)
	}
	return tree.TreeId, initTree(ctx, db, tree)
}

func createSchema(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, to_regclass('trees') IS NOT NULL`).Scan(&version, &exists); err != nil {
		return fmt.Errorf("looking at Trillian's database: %w", err)
	}
	if version < oldest {
		return fmt.Errorf("the server is PostgreSQL %d: 14 or a newer one is needed", version/10000)
	}
	sql := regardSchema
	if !exists {
		sql = trillianSchema + regardSchema
	}
	// Statements sent at once are one transaction.
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("creating Trillian's schema: %w", err)
	}
	return nil
}

var errNoTree = errors.New("the database has no log: prepare it with regard signer init")

// findTree returns the tree of that id, or for 0 the only one that there is.
func findTree(ctx context.Context, admin storage.AdminStorage, id int64) (*trillian.Tree, error) {
	trees, err := storage.ListTrees(ctx, admin, false)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == pgerrcode.UndefinedTable {
		return nil, errNoTree
	}
	if err != nil {
		return nil, err
	}
	var found *trillian.Tree
	for _, t := range trees {
		if t.TreeType != trillian.TreeType_PREORDERED_LOG || id != 0 && t.TreeId != id {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("the database has several logs, %d and %d: say which (tree)", found.TreeId, t.TreeId)
		}
		found = t
	}
	switch {
	case found == nil && id != 0:
		return nil, fmt.Errorf("the database has no pre-ordered log %d", id)
	case found == nil:
		return nil, errNoTree
	case found.TreeState != trillian.TreeState_ACTIVE:
		return nil, fmt.Errorf("the log %d is %s, not ACTIVE: somebody set it so by Trillian's own tools", found.TreeId, found.TreeState)
	}
	return found, nil
}

// initTree stores the first root if there is none, which may be the second try after a crash.
func initTree(ctx context.Context, db *pgxpool.Pool, tree *trillian.Tree) error {
	logs := postgresql.NewLogStorage(db, nil)
	tx, err := logs.SnapshotForTree(ctx, tree)
	if tx != nil {
		defer func() { _ = tx.Close() }()
	}
	if !errors.Is(err, storage.ErrTreeNeedsInit) {
		return err
	}
	rpc := server.NewTrillianLogRPCServer(extension.Registry{AdminStorage: engine.OneTree(tree, postgresql.NewAdminStorage(db)), LogStorage: logs, QuotaManager: quota.Noop()}, clock.System)
	if _, err := rpc.InitLog(ctx, &trillian.InitLogRequest{LogId: tree.TreeId}); err != nil {
		return fmt.Errorf("storing the first root: %w", err)
	}
	return nil
}

// poolConfig is of connections to the database at an address.
func poolConfig(address, name string) (*pgxpool.Config, error) {
	conn, err := dsn.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the database of Trillian: %w", err)
	}
	cfg, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("preparing connections to Trillian's database: %w", err)
	}
	cfg.ConnConfig = conn
	conn.RuntimeParams["application_name"] = name
	return cfg, nil
}
