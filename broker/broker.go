// Package broker joins policy, keys and ledger into one line: decide, seal, record, prove, and only then release.
//
// What it guarantees (G1: no record, no data). Nothing that a provider said, an empty or error answer included, leaves this package before every entry of the disclosure
// stands in the log under a signed checkpoint: the answer is sealed as soon as it has been filtered, and the only way to open it again is a proof.Verified for exactly its entries.
// Only granted fields are asked for where the provider can select, and everything else is dropped at once (G5). Every attempt that reached a provider is recorded exactly once, also after kill -9 (G8).
//
// What it doesn't. It can't stop an agency from copying what it was lawfully given, nor see what a provider answers outside the broker.
package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// A Caller is an authenticated agency or auditor. Their ids are apart: an auditor may have that of an agency.
type Caller struct {
	ID      string // token
	Name    string
	SIRET   string // of an agency
	Auditor bool
}

// A Request is one data request of an agency, as parsed by the API. Strings are as the agency sent them; Disclose validates them.
type Request struct {
	Service    string   // service id
	Scopes     []string // at least one
	Agreement  string   // optional: which of the agency's agreements; chosen by purpose if empty
	Purpose    string
	LegalBasis string
	Recipient  string // SIRET of the body that will use the answer
	Context    string // 1 to 255 characters
	Object     string // 1 to 49 characters
	Official   string // the agency's own opaque reference of its agent, up to 64 characters, optional
	Subject    SubjectInput
	Parameters map[string]string

	IdempotencyKey string // optional, up to 255 printable ASCII characters
	TraceID        string // W3C trace id, 32 hex digits; drawn if empty
}

// SubjectInput names the person or business asked about, as the agency spells it.
type SubjectInput struct {
	Type  string      // a proof.SubjectType, or "siret"
	Value string      // every type but pivot
	Pivot proof.Pivot // type pivot; GivenNames joined by spaces, BirthDate may be partial
}

// An Answer is the end of a disclosure that was recorded.
type Answer struct {
	ID      store.ID
	Outcome Outcome
	// Data is the released answer, JSON; the receipt's payload digest is over exactly these bytes. Nil unless Outcome is Released.
	Data []byte
	// Problem says why there is no data. Nil if Outcome is Released.
	Problem *Problem
	// Receipt of the asked entry, for the agency.
	Receipt []byte
	// State is provisional or witnessed; Settled: the receipt also shows the entry in the person's only roll of its closed epoch.
	State   proof.State
	Settled bool
	// Gone: it was released, and the time to repeat it is over. Problem says so (410).
	Gone bool
	// Repeated: this is the answer to an earlier request with the same Idempotency-Key.
	Repeated bool
	Reasons  []policy.Reason
	AskedAt  time.Time

	free func() // nil if Data and Receipt are memory like any other
}

// Free tells that Data and Receipt are not used any more: their memory is cleared and used again. Leaving it out costs time only.
func (a *Answer) Free() {
	if a.free != nil {
		a.free()
		a.free, a.Data, a.Receipt = nil, nil, nil
	}
}

// Outcome of a disclosure.
type Outcome string

// Outcomes.
const (
	Released Outcome = "released"
	Empty    Outcome = "empty"  // the provider knows nobody
	Denied   Outcome = "denied" // by policy
	Failed   Outcome = "failed"
)

// A Problem is an error that the caller may see (RFC 9457). It holds no personal data and no secret.
type Problem struct {
	Status     int           // HTTP status
	Code       string        // stable, e.g. "request.parameter.invalid"
	Title      string        // one sentence
	Detail     string        // what to do
	Parameter  string        // which member of the request, as a JSON pointer
	Provider   string        // which provider said so
	RetryAfter time.Duration // 0: none
	err        error         // for the log of the operator
}

func (p *Problem) Error() string {
	if p.err != nil {
		return fmt.Sprintf("%s: %v", p.Code, p.err)
	}
	return p.Code
}

func (p *Problem) Unwrap() error { return p.err }

// AsProblem gives the problem for any error: the one exit to callers. What isn't a Problem says "internal error" and nothing else.
func AsProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Status: 500, Code: "internal", Title: "Internal error.", Detail: "Nothing was released. The operator finds the cause in the broker's log by the request id.", err: err}
}
