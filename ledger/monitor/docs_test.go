package monitor_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/monitor"
)

// TestDocs holds the tables of codes in docs/audit.md to the code. REGARD_WRITE_DOCS=1 writes them.
func TestDocs(t *testing.T) {
	const file = "../../docs/audit.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	var ours, theirs strings.Builder
	for _, c := range slices.Sorted(maps.Keys(monitor.Codes)) {
		i := monitor.Codes[c]
		fmt.Fprintf(&ours, "| `%s` | %s | %s | %s |\n", c, i.Severity, i.Means, i.Do)
	}
	for _, c := range slices.Sorted(maps.Keys(fsck.Codes)) {
		i := fsck.Codes[c]
		fmt.Fprintf(&theirs, "| `%s` | %s | %s | %s |\n", c, i.Severity, i.Means, i.Do)
	}
	const head = "|---|---|---|---|\n"
	for heading, table := range map[string]string{"## monitor\n": ours.String(), "## Codes of fsck\n": theirs.String()} {
		_, rest, found := strings.Cut(text, heading)
		_, rest, found2 := strings.Cut(rest, head)
		if !found || !found2 {
			t.Fatalf("no table under %q", heading)
		}
		old, _, _ := strings.Cut(rest, "\n\n")
		if old += "\n"; old == table {
			continue
		}
		if os.Getenv("REGARD_WRITE_DOCS") == "" {
			t.Errorf("the table under %q is not that of the code; REGARD_WRITE_DOCS=1 go test ./ledger/monitor -run TestDocs writes it", strings.TrimSpace(heading))
			continue
		}
		text = strings.Replace(text, head+old, head+table, 1)
	}
	if text != string(b) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
