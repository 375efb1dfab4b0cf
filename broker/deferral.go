package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// Lawful delay. What is decided under an agreement with a deferral is recorded like everything else, with the same record: but its entries are deferred@v1, in no roll, and the person parts lie under
// keys of their own, apart from what is looked for under a person. When the delay is over, opened@v1 entries file them.
//
// Until then nothing about a deferred disclosure waits for the person whom it concerns, and nothing that this person does waits for it: the waiting alone would tell.

// deferral is that of the agreement under which the request is decided, whatever comes of it; nil: none.
func (p *plan) deferral() *policy.Deferral {
	if p.agreed == nil {
		return nil
	}
	return p.agreed.agreement.Deferral
}

// recordedDeferral is the same, by what a record says: after a crash, and whatever the agreement is by now.
func recordedDeferral(rec *proof.Record) (*policy.Deferral, error) {
	input, _ := rec.Value(proof.DisclosureInput)
	in, err := policy.ParseInput(input)
	if err != nil {
		return nil, fmt.Errorf("%w: its decision input: %w", errDamaged, err)
	}
	if in.Agreement == nil {
		return nil, nil
	}
	return in.Agreement.Deferral, nil
}

// disclosureEntry is the entry of a disclosure's record.
func disclosureEntry(d *policy.Deferral, asked time.Time, c proof.Commitment) proof.Entry {
	if d == nil {
		return proof.Disclosure{Commitment: c}
	}
	return proof.Deferred{Authority: d.Authority, Article: d.Article, Month: d.Month(asked), Commitment: c}
}

// unlessErasing runs f, which records something about these people, while none of them is being erased; what is deferred waits for nobody.
func (b *Broker) unlessErasing(d *policy.Deferral, owners []keys.Owner, f func() error) error {
	if d != nil {
		return f()
	}
	return b.gate.pass(owners, f)
}

const (
	// openPage is how many disclosures with a delay that is over are looked for at once.
	openPage = 64
	// openRound is how long a round opens at most; the rest comes in the next one.
	openRound = 5 * time.Second
	// openAccesses is how many accesses to the records of one disclosure are opened in one group of the log. What is left over is due, too, and comes next.
	openAccesses = 256
	// openAhead is how far the clock may be ahead of the end of the log's open epoch for a delay to be over.
	openAhead = time.Hour
)

// overBy is the time by which what waits for its day is due: delays, erasures, holds, deadlines. The log's own time counts, too, which doesn't follow a clock that leaps: nobody can be untold, and nothing brought back.
func (b *Broker) overBy() time.Time {
	now, epoch := b.now(), b.ledger().OpenEpoch().Until.Add(openAhead)
	if epoch.Before(now) {
		return epoch
	}
	return now
}

// openDeferred opens what is due. One that can't be opened doesn't hold up the others: it is damaged, or somebody whom it concerns is being erased.
func (b *Broker) openDeferred(ctx context.Context) error {
	var after store.Due
	seen := map[proof.Index]bool{}
	for end := time.Now().Add(openRound); time.Now().Before(end); {
		due, err := b.store.DueDeferrals(ctx, b.overBy(), after, openPage)
		if err != nil {
			return fmt.Errorf("reading which delays are over: %w", err)
		}
		if len(due) == 0 {
			b.damage.mendedDeferrals(seen)
			return nil
		}
		for _, d := range due {
			after = d
			_, err := b.openDisclosure(ctx, d.Disclosure)
			var damaged *damagedDeferral
			switch {
			case err == nil, errors.Is(err, errErasing):
			case errors.As(err, &damaged):
				seen[damaged.index] = true
				b.damagedDeferral(damaged)
			default:
				return fmt.Errorf("opening what was deferred: %w", err) // log or keys don't work: the next would fare no better
			}
		}
	}
	return nil
}

// damagedDeferral: what is behind a deferred@v1 entry can't be read, so nobody can tell whom to tell.
type damagedDeferral struct {
	index proof.Index
	err   error
}

func (d *damagedDeferral) Error() string { return fmt.Sprintf("entry %d: %v", d.index, d.err) }
func (d *damagedDeferral) Unwrap() error { return d.err }

// openDisclosure appends opened@v1 for every deferred entry of a disclosure, and of accesses to these, in one group: it returns how many. In the same transaction the records go where they are
// found under their people, sealed under these people's keys, so that a later erasure reaches them. Exactly once: the store refuses what is not deferred any more.
func (b *Broker) openDisclosure(ctx context.Context, d store.Seq) (n int, err error) {
	b.opening.Lock()
	defer b.opening.Unlock()
	rows, err := b.store.Deferrals(ctx, d, openAccesses)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	recs, owners := make([]*proof.Record, len(rows)), make([]keys.Owner, len(rows))
	for i := range rows {
		if recs[i], err = b.openDeferredRecord(ctx, &rows[i]); errors.Is(err, errDamaged) {
			return 0, &damagedDeferral{rows[i].Index, err}
		} else if err != nil {
			return 0, err
		}
		owners[i] = rows[i].Owner
	}
	err = b.gate.pass(owners, func() error { return b.appendOpened(ctx, rows, recs) })
	if err != nil {
		return 0, err
	}
	return len(rows), nil
}

// openDeferredRecord opens a deferred record, which has to be the one that its entry commits to and that of its owner.
func (b *Broker) openDeferredRecord(ctx context.Context, row *store.PlacedRecord) (*proof.Record, error) {
	rec, err := b.openWhole(ctx, &row.Record)
	if err != nil {
		return nil, err
	}
	entry, err := proof.ParseEntry(row.Text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	c, _ := proof.CommitmentOf(entry)
	if entry.Kind() != proof.KindDeferred || !entry.Kind().Takes(rec.Schema()) || c != rec.Commitment() || row.Alone != (rec.Schema() == proof.SchemaAccess) {
		return nil, fmt.Errorf("%w: it is not what its entry commits to", errDamaged)
	}
	subject, err := rec.Open(proof.ReaderPerson).Subject()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return nil, keysProblem(err)
	}
	if owner != row.Owner {
		return nil, fmt.Errorf("%w: it is another person's", errDamaged)
	}
	return rec, nil
}

func (b *Broker) appendOpened(ctx context.Context, rows []store.PlacedRecord, recs []*proof.Record) error {
	attach := &store.DeferralsOpened{At: b.now(), Records: make([]store.OpenedRecord, len(rows))}
	entries := make([]proof.Entry, len(rows))
	seal := b.newSealer()
	stored := errNotTried
	defer func() { seal.end(stored) }()
	for i := range rows {
		r := &attach.Records[i]
		r.Deferred, r.Record = rows[i].Index, rows[i].Record // the administrative part stays as it is
		var err error
		if r.Person, err = seal.person(ctx, rows[i].Owner, recs[i]); err != nil {
			return keysProblem(err)
		}
		entries[i] = proof.Opened{Deferred: rows[i].Index, Commitment: recs[i].Commitment()}
	}
	attach.Fresh, attach.Keys = seal.rows()
	_, err := b.append(ctx, ledger.Group{Entries: entries, Attach: attach})
	if errors.Is(err, keys.ErrNoKey) {
		return errErasing // since the key was taken: the next round seals anew
	}
	stored = err
	return err
}

// sealer seals person parts under their subjects' keys, which it gets once for each person.
type sealer struct {
	b     *Broker
	keys  map[keys.Owner]keys.Key
	fresh []sealedRecord
}

func (b *Broker) newSealer() *sealer { return &sealer{b: b, keys: map[keys.Owner]keys.Key{}} }

func (s *sealer) person(ctx context.Context, owner keys.Owner, rec *proof.Record) ([]byte, error) {
	key, ok := s.keys[owner]
	if !ok {
		var made *keys.StoredKey
		var err error
		if key, made, err = s.b.ring.SubjectKey(ctx, owner); err != nil {
			return nil, err
		}
		s.keys[owner], s.fresh = key, append(s.fresh, sealedRecord{fresh: made})
	}
	part := rec.AppendPersonPart(nil)
	defer clear(part)
	return s.b.ring.SealPerson(key, owner[:], part)
}

// rows are the keys that are new, and all of them: the store refuses what is sealed under one that it doesn't have.
func (s *sealer) rows() (fresh []*keys.StoredKey, ids []keys.KeyID) {
	for i := range s.fresh {
		fresh = append(fresh, s.fresh[i].fresh)
	}
	for _, k := range s.keys {
		ids = append(ids, k.ID())
	}
	return fresh, ids
}

// end says whether what was sealed is in the store, given the error of what was to store it.
func (s *sealer) end(stored error) {
	s.b.saved(stored, s.fresh...)
	for _, k := range s.keys {
		k.Clear()
	}
}

// PendingDeferral is a disclosure whose delay isn't over. It says nothing about the people whom it concerns.
type PendingDeferral struct {
	Disclosure         store.ID
	Authority, Article string
	AskedAt            time.Time
	Until              time.Time   // the delay
	Month              string      // by which the log says that it will be opened
	Entries, Accesses  int         // that are deferred: of the disclosure, and of accesses to their records
	Index              proof.Index // of the first of them
	Overdue            bool        // the delay is over
	Ended              string      // why it was ended before its time
}

// maxDeferrals bounds a page of pending delays.
const maxDeferrals = 1000

// Deferrals lists the delays that aren't over, a page at a time, in the order in which they were begun: from behind after on. next is that of the next page, 0 if there is none.
func (b *Broker) Deferrals(ctx context.Context, after store.Seq) (list []PendingDeferral, next store.Seq, err error) {
	rows, err := b.store.PendingDeferrals(ctx, after, maxDeferrals)
	if err != nil {
		return nil, 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	now := b.now()
	for i := range rows {
		r := &rows[i]
		entry, err := proof.ParseEntry(r.Text)
		e, ok := entry.(proof.Deferred)
		if err != nil || !ok {
			return nil, 0, fmt.Errorf("%w: entry %d isn't that of a delay", store.ErrCorrupt, r.First)
		}
		list = append(list, PendingDeferral{
			Disclosure: r.Disclosure, Authority: e.Authority, Article: e.Article, AskedAt: r.AskedAt, Until: r.Due, Month: e.Month,
			Entries: r.Entries, Accesses: r.Accesses, Index: r.First, Overdue: !now.Before(r.Due), Ended: r.Ended,
		})
	}
	if len(rows) == maxDeferrals {
		next = rows[len(rows)-1].Seq
	}
	return list, next, nil
}

// DeferralCounts says how many entries are deferred, and how many of these are overdue: their delay is over, and they aren't opened. For longer than a moment that needs the operator.
func (b *Broker) DeferralCounts(ctx context.Context) (pending, overdue int64, err error) {
	return b.store.CountDeferrals(ctx, b.now())
}

// EndDeferral ends the delay of a disclosure before its time: when it returns, the people whom it concerns can see it, and how many entries say so is n. The reason stays here. If it can't be opened at once, it
// is opened as soon as it can: that is a Problem.
func (b *Broker) EndDeferral(ctx context.Context, id store.ID, reason string) (n int, err error) {
	if !readable(reason) || !plainText(reason, maxReason) {
		return 0, invalid("/reason", "There is no reason, or one that isn't usable.", fmt.Sprintf("Say why the delay ends before its time, in plain text on one line, at most %d characters.", maxReason))
	}
	done, err := b.governing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	ctx = context.WithoutCancel(ctx)
	seq, err := b.store.EndDeferral(ctx, id, b.now(), reason)
	if errors.Is(err, store.ErrNotFound) {
		return 0, &Problem{Status: 404, Code: "deferral.unknown", Title: "There is no such delay.", Detail: "Nothing of this disclosure is deferred: it never was, has no outcome yet, or was opened. regard deferral list shows what is."}
	}
	if err != nil {
		return 0, unavailable("store.unavailable", "The broker can't write to its store now.", err)
	}
	b.log.Info("a delay is ended before its time", "disclosure", uuid.UUID(id), "reason", reason)
	for {
		more, err := b.openDisclosure(ctx, seq)
		if n += more; err != nil {
			return n, &Problem{Status: 503, Code: "deferral.waiting", Title: "The delay is over, and not all of it could be opened at once.", Detail: "The broker opens it as soon as it can; there is nothing to repeat.", err: err}
		}
		if more == 0 {
			return n, nil
		}
	}
}
