package command

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/portal"
)

// portal opens the website for people.
func (i *Instance) portal() (*api.Listener, error) {
	cfg := &i.cfg.Portal
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("portal.url is not a URL")
	}
	words, err := readWords(cfg)
	if err != nil {
		return nil, err
	}
	// Until an identity provider is configured nobody can sign in, and the pages say so.
	var sessions portal.Sessions = portal.Nobody{}
	i.log.Warn("the portal has no identity provider: nobody can sign in")
	o := &cfg.Operator
	p, err := portal.New(portal.Config{
		Broker: i.Broker, Sessions: sessions, URL: u, Log: slashed(cfg.Log), Words: words, Logger: i.log,
		Operator: portal.Operator{Name: o.Name, Address: o.Address, Email: o.Email, Officer: o.Officer, Host: o.Host},
	})
	if err != nil {
		return nil, err
	}
	var certs *api.Certificates
	if cfg.Cert != "" {
		if certs, err = api.LoadCertificates(cfg.Cert, cfg.Key); err != nil {
			return nil, err
		}
		i.reloads = append(i.reloads, certs.Reload)
	}
	return api.ListenPortal(cfg.Listen, i.cfg.Limits.Connections, p, i.log, certs)
}

// readWords joins the operator's words to those that are built in.
func readWords(cfg *config.Portal) (*portal.Words, error) {
	words, err := portal.BuiltInWords()
	if err != nil || cfg.Words == "" {
		return words, err
	}
	text, err := os.ReadFile(cfg.Words)
	if err != nil {
		return nil, fmt.Errorf("reading portal.words: %w", err)
	}
	own, err := portal.ParseWords(text)
	if err != nil {
		return nil, fmt.Errorf("portal.words: %w", err)
	}
	return words.With(own), nil
}

func slashed(base string) string {
	if base == "" || strings.HasSuffix(base, "/") {
		return base
	}
	return base + "/"
}
