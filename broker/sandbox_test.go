package broker_test

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/reference/cases"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// TestSandboxCases replays the State's own exchange cases through the whole broker: what they hold was shaped by nobody here. Each is asked with one granted scope and with all of them.
func TestSandboxCases(t *testing.T) {
	dir, why := cases.Dir()
	if dir == "" {
		t.Skip(why)
	}
	all, err := cases.Load(dir)
	if err != nil {
		t.Fatal(err)
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
	filed := filedBy(t, w)
	for i := range all {
		c := &all[i]
		t.Run(c.Name, func(t *testing.T) {
			d := byID[c.Service]
			scopes := slices.Sorted(maps.Keys(d.Scopes))
			for _, granted := range [][]service.Scope{scopes[:1], scopes} {
				replay(t, w, sim, c, d, granted, filed)
			}
		})
	}
	if sim.Lost() != 0 {
		t.Errorf("%d questions belonged to no case", sim.Lost())
	}
}

func filedBy(t *testing.T, w *world) map[proof.Subject]int {
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

func replay(t *testing.T, w *world, sim *cases.Simulator, c *cases.Case, d *service.Definition, granted []service.Scope, filed map[proof.Subject]int) {
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
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Outcome) != string(c.Want) {
		t.Fatalf("outcome %s (%+v), want %s", a.Outcome, a.Problem, c.Want)
	}
	w.verify(a.Receipt)
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
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
		return
	}
	checkLeaves(t, a.Data, fields)
	// Everybody whom the full answer identifies finds the entry under their own identity.
	if len(granted) == len(d.Scopes) {
		filedNow := filedBy(t, w)
		for s, n := range filedNow {
			if n < filed[s] {
				t.Errorf("an entry of %s vanished", s.Type())
			}
			filed[s] = n
		}
		for _, s := range stated(t, c.Payload) {
			if !isFiled(filed, s) {
				t.Errorf("somebody whom the answer states has no entry of their own")
			}
		}
	}
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

// stated reads the birth names and dates of everybody in an answer, by the names that the State's services use.
func stated(t *testing.T, payload []byte) (out [][2]string) {
	t.Helper()
	var v any
	if err := json.Unmarshal(payload, &v); err != nil {
		t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			name, _ := v["nom_naissance"].(string)
			date, _ := v["date_naissance"].(string)
			if name != "" && date != "" {
				out = append(out, [2]string{proof.FoldName(name), date})
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(v)
	return out
}

func isFiled(filed map[proof.Subject]int, who [2]string) bool {
	for s := range filed {
		v := s.Value()
		// A day that is no date (the sandbox has a 31 June) is filed by its month.
		if strings.HasPrefix(v, who[0]+"|") && (strings.Contains(v, "|"+who[1]+"|") || strings.Contains(v, "|"+who[1][:7]+"|")) {
			return true
		}
	}
	return false
}
