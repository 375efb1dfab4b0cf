package audit

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// FuzzVerifierList: what parses is written again to the same bytes, and names nothing outside of the portal's own directory.
func FuzzVerifierList(f *testing.F) {
	sum := strings.Repeat("0123456789abcdef", 4)
	f.Add([]byte(sum + "  verifier.wasm\n" + sum + "  verify.js\n"))
	f.Add([]byte(sum + "  ../x\n"))
	f.Add([]byte(sum + " *x\n\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := parseList(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, x := range files {
			fmt.Fprintf(&out, "%s  %s\n", x.Hash, x.Name)
			if strings.ContainsAny(x.Name, "/\\%?#") || x.Name[0] == '.' {
				t.Errorf("a name: %q", x.Name)
			}
		}
		if len(files) == 0 || len(files) > 16 || !bytes.Equal(out.Bytes(), b) {
			t.Errorf("%q is written as %q", b, out.Bytes())
		}
	})
}
