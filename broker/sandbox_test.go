package broker_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/reference/cases"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// What the 86 cases, each asked twice, must come to.
var sandboxEntries = map[string]int{
	"quotient-familial pivot": 52, "quotient-familial person": 76, "revenu-solidarite-active pivot": 14,
	"etudiant-boursier ine": 16, "etudiant-boursier person": 16, "statut-etudiant ine": 36, "statut-etudiant person": 34,
	"statut-demandeur-emploi france_travail": 18, "statut-demandeur-emploi person": 16,
	"unites-legales siren": 12, "unites-legales person": 4, "attestation-fiscale siren": 4, "adresse-etablissement siren": 12,
}

const sandboxSelections = 2 * (26 + 8) // quotient-familial and etudiant-boursier select

// TestSandboxCases replays the State's own exchange cases through the whole broker: what they hold was shaped by nobody here. Each is asked with one granted scope and with all of them.
func TestSandboxCases(t *testing.T) {
	t.Parallel()
	dir, why := cases.Dir()
	if dir == "" {
		t.Skip(why)
	}
	all, err := cases.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 86 {
		t.Fatalf("%d cases, want 86", len(all))
	}
	server := httptest.NewServer(nil)
	t.Cleanup(server.Close)
	services, err := reference.Services(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	var defs []*service.Definition
	for _, s := range services {
		defs = append(defs, s.Definition)
	}
	sim, err := cases.NewSimulator(all, defs...)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = sim
	// The sandbox has providers that fail: a breaker would have its say in the next cases.
	w := newWorld(t, func(c *broker.Config) {
		c.Providers = provider.Config{Development: true, Failures: 1000, Window: 1000}
		c.Epoch = 5 * time.Second
	})
	grantAll(t, w, services)
	byID := map[service.ID]*service.Definition{}
	for _, d := range defs {
		byID[d.ID] = d
	}
	// Asked per case: with the first scope and with all.
	replayed, entries := map[cases.Outcome]int{}, map[string]int{}
	selections := 0
	before := filedBy(t, w)
	for i := range all {
		c := &all[i]
		t.Run(c.Name, func(t *testing.T) {
			d := byID[c.Service]
			scopes := slices.Sorted(maps.Keys(d.Scopes))
			for _, granted := range [][]service.Scope{scopes[:1], scopes} {
				selections += replay(t, w, sim, c, d, granted)
				after := filedBy(t, w)
				came := checkFiled(t, c, before, after)
				before = after
				for s, n := range came {
					typ, _, _ := strings.Cut(s, " ")
					entries[string(c.Service)+" "+typ] += n
				}
			}
			replayed[c.Want]++
		})
	}
	if sim.Lost() != 0 {
		t.Errorf("%d questions belonged to no case", sim.Lost())
	}
	if diff := cmp.Diff(map[cases.Outcome]int{cases.Released: 68, cases.Empty: 8, cases.Failed: 6, cases.Refused: 4}, replayed); diff != "" {
		t.Errorf("cases replayed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(sandboxEntries, entries); diff != "" {
		t.Errorf("entries by service and type of subject (-want +got):\n%s", diff)
	}
	if selections != sandboxSelections {
		t.Errorf("%d selections were checked, want %d", selections, sandboxSelections)
	}
}

func filedBy(t *testing.T, w *world) map[string]int {
	t.Helper()
	m, err := w.b.Filed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func grantAll(t *testing.T, w *world, services []reference.Service) {
	t.Helper()
	for _, s := range services {
		if _, err := w.b.PutService(t.Context(), s.YAML); err != nil {
			t.Fatal(err)
		}
		var scopes []policy.Scope
		for name := range s.Definition.Scopes {
			scopes = append(scopes, policy.Scope(name))
		}
		if _, err := w.b.PutAgreement(t.Context(), policy.Agreement{
			ID: policy.AgreementID("all." + s.Definition.ID), Agency: "mairie", Service: policy.ServiceID(s.Definition.ID), Scopes: scopes,
			Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkFiled wants one more entry for each of those whom the case must be filed under, and for nobody else, and returns what came.
func checkFiled(t *testing.T, c *cases.Case, before, after map[string]int) map[string]int {
	t.Helper()
	came, want := maps.Clone(after), map[string]int{}
	for s, n := range before {
		if came[s] -= n; came[s] == 0 {
			delete(came, s)
		}
	}
	subjects, err := c.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		want[broker.Name(s)]++
	}
	if !maps.Equal(came, want) {
		t.Errorf("filed under %s, want %s", spell(came), spell(want))
	}
	return came
}

func spell(m map[string]int) (out []string) {
	for s, n := range m {
		out = append(out, fmt.Sprintf("%d %s", n, s))
	}
	slices.Sort(out)
	return out
}

// selection is what a provider that can select must be asked for: what is granted, and what tells whom it is about. Where it knows scopes alone, those that hold any
// of that. What it answers is then all their fields.
func selection(d *service.Definition, granted map[string]bool) (text string, requested []string) {
	if d.Select == nil {
		for _, f := range d.Fields() {
			requested = append(requested, string(f))
		}
		return "", requested
	}
	want := maps.Clone(granted)
	for _, p := range d.Persons {
		for _, name := range append([]string{p.BirthName, p.BirthDate, p.Sex, p.BirthPlace, p.BirthCountry}, p.GivenNames...) {
			at := string(p.At) + "/" + name
			if _, list := d.Answer[service.Pointer(at+"/*")]; list {
				at += "/*"
			}
			if name != "" {
				want[at] = true
			}
		}
	}
	words := slices.Sorted(maps.Keys(want))
	requested = words
	if d.Select.By == "scope" {
		words = nil
		all := map[string]bool{}
		for _, s := range slices.Sorted(maps.Keys(d.Scopes)) {
			fields := d.ScopeFields(s)
			if !slices.ContainsFunc(fields, func(f service.Pointer) bool { return want[string(f)] }) {
				continue
			}
			words = append(words, string(s))
			for _, f := range fields {
				all[string(f)] = true
			}
		}
		requested = slices.Sorted(maps.Keys(all))
	}
	return strings.Join(words, d.Select.Separator), requested
}

func replay(t *testing.T, w *world, sim *cases.Simulator, c *cases.Case, d *service.Definition, granted []service.Scope) (selections int) {
	t.Helper()
	req := &broker.Request{
		Service: string(c.Service), Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: recipient, Context: "rejeu", Object: c.Name[max(0, len(c.Name)-40):],
		Subject: broker.SubjectInput{Type: string(c.Type), Value: c.Value, Pivot: c.Pivot}, Parameters: c.Parameters,
	}
	fields := map[string]bool{}
	for _, s := range granted {
		req.Scopes = append(req.Scopes, string(s))
		for _, f := range d.ScopeFields(s) {
			fields[string(f)] = true
		}
	}
	before := sim.Asked(c.Name)
	a, err := w.b.Disclose(t.Context(), w.caller, req)
	if c.Want == cases.Refused {
		if p := broker.AsProblem(err); err == nil || p.Status != 400 || p.Parameter != c.Parameter {
			t.Fatalf("got %+v, %v; want a refusal at %s", a, err, c.Parameter)
		}
		if sim.Asked(c.Name) != before {
			t.Error("the provider was asked")
		}
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	if sim.Asked(c.Name) != before+1 {
		t.Fatalf("the provider was asked %d times", sim.Asked(c.Name)-before)
	}
	text, requested := selection(d, fields)
	if got := sim.Selections(c.Name)[before]; got != text {
		t.Errorf("the provider was asked for %s, want %s", got, text)
	}
	if d.Select != nil {
		selections++
	}
	if string(a.Outcome) != string(c.Want) {
		t.Fatalf("outcome %s (%+v), want %s", a.Outcome, a.Problem, c.Want)
	}
	w.verify(a.Receipt)
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Opening().List(proof.DisclosureRequested); !slices.Equal(got, requested) {
		t.Errorf("recorded as asked for: %s, want %s", got, requested)
	}
	for _, p := range r.Opening().List(proof.DisclosureReleased) {
		if !fields[p] {
			t.Errorf("%s was released and not granted", p)
		}
	}
	if c.Want != cases.Released {
		if a.Data != nil || a.Problem.Code != c.Code || a.Problem.Status != c.Status {
			t.Errorf("problem %+v, want code %s and status %d", a.Problem, c.Code, c.Status)
		}
		return selections
	}
	checkLeaves(t, a.Data, fields)
	return selections
}

// checkLeaves finds every leaf of the released answer and wants it among the granted fields.
func checkLeaves(t *testing.T, data []byte, granted map[string]bool) {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(at+"/"+k, x)
			}
		case []any:
			for _, x := range v {
				walk(at+"/*", x)
			}
		default:
			if !granted[at] && !slices.ContainsFunc(slices.Collect(maps.Keys(granted)), func(g string) bool { return strings.HasPrefix(g, at+"/") && v == nil }) {
				t.Errorf("%s was released and not granted", at)
			}
		}
	}
	walk("", v)
}
