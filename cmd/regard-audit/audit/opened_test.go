package audit

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestOpenGoesOn: a broker can't keep an auditor asking for the same page.
func TestOpenGoesOn(t *testing.T) {
	for name, args := range map[string][]string{"a range": {"--from", "0", "--to", "60"}, "erased": {"--erased-epochs", "0"}} {
		for behind, pages := range map[string][]uint64{"the same": {7, 7}, "back and forth": {7, 9, 7, 9}} {
			asked := 0
			b := newForged(t).broker(func(w http.ResponseWriter, _ *http.Request) bool {
				next := uint64(0) // in the end, so that one who follows comes to it
				if asked < len(pages) {
					next = pages[asked]
				}
				asked++
				fmt.Fprintf(w, `{"audit":5,"next":%d,"entries":[]}`, next)
				return true
			})
			code, out, errs := run(append(append([]string{"open", "--reason", "control"}, args...), b.flags()...)...)
			if code != Input || out != "" || !strings.Contains(errs, "don't go on") || asked > len(pages) {
				t.Errorf("%s, %s: exit code %d after %d pages, %s%s", name, behind, code, asked, out, errs)
			}
		}
	}
}
