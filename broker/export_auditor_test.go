package broker

import (
	"context"

	"github.com/regard-broker/regard/ledger/proof"
)

// Audited gives every record of a disclosure as an auditor gets it opened, by the number of its entry.
func (b *Broker) Audited(ctx context.Context) (map[proof.Index]proof.Opening, error) {
	out := map[proof.Index]proof.Opening{}
	for next := proof.Index(0); ; {
		rows, err := b.store.RecordsFrom(ctx, next, 500)
		if err != nil || len(rows) == 0 {
			return out, err
		}
		for i := range rows {
			rec, err := b.openEntry(ctx, &rows[i])
			if err != nil {
				return nil, err
			}
			if o := rec.Open(proof.ReaderAuditor); o.Schema() == proof.SchemaDisclosure {
				out[rows[i].Index] = o
			}
			next = rows[i].Index + 1
		}
	}
}
