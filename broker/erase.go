package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
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
// If it fails on the way, it may go on by itself, and until then no request about the person is carried out: what came after its reach must not be destroyed with the rest. One that was begun and can't be
// read any more can be asked for again.
//
// A legal hold and an open contest keep it from beginning. The time to think it over is that of a person's own request: see RequestErasure.
func (b *Broker) Erase(ctx context.Context, subject proof.Subject, ground string) (Erasure, error) {
	return b.erase(ctx, subject, ground, store.ID{})
}

// erase carries out a person's request, or (zero) an operator's.
func (b *Broker) erase(ctx context.Context, subject proof.Subject, ground string, request store.ID) (_ Erasure, err error) {
	if !proof.IsToken(ground) {
		return Erasure{}, invalid("/ground", "The ground is not a token.", "Use lower-case letters, digits, '.', '_' and '-'.")
	}
	if !b.leads() {
		return Erasure{}, b.errFollows(ctx)
	}
	outer := ctx
	ctx, done := b.asLeader(ctx)
	defer done()
	order := b.inTerm() // of another term than ctx: that one has ended
	defer func() {
		if err != nil && b.member != nil && outer.Err() == nil && (ctx.Err() != nil || errors.Is(err, store.ErrTerm)) {
			err = b.errFollows(outer) // another broker leads, and carries through what was begun
		}
	}()
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return Erasure{}, keysProblem(err)
	}
	if err := b.blocked(ctx, owner); err != nil {
		return Erasure{}, err
	}
	was, ok := b.gate.close(owner)
	if !ok {
		return Erasure{}, conflict("erasure.in_progress", "This person is being erased already.", "Wait for it.")
	}
	begun := false // in the store, perhaps
	defer func() {
		switch {
		case err != nil && begun:
			b.gate.set(owner, phaseLeft)
		case err != nil:
			b.letIn(ctx, order, owner)
			b.gate.set(owner, was)
		default:
			b.damage.erased(owner)
			b.gate.set(owner, 0)
		}
	}()
	// At the other brokers, too: else somebody about whom there is always a request under way could never be erased.
	if err := order.ShutOut(ctx, owner); err != nil {
		return Erasure{}, storeProblem(err)
	}
	asked := b.now()
	var e store.Erasure
	var rec *proof.Record
	var reach proof.Index
	for {
		e, rec, reach, err = b.beginErasure(ctx, order, subject, owner, ground, asked, request, &begun)
		if !errors.Is(err, store.ErrIntents) {
			break
		}
		b.gate.set(owner, phaseClosing) // another broker had begun something
	}
	if err != nil {
		return Erasure{}, err
	}
	index, err := b.finishErasure(ctx, &e, rec)
	b.ledger().Forget(subject)
	return Erasure{Index: index, Reach: reach}, err
}

// beginErasure waits for what is under way about the person, whom the gate is closing, and remembers the erasure, unless this broker's term has ended. begun says that it is in the store, perhaps.
func (b *Broker) beginErasure(ctx context.Context, order store.Order, subject proof.Subject, owner keys.Owner, ground string, asked time.Time, request store.ID, begun *bool) (e store.Erasure, rec *proof.Record, reach proof.Index, err error) {
	if err := b.gate.settled(ctx, b.stopping, owner); err != nil {
		return e, nil, 0, fmt.Errorf("waiting for requests about the person: %w", err)
	}
	err = b.until(ctx, func() (bool, error) {
		if err := b.blocked(ctx, owner); err != nil { // since it was asked for
			return false, err
		}
		return b.noIntent(ctx, owner)
	})
	if err != nil {
		return e, nil, 0, fmt.Errorf("waiting for requests about the person: %w", err)
	}
	b.gate.set(owner, phaseShut)
	if err := b.gate.settled(ctx, b.stopping, owner); err != nil {
		return e, nil, 0, fmt.Errorf("waiting for what is being recorded about the person: %w", err)
	}
	if reach, _, err = b.store.LastIndex(ctx); err != nil {
		return e, nil, 0, err
	}
	if rec, err = erasureRecord(subject, reach, ground, asked, b.now()); err != nil {
		return e, nil, 0, err
	}
	sealed, err := b.sealRecord(ctx, subject, asked, rec, false)
	if err != nil {
		return e, nil, 0, keysProblem(err)
	}
	if sealed.fresh != nil {
		// A person without keys has no records; the entry is made all the same, so that asking reveals nothing.
		err := b.store.SaveKeys(ctx, []keys.StoredKey{*sealed.fresh})
		b.saved(err, sealed)
		if err != nil {
			return e, nil, 0, err
		}
	}
	e = store.Erasure{ID: store.ID(uuid.Must(uuid.NewV7())), Record: sealed.row}
	*begun = true
	if err := order.BeginErasure(ctx, &e, request, b.overBy(), reach, b.damage.has); err != nil {
		if p := eraseProblem(err); p != nil {
			*begun = false
			return e, nil, 0, p
		}
		*begun = !errors.Is(err, store.ErrIntents) && !errors.Is(err, store.ErrTerm)
		return e, nil, 0, err
	}
	return e, rec, reach, nil
}

// inTerm is the store, for what this broker does as the one that leads now.
func (b *Broker) inTerm() store.Order { return store.Order{Store: b.store, Term: b.part.Load().term} }

// letIn lets requests about somebody begin again whose erasure didn't begin. If that fails, the sweeper does it.
func (b *Broker) letIn(ctx context.Context, order store.Order, owner keys.Owner) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), erasureRound)
	defer cancel()
	if err := order.LetIn(ctx, owner); err != nil {
		b.log.Warn("requests about a person who isn't erased after all are still kept out; it is tried again", "error", err)
	}
}

// letInLeft lets requests about everybody begin again whose erasure an earlier leader had asked for and didn't begin.
func (b *Broker) letInLeft(ctx context.Context) error {
	return b.inTerm().LetInLeft(ctx, b.gate.closing())
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
		// The journal first: whatever of this the log tells, a store that is restored from a backup can be told whom it is about.
		if err := b.journalErasure(ctx, e, nil); err != nil {
			return 0, journalProblem(err)
		}
		appended, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{proof.Erasure{Commitment: rec.Commitment()}}, Attach: &store.ErasureLogged{Erasure: *e}})
		if err != nil {
			return 0, err
		}
		index = appended.Entries[0].Index
	}
	if err := b.journalErasure(ctx, e, &index); err != nil {
		return index, journalProblem(err)
	}
	// After this nobody can tell any more to whom an entry belongs, so each must be in its roll before.
	err := b.until(ctx, func() (bool, error) {
		if !b.leads() { // another broker carries it through
			return false, b.errFollows(ctx)
		}
		return b.store.Filed(ctx, index)
	})
	if err != nil {
		return index, fmt.Errorf("waiting for the person's entries to be filed: %w", err)
	}
	// Once: another broker may be at it, too, or have done it, and then the person has new keys.
	return index, b.ring.EraseWith(ctx, e.Owner, func(ctx context.Context) (int64, error) { return b.store.CarryOut(ctx, e, b.now()) })
}

func journalProblem(err error) error {
	return &Problem{Status: 503, Code: "erasure.journal", Title: "The journal of erasures can't be written, so nothing is destroyed yet.",
		Detail: "The erasure is remembered and carried through once signed/ in the data directory can be written.", RetryAfter: 5 * time.Second, err: err}
}

// noIntent says whether no request about the owner waits for its outcome any more. One that can't be read never has one: it must not keep a person from being erased.
func (b *Broker) noIntent(ctx context.Context, owner keys.Owner) (bool, error) {
	open, err := b.store.IntentsOf(ctx, owner)
	if err != nil {
		return false, err
	}
	for _, seq := range open {
		if !b.damage.has(seq) {
			return false, nil
		}
	}
	return true, nil
}

// resumeWait is how long a start waits for the erasures of an earlier process, which take a few seconds.
const resumeWait = 20 * time.Second

// erasureRound is how long the sweeper works at them in a round: it has other things to do.
const erasureRound = 5 * time.Second

// shutErasures shuts out whoever an earlier process was erasing.
func (b *Broker) shutErasures(ctx context.Context) error {
	open, err := b.store.OpenErasures(ctx)
	for i := range open {
		b.gate.leave(open[i].Owner)
	}
	return err
}

// shuts says whether a broker is about to lead, and has shut people out for that.
type shuts struct {
	mu sync.Mutex
	n  int // attempts to lead
}

// hold keeps those who are shut out from being let in, until done.
func (s *shuts) hold() (done func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n += n
	}
	add(1)
	return func() { add(-1) }
}

// forgetLeft lets in who is shut out here, if this broker follows: the one that leads keeps them out. One whose lease is late leads until its part has ended.
func (b *Broker) forgetLeft() {
	b.shuts.mu.Lock()
	defer b.shuts.mu.Unlock()
	if b.shuts.n == 0 && !b.part.Load().leads {
		b.gate.forgetLeft()
	}
}

// resumeErasures carries these erasures through, as far as it can: the sweeper goes on with the rest, and nobody else waits for it.
func (b *Broker) resumeErasures(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	if err := b.leftErasures(ctx); err != nil {
		b.log.Error("carrying through an erasure; it is tried again, and until then nothing about that person is recorded", "error", err)
	}
}

// leftErasures carries through what failed in this process or an earlier one. Each is tried, whatever became of the others.
func (b *Broker) leftErasures(ctx context.Context) error {
	// Whatever was begun is carried through, though nobody here remembers it.
	if err := b.shutErasures(ctx); err != nil {
		return err
	}
	var errs []error
	for _, o := range b.gate.left() {
		was, ok := b.gate.take(o)
		if !ok {
			continue // it has been asked for again
		}
		open, err := b.store.OpenErasures(ctx)
		if err == nil {
			err = b.resumeErasure(ctx, o, open)
		}
		switch {
		case err == nil: // or it was never begun
			b.damage.erased(o)
			b.gate.set(o, 0)
		case errors.Is(err, errDamaged):
			b.damagedErasure(o, err)
			b.gate.set(o, phaseStuck)
		default:
			errs = append(errs, err)
			b.gate.set(o, was)
		}
	}
	return errors.Join(errs...)
}

// resumeErasure carries through the erasure of an owner. If there are several, all but the last couldn't be read, and are done with that one.
func (b *Broker) resumeErasure(ctx context.Context, owner keys.Owner, open []store.Erasure) error {
	var failed error
	for _, e := range slices.Backward(open) {
		if e.Owner != owner {
			continue
		}
		var rec *proof.Record
		if !e.Logged {
			var err error
			if rec, err = b.openWhole(ctx, &e.Record); errors.Is(err, errDamaged) {
				failed = err
				continue
			} else if err != nil {
				return err
			}
		}
		if _, err := b.finishErasure(ctx, &e, rec); err != nil {
			return err
		}
		b.log.Info("carried through an erasure that was interrupted")
		return nil
	}
	return failed
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
	return unavailable(CodeStopping, "The broker is being restarted; an erasure that has begun is carried through when it starts.", nil)
}
