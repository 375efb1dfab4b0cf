package policy

import (
	"crypto/sha256"
	"slices"
)

// A Reason says why a request was refused.
type Reason struct {
	Code Code
	// FR and EN are one sentence each, for people.
	FR, EN string
}

// A Decision is what one bundle said to one input. Only an [Engine] makes one; the zero value grants nothing and stands for no decision.
type Decision struct {
	grant    Grant
	reasons  []Reason
	bundle   Digest
	revision string
	input    []byte
}

// Granted returns the grant, or false if the request was refused.
func (d *Decision) Granted() (Grant, bool) { return d.grant, d.grant.Valid() }

// Reasons returns why the request was refused, by increasing code, each code once. It is empty if and only if the request was granted.
func (d *Decision) Reasons() []Reason { return slices.Clone(d.reasons) }

// Codes returns the codes of the reasons, as they are recorded.
func (d *Decision) Codes() []Code { return codes(d.reasons) }

// Bundle returns the digest of the bundle that decided.
func (d *Decision) Bundle() Digest { return d.bundle }

// Revision returns the revision of the bundle that decided.
func (d *Decision) Revision() string { return d.revision }

// Input returns the canonical JSON that was evaluated, which is to be recorded; nil for the zero decision. It must not be changed.
func (d *Decision) Input() []byte { return d.input }

// Recorded returns the decision as [Replay] would.
func (d *Decision) Recorded() Recorded {
	r := Recorded{
		Allow: d.grant.Valid(), Reasons: d.Reasons(),
		Scopes: d.grant.Scopes(), Fields: d.grant.Fields(), Obligations: d.grant.Obligations(),
		Bundle: d.bundle, Revision: d.revision,
	}
	if d.input != nil {
		r.Input = sha256.Sum256(d.input)
	}
	return r
}

// A Grant is leave to ask a provider for certain fields, once. Only an [Engine] mints one; the zero value is not valid and lists nothing,
// so whoever takes a Grant must refuse it when Valid is false.
type Grant struct {
	body *grant
}

type grant struct {
	agency      AgencyID
	service     ServiceRef
	agreement   AgreementRef
	scopes      []Scope
	fields      []Pointer
	obligations []Obligation
	bundle      Digest
}

// Valid reports whether an engine minted the grant.
func (g Grant) Valid() bool { return g.body != nil }

func (g Grant) get() *grant {
	if g.body == nil {
		return &grant{}
	}
	return g.body
}

// Agency returns to whom it was granted.
func (g Grant) Agency() AgencyID { return g.get().agency }

// Service returns the service that may be asked.
func (g Grant) Service() ServiceRef { return g.get().service }

// Agreement returns the agreement that the grant rests on; zero if the bundle granted without one.
func (g Grant) Agreement() AgreementRef { return g.get().agreement }

// Scopes returns the granted scopes in increasing order.
func (g Grant) Scopes() []Scope { return slices.Clone(g.get().scopes) }

// Fields returns the granted fields in increasing order.
func (g Grant) Fields() []Pointer { return slices.Clone(g.get().fields) }

// Obligations returns what must be done with the answer, in increasing order.
func (g Grant) Obligations() []Obligation { return slices.Clone(g.get().obligations) }

// Obliges reports whether o is among the obligations. The zero grant obliges to everything.
func (g Grant) Obliges(o Obligation) bool {
	return g.body == nil || slices.Contains(g.body.obligations, o)
}

// Bundle returns the digest of the bundle that granted.
func (g Grant) Bundle() Digest { return g.get().bundle }

// Recorded is a decision without power: what is compared with a record. It is not a grant.
type Recorded struct {
	Allow       bool
	Scopes      []Scope
	Fields      []Pointer
	Obligations []Obligation
	Reasons     []Reason
	Bundle      Digest
	Revision    string
	// Input is the digest of the canonical input.
	Input Digest
}

// Codes returns the codes of the reasons, as they are recorded.
func (r Recorded) Codes() []Code { return codes(r.Reasons) }

func codes(reasons []Reason) []Code {
	c := make([]Code, len(reasons))
	for i := range reasons {
		c[i] = reasons[i].Code
	}
	return c
}
