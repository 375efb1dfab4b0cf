package broker

import (
	"context"
	"crypto/rand"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
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

// Defer logs a disclosure of which its person learns later, as a later version will.
func (b *Broker) Defer(ctx context.Context, subject proof.Subject) (proof.Index, error) {
	rec, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		return 0, err
	}
	if err := rec.SetSubject(subject); err != nil {
		return 0, err
	}
	row, err := b.sealRecord(ctx, subject, b.now(), rec)
	if err != nil {
		return 0, err
	}
	appended, err := b.append(ctx, ledger.Group{
		Entries: []proof.Entry{proof.Deferred{Authority: "Parquet d'Exemple", Article: "CPP 11", Month: "2099-01", Commitment: rec.Commitment()}},
		Attach:  &store.AccessLogged{Records: []store.Record{row.row}, Fresh: []*keys.StoredKey{row.fresh}},
	})
	if err != nil {
		return 0, err
	}
	return appended.Entries[0].Index, nil
}
