package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// causeInterrupted is recorded for an intent whose outcome nobody knows: the broker died, or the log refused for too long.
const causeInterrupted = "interrupted"

// causeRestored is recorded for an intent that was open in a backup which was restored, if disclosures were lost: its outcome is probably in the log, among these. To leave it out would be to
// guess: an attempt of the last seconds before the loss would be in the log nowhere.
const causeRestored = "restored"

// sweep does what has to be done again and again, until the broker stops.
func (b *Broker) sweep(ctx context.Context) {
	defer b.work.Done()
	ctx, cancel := b.untilStopping(ctx) // a round in hand doesn't hold up the end
	defer cancel()
	t := time.NewTicker(b.cfg.SweepEvery)
	defer t.Stop()
	for {
		select {
		case <-b.stopping:
			return
		case <-t.C:
		}
		if b.member != nil {
			b.try(ctx, "taking up what changed at other brokers", b.changed) // should nobody have told
		}
		if !b.leads() {
			b.forgetLeft()
			b.try(ctx, "recording interrupted requests", b.leftIntents)
			continue // another broker does all the rest
		}
		leads, done := b.asLeader(ctx)
		b.sweepAll(leads)
		done()
	}
}

// sweepAll is a round of the broker that leads. Where its term ends, the next one's begins.
func (b *Broker) sweepAll(ctx context.Context) {
	if b.member != nil {
		b.try(ctx, "removing what the other brokers know by now", b.member.Sweep)
	}
	b.try(ctx, "having the log signed by the keys in force", b.leaveRetired)
	b.try(ctx, "recording interrupted requests", b.leftIntents)
	b.try(ctx, "carrying through erasures", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, erasureRound)
		defer cancel()
		return b.leftErasures(ctx)
	})
	b.try(ctx, "letting in who isn't erased after all", b.letInLeft)
	b.try(ctx, "ending delays", b.openDeferred)
	b.try(ctx, "carrying out people's requests for erasure", b.dueErasures)
	b.try(ctx, "telling people of new entries", b.tell)
	b.try(ctx, "reminding of contests", b.remind)
	b.try(ctx, "dropping old answers", b.dropAnswers)
	b.try(ctx, "dropping sessions that have ended", b.dropSessions)
	b.try(ctx, "logging keys", b.logKeys)
	if b.member != nil { // a backup is made at any moment, by somebody who asks no broker
		b.try(ctx, "making the label keys of the next month", b.keysAhead)
	}
	b.try(ctx, "declaring skipped entries", func(ctx context.Context) error {
		if skipped, err := b.store.Skipped(ctx); err != nil || len(skipped) == 0 {
			return err // nobody has to be waited for
		}
		done, err := b.governing(ctx)
		if err != nil {
			return err
		}
		defer done()
		return b.declareSkipped(ctx)
	})
	b.try(ctx, "ending the retention of old months", b.endRetention)
	b.details.begin(b)
	b.try(ctx, "packing the rolls of closed epochs", b.packRolls)
}

func (b *Broker) try(ctx context.Context, what string, f func(context.Context) error) {
	if ctx.Err() != nil {
		return // the broker stops, or doesn't lead any more
	}
	round, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := f(round); err != nil && ctx.Err() == nil {
		b.log.Error(what, "error", err)
	}
}

// packRound is how long a round packs at most; what is left then comes in the next ones.
const packRound = 2 * time.Second

// packRolls moves the rolls of large closed epochs to where they take less space, a little at a time: requests come first.
func (b *Broker) packRolls(ctx context.Context) error {
	for end := time.Now().Add(packRound); time.Now().Before(end); {
		if more, err := b.store.Pack(ctx); err != nil || !more {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// dropAnswers destroys the keys of old answers, and drops these and what was asked. Each is done, whatever became of the others.
func (b *Broker) dropAnswers(ctx context.Context) error {
	_, err := b.ring.Sweep(ctx, b.now())
	return errors.Join(err,
		inPages(1000, func(n int) (int64, error) { return b.store.DropPayloads(ctx, b.now(), n) }),
		inPages(1000, func(n int) (int64, error) { return b.store.DropBodies(ctx, b.now().Add(-bodyLife), n) }))
}

// inPages does a step until there was less to do than the limit.
func inPages(limit int, step func(limit int) (int64, error)) error {
	for {
		if n, err := step(limit); err != nil || n < int64(limit) {
			return err
		}
	}
}

// dropSessions drops what the portal remembers for a while, a bounded number in each round: a flood of them must not hold up the rest.
func (b *Broker) dropSessions(ctx context.Context) error {
	for range 10 {
		if n, err := b.store.DropSessions(ctx, b.now(), 1000); err != nil || n < 1000 {
			return err
		}
	}
	return nil
}

// leftIntents is a round of interrupted.
func (b *Broker) leftIntents(ctx context.Context) error {
	if _, err := b.interrupted(ctx); !errors.Is(err, errErasing) {
		return err
	}
	return nil // in a later round
}

// interrupted records every intent without an outcome that nobody is working on as failed, and returns how many there were. Of several brokers each sees to its own, and the one that leads to those of brokers that are gone. A provider may have answered it: so it is recorded (G8).
// One that can't be read doesn't hold up the others: see damage. Nor does one about somebody who is being erased: the error is errErasing then, and the rest is recorded.
func (b *Broker) interrupted(ctx context.Context) (int, error) {
	var total atomic.Int64
	var erasing atomic.Bool
	seen := map[store.Seq]bool{}
	atWork := func(id store.ID) bool {
		_, busy := b.begun.Load(id)
		return busy
	}
	for after := store.Seq(0); ; {
		left, next, err := b.store.MayBeInterrupted(ctx, after, 256, atWork)
		if err != nil {
			return int(total.Load()), fmt.Errorf("reading open intents: %w", err)
		}
		if next != 0 && !left {
			after = next
			continue
		}
		// Whatever is begun after this list was read isn't in it; what is in it and not in b.begun has been left by its request.
		rows, err := b.store.Interrupted(ctx, after, 256)
		if err != nil {
			return int(total.Load()), fmt.Errorf("reading open intents: %w", err)
		}
		if len(rows) == 0 {
			b.damage.mended(seen)
			if erasing.Load() {
				return int(total.Load()), errErasing
			}
			return int(total.Load()), nil
		}
		there, err := b.atWork(ctx, rows)
		if err != nil {
			return int(total.Load()), err
		}
		errs := make([]error, len(rows))
		var wg sync.WaitGroup
		for i := range rows {
			d := &rows[i]
			after = d.Seq
			if _, busy := b.begun.Load(d.ID); busy || there[d.Member] {
				continue
			}
			seen[d.Seq] = true
			wg.Go(func() {
				err := b.interrupt(ctx, d)
				switch {
				case err == nil:
					total.Add(1)
				case errors.Is(err, errDamaged):
					b.damagedIntent(d, err)
				case errors.Is(err, errErasing):
					erasing.Store(true)
				default:
					errs[i] = err
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return int(total.Load()), err // log or keys don't work: the next page would fare no better
		}
	}
}

func (b *Broker) interrupt(ctx context.Context, d *store.OpenIntent) error {
	if d.Err != nil {
		return fmt.Errorf("%w: %w", errDamaged, d.Err)
	}
	// Its request may have ended well between the reading of the list and the look into b.begun.
	if now, err := b.store.Disclosure(ctx, d.ID); err != nil || now.Done {
		return err
	}
	row := store.Record{Owner: d.Owner, Person: d.Person, Admin: d.Admin}
	rec, err := b.openWhole(ctx, &row)
	if err != nil {
		return fmt.Errorf("opening the intent of %v: %w", uuid.UUID(d.ID), err)
	}
	if o := rec.Open(proof.ReaderPerson); rec.Schema() != proof.SchemaDisclosure || o.Text(proof.DisclosureRole) != proof.RoleAsked || o.Text(proof.DisclosureID) != uuid.UUID(d.ID).String() {
		return fmt.Errorf("%w: it is another disclosure's", errDamaged)
	}
	cause := causeInterrupted
	if restored, err := b.store.Restored(ctx, d.Seq); err != nil {
		return err
	} else if restored {
		cause = causeRestored
	}
	f := &fields{rec: rec}
	// No DisclosureObtained: whether the provider answered, and what, nobody knows.
	f.list(proof.DisclosureReleased, nil)
	f.text(proof.DisclosureOutcome, string(Failed))
	f.text(proof.DisclosureCause, cause)
	f.time(proof.DisclosureAnsweredAt, b.now())
	if f.err != nil {
		return f.err
	}
	if row.Admin, err = b.sealAdmin(ctx, d.AskedAt, rec); err != nil {
		return err
	}
	delay, err := recordedDeferral(rec)
	if err != nil {
		return err
	}
	// A damaged intent doesn't hold up an erasure: mended meanwhile, it must not come after the reach and lose its key with the rest.
	err = b.unlessErasing(delay, []keys.Owner{d.Owner}, func() error {
		_, err := b.append(ctx, ledger.Group{
			Entries: []proof.Entry{disclosureEntry(delay, d.AskedAt, rec.Commitment())},
			Attach:  &store.Outcome{Disclosure: d.Seq, Records: []store.Record{row}},
		})
		return err
	})
	if err == nil {
		b.log.Info("recorded an interrupted request", "disclosure", uuid.UUID(d.ID))
	}
	return err
}

// atWork says which processes see to requests that were begun at them, but for this one. To a broker that follows, all do.
func (b *Broker) atWork(ctx context.Context, rows []store.OpenIntent) (map[int64]bool, error) {
	if b.member == nil {
		return nil, nil
	}
	there := map[int64]bool{}
	var all []int64
	for i := range rows {
		if m := rows[i].Member; m != b.member.ID() && !there[m] {
			there[m] = true
			all = append(all, m)
		}
	}
	if !b.leads() {
		return there, nil
	}
	gone, err := b.member.Gone(ctx, all)
	if err != nil {
		return nil, err
	}
	for _, m := range gone {
		delete(there, m)
	}
	return there, nil
}
