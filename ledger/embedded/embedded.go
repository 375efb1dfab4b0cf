// Package embedded runs Trillian inside the process: one pre-ordered log in one
// SQLite file, spoken to through the same trillian.TrillianLogClient as a
// Trillian server, without a port, a signer process or polling.
//
// When AddSequencedLeaves returns, every leaf with status OK or AlreadyExists is
// durable at its index, and if no leaf was refused, those that follow the tree
// without a gap are in it (the first 1024), under a root that is durable: one
// transaction, one fsync. When [Log.Integrate] returns, every leaf that was
// durable before it began, and has no gap below it, is in the tree; most often
// that costs nothing more. A leaf added again after a crash is answered
// AlreadyExists, so the same leaves always give the same root, whatever was
// interrupted.
//
// It does not sign roots, does not choose the order, and serves one process. It
// is not trusted with the truth either: whoever can write the file can change
// it, and that shows only against checkpoints signed and witnessed elsewhere.
// GetLeavesByRange may return leaves past the root; GetInclusionProofByHash is
// Unimplemented, since the log is not indexed by hash (see package sqlite).
package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/log"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/types"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/regard-broker/regard/ledger/embedded/sqlite"
	"github.com/regard-broker/regard/ledger/engine"
)

// ErrLocked says that another process has the log open.
var ErrLocked = sqlite.ErrLocked

// integrateLimit bounds the memory and the duration of one transaction.
const integrateLimit = 1024

// Config says where the log is.
type Config struct {
	// Path of the database file on a local disk; created if missing, readable by
	// this user only. See sqlite.Config.Path for the files beside it.
	Path string
	// Logger gets what Trillian and the storage have to say: warnings and errors,
	// and a debug line a batch. Nil is silence. Trillian logs through a global of
	// its process, so with several logs open the one opened last gets it all.
	Logger *slog.Logger
	// Clock gives the time of roots. Nil is time.Now. It may jump: the times of
	// roots still increase.
	Clock func() time.Time
	// CheckLimit is sqlite.Config.CheckLimit.
	CheckLimit int64
}

// Log is an open log. It is safe for concurrent use.
type Log struct {
	storage *sqlite.Storage
	logs    *sqlite.LogStorage
	tree    *trillian.Tree
	clock   *engine.Clock
	logger  *slog.Logger
	calls   *calls
	client  trillian.TrillianLogClient

	integrating sync.Mutex // held while leaves are added, too
	whole       bool       // no leaf is known that follows the tree

	closeOnce sync.Once
	closeErr  error
}

// Open opens the log and creates it at first. Its errors say what to do;
// ErrLocked means that another process has it open. Before it returns, the tree
// is known to add up to its latest root.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	engine.RedirectKlog(cfg.Logger)
	log.InitMetrics(nil) // once a process; IntegrateBatch panics without

	l := &Log{logger: cfg.Logger, clock: engine.NewClock(cfg.Clock, cfg.Logger)}
	l.storage, err = sqlite.Open(ctx, sqlite.Config{
		Path: cfg.Path, Logger: cfg.Logger, Clock: cfg.Clock, CheckLimit: cfg.CheckLimit,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the embedded log: %w", err)
	}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	l.logs = l.storage.Log()
	if l.tree, err = findTree(ctx, l.storage.Admin()); err != nil {
		return nil, fmt.Errorf("opening the embedded log: %w", err)
	}
	registry := extension.Registry{
		AdminStorage: engine.OneTree(l.tree, l.storage.Admin()),
		LogStorage:   growing{l.logs, l},
		QuotaManager: quota.Noop(),
	}
	rpc := server.NewTrillianLogRPCServer(registry, l.clock)
	if err := l.prepareTree(ctx, rpc); err != nil {
		return nil, fmt.Errorf("opening the embedded log: %w", err)
	}
	l.calls = newCalls(rpc)
	l.client = trillian.NewTrillianLogClient(l.calls)
	return l, nil
}

// findTree returns the one tree of the file. An empty file gets one.
func findTree(ctx context.Context, admin storage.AdminStorage) (*trillian.Tree, error) {
	trees, err := storage.ListTrees(ctx, admin, true)
	if err != nil {
		return nil, err
	}
	switch {
	case len(trees) == 0:
		tree := engine.NewTree()
		tree.StorageSettings = sqlite.WithoutHashIndexes()
		return storage.CreateTree(ctx, admin, tree)
	case len(trees) > 1 || trees[0].TreeType != trillian.TreeType_PREORDERED_LOG || trees[0].Deleted:
		return nil, errors.New("the file does not hold exactly one pre-ordered log: give another path")
	}
	return trees[0], nil
}

// prepareTree stores the first root if there is none, which may be the second
// try after a crash, and otherwise checks the latest one.
func (l *Log) prepareTree(ctx context.Context, rpc *server.TrillianLogRPCServer) error {
	tx, err := l.logs.SnapshotForTree(ctx, l.tree)
	if tx != nil {
		defer func() { _ = tx.Close() }()
	}
	if errors.Is(err, storage.ErrTreeNeedsInit) {
		_ = tx.Close()
		_, err = rpc.InitLog(ctx, &trillian.InitLogRequest{LogId: l.tree.TreeId})
		return err
	} else if err != nil {
		return err
	}
	slr, err := tx.LatestSignedLogRoot(ctx)
	if err != nil {
		return err
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary(slr.LogRoot); err != nil {
		return err
	}
	l.clock.StartAfter(int64(root.TimestampNanos))
	computed, err := computeRoot(ctx, tx, root.TreeSize)
	if err != nil {
		return fmt.Errorf("computing the root of size %d: %w", root.TreeSize, err)
	}
	if !bytes.Equal(computed, root.RootHash) {
		return status.Errorf(codes.DataLoss, "the tree of size %d does not add up to its root: restore the log from a backup or from its tiles", root.TreeSize)
	}
	return nil
}

// computeRoot adds up the roots of the perfect subtrees.
func computeRoot(ctx context.Context, tx storage.ReadOnlyLogTreeTX, size uint64) ([]byte, error) {
	if size == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	ids := compact.RangeNodes(0, size, nil)
	nodes, err := tx.GetMerkleNodes(ctx, ids)
	if err != nil {
		return nil, err
	}
	if len(nodes) != len(ids) {
		return nil, status.Errorf(codes.DataLoss, "%d of %d tree nodes are missing: restore the log from a backup or from its tiles", len(ids)-len(nodes), len(ids))
	}
	hashes := make([][]byte, len(nodes))
	for i, n := range nodes {
		hashes[i] = n.Hash
	}
	r, err := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, size, hashes)
	if err != nil {
		return nil, err
	}
	return r.GetRootHash(nil)
}

// Client is how to talk to the log. It is closed with it.
func (l *Log) Client() trillian.TrillianLogClient { return l.client }

// TreeID is the id of the file's one tree, the same at every opening.
func (l *Log) TreeID() int64 { return l.tree.TreeId }

// Integrate brings all leaves that follow the tree without a gap into it, in
// transactions of at most 1024 leaves. Without such leaves it changes nothing.
// After an error it can be called again; what it had integrated stays.
func (l *Log) Integrate(ctx context.Context) error {
	l.integrating.Lock()
	defer l.integrating.Unlock()
	for !l.whole {
		n, err := l.integrate(ctx, l.logs)
		if err != nil {
			return err
		}
		l.whole = n < integrateLimit // the transaction saw no more
	}
	return nil
}

func (l *Log) integrate(ctx context.Context, logs storage.LogStorage) (int, error) {
	n, err := log.IntegrateBatch(ctx, l.tree, integrateLimit, 0, 0, l.clock, logs, quota.Noop())
	if err != nil {
		return 0, fmt.Errorf("integrating leaves: %w", err)
	}
	if n > 0 {
		l.logger.DebugContext(ctx, "integrated leaves", "count", n)
	}
	return n, nil
}

// growing is the storage of a log, but for leaves: they come into the tree in the
// transaction that adds them.
type growing struct {
	*sqlite.LogStorage
	log *Log
}

// AddSequencedLeaves implements storage.LogStorage.
func (g growing) AddSequencedLeaves(ctx context.Context, tree *trillian.Tree, leaves []*trillian.LogLeaf, timestamp time.Time) ([]*trillian.QueuedLogLeaf, error) {
	l := g.log
	l.integrating.Lock()
	defer l.integrating.Unlock()
	l.whole = false
	n := integrateLimit
	res, err := g.AddSequencedLeavesThen(ctx, tree, leaves, timestamp, func(ctx context.Context, tx storage.LogTreeTX) (err error) {
		n, err = l.integrate(ctx, within{tx: tx})
		return err
	})
	l.whole = err == nil && n < integrateLimit
	return res, err
}

// within is a storage that is in the middle of a transaction.
type within struct {
	storage.LogStorage // the rest isn't there: a call panics
	tx                 storage.LogTreeTX
}

// ReadWriteTransaction implements storage.LogStorage.
func (w within) ReadWriteTransaction(ctx context.Context, _ *trillian.Tree, f storage.LogTXFunc) error {
	return f(ctx, w.tx)
}

// Close waits for calls that are under way and releases the file.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		if l.calls != nil {
			l.calls.close()
		}
		l.integrating.Lock()
		l.whole = false // who asks for more is told that it is closed
		l.integrating.Unlock()
		l.closeErr = l.storage.Close()
	})
	return l.closeErr
}
