package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// payloadLife is how long a sealed answer can be repeated.
const payloadLife = keys.PayloadLife

// disclosure is one request on its way. Its steps are those of docs/design.md, "One request, in order".
type disclosure struct {
	b        *Broker
	plan     *plan
	id       store.ID
	seq      store.Seq
	decision *policy.Decision
	ask      *service.Plan // what the grant means for the service; nil if refused
	rec      *proof.Record // of the asked entry
	owner    keys.Owner
	person   []byte // its person part, sealed: final since the intent
	key      [32]byte
	result   result
	as       int64 // the number of the registry and the policy by which it was decided
	waits    bool  // its answer is released on a witnessed receipt only
}

// staleTries bounds how often a request is decided anew because another broker changed meanwhile who may ask for what.
const staleTries = 5

// Disclose carries out one data request. Whatever it returns, nothing of a provider's answer has been released without its entries in the log.
func (b *Broker) Disclose(ctx context.Context, caller Caller, req *Request) (*Answer, error) {
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for tries := 1; ; tries++ {
		a, err := b.disclose(ctx, caller, req)
		if !errors.Is(err, store.ErrStale) {
			return a, err
		}
		if err := b.takeUp(ctx); err != nil || tries == staleTries {
			return nil, unavailable("registry.stale", "This broker can't take up a change of who may ask for what.", err)
		}
		if b.registry.Load().agencies[caller.ID].State != store.Active {
			return nil, errUnknownCaller() // since it was asked
		}
	}
}

// disclose is Disclose, unless who may ask for what has changed meanwhile: store.ErrStale, and nothing was done.
func (b *Broker) disclose(ctx context.Context, caller Caller, req *Request) (*Answer, error) {
	as := b.known.registry.Load() // before what it is a number of
	p, err := b.plan(b.registry.Load(), caller, req)
	if err != nil {
		return nil, err
	}
	decision, err := b.decide(ctx, p)
	if err != nil {
		return nil, err
	}
	id, err := b.newID(string(p.service.def.Provider.ID))
	if err != nil {
		return nil, err
	}
	d := &disclosure{b: b, plan: p, decision: decision, id: id, as: as}
	if grant, ok := decision.Granted(); ok {
		if d.ask, err = p.service.planFor(grant); err != nil {
			return nil, fmt.Errorf("planning the question: %w", err)
		}
		if d.waits = mustWait(grant, p.service.def); d.waits && b.witnesses != nil {
			leave, err := b.enterWaiting()
			if err != nil {
				return nil, err
			}
			defer leave()
		}
	}
	b.begun.Store(d.id, true)
	defer b.begun.Delete(d.id)
	earlier, again, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	if again {
		return b.repeat(ctx, earlier, d)
	}
	// The intent is durable: from here on the request is carried through, whether or not the caller still waits.
	ctx = context.WithoutCancel(ctx)
	b.at(stageIntent)
	d.question(ctx)
	b.at(stageProvider)
	return d.conclude(ctx)
}

// decide asks the policy. An evaluation that failed is a refusal, and recorded as one.
func (b *Broker) decide(ctx context.Context, p *plan) (*policy.Decision, error) {
	decision, err := b.engine.Decide(ctx, p.input)
	switch {
	case err == nil:
	case errors.Is(err, policy.ErrEvaluation):
		b.log.Error("policy gave no decision", "service", p.req.Service, "error", err)
	case errors.Is(err, policy.ErrInput):
		return nil, &Problem{Status: 400, Code: "request.invalid", Title: "The policy can't judge this request.", Detail: "One of its members has a form that the policy doesn't take; see docs/api.md.", err: err}
	default:
		return nil, unavailable("policy.unavailable", "The policy could not decide in time.", err)
	}
	return &decision, nil
}

// begin makes the intent durable: everything that is known before a provider is asked, sealed.
func (d *disclosure) begin(ctx context.Context) (store.Disclosure, bool, error) {
	b, p := d.b, d.plan
	if _, err := rand.Read(d.key[:]); err != nil {
		return store.Disclosure{}, false, err
	}
	var err error
	if d.rec, err = d.newRecord(proof.RoleAsked, p.subject, d.requested()); err != nil {
		return store.Disclosure{}, false, fmt.Errorf("describing the request: %w", err)
	}
	delay := p.deferral()
	sealed, err := b.sealRecord(ctx, p.subject, p.at, d.rec, delay != nil)
	if err != nil {
		return store.Disclosure{}, false, keysProblem(err)
	}
	d.owner, d.person = sealed.row.Owner, sealed.row.Person
	in := &store.Intent{
		ID: d.id, Agency: p.caller.ID, AskedAt: p.at, Owner: d.owner, Person: sealed.row.Person, Admin: sealed.row.Admin,
		Fresh: []*keys.StoredKey{sealed.fresh}, Registry: d.as,
	}
	begin := b.gate.begin
	if delay != nil {
		in.Due = delay.Due(p.at)
		begin = func(_ keys.Owner, f func() error) error { return f() }
	}
	if in.Key, err = keys.KeyOf(in.Person); err != nil {
		return store.Disclosure{}, false, err
	}
	if p.req.IdempotencyKey != "" {
		if in.Body, err = b.digest(p.req); err != nil {
			return store.Disclosure{}, false, err
		}
		idem, err := b.ring.Digest("idempotency", []byte(p.req.IdempotencyKey))
		if err != nil {
			return store.Disclosure{}, false, keysProblem(err)
		}
		in.Idem = idem[:]
	}
	var row store.Disclosure
	var again bool
	err = begin(d.owner, func() (err error) {
		row, again, err = b.store.Begin(ctx, in)
		return err
	})
	what := err
	if again {
		what = errNotTried
	}
	b.saved(what, sealed)
	b.recycle(sealed) // Begin has returned: the store is done with it
	switch {
	case errors.Is(err, store.ErrStale):
		return row, false, err
	case errors.Is(err, errErasing), errors.Is(err, store.ErrErasing), errors.Is(err, keys.ErrNoKey):
		if b.member != nil && errors.Is(err, keys.ErrNoKey) {
			b.ring.DropCached() // another broker destroyed what this one has in memory
		}
		return row, false, &Problem{Status: 503, Code: "subject.erasing", Title: "Records about this person are being erased.", Detail: "Repeat the request shortly.", RetryAfter: 5 * time.Second}
	case errors.Is(err, store.ErrConflict):
		return row, false, &Problem{Status: 409, Code: "idempotency.conflict", Title: "This Idempotency-Key was used with another request.", Detail: "Use a new key for a new request."}
	case err != nil:
		return row, false, unavailable("store.unavailable", "The broker can't record requests now.", err)
	}
	d.seq = row.Seq
	return row, again, nil
}

// saved tells the ring what became of the fresh keys of records, given the error of what was to store them.
func (b *Broker) saved(err error, rows ...sealedRecord) {
	for _, r := range rows {
		switch {
		case r.fresh == nil:
		case err == nil:
			b.ring.Saved(r.fresh)
		case notStored(err):
			b.ring.Abandon(r.fresh.ID)
		default:
			b.ring.Forget(r.fresh.ID)
		}
	}
}

// notStored says whether an error says for certain that nothing was stored, and won't be. A commit without an answer may become durable yet.
func notStored(err error) bool {
	for _, certain := range []error{
		errNotTried, errErasing, keys.ErrNoKey, keys.ErrKeyExists, ledger.ErrRefused, ledger.ErrBusy,
		store.ErrStale, store.ErrErasing, store.ErrConflict, store.ErrNotFound, store.ErrExists,
	} {
		if errors.Is(err, certain) {
			return true
		}
	}
	return false
}

// errNotTried: nobody has tried to store it.
var errNotTried = errors.New("nothing was stored")

// newRecord describes the request for one entry; requested are the fields that concern its subject.
func (d *disclosure) newRecord(role string, subject proof.Subject, requested []string) (*proof.Record, error) {
	p := d.plan
	rec, err := newRecord()
	if err != nil {
		return nil, err
	}
	f := &fields{rec: rec}
	f.subject(subject)
	if role == proof.RoleAsked {
		f.text(proof.DisclosureContext, p.context)
		f.text(proof.DisclosureObject, p.object)
		f.bytes(proof.DisclosurePayloadKey, d.key[:])
	}
	f.text(proof.DisclosureID, uuid.UUID(d.id).String())
	f.text(proof.DisclosureRole, role)
	f.text(proof.DisclosureAgency, p.caller.ID)
	f.text(proof.DisclosureRecipient, p.req.Recipient)
	f.text(proof.DisclosureOfficial, p.req.Official)
	f.text(proof.DisclosureProvider, string(p.service.def.Provider.ID))
	f.text(proof.DisclosureService, p.service.def.Ref())
	f.list(proof.DisclosureRequested, requested)
	f.text(proof.DisclosurePurpose, p.req.Purpose)
	f.text(proof.DisclosureLegalBasis, p.req.LegalBasis)
	if p.agreed != nil {
		f.text(proof.DisclosureAgreement, p.agreed.agreement.Ref().String())
	}
	f.text(proof.DisclosurePolicy, d.decision.Bundle().String())
	f.bytes(proof.DisclosureInput, d.decision.Input())
	f.list(proof.DisclosureReasons, stringsOf(d.decision.Codes()))
	f.time(proof.DisclosureAskedAt, p.at)
	f.text(proof.DisclosureTraceID, p.traceID)
	return rec, f.err
}

// requested is what a provider is asked for: granted fields and identity pointers, all if it can't select; or what it would have been asked for.
func (d *disclosure) requested() []string {
	if d.ask != nil {
		return stringsOf(d.ask.Requested())
	}
	var out []string
	for _, fields := range d.plan.input.Service.Scopes {
		out = append(out, stringsOf(fields)...)
	}
	return out
}

func unavailable(code, title string, err error) *Problem {
	return &Problem{Status: 503, Code: code, Title: title, Detail: "Nothing was released. Repeat the request, with the same Idempotency-Key if it had one.", RetryAfter: time.Second, err: err}
}

func keysProblem(err error) error {
	var p *Problem
	switch {
	case errors.As(err, &p), errors.Is(err, keys.ErrAltered), errors.Is(err, keys.ErrNoKey), errors.Is(err, keys.ErrUnproven):
		return err
	case errors.Is(err, keys.ErrUnavailable), errors.Is(err, keys.ErrDenied), errors.Is(err, keys.ErrClosed):
		return unavailable("keys.unavailable", "The keys are not available.", err)
	}
	return unavailable("store.unavailable", "The broker can't read its keys now.", err) // what is left are the errors of the store that keeps them
}
