package signer

import (
	"github.com/google/trillian/storage"
	"github.com/jackc/pgx/v5/pgxpool"
)

// NewLeafStorage is the storage of the log server, for Trillian's suite.
func NewLeafStorage(db *pgxpool.Pool) storage.LogStorage { return newLeafStorage(db, func() {}) }

// Master is whether a signer holds the lock, as far as it knows.
func Master(s *Signer) bool { return s.election.isMaster() }
