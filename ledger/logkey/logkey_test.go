package logkey

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestPolicy(t *testing.T) {
	_, vkey, err := note.GenerateKey(rand.Reader, "regard.example/log")
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
	key, policy := file("key", vkey+"\n"), file("policy", "log "+vkey+"\nquorum none\n")
	without := errors.New("neither")
	for _, x := range []struct{ key, policy, says string }{
		{vkey, "", ""}, {key, "", ""}, {"", policy, ""},
		{"", "", "neither"},
		{key, policy, "give one of --log-key and --policy, not both"},
		{"bogus", "", "--log-key: open bogus: no such file or directory (a key, in place of a file with it, would hold a +)"},
		{"a+b", "", "--log-key: "}, {policy, "", "--log-key: "},
		{"", "bogus", "--policy: open bogus"}, {"", key, "--policy " + key + ": "},
	} {
		p, err := Policy(x.key, x.policy, without, os.ReadFile)
		if x.says == "" && (err != nil || p == nil) || x.says != "" && (err == nil || !strings.HasPrefix(err.Error(), x.says)) {
			t.Errorf("%q, %q: %v", x.key, x.policy, err)
		}
	}
}
