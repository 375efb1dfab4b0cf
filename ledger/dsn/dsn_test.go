package dsn_test

import (
	"errors"
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
	if _, err := dsn.Parse("host=h port=many"); err == nil {
		t.Error("a port that is none")
	}
	t.Setenv("PGPASSWORD", "secret")
	if _, err := dsn.Parse("host=h"); err == nil {
		t.Error("a password in the environment")
	}
}
