package command

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"modernc.org/sqlite"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/deploy/version"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/keys/vault"
	"github.com/regard-broker/regard/ledger/engine"
	"github.com/regard-broker/regard/policy"
)

func serveCommand() *cobra.Command {
	s := source{broker: true}
	var confirm, ignore bool
	var distrust []string
	c := &cobra.Command{
		Use: "serve", Short: "Run the broker", Args: noArgs,
		Long: `serve runs the broker until SIGTERM or SIGINT: then it takes no more requests, finishes those in flight (limits.drain at most) and closes the log. Before its
listeners close it lingers (limits.linger): /readyz is red, and whoever still comes is told to come again. A second signal ends that.
SIGHUP reads the policy bundle, the TLS certificates, the credentials for providers and providers.ca_file anew; what can't be used is logged, and the old
stays in force.

It speaks to agencies (api.listen, mutual TLS), to readers of the log (public.listen), to people (portal.listen), to monitoring (ops.listen: /healthz, /readyz, /metrics) and to
the other commands (admin.sock in the data directory).`,
		Example: `  regard serve --config /etc/regard/regard.yaml
  regard serve --set log.level=debug`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := s.load()
			if err != nil {
				return err
			}
			cfg.ConfirmClock, cfg.IgnoreMirrors, cfg.DistrustWitnesses = confirm, ignore, distrust
			log := logger(cfg.Log, c)
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			i, err := Start(c.Context(), cfg, log)
			if err != nil {
				return err
			}
			go func() { // a log that takes nothing holds a reload up, and mustn't hold up the end
				for {
					select {
					case <-hup:
						i.Reload(c.Context())
					case <-c.Context().Done():
						return
					}
				}
			}()
			select {
			case err := <-i.Failed():
				return errors.Join(err, i.Stop(context.WithoutCancel(c.Context())))
			case <-c.Context().Done():
				again, done := signal.NotifyContext(context.WithoutCancel(c.Context()), os.Interrupt, syscall.SIGTERM)
				defer done()
				i.Linger(again)
				return i.Stop(context.WithoutCancel(c.Context()))
			}
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&confirm, "confirm-clock", false, "start although the clock is more than 31 days ahead of what the log saw last: after a long stop, when you know that it is right")
	c.Flags().BoolVar(&ignore, "ignore-mirrors", false, "start although none of the mirrors and witnesses answers: when you know that the data directory is the newest there is (what one does say counts in any case)")
	c.Flags().StringArrayVar(&distrust, "distrust-witness", nil, "start although this witness says that it saw more: when you know that it is wrong (repeatable; see docs/operate.md)")
	return c
}

func logger(cfg config.Log, c *cobra.Command) *slog.Logger {
	opt := &slog.HandlerOptions{}
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // checked by config
	opt.Level = level
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.ErrOrStderr(), opt))
	}
	return slog.New(slog.NewTextHandler(c.ErrOrStderr(), opt))
}

// An Instance is a broker with its listeners.
type Instance struct {
	Broker *broker.Broker
	// Addresses that are listened on, by name: api, public, portal, ops, simulator.
	Addresses map[string]string

	cfg     *config.Config
	log     *slog.Logger
	started time.Time
	reloads []func() error
	servers []server // in the order in which they stop
	owed    owed     // definitions that the log didn't take yet
	failed  chan error
	spare   []byte // see engine.SpareHeap
}

type server struct {
	name  string
	serve func() error
	stop  func(context.Context) error
}

// Start opens everything that the configuration names; on an error nothing is left open. When it returns, requests are served.
func Start(ctx context.Context, cfg *config.Config, log *slog.Logger) (i *Instance, err error) {
	i = &Instance{cfg: cfg, log: log, started: time.Now(), Addresses: map[string]string{}, failed: make(chan error, 8), spare: engine.SpareHeap()}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Stop(context.WithoutCancel(ctx)))
			i = nil
		}
	}()
	// For all of the process: as durable as fsync, without the timestamps, which make a commit wait for the file system's journal. Where there is none SQLite goes on with fsync.
	_, _ = sqlite.Fdatasync(true)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return i, fmt.Errorf("making the data directory: %w", err)
	}
	if err := apart(cfg); err != nil {
		return i, err
	}
	if !cfg.Production {
		log.Warn("THIS BROKER IS FOR TRYING OUT (production: false): it listens on this machine only")
	}
	if cfg.Production && cfg.Keys.Mode == config.Keystore {
		log.Warn("KEYSTORE IN PRODUCTION (keys.keystore.in_production): the root keys are on this broker's disk, and " + config.IKnow)
	}
	certs, err := api.LoadCertificates(cfg.API.Cert, cfg.API.Key)
	if err != nil {
		return i, err
	}
	i.reloads = append(i.reloads, certs.Reload)
	providers, err := i.providers()
	if err != nil {
		return i, err
	}
	custodian, err := openKeys(ctx, cfg, log)
	if err != nil {
		return i, err
	}
	witnesses, err := readWitnesses(cfg)
	if err != nil {
		return i, err
	}
	mailer, err := openMail(&cfg.Mail)
	if err != nil {
		return i, err
	}
	source := policy.Embedded()
	if cfg.Policy.Dir != "" {
		source = policy.FromPath(cfg.Policy.Dir)
	}
	shared, err := sharedStores(cfg)
	if err != nil {
		return i, errors.Join(err, custodian.Close())
	}
	i.Broker, err = broker.New(ctx, broker.Config{
		DataDir: cfg.DataDir, Shared: shared, SignedDir: cfg.SignedDir, Mirrors: cfg.Mirrors, IgnoreMirrors: cfg.IgnoreMirrors, Witnesses: witnesses, Origin: cfg.Origin, Custodian: custodian, Policy: source, Epoch: cfg.Epoch.Length.Std(), Retention: cfg.Records.Retention.Std(), ConfirmClock: cfg.ConfirmClock,
		Providers: providers, Development: !cfg.Production, MaxInFlight: cfg.Limits.InFlight, CoolOff: cfg.Records.CoolOff.Std(), Mail: mailer, Portal: cfg.Portal.URL, Logger: log,
	})
	if err != nil {
		return i, err
	}
	if err := i.loadServices(ctx); err != nil {
		return i, err
	}
	if err := i.listen(ctx, certs); err != nil {
		return i, err
	}
	for _, s := range i.servers {
		go func() {
			if err := s.serve(); err != nil {
				i.failed <- fmt.Errorf("serving %s: %w", s.name, err)
			}
		}()
	}
	log.Info("ready", "version", version.String(), "origin", cfg.Origin, "api", i.Addresses["api"], "public", i.Addresses["public"], "portal", i.Addresses["portal"], "ops", i.Addresses["ops"], "admin", cfg.Admin.Socket)
	return i, nil
}

// openKeys opens the custodian of the root keys.
func openKeys(ctx context.Context, cfg *config.Config, log *slog.Logger) (keys.Custodian, error) {
	switch cfg.Keys.Mode {
	case config.Vault:
		v := cfg.Keys.Vault
		own := vault.Config{
			Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, CertFile: v.Cert, KeyFile: v.Key, TransitMount: v.Mount, WrapKey: v.WrapKey, CheckpointKey: v.CheckpointKey, Logger: log,
		}
		switch v.Auth {
		case config.Kubernetes:
			own.KubernetesMount, own.KubernetesRole, own.KubernetesTokenFile = v.AuthMount, v.Role, v.TokenFile
		default:
			own.AppRoleMount, own.RoleIDFile, own.SecretIDFile, own.SecretIDWrapped = v.AuthMount, v.RoleIDFile, v.SecretIDFile, v.SecretIDWrapped
		}
		c, err := vault.Open(ctx, own)
		if err != nil {
			return nil, fmt.Errorf("opening the keys in Vault: %w", err)
		}
		return c, nil
	case config.Keystore:
		k := cfg.Keys.Keystore
		c, err := keystore.Open(keystore.Config{Path: k.Path, PassphraseFile: k.PassphraseFile, KeyFile: k.KeyFile, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("opening the keystore: %w", err)
		}
		return c, nil
	}
	return nil, errors.New("no keys are configured")
}

// openMail prepares the sending of mails; nil if there is to be none.
func openMail(cfg *config.Mail) (broker.Mailer, error) {
	if cfg.SMTP == "" {
		return nil, nil
	}
	from, err := mail.ParseAddress(cfg.From)
	if err != nil {
		return nil, usagef("mail.from is not an address")
	}
	out := mail.Config{Server: cfg.SMTP, TLS: mail.TLSMode(cfg.TLS), From: from, Username: cfg.Username, PasswordFile: cfg.PasswordFile}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading mail.ca_file: %w", err)
		}
		if out.Roots, err = certPool("mail.ca_file", text); err != nil {
			return nil, err
		}
	}
	c, err := mail.New(out)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// providers prepares the calls to providers; the client certificate follows its files.
func (i *Instance) providers() (provider.Config, error) {
	p := &i.cfg.Providers
	out := provider.Config{Development: !i.cfg.Production, ConnectTimeout: p.ConnectTimeout.Std(), Connections: p.Connections, Logger: i.log}
	if p.Cert != "" {
		var current atomic.Pointer[tls.Certificate]
		load := func() error {
			c, err := tls.LoadX509KeyPair(p.Cert, p.Key)
			if err != nil {
				return fmt.Errorf("loading the certificate for providers: %w", err)
			}
			current.Store(&c)
			return nil
		}
		if err := load(); err != nil {
			return out, err
		}
		i.reloads = append(i.reloads, load)
		out.Certificate = func() (*tls.Certificate, error) { return current.Load(), nil }
	}
	if p.CAFile != "" {
		load := func() (*x509.CertPool, error) {
			text, err := os.ReadFile(p.CAFile)
			if err != nil {
				return nil, fmt.Errorf("reading providers.ca_file: %w", err)
			}
			return certPool("providers.ca_file", text)
		}
		var err error
		if out.Roots, err = load(); err != nil {
			return out, err
		}
		i.reloads = append(i.reloads, func() error {
			roots, err := load()
			if err == nil {
				i.Broker.TrustProviders(roots)
			}
			return err
		})
	}
	if p.Proxy != "" {
		u, err := url.Parse(p.Proxy)
		if err != nil {
			return out, usagef("providers.proxy is not a URL")
		}
		out.Proxy = u
	}
	return out, nil
}

// certPool takes all certificates of the file that a key names, or none: one that is cut off, as of a copy under way, must not silently end the trust in somebody.
func certPool(key string, text []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, usagef("%s: block %d is no certificate", key, n+1)
		}
		pool.AddCert(cert)
	}
	if n == 0 || n != bytes.Count(text, []byte("-----BEGIN ")) {
		return nil, usagef("%s is not whole: it has %d certificates in PEM", key, n)
	}
	return pool, nil
}

func (i *Instance) listen(ctx context.Context, certs *api.Certificates) error {
	cfg, l := i.cfg, &i.cfg.Limits
	metrics := api.NewMetrics()
	if err := metrics.Register(NewCollector(i.Broker)); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	embedded := prometheus.NewGauge(prometheus.GaugeOpts{Name: "regard_keys_embedded", Help: "1 if the root keys are in a file on this broker's disk, and not in Vault."})
	if cfg.Keys.Mode == config.Keystore {
		embedded.Set(1)
	}
	if err := metrics.Register(embedded); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	handler, err := api.New(api.Config{
		Broker: i.Broker, Logger: i.log, Metrics: metrics, Version: version.String(), Rate: l.Rate, Burst: l.Burst, InFlight: l.InFlight, MaxBody: int64(l.Body), Read: l.ReadTimeout.Std(),
	})
	if err != nil {
		return err
	}
	add := func(name string, ln *api.Listener, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		i.Addresses[name] = ln.Addr().String()
		i.servers = append(i.servers, server{name, ln.Serve, ln.Shutdown})
		return nil
	}
	ln, err := handler.Listen(cfg.API.Listen, l.Connections, certs)
	if err := add("api", ln, err); err != nil {
		return err
	}
	if cfg.Public.Listen != "" {
		var public *api.Certificates
		if cfg.Public.Cert != "" {
			if public, err = api.LoadCertificates(cfg.Public.Cert, cfg.Public.Key); err != nil {
				return err
			}
			i.reloads = append(i.reloads, public.Reload)
		}
		ln, err := api.ListenPublic(cfg.Public.Listen, l.Connections, i.Broker.Log().Handler(), i.log, public)
		if err := add("public", ln, err); err != nil {
			return err
		}
	}
	if err := i.simulate(); err != nil {
		return err
	}
	if cfg.Portal.Listen != "" {
		ln, err := i.portal(ctx, metrics)
		if err := add("portal", ln, err); err != nil {
			return err
		}
	}
	calls, err := admin.Handler(admin.Config{Broker: i.Broker, Status: i.status, Logger: i.log})
	if err != nil {
		return err
	}
	socket, err := admin.Listen(cfg.Admin.Socket, calls, i.log)
	if err != nil {
		return err
	}
	i.servers = append(i.servers, server{"admin", socket.Serve, socket.Shutdown})
	if cfg.Ops.Listen != "" {
		ln, err := api.ListenOps(cfg.Ops.Listen, api.Ops(metrics, i.Broker.Ready, i.role), i.log)
		return add("ops", ln, err)
	}
	return nil
}

// role is this broker's part in a log that several share, "" if it is alone.
func (i *Instance) role() string {
	if s, shared := i.Broker.Cluster(); shared {
		return s.String()
	}
	return ""
}

// Failed gives the error of a listener that ended by itself.
func (i *Instance) Failed() <-chan error { return i.failed }

// Reload reads policy, certificates and credentials anew.
func (i *Instance) Reload(ctx context.Context) {
	ok := true
	for _, f := range append(slices.Clone(i.reloads), func() error { return i.Broker.ReloadPolicy(ctx) }) {
		if err := f(); err != nil {
			ok = false
			i.log.Error("reloading failed, the old stays in force", "error", err)
		}
	}
	i.log.Info("reloaded", "ok", ok, "policy", i.Broker.PolicyStatus().Revision)
}

// Linger takes no more requests, and goes on listening for limits.linger, or until ctx ends: who asks that the broker is ready sees that it isn't, and balancers send nobody any more when Stop closes the listeners.
func (i *Instance) Linger(ctx context.Context) {
	i.Broker.Drain()
	if d := i.cfg.Limits.Linger.Std(); d > 0 {
		i.log.Info("no more requests are taken", "linger", d)
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
}

// Stop takes no more requests, lets those in flight end within limits.drain, and closes everything.
func (i *Instance) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.Limits.Drain.Std())
	defer cancel()
	i.log.Info("stopping")
	i.owed.leave()
	if i.Broker != nil {
		i.Broker.Drain()
	}
	var errs []error
	for _, s := range i.servers {
		if err := s.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	if i.Broker != nil {
		errs = append(errs, i.Broker.Close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	i.owed.work.Wait() // with the log closed, nothing can hold them up
	i.log.Info("stopped")
	return nil
}
