package bench

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// records says how many earlier disclosures a broker is to have, spread over the population.
type records struct {
	Records, Persons, Agencies, Services int
	Endpoint                             string
}

// preloaded is how that went.
type preloaded struct {
	Elapsed time.Duration // until the last record was under a signed checkpoint
	Settled time.Duration // from then on until all were labelled and published
}

// past makes disclosures as the pipeline does (broker/disclose.go): the same rows, sealed with the same keys, through the store's and the log's own interfaces. What is left
// out is what leaves no trace: TLS, the call of the provider, sealing and opening the answer. The decision's input is a real one.
type past struct {
	*preloader
	r      *records
	plan   *service.Plan
	fields []string
	walk   walk
	bundle string
	// released is told how long the log took for each; nil: nobody.
	released func(time.Duration)
}

func (p *preloader) past(r *records) (*past, error) {
	def, err := service.Parse(definition(serviceID(0), r.Endpoint))
	if err != nil {
		return nil, err
	}
	plan, err := service.NewPlan(def, def.Fields())
	if err != nil {
		return nil, err
	}
	m := &past{preloader: p, r: r, plan: plan, walk: newWalk(r.Persons), bundle: p.b.PolicyStatus().Digest.String()}
	for _, f := range def.Fields() {
		m.fields = append(m.fields, string(f))
	}
	return m, nil
}

func (p *preloader) records(ctx context.Context, r *records) (*preloaded, error) {
	m, err := p.past(r)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := atOnce(ctx, r.Records, m.one); err != nil {
		return nil, fmt.Errorf("preloading records: %w", err)
	}
	done := &preloaded{Elapsed: time.Since(start)}
	done.Settled, err = settle(ctx, p.b)
	return done, err
}

func (m *past) one(ctx context.Context, i int) error {
	b := m.b
	agency, svc := i%m.r.Agencies, i%m.r.Services
	who := pivot(m.walk.at(int64(i)))
	subject, err := who.Subject()
	if err != nil {
		return err
	}
	at := m.now().UTC().Truncate(time.Millisecond)
	id := uuid.Must(uuid.NewV7())
	rec, err := m.describe(i, id, subject, agency, svc, at)
	if err != nil {
		return err
	}
	owner, err := b.Ring().Owner(subject)
	if err != nil {
		return err
	}
	key, fresh, err := b.Ring().SubjectKey(ctx, owner)
	if err != nil {
		return err
	}
	defer key.Clear()
	person, err := b.Ring().SealPerson(key, owner[:], rec.AppendPersonPart(nil))
	if err != nil {
		return err
	}
	admin, err := b.Ring().SealAdmin(ctx, at, nil, rec.AppendAdminPart(nil))
	if err != nil {
		return err
	}
	body := sha256.Sum256(id[:])
	in := &store.Intent{ID: store.ID(id), Agency: agencyID(agency), Body: body[:], AskedAt: at, Owner: owner, Person: person, Admin: admin, Fresh: []*keys.StoredKey{fresh}}
	row, _, err := b.Store().Begin(ctx, in)
	if err != nil {
		return err
	}
	if fresh != nil {
		b.Ring().Saved(fresh)
	}
	if err := m.conclude(rec); err != nil {
		return err
	}
	if admin, err = b.Ring().SealAdmin(ctx, at, nil, rec.AppendAdminPart(nil)); err != nil {
		return err
	}
	begin := time.Now()
	err = m.append(ctx, ledger.Group{
		Entries: []proof.Entry{proof.Disclosure{Commitment: rec.Commitment()}},
		Attach:  &store.Outcome{Disclosure: row.Seq, Records: []store.Record{{Owner: owner, Person: person, Admin: admin}}},
	})
	if m.released != nil {
		m.released(time.Since(begin))
	}
	return err
}

// describe fills a record as the pipeline does before it asks a provider.
func (m *past) describe(i int, id uuid.UUID, subject proof.Subject, agency, svc int, at time.Time) (*proof.Record, error) {
	input, err := decisionInput(m.plan.Definition(), agency, svc, at)
	if err != nil {
		return nil, err
	}
	text, err := input.Canonical()
	if err != nil {
		return nil, err
	}
	rec, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		return nil, err
	}
	var random [48]byte
	rand.Read(random[:])
	err = rec.SetSubject(subject)
	set := func(e error) {
		if err == nil {
			err = e
		}
	}
	set(rec.SetText(proof.DisclosureContext, fmt.Sprintf("Aide sociale facultative, dossier %d", i)))
	set(rec.SetText(proof.DisclosureObject, "Instruction d'une demande"))
	set(rec.Set(proof.DisclosurePayloadKey, random[:32]))
	set(rec.SetText(proof.DisclosureID, id.String()))
	set(rec.SetText(proof.DisclosureRole, proof.RoleAsked))
	set(rec.SetText(proof.DisclosureAgency, agencyID(agency)))
	set(rec.SetText(proof.DisclosureRecipient, recipientSIRET))
	set(rec.SetText(proof.DisclosureOfficial, fmt.Sprintf("agent-%03d", i%500)))
	set(rec.SetText(proof.DisclosureProvider, "bench-cnaf"))
	set(rec.SetText(proof.DisclosureService, serviceID(svc)+"@1"))
	set(rec.SetList(proof.DisclosureRequested, m.fields))
	set(rec.SetText(proof.DisclosurePurpose, purpose))
	set(rec.SetText(proof.DisclosureLegalBasis, legalBasis))
	set(rec.SetText(proof.DisclosureAgreement, input.Agreement.Ref().String()))
	set(rec.SetText(proof.DisclosurePolicy, m.bundle))
	set(rec.Set(proof.DisclosureInput, text))
	set(rec.SetList(proof.DisclosureReasons, nil))
	set(rec.SetTime(proof.DisclosureAskedAt, proof.TimeOf(at)))
	set(rec.SetText(proof.DisclosureTraceID, hex.EncodeToString(random[32:])))
	return rec, err
}

// conclude fills in the outcome.
func (m *past) conclude(rec *proof.Record) error {
	key, _ := rec.Value(proof.DisclosurePayloadKey)
	mac := hmac.New(sha256.New, key)
	for _, err := range []error{
		rec.SetList(proof.DisclosureObtained, m.fields),
		rec.SetList(proof.DisclosureReleased, m.fields),
		rec.SetText(proof.DisclosureOutcome, "released"),
		rec.SetTime(proof.DisclosureAnsweredAt, proof.TimeOf(m.now())),
		rec.Set(proof.DisclosurePayload, mac.Sum(nil)),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// decisionInput is what the policy is asked for one of the benchmark's requests.
func decisionInput(def *service.Definition, agency, svc int, at time.Time) (policy.Input, error) {
	a := agreement(agency, svc)
	digest, err := a.Digest()
	if err != nil {
		return policy.Input{}, err
	}
	in := policy.Input{
		Agency:    policy.Agency{ID: a.Agency, SIRET: policy.SIRET(siret(agency)), State: policy.AgencyActive},
		Agreement: &a, AgreementDigest: digest,
		Service:    policy.Service{ID: a.Service, Version: 1, Provider: policy.ProviderID(def.Provider.ID), Scopes: map[policy.Scope][]policy.Pointer{}},
		Scopes:     a.Scopes,
		Purpose:    purpose,
		LegalBasis: legalBasis, Recipient: policy.SIRET(recipientSIRET), HasContext: true, HasObject: true,
		SubjectType: policy.SubjectType(proof.TypePivot), Channel: policy.ChannelAPI, Time: at,
	}
	for _, t := range def.SubjectTypes() {
		in.Service.SubjectTypes = append(in.Service.SubjectTypes, policy.SubjectType(t))
	}
	for _, s := range scopes {
		for _, f := range def.ScopeFields(service.Scope(s)) {
			in.Service.Scopes[policy.Scope(s)] = append(in.Service.Scopes[policy.Scope(s)], policy.Pointer(f))
		}
	}
	return in, nil
}
