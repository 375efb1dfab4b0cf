package broker

import (
	"context"

	"github.com/regard-broker/regard/ledger/proof"
)

// Filed counts the entries of everybody, as only the holder of the keys can.
func (b *Broker) Filed(ctx context.Context) (map[proof.Subject]int, error) {
	out := map[proof.Subject]int{}
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
			subject, err := rec.Open(proof.ReaderPerson).Subject()
			if err != nil {
				return nil, err
			}
			out[subject]++
			next = rows[i].Index + 1
		}
	}
}
