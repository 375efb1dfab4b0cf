package policy

import (
	"strconv"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
)

// The input is handed to OPA as terms built here rather than parsed from the canonical JSON: that would cost more than the
// evaluation. A test holds both to be the same for every input.

// Keys are shared by all evaluations; OPA never changes a term.
var (
	keyAgency             = ast.StringTerm("agency")
	keyAgreement          = ast.StringTerm("agreement")
	keyAgreementDigest    = ast.StringTerm("agreement_digest")
	keyArticle            = ast.StringTerm("article")
	keyAuthority          = ast.StringTerm("authority")
	keyChannel            = ast.StringTerm("channel")
	keyDays               = ast.StringTerm("days")
	keyDeferral           = ast.StringTerm("deferral")
	keyHasContext         = ast.StringTerm("has_context")
	keyHasObject          = ast.StringTerm("has_object")
	keyID                 = ast.StringTerm("id")
	keyLegalBases         = ast.StringTerm("legal_bases")
	keyLegalBasis         = ast.StringTerm("legal_basis")
	keyNotAfter           = ast.StringTerm("not_after")
	keyNotBefore          = ast.StringTerm("not_before")
	keyObligations        = ast.StringTerm("obligations")
	keyProvider           = ast.StringTerm("provider")
	keyPurpose            = ast.StringTerm("purpose")
	keyPurposes           = ast.StringTerm("purposes")
	keyRecipient          = ast.StringTerm("recipient")
	keyRecipientIsSubject = ast.StringTerm("recipient_is_subject")
	keyReference          = ast.StringTerm("reference")
	keySIRET              = ast.StringTerm("siret")
	keySchema             = ast.StringTerm("schema")
	keyScopes             = ast.StringTerm("scopes")
	keyService            = ast.StringTerm("service")
	keyState              = ast.StringTerm("state")
	keySubjectType        = ast.StringTerm("subject_type")
	keySubjectTypes       = ast.StringTerm("subject_types")
	keyTime               = ast.StringTerm("time")
	keyValid              = ast.StringTerm("valid")
	keyVersion            = ast.StringTerm("version")

	inputSchema     = ast.StringTerm(InputSchema)
	agreementSchema = ast.StringTerm(AgreementSchema)
)

// terms hands out terms from one allocation.
type terms []ast.Term

func (t *terms) put(v ast.Value) *ast.Term {
	if len(*t) == cap(*t) {
		*t = make(terms, 0, 64) // terms that were handed out stay where they are
	}
	*t = append(*t, ast.Term{Value: v})
	return &(*t)[len(*t)-1]
}

func (t *terms) text(s string) *ast.Term { return t.put(ast.String(s)) }

func texts[S ~string](t *terms, list []S) *ast.Term {
	items := make([]*ast.Term, len(list))
	for i, s := range list {
		items[i] = t.text(string(s))
	}
	return t.put(ast.NewArray(items...))
}

func (t *terms) integer(n int64) *ast.Term {
	if n < 256 {
		return ast.InternedTerm(n)
	}
	return t.put(ast.Number(strconv.FormatInt(n, 10)))
}

func (t *terms) object(items ...[2]*ast.Term) *ast.Term { return t.put(ast.NewObject(items...)) }

// services keeps the terms of services, which are the larger part of an input and few: one for each set of scopes that is asked for
// together. The key is the canonical JSON of the service in the input, so equal keys mean equal terms.
type services struct {
	mu    sync.RWMutex
	terms map[string]*ast.Term
}

// maxServices bounds what is kept; beyond, it starts anew.
const maxServices = 1024

func (k *services) term(n *normalInput) *ast.Term {
	k.mu.RLock()
	t := k.terms[string(n.service)]
	k.mu.RUnlock()
	if t != nil {
		return t
	}
	t = n.serviceTerm()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.terms == nil || len(k.terms) >= maxServices {
		k.terms = map[string]*ast.Term{}
	}
	k.terms[string(n.service)] = t
	return t
}

func (n *normalInput) serviceTerm() *ast.Term {
	s := &n.Service
	fields := 0
	for _, f := range s.Scopes {
		fields += len(f)
	}
	t := make(terms, 0, 8+2*len(n.scopes)+fields+len(s.SubjectTypes))
	scopes := make([][2]*ast.Term, len(n.scopes))
	for i, scope := range n.scopes {
		scopes[i] = ast.Item(t.text(string(scope)), texts(&t, s.Scopes[scope]))
	}
	return t.object(
		ast.Item(keyID, t.text(string(s.ID))), ast.Item(keyProvider, t.text(string(s.Provider))),
		ast.Item(keyScopes, t.object(scopes...)), ast.Item(keySubjectTypes, texts(&t, s.SubjectTypes)),
		ast.Item(keyVersion, t.integer(s.Version)),
	)
}

func (n *normalInput) value(known *services) ast.Value {
	t := make(terms, 0, 16+len(n.Scopes))
	items := make([][2]*ast.Term, 0, 15)
	items = append(items,
		ast.Item(keyAgency, t.object(
			ast.Item(keyID, t.text(string(n.Agency.ID))), ast.Item(keySIRET, t.text(string(n.Agency.SIRET))),
			ast.Item(keyState, t.text(string(n.Agency.State))))),
		ast.Item(keyChannel, t.text(string(n.Channel))),
		ast.Item(keyHasContext, ast.InternedTerm(n.HasContext)),
		ast.Item(keyHasObject, ast.InternedTerm(n.HasObject)),
		ast.Item(keyLegalBasis, t.text(string(n.LegalBasis))),
		ast.Item(keyPurpose, t.text(string(n.Purpose))),
		ast.Item(keyRecipient, t.object(
			ast.Item(keySIRET, t.text(string(n.Recipient))), ast.Item(keyValid, ast.InternedTerm(n.Recipient.Valid())))),
		ast.Item(keyRecipientIsSubject, ast.InternedTerm(n.RecipientIsSubject)),
		ast.Item(keySchema, inputSchema),
		ast.Item(keyScopes, texts(&t, n.Scopes)),
		ast.Item(keyService, known.term(n)),
		ast.Item(keySubjectType, t.text(string(n.SubjectType))),
		ast.Item(keyTime, t.integer(n.Time.UnixMilli())),
	)
	if n.Agreement != nil {
		items = append(items, ast.Item(keyAgreement, n.Agreement.term()),
			ast.Item(keyAgreementDigest, t.text(n.AgreementDigest.String())))
	}
	return ast.NewObject(items...)
}

func (a *Agreement) term() *ast.Term {
	t := make(terms, 0, 24+len(a.LegalBases)+len(a.Obligations)+len(a.Purposes)+len(a.Scopes))
	items := make([][2]*ast.Term, 0, 13)
	items = append(items,
		ast.Item(keyAgency, t.text(string(a.Agency))), ast.Item(keyID, t.text(string(a.ID))), ast.Item(keyLegalBases, texts(&t, a.LegalBases)),
		ast.Item(keyNotAfter, t.integer(a.NotAfter.UnixMilli())), ast.Item(keyNotBefore, t.integer(a.NotBefore.UnixMilli())),
		ast.Item(keyObligations, texts(&t, a.Obligations)), ast.Item(keyPurposes, texts(&t, a.Purposes)),
		ast.Item(keySchema, agreementSchema), ast.Item(keyScopes, texts(&t, a.Scopes)), ast.Item(keyService, t.text(string(a.Service))),
		ast.Item(keyState, t.text(string(a.State))), ast.Item(keyVersion, t.integer(a.Version)),
	)
	if d := a.Deferral; d != nil {
		items = append(items, ast.Item(keyDeferral, t.object(
			ast.Item(keyArticle, t.text(d.Article)), ast.Item(keyAuthority, t.text(d.Authority)),
			ast.Item(keyDays, t.integer(d.Days)), ast.Item(keyReference, t.text(d.Reference)))))
	}
	return t.object(items...)
}
