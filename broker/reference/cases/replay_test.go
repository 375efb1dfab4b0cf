package cases

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

func load86(t *testing.T) []Case {
	t.Helper()
	dir, why := Dir()
	if dir == "" {
		t.Skip(why)
	}
	all, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 86 {
		t.Fatalf("%d cases, want 86", len(all))
	}
	return all
}

// TestReplay asks the sandbox's providers every question of the sandbox, with everything granted and with each scope alone.
func TestReplay(t *testing.T) {
	all := load86(t)
	server := httptest.NewUnstartedServer(nil)
	server.Start()
	defer server.Close()
	services, err := reference.Services(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	definitions := map[service.ID]*service.Definition{}
	var list []*service.Definition
	for _, s := range services {
		definitions[s.Definition.ID] = s.Definition
		list = append(list, s.Definition)
	}
	sim, err := NewSimulator(all, list...)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = sim
	outcomes := map[Outcome]int{}
	filed := map[string]int{}
	for i := range all {
		c := &all[i]
		t.Run(c.Name, func(t *testing.T) {
			d := definitions[c.Service]
			outcomes[c.Want]++
			who, err := c.Asked()
			if err == nil {
				err = d.Check(who, c.Parameters)
			}
			if c.Want == Refused {
				var re *service.RequestError
				if !errors.As(err, &re) || re.Parameter != c.Parameter {
					t.Fatalf("got %v, want a refusal at %s", err, c.Parameter)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, scopes := range grants(d) {
				f := ask(t, c, who, d, scopes)
				if f != nil && len(scopes) == len(d.Scopes) {
					for _, e := range f {
						filed[e.Role+" "+string(e.Subject.Type())]++
					}
				}
			}
			if sim.Asked(c.Name) != len(grants(d)) {
				t.Errorf("asked %d times", sim.Asked(c.Name))
			}
		})
	}
	if sim.Lost() > 0 {
		t.Errorf("%d questions belonged to no case", sim.Lost())
	}
	if diff := cmp.Diff(map[Outcome]int{Released: 68, Empty: 8, Failed: 6, Refused: 4}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	// With everything granted.
	if diff := cmp.Diff(map[string]int{"asked pivot": 22, "asked ine": 25, "asked france_travail": 8, "asked siren": 13, "answer person": 73}, filed); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// grants returns all scopes together, and each alone.
func grants(d *service.Definition) [][]service.Scope {
	var all []service.Scope
	var out [][]service.Scope
	for s := range d.Scopes {
		all = append(all, s)
		out = append(out, []service.Scope{s})
	}
	return append(out, all)
}

func ask(t *testing.T, c *Case, who service.Asked, d *service.Definition, scopes []service.Scope) []service.Filing {
	t.Helper()
	var granted []service.Pointer
	for _, s := range scopes {
		granted = append(granted, d.ScopeFields(s)...)
	}
	plan, err := service.NewPlan(d, granted)
	if err != nil {
		t.Fatal(err)
	}
	req, err := plan.Request(who, c.Parameters)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(req.URL())
	if err != nil {
		t.Fatal("the simulator didn't answer")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := d.Judge(resp.StatusCode, body)
	want := service.Verdict{Outcome: map[Outcome]service.Outcome{Released: service.OutcomeAnswer, Empty: service.OutcomeEmpty, Failed: service.OutcomeFailed}[c.Want],
		Status: c.Status, Code: c.Code, Cause: c.Cause, Title: v.Title, Detail: v.Detail, Provider: v.Provider}
	if v != want {
		t.Fatalf("judged %+v, want %+v", v, want)
	}
	if c.Want != Released {
		if v.Title == "" || v.Detail == "" {
			t.Errorf("the provider's words are lost")
		}
		return nil
	}
	f, err := plan.Filter(body)
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Data()
	if err != nil {
		t.Fatal(err)
	}
	var got, full any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("released %s: %v", data, err)
	}
	if err := json.Unmarshal(c.Payload, &full); err != nil {
		t.Fatal(err)
	}
	keep := map[string]bool{}
	for _, p := range granted {
		for s := string(p); s != ""; s = s[:strings.LastIndex(s, "/")] {
			keep[s] = true
		}
	}
	// Links of the sandbox lead to hosts that the definitions don't list.
	delete(keep, "/data/document_url")
	wanted, _ := prune(full, "", keep)
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	filings := f.File(who)
	entries, err := c.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names(entries), names(subjects(filings))); diff != "" {
		t.Errorf("filed (-want +got):\n%s", diff)
	}
	if filings[0].Role != proof.RoleAsked || !filings[0].Subject.Equal(who.Subject()) {
		t.Error("the first entry is not that of the asked identifier")
	}
	return filings
}

// prune is what may pass, the slow and simple way.
func prune(v any, at string, keep map[string]bool) (any, bool) {
	if at != "" && !keep[at] {
		return nil, false
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if p, ok := prune(e, at+"/"+k, keep); ok {
				out[k] = p
			}
		}
		return out, true
	case []any:
		out := []any{}
		for _, e := range v {
			if p, ok := prune(e, at+"/*", keep); ok {
				out = append(out, p)
			}
		}
		return out, true
	}
	return v, true
}

func subjects(f []service.Filing) []proof.Subject {
	var out []proof.Subject
	for _, e := range f {
		out = append(out, e.Subject)
	}
	return out
}

func names(all []proof.Subject) []string {
	var out []string
	for _, s := range all {
		out = append(out, string(s.Type())+" "+s.Value())
	}
	return out
}
