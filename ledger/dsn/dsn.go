// Package dsn reads the addresses of PostgreSQL databases: keywords and values, or URLs, as libpq and pgx take them.
//
// What it guarantees. An address in which a password stands is refused: addresses are in files that many read, in process lists and in logs. Passwords come from a passfile
// (passfile=, PGPASSFILE, ~/.pgpass), which only its owner may read.
package dsn

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
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
	if err != nil {
		return nil, fmt.Errorf("the address of the database: %w", err)
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
