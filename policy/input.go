package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"time"
)

// InputSchema is the name of the input's canonical form; another form gets another name.
const InputSchema = "regard/input@v1"

// MaxInput bounds a canonical input and a canonical agreement, in bytes.
const MaxInput = 64 << 10 // what one field of a record holds

// AgencyState says what the broker knows about the agency that asks.
type AgencyState string

// The states of an agency.
const (
	AgencyActive  AgencyState = "active"
	AgencyRetired AgencyState = "retired"
	// AgencyUnknown: the broker has no such agency. Its ID and SIRET are then empty.
	AgencyUnknown AgencyState = "unknown"
)

// An Agency is who asks.
type Agency struct {
	ID    AgencyID
	SIRET SIRET
	State AgencyState
}

// A Service is what is asked, as far as the decision needs it.
type Service struct {
	ID       ServiceID
	Version  int64 // from 1
	Provider ProviderID
	// SubjectTypes are those the service takes.
	SubjectTypes []SubjectType
	// Scopes holds, of the scopes that are asked for, those that the service declares, with their fields. A scope that it doesn't
	// declare is absent; one that is not asked for is refused.
	Scopes map[Scope][]Pointer
}

// Ref returns the service's name in records.
func (s *Service) Ref() ServiceRef { return ServiceRef{s.ID, s.Version} }

// Input is everything one decision is made from, and all of it is recorded. It never holds an identity: neither the person or
// business that is asked about, nor the official who asks. Lists are sets: their order means nothing.
type Input struct {
	Agency Agency
	// Agreement is the one agreement that the request relies on, nil if there is none.
	Agreement *Agreement
	// AgreementDigest is the digest that stands in the log for that version of the agreement, zero if there is none. An agreement
	// that doesn't have this digest is not the one that was logged: such an input is refused.
	AgreementDigest Digest
	Service         Service
	// Scopes are those asked for.
	Scopes     []Scope
	Purpose    Purpose
	LegalBasis LegalBasis
	// Recipient is the establishment that will use the data: at most 14 digits, else the input is refused.
	Recipient SIRET
	// HasContext and HasObject say that the request states its context and its object; what they say is not the policy's business.
	HasContext, HasObject bool
	SubjectType           SubjectType
	// RecipientIsSubject: the broker found the recipient to be the very body that is asked about.
	RecipientIsSubject bool
	Channel            Channel
	// Time of the request, in whole milliseconds (the rest is dropped).
	Time time.Time
}

// Canonical returns the canonical JSON that is evaluated and recorded, or an error that wraps ErrInput.
func (in Input) Canonical() ([]byte, error) {
	n, err := in.normal()
	if err != nil {
		return nil, err
	}
	return n.canonical, nil
}

// ParseInput parses canonical JSON and refuses everything else with an error that wraps ErrInput.
func ParseInput(b []byte) (Input, error) {
	n, err := parseInput(b)
	if err != nil {
		return Input{}, err
	}
	return n.Input, nil
}

// normalInput is a checked input whose lists are sorted, with its canonical bytes.
type normalInput struct {
	Input
	scopes    []Scope // keys of Service.Scopes in order
	canonical []byte
	service   []byte // the part of canonical that is the service
}

func (in Input) normal() (*normalInput, error) {
	n := &normalInput{Input: in}
	n.Scopes = set(in.Scopes)
	n.Service.SubjectTypes = set(in.Service.SubjectTypes)
	if err := n.checkRequest(); err != nil {
		return nil, err
	}
	if err := n.checkService(); err != nil {
		return nil, err
	}
	n.canonical = make([]byte, 0, 2048)
	n.canonical = appendString(append(n.canonical, `{"agency":{"id":`...), n.Agency.ID)
	n.canonical = appendString(append(n.canonical, `,"siret":`...), n.Agency.SIRET)
	n.canonical = appendString(append(n.canonical, `,"state":`...), n.Agency.State)
	n.canonical = append(n.canonical, '}')
	if err := n.appendAgreement(); err != nil {
		return nil, err
	}
	n.appendRest()
	if len(n.canonical) > MaxInput {
		return nil, inputError("%d bytes, at most %d", len(n.canonical), MaxInput)
	}
	return n, nil
}

func (n *normalInput) checkRequest() error {
	for _, err := range [...]error{
		tokens("scopes", n.Scopes, maxScopes),
		token("purpose", n.Purpose), token("legal basis", n.LegalBasis), token("subject type", n.SubjectType), token("channel", n.Channel),
	} {
		if err != nil {
			return err
		}
	}
	switch n.Agency.State {
	case AgencyActive, AgencyRetired:
		if !isToken(string(n.Agency.ID)) || !n.Agency.SIRET.Valid() {
			return inputError("agency: id is not a token or SIRET is not valid")
		}
	case AgencyUnknown:
		if n.Agency.ID != "" || n.Agency.SIRET != "" {
			return inputError("agency: unknown, but has an id or a SIRET")
		}
	default:
		return inputError("agency: unknown state")
	}
	if len(n.Recipient) > 14 || !digits(string(n.Recipient)) {
		return inputError("recipient is more than 14 digits or not digits")
	}
	if t := n.Time.UnixMilli(); t < 0 || t > maxTime {
		return inputError("time is outside the years 1970 to 9999")
	}
	return nil
}

func (n *normalInput) checkService() error {
	s := &n.Service
	for _, err := range [...]error{
		token("service", s.ID), token("provider", s.Provider), tokens("service: subject types", s.SubjectTypes, maxItems),
	} {
		if err != nil {
			return err
		}
	}
	if s.Version < 1 {
		return inputError("service: version is less than 1")
	}
	total, sorted := 0, true
	for scope, fields := range s.Scopes {
		if _, ok := slices.BinarySearch(n.Scopes, scope); !ok {
			return inputError("service: a scope that is not asked for")
		}
		if total += len(fields); len(fields) == 0 || total > maxPointers {
			return inputError("service: a scope without a field, or more than %d fields", maxPointers)
		}
		for i, f := range fields {
			if !f.valid() {
				return inputError("service: a field is not a JSON pointer")
			}
			sorted = sorted && (i == 0 || fields[i-1] < f)
		}
	}
	if !sorted {
		s.Scopes = maps.Clone(s.Scopes)
		for scope, fields := range s.Scopes {
			s.Scopes[scope] = set(fields)
		}
	}
	n.scopes = make([]Scope, 0, len(s.Scopes))
	for _, scope := range n.Scopes {
		if _, ok := s.Scopes[scope]; ok {
			n.scopes = append(n.scopes, scope)
		}
	}
	return nil
}

func (n *normalInput) appendAgreement() error {
	if n.Agreement == nil {
		if !n.AgreementDigest.IsZero() {
			return inputError("agreement digest without an agreement")
		}
		return nil
	}
	a := n.Agreement.sorted()
	n.Agreement = &a
	if err := a.validate(); err != nil {
		return err
	}
	b := append(n.canonical, `,"agreement":`...)
	start := len(b)
	b = a.append(b)
	if n.AgreementDigest != sha256.Sum256(b[start:]) {
		return inputError("the agreement is not the one that was logged: its digest differs")
	}
	b = append(b, `,"agreement_digest":"`...)
	b = base64.StdEncoding.AppendEncode(b, n.AgreementDigest[:])
	n.canonical = append(b, '"')
	return nil
}

func (n *normalInput) appendRest() {
	b := appendString(append(n.canonical, `,"channel":`...), n.Channel)
	b = appendBool(append(b, `,"has_context":`...), n.HasContext)
	b = appendBool(append(b, `,"has_object":`...), n.HasObject)
	b = appendString(append(b, `,"legal_basis":`...), n.LegalBasis)
	b = appendString(append(b, `,"purpose":`...), n.Purpose)
	b = appendString(append(b, `,"recipient":{"siret":`...), n.Recipient)
	b = appendBool(append(b, `,"valid":`...), n.Recipient.Valid())
	b = appendBool(append(b, `},"recipient_is_subject":`...), n.RecipientIsSubject)
	b = append(b, `,"schema":"`+InputSchema+`","scopes":`...)
	b = appendStrings(b, n.Scopes)
	b = append(b, `,"service":`...)
	start := len(b)
	b = appendString(append(b, `{"id":`...), n.Service.ID)
	b = appendString(append(b, `,"provider":`...), n.Service.Provider)
	b = append(b, `,"scopes":{`...)
	for i, scope := range n.scopes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, scope), ':')
		b = appendStrings(b, n.Service.Scopes[scope])
	}
	b = appendStrings(append(b, `},"subject_types":`...), n.Service.SubjectTypes)
	b = append(appendInt(append(b, `,"version":`...), n.Service.Version), '}')
	end := len(b)
	b = appendString(append(b, `,"subject_type":`...), n.SubjectType)
	b = appendInt(append(b, `,"time":`...), n.Time.UnixMilli())
	n.canonical = append(b, '}')
	n.service = n.canonical[start:end]
}

// inputJSON is the wire form, for parsing only.
type inputJSON struct {
	Agency struct {
		ID    AgencyID    `json:"id"`
		SIRET SIRET       `json:"siret"`
		State AgencyState `json:"state"`
	} `json:"agency"`
	Agreement       *agreementJSON `json:"agreement"`
	AgreementDigest []byte         `json:"agreement_digest"`
	Channel         Channel        `json:"channel"`
	HasContext      bool           `json:"has_context"`
	HasObject       bool           `json:"has_object"`
	LegalBasis      LegalBasis     `json:"legal_basis"`
	Purpose         Purpose        `json:"purpose"`
	Recipient       struct {
		SIRET SIRET `json:"siret"`
		Valid bool  `json:"valid"` // computed from the SIRET
	} `json:"recipient"`
	RecipientIsSubject bool    `json:"recipient_is_subject"`
	Schema             string  `json:"schema"`
	Scopes             []Scope `json:"scopes"`
	Service            struct {
		ID           ServiceID           `json:"id"`
		Provider     ProviderID          `json:"provider"`
		Scopes       map[Scope][]Pointer `json:"scopes"`
		SubjectTypes []SubjectType       `json:"subject_types"`
		Version      int64               `json:"version"`
	} `json:"service"`
	SubjectType SubjectType `json:"subject_type"`
	Time        int64       `json:"time"`
}

func parseInput(b []byte) (*normalInput, error) {
	if len(b) > MaxInput {
		return nil, inputError("%d bytes, at most %d", len(b), MaxInput)
	}
	var w inputJSON
	if err := strictJSON(b, &w); err != nil {
		return nil, err
	}
	in := Input{
		Agency: Agency(w.Agency), Purpose: w.Purpose, LegalBasis: w.LegalBasis, Scopes: w.Scopes, Recipient: w.Recipient.SIRET,
		Service: Service{ID: w.Service.ID, Version: w.Service.Version, Provider: w.Service.Provider,
			SubjectTypes: w.Service.SubjectTypes, Scopes: w.Service.Scopes},
		HasContext: w.HasContext, HasObject: w.HasObject, SubjectType: w.SubjectType, RecipientIsSubject: w.RecipientIsSubject,
		Channel: w.Channel, Time: time.UnixMilli(w.Time).UTC(),
	}
	if w.Agreement != nil {
		in.Agreement = w.Agreement.agreement()
		if len(w.AgreementDigest) != len(in.AgreementDigest) {
			return nil, inputError("agreement digest is not 32 bytes")
		}
		copy(in.AgreementDigest[:], w.AgreementDigest)
	}
	n, err := in.normal()
	if err != nil {
		return nil, err
	}
	// Whatever encoding/json lets pass (white space, order, duplicates, another case of a key) does not survive this.
	if !bytes.Equal(n.canonical, b) {
		return nil, inputError("not canonical JSON of %s", InputSchema)
	}
	return n, nil
}
