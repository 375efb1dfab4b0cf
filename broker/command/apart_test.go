package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker/config"
)

func TestApart(t *testing.T) {
	data := t.TempDir()
	same := filepath.Join(t.TempDir(), "signed")
	cfg := &config.Config{Production: true, DataDir: data, SignedDir: same}
	if err := apart(cfg); err == nil || !strings.Contains(err.Error(), "on the same file system as data_dir") {
		t.Errorf("got %v", err)
	}
	cfg.Mirrors = []string{"https://mirror.example"}
	if err := apart(cfg); err != nil {
		t.Errorf("with a mirror: %v", err)
	}
	missing := filepath.Join(data, "signed")
	shared := &config.Config{Production: true, DataDir: data, SignedDir: missing, Store: config.Store{Postgres: config.Postgres{URLFile: "x"}}, Ledger: config.Ledger{SignedURLFile: "y"}}
	if err := apart(shared); err != nil {
		t.Errorf("with a database of the signed checkpoint: %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("it made signed_dir, which brokers that share a store have no use for")
	}
	shared.Ledger.SignedURLFile = ""
	if err := apart(shared); err == nil {
		t.Error("a shared store alone is taken for another place")
	}
	if err := apart(&config.Config{DataDir: data, SignedDir: same}); err != nil {
		t.Errorf("for trying out: %v", err)
	}
	other, err := os.MkdirTemp("/dev/shm", "regard") // a file system of its own on Linux
	if err != nil {
		t.Logf("no second file system to try: %v", err)
		return
	}
	defer os.RemoveAll(other)
	if err := apart(&config.Config{Production: true, DataDir: data, SignedDir: filepath.Join(other, "signed")}); err != nil {
		t.Errorf("on another file system: %v", err)
	}
}
