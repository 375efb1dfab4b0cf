package broker

import (
	"context"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Journal lists the journal of erasures.
func Journal(ctx context.Context, dataDir string) ([]store.Erased, error) {
	return erasedSince(ctx, &Config{DataDir: dataDir})
}

// WriteJournal notes an erasure of nobody at an index.
func WriteJournal(ctx context.Context, dataDir string, at proof.Index) error {
	b := &Broker{cfg: Config{DataDir: dataDir}}
	return b.journalErasure(ctx, &store.Erasure{ID: store.ID{1}}, &at)
}

// ErasuresPath is where the journal is.
func ErasuresPath(dataDir string) string { return erasuresPath(&Config{DataDir: dataDir}) }

// LostRanges are the ranges of log indexes whose records are lost.
func (b *Broker) LostRanges(ctx context.Context) ([]store.Range, error) { return b.store.Lost(ctx) }
