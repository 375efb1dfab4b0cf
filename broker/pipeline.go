package broker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/provider"
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
}

// result is what became of it. said is all that the provider's answer left behind; it is sealed before anything else happens to it.
type result struct {
	outcome  Outcome
	cause    string
	said     *envelope
	data     []byte // of said, until it is sealed
	obtained []string
	unknown  bool // what the answer held: the provider was asked, and nobody can tell what it said
	released []string
	others   []service.Filing // the entries beside the asked one
}

// envelope is what is sealed until the entries are proven: the released answer, or what the provider said instead. One of the two is set.
type envelope struct {
	data    []byte
	problem *Problem
}

// The first byte of an envelope. The data follows as it is: the receipt's payload digest is over exactly these bytes.
const (
	envelopeData    = 'd'
	envelopeProblem = 'p'
)

func (e *envelope) marshal() ([]byte, error) {
	if e.problem == nil {
		return append([]byte{envelopeData}, e.data...), nil
	}
	b, err := json.Marshal(e.problem)
	return append([]byte{envelopeProblem}, b...), err
}

func (e *envelope) unmarshal(b []byte) error {
	switch {
	case len(b) > 0 && b[0] == envelopeData:
		e.data = b[1:]
		return nil
	case len(b) > 0 && b[0] == envelopeProblem:
		e.problem = &Problem{}
		return json.Unmarshal(b[1:], e.problem)
	}
	return errors.New("a sealed answer of an unknown form")
}

// Disclose carries out one data request. Whatever it returns, nothing of a provider's answer has been released without its entries in the log.
func (b *Broker) Disclose(ctx context.Context, caller Caller, req *Request) (*Answer, error) {
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	p, err := b.plan(b.registry.Load(), caller, req)
	if err != nil {
		return nil, err
	}
	decision, err := b.decide(ctx, p)
	if err != nil {
		return nil, err
	}
	d := &disclosure{b: b, plan: p, decision: decision, id: store.ID(uuid.Must(uuid.NewV7()))}
	if grant, ok := decision.Granted(); ok {
		if d.ask, err = p.service.planFor(grant); err != nil {
			return nil, fmt.Errorf("planning the question: %w", err)
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

func unavailable(code, title string, err error) *Problem {
	return &Problem{Status: 503, Code: code, Title: title, Detail: "Nothing was released. Repeat the request, with the same Idempotency-Key if it had one.", RetryAfter: time.Second, err: err}
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
	sealed, err := b.sealRecord(ctx, p.subject, p.at, d.rec)
	if err != nil {
		return store.Disclosure{}, false, keysProblem(err)
	}
	d.owner, d.person = sealed.row.Owner, sealed.row.Person
	in := &store.Intent{
		ID: d.id, Agency: p.caller.ID, AskedAt: p.at, Owner: d.owner, Person: sealed.row.Person, Admin: sealed.row.Admin,
		Fresh: []*keys.StoredKey{sealed.fresh},
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
	err = b.gate.begin(d.owner, func() (err error) {
		row, again, err = b.store.Begin(ctx, in)
		return err
	})
	b.saved(err == nil && !again, sealed)
	switch {
	case errors.Is(err, errErasing), errors.Is(err, keys.ErrNoKey):
		return row, false, &Problem{Status: 503, Code: "subject.erasing", Title: "Records about this person are being erased.", Detail: "Repeat the request shortly.", RetryAfter: 5 * time.Second}
	case errors.Is(err, store.ErrConflict):
		return row, false, &Problem{Status: 409, Code: "idempotency.conflict", Title: "This Idempotency-Key was used with another request.", Detail: "Use a new key for a new request."}
	case err != nil:
		return row, false, unavailable("store.unavailable", "The broker can't record requests now.", err)
	}
	d.seq = row.Seq
	return row, again, nil
}

// saved tells the ring what became of the fresh keys of records.
func (b *Broker) saved(ok bool, rows ...sealedRecord) {
	for _, r := range rows {
		switch {
		case r.fresh == nil:
		case ok:
			b.ring.Saved(r.fresh)
		default:
			b.ring.Forget(r.fresh.ID)
		}
	}
}

// newRecord describes the request for one entry; requested are the fields that concern its subject.
func (d *disclosure) newRecord(role string, subject proof.Subject, requested []string) (*proof.Record, error) {
	p := d.plan
	rec, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		return nil, err
	}
	f := &fields{rec: rec}
	f.subject(subject)
	if role == proof.RoleAsked {
		f.text(proof.DisclosureContext, p.req.Context)
		f.text(proof.DisclosureObject, p.req.Object)
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

// question asks the provider, if the policy granted it. Whatever happens is a result to be recorded.
func (d *disclosure) question(ctx context.Context) {
	grant, ok := d.decision.Granted()
	if !ok {
		d.result = result{outcome: Denied}
		return
	}
	if grant.Obliges(policy.ObligationNotifyPerson) {
		d.fail("obligation/notify_person", &Problem{Status: 503, Code: "obligation.unmet", Title: "This agreement demands that the person is told at once, and this broker can't.", Detail: "Tell the operator. The provider was not asked."})
		return
	}
	if grant.Obliges(policy.ObligationWaitForWitnesses) {
		// Fail closed: this log has no witnesses to wait for.
		d.fail("witnesses/none", &Problem{Status: 503, Code: "witnesses.none", Title: "This agreement demands witnesses, and this log has none.", Detail: "Tell the operator. The provider was not asked."})
		return
	}
	p := d.plan
	req, err := d.ask.Request(p.asked, p.req.Parameters)
	if err != nil {
		// It was checked before the intent; a definition that says otherwise now is a fault of ours.
		d.b.log.Error("a question that was checked doesn't fit the service", "disclosure", uuid.UUID(d.id), "service", p.service.def.Ref())
		d.fail("request/unfit", &Problem{Status: 500, Code: "internal", Title: "Internal error.", Detail: "The provider was not asked; the attempt is recorded."})
		return
	}
	q := provider.Question{Service: p.service.def, Request: req, Disclosure: uuid.UUID(d.id).String(), TraceID: p.traceID}
	answer, err := d.b.providers.Ask(ctx, q)
	if err == nil {
		err = d.read(ctx, q, answer)
	}
	if err != nil {
		d.unanswered(err)
	}
}

// unanswered is the end of a question that got no usable answer: nothing that the provider said is passed on.
func (d *disclosure) unanswered(err error) {
	def := d.plan.service.def
	p := &Problem{Status: 502, Code: causeUnreadable, Title: "The provider gave no usable answer.", Detail: "The attempt is recorded. Try again later, or ask the operator with the id of this disclosure.", Provider: string(def.Provider.ID)}
	asked := true
	var e *provider.Error
	if errors.As(err, &e) {
		asked = e.Asked
		p.Code, p.RetryAfter = e.Cause, e.RetryAfter
		switch e.Cause {
		case provider.CauseTimeout:
			p.Status, p.Title = 504, "The provider didn't answer in time."
		case provider.CauseRefused, provider.CauseBusy, provider.CauseRate:
			p.Status, p.Title = 503, "The provider is not asked at the moment, because it failed too often or is asked too much."
		}
	}
	d.b.log.Warn("no usable answer from a provider", "disclosure", uuid.UUID(d.id), "service", def.Ref(), "cause", p.Code, "error", err)
	d.result.unknown = asked && d.result.obtained == nil // set before a document failed
	d.fail(p.Code, p)
}

// causeUnreadable is recorded when an answer is not what its service promises.
const causeUnreadable = "provider/answer"

// fail sets the outcome, and leaves what is known of the answer as it is.
func (d *disclosure) fail(cause string, problem *Problem) {
	r := &d.result
	r.outcome, r.cause, r.said = Failed, cause, &envelope{problem: problem}
}

// read takes from an answer what was granted and whom it identifies. Everything else is dropped here.
func (d *disclosure) read(ctx context.Context, q provider.Question, answer provider.Answer) error {
	def := d.plan.service.def
	v := def.Judge(answer.Status, answer.Body)
	if v.Outcome != service.OutcomeAnswer {
		d.fail(v.Cause, &Problem{Status: passStatus(v.Status), Code: v.Code, Title: v.Title, Detail: v.Detail, Provider: v.Provider})
		if v.Outcome == service.OutcomeEmpty {
			d.result.outcome = Empty
		}
		d.result.unknown = v.Code == "" // not an error in the service's form: nobody looked what else it is
		if p := d.result.said.problem; p.Code == "" {
			p.Code, p.Title, p.Detail = v.Cause, "The provider could not answer.", "The attempt is recorded. Try again later, or ask the operator with the id of this disclosure."
		}
		if p := d.result.said.problem; p.Provider == "" {
			p.Provider = string(def.Provider.ID)
		}
		return nil
	}
	left, err := d.ask.Filter(answer.Body)
	clear(answer.Body)
	if err != nil {
		return err
	}
	// From here on the provider has answered about these people, whatever becomes of the rest: their entries say so.
	filings := left.File(d.plan.asked)
	d.result.obtained, d.result.others = stringsOf(left.Obtained()), filings[1:]
	ctx, cancel := context.WithTimeout(ctx, def.Limits.Total) // for all documents together
	defer cancel()
	var documents []service.Document
	for _, link := range left.Links() {
		doc, err := d.b.providers.Fetch(ctx, q, link)
		if err != nil {
			return fmt.Errorf("fetching a document: %w", err)
		}
		documents = append(documents, doc)
	}
	data, err := left.Data(documents...)
	if err != nil {
		return err
	}
	r := &d.result
	r.outcome, r.said, r.data, r.released = Released, &envelope{data: data}, data, stringsOf(left.Released())
	if n := left.Undeclared(); n > 0 {
		d.b.log.Info("dropped what the service doesn't declare", "disclosure", uuid.UUID(d.id), "service", def.Ref(), "members", n)
	}
	return nil
}

// passStatus is the HTTP status under which a provider's own error is passed on.
func passStatus(status int) int {
	switch status {
	case 404, 409, 422, 429, 502, 503, 504:
		return status
	}
	return 502
}

// conclude seals what was said, records the outcome and, once every entry is proven, opens it again for the agency.
func (d *disclosure) conclude(ctx context.Context) (*Answer, error) {
	b := d.b
	recs, err := d.describe()
	if err != nil {
		return nil, err
	}
	entries := make([]proof.Entry, len(recs))
	commitments := make([]proof.Commitment, len(recs))
	for i := range recs {
		commitments[i] = recs[i].rec.Commitment()
		entries[i] = proof.Disclosure{Commitment: commitments[i]}
	}
	var sealed keys.Sealed
	if d.result.said != nil {
		if sealed, err = d.seal(ctx, proof.SetDigest(commitments)); err != nil {
			return nil, keysProblem(err)
		}
	}
	appended, err := d.record(ctx, recs, entries, sealed)
	if err != nil {
		return nil, err
	}
	receipt, err := ledger.FreshReceipt(appended, 0, d.rec.Open(proof.ReaderAgency))
	if err != nil {
		return nil, fmt.Errorf("making the receipt: %w", err)
	}
	return b.release(ctx, d.answer(), appended, sealed, receipt)
}

// described is a record with whose it is.
type described struct {
	subject proof.Subject
	owner   keys.Owner
	rec     *proof.Record
}

// erasingWait is how long a request waits for the erasure of somebody in its answer, which takes a few seconds.
const erasingWait = 30 * time.Second

// record seals the records and appends their entries. If one of the people is being erased at this moment it waits, and seals under the keys that they have then.
func (d *disclosure) record(ctx context.Context, recs []described, entries []proof.Entry, sealed keys.Sealed) (appended ledger.Appended, err error) {
	b := d.b
	owners := make([]keys.Owner, len(recs))
	for i := range recs {
		owners[i] = recs[i].owner
	}
	for until := time.Now().Add(erasingWait); ; {
		err = b.gate.pass(owners, func() error {
			out := &store.Outcome{Disclosure: d.seq}
			if sealed != nil && d.plan.req.IdempotencyKey != "" {
				out.Payload, out.Until = sealed, d.plan.at.Add(payloadLife)
			}
			rows, err := d.sealRecords(ctx, recs)
			if err != nil {
				b.saved(false, rows...)
				return keysProblem(err)
			}
			for _, r := range rows {
				out.Records = append(out.Records, r.row)
				out.Fresh = append(out.Fresh, r.fresh)
			}
			appended, err = b.append(ctx, ledger.Group{Entries: entries, Attach: out})
			b.saved(err == nil, rows...)
			return err
		})
		if !errors.Is(err, errErasing) {
			return appended, err
		}
		if time.Now().After(until) { // an erasure that can't be finished; the sweeper records that this request was interrupted
			return appended, unavailable("subject.erasing", "Records about a person in the answer are being erased.", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-b.stopping:
			return appended, unavailable("broker.stopping", "The broker is stopping.", err)
		}
	}
}

// sealRecords seals every record. The person part of the asked one was sealed for the intent, and an erasure waits for intents.
func (d *disclosure) sealRecords(ctx context.Context, recs []described) ([]sealedRecord, error) {
	rows := make([]sealedRecord, 0, len(recs))
	admin, err := d.b.sealAdmin(ctx, d.plan.at, d.rec)
	if err != nil {
		return rows, err
	}
	rows = append(rows, sealedRecord{row: store.Record{Owner: d.owner, Person: d.person, Admin: admin}})
	for _, r := range recs[1:] {
		row, err := d.b.sealRecord(ctx, r.subject, d.plan.at, r.rec)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// answer is what may be said without having asked a provider.
func (d *disclosure) answer() *Answer {
	a := &Answer{ID: d.id, Outcome: d.result.outcome, Reasons: d.decision.Reasons(), AskedAt: d.plan.at}
	if a.Outcome == Denied {
		a.Problem = deniedProblem()
	}
	return a
}

func deniedProblem() *Problem {
	return &Problem{Status: 403, Code: "policy.denied", Title: "The policy refuses this request.", Detail: "The reasons say which rule; the refusal is recorded, and the provider was not asked."}
}

// release is the only way from a sealed answer to the agency: proof.Verify mints the token that keys demands.
func (b *Broker) release(ctx context.Context, a *Answer, appended ledger.Appended, sealed keys.Sealed, receipt *proof.Receipt) (*Answer, error) {
	verified, err := proof.Verify(appended.Checkpoint, appended.Entries)
	if err != nil {
		return nil, unavailable("log.unproven", "The log gave no valid proof of the entries.", err)
	}
	if a.Receipt, err = receipt.AppendText(nil); err != nil {
		return nil, fmt.Errorf("writing the receipt: %w", err)
	}
	a.State = proof.Provisional
	if appended.Checkpoint.Witnessed() {
		a.State = proof.Witnessed
	}
	if sealed == nil {
		return a, nil
	}
	said, err := b.open(ctx, sealed, verified)
	if err != nil {
		return nil, keysProblem(err)
	}
	a.Data, a.Problem = said.data, said.problem
	return a, nil
}

// seal seals what was said under the set of its entries and forgets it.
func (d *disclosure) seal(ctx context.Context, set proof.Hash) (keys.Sealed, error) {
	plain, err := d.result.said.marshal()
	if err != nil {
		return nil, err
	}
	sealed, err := d.b.ring.SealPayload(ctx, set, plain)
	clear(plain)
	clear(d.result.data)
	d.result.said, d.result.data = nil, nil
	return sealed, err
}

// describe completes the asked record and describes the part of everybody else whom the answer identifies. The asked one is the first.
func (d *disclosure) describe() ([]described, error) {
	now := d.b.now()
	asked := &fields{rec: d.rec}
	d.outcome(asked, d.result.obtained, d.result.released, now)
	if d.result.data != nil {
		asked.bytes(proof.DisclosurePayload, payloadDigest(d.key[:], d.result.data))
	}
	if asked.err != nil {
		return nil, asked.err
	}
	recs := []described{{d.plan.subject, d.owner, d.rec}}
	for _, other := range d.result.others {
		obtained := stringsOf(other.Obtained)
		rec, err := d.newRecord(other.Role, other.Subject, obtained)
		if err != nil {
			return nil, err
		}
		f := &fields{rec: rec}
		released := stringsOf(other.Released)
		if d.result.outcome != Released {
			released = nil
		}
		d.outcome(f, obtained, released, now)
		owner, err := d.b.ring.Owner(other.Subject)
		if err = errors.Join(f.err, err); err != nil {
			return nil, err
		}
		recs = append(recs, described{other.Subject, owner, rec})
	}
	return recs, nil
}

func (d *disclosure) outcome(f *fields, obtained, released []string, now time.Time) {
	if !d.result.unknown { // an empty list is the claim that the answer held nothing
		f.list(proof.DisclosureObtained, obtained)
	}
	f.list(proof.DisclosureReleased, released)
	f.text(proof.DisclosureOutcome, string(d.result.outcome))
	f.text(proof.DisclosureCause, d.result.cause)
	f.time(proof.DisclosureAnsweredAt, now)
}

// append records entries. The provider has been asked already, so a full log is waited for, within reason; an intent that is left open is recorded as
// interrupted by the sweeper.
func (b *Broker) append(ctx context.Context, g ledger.Group) (ledger.Appended, error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		appended, err := b.ledger.Append(ctx, g)
		if err == nil {
			return appended, nil
		}
		if !errors.Is(err, ledger.ErrBusy) || wait > 5*time.Second {
			return appended, unavailable("log.unavailable", "The log can't record this now.", err)
		}
		select {
		case <-time.After(wait):
		case <-b.stopping:
			return appended, unavailable("log.unavailable", "The broker is stopping.", err)
		}
	}
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
