package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// publishWait is how long a caller waits for the publication of what is recorded already, usually a second: a log that can't sign or publish must not hold every place.
const publishWait = 5 * time.Second

// bodyLife is how long the digest of a request is kept, by which its repeat is told from another request with the same Idempotency-Key. Who has the store and its keys can confirm a guess of
// what was asked by it, so it isn't kept for longer than a broken connection takes to be noticed. The key stays used until the end of retention.
const bodyLife = 24 * time.Hour

// errNoDisclosure has one form for disclosures that never were and those of other agencies.
func errNoDisclosure() *Problem {
	return &Problem{Status: 404, Code: "disclosure.unknown", Title: "There is no such disclosure.", Detail: "Check the id; an agency sees its own disclosures only."}
}

// Disclosure returns what became of one of the caller's disclosures, with its receipt at its best by now. The data isn't repeated here: see Idempotency-Key.
func (b *Broker) Disclosure(ctx context.Context, caller Caller, id store.ID) (*Answer, error) {
	d, err := b.store.Disclosure(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && d.Agency != caller.ID {
		return nil, errNoDisclosure()
	}
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	if !d.Done && b.damage.has(d.Seq) {
		return nil, damagedProblem()
	}
	if !d.Done {
		return nil, errInProgress()
	}
	past, err := b.past(ctx, d)
	if err != nil {
		return nil, err
	}
	if b.toldLate(past) {
		if _, err := b.awaitWitnesses(ctx, past.indexes()); err != nil {
			return nil, err
		}
	}
	a, err := b.pastAnswer(ctx, past)
	if err != nil {
		return nil, err
	}
	return a, b.upgrade(ctx, a, past)
}

// toldLate says whether nothing of what a provider said, not even that it knows nobody, is told of an earlier disclosure before its entries are witnessed.
func (b *Broker) toldLate(p *past) bool {
	return b.mustHaveWaited(p.opening) && Outcome(p.opening.Text(proof.DisclosureOutcome)) != Denied && !p.interrupted()
}

// repeat answers a request whose Idempotency-Key was used before with the same body. The provider isn't asked again; the policy and the person's erasure are.
func (b *Broker) repeat(ctx context.Context, d store.Disclosure, again *disclosure) (*Answer, error) {
	if !d.Done && b.damage.has(d.Seq) {
		return nil, damagedProblem()
	}
	if !d.Done {
		return nil, &Problem{Status: 409, Code: "idempotency.in_progress", Title: "The first request with this Idempotency-Key has no outcome yet.", Detail: "Repeat the request shortly.", RetryAfter: time.Second}
	}
	past, err := b.past(ctx, d)
	if err != nil {
		return nil, err
	}
	prove := b.provePublished
	if b.witnesses != nil && again.waits || b.toldLate(past) {
		prove = b.awaitWitnesses
		if _, err := prove(ctx, past.indexes()); err != nil {
			return nil, err
		}
	}
	a, err := b.pastAnswer(ctx, past)
	if err != nil {
		return nil, err
	}
	a.Repeated = true
	if err := b.upgrade(ctx, a, past); err != nil {
		return nil, err
	}
	if len(d.Body) == 0 {
		// Older than bodyLife, or than the backup that was restored, or the person was erased. The provider isn't asked again for it, nor is this called the answer to what may be another request.
		a.Gone, a.Reasons = true, nil
		a.Problem = &Problem{Status: 410, Code: "idempotency.expired", Title: "This Idempotency-Key was used before, too long ago to tell whether with the same request.", Detail: "The provider was not asked. The receipt is that of the earlier request. Use a new key for a new request."}
		return a, nil
	}
	if a.Outcome == Denied || past.interrupted() {
		return a, nil // nobody said anything that could be repeated
	}
	if _, ok := again.decision.Granted(); !ok {
		return again.refuse(ctx)
	}
	sealed, until, err := b.store.Payload(ctx, d.Seq)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && (!b.now().Before(until) || past.rec.Erased()):
		return a.gone(), nil
	case err != nil:
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	appended, err := prove(ctx, past.indexes())
	if err != nil {
		return nil, err
	}
	verified, err := proof.Verify(appended.Checkpoint, appended.Entries)
	if err != nil {
		return nil, unavailable("log.unproven", "The log gave no valid proof of the entries.", err)
	}
	said, err := b.open(ctx, sealed, verified)
	if errors.Is(err, keys.ErrNoKey) {
		return a.gone(), nil
	}
	if err != nil {
		return nil, keysProblem(err)
	}
	a.Data, a.Problem = said.data, said.problem
	return a, nil
}

// provePublished proves entries under the published checkpoint.
func (b *Broker) provePublished(ctx context.Context, indexes []proof.Index) (ledger.Appended, error) {
	ctx, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	a, err := b.ledger().Prove(ctx, indexes)
	if err != nil {
		return a, unavailable("log.unavailable", "The log can't prove the entries now.", err)
	}
	return a, nil
}

// refuse records that the repeat of a request is refused that was granted the first time: a refusal of its own, without the Idempotency-Key, which is the first one's.
func (d *disclosure) refuse(ctx context.Context) (*Answer, error) {
	req := *d.plan.req
	req.IdempotencyKey = ""
	d.plan.req = &req
	if _, _, err := d.begin(ctx); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	d.question(ctx)
	a, err := d.conclude(ctx)
	if a != nil && a.Problem != nil {
		a.Problem.Detail = "It was allowed the first time and is not any more: the answer isn't repeated. The reasons say which rule; the refusal is recorded, and the provider was not asked."
	}
	return a, err
}

func (a *Answer) gone() *Answer {
	a.Gone = true
	if a.Outcome == Released {
		a.Problem = &Problem{Status: 410, Code: "disclosure.gone", Title: "The answer was given and is not kept any longer.", Detail: "Answers can be repeated for 15 minutes. Make a new request if you still need the data."}
	}
	return a
}

// past is a disclosure as its stored records tell it.
type past struct {
	row     store.Disclosure
	records []store.PlacedRecord
	rec     *proof.Record // the asked one
	opening proof.Opening
}

func (b *Broker) past(ctx context.Context, d store.Disclosure) (*past, error) {
	rows, err := b.store.Records(ctx, d.Seq)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return b.pastFrom(ctx, d, rows)
}

// pastFrom opens rows that were read a moment ago, and others if a delay ended since.
func (b *Broker) pastFrom(ctx context.Context, d store.Disclosure, rows []store.PlacedRecord) (*past, error) {
	p, err := b.pastOf(ctx, d, rows)
	if errors.Is(err, errDelayEnded) {
		if rows, err = b.store.Records(ctx, d.Seq); err != nil {
			return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
		}
		p, err = b.pastOf(ctx, d, rows)
	}
	return p, err
}

func (b *Broker) pastOf(ctx context.Context, d store.Disclosure, rows []store.PlacedRecord) (*past, error) {
	if len(rows) == 0 {
		// Its delay had ended when an older backup was restored: a record that is opened again would be another one.
		return nil, &Problem{Status: 410, Code: "disclosure.lost", Title: "The details of this disclosure were lost when a backup was restored.", Detail: "The log says so (restart@v1); your receipt remains valid.", err: fmt.Errorf("disclosure %v has an outcome and no records", uuid.UUID(d.ID))}
	}
	rec, err := b.openEntry(ctx, &rows[0])
	if errors.Is(err, keys.ErrNoKey) {
		return nil, &Problem{Status: 410, Code: "disclosure.retired", Title: "The retention of this disclosure has ended.", Detail: "Its details were destroyed; its entry and your receipt remain valid."}
	}
	if err != nil {
		return nil, keysProblem(err)
	}
	p := &past{row: d, records: rows, rec: rec, opening: rec.Open(proof.ReaderAgency)}
	// In a damaged store the first record may be that of somebody else in the answer, or of another request: the agency gets the asked one's receipt or none.
	if p.opening.Text(proof.DisclosureRole) != proof.RoleAsked || p.opening.Text(proof.DisclosureID) != uuid.UUID(d.ID).String() {
		return nil, fmt.Errorf("record %d is not the asked one of disclosure %v: %w", rows[0].Index, uuid.UUID(d.ID), keys.ErrAltered)
	}
	return p, nil
}

func (p *past) indexes() []proof.Index {
	out := make([]proof.Index, len(p.records))
	for i := range p.records {
		out[i] = p.records[i].Index
	}
	return out
}

func (p *past) interrupted() bool {
	cause := p.opening.Text(proof.DisclosureCause)
	return cause == causeInterrupted || cause == causeRestored
}

// CodeProviderEmpty is the code of an answer that the provider knows nobody, where its own words aren't at hand.
const CodeProviderEmpty = "provider.empty"

// pastAnswer says what became of a disclosure. The reasons of a refusal come from running the recorded decision again under the recorded bundle (G6).
func (b *Broker) pastAnswer(ctx context.Context, p *past) (*Answer, error) {
	a := &Answer{ID: p.row.ID, Outcome: Outcome(p.opening.Text(proof.DisclosureOutcome)), AskedAt: p.row.AskedAt}
	switch a.Outcome {
	case Denied:
		a.Problem = deniedProblem()
		again, err := b.replay(ctx, p.opening)
		if err != nil {
			return nil, fmt.Errorf("replaying the decision of %v: %w", uuid.UUID(p.row.ID), err)
		}
		a.Reasons = again.Reasons
	case Empty:
		a.Problem = &Problem{Status: 404, Code: CodeProviderEmpty, Title: "The provider knows nobody by this identity.", Provider: p.opening.Text(proof.DisclosureProvider)}
	case Failed:
		cause := p.opening.Text(proof.DisclosureCause)
		a.Problem = &Problem{Status: 502, Code: cause, Title: "The request was not completed.", Detail: "The attempt is recorded. Make a new request, with a new Idempotency-Key.", Provider: p.opening.Text(proof.DisclosureProvider)}
		if p.interrupted() {
			a.Problem.Status, a.Problem.Title = 503, "The broker was interrupted while it carried out this request."
		}
		if cause == causeRestored {
			a.Problem.Title = "The broker was restored from a backup in which this request had no outcome."
			a.Problem.Detail = "It may have had one since, which you may have got: its entry is then one whose details are lost. If not, make a new request, with a new Idempotency-Key."
		}
	}
	return a, nil
}

// replay runs a recorded decision again.
func (b *Broker) replay(ctx context.Context, o proof.Opening) (policy.Recorded, error) {
	digest, err := proof.ParseHash(o.Text(proof.DisclosurePolicy))
	if err != nil {
		return policy.Recorded{}, err
	}
	r, ok := b.replayers.Load(digest)
	if !ok {
		bundle, err := b.store.Bundle(ctx, digest)
		if err != nil {
			return policy.Recorded{}, err
		}
		made, err := policy.NewReplayer(ctx, bundle.Bytes)
		if err != nil {
			return policy.Recorded{}, err
		}
		r, _ = b.replayers.LoadOrStore(digest, made) // one for each bundle that ever was in force
	}
	input, _ := o.Value(proof.DisclosureInput)
	return r.(*policy.Replayer).Replay(ctx, input)
}

// upgrade puts into a the receipt of the asked entry at its best: witnessed and settled as soon as the log can show it. What is handed out is verified first.
func (b *Broker) upgrade(ctx context.Context, a *Answer, p *past) error {
	index := p.records[0].Index
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	// All entries, not this one alone: the outcome is told, too.
	if _, err := b.ledger().AwaitPublished(wait, slices.Max(p.indexes())); err != nil {
		return unavailable("log.unavailable", "The log can't give the receipt now.", err)
	}
	receipt, err := b.ledger().Receipt(ctx, index, p.opening)
	if err != nil {
		return unavailable("log.unavailable", "The log can't give the receipt now.", err)
	}
	keys, err := b.logPolicy(ctx)
	if err != nil {
		return keysProblem(err)
	}
	v, err := receipt.Verify(keys, proof.VerifyOptions{AllowProvisional: true})
	if err != nil {
		return unavailable("log.unproven", "The log gave no valid receipt.", err)
	}
	a.State, a.Settled = v.State, v.InRoll
	a.Receipt, err = receipt.AppendText(nil)
	return err
}

// open opens a sealed answer. proof.Verify alone mints the token that keys demands: no proof of all entries, no plaintext (G1).
func (b *Broker) open(ctx context.Context, sealed keys.Sealed, verified proof.Verified) (*envelope, error) {
	plain, err := b.ring.OpenPayload(ctx, sealed, verified)
	if err != nil {
		return nil, err
	}
	var said envelope
	if err := said.unmarshal(plain); err != nil {
		return nil, err
	}
	return &said, nil
}
