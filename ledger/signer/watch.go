package signer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/trillian/types"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// channel is where regard.sql tells of leaves and roots.
const channel = "regard_trillian"

// watch listens to PostgreSQL for what any server adds and any signer integrates. What this process did itself it is told at once.
type watch struct {
	cfg   *pgx.ConnConfig
	db    *pgxpool.Pool
	tree  int64
	log   *slog.Logger
	added chan struct{} // one waits at most

	mu        sync.Mutex
	listening bool
	root      types.LogRootV1 // the largest that was heard of; empty before
	changed   chan struct{}   // closed when size or listening changes
}

func newWatch(cfg *pgx.ConnConfig, db *pgxpool.Pool, tree int64, log *slog.Logger) *watch {
	return &watch{cfg: cfg, db: db, tree: tree, log: log, added: make(chan struct{}, 1), changed: make(chan struct{})}
}

// run listens until ctx ends, and connects again when it has to.
func (w *watch) run(ctx context.Context) {
	const least, most = 50 * time.Millisecond, time.Second
	for pause := least; ctx.Err() == nil; pause = min(2*pause, most) {
		err := w.listen(ctx)
		listened := false
		w.set(func() { listened, w.listening = w.listening, false })
		if ctx.Err() != nil {
			return
		}
		if listened || pause == least { // said once
			w.log.Warn("not told of new leaves; they are looked for every half second until PostgreSQL answers", "error", err)
		}
		if listened {
			pause = least
		}
		sleep(ctx, pause)
	}
}

// quiet is how long nothing may be heard before the connection is tested.
const quiet = 10 * time.Second

func (w *watch) listen(ctx context.Context) error {
	dial, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	conn, err := pgx.ConnectConfig(dial, w.cfg)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // closes at once after an error, and says goodbye otherwise
	if _, err := conn.Exec(dial, "LISTEN "+channel); err != nil {
		return err
	}
	// What was stored before is not told.
	root, err := latestRoot(dial, conn, w.tree)
	if err != nil {
		return err
	}
	w.set(func() { w.listening, w.root = true, root })
	w.wake()
	for {
		wait, cancel := context.WithTimeout(ctx, quiet)
		n, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && wait.Err() != nil && !conn.IsClosed():
			test, cancel := context.WithTimeout(ctx, quiet)
			err = conn.Ping(test)
			cancel()
			if err != nil {
				return fmt.Errorf("testing the connection: %w", err)
			}
			continue
		case err != nil:
			return err
		}
		if n.Payload == "added" {
			w.wake()
			continue
		}
		var tree int64
		var size, at uint64
		var hash []byte
		if _, err := fmt.Sscanf(n.Payload, "integrated %d %d %d %x", &tree, &size, &at, &hash); err == nil && tree == w.tree {
			w.heard(types.LogRootV1{TreeSize: size, TimestampNanos: at, RootHash: bytes.Clone(hash)})
		}
	}
}

func (w *watch) wake() {
	select {
	case w.added <- struct{}{}:
	default:
	}
}

// heard takes up a root that is in the database.
func (w *watch) heard(root types.LogRootV1) {
	w.set(func() {
		if root.TreeSize > w.root.TreeSize {
			w.root = root
		}
	})
}

func (w *watch) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// reached waits until a root of at least that size was heard of, and returns it. It is not so when ctx ends first, or nobody is listening.
func (w *watch) reached(ctx context.Context, size uint64) (root types.LogRootV1, ok bool) {
	for {
		w.mu.Lock()
		root, listening, changed := w.root, w.listening, w.changed
		w.mu.Unlock()
		switch {
		case !listening:
			return root, false
		case root.TreeSize >= size:
			return root, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return root, false
		}
	}
}

// lookAfter is how long a root is waited for before it is looked for: of one that a log server made at once (see batch) nobody tells. Only who lost the answer to that asks for it.
const lookAfter = 100 * time.Millisecond

// await is reached, for awaitLimit, and looks into the database now and then.
func (w *watch) await(ctx context.Context, size uint64) (root types.LogRootV1, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	for {
		wait, cancel := context.WithTimeout(ctx, lookAfter)
		root, ok = w.reached(wait, size)
		waited := wait.Err() != nil
		cancel()
		if ok || !waited || ctx.Err() != nil {
			return root, ok
		}
		if is, err := latestRoot(ctx, w.db, w.tree); err == nil {
			w.heard(is)
		}
	}
}

// latestRoot reads the newest root of a tree; pgx.ErrNoRows if it has none.
func latestRoot(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, tree int64) (root types.LogRootV1, err error) {
	err = db.QueryRow(ctx, `SELECT TreeSize, TreeHeadTimestamp, RootHash FROM TreeHead WHERE TreeId = $1 ORDER BY TreeHeadTimestamp DESC LIMIT 1`, tree).Scan(&root.TreeSize, &root.TimestampNanos, &root.RootHash)
	return root, err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
