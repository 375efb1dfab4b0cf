package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/reference"
	"github.com/regard-broker/regard/deploy/version"
)

type options struct {
	listen, base, cert, key string
	brokers                 []string
	population              int
	seed                    uint64
	accessLog               string
	delay                   time.Duration
	guard                   guardOptions
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "regard-provider",
		Short: "Reference providers for Regard: invented people, real shapes",
		Long: `Runs the reference providers: households, students, job seekers, solidarity income, taxation, businesses, addresses and communes.
Everybody in them is invented and bears the word EXEMPLE in the name. Only clients with one of the given broker certificates are answered.

Exit codes: 0 done, 1 failed, 2 the input was at fault.`,
		Example: `  # serve on port 8443 to the broker whose certificate is in broker.pem
  regard-provider --base https://provider.example:8443 --cert provider.pem --key provider.key --broker-cert broker.pem

  # the same with 100,000 more people, for measurements, and a log of who was asked for what
  regard-provider --base https://provider.example:8443 --cert provider.pem --key provider.key --broker-cert broker.pem \
      --population 100000 --access-log access.jsonl

  # the same, demanding the broker's signed intents and checking that the log has an entry for everybody in an answer
  regard-provider --base https://provider.example:8443 --cert provider.pem --key provider.key --broker-cert broker.pem \
      --guard receipts/ --broker-url https://broker.example:8443 --broker-ca server.pem --policy log.policy

  # write the service definitions that a broker registers for this server
  regard-provider services --base https://provider.example:8443 --out services/`,
		Args: noArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), cmd.ErrOrStderr(), &o) },
	}
	root.PersistentFlags().StringVar(&o.base, "base", "https://localhost:8443", "the server's own `URL` as the broker reaches it")
	f := root.Flags()
	f.StringVar(&o.listen, "listen", "localhost:8443", "`address` to listen on")
	f.StringVar(&o.cert, "cert", "", "the server's certificate chain, PEM `file`")
	f.StringVar(&o.key, "key", "", "the key of that certificate, PEM `file`")
	f.StringArrayVar(&o.brokers, "broker-cert", nil, "certificate of a broker that is answered, PEM `file`; may be repeated")
	f.IntVar(&o.population, "population", 0, "`number` of further invented people")
	f.Uint64Var(&o.seed, "seed", 1, "seed of that population")
	f.StringVar(&o.accessLog, "access-log", "", "`file` to append one JSON line for each request to; - is standard output")
	f.DurationVar(&o.delay, "delay", 0, "`time` to wait before each answer")
	o.guard.flags(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, c.CommandPath())
	})
	about := version.Command(root.Name())
	about.Args = noArgs
	root.AddCommand(servicesCommand(&o), about)
	return root
}

// usage is an error of the input: correct it, nothing was tried.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }

// exitCode is 2 if the input was at fault, as for regard itself.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(usage)):
		return 2
	}
	return 1
}

func noArgs(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case c.HasSubCommands():
		return usagef("%s has no command %q (see %s --help)", c.CommandPath(), args[0], c.CommandPath())
	}
	return usagef("%s takes no arguments (see %s --help)", c.CommandPath(), c.CommandPath())
}

func servicesCommand(o *options) *cobra.Command {
	var out string
	var clients []string
	c := &cobra.Command{
		Use:     "services",
		Short:   "Write the service definitions for this server",
		Example: "  regard-provider services --base https://provider.example:8443 --out services/",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var keys [][32]byte
			for _, name := range clients {
				cert, err := certificate(name)
				if err != nil {
					return usagef("reading --client-cert: %w", err)
				}
				keys = append(keys, sha256.Sum256(cert.RawSubjectPublicKeyInfo))
			}
			all, err := reference.Services(o.base, keys...)
			if err != nil {
				return usage{err}
			}
			if err := os.MkdirAll(out, 0o750); err != nil {
				return err
			}
			for _, s := range all {
				name := filepath.Join(out, string(s.Definition.ID)+".yaml")
				if err := os.WriteFile(name, s.YAML, 0o600); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&clients, "client-cert", nil, "certificate, PEM `file`, with whose key the providers fetch receipts (--guard); may be repeated")
	c.Flags().StringVar(&out, "out", ".", "`directory` to write to")
	return c
}

func serve(ctx context.Context, messages io.Writer, o *options) error {
	if o.cert == "" || o.key == "" || len(o.brokers) == 0 {
		return usagef("--cert, --key and --broker-cert are needed: it answers the broker alone (see --help)")
	}
	own, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return usagef("reading --cert and --key: %w", err)
	}
	if o.population < 0 || o.population > reference.MaxPopulation {
		return usagef("--population: want 0 to %d", reference.MaxPopulation)
	}
	cfg := reference.Config{Base: o.base, Population: reference.Population{Size: o.population, Seed: o.seed}, Delay: o.delay}
	for _, name := range o.brokers {
		c, err := certificate(name)
		if err != nil {
			return usagef("reading --broker-cert: %w", err)
		}
		cfg.Brokers = append(cfg.Brokers, c)
	}
	switch o.accessLog {
	case "":
	case "-":
		cfg.AccessLog = os.Stdout
	default:
		f, err := os.OpenFile(o.accessLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return usagef("opening --access-log: %w", err)
		}
		defer f.Close()
		cfg.AccessLog = f
	}
	s, err := reference.New(cfg)
	if err != nil {
		return usage{err}
	}
	handler := http.Handler(s)
	if o.guard.dir != "" {
		g, err := o.guard.open(ctx, messages, o.base, own)
		if err != nil {
			return err
		}
		defer func() {
			if err := g.Close(); err != nil {
				fmt.Fprintln(messages, "closing the guard:", err)
			}
		}()
		handler = g.Handler(s)
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, TLSConfig: s.TLS(own), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(messages, "", log.LstdFlags),
	}
	fmt.Fprintf(messages, "serving invented people as %s on %s\n", o.base, l.Addr())
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(end)
}

func certificate(name string) (*x509.Certificate, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no PEM certificate", name)
	}
	return x509.ParseCertificate(block.Bytes)
}
