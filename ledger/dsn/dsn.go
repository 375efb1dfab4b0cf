// Package dsn reads the addresses of PostgreSQL databases: keywords and values, or URLs, as libpq and pgx take them.
//
// What it guarantees. An address in which a password stands is refused: addresses are in files that many read, in process lists and in logs. Passwords come from a passfile
// (passfile=, PGPASSFILE, ~/.pgpass), which only its owner may read. No error shows an address.
//
// What it doesn't. Parse takes addresses without TLS, and those that pgx falls back from TLS for: see [Verified].
package dsn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrPassword: there is a password in the address.
var ErrPassword = errors.New("a password stands in the address of the database: put it into a passfile and name that by passfile=")

var password = regexp.MustCompile(`(?i)(^|[\s?&'])(ssl)?password\s*=`)

// Parse reads an address. Connecting ends after ten seconds if it doesn't say otherwise, and no statement is compiled: those of this program are short.
func Parse(address string) (*pgx.ConnConfig, error) {
	if password.MatchString(address) {
		return nil, ErrPassword
	}
	if u, err := url.Parse(address); err == nil && u.User != nil {
		if _, set := u.User.Password(); set {
			return nil, ErrPassword
		}
	}
	if os.Getenv("PGPASSWORD") != "" {
		return nil, errors.New("PGPASSWORD is set: processes of the same user can read it; put the password into a passfile")
	}
	cfg, err := pgx.ParseConfig(address)
	if p := (*pgconn.ParseConfigError)(nil); errors.As(err, &p) {
		if err = p.Unwrap(); err == nil { // what it says itself shows the address
			err = errors.New("one of its settings has a value that can't be")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the address of the database, as postgres://user@host/database?sslmode=verify-full or host=… dbname=… user=… sslmode=verify-full, can't be used: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "regard"
	if cfg.RuntimeParams["jit"] == "" {
		// Compiling takes longer than any of them, and the planner's reason to do it is an estimate, of which a plan that it was told to avoid has an enormous one.
		cfg.RuntimeParams["jit"] = "off"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	return cfg, nil
}

// Verified says whether whoever connects to this address speaks to that server and nobody else, with every host that it names: by a Unix socket, on this machine, or by TLS with sslmode=verify-full. Without
// sslmode pgx takes TLS without knowing with whom, and goes on in clear where the server, or somebody on the way, has none; verify-ca takes any server of the authority.
func Verified(cfg *pgx.ConnConfig) bool {
	verified := func(host string, c *tls.Config) bool {
		network, _ := pgconn.NetworkAddress(host, cfg.Port)
		if network == "unix" || host == "localhost" {
			return true
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
			return true
		}
		return c != nil && !c.InsecureSkipVerify
	}
	if !verified(cfg.Host, cfg.TLSConfig) {
		return false
	}
	for _, f := range cfg.Fallbacks {
		if !verified(f.Host, f.TLSConfig) {
			return false
		}
	}
	return true
}
