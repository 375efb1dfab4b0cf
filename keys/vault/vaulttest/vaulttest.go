// Package vaulttest runs a real Vault (the program of deploy/devvault) for tests: one that can be sealed, stopped and started again.
package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/regard-broker/regard/keys/vault"
)

// Server is a real Vault, in a process of its own.
type Server struct {
	TB      testing.TB // who fails when something does
	bin     string
	dir     string
	cmd     *exec.Cmd
	exited  chan struct{}
	Address string   `json:"address"`
	Root    string   `json:"root_token"`
	Keys    []string `json:"unseal_keys"`
}

// New starts a server that ends with the test. Without REGARD_DEVVAULT the test is skipped, but not in continuous integration.
func New(tb testing.TB) *Server {
	tb.Helper()
	bin := os.Getenv("REGARD_DEVVAULT")
	if bin == "" {
		if os.Getenv("CI") == "true" {
			tb.Fatal("REGARD_DEVVAULT doesn't name the Vault test server: make devvault")
		}
		tb.Skip("skipped: REGARD_DEVVAULT doesn't name the Vault test server (make devvault builds bin/devvault)")
	}
	s := &Server{TB: tb, bin: bin, dir: tb.TempDir()}
	s.Start("127.0.0.1:0", true)
	tb.Cleanup(s.Stop)
	return s
}

// Start starts it again on the same data, after Stop.
func (s *Server) Start(listen string, unseal bool) {
	s.TB.Helper()
	ready := filepath.Join(s.dir, "ready.json")
	_ = os.Remove(ready)
	// #nosec G204 -- the test server that the environment names
	cmd := exec.Command(s.bin, "-listen", listen, "-storage", filepath.Join(s.dir, "vault"), "-ready-file", ready,
		fmt.Sprintf("-unseal=%v", unseal), "-exit-on-stdin-eof", "-log-level", "off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe() // it ends with us
	if err != nil {
		s.TB.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.TB.Fatal(err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		_ = in.Close()
		close(exited)
	}()
	deadline := time.After(time.Minute)
	for {
		if b, err := os.ReadFile(ready); err == nil {
			if err := json.Unmarshal(b, s); err != nil {
				s.TB.Fatal(err)
			}
			return
		}
		select {
		case <-exited:
			s.TB.Fatalf("devvault ended: %s", &out)
		case <-deadline:
			s.TB.Fatalf("devvault isn't ready: %s", &out)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop kills it.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Addr is host:port.
func (s *Server) Addr() string { return strings.TrimPrefix(s.Address, "http://") }

// Admin is a client that may do anything.
func (s *Server) Admin() *api.Client {
	s.TB.Helper()
	c, _, err := vault.NewClient(vault.Endpoint{Address: s.Address})
	if err != nil {
		s.TB.Fatal(err)
	}
	c.SetToken(s.Root)
	return c
}

// Seal seals it: it answers, and does nothing.
func (s *Server) Seal() {
	s.TB.Helper()
	if err := s.Admin().Sys().Seal(); err != nil {
		s.TB.Fatal(err)
	}
}

// Unseal ends that.
func (s *Server) Unseal() {
	s.TB.Helper()
	for _, k := range s.Keys {
		if _, err := s.Admin().Sys().Unseal(k); err != nil {
			s.TB.Fatal(err)
		}
	}
}

var mounts atomic.Int64

// Initialise prepares new root keys at mounts of their own.
func (s *Server) Initialise(cfg vault.InitConfig) (vault.InitConfig, *vault.InitResult) {
	s.TB.Helper()
	n := mounts.Add(1)
	if cfg.TransitMount == "" {
		cfg.TransitMount, cfg.AppRoleMount, cfg.Prefix = fmt.Sprintf("regard/transit%d", n), fmt.Sprintf("regard-approle%d", n), fmt.Sprintf("r%d-", n)
	}
	res, err := vault.Init(context.Background(), s.Admin(), cfg)
	if err != nil {
		s.TB.Fatal(err)
	}
	return cfg, res
}

// Config writes a role's credentials as an operator would.
func (s *Server) Config(ic vault.InitConfig, res *vault.InitResult, role string) vault.Config {
	s.TB.Helper()
	dir := s.TB.TempDir()
	cfg := vault.Config{
		Address: s.Address, TransitMount: ic.TransitMount, AppRoleMount: ic.AppRoleMount, WrapKey: ic.WrapKey, CheckpointKey: ic.CheckpointKey,
		RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id"), SecretIDWrapped: true,
		Timeout: 2 * time.Second, Budget: 5 * time.Second,
	}
	for _, r := range res.Roles {
		if r.Role == role {
			s.Write(cfg.RoleIDFile, r.RoleID+"\n")
			s.Write(cfg.SecretIDFile, r.WrappedSecretID+"\n")
			return cfg
		}
	}
	s.TB.Fatalf("Init gave no credentials for %s", role)
	return cfg
}

// Write writes a file that its owner alone can read.
func (s *Server) Write(path, text string) {
	s.TB.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.TB.Fatal(err)
	}
}
