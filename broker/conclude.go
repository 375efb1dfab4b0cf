package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

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

func (e *envelope) append(b []byte) ([]byte, error) {
	if e.problem == nil {
		return append(append(b, envelopeData), e.data...), nil
	}
	p, err := json.Marshal(e.problem)
	return append(append(b, envelopeProblem), p...), err
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
		entries[i] = disclosureEntry(d.plan.deferral(), d.plan.at, commitments[i])
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
	if d.waits && b.witnesses != nil && sealed != nil {
		indexes := make([]proof.Index, len(appended.Entries))
		for i, e := range appended.Entries {
			indexes[i] = e.Index
		}
		if appended, err = b.awaitWitnesses(ctx, indexes); err != nil {
			return nil, err
		}
	}
	receipt, err := ledger.FreshReceipt(appended, 0, d.rec.Open(proof.ReaderAgency))
	if err != nil {
		return nil, fmt.Errorf("making the receipt: %w", err)
	}
	a, err := b.release(ctx, d.answer(), appended, sealed, receipt)
	if err == nil {
		// All of it is in the store and in the answer.
		b.ring.Recycle(sealed)
		for i := range recs {
			putRecord(recs[i].rec)
		}
		d.rec = nil
	}
	return a, err
}

// described is a record with whose it is.
type described struct {
	subject proof.Subject
	owner   keys.Owner
	rec     *proof.Record
}

const (
	// erasingWait is how long a request waits for the erasure of somebody in its answer, which takes a few seconds.
	erasingWait = 30 * time.Second
	// longestPause is the longest of the pauses, each twice the one before, in which a full log is waited for.
	longestPause = 5 * time.Second
	// LongestExchange is how long a request is carried out at most while the log signs: the question, its documents, the wait for an erasure, for a full log before and after, for witnesses, and what takes
	// moments. Whoever cuts its caller off sooner keeps a recorded answer from them.
	LongestExchange = 2*service.LongestCall + erasingWait + 2*2*longestPause + longestWitnessWait + 10*time.Second
)

// erasingPatience is erasingWait but in a test.
var erasingPatience = erasingWait

// record seals the records and appends their entries. If one of the people is being erased at this moment it waits, and seals under the keys that they have then.
func (d *disclosure) record(ctx context.Context, recs []described, entries []proof.Entry, sealed keys.Sealed) (appended ledger.Appended, err error) {
	b := d.b
	owners := make([]keys.Owner, len(recs))
	for i := range recs {
		owners[i] = recs[i].owner
	}
	for until := time.Now().Add(erasingPatience); ; {
		err = b.unlessErasing(d.plan.deferral(), owners, func() error {
			out := &store.Outcome{Disclosure: d.seq}
			if sealed != nil && d.plan.req.IdempotencyKey != "" {
				out.Payload, out.Until = sealed, d.plan.at.Add(payloadLife)
			}
			rows, err := d.sealRecords(ctx, recs)
			if err != nil {
				b.saved(errNotTried, rows...)
				return keysProblem(err)
			}
			for _, r := range rows {
				out.Records = append(out.Records, r.row)
				out.Fresh = append(out.Fresh, r.fresh)
			}
			appended, err = b.append(ctx, ledger.Group{Entries: entries, Attach: out})
			b.saved(err, rows...)
			if err == nil { // otherwise the log may still hold on to them
				b.recycle(rows...)
			}
			return err
		})
		gone := b.member != nil && errors.Is(err, keys.ErrNoKey) // destroyed by another broker, and in the memory of this one still
		if gone {
			b.ring.DropCached()
		}
		if !errors.Is(err, errErasing) && !gone {
			return appended, err
		}
		if time.Now().After(until) { // an erasure that can't be finished; the sweeper records that this request was interrupted
			// There is no entry yet, so not even that the provider answered and named somebody may be told.
			return appended, unavailable("log.unavailable", cantRecord, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-b.stopping:
			return appended, unavailable(CodeStopping, "The broker is stopping.", err)
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
		row, err := d.b.sealRecord(ctx, r.subject, d.plan.at, r.rec, d.plan.deferral() != nil)
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
	text := parts.Get().(*[]byte)
	if *text, err = receipt.AppendText((*text)[:0]); err != nil {
		return nil, fmt.Errorf("writing the receipt: %w", err)
	}
	a.Receipt = *text
	a.State = proof.Provisional
	if appended.Checkpoint.Witnessed() {
		a.State = proof.Witnessed
	}
	a.free = func() { putPart(text) }
	if sealed == nil {
		return a, nil
	}
	said, err := b.open(ctx, sealed, verified)
	if err != nil {
		return nil, keysProblem(err)
	}
	a.Data, a.Problem = said.data, said.problem
	a.free = func() {
		putPart(text)
		b.ring.Recycle(said.data)
	}
	return a, nil
}

// seal seals what was said under the set of its entries and forgets it.
func (d *disclosure) seal(ctx context.Context, set proof.Hash) (keys.Sealed, error) {
	plain := parts.Get().(*[]byte)
	defer putPart(plain)
	var err error
	if *plain, err = d.result.said.append((*plain)[:0]); err != nil {
		return nil, err
	}
	sealed, err := d.b.ring.SealPayload(ctx, set, *plain)
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
		asked.bytes(proof.DisclosurePayload, proof.PayloadDigest(d.key[:], d.result.data))
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

const cantRecord = "The log can't record this now."

// append records entries. The provider has been asked already, so a full log is waited for, within reason; an intent that is left open is recorded as
// interrupted by the sweeper.
func (b *Broker) append(ctx context.Context, g ledger.Group) (ledger.Appended, error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		log := b.part.Load()
		appended, err := log.Append(ctx, g)
		if err == nil {
			return appended, nil
		}
		if errors.Is(err, ledger.ErrClosed) && b.part.Load() != log {
			continue // nothing of it was taken there, and this broker has another part in the log by now
		}
		if !errors.Is(err, ledger.ErrBusy) || wait > longestPause {
			return appended, unavailable("log.unavailable", cantRecord, err)
		}
		select {
		case <-time.After(wait):
		case <-b.stopping:
			return appended, unavailable("log.unavailable", "The broker is stopping.", err)
		}
	}
}
