package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"time"
	"unicode"
)

// AgreementSchema is the first name of the agreement's canonical form; another form gets another name.
const AgreementSchema = "regard/agreement@v1"

// AgreementState says whether an agreement is in force.
type AgreementState string

// The states of `regard/agreement@v1` entries.
const (
	AgreementActive  AgreementState = "active"
	AgreementRevoked AgreementState = "revoked"
)

// An Agreement (habilitation) says what one agency may ask of one service. Lists are sets: their order means nothing.
type Agreement struct {
	ID      AgreementID
	Version int64 // from 1
	Agency  AgencyID
	Service ServiceID // all its versions
	// Scopes, Purposes, LegalBases are what may be asked: at least one of each.
	Scopes     []Scope
	Purposes   []Purpose
	LegalBases []LegalBasis
	// NotBefore and NotAfter are the first and the last instant of its validity, in whole milliseconds (the rest is dropped).
	NotBefore, NotAfter time.Time
	State               AgreementState
	Obligations         []Obligation // may be empty
	// Deferral: the people concerned learn later of what is asked under the agreement. nil: at once.
	Deferral *Deferral
}

// A Deferral is a lawful delay. All of it is public, in the log and in the agreement's text: none of it may name the people it is about.
type Deferral struct {
	Authority string // who ordered it: 1 to 200 bytes of text
	Article   string // of the law that allows it: likewise
	// Reference of the authorisation, as its authority numbers it and opaque to everybody else: likewise.
	Reference string
	Days      int64 // from the request on, 1 to MaxDeferral
}

// MaxDeferral bounds a delay, in days.
const MaxDeferral = 36_500

// maxClause bounds a text of a Deferral, in bytes: what deferred@v1 can hold.
const maxClause = 200

// Due is when what was asked at a time has to be opened.
func (d *Deferral) Due(asked time.Time) time.Time { return asked.UTC().AddDate(0, 0, int(d.Days)) }

// Month is that of Due, as deferred@v1 states it.
func (d *Deferral) Month(asked time.Time) string { return d.Due(asked).Format("2006-01") }

func (d *Deferral) validate() error {
	if d == nil {
		return nil
	}
	for name, s := range map[string]string{"authority": d.Authority, "article": d.Article, "reference": d.Reference} {
		if s == "" || len(s) > maxClause || s[0] == ' ' || s[len(s)-1] == ' ' || !isText(s) || strings.ContainsFunc(s, unicode.IsControl) {
			return inputError("agreement: deferral: the %s is not 1 to %d bytes of text that neither begins nor ends with a space", name, maxClause)
		}
	}
	if d.Days < 1 || d.Days > MaxDeferral {
		return inputError("agreement: deferral: days are not 1 to %d", MaxDeferral)
	}
	return nil
}

func (d *Deferral) append(b []byte) []byte {
	b = appendString(append(b, `{"article":`...), d.Article)
	b = appendString(append(b, `,"authority":`...), d.Authority)
	b = appendInt(append(b, `,"days":`...), d.Days)
	b = appendString(append(b, `,"reference":`...), d.Reference)
	return append(b, '}')
}

// Ref returns the agreement's name in records.
func (a *Agreement) Ref() AgreementRef { return AgreementRef{a.ID, a.Version} }

// Validate returns an error that wraps ErrInput if the agreement has no canonical form.
func (a *Agreement) Validate() error {
	c := a.sorted()
	return c.validate()
}

// Canonical returns the agreement's canonical JSON, or an error that wraps ErrInput.
func (a *Agreement) Canonical() ([]byte, error) {
	c := a.sorted()
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c.append(make([]byte, 0, 512)), nil
}

// Digest returns the SHA-256 of the canonical JSON, or an error that wraps ErrInput.
func (a *Agreement) Digest() (Digest, error) {
	b, err := a.Canonical()
	if err != nil {
		return Digest{}, err
	}
	return sha256.Sum256(b), nil
}

// ParseAgreement parses canonical JSON and refuses everything else with an error that wraps ErrInput.
func ParseAgreement(b []byte) (*Agreement, error) {
	if len(b) > MaxInput {
		return nil, inputError("agreement of %d bytes, at most %d", len(b), MaxInput)
	}
	var w agreementJSON
	if err := strictJSON(b, &w); err != nil {
		return nil, err
	}
	a := w.agreement()
	again, err := a.Canonical()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b, again) {
		return nil, inputError("agreement is not canonical JSON of %s", AgreementSchema)
	}
	return a, nil
}

func (a *Agreement) sorted() Agreement {
	c := *a
	c.Scopes, c.Purposes, c.LegalBases, c.Obligations = set(a.Scopes), set(a.Purposes), set(a.LegalBases), set(a.Obligations)
	return c
}

func (a *Agreement) validate() error {
	for _, err := range [...]error{
		token("agreement", a.ID), token("agreement: agency", a.Agency), token("agreement: service", a.Service),
		tokens("agreement: scopes", a.Scopes, maxItems), tokens("agreement: purposes", a.Purposes, maxItems),
		tokens("agreement: legal bases", a.LegalBases, maxItems),
	} {
		if err != nil {
			return err
		}
	}
	switch from, to := a.NotBefore.UnixMilli(), a.NotAfter.UnixMilli(); {
	case a.Version < 1:
		return inputError("agreement: version is less than 1")
	case a.State != AgreementActive && a.State != AgreementRevoked:
		return inputError("agreement: unknown state")
	case len(a.Scopes) == 0 || len(a.Purposes) == 0 || len(a.LegalBases) == 0:
		return inputError("agreement: needs a scope, a purpose and a legal basis")
	case from < 0 || to > maxTime || from > to:
		return inputError("agreement: validity is empty or outside the years 1970 to 9999")
	}
	for i, o := range a.Obligations {
		if !o.known() {
			return inputError("agreement: obligation %d is unknown", i)
		}
	}
	return a.Deferral.validate()
}

func (a *Agreement) append(b []byte) []byte {
	b = appendString(append(b, `{"agency":`...), a.Agency)
	if a.Deferral != nil { // absent otherwise: agreements from before there were any keep their digests
		b = a.Deferral.append(append(b, `,"deferral":`...))
	}
	b = appendString(append(b, `,"id":`...), a.ID)
	b = appendStrings(append(b, `,"legal_bases":`...), a.LegalBases)
	b = appendInt(append(b, `,"not_after":`...), a.NotAfter.UnixMilli())
	b = appendInt(append(b, `,"not_before":`...), a.NotBefore.UnixMilli())
	b = appendStrings(append(b, `,"obligations":`...), a.Obligations)
	b = appendStrings(append(b, `,"purposes":`...), a.Purposes)
	b = append(b, `,"schema":"`+AgreementSchema+`","scopes":`...)
	b = appendStrings(b, a.Scopes)
	b = appendString(append(b, `,"service":`...), a.Service)
	b = appendString(append(b, `,"state":`...), a.State)
	b = appendInt(append(b, `,"version":`...), a.Version)
	return append(b, '}')
}

// agreementJSON is the wire form, for parsing only.
type agreementJSON struct {
	Agency      AgencyID       `json:"agency"`
	Deferral    *deferralJSON  `json:"deferral"`
	ID          AgreementID    `json:"id"`
	LegalBases  []LegalBasis   `json:"legal_bases"`
	NotAfter    int64          `json:"not_after"`
	NotBefore   int64          `json:"not_before"`
	Obligations []Obligation   `json:"obligations"`
	Purposes    []Purpose      `json:"purposes"`
	Schema      string         `json:"schema"`
	Scopes      []Scope        `json:"scopes"`
	Service     ServiceID      `json:"service"`
	State       AgreementState `json:"state"`
	Version     int64          `json:"version"`
}

type deferralJSON struct {
	Article   string `json:"article"`
	Authority string `json:"authority"`
	Days      int64  `json:"days"`
	Reference string `json:"reference"`
}

func (w *agreementJSON) agreement() *Agreement {
	a := &Agreement{
		ID: w.ID, Version: w.Version, Agency: w.Agency, Service: w.Service,
		Scopes: w.Scopes, Purposes: w.Purposes, LegalBases: w.LegalBases,
		NotBefore: time.UnixMilli(w.NotBefore).UTC(), NotAfter: time.UnixMilli(w.NotAfter).UTC(),
		State: w.State, Obligations: w.Obligations,
	}
	if d := w.Deferral; d != nil {
		a.Deferral = &Deferral{Authority: d.Authority, Article: d.Article, Reference: d.Reference, Days: d.Days}
	}
	return a
}

// strictJSON decodes one JSON value without unknown keys. Errors of encoding/json can quote the value, so they are not passed on.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return inputError("not JSON of the expected form (near byte %d)", d.InputOffset())
	}
	return nil
}
