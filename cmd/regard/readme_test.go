package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

// programs builds what make build does, once, and returns its directory. These are the real programs: the scripts' ones are this test's process under another name.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "regard-programs")
	if err != nil {
		return "", err
	}
	programsBuilt = dir
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/", "./cmd/regard", "./cmd/regard-audit", "./cmd/regard-provider")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build: " + string(out), Err: err}
	}
	return dir, nil
})

var programsBuilt string // to be removed in the end

func programsDir(t *testing.T) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// blocks returns the fenced blocks of a document after a text, up to the next heading.
func blocks(t *testing.T, file, after string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", file))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n"+after+"\n")
	if !ok {
		t.Fatalf("%s has no %q", file, after)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var out []string
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			out = append(out, part)
		}
	}
	return out
}

// commands of a transcript: the lines after "$ ", with what continues them.
func commands(block string) string {
	var out strings.Builder
	more := false
	for line := range strings.Lines(block) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok && !more {
			continue
		}
		out.WriteString(command)
		more = strings.HasSuffix(line, "\\\n")
	}
	return out.String()
}

// TestReadme types what the README says, line by line, in two shells. It once failed at the first request: nobody had started a provider, the broker's certificate was unknown to the agency, and the example
// named a service that isn't there.
func TestReadme(t *testing.T) {
	terminals := blocks(t, "README.md", "## Try it")
	if len(terminals) != 2 {
		t.Fatalf("the README has %d transcripts, want one for each terminal", len(terminals))
	}
	top := t.TempDir()
	if err := os.Symlink(programsDir(t), filepath.Join(top, "bin")); err != nil {
		t.Fatal(err)
	}
	// All is as it stands there, but for the ports, which others may use here, and the build, which is done.
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + top, "TMPDIR=" + os.TempDir()}
	ports := map[string]string{}
	for _, name := range []string{"api", "public", "ops", "provider"} {
		addr := ledgertest.FreeAddress(t)
		ports[name] = addr
		if name != "provider" {
			env = append(env, "REGARD_"+strings.ToUpper(name)+"_LISTEN="+addr)
		}
	}
	_, apiPort, _ := strings.Cut(ports["api"], ":")
	_, providerPort, _ := strings.Cut(ports["provider"], ":")
	shell := func(text string) *exec.Cmd {
		text = strings.NewReplacer("localhost:8443", "localhost:"+apiPort, "localhost:9443", "localhost:"+providerPort).Replace(commands(text))
		c := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", "make() { :; }\n"+text)
		c.Dir, c.Env = top, env
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return c
	}
	var said, answered output.Buffer
	operator := shell(terminals[0])
	operator.Stdout, operator.Stderr = &said, &said
	if err := operator.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- operator.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-operator.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	waitReady(t, ports["ops"], ended, &said)
	agency := shell(terminals[1])
	agency.Stdout, agency.Stderr = &answered, &answered
	if err := agency.Run(); err != nil {
		t.Fatalf("the second terminal: %v\n%s\nthe first said:\n%s", err, answered.String(), said.String())
	}
	for _, want := range []string{"  released\n", "PROVEN, provisional", "The fields that this receipt opens are those that the entry commits to."} {
		if !strings.Contains(answered.String(), want) {
			t.Errorf("no %q in:\n%s", want, answered.String())
		}
	}
	for _, want := range []string{"Agencies need: https://", "regard/secrets/server.pem (regard request --ca)"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("no %q in:\n%s", want, said.String())
		}
	}
}

// waitReady waits until a broker says that it is ready, or ended.
func waitReady(t *testing.T, ops string, ended chan error, said *output.Buffer) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get("http://" + ops + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended: %v\n%s", err, said.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("it isn't ready in time:\n%s", said.String())
		}
	}
}

// What differs from one run of the demonstration to the next, or by the directory.
var (
	varies = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d[\d:TZ-]*`)
	spaces = regexp.MustCompile(` {2,}`)
	where  = regexp.MustCompile(`/\S*/answers/`)
)

func alike(line string) string {
	line = where.ReplaceAllString(line, "answers/")
	return spaces.ReplaceAllString(varies.ReplaceAllString(strings.TrimSpace(line), "#"), "  ")
}

// The excerpt of the demonstration in the README is from a real run, of now: its columns and scenes were those of an older one. And while it goes on, docs/audit.md is typed line by line in its directory.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo-data")
	if err := os.Symlink(programsDir(t), filepath.Join(filepath.Dir(dir), "bin")); err != nil {
		t.Fatal(err)
	}
	var out output.Buffer
	demo := exec.CommandContext(t.Context(), filepath.Join(programsDir(t), "regard"), "demo", "--dir", dir)
	demo.Stdout, demo.Stderr = &out, &out
	demo.Cancel = func() error { return demo.Process.Signal(os.Interrupt) }
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- demo.Wait() }()
	t.Cleanup(func() {
		_ = demo.Process.Signal(os.Interrupt)
		<-ended
	})
	for end := time.Now().Add(patience); !strings.Contains(out.String(), "docs/audit.md"); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%v\n%s", err, out.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("it doesn't end:\n%s", out.String())
		}
	}
	shown := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		shown[alike(line)] = true
	}
	excerpt := blocks(t, "README.md", "## What it looks like")
	if len(excerpt) != 1 {
		t.Fatalf("%d excerpts", len(excerpt))
	}
	for line := range strings.Lines(excerpt[0]) {
		if !shown[alike(line)] {
			t.Errorf("the demonstration doesn't show this line of the README: %s", line)
		}
	}

	config, err := os.ReadFile(filepath.Join(dir, "regard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	api := regexp.MustCompile(`(?m)^api:\n  listen: "(.*)"$`).FindSubmatch(config)
	if api == nil {
		t.Fatalf("no address in\n%s", config)
	}
	terminals := blocks(t, "docs/audit.md", "## Try it")
	if len(terminals) != 2 {
		t.Fatalf("docs/audit.md has %d transcripts, want one of anybody and one of an auditor", len(terminals))
	}
	for i, wants := range [][]string{
		{"SOUND", "QUIET", " new statements of auditors", "Everything agrees.", "PROVEN, witnessed", "witness w2 "},
		{"is registered.", "SOUND, signed and published at audit/0/cour-des-comptes", " 0 differ, 0 could not be run", "entries were not opened"},
	} {
		c := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(commands(terminals[i]), "127.0.0.1:8443", string(api[1])))
		c.Dir, c.Env = filepath.Dir(dir), []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir()}
		said, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("docs/audit.md, transcript %d: %v\n%s", i, err, said)
		}
		for _, want := range wants {
			if !strings.Contains(string(said), want) {
				t.Errorf("no %q in:\n%s", want, said)
			}
		}
	}
}
