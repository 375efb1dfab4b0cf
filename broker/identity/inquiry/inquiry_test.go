package inquiry_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/identity/inquiry"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

var _ identity.Checker = (*inquiry.Inquiries)(nil)

var rules = map[proof.SubjectType]inquiry.Rule{
	proof.TypeINE: {
		Service: "statut-etudiant", Purpose: "espace-personnel", LegalBasis: "consentement", Scopes: []string{"identite"},
		BirthName: "/data/identite/nom_naissance", GivenNames: "/data/identite/prenom", BirthDate: "/data/identite/date_naissance",
	},
	proof.TypeFranceTravail: {
		Service: "statut-demandeur-emploi", Purpose: "espace-personnel", LegalBasis: "consentement", Scopes: []string{"identite"},
		BirthName: "/data/identite/nom_naissance", GivenNames: "/data/identite/prenom", BirthDate: "/data/identite/date_naissance", BirthPlace: "/data/identite/nowhere",
	},
}

// open starts a broker with the reference providers, and the portal's agency with an agreement for students only.
func open(t *testing.T) (*broker.Broker, *httptest.Server) {
	t.Helper()
	own, client := brokertest.NewCurrentIdentity(t), brokertest.NewCurrentIdentity(t, "broker")
	s := httptest.NewUnstartedServer(nil)
	base := "https://" + s.Listener.Addr().String()
	ref, err := reference.New(reference.Config{Base: base, Brokers: []*x509.Certificate{client.Leaf}})
	if err != nil {
		t.Fatal(err)
	}
	s.Config.Handler, s.TLS = ref, ref.TLS(own)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(own.Leaf)
	b, err := broker.New(t.Context(), broker.Config{
		DataDir: t.TempDir(), Origin: "regard.example/log", Development: true, Custodian: keystest.NewCustodian(t),
		Providers: provider.Config{Development: true, Roots: roots, Certificate: func() (*tls.Certificate, error) { return &client, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(t.Context()) })
	all, err := reference.Services(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		if _, err := b.PutService(t.Context(), x.YAML); err != nil {
			t.Fatal(err)
		}
	}
	return b, s
}

func register(t *testing.T, b *broker.Broker) {
	t.Helper()
	if err := b.AddAgency(t.Context(), "portail", "Portail", "21750001600019", brokertest.NewCurrentIdentity(t, "portal").Leaf); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutAgreement(t.Context(), policy.Agreement{
		ID: "rattachement", Agency: "portail", Service: "statut-etudiant", Scopes: []policy.Scope{"identite"},
		Purposes: []policy.Purpose{"espace-personnel"}, LegalBases: []policy.LegalBasis{"consentement"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
}

var student = proof.Pivot{BirthName: "Exemple Foxtrot", GivenNames: "Jean Marc", BirthDate: "2001-05-05", Sex: "M", BirthPlace: "67482", BirthCountry: "99100"}

func ine(t *testing.T, s string) proof.Subject {
	t.Helper()
	id, err := proof.INE(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The ministry says whose number it is; each question stands in the log, and in the history of that number.
func TestCheck(t *testing.T) {
	b, server := open(t)
	q, err := inquiry.New(inquiry.Config{Broker: b, Agency: "portail", Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	if got := q.Checks(); len(got) != 2 || got[0] != proof.TypeFranceTravail {
		t.Errorf("checks %v", got)
	}
	id := ine(t, "0EXEMPLE02B")
	if yes, err := q.Check(t.Context(), student, id); yes || err == nil {
		t.Errorf("without an agency: %v, %v", yes, err)
	}
	register(t, b)
	changed := func(f func(*proof.Pivot)) proof.Pivot {
		p := student
		f(&p)
		return p
	}
	asked := 0
	for name, x := range map[string]struct {
		person proof.Pivot
		id     proof.Subject
		yes    bool
	}{
		"theirs":             {student, id, true},
		"one given name":     {changed(func(p *proof.Pivot) { p.GivenNames = "JEAN" }), id, true},
		"another given name": {changed(func(p *proof.Pivot) { p.GivenNames = "Jeanne" }), id, false},
		"another name":       {changed(func(p *proof.Pivot) { p.BirthName = "Exemple" }), id, false},
		"another day":        {changed(func(p *proof.Pivot) { p.BirthDate = "2001-05-06" }), id, false},
		"another's number":   {student, ine(t, "0EXEMPLE03C"), false},
		"nobody's number":    {student, ine(t, "0EXEMPLE99Z"), false},
	} {
		yes, err := q.Check(t.Context(), x.person, x.id)
		if err != nil || yes != x.yes {
			t.Errorf("%s: %v, %v", name, yes, err)
		}
		if x.id.Equal(id) {
			asked++
		}
	}
	h, err := b.History(t.Context(), id, broker.AccessBy{Reader: "test", Role: proof.RoleOperator, Reason: "test"}, broker.HistoryPage{Kind: proof.KindDisclosure})
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Entries) != asked || h.Entries[0].Disclosure == nil || h.Entries[0].Disclosure.Agency != "portail" {
		t.Errorf("%d of %d questions stand in the history", len(h.Entries), asked)
	}
	// Nobody knows: refused by the policy, a type without a rule, a provider that is down.
	jobseeker, err := proof.FranceTravail("EX00001A")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := q.Check(t.Context(), student, jobseeker); yes || err == nil {
		t.Errorf("without an agreement: %v, %v", yes, err)
	}
	siren, err := proof.SIREN("900000118")
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := q.Check(t.Context(), student, siren); yes || err == nil {
		t.Errorf("without a rule: %v, %v", yes, err)
	}
	server.Close()
	if yes, err := q.Check(t.Context(), student, id); yes || err == nil {
		t.Errorf("a provider that is down: %v, %v", yes, err)
	}
}

func TestRules(t *testing.T) {
	good := rules[proof.TypeINE]
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	byPerson := inquiry.Rule{Service: "s", Purpose: "p", LegalBasis: "l", Scopes: []string{"x"}, Identifier: "/data/ine"}
	if err := byPerson.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*inquiry.Rule){
		"no service":     func(r *inquiry.Rule) { r.Service = "" },
		"no purpose":     func(r *inquiry.Rule) { r.Purpose = "" },
		"legal basis":    func(r *inquiry.Rule) { r.LegalBasis = "Art. 6" },
		"agreement":      func(r *inquiry.Rule) { r.Agreement = "A B" },
		"no scopes":      func(r *inquiry.Rule) { r.Scopes = nil },
		"no birth name":  func(r *inquiry.Rule) { r.BirthName = "" },
		"no given names": func(r *inquiry.Rule) { r.GivenNames = "" },
		"no birth date":  func(r *inquiry.Rule) { r.BirthDate = "" },
		"no pointer":     func(r *inquiry.Rule) { r.BirthName = "nom" },
		"both ways":      func(r *inquiry.Rule) { r.Identifier = "/x" },
		"pointer to all": func(r *inquiry.Rule) { r.BirthPlace = "/" },
	} {
		r := good
		change(&r)
		if err := r.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := inquiry.New(inquiry.Config{Broker: new(broker.Broker), Agency: "a", Rules: map[proof.SubjectType]inquiry.Rule{"ine": r}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
