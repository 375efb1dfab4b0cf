package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/logkey"
)

// guardOptions are for --guard.
type guardOptions struct {
	dir, url, ca, logKey, policy string
	acceptSigned                 bool
	times                        holder.Times
	maxUnheard                   float64
}

func (o *guardOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.dir, "guard", "", "`directory` of the store with which the providers check that the log shows what they answer (see regard receipts); empty: they don't")
	f.StringVar(&o.url, "broker-url", "", "the broker's API, `URL`, for --guard; the client certificate is --cert")
	f.StringVar(&o.ca, "broker-ca", "", "certificate, PEM `file`, of the broker's API or of those that sign it (default: the system's)")
	f.StringVar(&o.logKey, "log-key", "", "the log's verification `key`, or a file with it")
	f.StringVar(&o.policy, "policy", "", "`file` with the log's key and the witnesses (c2sp.org/tlog-policy), in place of --log-key")
	f.BoolVar(&o.acceptSigned, "accept-signed", false, "take the log's own signature as enough, where there are no witnesses")
	f.DurationVar(&o.times.MaxAge, "max-age", 10*time.Minute, "how long the broker may take to show witnessed proofs, like 10m, before nothing more is answered")
	f.DurationVar(&o.times.SettleAge, "settle-age", 72*time.Hour, "how long it may take to show them settled, like 72h; longer than an epoch")
	f.Float64Var(&o.maxUnheard, "max-unheard", holder.DefaultMaxUnheard, "`share` of a day's answers that the broker may say it couldn't read, before there is an alarm")
}

// open makes the guard of all reference providers.
func (o *guardOptions) open(ctx context.Context, messages io.Writer, base string, own tls.Certificate) (*holder.Guard, error) {
	p, err := logkey.Policy(o.logKey, o.policy, errors.New("--guard needs --log-key or --policy: without the log's key no proof can be checked"), os.ReadFile)
	if err != nil {
		return nil, usage{err}
	}
	var roots *x509.CertPool
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, usagef("reading --broker-ca: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, usagef("--broker-ca holds no certificate in PEM")
		}
	}
	all, err := reference.Services(base)
	if err != nil {
		return nil, err
	}
	var defs []*service.Definition
	var ids []string
	for _, s := range all {
		defs = append(defs, s.Definition)
		if id := string(s.Definition.Provider.ID); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	identify, err := holder.Definitions(defs, "/documents/")
	if err != nil {
		return nil, err
	}
	return holder.NewGuard(ctx, holder.GuardConfig{
		Dir: o.dir, Providers: ids, Broker: holder.Connection{URL: o.url, Certificate: own, Roots: roots}, Policy: p, AcceptSigned: o.acceptSigned,
		Identify: identify, Times: o.times, MaxUnheard: o.maxUnheard, Logger: slog.New(slog.NewTextHandler(messages, nil)),
	})
}
