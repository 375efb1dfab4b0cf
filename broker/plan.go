package broker

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// plan is a request that has been understood: everything before it is the caller's mistake and not recorded, everything after it is recorded.
type plan struct {
	caller  Caller
	req     *Request
	service *serviceEntry
	asked   service.Asked
	subject proof.Subject
	agreed  *agreementEntry
	traceID string
	at      time.Time
	input   policy.Input
	// context and object are those of the request, empty if they are of white space alone.
	context, object string
}

// Limits of the free texts of a request, in characters. The object's is that of API Particulier.
const (
	maxContext  = 255
	maxObject   = 49
	maxOfficial = 64
	maxIdem     = 255
)

func invalid(parameter, title, detail string) *Problem {
	return &Problem{Status: 400, Code: "request.invalid", Title: title, Detail: detail, Parameter: parameter}
}

// plan validates a request. Its errors are all *Problem with a 4xx status.
func (b *Broker) plan(reg *registry, caller Caller, req *Request) (*plan, error) {
	p := &plan{caller: caller, req: req, at: b.now()}
	if a, ok := reg.agencies[caller.ID]; !ok || a.State != store.Active {
		return nil, errUnknownCaller() // revoked since the connection was made
	}
	p.service = reg.services[req.Service]
	if p.service == nil {
		return nil, &Problem{Status: 404, Code: "service.unknown", Title: "There is no such service.", Detail: "GET /v1/services lists them.", Parameter: "/service"}
	}
	if err := p.texts(); err != nil {
		return nil, err
	}
	if err := p.who(); err != nil {
		return nil, err
	}
	p.traceID = req.TraceID
	if p.traceID == "" {
		var id [16]byte
		rand.Read(id[:])
		p.traceID = hex.EncodeToString(id[:])
	}
	if req.Recipient != "" {
		if err := proof.SIRET(req.Recipient); err != nil {
			return nil, invalid("/recipient", "The recipient is not a SIRET.", "Give the 14 digits of the establishment that will use the data; the check digit must be right.")
		}
	}
	p.agreed = reg.choose(caller.ID, req, p.at)
	if err := reg.mustName(caller.ID, req, p.agreed); err != nil {
		return nil, err
	}
	p.input = p.decisionInput()
	return p, nil
}

// joining are the vowels and final consonants of Hangul that are drawn into the letter before them: without one, some fonts give them no width.
var joining = &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x1160, Hi: 0x11ff, Stride: 1}, {Lo: 0xd7b0, Hi: 0xd7ff, Stride: 1}}}

// legible says whether a character can be seen by itself, as a mark that stands over another can't.
func legible(r rune) bool {
	return unicode.IsGraphic(r) && !unicode.IsSpace(r) && !unicode.In(r, unicode.M, unicode.Other_Default_Ignorable_Code_Point, joining)
}

// readable says whether there is something to see in a text: people read it, and their browsers take what draws nothing as hidden from them.
func readable(s string) bool { return strings.ContainsFunc(s, legible) }

func (p *plan) texts() error {
	r := p.req
	for _, t := range []struct {
		at, what, value string
		max             int
	}{
		{"/context", "context", r.Context, maxContext},
		{"/object", "object", r.Object, maxObject},
		{"/official", "official", r.Official, maxOfficial},
	} {
		if utf8.RuneCountInString(t.value) > t.max {
			return invalid(t.at, fmt.Sprintf("The %s is longer than %d characters.", t.what, t.max), "Shorten it.")
		}
		if !utf8.ValidString(t.value) || strings.ContainsFunc(t.value, unicode.IsControl) {
			return invalid(t.at, fmt.Sprintf("The %s holds control characters or is not UTF-8.", t.what), "Send plain text on one line.")
		}
		if strings.TrimSpace(t.value) != "" && !readable(t.value) {
			return invalid(t.at, fmt.Sprintf("The %s holds nothing that can be read.", t.what), "Say it in words, or leave it out.")
		}
	}
	if readable(r.Context) {
		p.context = r.Context
	}
	if readable(r.Object) {
		p.object = r.Object
	}
	for _, t := range []struct{ at, what, value string }{{"/purpose", "purpose", r.Purpose}, {"/legal_basis", "legal basis", r.LegalBasis}} {
		if !proof.IsToken(t.value) {
			return invalid(t.at, "The "+t.what+" is not one of the words that agreements use.", "Give it as it stands in your agreement: lower-case letters, digits, '.', '_' and '-', at most 64.")
		}
	}
	if len(r.Scopes) == 0 || len(r.Scopes) > 64 {
		return invalid("/scopes", "No scopes, or more than 64.", "Name the groups of fields that you need; GET /v1/services lists them.")
	}
	for i, s := range r.Scopes {
		if !proof.IsToken(s) {
			return invalid(fmt.Sprintf("/scopes/%d", i), "This is not the name of a scope.", "GET /v1/services lists them.")
		}
	}
	if r.Agreement != "" && !proof.IsToken(r.Agreement) {
		return invalid("/agreement", "This is not the id of an agreement.", "GET /v1/services lists yours, or leave it out.")
	}
	if len(r.IdempotencyKey) > maxIdem || strings.ContainsFunc(r.IdempotencyKey, func(c rune) bool { return c < 0x21 || c > 0x7e }) {
		return &Problem{Status: 400, Code: "idempotency.invalid", Title: "The Idempotency-Key is not usable.", Detail: "Send 1 to 255 printable ASCII characters without spaces, for example a UUID.", Parameter: "Idempotency-Key"}
	}
	return nil
}

// who puts the subject into its canonical form and checks that the service can be asked this at all.
func (p *plan) who() error {
	in := &p.req.Subject
	asked, err := service.NewAsked(service.SubjectType(in.Type), in.Value, in.Pivot)
	if err == nil {
		err = p.service.def.Check(asked, p.req.Parameters)
	}
	if err != nil {
		var bad *service.RequestError
		if errors.As(err, &bad) {
			return invalid(bad.Parameter, "The question doesn't fit the service.", bad.Detail)
		}
		return err
	}
	p.asked, p.subject = asked, asked.Subject()
	return nil
}

func (p *plan) decisionInput() policy.Input {
	s := p.service
	in := policy.Input{
		Agency:  policy.Agency{ID: policy.AgencyID(p.caller.ID), SIRET: policy.SIRET(p.caller.SIRET), State: policy.AgencyActive},
		Service: policy.Service{ID: policy.ServiceID(s.row.ID), Version: s.row.Version, Provider: policy.ProviderID(s.def.Provider.ID), SubjectTypes: s.types, Scopes: map[policy.Scope][]policy.Pointer{}},
		Purpose: policy.Purpose(p.req.Purpose), LegalBasis: policy.LegalBasis(p.req.LegalBasis), Recipient: policy.SIRET(p.req.Recipient),
		HasContext: p.context != "", HasObject: p.object != "",
		SubjectType:        policy.SubjectType(p.subject.Type()),
		RecipientIsSubject: p.subject.Type() == proof.TypeSIREN && strings.HasPrefix(p.req.Recipient, p.subject.Value()),
		Channel:            policy.ChannelAPI, Time: p.at,
	}
	for _, name := range p.req.Scopes {
		scope := policy.Scope(name)
		in.Scopes = append(in.Scopes, scope)
		if fields, ok := s.scopes[scope]; ok {
			in.Service.Scopes[scope] = fields
		}
	}
	if p.agreed != nil {
		in.Agreement, in.AgreementDigest = p.agreed.agreement, p.agreed.digest
	}
	return in
}
