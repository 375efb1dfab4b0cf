package reference

import "testing"

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
