// Package discover stands in for github.com/hashicorp/go-discover, by which Vault finds the other servers of a raft cluster
// in fourteen clouds. A test server has no cluster; without those clouds' libraries over a quarter of the packages need not be
// compiled. It declares what Vault's code names, and refuses every use.
package discover

import (
	"errors"
	"log"
)

var errLeftOut = errors.New("discovery of raft servers (auto_join) is not part of devvault")

// Provider finds servers in one cloud.
type Provider interface {
	Addrs(args map[string]string, l *log.Logger) ([]string, error)
	Help() string
}

// Providers are all that this package knows: none.
var Providers = map[string]Provider{}

// Config is a parsed auto_join line.
type Config map[string]string

// Parse refuses every line.
func Parse(string) (Config, error) { return nil, errLeftOut }

func (Config) String() string { return "" }

// Discover finds nobody.
type Discover struct{}

// Option is accepted and without effect.
type Option func(*Discover) error

// WithProviders is accepted and without effect.
func WithProviders(map[string]Provider) Option { return func(*Discover) error { return nil } }

// New never fails, since Vault calls it at every start.
func New(...Option) (*Discover, error) { return &Discover{}, nil }

// Addrs refuses.
func (*Discover) Addrs(string, *log.Logger) ([]string, error) { return nil, errLeftOut }
