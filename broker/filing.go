package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// order is the store as the log sees it: with the keys that tell whose an entry is.
type order struct {
	store.Order
	b *Broker
}

// Commit implements ledger.Store.
func (o order) Commit(ctx context.Context, batch *ledger.Batch) error {
	defer o.b.at(stageOutcome)
	return o.Order.Commit(ctx, batch)
}

// Unfiled implements ledger.Store. It opens the person parts of a whole list at once.
func (o order) Unfiled(ctx context.Context, epoch proof.Epoch, limit int) ([]ledger.Unfiled, error) {
	rows, err := o.UnfiledRows(ctx, epoch, limit)
	if errors.Is(err, store.ErrCorrupt) && limit > 1 {
		return o.Unfiled(ctx, epoch, 1) // up to the row that is malformed
	}
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	parts := make([]keys.PersonPart, len(rows))
	for i := range rows {
		parts[i].Owner, parts[i].Blob = rows[i].Owner, rows[i].Person
		parts[i].AD = rows[i].Owner[:]
	}
	persons, errs, err := o.b.ring.OpenPersons(ctx, parts)
	if err != nil {
		return nil, fmt.Errorf("opening the records to be filed: %w", err)
	}
	out := make([]ledger.Unfiled, 0, len(rows))
	for i := range rows {
		if errs[i] != nil {
			return out, fmt.Errorf("opening record %d to file it: %w", rows[i].Index, errs[i])
		}
		subject, err := proof.PartSubject(persons[i])
		if err != nil {
			return out, fmt.Errorf("reading the subject of record %d: %w", rows[i].Index, err)
		}
		clear(persons[i])
		out = append(out, ledger.Unfiled{Index: rows[i].Index, Subject: subject})
	}
	return out, nil
}
