package dsn_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/dsn"
)

func TestParse(t *testing.T) {
	for address, want := range map[string]error{
		"host=/run/postgresql dbname=regard user=regard_broker":                  nil,
		"postgres://regard_broker@db.example/regard?sslmode=verify-full":         nil,
		"host=h dbname=d user=u password=secret":                                 dsn.ErrPassword,
		"host=h dbname=d user=u PASSWORD = 'secret'":                             dsn.ErrPassword,
		"password=secret host=h":                                                 dsn.ErrPassword,
		"postgres://u:secret@h/d":                                                dsn.ErrPassword,
		"postgres://u@h/d?password=secret":                                       dsn.ErrPassword,
		"postgres://u@h/d?sslmode=require&password=secret":                       dsn.ErrPassword,
		"postgres://u@h/d?sslmode=verify-full&sslkey=/k&sslpassword=secret":      dsn.ErrPassword,
		"host=h dbname=d user=u passfile=/etc/regard/pgpass sslmode=verify-full": nil,
	} {
		cfg, err := dsn.Parse(address)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", address, err, want)
		}
		if err == nil && (cfg.Password != "" || cfg.ConnectTimeout == 0 || cfg.RuntimeParams["jit"] != "off") {
			t.Errorf("%s: %q, %v, jit=%s", address, cfg.Password, cfg.ConnectTimeout, cfg.RuntimeParams["jit"])
		}
	}
	if cfg, err := dsn.Parse("host=h jit=on"); err != nil || cfg.RuntimeParams["jit"] != "on" {
		t.Errorf("what the address says counts: %v, jit=%s", err, cfg.RuntimeParams["jit"])
	}
	for _, wrong := range []string{"host=db.example port=many", "postgres://u@db.example:many/d", "host=db.example sslmode=perhaps", "db.example"} {
		if _, err := dsn.Parse(wrong); err == nil || strings.Contains(err.Error(), "db.example") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	t.Setenv("PGPASSWORD", "secret")
	if _, err := dsn.Parse("host=h"); err == nil {
		t.Error("a password in the environment")
	}
}

func TestVerified(t *testing.T) {
	for address, want := range map[string]bool{
		"host=/run/postgresql dbname=d":                      true,
		"host=localhost":                                     true,
		"host=127.0.0.7 sslmode=disable":                     true,
		"host=::1":                                           true,
		"host=db.example sslmode=verify-full":                true,
		"postgres://u@db.example/d?sslmode=verify-full":      true,
		"host=a.example,b.example sslmode=verify-full":       true,
		"host=/run/postgresql,b.example sslmode=verify-full": true,
		"host=db.example":                                    false,
		"host=10.0.0.1":                                      false,
		"host=db.example sslmode=disable":                    false,
		"host=db.example sslmode=allow":                      false,
		"host=db.example sslmode=prefer":                     false,
		"host=db.example sslmode=require":                    false,
		"host=db.example sslmode=verify-ca":                  false,
		"host=/run/postgresql,b.example":                     false,
		"host=localhost,b.example sslmode=require":           false,
		"postgres://u@db.example/d":                          false,
		"postgres://u@localhost.example/d?sslmode=prefer":    false,
		"host=localhost hostaddr=10.0.0.1 dbname=d":          true, // pgx knows no hostaddr, and connects to the host
	} {
		cfg, err := dsn.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if dsn.Verified(cfg) != want {
			t.Errorf("%s: want %v", address, want)
		}
	}
	t.Setenv("PGSSLMODE", "verify-full")
	if cfg, err := dsn.Parse("host=db.example"); err != nil || !dsn.Verified(cfg) {
		t.Errorf("what the environment says counts: %v", err)
	}
}
