package command

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker/holder"
)

// TestReceipts: what the commands say of stores that aren't there, that are empty, and of what isn't in them.
func TestReceipts(t *testing.T) {
	dir := t.TempDir()
	s, err := holder.OpenStore(t.Context(), filepath.Join(dir, "held"), holder.RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	held, none := filepath.Join(dir, "held"), filepath.Join(dir, "none")
	t.Chdir(dir) // as people name it: relative to where they are
	const id = "01935a11-2233-7444-8555-66778899aabb"
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"receipts", "status", held}, OK, "settled    0"},
		{[]string{"receipts", "status", held, "--json"}, OK, `"role": "provider"`},
		{[]string{"receipts", "status", "held"}, OK, "settled    0"},
		{[]string{"receipts", "export", held}, OK, ""},
		{[]string{"receipts", "status", none}, Usage, "holds no receipts"},
		{[]string{"receipts", "export", none}, Usage, "holds no receipts"},
		{[]string{"receipts", "upgrade", none}, Usage, "holds no receipts"},
		{[]string{"receipts", "upgrade", held}, Usage, "--url is missing"},
		{[]string{"receipts", "accept", held, id}, Usage, "--reason is missing"},
		{[]string{"receipts", "accept", held, id, "--reason", "x"}, Usage, "no such disclosure"},
		{[]string{"receipts", "forget", held}, Usage, "--older-than is missing"},
		{[]string{"receipts", "forget", held, "--older-than", "1h"}, Usage, "less than 24h"},
		{[]string{"receipts", "forget", none, "--older-than", "48h"}, Usage, "holds no receipts"},
		{[]string{"receipts", "forget", held, "--older-than", "48h"}, OK, "0 disclosures are forgotten"},
		{[]string{"receipts", "status"}, Usage, "needs the directory"},
		{[]string{"receipts", "frob"}, Usage, "no command"},
	} {
		var out, errs bytes.Buffer
		if code := Main(x.args, strings.NewReader(""), &out, &errs); code != x.code || !strings.Contains(out.String()+errs.String(), x.says) {
			t.Errorf("%v: exit code %d, want %d and %q:\n%s%s", x.args, code, x.code, x.says, &out, &errs)
		}
	}
}
