package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// An Erasure that has been carried out.
type Erasure struct {
	Index proof.Index // of the erasure@v1 entry
	Reach proof.Index // greatest log index before it that it covers
}

// Erase destroys the keys of one identifier of a person: their part of every record so far can't be read any more by anybody. An erasure@v1 entry in their roll says so; the
// administrative parts, the proofs and receipts handed out remain. It takes a few seconds, for every entry of theirs must be in its roll first. ground is a token, e.g. "rgpd-17".
//
// If it fails on the way, it may go on by itself, and until then no request about the person is carried out: what came after its reach must not be destroyed with the rest.
//
// Legal holds, contests and the time to think it over are the caller's business.
func (b *Broker) Erase(ctx context.Context, subject proof.Subject, ground string) (_ Erasure, err error) {
	if !proof.IsToken(ground) {
		return Erasure{}, invalid("/ground", "The ground is not a token.", "Use lower-case letters, digits, '.', '_' and '-'.")
	}
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return Erasure{}, keysProblem(err)
	}
	if !b.gate.close(owner) {
		return Erasure{}, conflict("erasure.in_progress", "This person is being erased already.", "Wait for it.")
	}
	begun := false // in the store, perhaps
	defer func() {
		if err != nil && begun {
			b.gate.set(owner, phaseLeft)
		} else {
			b.gate.open(owner)
		}
	}()
	asked := b.now()
	if err := b.gate.settled(ctx, b.stopping, owner); err != nil {
		return Erasure{}, fmt.Errorf("waiting for requests about the person: %w", err)
	}
	if err := b.until(ctx, func() (bool, error) { busy, err := b.store.HasOpenIntent(ctx, owner); return !busy, err }); err != nil {
		return Erasure{}, fmt.Errorf("waiting for requests about the person: %w", err)
	}
	b.gate.set(owner, phaseShut)
	if err := b.gate.settled(ctx, b.stopping, owner); err != nil {
		return Erasure{}, fmt.Errorf("waiting for what is being recorded about the person: %w", err)
	}
	reach, _, err := b.store.LastIndex(ctx)
	if err != nil {
		return Erasure{}, err
	}
	rec, err := erasureRecord(subject, reach, ground, asked, b.now())
	if err != nil {
		return Erasure{}, err
	}
	sealed, err := b.sealRecord(ctx, subject, asked, rec)
	if err != nil {
		return Erasure{}, keysProblem(err)
	}
	if sealed.fresh != nil {
		// A person without keys has no records; the entry is made all the same, so that asking reveals nothing.
		if err := b.store.SaveKeys(ctx, []keys.StoredKey{*sealed.fresh}); err != nil {
			return Erasure{}, err
		}
		b.saved(true, sealed)
	}
	e := store.Erasure{ID: store.ID(uuid.Must(uuid.NewV7())), Record: sealed.row}
	begun = true
	if err := b.store.BeginErasure(ctx, &e); err != nil {
		return Erasure{}, err
	}
	index, err := b.finishErasure(ctx, &e, rec)
	b.ledger.Forget(subject)
	return Erasure{Index: index, Reach: reach}, err
}

func erasureRecord(subject proof.Subject, reach proof.Index, ground string, asked, now time.Time) (*proof.Record, error) {
	rec, err := proof.NewRecord(proof.SchemaErasure, rand.Reader)
	if err != nil {
		return nil, err
	}
	f := &fields{rec: rec}
	f.subject(subject)
	f.text(proof.ErasureID, uuid.Must(uuid.NewV7()).String())
	f.text(proof.ErasureReach, reach.String())
	f.text(proof.ErasureGround, ground)
	f.time(proof.ErasureAskedAt, asked)
	f.time(proof.ErasureErasedAt, now)
	return rec, f.err
}

// finishErasure carries an erasure through from wherever it stands: entry, label, destruction.
func (b *Broker) finishErasure(ctx context.Context, e *store.Erasure, rec *proof.Record) (proof.Index, error) {
	index := e.Index
	if !e.Logged {
		appended, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{proof.Erasure{Commitment: rec.Commitment()}}, Attach: &store.ErasureLogged{Erasure: *e}})
		if err != nil {
			return 0, err
		}
		index = appended.Entries[0].Index
	}
	// After this nobody can tell any more to whom an entry belongs, so each must be in its roll before.
	if err := b.until(ctx, func() (bool, error) { return b.store.Filed(ctx, index) }); err != nil {
		return index, fmt.Errorf("waiting for the person's entries to be filed: %w", err)
	}
	if err := b.store.DropAnswersOf(ctx, e.Owner); err != nil {
		return index, fmt.Errorf("deleting the person's answers: %w", err)
	}
	if err := b.ring.Erase(ctx, e.Owner); err != nil {
		return index, fmt.Errorf("destroying the person's keys: %w", err)
	}
	return index, b.store.EndErasure(ctx, e.ID)
}

// finishErasures carries through what an earlier process began.
func (b *Broker) finishErasures(ctx context.Context) error {
	open, err := b.store.OpenErasures(ctx)
	if err != nil {
		return err
	}
	for i := range open {
		if err := b.resumeErasure(ctx, &open[i]); err != nil {
			return err
		}
	}
	return nil
}

// leftErasures carries through what failed in this process.
func (b *Broker) leftErasures(ctx context.Context) error {
	waiting := b.gate.left()
	if len(waiting) == 0 {
		return nil
	}
	open, err := b.store.OpenErasures(ctx)
	if err != nil {
		return err
	}
	for i := range open {
		if waiting[open[i].Owner] {
			if err := b.resumeErasure(ctx, &open[i]); err != nil {
				return err
			}
		}
	}
	for o := range waiting {
		b.gate.open(o)
	}
	return nil
}

func (b *Broker) resumeErasure(ctx context.Context, e *store.Erasure) (err error) {
	var rec *proof.Record
	if !e.Logged {
		if rec, err = b.openRecord(ctx, &e.Record); err != nil {
			return err
		}
	}
	if _, err = b.finishErasure(ctx, e, rec); err == nil {
		b.log.Info("carried through an erasure that was interrupted")
	}
	return err
}

// until asks again and again, until it is so.
func (b *Broker) until(ctx context.Context, so func() (bool, error)) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-b.stopping:
			return errStopping()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errStopping ends the waiting of an erasure.
func errStopping() error {
	return unavailable("broker.stopping", "The broker is being restarted; an erasure that has begun is carried through when it starts.", nil)
}
