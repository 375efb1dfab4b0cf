package manifests

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func deploy(elem ...string) string {
	return filepath.Join(append([]string{"..", ".."}, elem...)...)
}

// stages of the Dockerfile.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	f, err := os.Open(deploy("compose", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed.Warnings) > 0 {
		t.Errorf("%+v", parsed.Warnings)
	}
	all, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An image that is shipped runs as nobody, and takes from the build's context nothing but sources, from which .dockerignore keeps what is secret.
func TestDockerfile(t *testing.T) {
	ignored, err := os.ReadFile(deploy("..", ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".git", "bin", "**/secrets", "**/*.key"} {
		if !slices.Contains(strings.Split(string(ignored), "\n"), want) {
			t.Errorf(".dockerignore lacks %s", want)
		}
	}
	shipped := 0
	for _, s := range stages(t) {
		if strings.HasPrefix(s.Name, "build") {
			continue
		}
		shipped++
		if !strings.HasPrefix(s.BaseName, "gcr.io/distroless/static-") {
			t.Errorf("%s begins with %s", s.Name, s.BaseName)
		}
		user := ""
		for _, c := range s.Commands {
			switch c := c.(type) {
			case *instructions.UserCommand:
				user = c.User
			case *instructions.CopyCommand:
				if !strings.HasPrefix(c.From, "build") {
					t.Errorf("%s copies %v from the context", s.Name, c.SourcePaths)
				}
			case *instructions.RunCommand, *instructions.EnvCommand, *instructions.ArgCommand:
				t.Errorf("%s: %s", s.Name, c.Name())
			}
		}
		if user != "65532:65532" {
			t.Errorf("%s runs as %q", s.Name, user)
		}
	}
	if shipped != 2 {
		t.Errorf("%d images, want 2", shipped)
	}
}

func load(t *testing.T, profiles ...string) *types.Project {
	t.Helper()
	opts, err := cli.NewProjectOptions([]string{deploy("compose", "compose.yaml")}, cli.WithProfiles(profiles))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose(t *testing.T) {
	p := load(t, "stock")
	for _, want := range []string{"init", "broker-1", "broker-2", "postgres", "postgres-signed", "signer", "trillian-1", "trillian-2", "vault", "witness-1", "witness-2", "static"} {
		if _, ok := p.Services[want]; !ok {
			t.Errorf("no %s", want)
		}
	}
	if !p.Networks["inner"].Internal {
		t.Error("the inner network reaches out")
	}
	here, err := filepath.Abs(deploy("compose"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, s := range stages(t) {
		targets[s.Name] = true
	}
	names := map[string]bool{}
	for name, s := range p.Services {
		if b := s.Build; b != nil {
			if b.Context != filepath.Join(here, "..", "..") || b.Dockerfile != "deploy/compose/Dockerfile" && filepath.Join(here, "Dockerfile") != b.Dockerfile || !targets[b.Target] {
				t.Errorf("%s is built from %s %s %s", name, b.Context, b.Dockerfile, b.Target)
			}
			if s.MemLimit == 0 || s.MemSwapLimit != s.MemLimit {
				t.Errorf("%s may be swapped out, or take all memory: %d, %d", name, s.MemLimit, s.MemSwapLimit)
			}
			if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.User != "65532:65532" {
				t.Errorf("%s isn't closed", name)
			}
		} else if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s takes whatever is newest: %s", name, s.Image)
		}
		if s.Privileged || s.Pid != "" || s.Ipc != "" || s.NetworkMode != "" && s.NetworkMode != strings.Replace(name, "trillian-", "service:broker-", 1) {
			t.Errorf("%s shares something with the machine", name)
		}
		_, outer := s.Networks["outer"]
		if len(s.Ports) > 0 && !outer {
			t.Errorf("%s publishes a port on no network that reaches out", name)
		}
		for key, value := range s.Environment {
			for _, word := range []string{"PASSWORD", "SECRET", "TOKEN", "KEY"} {
				if strings.Contains(key, word) && value != nil {
					t.Errorf("%s has a secret in its environment: %s", name, key)
				}
			}
		}
		if n := s.Environment["REGARD_CLUSTER_NAME"]; n != nil {
			if names[*n] {
				t.Errorf("two brokers are named %s", *n)
			}
			names[*n] = true
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			rel, err := filepath.Rel(here, v.Source)
			if err != nil || strings.HasPrefix(rel, "..") {
				t.Errorf("%s mounts %s", name, v.Source)
			}
			if strings.HasPrefix(rel, "secrets/") {
				continue // prepare and regard witness init make them
			}
			if rel == "log" { // prepare makes it
				if writes := strings.HasPrefix(name, "broker-"); writes == v.ReadOnly {
					t.Errorf("%s: the published log is read-only: %v", name, v.ReadOnly)
				}
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
		}
	}
	if len(names) != 2 {
		t.Errorf("brokers %v", names)
	}
	init := p.Services["init"]
	config, err := os.ReadFile(deploy("compose", "regard.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(init.Command, "--origin"); i < 0 || !strings.Contains(string(config), "\norigin: "+init.Command[i+1]+"\n") {
		t.Errorf("the databases are prepared for another log than the brokers': %v", init.Command)
	}
	for _, name := range []string{"broker-1", "broker-2", "signer"} {
		if p.Services[name].DependsOn["init"].Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s doesn't wait until the databases are prepared", name)
		}
	}
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			if strings.HasSuffix(v.Source, "secrets/owner") && name != "init" {
				t.Errorf("%s may do what the owners may", name)
			}
		}
	}
	if n := len(load(t).Services); n != len(p.Services)-2 {
		t.Errorf("%d services without the profile stock, %d with", n, len(p.Services))
	}
}
