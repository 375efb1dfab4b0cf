package policy

import (
	"encoding/base64"

	"github.com/open-policy-agent/opa/v1/ast"
)

// The input is handed to OPA as terms built here rather than parsed from the canonical JSON: that would cost more than the
// evaluation. A test holds both to be the same for every input.

// Keys are shared by all evaluations; OPA never changes a term.
var (
	keyAgency             = ast.StringTerm("agency")
	keyAgreement          = ast.StringTerm("agreement")
	keyAgreementDigest    = ast.StringTerm("agreement_digest")
	keyChannel            = ast.StringTerm("channel")
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

func text[S ~string](s S) *ast.Term { return ast.StringTerm(string(s)) }

func texts[S ~string](list []S) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return ast.ArrayTerm(terms...)
}

func integer(n int64) *ast.Term { return ast.NewTerm(ast.Number(string(appendInt(nil, n)))) }

func boolean(v bool) *ast.Term { return ast.InternedTerm(v) }

func (n *normalInput) value() ast.Value {
	scopes := make([][2]*ast.Term, len(n.scopes))
	for i, s := range n.scopes {
		scopes[i] = ast.Item(text(s), texts(n.Service.Scopes[s]))
	}
	items := make([][2]*ast.Term, 0, 15)
	items = append(items,
		ast.Item(keyAgency, ast.ObjectTerm(
			ast.Item(keyID, text(n.Agency.ID)), ast.Item(keySIRET, text(n.Agency.SIRET)), ast.Item(keyState, text(n.Agency.State)))),
		ast.Item(keyChannel, text(n.Channel)),
		ast.Item(keyHasContext, boolean(n.HasContext)),
		ast.Item(keyHasObject, boolean(n.HasObject)),
		ast.Item(keyLegalBasis, text(n.LegalBasis)),
		ast.Item(keyPurpose, text(n.Purpose)),
		ast.Item(keyRecipient, ast.ObjectTerm(
			ast.Item(keySIRET, text(n.Recipient)), ast.Item(keyValid, boolean(n.Recipient.Valid())))),
		ast.Item(keyRecipientIsSubject, boolean(n.RecipientIsSubject)),
		ast.Item(keySchema, inputSchema),
		ast.Item(keyScopes, texts(n.Scopes)),
		ast.Item(keyService, ast.ObjectTerm(
			ast.Item(keyID, text(n.Service.ID)), ast.Item(keyProvider, text(n.Service.Provider)),
			ast.Item(keyScopes, ast.ObjectTerm(scopes...)), ast.Item(keySubjectTypes, texts(n.Service.SubjectTypes)),
			ast.Item(keyVersion, integer(n.Service.Version)))),
		ast.Item(keySubjectType, text(n.SubjectType)),
		ast.Item(keyTime, integer(n.Time.UnixMilli())),
	)
	if a := n.Agreement; a != nil {
		items = append(items,
			ast.Item(keyAgreement, a.term()),
			ast.Item(keyAgreementDigest, ast.StringTerm(base64.StdEncoding.EncodeToString(n.AgreementDigest[:]))))
	}
	return ast.NewObject(items...)
}

func (a *Agreement) term() *ast.Term {
	return ast.ObjectTerm(
		ast.Item(keyAgency, text(a.Agency)), ast.Item(keyID, text(a.ID)), ast.Item(keyLegalBases, texts(a.LegalBases)),
		ast.Item(keyNotAfter, integer(a.NotAfter.UnixMilli())), ast.Item(keyNotBefore, integer(a.NotBefore.UnixMilli())),
		ast.Item(keyObligations, texts(a.Obligations)), ast.Item(keyPurposes, texts(a.Purposes)),
		ast.Item(keySchema, agreementSchema), ast.Item(keyScopes, texts(a.Scopes)), ast.Item(keyService, text(a.Service)),
		ast.Item(keyState, text(a.State)), ast.Item(keyVersion, integer(a.Version)),
	)
}
