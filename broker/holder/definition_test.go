package holder_test

import (
	"net/http/httptest"
	"os"
	"testing"

	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/broker/service"
)

// TestDocuments: what identifies nobody by its path is under the path of documents for every server, also for one that cleans paths, or decodes them twice.
func TestDocuments(t *testing.T) {
	yaml, err := os.ReadFile("../testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	def, err := service.Parse(yaml)
	if err != nil {
		t.Fatal(err)
	}
	identify, err := holder.Definitions([]*service.Definition{def}, "/documents/")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/documents/a": true, "/documents/2026/a-1.pdf": true, "/documents/a?token=x": true,
		"/documents/": false, "/documents": false, "/documents2/a": false, "/documents//a": false, "/documents/a/": false,
		"/documents/../household": false, "/documents/./a": false, "/documents/%2e%2e/household": false, "/documents/%2e%2e%2fhousehold": false, "/documents/%252e%252e/household": false,
		"/documents/..;/household": false, "/documents/..%5chousehold": false, "/documents/a%00": false, "/autre": false,
	} {
		a, err := identify(httptest.NewRequest("GET", path, nil), 200, []byte("%PDF"))
		if (err == nil && a.Part) != want {
			t.Errorf("%s: a part: %v, %v", path, a.Part, err)
		}
	}
	for _, under := range []string{"", "/documents", "documents/"} {
		if _, err := holder.Definitions([]*service.Definition{def}, under); err == nil {
			t.Errorf("%q is a path of documents", under)
		}
	}
}
