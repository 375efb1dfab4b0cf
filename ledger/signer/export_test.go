package signer

import (
	"context"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/types"
	"github.com/jackc/pgx/v5/pgxpool"
)

// NewLeafStorage is the storage of the log server, for Trillian's suite.
func NewLeafStorage(db *pgxpool.Pool) storage.LogStorage {
	return newLeafStorage(db, func() {}, func(context.Context, []*trillian.LogLeaf, time.Time) bool { return false })
}

// Master is whether a signer holds the lock, as far as it knows.
func Master(s *Signer) bool { return s.election.isMaster() }

// Leads is whether a signer integrates.
func Leads(s *Signer) bool { return s.leads.Load() }

// Listening is whether PostgreSQL tells a signer.
func Listening(s *Signer) bool {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return s.watch.listening
}

// AwaitRoot waits for a root as the log server does.
func AwaitRoot(ctx context.Context, s *Signer, size uint64) (types.LogRootV1, bool) {
	return s.watch.await(ctx, size)
}
