package proof

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The package is what an auditor reads and what the browser runs. This list
// grows only on purpose.
var wantDeps = []string{
	"filippo.io/edwards25519",
	"filippo.io/edwards25519/field",
	"filippo.io/mldsa",
	"filippo.io/mldsa/internal/byteorder",
	"filippo.io/mldsa/internal/constanttime",
	"filippo.io/mldsa/internal/fips140",
	"filippo.io/mldsa/internal/fips140/mldsa",
	"filippo.io/mldsa/mldsacrypto",
	"filippo.io/mostly-harmless/vrf-r255",
	"github.com/gtank/ristretto255",
	"github.com/regard-broker/regard/ledger/proof",
	"golang.org/x/mod/sumdb/note",
	"golang.org/x/text/transform",
	"golang.org/x/text/unicode/norm",
}

func TestDependencies(t *testing.T) {
	list := func(format string, env ...string) []string {
		cmd := exec.Command("go", "list", "-deps", "-f", format, ".")
		cmd.Env = append(cmd.Environ(), env...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(out))
		slices.Sort(deps)
		return deps
	}
	if got := list("{{if not .Standard}}{{.ImportPath}}{{end}}"); !slices.Equal(got, wantDeps) {
		t.Errorf("dependencies:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(wantDeps, "\n"))
	}
	for _, p := range list("{{if .Standard}}{{.ImportPath}}{{end}}", "GOOS=js", "GOARCH=wasm") {
		switch p {
		case "net", "net/http", "log", "log/slog", "encoding/json", "encoding/gob", "os/exec", "text/template", "crypto/tls", "crypto/x509":
			t.Errorf("the browser build depends on %s", p)
		}
	}
}
