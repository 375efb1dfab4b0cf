package broker

import (
	"context"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Audited gives every record of a disclosure as an auditor gets it opened, by the number of its entry.
func (b *Broker) Audited(ctx context.Context) (map[proof.Index]proof.Opening, error) {
	out := map[proof.Index]proof.Opening{}
	return out, b.eachRecord(ctx, func(row *store.PlacedRecord, rec *proof.Record) error {
		if o := rec.Open(proof.ReaderAuditor); o.Schema() == proof.SchemaDisclosure {
			out[row.Index] = o
		}
		return nil
	})
}
