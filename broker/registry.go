package broker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/policy"
)

// registry is who may ask for what, as of one moment. It is never changed: a change makes a new one, and requests keep the one they began with.
type registry struct {
	keys       map[[32]byte]callerKey // of client certificates
	providers  map[[32]byte][]string  // ids by the digests in the definitions, of withdrawn services, too: their receipts are still owed
	agencies   map[string]store.Agency
	auditors   map[string]store.Auditor
	services   map[string]*serviceEntry
	known      map[string]*service.Definition     // the newest of each, withdrawn ones too: records name them
	named      map[string]string                  // providers, by id
	witnessed  map[string]bool                    // services whose answers wait for witnesses, withdrawn ones too
	latest     map[string]store.Service           // withdrawn ones, too
	agreements map[agreementKey][]*agreementEntry // by id; revoked ones last
	delays     map[agreementKey]bool              // there is one with a lawful delay, revoked or not; without a service: for any of them
	byID       map[policy.AgreementID]*agreementEntry
}

type callerKey struct {
	caller   Caller
	notAfter time.Time
}

type agreementKey struct{ agency, service string }

type agreementEntry struct {
	agreement *policy.Agreement
	digest    policy.Digest
}

type serviceEntry struct {
	def    *service.Definition
	row    store.Service
	scopes map[policy.Scope][]policy.Pointer
	types  []policy.SubjectType

	mu    sync.RWMutex
	plans map[string]*service.Plan // by the granted fields
}

// maxPlans bounds what one service keeps: agreements grant far fewer different sets of fields.
const maxPlans = 1024

// planFor returns what a grant means for the service.
func (e *serviceEntry) planFor(grant policy.Grant) (*service.Plan, error) {
	fields := grant.Fields()
	key := make([]byte, 0, 2<<10) // on the stack
	for _, f := range fields {
		key = append(key, f...)
		key = append(key, ' ') // no declared pointer has one
	}
	e.mu.RLock()
	p := e.plans[string(key)]
	e.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	p, err := service.NewPlan(e.def, fields)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.plans) < maxPlans {
		e.plans[string(key)] = p
	}
	return p, nil
}

func newRegistry(rows *store.Registry) (*registry, error) {
	r := &registry{
		keys: map[[32]byte]callerKey{}, agencies: map[string]store.Agency{}, auditors: map[string]store.Auditor{}, services: map[string]*serviceEntry{}, witnessed: map[string]bool{}, latest: map[string]store.Service{},
		agreements: map[agreementKey][]*agreementEntry{}, delays: map[agreementKey]bool{}, byID: map[policy.AgreementID]*agreementEntry{}, providers: map[[32]byte][]string{}, known: map[string]*service.Definition{}, named: map[string]string{},
	}
	for _, a := range rows.Agencies {
		r.agencies[a.ID] = a
		for _, k := range a.Keys {
			if a.State == store.Active && k.State == store.Active {
				r.keys[k.SPKI] = callerKey{caller: Caller{ID: a.ID, Name: a.Name, SIRET: a.SIRET}, notAfter: k.NotAfter}
			}
		}
	}
	for _, a := range rows.Auditors {
		r.auditors[a.ID] = a
		for _, k := range a.Certificates {
			if a.State == store.Active && k.State == store.Active {
				r.keys[k.SPKI] = callerKey{caller: Caller{ID: a.ID, Name: a.Name, Auditor: true}, notAfter: k.NotAfter}
			}
		}
	}
	for i := range rows.Services {
		row := rows.Services[i]
		r.latest[row.ID] = row
		e, err := newServiceEntry(row)
		if err != nil && row.State != store.Active {
			continue // of an earlier version's form, perhaps
		}
		if err != nil {
			return nil, err
		}
		for _, k := range e.def.Provider.KeyDigests() {
			if id := string(e.def.Provider.ID); !slices.Contains(r.providers[k], id) {
				r.providers[k] = append(r.providers[k], id) // several, if one body answers for them
			}
		}
		r.known[row.ID], r.named[string(e.def.Provider.ID)] = e.def, e.def.Provider.Name
		r.witnessed[row.ID] = e.def.Release == service.ReleaseWitnessed
		if row.State == store.Active {
			r.services[row.ID] = e
		}
	}
	for i := range rows.Agreements {
		row := &rows.Agreements[i]
		a, err := policy.ParseAgreement(row.JSON)
		if err != nil {
			return nil, fmt.Errorf("reading agreement %s@%d: %w", row.ID, row.Version, err)
		}
		e := &agreementEntry{agreement: a, digest: row.Digest}
		k := agreementKey{row.Agency, row.Service}
		r.agreements[k] = append(r.agreements[k], e)
		r.byID[a.ID] = e
		if a.Deferral != nil {
			r.delays[k], r.delays[agreementKey{agency: row.Agency}] = true, true
		}
	}
	for _, list := range r.agreements {
		slices.SortStableFunc(list, func(a, b *agreementEntry) int {
			if x, y := a.agreement.State, b.agreement.State; x != y {
				if x == policy.AgreementActive {
					return -1
				}
				return 1
			}
			return strings.Compare(string(a.agreement.ID), string(b.agreement.ID))
		})
	}
	return r, nil
}

func newServiceEntry(row store.Service) (*serviceEntry, error) {
	def, err := service.Parse(row.YAML)
	if err != nil {
		return nil, fmt.Errorf("reading service %s@%d: %w", row.ID, row.Version, err)
	}
	e := &serviceEntry{def: def, row: row, scopes: map[policy.Scope][]policy.Pointer{}, plans: map[string]*service.Plan{}}
	for name := range def.Scopes {
		fields := def.ScopeFields(name)
		ptrs := make([]policy.Pointer, len(fields))
		for i, f := range fields {
			ptrs[i] = policy.Pointer(f)
		}
		e.scopes[policy.Scope(name)] = ptrs
	}
	for _, t := range def.SubjectTypes() {
		e.types = append(e.types, policy.SubjectType(t))
	}
	return e, nil
}

// choose finds the one agreement a request relies on: the named one if it is the agency's for this service; else the one that covers the purpose, and then the legal basis, and of several of these the one
// that is in force at that moment, and then covers the scopes. What is left is the first, active ones before revoked ones and then by id. So if one grants the request it is chosen, and if none does, the
// reasons are those of the one that was meant. Policy judges it.
func (r *registry) choose(agency string, req *Request, at time.Time) *agreementEntry {
	list := r.agreements[agreementKey{agency, req.Service}]
	if req.Agreement != "" {
		for _, e := range list {
			if string(e.agreement.ID) == req.Agreement {
				return e
			}
		}
		return nil
	}
	if len(list) == 1 {
		return list[0]
	}
	var best *agreementEntry
	score := -1
	for _, e := range list {
		if n := e.fits(req, at.UnixMilli()); n > score {
			best, score = e, n
		}
	}
	return best
}

// fits is greater the better an agreement fits a request; whatever comes first in it outweighs all that follows.
func (e *agreementEntry) fits(req *Request, at int64) (score int) {
	a := e.agreement
	if slices.Contains(a.Purposes, policy.Purpose(req.Purpose)) {
		score += 8
		if slices.Contains(a.LegalBases, policy.LegalBasis(req.LegalBasis)) {
			score += 4
		}
	}
	if a.State == policy.AgreementActive && a.NotBefore.UnixMilli() <= at && at <= a.NotAfter.UnixMilli() {
		score += 2
	}
	if !slices.ContainsFunc(req.Scopes, func(s string) bool { return !slices.Contains(a.Scopes, policy.Scope(s)) }) {
		score++
	}
	return score
}

// mustName refuses a request of an agency some of whose requests are told later, if it names no agreement, or one that isn't the agency's for this service: what was meant to be told later would be
// told at once, if only as a refusal. That an agreement is over changes nothing: it is when it is asked under most easily by mistake.
func (r *registry) mustName(agency string, req *Request, chosen *agreementEntry) error {
	if req.Agreement == "" && !r.delays[agreementKey{agency, req.Service}] || req.Agreement != "" && (chosen != nil || !r.delays[agreementKey{agency: agency}]) {
		return nil
	}
	return &Problem{Status: 422, Code: "agreement.unclear", Title: "The request doesn't say under which of your agreements for this service it is made.",
		Detail: "Name it in agreement; GET /v1/services lists yours. Nothing was recorded, and the provider was not asked.", Parameter: "/agreement"}
}

// errUnknownCaller has one form for certificates that are unknown, revoked or retired: who asks learns nothing about the registry.
func errUnknownCaller() *Problem {
	return &Problem{Status: 401, Code: "certificate.unknown", Title: "This client certificate is not registered.",
		Detail: "Use the certificate that the operator registered for you, or ask the operator to register this one."}
}

// Authenticate finds the agency or the auditor to whom a client certificate belongs: by its public key, which TLS has shown the caller to hold. A nil certificate is a problem too.
func (b *Broker) Authenticate(cert *x509.Certificate) (Caller, error) {
	if cert == nil {
		return Caller{}, &Problem{Status: 401, Code: "certificate.missing", Title: "No client certificate was presented.",
			Detail: "Agencies and auditors identify themselves with the client certificate that the operator registered for them."}
	}
	k, ok := b.registry.Load().keys[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]
	if !ok {
		return Caller{}, errUnknownCaller()
	}
	now := b.now()
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) || now.After(k.notAfter) {
		return Caller{}, &Problem{Status: 401, Code: "certificate.expired", Title: "This client certificate is not valid now.",
			Detail: "Renew the certificate and have the operator register the new one (regard agency rotate, or regard auditor rotate)."}
	}
	return k.caller, nil
}

// A ServiceInfo describes a service to an agency.
type ServiceInfo struct {
	ID           string                 `json:"id"`
	Version      int64                  `json:"version"`
	Title        map[string]string      `json:"title"`
	Provider     string                 `json:"provider"`
	ProviderName string                 `json:"provider_name"`
	SubjectTypes []string               `json:"subject_types"`
	Scopes       map[string]ScopeInfo   `json:"scopes"`
	Parameters   []ParameterInfo        `json:"parameters"`
	Agreements   []ServiceAgreementInfo `json:"agreements"`
}

// A ScopeInfo describes a scope.
type ScopeInfo struct {
	Title  map[string]string `json:"title"`
	Fields []string          `json:"fields"`
}

// A ParameterInfo describes a further parameter of a service.
type ParameterInfo struct {
	Name      string            `json:"name"`
	Title     map[string]string `json:"title"`
	Type      string            `json:"type"`
	Min       int64             `json:"min,omitempty"`
	Max       int64             `json:"max,omitempty"`
	Values    []string          `json:"values,omitempty"`
	Pattern   string            `json:"pattern,omitempty"`
	MaxLength int               `json:"max_length,omitempty"`
	Required  bool              `json:"required"`
}

// A ServiceAgreementInfo says what one of the caller's agreements allows.
type ServiceAgreementInfo struct {
	ID         string    `json:"id"`
	Version    int64     `json:"version"`
	State      string    `json:"state"`
	Scopes     []string  `json:"scopes"`
	Purposes   []string  `json:"purposes"`
	LegalBases []string  `json:"legal_bases"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
}

// Services describes the services in force, by id, with the caller's agreements on each.
func (b *Broker) Services(caller Caller) []ServiceInfo {
	reg := b.registry.Load()
	var out []ServiceInfo
	for _, s := range reg.services {
		info := ServiceInfo{
			ID: s.row.ID, Version: s.row.Version, Title: text(s.def.Title), Provider: string(s.def.Provider.ID), ProviderName: s.def.Provider.Name,
			SubjectTypes: stringsOf(slices.Sorted(maps.Keys(s.def.Subjects))), Scopes: map[string]ScopeInfo{}, Parameters: []ParameterInfo{}, Agreements: []ServiceAgreementInfo{},
		}
		for name, g := range s.def.Scopes {
			info.Scopes[string(name)] = ScopeInfo{Title: text(g.Title), Fields: stringsOf(s.def.ScopeFields(name))}
		}
		for i := range s.def.Parameters {
			p := &s.def.Parameters[i]
			info.Parameters = append(info.Parameters, ParameterInfo{Name: p.Name, Title: text(p.Title), Type: string(p.Type), Min: p.Min, Max: p.Max, Values: p.Values, Pattern: p.Pattern, MaxLength: p.MaxLength, Required: p.Required})
		}
		for _, e := range reg.agreements[agreementKey{caller.ID, s.row.ID}] {
			a := e.agreement
			info.Agreements = append(info.Agreements, ServiceAgreementInfo{
				ID: string(a.ID), Version: a.Version, State: string(a.State), Scopes: stringsOf(a.Scopes), Purposes: stringsOf(a.Purposes), LegalBases: stringsOf(a.LegalBases),
				NotBefore: a.NotBefore, NotAfter: a.NotAfter,
			})
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(x, y ServiceInfo) int { return strings.Compare(x.ID, y.ID) })
	return out
}

func text(t service.Text) map[string]string { return map[string]string{"fr": t.FR, "en": t.EN} }

// refresh reads the registry anew; it is in force for every request that begins after it returns.
func (b *Broker) refresh(ctx context.Context) error {
	b.reading.Lock()
	defer b.reading.Unlock()
	rows, err := b.store.Registry(ctx)
	if err != nil {
		return fmt.Errorf("reading the registry: %w", err)
	}
	r, err := newRegistry(rows)
	if err != nil {
		return err
	}
	b.registry.Store(r)
	return nil
}
