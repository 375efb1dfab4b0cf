package broker

import (
	"context"
	"database/sql"
	"path/filepath"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// JournalErasures writes every erasure of the store to the journal, as Erase does.
func (b *Broker) JournalErasures(ctx context.Context) error {
	db, err := sql.Open("sqlite", filepath.Join(b.cfg.DataDir, "store", "store.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT id, owner, log_index FROM erasures")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, owner []byte
		var index int64
		if err := rows.Scan(&id, &owner, &index); err != nil {
			return err
		}
		e := store.Erasure{ID: store.ID(id)}
		copy(e.Owner[:], owner)
		i := proof.Index(index)
		if err := b.journalErasure(ctx, &e, &i); err != nil {
			return err
		}
	}
	return rows.Err()
}

// LostRanges are the ranges of log indexes whose records are lost.
func (b *Broker) LostRanges(ctx context.Context) ([]store.Range, error) { return b.store.Lost(ctx) }
