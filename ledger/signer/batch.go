package signer

import (
	"context"
	"errors"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/regard-broker/regard/ledger/engine"
)

// batch is leaves that follow the tree, on their way from the log server to the master in the same process, which stores and integrates them in one transaction: one commit and one call of the log server, where leaves that
// any server may have added take two of each, and two notifications, for which PostgreSQL makes all transactions of the server wait that notify, too.
type batch struct {
	leaves []*trillian.LogLeaf // with their hashes
	queued time.Time
	done   chan grown
}

// grown is what became of a batch.
type grown struct {
	root types.LogRootV1
	ok   bool // else it isn't known whether the leaves are there
}

// batchWait is how long the master of this process may be at something else before leaves are added as by any server.
const batchWait = 2 * time.Second

// growBy hands leaves to the master of this process, if it has one and the leaves follow the tree. Whatever goes wrong is left to who adds them as any server does: that says which are there already.
func (s *Signer) growBy(ctx context.Context, leaves []*trillian.LogLeaf, queued time.Time) bool {
	if !s.leads.Load() || s.unknown.Load() || len(leaves) > integrateLimit {
		return false
	}
	b := &batch{leaves, queued, make(chan grown, 1)}
	t := time.NewTimer(batchWait)
	defer t.Stop()
	select {
	case s.batches <- b:
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
	g := <-b.done // bounded by passLimit
	if !g.ok {
		return false
	}
	if root, err := g.root.MarshalBinary(); err == nil {
		// Outside a call there is nobody to tell.
		_ = grpc.SetTrailer(ctx, metadata.Pairs(engine.RootKey, string(root)))
	}
	return true
}

// grow brings a batch into the tree. It reports how many leaves that were; what failed shows in the next pass as well, unless it was of the batch alone.
func (s *Signer) grow(ctx context.Context, logs *edgeStorage, b *batch) int {
	var g grown
	defer func() { b.done <- g }()
	if logs.root.TreeSize != uint64(b.leaves[0].LeafIndex) || len(logs.root.RootHash) == 0 { // #nosec G115 -- Trillian's server has checked that it isn't negative
		return 0
	}
	logs.batch = b
	n, err := s.pass(ctx, logs)
	logs.batch = nil
	if err != nil {
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && pg.Code == pgerrcode.UniqueViolation: // they are there already
		case pg != nil && pg.Code == pgerrcode.UndefinedFunction:
			s.unknown.Store(true)
			s.log.Warn("Trillian's database was prepared by an earlier version: leaves take longer into the tree. Run regard signer init again, then restart the signer")
		case !s.apart:
			s.apart = true
			s.log.Warn("leaves don't come into the tree at once; they are added first", "error", err)
		}
		return 0
	}
	s.apart = false
	g = grown{logs.root, true}
	return n
}
