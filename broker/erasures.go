package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	// defaultCoolOff is for how long a person can undo a request for erasure.
	defaultCoolOff = 30 * 24 * time.Hour
	// groundPerson is why a person's request is carried out: GDPR, article 17.
	groundPerson = "rgpd-17"
	// erasureMailWait is how long an erasure waits at most for the mail that says that it begins: with the account goes the address.
	erasureMailWait = time.Hour
	// erasureShown is how long ended requests can be seen.
	erasureShown   = 90 * 24 * time.Hour
	erasuresListed = 200
	erasuresARound = 16
	// erasureLook is the pause before a request that could not be carried out is looked at again.
	erasureLook = time.Minute
)

// CoolOff is for how long a person can undo their request for erasure.
func (b *Broker) CoolOff() time.Duration { return b.cfg.CoolOff }

// An ErasureRequest of an account's person: everything that was asked for at once.
type ErasureRequest struct {
	ID          store.ID
	Asked, Due  time.Time
	Identifiers []ErasingIdentifier
}

// ErasingIdentifier is what became of one identifier.
type ErasingIdentifier struct {
	Type  proof.SubjectType
	State string // waiting, undone, done
	// Blocked says what would keep it from being erased now: hold or contest; empty: nothing.
	Blocked string
	// Basis is the legal basis of the hold that blocks it.
	Basis string
	Ended time.Time   // zero while it waits
	Index proof.Index // of the erasure@v1 entry, once it is done
}

// Undoable says whether something of it still waits.
func (e *ErasureRequest) Undoable() bool {
	for _, x := range e.Identifiers {
		if x.State == store.ErasureWaiting {
			return true
		}
	}
	return false
}

// Erasable says whether identifiers of a type belong to one person, who can have erased what is filed under theirs. Whoever has the same names, sex and birth date has the same keys, and
// so have all representatives of a business: only the operator can find out whose records those are.
func Erasable(t proof.SubjectType) bool {
	switch t {
	case proof.TypePivot, proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail:
		return true
	}
	return false
}

// RequestErasure asks for the erasure of identifiers of the account's person. It is carried out by itself when the time to think it over has ended; a hold or an open contest makes it wait beyond that.
// Of identifiers that others may have, too, nothing is destroyed, or told, on one person's word: see Erasable and Erase.
//
// signedIn is when the person last showed who they are, which must have been just now. What the person has asked for already isn't asked twice.
func (b *Broker) RequestErasure(ctx context.Context, a Account, subjects []proof.Subject, signedIn time.Time) error {
	if err := b.fresh(signedIn); err != nil {
		return err
	}
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	if len(subjects) == 0 {
		return invalid("/subjects", "No identifier was chosen.", "Choose what is to be erased.")
	}
	now := b.now()
	request := newID()
	var rows []store.ErasureRequest
	var items []beside
	seen := map[keys.Owner]bool{}
	for _, s := range subjects {
		owner, err := b.ring.Owner(s)
		if err != nil {
			return keysProblem(err)
		}
		if _, mine := p.subjects[owner]; !mine {
			return invalid("/subjects", "This identifier isn't one of the account's.", "Choose among those that are.")
		}
		if !Erasable(s.Type()) {
			return conflict("erasure.shared", "What is filed under names without a birth place may be about a namesake, and what is filed under a business is its other representatives' history, too.", "Leave this identifier out, and write to the operator, who can find out whose records these are.")
		}
		if seen[owner] {
			continue
		}
		seen[owner] = true
		id := newID()
		rows = append(rows, store.ErasureRequest{ID: id, Request: request, Account: p.owner, Owner: owner, Type: s.Type(), Ground: groundPerson, Asked: now, Due: now.Add(b.cfg.CoolOff)})
		items = append(items, beside{owner, "erasure", id, []byte(string(s.Type()) + "\x00" + s.Value())})
	}
	return storeProblem(b.keepBeside(ctx, items, func(sealed []*store.Sealed) error {
		_, err := b.store.RequestErasure(ctx, rows, sealed)
		return err
	}, p.owner))
}

// ErasureRequests lists those of an account, newest first.
func (b *Broker) ErasureRequests(ctx context.Context, a Account) ([]ErasureRequest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	rows, err := b.store.ErasureRequests(ctx, p.owner, erasuresListed)
	if err != nil {
		return nil, storeProblem(err)
	}
	var out []ErasureRequest
	for i := range rows {
		e := &rows[i]
		if len(out) == 0 || out[len(out)-1].ID != e.Request {
			out = append(out, ErasureRequest{ID: e.Request, Asked: e.Asked, Due: e.Due})
		}
		x := ErasingIdentifier{Type: e.Type, State: e.State, Ended: e.Ended, Index: e.Index}
		if e.State == store.ErasureWaiting {
			if x.Blocked, err = b.store.Blocks(ctx, e.Owner, b.overBy()); err != nil {
				return nil, storeProblem(err)
			}
		}
		if x.Blocked == store.BlockedByHold {
			if x.Basis, err = b.holdBasis(ctx, e.Owner); err != nil {
				return nil, err
			}
		}
		r := &out[len(out)-1]
		r.Identifiers = append(r.Identifiers, x)
	}
	return out, nil
}

// UndoErasure takes back what of a request still waits.
func (b *Broker) UndoErasure(ctx context.Context, a Account, request store.ID) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	switch err := b.store.UndoErasure(ctx, p.owner, request, b.now()); {
	case errors.Is(err, store.ErrNotFound):
		return &Problem{Status: 404, Code: "erasure.unknown", Title: "There is no such request.", Detail: "Check the id."}
	case errors.Is(err, store.ErrEnded):
		return conflict("erasure.ended", "This can't be undone any more.", "It was carried out, is being carried out, or was undone already.")
	default:
		return storeProblem(err)
	}
}

// dueErasures carries out the requests that are due, as far as nothing blocks them. Each is tried, whatever became of the others.
func (b *Broker) dueErasures(ctx context.Context) error {
	due, err := b.store.DueErasures(ctx, b.overBy(), erasuresARound)
	if err != nil {
		return err
	}
	var errs []error
	for i := range due {
		mailing, err := b.dueErasure(ctx, &due[i])
		pause := min(erasureLook, b.cfg.CoolOff)
		if mailing {
			pause = b.cfg.SweepEvery
		}
		// One that is done is not touched by this; the others let those behind them pass.
		if err := errors.Join(err, b.store.Postpone(ctx, due[i].ID, b.overBy().Add(pause))); err != nil {
			errs = append(errs, fmt.Errorf("carrying out request %v: %w", uuid.UUID(due[i].ID), err))
		}
	}
	return errors.Join(errs...)
}

// dueErasure carries one out, unless something blocks it, or a mail to the person has to go out first (mailing).
func (b *Broker) dueErasure(ctx context.Context, e *store.ErasureRequest) (mailing bool, err error) {
	now := b.overBy()
	why, err := b.store.Blocks(ctx, e.Owner, now)
	if err != nil {
		return false, err
	}
	if why != e.Blocked {
		if err := b.store.SetBlocked(ctx, e, why, now); err != nil {
			return false, err
		}
	}
	if why != "" {
		return false, nil
	}
	ready, err := b.store.Announce(ctx, e, now)
	if err != nil {
		return false, err
	}
	if !ready && b.cfg.Mail != nil && (e.Announced.IsZero() || now.Sub(e.Announced) < erasureMailWait) {
		return true, nil
	}
	plain, err := b.openBeside(ctx, e.Owner, "erasure", e.ID, e.Subject)
	if errors.Is(err, keys.ErrNoKey) {
		// The keys are gone already: by another erasure of this identifier, which marks this one as done when it has ended.
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer clear(plain)
	subject, err := subjectOf(plain)
	if err != nil {
		return false, err
	}
	_, err = b.erase(ctx, subject, e.Ground, e.ID)
	switch p := AsProblem(err); {
	case err == nil, p.Code == "erasure.held", p.Code == "erasure.contested", p.Code == "erasure.ended", p.Code == "erasure.in_progress": // in a later round, if it is to be
		return false, nil
	}
	return false, err
}

func subjectOf(plain []byte) (proof.Subject, error) {
	for i, c := range plain {
		if c == 0 {
			return proof.ParseSubject(string(plain[:i]), string(plain[i+1:]))
		}
	}
	return proof.Subject{}, errors.New("a sealed subject of an unknown form")
}

// eraseProblem says why an erasure doesn't begin; nil for other errors.
func eraseProblem(err error) *Problem {
	switch {
	case errors.Is(err, store.ErrHeld):
		return conflict("erasure.held", "A legal hold keeps this from being erased.", "regard hold list shows it. Remove it if it is over, then repeat.")
	case errors.Is(err, store.ErrContested):
		return conflict("erasure.contested", "The person contests a disclosure, and an erasure would make the contest unreadable.", "Repeat it when the contest is answered or withdrawn.")
	case errors.Is(err, store.ErrEnded):
		return conflict("erasure.ended", "The person has undone this request.", "Nothing is to be done.")
	}
	return nil
}

// blocked is the problem with erasing an identifier now, by what is known before anything is stopped for it; the same is decided again in the transaction that begins it.
func (b *Broker) blocked(ctx context.Context, owner keys.Owner) error {
	why, err := b.store.Blocks(ctx, owner, b.overBy())
	switch {
	case err != nil:
		return storeProblem(err)
	case why == store.BlockedByHold:
		return eraseProblem(store.ErrHeld)
	case why == store.BlockedByContest:
		return eraseProblem(store.ErrContested)
	}
	return nil
}

// CountErasures counts the identifiers whose erasure people have asked for and that wait, and of these the ones that something blocks.
func (b *Broker) CountErasures(ctx context.Context) (waiting, blocked int64, err error) {
	return b.store.CountErasures(ctx)
}
