package bench

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// brokerConfig says how a broker is opened, for the roles that do.
type brokerConfig struct {
	Dir    string   // its data directory, with the keystore
	Client tlsFiles // towards providers
	API    tlsFiles // towards agencies
	Log    string   // where its own log goes
	// Shared is what it shares with others; nil: it is alone.
	Shared *sharedConfig
}

const origin = "regard.bench/log"

// settings is the configuration of the broker, as `regard serve` would read it from a file.
func (cfg *brokerConfig) settings() (*config.Config, error) {
	set := []string{
		"data_dir=" + cfg.Dir, "origin=" + origin,
		"api.listen=127.0.0.1:0", "public.listen=", "ops.listen=127.0.0.1:0",
		"api.cert=" + cfg.API.Cert, "api.key=" + cfg.API.Key,
		"providers.cert=" + cfg.Client.Cert, "providers.key=" + cfg.Client.Key, "providers.ca_file=" + cfg.Client.CA,
		// The limits that share a broker between agencies would only measure themselves; those on everybody together are as shipped.
		"limits.rate=1000000", "limits.burst=1000000",
	}
	if cfg.Shared != nil {
		set = append(set, cfg.Shared.settings()...)
	} else {
		set = append(set, "keys.keystore.key_file="+filepath.Join(cfg.Dir, "keystore.key"))
	}
	return config.Load(config.Source{Set: set})
}

func (cfg *brokerConfig) logger() (*slog.Logger, error) {
	f, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelInfo})), nil
}

// fill opens the broker in a directory, a new one if there is none, to be filled: without listeners, and without the sweeper, which would take
// intents that no request of the pipeline works on for interrupted ones.
func (cfg *brokerConfig) fill(ctx context.Context, clock func() time.Time) (*broker.Broker, error) {
	logger, err := cfg.logger()
	if err != nil {
		return nil, err
	}
	keyring := keystore.Config{Path: filepath.Join(cfg.Dir, "keystore"), KeyFile: filepath.Join(cfg.Dir, "keystore.key"), Logger: logger}
	if _, err := os.Stat(keyring.Path); errors.Is(err, os.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(cfg.Dir, 0o700), keystore.CreateKeyFile(keyring.KeyFile), keystore.Create(keyring)); err != nil {
			return nil, fmt.Errorf("making a keystore: %w", err)
		}
	}
	custodian, err := keystore.Open(keyring)
	if err != nil {
		return nil, err
	}
	return broker.New(ctx, broker.Config{
		DataDir: cfg.Dir, Origin: origin, Custodian: custodian, Clock: clock, Logger: logger, SweepEvery: 24 * time.Hour,
		Providers: provider.Config{Development: true}, Development: true, // it asks nobody
	})
}

// preloader opens a broker without its API, to fill it.
type preloader struct {
	b     *broker.Broker
	dir   string       // of the store
	ahead atomic.Int64 // by which its clock is ahead of this machine's
}

func (p *preloader) now() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) }

func startPreload(ctx context.Context, raw json.RawMessage) (role, any, error) {
	var cfg brokerConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	p := &preloader{dir: filepath.Join(cfg.Dir, "store")}
	var err error
	if p.b, err = cfg.fill(ctx, p.now); err != nil {
		return nil, nil, err
	}
	return p, struct{}{}, nil
}

func (p *preloader) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return p.b.Close(ctx)
}

func (p *preloader) do(ctx context.Context, command string, arg json.RawMessage) (any, error) {
	switch command {
	case "seed":
		var s seed
		if err := json.Unmarshal(arg, &s); err != nil {
			return nil, err
		}
		return struct{}{}, p.seed(ctx, &s)
	case "records":
		var r records
		if err := json.Unmarshal(arg, &r); err != nil {
			return nil, err
		}
		return p.records(ctx, &r)
	case "close":
		var c closing
		if err := json.Unmarshal(arg, &c); err != nil {
			return nil, err
		}
		return p.closeEpoch(ctx, &c)
	}
	return nil, fmt.Errorf("the preloader has no command %q", command)
}

// seed is a registry: every agency has an agreement on every service, as far as Agreements goes.
type seed struct {
	Certs      []string // PEM files of the agencies that will ask; the others get keys that nobody has
	Agencies   int
	Services   int
	Agreements int
	Endpoint   string
}

func agencyID(i int) string  { return fmt.Sprintf("agency-%04d", i) }
func serviceID(i int) string { return "bench-prestations-" + strconv.Itoa(i) }

// seed fills the registry through the log, as administration does, but many changes at once: one by one, each would read the whole registry again.
func (p *preloader) seed(ctx context.Context, s *seed) error {
	for i := range s.Services {
		if _, err := p.b.PutService(ctx, definition(serviceID(i), s.Endpoint)); err != nil {
			return fmt.Errorf("putting service %d in force: %w", i, err)
		}
	}
	err := atOnce(ctx, s.Agencies, func(ctx context.Context, i int) error {
		key := store.AgencyKey{NotAfter: time.Now().Add(7 * 24 * time.Hour), State: store.Active, SPKI: sha256.Sum256([]byte(agencyID(i)))}
		if i < len(s.Certs) {
			cert, err := readCertificate(s.Certs[i])
			if err != nil {
				return err
			}
			key.SPKI, key.NotAfter = sha256.Sum256(cert.RawSubjectPublicKeyInfo), cert.NotAfter
		}
		a := store.Agency{ID: agencyID(i), Name: "Commune inventée " + strconv.Itoa(i), SIRET: siret(i), State: store.Active, Keys: []store.AgencyKey{key}}
		return p.append(ctx, ledger.Group{
			Entries: []proof.Entry{proof.KeyChanged{Key: "agency." + a.ID, Use: proof.UseAgency, State: proof.Active, Public: key.SPKI}},
			Attach:  &store.AgencyChange{Agency: a},
		})
	})
	if err != nil {
		return fmt.Errorf("registering agencies: %w", err)
	}
	err = atOnce(ctx, s.Agreements, func(ctx context.Context, i int) error {
		a := agreement(i%s.Agencies, i/s.Agencies)
		text, err := a.Canonical()
		if err != nil {
			return err
		}
		digest, err := p.b.Log().PutBlob(ctx, text)
		if err != nil {
			return err
		}
		return p.append(ctx, ledger.Group{
			Entries: []proof.Entry{proof.AgreementChanged{Agreement: string(a.ID), Version: 1, State: proof.Active, Digest: digest}},
			Attach: &store.AgreementChange{Agreement: store.Agreement{
				ID: string(a.ID), Version: 1, Agency: string(a.Agency), Service: string(a.Service), State: string(a.State), JSON: text, Digest: digest,
			}},
		})
	})
	if err != nil {
		return fmt.Errorf("putting agreements in force: %w", err)
	}
	return nil
}

func readCertificate(name string) (*x509.Certificate, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", name)
	}
	return x509.ParseCertificate(block.Bytes)
}

// agreement between an agency and a service.
func agreement(agency, service int) policy.Agreement {
	a := policy.Agreement{
		ID: policy.AgreementID(fmt.Sprintf("agreement-%04d-%d", agency, service)), Version: 1, State: policy.AgreementActive,
		Agency: policy.AgencyID(agencyID(agency)), Service: policy.ServiceID(serviceID(service)),
		Purposes:   []policy.Purpose{purpose, "petite-enfance", "restauration-scolaire"},
		LegalBases: []policy.LegalBasis{legalBasis},
		NotBefore:  time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC),
	}
	for _, s := range scopes {
		a.Scopes = append(a.Scopes, policy.Scope(s))
	}
	return a
}

// append waits for its turn when the log is full.
func (p *preloader) append(ctx context.Context, g ledger.Group) error {
	for {
		_, err := p.b.Log().Append(ctx, g)
		if !errors.Is(err, ledger.ErrBusy) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// writers is how many wait for the log at the same time while a broker is filled: enough for whole batches.
const writers = 2048

// atOnce calls f for 0 to n-1, many at once, and stops at the first error.
func atOnce(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(writers, n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
