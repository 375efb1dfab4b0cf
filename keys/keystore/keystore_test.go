package keystore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystest"
	"github.com/regard-broker/regard/keys/keystore"
)

const passphrase = "correct horse battery staple"

func passphraseConfig(t *testing.T) keystore.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := keystore.Config{Path: filepath.Join(dir, "keystore"), PassphraseFile: filepath.Join(dir, "passphrase"), WorkFactor: 4}
	if err := os.WriteFile(cfg.PassphraseFile, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func keyFileConfig(t *testing.T) keystore.Config {
	t.Helper()
	dir := t.TempDir()
	cfg := keystore.Config{Path: filepath.Join(dir, "keystore"), KeyFile: filepath.Join(dir, "key")}
	if err := keystore.CreateKeyFile(cfg.KeyFile); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func open(t *testing.T, cfg keystore.Config) *keystore.Keystore {
	t.Helper()
	k, err := keystore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func create(t *testing.T, cfg keystore.Config) {
	t.Helper()
	if err := keystore.Create(cfg); err != nil {
		t.Fatal(err)
	}
}

func TestCustodian(t *testing.T) {
	for name, config := range map[string]func(*testing.T) keystore.Config{"passphrase": passphraseConfig, "key file": keyFileConfig} {
		t.Run(name, func(t *testing.T) {
			keystest.TestCustodian(t, func(t *testing.T) keystest.Roles {
				cfg := config(t)
				create(t, cfg)
				// Three handles on one file, like three processes: each must notice what another does.
				return keystest.Roles{Broker: open(t, cfg), Sequencer: open(t, cfg), Operator: open(t, cfg)}
			})
		})
	}
}

func TestRefused(t *testing.T) {
	cfg := passphraseConfig(t)
	create(t, cfg)
	whole, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(t *testing.T, path string, b []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(t *testing.T, cfg keystore.Config, path string, want error) {
		t.Helper()
		k, err := keystore.Open(cfg)
		if err == nil {
			k.Close()
			t.Fatal("it opened")
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if !strings.Contains(err.Error(), path) {
			t.Errorf("%q doesn't name %s", err, path)
		}
		if strings.Contains(err.Error(), passphrase) || strings.Contains(err.Error(), "AGE-SECRET-KEY-1Q") {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
	t.Run("wrong passphrase", func(t *testing.T) {
		c := cfg
		c.PassphraseFile, c.Passphrase = "", []byte("another long passphrase")
		refused(t, c, cfg.Path, keystore.ErrPassphrase)
	})
	t.Run("key file for a passphrase", func(t *testing.T) {
		c := keyFileConfig(t)
		c.Path = cfg.Path
		refused(t, c, cfg.Path, keystore.ErrPassphrase)
	})
	t.Run("missing", func(t *testing.T) {
		c := cfg
		c.Path += ".none"
		refused(t, c, c.Path, keystore.ErrMissing)
	})
	t.Run("passphrase file missing", func(t *testing.T) {
		c := cfg
		c.PassphraseFile += ".none"
		refused(t, c, c.PassphraseFile, keystore.ErrMissing)
	})
	t.Run("damaged key file", func(t *testing.T) {
		c := keyFileConfig(t)
		c.Path = cfg.Path
		put(t, c.KeyFile, []byte("AGE-SECRET-KEY-1QQQ\n"), 0o600)
		refused(t, c, c.KeyFile, nil)
	})
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		t.Run("mode "+mode.String(), func(t *testing.T) {
			c := passphraseConfig(t)
			put(t, c.Path, whole, mode)
			refused(t, c, c.Path, keystore.ErrPermissions)
			put(t, c.Path, whole, 0o600)
			put(t, c.PassphraseFile, []byte(passphrase), mode)
			refused(t, c, c.PassphraseFile, keystore.ErrPermissions)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		c := passphraseConfig(t)
		for n := 0; n < len(whole); n += 7 {
			put(t, c.Path, whole[:n], 0o600)
			refused(t, c, c.Path, keystore.ErrDamaged)
		}
	})
	t.Run("altered", func(t *testing.T) {
		c := passphraseConfig(t)
		for i := range whole {
			b := bytes.Clone(whole)
			b[i] ^= 1
			put(t, c.Path, b, 0o600)
			refused(t, c, c.Path, nil)
		}
	})
	t.Run("extended", func(t *testing.T) {
		c := passphraseConfig(t)
		put(t, c.Path, append(bytes.Clone(whole), 'x'), 0o600)
		refused(t, c, c.Path, keystore.ErrDamaged)
	})
	t.Run("nothing to unlock it", func(t *testing.T) {
		refused(t, keystore.Config{Path: cfg.Path}, cfg.Path, nil)
		c := cfg
		c.Passphrase = []byte(passphrase)
		refused(t, c, cfg.Path, nil)
	})
}

func TestCreateNeverOverwrites(t *testing.T) {
	cfg := passphraseConfig(t)
	create(t, cfg)
	before, _ := os.ReadFile(cfg.Path)
	if err := keystore.Create(cfg); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("%v, want ErrExists", err)
	}
	if after, _ := os.ReadFile(cfg.Path); !bytes.Equal(before, after) {
		t.Error("the keystore was overwritten")
	}
	if info, err := os.Stat(cfg.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(cfg.Path), ".*")); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
	k := keyFileConfig(t)
	if err := keystore.CreateKeyFile(k.KeyFile); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("key file: %v, want ErrExists", err)
	}
	short := keystore.Config{Path: cfg.Path + "2", Passphrase: []byte("short")}
	if err := keystore.Create(short); err == nil {
		t.Error("a short passphrase was accepted")
	}
}

// A rotation that can't be written is no rotation, in memory either: what it would have wrapped could not be unwrapped after a restart.
func TestRotationIsDurableOrNothing(t *testing.T) {
	cfg := keyFileConfig(t)
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.Path = filepath.Join(dir, "keystore")
	create(t, cfg)
	k := open(t, cfg)
	ctx := context.Background()
	before, err := k.Wrap(ctx, []keys.Plain{{AD: []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if v, err := k.Rotate(ctx, keys.RootWrap); err == nil {
		t.Fatalf("rotated to %d without a file", v)
	}
	after, err := k.Wrap(ctx, []keys.Plain{{AD: []byte("a")}})
	if err != nil {
		t.Fatalf("the keys in memory stopped serving: %v", err)
	}
	if !bytes.Equal(before[0][:5], after[0][:5]) {
		t.Error("it wraps under a version that was never written")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if v, err := k.Rotate(ctx, keys.RootWrap); err != nil || v != 2 {
		t.Errorf("Rotate: %d, %v; want 2", v, err)
	}
	if _, err := open(t, cfg).Unwrap(ctx, []keys.WrappedAD{{Wrapped: before[0], AD: []byte("a")}, {Wrapped: after[0], AD: []byte("a")}}); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestOpenIsLoud(t *testing.T) {
	cfg := keyFileConfig(t)
	create(t, cfg)
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	open(t, cfg)
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "Production wants Vault") {
		t.Errorf("the log says %q", &log)
	}
	key, err := os.ReadFile(cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), strings.TrimSpace(string(key[bytes.Index(key, []byte("AGE-")):]))) {
		t.Error("the log holds the key file's secret")
	}
}
