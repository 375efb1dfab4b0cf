package broker

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// Stages are the instants at which a crash must lose nothing, in their order.
var Stages = []string{
	string(stageIntent), string(stageProvider), string(stageOutcome), string(stageAdd), string(stageIntegrate), string(stageSign), string(stageRelease),
}

// Letter is what people and agencies write, made one.
var Letter = letter

// SetAt has f told when a stage has just ended. Whoever waits in f holds the pipeline there.
func (c *Config) SetAt(f func(stage string)) {
	c.at = func(s stage) { f(string(s)) }
}

// CloseLog closes Trillian's database under the running broker.
func (b *Broker) CloseLog() error { return b.part.Load().tree.Close() }

// CloseSigned closes the store of the signed checkpoint under the running broker.
func (b *Broker) CloseSigned() error { return b.signed.Close() }

// Erasing says whether the erasure of a person keeps requests about them out.
func (b *Broker) Erasing(subject proof.Subject) bool {
	owner, err := b.ring.Owner(subject)
	b.gate.mu.Lock()
	defer b.gate.mu.Unlock()
	p := b.gate.owners[owner]
	return err == nil && p != nil && p.phase != 0
}

// FinishErasure carries an erasure that is in the log through, as a broker does that saw it open.
func (b *Broker) FinishErasure(ctx context.Context, e *store.Erasure) error {
	_, err := b.finishErasure(ctx, e, nil)
	return err
}

// Filed counts the entries of everybody by their Name, as only the holder of the keys can.
func (b *Broker) Filed(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	return out, b.eachRecord(ctx, func(_ *store.PlacedRecord, rec *proof.Record) error {
		subject, err := rec.Open(proof.ReaderPerson).Subject()
		out[Name(subject)]++
		return err
	})
}

// Name spells a subject: the tests' people are invented.
func Name(s proof.Subject) string { return string(s.Type()) + " " + s.Value() }

// eachRecord opens every record of the store.
func (b *Broker) eachRecord(ctx context.Context, f func(*store.PlacedRecord, *proof.Record) error) error {
	return b.eachSealed(ctx, func(row *store.PlacedRecord) error {
		rec, err := b.openEntry(ctx, row)
		if err != nil {
			return err
		}
		return f(row, rec)
	})
}

// eachSealed reads every record of the store as it is sealed.
func (b *Broker) eachSealed(ctx context.Context, f func(*store.PlacedRecord) error) error {
	db, err := sql.Open("sqlite", "file:"+store.FileIn(filepath.Join(b.cfg.DataDir, "store"))+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "SELECT r.log_index, r.owner, r.person, r.admin, l.text FROM records r JOIN leaves l USING (log_index) ORDER BY 1")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var row store.PlacedRecord
		var owner []byte
		if err := rows.Scan(&row.Index, &owner, &row.Person, &row.Admin, &row.Text); err != nil {
			return err
		}
		row.Owner = keys.Owner(owner)
		if err := f(&row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Told gives every record that can still be opened, as its person sees it.
func (b *Broker) Told(ctx context.Context, f func(proof.Index, proof.Opening)) error {
	gone := func(err error) bool { return errors.Is(err, keys.ErrNoKey) }
	return b.eachSealed(ctx, func(row *store.PlacedRecord) error {
		rec, err := b.openEntry(ctx, row)
		if gone(err) || err == nil && rec.Erased() {
			return nil
		}
		if err == nil {
			f(row.Index, rec.Open(proof.ReaderPerson))
		}
		return err
	})
}

// SealAdmin seals the administrative part of a record that was asked for at a time.
func (b *Broker) SealAdmin(ctx context.Context, at time.Time, rec *proof.Record) ([]byte, error) {
	return b.sealAdmin(ctx, at, rec)
}

// EndRetention is a round of the sweeper's, at a time of the test's choice. Only one may be under way.
func (b *Broker) EndRetention(ctx context.Context) error { return b.endRetention(ctx) }

// OpenDeferred is a round of the sweeper's. Only one may be under way.
func (b *Broker) OpenDeferred(ctx context.Context) error { return b.openDeferred(ctx) }

// AnnounceEnd has the log tell the end of a month's retention as if it were over now, and stops there, as a crash would.
func (b *Broker) AnnounceEnd(ctx context.Context, name string) error {
	months, err := b.kept(ctx)
	for _, m := range months {
		if m.name == name {
			if b.now().Before(m.until) {
				m.until = b.now()
			}
			err = b.logEnd(ctx, m)
		}
	}
	return err
}

// Unreadable says whether an entry may be given up for an error.
var Unreadable = unreadable

// HoldErasure shuts a person out as an erasure at work does, or lets them in again.
func (b *Broker) HoldErasure(subject proof.Subject, hold bool) {
	owner, err := b.ring.Owner(subject)
	if err != nil {
		panic(err)
	}
	if hold {
		b.gate.set(owner, phaseShut)
	} else {
		b.gate.set(owner, 0)
	}
}

// SetErasingPatience sets how long requests wait for an erasure, until the returned function is called. Only while no other test runs.
func SetErasingPatience(d time.Duration) (back func()) {
	erasingPatience = d
	return func() { erasingPatience = erasingWait }
}

// MonthsAfter is the deadline of a contest.
var MonthsAfter = monthsAfter

// EraseFor carries out a person's request.
func (b *Broker) EraseFor(ctx context.Context, subject proof.Subject, request store.ID) error {
	_, err := b.erase(ctx, subject, groundPerson, request)
	return err
}

// Keyless says whether a person has no keys.
func (b *Broker) Keyless(subject proof.Subject) bool {
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return false
	}
	ks, err := b.store.LoadKeys(context.Background(), keys.KindSubject, owner, "")
	return err == nil && len(ks) == 0
}

// Tell tells accounts of new entries.
func (b *Broker) Tell(ctx context.Context) error { return b.tell(ctx) }

// ReceiptsAfter makes a provider's receipts of a disclosure from what is read before f.
func (b *Broker) ReceiptsAfter(ctx context.Context, provider string, id store.ID, f func()) (Receipts, error) {
	out := Receipts{ID: id}
	policy, err := b.logPolicy(ctx)
	if err != nil {
		return out, err
	}
	rows, err := b.recordsFor(ctx, id)
	if err != nil {
		return out, err
	}
	f()
	return out, b.receiptsFrom(ctx, []string{provider}, policy, rows, &out)
}

// EntryAfter is that of the record which a repeat of a disclosure's request is answered from, of what is read before f. erased: its subject is hidden.
func (b *Broker) EntryAfter(ctx context.Context, id store.ID, f func()) (index proof.Index, erased bool, err error) {
	d, err := b.store.Disclosure(ctx, id)
	if err != nil {
		return 0, false, err
	}
	rows, err := b.store.Records(ctx, d.Seq)
	if err != nil {
		return 0, false, err
	}
	f()
	p, err := b.pastFrom(ctx, d, rows)
	if err != nil {
		return 0, false, err
	}
	return p.records[0].Index, p.rec.Erased(), nil
}

// OpeningsAfter opens the records of a disclosure for an auditor from what is read before f.
func (b *Broker) OpeningsAfter(ctx context.Context, auditor string, id store.ID, f func()) ([]OpenedEntry, error) {
	rows, err := b.store.RowsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	f()
	return b.openRows(ctx, AccessBy{Reader: auditor, Role: proof.RoleAuditor, Reason: "test"}, rows, nil)
}

// Elsewhere asks where the log stands, as whoever begins to lead does.
func (b *Broker) Elsewhere(ctx context.Context) error {
	_, err := b.elsewhere(ctx, elsewhereWait, elsewhereWait)
	return err
}

// SendDue sends the mails that are due, as each round does.
func (b *Broker) SendDue(ctx context.Context) error { return b.sendDue(ctx) }

// FileContest contests a disclosure by the first of its entries that is the account's: the asked one, if that is theirs.
func (b *Broker) FileContest(ctx context.Context, a Account, disclosure store.ID, text string) (*Contest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	rows, err := b.entriesOf(ctx, p, disclosure)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNoDisclosure()
	}
	return b.fileContest(ctx, p, rows[0], text)
}
