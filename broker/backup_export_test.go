package broker

import (
	"context"

	"github.com/regard-broker/regard/broker/store"
)

// Journal lists the journal of erasures.
func Journal(ctx context.Context, dataDir string) ([]store.Erased, error) {
	return erasedSince(ctx, dataDir)
}

// ErasuresPath is where the journal is.
func ErasuresPath(dataDir string) string { return erasuresPath(dataDir) }

// LostRanges are the ranges of log indexes whose records are lost.
func (b *Broker) LostRanges(ctx context.Context) ([]store.Range, error) { return b.store.Lost(ctx) }
