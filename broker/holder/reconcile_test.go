package holder_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestReconcile: a provider's own counts agree with its receipts and with the log; whatever doesn't is found, named, and told by the exit code.
func TestReconcile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	var ids []string
	for _, name := range []string{"Un", "Deux", "Trois"} {
		ids = append(ids, idOf(w.disclose(name, broker.Released)))
	}
	agencys := w.disclose("Quatre", broker.Released)
	w.counts(map[holder.State]int64{holder.Settled: 4})
	var out bytes.Buffer
	if err := w.guard.Load().Store().Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.SplitAfter(out.String(), "\n"), func(l string) bool { return strings.Contains(l, idOf(agencys)) })
	held := strings.Join(lines, "")
	unsettled, err := json.Marshal(map[string]any{"id": idOf(agencys), "role": "agency", "state": "signed", "outcome": "released", "receipts": []string{string(agencys.Receipt)}})
	if err != nil {
		t.Fatal(err)
	}
	access := func(ids ...string) string {
		var b strings.Builder
		for _, id := range ids {
			fmt.Fprintf(&b, "{\"time\":\"2026-11-26T00:00:00Z\",\"request_id\":%q,\"service\":\"household\",\"status\":200}\n", id)
		}
		return b.String()
	}
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := newWorld(t, time.Hour)
	others, err := elsewhere.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	edit := func(line string, change func(map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	receipts := func(m map[string]any) []any { return m["receipts"].([]any) }
	// "Un" was erased, and of the others the broker might say so.
	un := marie
	un.BirthName = "Un"
	s, err := un.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), s, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Log().AwaitPublished(t.Context(), proof.Index(w.b.Log().Checkpoint().Size()-1)); err != nil {
		t.Fatal(err)
	}
	erased := func(id string) string {
		line := lines[slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, id) })]
		return edit(line, func(m map[string]any) {
			m["state"], m["code"] = "accepted", "erased"
			for _, text := range receipts(m) {
				if r, err := proof.ParseReceipt([]byte(text.(string))); err == nil && r.Opening().Text(proof.DisclosureRole) == proof.RoleAsked {
					m["erased"] = []any{uint64(r.Index())}
				}
			}
		})
	}
	many := ""
	for n := range 150 {
		many += fmt.Sprintf(`{"id":"id-%03d","role":"agency","state":"waiting","receipts":[]}`+"\n", n)
	}
	for i, x := range []struct {
		name, held, access, key, code string
		want                          int
	}{
		{"all agrees", held, access(ids...), vkeys[0], "", audit.Proven},
		{"no access log", held, "", vkeys[0], "", audit.Proven},
		{"a document of the same answer", held, access(ids...) + strings.Replace(access(ids[0]), "household", "document", 1), vkeys[0], "", audit.Proven},
		{"a question without a receipt", held, access(append(ids, "01935a11-2233-7444-8555-66778899aabb")...), vkeys[0], "question.unheld", audit.Refused},
		{"a question asked twice", held, access(append(ids, ids[0])...), vkeys[0], "question.repeated", audit.Refused},
		{"a receipt of what was never asked", held, access(ids[1:]...), vkeys[0], "question.unasked", audit.Refused},
		{"a request without an id", held, access(append(ids, "")...), vkeys[0], "question.unnamed", audit.Refused},
		{"held twice", held + lines[0], access(ids...), vkeys[0], "held.twice", audit.Refused},
		{"no receipt", edit(lines[0], func(m map[string]any) { m["receipts"] = []any{}; m["state"] = "waiting" }) + lines[1] + lines[2], "", vkeys[0], "receipt.missing", audit.Refused},
		{"no receipt, accepted", edit(lines[0], func(m map[string]any) { m["receipts"] = []any{}; m["state"] = "accepted" }) + lines[1] + lines[2], "", vkeys[0], "", audit.Proven},
		{"refuted before", edit(lines[0], func(m map[string]any) { m["state"] = "refuted"; m["code"] = "entry.missing" }) + lines[1], "", vkeys[0], "held.refuted", audit.Refused},
		{"without the asked entry", edit(lines[0], func(m map[string]any) {
			m["receipts"] = slices.DeleteFunc(receipts(m), func(text any) bool {
				r, err := proof.ParseReceipt([]byte(text.(string)))
				return err != nil || r.Opening().Text(proof.DisclosureRole) == proof.RoleAsked
			})
		}), "", vkeys[0], "entry.asked", audit.Refused},
		{"a receipt twice", edit(lines[0], func(m map[string]any) { m["receipts"] = append(receipts(m), receipts(m)[0]) }), "", vkeys[0], "receipt.twice", audit.Refused},
		{"a receipt of another disclosure", edit(lines[0], func(m map[string]any) {
			edit(lines[1], func(o map[string]any) { m["receipts"] = append(receipts(m), receipts(o)[0]) })
		}), "", vkeys[0], "receipt.foreign", audit.Refused},
		{"a changed receipt", strings.Replace(held, "commitment ", "commitment A", 1), "", vkeys[0], "receipt.invalid", audit.Refused},
		{"another outcome", strings.Replace(held, `"outcome":"released"`, `"outcome":"empty"`, 1), "", vkeys[0], "outcome.other", audit.Refused},
		{"a receipt that was never settled", held + string(unsettled) + "\n", "", vkeys[0], "receipt.unsettled", audit.Input},
		{"one that needn't be", held + strings.Replace(string(unsettled), `"signed"`, `"accepted"`, 1) + "\n", "", vkeys[0], "", audit.Proven},
		{"somebody was erased, and is held once", erased(ids[0]) + lines[1] + lines[2], "", vkeys[0], "", audit.Proven},
		{"two are said to be", erased(ids[0]) + erased(ids[1]), "", vkeys[0], "erased.unlogged", audit.Refused},
		{"what is said to be erased was never shown", edit(lines[0], func(m map[string]any) { m["erased"] = []any{0} }) + lines[1], "", vkeys[0], "erased.unknown", audit.Input},
		{"the same of many", many, "", vkeys[0], "receipt.missing", audit.Refused},
		{"another log's key", held, "", others[0], "", audit.Input},
		{"nothing held", "", "", vkeys[0], "", audit.Input},
		{"nothing held, and nothing asked", "", "\n", vkeys[0], "", audit.Proven},
		{"nonsense", "nonsense\n", "", vkeys[0], "", audit.Input},
		{"an access log that is none", held, "nonsense\n", vkeys[0], "", audit.Input},
	} {
		args := []string{"reconcile", "--json", "--log-key", x.key, "--log", w.b.PublicDir(), file(fmt.Sprint("held", i), x.held)}
		if x.access != "" {
			args = append(args, "--access-log", file(fmt.Sprint("access", i), x.access))
		}
		var out, errs bytes.Buffer
		if code := audit.Main(args, nil, &out, &errs); code != x.want {
			t.Errorf("%s: exit code %d, want %d\n%s%s", x.name, code, x.want, &out, &errs)
			continue
		}
		if x.want == audit.Input && x.code == "" {
			continue
		}
		var got struct {
			Epochs []struct {
				Kind                 string
				Disclosures, Entries int
				Settled              int
				Log                  int
			}
			Findings []struct{ ID, Code string }
			Counts   map[string]int
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, f := range got.Findings {
			found += f.Code + " "
		}
		if (x.code == "") != (found == "") || !strings.Contains(found, x.code) {
			t.Errorf("%s: found %q, want %q", x.name, found, x.code)
		}
		if x.held == many && (len(got.Findings) != 100 || got.Counts["receipt.missing"] != 150) {
			t.Errorf("%d findings, %v", len(got.Findings), got.Counts)
		}
		if i == 0 {
			disclosures, entries, settled := 0, 0, 0
			for _, e := range got.Epochs {
				disclosures, entries, settled = disclosures+e.Disclosures, entries+e.Entries, settled+e.Settled
				if e.Kind != "disclosure@v1" || e.Log < e.Entries {
					t.Errorf("%+v", e)
				}
			}
			if disclosures != 3 || entries != 6 || settled != 6 {
				t.Errorf("%d disclosures, %d entries, %d settled", disclosures, entries, settled)
			}
		}
	}
	// In words, and against a log that hides the entries: a copy that ends before them is behind, whatever it says.
	var text, errs bytes.Buffer
	if code := audit.Main([]string{"reconcile", "--log-key", vkeys[0], file("held", held)}, nil, &text, &errs); code != audit.Proven || !strings.Contains(text.String(), "Everything agrees.") {
		t.Errorf("%d %s%s", code, &text, &errs)
	}
	if code := audit.Main([]string{"reconcile", "--log-key", vkeys[0], "--log", elsewhere.b.PublicDir(), file("held", held)}, nil, &text, &errs); code != audit.Input {
		t.Errorf("with another log: %d", code)
	}
}
