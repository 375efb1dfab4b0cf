package main

import (
	"bytes"
	"context"
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

// blocks returns the fenced blocks of the README after a text, up to the next heading.
func blocks(t *testing.T, after string) []string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n"+after+"\n")
	if !ok {
		t.Fatalf("the README has no %q", after)
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
	terminals := blocks(t, "## Try it")
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
		addr, err := freeAddr()
		if err != nil {
			t.Fatal(err)
		}
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
	var said, answered syncBuffer
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
func waitReady(t *testing.T, ops string, ended chan error, said *syncBuffer) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
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

// The excerpt of the demonstration in the README is from a real run, of now: its columns and scenes were those of an older one.
func TestReadmeDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(programsDir(t), "regard"), "demo", "--once", "--dir", filepath.Join(t.TempDir(), "demo")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		shown[alike(line)] = true
	}
	excerpt := blocks(t, "## What it looks like")
	if len(excerpt) != 1 {
		t.Fatalf("%d excerpts", len(excerpt))
	}
	for line := range strings.Lines(excerpt[0]) {
		if !shown[alike(line)] {
			t.Errorf("the demonstration doesn't show this line of the README: %s", line)
		}
	}
}

// syncBuffer collects what several processes write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
