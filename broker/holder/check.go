package holder

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// Answered is what a provider was told and said in one exchange. It is personal data and redacts itself.
type Answered struct {
	// Asked is whom the question names.
	Asked Person
	// Persons are those whom the answer identifies: the log must have an entry for each of them, and for nobody else.
	Persons []Person
	// Obtained are the fields that the answer holds, as JSON pointers in increasing order; nil: not compared with the record.
	Obtained []string
	// Unreadable: the answer is none of the service's, so the broker can't have read whom it identifies.
	Unreadable bool
	// Part: a further part of an answer of the same disclosure, such as a document, that identifies nobody by itself.
	Part bool
}

// String shows nothing.
func (Answered) String() string { return "answered:[redacted]" }

// Format implements fmt.Formatter: every verb shows nothing.
func (a Answered) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (a Answered) LogValue() slog.Value { return slog.StringValue(a.String()) }

// A Person is somebody in a question or an answer.
type Person struct {
	// Subject is under whom they are filed. In a question about a pivot of which the provider is told a part only, it is zero, and Said has that part; then the record's subject must agree with it.
	Subject proof.Subject
	Said    proof.Stated
	// MayBeAsked: in an answer, this can be whom the question was about: filed under that identity if that identifies what is Said (proof.Pivot.Identifies), and else under Subject.
	MayBeAsked bool
}

// said is an exchange as the store keeps it.
type said struct {
	Provider   string   `json:"provider"`
	Service    string   `json:"service"`
	Requested  string   `json:"requested"` // digest
	Issued     int64    `json:"issued"`
	Status     int      `json:"status"`
	Asked      person   `json:"asked"`
	Persons    []person `json:"persons,omitempty"`
	Obtained   []string `json:"obtained"` // null: not compared
	Unreadable bool     `json:"unreadable,omitempty"`
	Part       bool     `json:"part,omitempty"`
}

type person struct {
	Type       string    `json:"type,omitempty"`
	Value      string    `json:"value,omitempty"`
	Said       [6]string `json:"said"`
	MayBeAsked bool      `json:"may_be_asked,omitempty"`
}

func personOf(p Person) person {
	s := p.Said
	return person{string(p.Subject.Type()), p.Subject.Value(), [6]string{s.BirthName, s.GivenNames, s.BirthDate, s.Sex, s.BirthPlace, s.BirthCountry}, p.MayBeAsked}
}

func (p person) open() (Person, error) {
	out := Person{MayBeAsked: p.MayBeAsked, Said: proof.Stated{BirthName: p.Said[0], GivenNames: p.Said[1], BirthDate: p.Said[2], Sex: p.Said[3], BirthPlace: p.Said[4], BirthCountry: p.Said[5]}}
	if p.Type == "" {
		return out, nil
	}
	var err error
	out.Subject, err = proof.ParseSubject(p.Type, p.Value)
	return out, err
}

func saidOf(i proof.Intent, status int, a Answered) said {
	out := said{
		Provider: i.Provider, Service: i.Service, Requested: i.Requested.String(), Issued: int64(i.Issued), Status: status,
		Asked: personOf(a.Asked), Obtained: a.Obtained, Unreadable: a.Unreadable, Part: a.Part,
	}
	for _, p := range a.Persons {
		out.Persons = append(out.Persons, personOf(p))
	}
	return out
}

// receipt is one that was verified.
type receipt struct {
	text    []byte
	parsed  *proof.Receipt
	verdict proof.Verdict
	state   State // of this one alone
}

// verify reads and verifies a receipt. signedIsEnough: the policy demands no witnesses, so what isn't witnessed can settle.
func verify(text []byte, policy *proof.Policy, signedIsEnough bool) (receipt, error) {
	r := receipt{text: text, state: Signed}
	var err error
	if r.parsed, err = proof.ParseReceipt(text); err != nil {
		return r, refute("receipt.invalid", "%v", err)
	}
	if r.verdict, err = r.parsed.Verify(policy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
		return r, refute("receipt.invalid", "%v", err)
	}
	// No erasure reaches what is deferred: its subject is hidden by an operator who doesn't want to end the delay.
	if _, err := r.parsed.Opening().Subject(); err != nil && r.until() > 0 {
		return r, refute("subject.hidden", "the subject of a delayed entry is hidden, and no erasure reaches it before the delay ends")
	}
	if _, err := r.parsed.CheckDelay(); err != nil {
		return r, refute("delay.other", "%v", err)
	}
	switch {
	case r.verdict.State == proof.Settled, r.verdict.InRoll && signedIsEnough:
		r.state = Settled
	case r.verdict.State == proof.Witnessed:
		r.state = Witnessed
	}
	return r, nil
}

// alike refutes entries of one disclosure of which not all are delayed, or not all in the same way, or not all ended.
func alike(entries []proof.Entry) error {
	for _, y := range entries {
		x := entries[0]
		if x.Kind() != y.Kind() {
			return refute("delay.mixed", "an entry is %s, and another of the same disclosure %s", x.Kind(), y.Kind())
		}
		d, ok1 := x.(proof.Deferred)
		e, ok2 := y.(proof.Deferred)
		if ok1 && ok2 && (d.Authority != e.Authority || d.Article != e.Article || d.Month != e.Month) {
			return refute("delay.mixed", "two entries of one disclosure are delayed differently")
		}
	}
	return nil
}

// until is when the delay has to be over of which a receipt tells; 0: none.
func (r *receipt) until() proof.Time {
	if d, ok := r.parsed.Entry().(proof.Deferred); ok {
		return d.End()
	}
	return 0
}

// follows reports whether a later receipt is of the entry that ended the delay of an earlier one's, with the same record.
func follows(earlier, later *proof.Receipt) bool {
	d, ok1 := earlier.Entry().(proof.Deferred)
	o, ok2 := later.Entry().(proof.Opened)
	return ok1 && ok2 && o.Deferred == earlier.Index() && o.Commitment == d.Commitment && earlier.Index() < later.Index()
}

// parsed are the receipts that are held.
func (h *Held) parsed() ([]*proof.Receipt, error) {
	out := make([]*proof.Receipt, len(h.Receipts))
	for i, text := range h.Receipts {
		var err error
		if out[i], err = proof.ParseReceipt(text); err != nil {
			return nil, fmt.Errorf("holder: a receipt of %s in the store: %w", h.ID, err)
		}
	}
	return out, nil
}

// keptIndex is that of the entry whose receipt is kept where a later one hides whose it is: of the same entry, or of the beginning of the delay that it ended.
func keptIndex(kept []*proof.Receipt, r *receipt) proof.Index {
	for _, earlier := range newest(kept) {
		if same(earlier, r.parsed) || follows(earlier, r.parsed) {
			return earlier.Index()
		}
	}
	return r.verdict.Index
}

// ends reports whether a receipt is of the entry that ended a delay, and nothing of its end is kept.
func ends(kept []*proof.Receipt, r *receipt) bool {
	return slices.ContainsFunc(newest(kept), func(earlier *proof.Receipt) bool { return follows(earlier, r.parsed) })
}

// newest leaves out receipts of delays of which there is one of their end.
func newest(receipts []*proof.Receipt) (out []*proof.Receipt) {
	for _, r := range receipts {
		if !slices.ContainsFunc(receipts, func(later *proof.Receipt) bool { return follows(r, later) }) {
			out = append(out, r)
		}
	}
	return out
}

// same reports whether a later receipt is of the same entry as an earlier one.
func same(earlier, later *proof.Receipt) bool {
	return earlier.Index() == later.Index() && string(earlier.EntryText()) == string(later.EntryText()) && earlier.Opening().Commitment() == later.Opening().Commitment()
}

// progress is how far a disclosure has come.
type progress struct {
	state    State
	outcome  string
	epoch    proof.Epoch
	code     string
	unheard  bool
	until    proof.Time // while somebody is told later: when the last of the delays has to be over
	receipts []receipt
	erased   []proof.Index // entries without their subject
}

// clockSlack is how far the broker's times may be from each other and from ours.
const clockSlack = 10 * time.Minute

// check compares the receipts of a disclosure with what the provider was asked and answered. Its errors are Refutations, but for answers in the store that can't be read.
func check(h *Held, texts [][]byte, erased bool, policy *proof.Policy, signedIsEnough bool) (progress, error) {
	p := progress{state: Settled}
	kept, err := h.parsed()
	if err != nil {
		return p, err
	}
	var asked *receipt
	for _, text := range texts {
		r, err := verify(text, policy, signedIsEnough)
		if err != nil {
			return p, err
		}
		o := r.parsed.Opening()
		if o.Schema() != proof.SchemaDisclosure || o.Text(proof.DisclosureID) != h.ID {
			return p, refute("receipt.foreign", "a receipt of another disclosure")
		}
		if _, err := o.Subject(); err != nil {
			p.erased = append(p.erased, keptIndex(kept, &r))
		}
		if o.Text(proof.DisclosureRole) == proof.RoleAsked {
			if asked != nil {
				return p, refute("entry.twice", "two entries of the asked identifier")
			}
			asked = &r
		}
		p.state, p.until = min(p.state, r.state), max(p.until, r.until())
		p.receipts = append(p.receipts, r)
	}
	for i := range p.receipts {
		for _, other := range p.receipts[:i] {
			if other.verdict.Index == p.receipts[i].verdict.Index {
				return p, refute("entry.twice", "two receipts of one entry")
			}
		}
	}
	if asked == nil {
		return p, refute("entry.missing", "no entry of the asked identifier")
	}
	entries := make([]proof.Entry, len(p.receipts))
	for i := range p.receipts {
		entries[i] = p.receipts[i].parsed.Entry()
	}
	if err := alike(entries); err != nil {
		return p, err
	}
	kept = newest(kept)
	if len(kept) > 0 && len(kept) != len(p.receipts) {
		return p, refute("receipt.changed", "%d receipts, and there were %d before", len(p.receipts), len(kept))
	}
	for _, k := range kept {
		if !slices.ContainsFunc(p.receipts, func(r receipt) bool { return same(k, r.parsed) || follows(k, r.parsed) }) {
			return p, refute("receipt.changed", "the entry at log index %s is not the one that was shown before", k.Index())
		}
	}
	p.outcome, p.epoch = asked.parsed.Opening().Text(proof.DisclosureOutcome), asked.verdict.Epoch
	if len(p.erased) > 0 {
		if !erased {
			return p, refute("subject.hidden", "a subject is hidden, and no erasure is claimed")
		}
		if h.State < provenBy(signedIsEnough) {
			return p, errErased
		}
		// What was shown before the erasure is kept, with what shows that a delay ended before it.
		p.state, p.code = Accepted, "erased"
		p.receipts = slices.DeleteFunc(p.receipts, func(r receipt) bool { return !ends(kept, &r) })
		return p, nil
	}
	if err := matches(h, asked, &p); err != nil {
		return p, err
	}
	if p.until > 0 {
		p.code = codeDeferred
	}
	return p, nil
}

// codeDeferred says of a disclosure that it settles later: after the delay, by the receipt of the entry that ends it.
const codeDeferred = "deferred"

// errErased: the subjects were erased before the provider had seen whose the entries are.
var errErased = errors.New("erased before the receipts were seen")

// matches compares what was recorded with what was asked and answered.
func matches(h *Held, asked *receipt, p *progress) error {
	if len(h.Answers) == 0 {
		return fmt.Errorf("holder: the store doesn't say what was answered under %s", h.ID)
	}
	main := slices.IndexFunc(h.Answers, func(a said) bool { return !a.Part })
	if main < 0 {
		return refute("question.missing", "a part of an answer was asked for, and never what it is a part of")
	}
	a := &h.Answers[main]
	o := asked.parsed.Opening()
	for _, r := range p.receipts {
		o := r.parsed.Opening()
		for _, f := range [...]struct {
			field proof.Field
			want  string
			code  string
		}{{proof.DisclosureProvider, a.Provider, "provider.other"}, {proof.DisclosureService, a.Service, "service.other"}, {proof.DisclosureOutcome, p.outcome, "outcome.other"}} {
			if o.Text(f.field) != f.want {
				return refute(f.code, "an entry names another %s", o.Schema().Name(f.field))
			}
		}
	}
	if proof.RequestedDigest(o.List(proof.DisclosureRequested)).String() != a.Requested {
		return refute("requested.other", "the record says that other fields were requested than the intent")
	}
	begun, ok1 := o.TimeOf(proof.DisclosureAskedAt)
	ended, ok2 := o.TimeOf(proof.DisclosureAnsweredAt)
	issued := proof.Time(a.Issued)
	if slack := proof.Time(clockSlack.Milliseconds()); !ok1 || !ok2 || begun > issued+slack || begun+slack < issued || ended+slack < issued {
		return refute("time.other", "the record's times don't agree with the intent's")
	}
	_, presence := o.Value(proof.DisclosureObtained)
	heard := presence == proof.Present
	switch answered := a.Status >= 200 && a.Status < 300; {
	case p.outcome == proof.OutcomeDenied, p.outcome == proof.OutcomeReleased && (!answered || a.Unreadable || !heard), p.outcome == proof.OutcomeEmpty && answered && !a.Unreadable:
		return refute("outcome.other", "recorded as %s, answered with status %d", p.outcome, a.Status)
	case answered && !a.Unreadable && !heard:
		p.unheard = true // the broker says that it couldn't read the answer: late, cut off, too large …
	case answered && !a.Unreadable && a.Obtained != nil && !slices.Equal(o.List(proof.DisclosureObtained), a.Obtained):
		return refute("obtained.other", "the record says that the answer held other fields")
	}
	subject, err := o.Subject()
	if err != nil {
		return refute("subject.hidden", "%v", err)
	}
	told, err := a.Asked.open()
	if err != nil {
		return fmt.Errorf("holder: an answer of %s in the store: %w", h.ID, err)
	}
	if !(service.Told{Subject: told.Subject, Said: told.Said}).Names(subject) {
		return refute("subject.other", "the asked entry is filed under another identity than was asked about")
	}
	want := map[string]bool{whose(subject): true}
	if pivot, ok := subject.Pivot(); heard {
		for i := range h.Answers {
			for _, stored := range h.Answers[i].Persons {
				q, err := stored.open()
				if err != nil {
					return fmt.Errorf("holder: an answer of %s in the store: %w", h.ID, err)
				}
				if !(q.MayBeAsked && ok && pivot.Identifies(q.Said)) && !q.Subject.IsZero() {
					want[whose(q.Subject)] = true
				}
			}
		}
	}
	for _, r := range p.receipts {
		s, _ := r.parsed.Opening().Subject()
		if !want[whose(s)] {
			return refute("entry.foreign", "an entry about somebody whom the answer doesn't identify, or a second one of a person")
		}
		delete(want, whose(s))
	}
	if len(want) > 0 {
		return refute("entry.missing", "%d of the people in the answer have no entry", len(want))
	}
	return nil
}

// whose is a map's key for a subject.
func whose(s proof.Subject) string { return string(s.Type()) + " " + s.Value() }
