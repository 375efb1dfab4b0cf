package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Main(args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// 2 says that the input was at fault and nothing was tried; everything else that fails is 1.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("REGARD_CONFIG", "")
	if err := os.WriteFile("bad.yaml", []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		code int
		says string
		args []string
	}{
		{0, "", []string{"version"}}, {0, "", []string{"version", "--json"}}, {0, "", []string{"request", "--example"}}, {0, "", []string{"completion", "bash"}}, {0, "", []string{"policy", "check"}},
		{2, "has no command", []string{"frob"}}, {2, "unknown flag", []string{"serve", "--frob"}}, {2, "takes no arguments", []string{"serve", "x"}}, {2, "has no command", []string{"agency", "frob"}},
		{2, "no configuration", []string{"serve"}}, {2, "nonsense is not a known key", []string{"config", "check", "-c", "bad.yaml"}}, {2, "no such file", []string{"serve", "-c", "none.yaml"}},
		{2, "needs the agency's id", []string{"agency", "revoke"}}, {2, "--cert is missing", []string{"agency", "add", "x", "--socket", "s"}}, {2, "not both", []string{"agreement", "add", "-f", "bad.yaml", "--scope", "x", "--socket", "s"}},
		{2, "not an agreement", []string{"agreement", "add", "-f", "bad.yaml", "--socket", "s"}}, {2, "not a usable service definition", []string{"service", "check", "bad.yaml"}}, {2, "no such file", []string{"service", "check", "none.yaml"}},
		{2, "not a usable policy bundle", []string{"policy", "check", "none"}}, {2, "--origin is missing", []string{"init"}}, {2, "--name and --out", []string{"keygen"}}, {2, "--url is missing", []string{"request", "-f", "bad.yaml"}},
		{2, "--address and --token-file", []string{"vault", "init"}}, {2, "--role: choose", []string{"vault", "init", "--address", "https://x", "--token-file", "bad.yaml", "--role", "x"}},
		{2, "no such file", []string{"keygen", "--name", "x", "--out", filepath.Join(dir, "none", "x")}},
		{2, "--store-url-file", []string{"cluster", "init", "--origin", "x", "--store-url-file", "none", "--signed-url-file", "none", "--trillian-url-file", "none"}},
		{2, "reading --trillian-url-file", []string{"cluster", "init", "--origin", "x", "--store-url-file", "bad.yaml", "--signed-url-file", "bad.yaml", "--trillian-url-file", "none"}},
		{2, "missing: the agreement's ID, --agency, --service, --scope, --purpose, --legal-basis, --not-before, --not-after (or", []string{"agreement", "add", "--socket", "s"}},
		{2, "missing: --service, --not-after (or", []string{"agreement", "add", "x", "--agency", "a", "--scope", "s", "--purpose", "p", "--legal-basis", "l", "--not-before", "2026-01-01", "--socket", "s"}},
		{2, "not both", []string{"agreement", "add", "-f", "bad.yaml", "--not-after", "2026-01-01", "--socket", "s"}},
		{0, "", []string{"policy", "check", "--json"}}, {2, "one argument at most", []string{"policy", "check", "a", "b"}},
		{1, "no broker runs there: start it with regard serve", []string{"status", "--socket", filepath.Join(dir, "none.sock")}},
	} {
		code, out, errs := run(x.args...)
		if code != x.code || !strings.Contains(errs, x.says) {
			t.Errorf("regard %s: exit code %d, %s", strings.Join(x.args, " "), code, errs)
		}
		if code != 0 && out != "" {
			t.Errorf("regard %s: standard output %q", strings.Join(x.args, " "), out)
		}
	}
}

// Programs are told what set a value that is wrong, too, and not the line that it overrides.
func TestConfigCheckNamesTheSource(t *testing.T) {
	file, err := Init(Setup{Dir: filepath.Join(t.TempDir(), "b"), Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGARD_LIMITS_BURST", "0")
	code, out, _ := run("config", "check", "-c", file, "--json", "--set", "limits.rate=abc")
	var got struct {
		Mistakes []struct {
			Key, Source, Says string
			Line              int
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if m := got.Mistakes; code != 2 || len(m) != 2 || m[0].Source != "REGARD_LIMITS_BURST" || m[1].Source != "--set limits.rate" || m[1].Key != "limits.rate" || m[0].Line+m[1].Line != 0 {
		t.Errorf("%d %s", code, out)
	}
}

// One is one, and all else is many.
func TestMany(t *testing.T) {
	for n, want := range map[int]string{0: "0 records were", 1: "1 record was", 2: "2 records were"} {
		if got := many(n, "record was", "records were"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Every command says what it does and shows how; pflag takes what stands in backquotes for the value's name.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() == "help" || sub.Name() == "completion" {
				continue
			}
			if sub.Short == "" || sub.Example == "" {
				t.Errorf("%s has no summary or no example", sub.CommandPath())
			}
			if odd := regexp.MustCompile(`--\S+ long `).FindString(sub.Flags().FlagUsages()); odd != "" {
				t.Errorf("%s: a duration is shown as %q", sub.CommandPath(), odd)
			}
			if c.HasSubCommands() && strings.HasSuffix(sub.CommandPath(), " list") && sub.Flags().Lookup("json") == nil {
				t.Errorf("%s lists and has no --json", sub.CommandPath())
			}
			walk(sub)
		}
	}
	walk(Root())
}

// A directory that init made works; where it fails, it leaves nothing that would stop the next try.
func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	s := Setup{Dir: dir, Origin: "has space", API: "127.0.0.1:1", Public: "127.0.0.1:2", Ops: "127.0.0.1:3", Epoch: 1e9}
	if _, err := Init(s); err == nil {
		t.Fatal("a bad origin passed")
	}
	s.Origin = "regard.example/x"
	file, err := Init(s)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run("config", "check", "-c", file); code != 0 {
		t.Error(errs)
	}
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := Init(s); !errors.As(err, &usage{}) {
		t.Errorf("again: %v", err)
	}
}
