package reference

import (
	"strings"
	"testing"
)

func TestServices(t *testing.T) {
	for _, base := range []string{"https://provider.example:8443", "http://127.0.0.1:8080/"} {
		all, err := Services(base)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 10 {
			t.Errorf("%d services, want 10", len(all))
		}
	}
	for _, base := range []string{"", "provider.example", "https://provider.example/x", "http://provider.example"} {
		if _, err := Services(base); err == nil {
			t.Errorf("%q accepted", base)
		}
	}
}

// Everybody has a complete identity, so that they can sign in, and is somebody else than the others.
func TestPeople(t *testing.T) {
	all := People()
	seen := map[string]bool{}
	for i := range all {
		if !all[i].Pivot.Complete() {
			t.Errorf("person %d is incomplete", i)
		}
		s, err := all[i].Pivot.Subject()
		if err != nil || seen[s.Value()] {
			t.Errorf("person %d: %v, or the same as another", i, err)
		}
		seen[s.Value()] = true
		if !strings.Contains(all[i].Pivot.BirthName, "EXEMPLE") {
			t.Errorf("person %d could be real", i)
		}
	}
	if len(all) != 30 || all[12].INE == "" || all[0].FranceTravail == "" || all[28].SIREN == "" {
		t.Errorf("%d people, or identifiers are missing", len(all))
	}
}
