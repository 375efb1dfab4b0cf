package hostile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// moment is when a detector looks.
type moment int

// The moments of the days that are played.
const (
	before  moment = iota // the day of the deed has begun, and nothing has happened
	atOnce                // the deed is done, and its epoch open
	atAge                 // as before, and older than holders wait for a witnessed receipt
	atClose               // that epoch is closed
	later                 // so is the next
	never
)

// after is how the table says it.
func (m moment) after() string {
	return [...]string{before: "before", atOnce: "at once", atAge: "after the set age", atClose: "when the epoch closes", later: "one epoch later", never: "never"}[m]
}

// start is three days before the end of a month, so that the days cross it.
var start = time.Date(2026, 10, 29, 8, 0, 0, 0, time.UTC)

// maxWait is how long the holders of these tests wait for a witnessed receipt.
const maxWait = time.Hour

// scene is one run of the days: five epochs of a day each, in the third of which the prefecture is told Alice's income. That is the deed which a cheat hides, moves or
// falsifies.
type scene struct {
	t          *testing.T
	o          *hostile.Operator
	dir        string
	policy     string // the file of the reader's log key and witnesses
	policyText []byte
	rand       *counter
	rules      *policy.Replayer
	at         moment
	published  [never]bool

	alice, bob, corp proof.Subject
	// income is the deed. cantine is what the mairie was told about Alice on the same day; aid the same about Bob.
	income, cantine, aid *hostile.Filing
	// delayed is about Bob, and deferred until the end of the month.
	delayed *hostile.Filing
	// mute: the delay isn't ended.
	mute bool
	// afterDeed is done right after the deed; may be nil.
	afterDeed func()

	// registered are keys that the log is told of on its first day.
	registered []proof.Entry
	// served is the certificate of the operator's API.
	served []byte
	// bend changes what the prefecture asks for and how it is decided, in the deed; may be nil.
	bend func(*asker)
	// around: in the deed the provider is asked in a way that its library doesn't see.
	around bool
	// asked are providers' libraries, which get each question, answered is the agency's, which gets each receipt; may be nil.
	asked    []func(by asker, about proof.Subject, id string)
	answered func(by asker, f *hostile.Filing)
	// instead puts another entry in the place of the one that a holder asks for; may be nil.
	instead func(*hostile.Filing) *hostile.Filing
	// falsify changes the record of the deed before it is logged, and under whom it is filed; may be nil.
	falsify func(*proof.Record, *proof.Subject)

	mu    sync.Mutex   // held while the days go on; released while a library looks
	clock atomic.Int64 // the libraries' time, Unix nanoseconds

	// whom the persons, the holders of receipts and the public see: not the same where the log is forked.
	person, holders, public func() *hostile.Operator
}

// counter is a stream that is the same in each run.
type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	for at := 0; at < len(p); c.n++ {
		h := sha256.Sum256(fmt.Appendf(nil, "scene %d", c.n))
		at += copy(p[at:], h[:])
	}
	return len(p), nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// rules is the built-in bundle, compiled once.
var rules = sync.OnceValues(func() (*policy.Replayer, error) {
	b, err := policy.Embedded().Load()
	if err != nil {
		return nil, err
	}
	return policy.NewReplayer(context.Background(), b.Bytes())
})

// grantsAll is a policy that grants whatever an active agency asks for. Its bundle is published, and not activated in the log.
func (s *scene) grantsAll() *policy.Replayer {
	b := must(policy.NewBundle(map[string][]byte{"p.rego": []byte(`package regard.decision

grant := {"scopes": input.scopes, "fields": input.service.scopes, "obligations": []} if active

active if input.agency.state == "active"

reasons contains {"code": "agency.inactive", "fr": "Non.", "en": "No."} if not active
`)}))
	s.blob(b.Bytes())
	return must(policy.NewReplayer(s.t.Context(), b.Bytes()))
}

func newScene(t *testing.T, cheats func(*scene)) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir(), rand: &counter{}}
	var err error
	if s.rules, err = rules(); err != nil {
		t.Fatal(err)
	}
	s.o = hostile.New(1, start, "w1.example/witness", "w2.example/witness", "w3.example/witness")
	s.alice = must(proof.Pivot{BirthName: "Exemple", GivenNames: "Alice", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France}.Subject())
	s.bob = must(proof.Pivot{BirthName: "Exemple", GivenNames: "Bob", BirthDate: "1990-02-11", Sex: "M", BirthPlace: "69123", BirthCountry: proof.France}.Subject())
	s.corp = must(proof.SIREN("130025265"))
	text := "log " + s.o.VKey + "\n"
	for i, w := range s.o.Witnesses() {
		text += fmt.Sprintf("witness w%d %s\n", i+1, w.VKey())
	}
	s.policyText = []byte(text + "group g 2 w1 w2 w3\nquorum g\n")
	s.policy = s.write("policy", s.policyText)
	s.clock.Store(start.UnixNano())
	whole := func() *hostile.Operator { return s.o }
	s.person, s.holders, s.public = whole, whole, whole
	if cheats != nil {
		cheats(s)
	}
	return s
}

func (s *scene) write(name string, data []byte) string {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// An agency asks one service under one agreement.
type asker struct {
	agency    policy.Agency
	service   policy.Service
	agreement policy.Agreement
	purpose   policy.Purpose
	rules     *policy.Replayer
}

func (s *scene) asker(agency, siret, service, provider, purpose string, version int64) asker {
	a := asker{
		agency:  policy.Agency{ID: policy.AgencyID(agency), SIRET: policy.SIRET(siret), State: policy.AgencyActive},
		service: policy.Service{ID: policy.ServiceID(service), Version: 1, Provider: policy.ProviderID(provider), SubjectTypes: []policy.SubjectType{"ine", "person", "pivot", "siren"}, Scopes: map[policy.Scope][]policy.Pointer{"montant": {"/montant"}}},
		purpose: policy.Purpose(purpose), rules: s.rules,
	}
	a.agreement = policy.Agreement{
		ID: policy.AgreementID(agency + "-" + service), Version: version, Agency: a.agency.ID, Service: a.service.ID, Scopes: []policy.Scope{"montant"},
		Purposes: []policy.Purpose{a.purpose}, LegalBases: []policy.LegalBasis{"crpa-l114-8"}, NotBefore: start.AddDate(-1, 0, 0), NotAfter: start.AddDate(1, 0, 0), State: policy.AgreementActive,
	}
	return a
}

func (s *scene) mairie() asker {
	return s.asker("mairie", "21750001600019", "quotient-familial", "cnaf", "tarification-cantine", 1)
}

func (s *scene) prefecture() asker {
	return s.asker("prefecture", "21690123100011", "revenu-fiscal", "dgfip", "titre-de-sejour", 1)
}

// brigade asks under a lawful delay of a day.
func (s *scene) brigade() asker {
	a := s.asker("brigade", "13002526500013", "situation", "dgfip", "enquete", 1)
	a.agreement.Deferral = &policy.Deferral{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Reference: "2026/118", Days: 1}
	return a
}

// decide has the policy decide, and returns the record of a released answer.
func (s *scene) disclosure(a asker, about proof.Subject) *proof.Record {
	s.t.Helper()
	r, in := must(proof.NewRecord(proof.SchemaDisclosure, s.rand)), policy.Input{
		Agency: a.agency, Service: a.service, Agreement: &a.agreement, AgreementDigest: must(a.agreement.Digest()), Scopes: []policy.Scope{"montant"}, Purpose: a.purpose, LegalBasis: "crpa-l114-8",
		Recipient: a.agency.SIRET, HasContext: true, HasObject: true, SubjectType: policy.SubjectType(about.Type()), Channel: policy.ChannelAPI, Time: s.o.Now,
	}
	input := must(in.Canonical())
	decision := must(a.rules.Replay(s.t.Context(), input))
	if !decision.Allow {
		s.t.Fatalf("the policy refuses: %v", decision.Codes())
	}
	key := sha256.Sum256(input)
	for f, v := range map[proof.Field]string{
		proof.DisclosureContext: "Dossier 42", proof.DisclosureObject: "Instruction", proof.DisclosurePayloadKey: string(key[:]), proof.DisclosureID: must(uuid.NewRandomFromReader(s.rand)).String(),
		proof.DisclosureRole: proof.RoleAsked, proof.DisclosureAgency: string(a.agency.ID), proof.DisclosureRecipient: string(a.agency.SIRET), proof.DisclosureOfficial: "agent-7",
		proof.DisclosureProvider: string(a.service.Provider), proof.DisclosureService: a.service.Ref().String(), proof.DisclosurePurpose: string(a.purpose), proof.DisclosureLegalBasis: "crpa-l114-8",
		proof.DisclosureAgreement: a.agreement.Ref().String(), proof.DisclosurePolicy: decision.Bundle.String(), proof.DisclosureInput: string(input), proof.DisclosureOutcome: proof.OutcomeReleased,
		proof.DisclosureTraceID: "0af7651916cd43dd8448eb211c80319c", proof.DisclosurePayload: string(proof.PayloadDigest(key[:], []byte(`{"montant":1}`))),
	} {
		s.ok(r.SetText(f, v))
	}
	s.ok(r.SetSubject(about))
	s.ok(r.SetList(proof.DisclosureReasons, nil))
	for _, f := range []proof.Field{proof.DisclosureRequested, proof.DisclosureObtained, proof.DisclosureReleased} {
		s.ok(r.SetList(f, []string{"/montant"}))
	}
	s.ok(r.SetTime(proof.DisclosureAskedAt, proof.TimeOf(s.o.Now)))
	s.ok(r.SetTime(proof.DisclosureAnsweredAt, proof.TimeOf(s.o.Now.Add(200*time.Millisecond))))
	s.ok(r.Check())
	return r
}

func (s *scene) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) disclose(a asker, about proof.Subject) *hostile.Filing {
	s.pass(time.Minute)
	r := s.disclosure(a, about)
	for _, ask := range s.asked {
		ask(a, about, idOf(r))
	}
	if s.falsify != nil && s.isDeed(about) && a.agency.ID == "prefecture" {
		s.falsify(r, &about)
	}
	f := s.o.File(&hostile.Filing{Kind: proof.KindDisclosure, Subject: about, Record: r})
	if s.answered != nil && (f.Logged || f.Index > 0) {
		s.answered(a, f)
	}
	return f
}

func (s *scene) access(about proof.Subject, target proof.Index) *hostile.Filing {
	s.pass(time.Minute)
	r := must(proof.NewRecord(proof.SchemaAccess, s.rand))
	s.ok(r.SetSubject(about))
	s.ok(r.SetText(proof.AccessID, must(uuid.NewRandomFromReader(s.rand)).String()))
	s.ok(r.SetText(proof.AccessReader, "cour"))
	s.ok(r.SetText(proof.AccessRole, proof.RoleAuditor))
	s.ok(r.SetIndex(proof.AccessTarget, target))
	s.ok(r.SetList(proof.AccessFields, []string{"policy", "input"}))
	s.ok(r.SetText(proof.AccessReason, "Contrôle annuel"))
	s.ok(r.SetTime(proof.AccessAt, proof.TimeOf(s.o.Now)))
	return s.o.File(&hostile.Filing{Kind: proof.KindAccess, Subject: about, Record: r})
}

func (s *scene) erase(about proof.Subject, reach proof.Index) *hostile.Filing {
	s.pass(time.Minute)
	r := must(proof.NewRecord(proof.SchemaErasure, s.rand))
	s.ok(r.SetSubject(about))
	s.ok(r.SetText(proof.ErasureID, must(uuid.NewRandomFromReader(s.rand)).String()))
	s.ok(r.SetIndex(proof.ErasureReach, reach))
	s.ok(r.SetText(proof.ErasureGround, "request"))
	s.ok(r.SetTime(proof.ErasureAskedAt, proof.TimeOf(s.o.Now.AddDate(0, -1, 0))))
	s.ok(r.SetTime(proof.ErasureErasedAt, proof.TimeOf(s.o.Now)))
	return s.o.File(&hostile.Filing{Kind: proof.KindErasure, Subject: about, Record: r})
}

func (s *scene) pass(d time.Duration) { s.set(s.o.Now.Add(d)) }

func (s *scene) set(t time.Time) {
	s.o.Now = t
	s.clock.Store(t.UnixNano())
}

func (s *scene) now() time.Time { return time.Unix(0, s.clock.Load()).UTC() }

// turn goes to the next day.
func (s *scene) turn() {
	if s.o.Size() > 0 {
		s.set(s.o.Now.Truncate(24 * time.Hour).Add(24 * time.Hour))
	}
	s.o.Turn()
}

// blob publishes what is behind a digest.
func (s *scene) blob(data []byte) proof.Hash {
	h := proof.Hash(sha256.Sum256(data))
	s.o.Blobs["blob/"+hex.EncodeToString(h[:])] = bytes.Clone(data)
	return h
}

// publicOf returns the Ed25519 key in a verification key's text.
func publicOf(vkey string) proof.Hash {
	raw := must(base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2]))
	return proof.Hash(raw[1:])
}

// govern logs what is in force.
func (s *scene) govern() {
	o := s.o
	o.Append(proof.KeyChanged{Key: "intent.1", Use: proof.UseIntent, State: proof.Active, Public: publicOf(o.IntentVKey)})
	o.Append(proof.KeyChanged{Key: "checkpoint.1", Use: proof.UseCheckpoint, State: proof.Active, Public: publicOf(o.VKey)})
	b := must(policy.Embedded().Load())
	o.Append(proof.PolicyActivated{Revision: b.Revision(), Bundle: s.blob(b.Bytes())})
	for _, e := range s.registered {
		o.Append(e)
	}
	for _, a := range []asker{s.mairie(), s.prefecture(), s.brigade()} {
		o.Append(proof.KeyChanged{Key: "agency." + string(a.agency.ID), Use: proof.UseAgency, State: proof.Active, Public: sha256.Sum256([]byte(a.agency.ID))})
		o.Append(proof.ServiceChanged{Service: string(a.service.ID), Version: 1, State: proof.Active, Digest: s.blob([]byte("id: " + string(a.service.ID) + "\n"))})
		s.agree(a.agreement)
	}
}

func (s *scene) agree(a policy.Agreement) {
	s.o.Append(proof.AgreementChanged{Agreement: string(a.ID), Version: uint64(a.Version), State: proof.Status(a.State), Digest: s.blob(must(a.Canonical()))})
}

// play plays the days and calls look at each moment.
func (s *scene) play(look func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn()
	s.govern()

	s.turn() // an ordinary day
	s.disclose(s.mairie(), s.alice)
	s.disclose(s.mairie(), s.bob)
	s.disclose(s.mairie(), s.corp)
	s.delayed = s.o.File(&hostile.Filing{Kind: proof.KindDeferred, Subject: s.bob, Record: s.disclosure(s.brigade(), s.bob), Month: s.brigade().agreement.Deferral.Month(s.o.Now)})

	s.turn() // the day of the deed
	s.cantine = s.disclose(s.mairie(), s.alice)
	s.aid = s.disclose(s.mairie(), s.bob)
	s.look(before, look)
	deed := s.prefecture()
	if s.bend != nil {
		s.bend(&deed)
	}
	s.income = s.disclose(deed, s.alice)
	if s.afterDeed != nil {
		s.afterDeed()
	}
	for i := range 9 {
		s.disclose(s.mairie(), must(proof.INE(fmt.Sprintf("%09dAB", i))))
	}
	s.open()
	s.look(atOnce, look)
	s.pass(maxWait)
	s.look(atAge, look)

	s.turn() // another ordinary day
	s.disclose(s.mairie(), s.alice)
	s.access(s.bob, s.aid.Index)
	s.pass(time.Hour)
	s.look(atClose, look)

	s.turn()
	s.disclose(s.mairie(), s.corp)
	s.look(later, look)
}

// open ends the delay, on the last day of its month.
func (s *scene) open() {
	if s.mute {
		return
	}
	s.o.File(&hostile.Filing{Kind: proof.KindOpened, Subject: s.bob, Record: s.delayed.Record, Deferred: s.delayed.Index})
}

func (s *scene) look(m moment, look func()) {
	s.at = m
	s.pass(time.Minute)
	look()
	s.set(s.now()) // a library that looks takes its time
}
