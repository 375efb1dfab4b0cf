// Package server runs HashiCorp Vault (core, HTTP handler, transit, logins by AppRole and by Kubernetes) inside one process, for tests and
// demonstrations. Requests are answered by Vault's own code: what a client sees here is what a production server of that
// version answers.
//
// It guarantees that it listens on the loopback interface only, that the ready file appears when requests are served and
// not before, and that with a storage directory everything a client was told to be written survives kill -9 (not a power cut:
// Vault's file storage does not sync). It does not
// guarantee secrecy: whoever reads the storage directory or the ready file holds the root token and the unseal key.
package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	log "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
)

// Warning is what every start prints on standard error.
const Warning = `
  ======================================================================
   devvault is a TEST AND DEMO SERVER. Do NOT use it in production.
   Its root token and unseal key lie in a file, its memory is not locked.
   It holds no real person's data: use a real Vault or OpenBao for that.
  ======================================================================

`

// Config says how to run the server. The zero value listens on a free loopback port and keeps everything in memory.
type Config struct {
	// Listen is a loopback host:port. Empty means 127.0.0.1:0.
	Listen string
	// Storage is the directory of a persistent server, created with mode 0700 if absent. Empty means memory.
	Storage string
	// TLSCert and TLSKey are PEM files, both or none. None means plain HTTP, bearable on the loopback interface alone.
	TLSCert, TLSKey string
	// ReadyFile gets Ready as JSON once requests are served. Empty means no file.
	ReadyFile string
	// Sealed leaves the server sealed. It is initialised nevertheless, so that Ready holds the keys to unseal it.
	Sealed bool
	// LogLevel is that of Vault's own log. Empty means error.
	LogLevel string
	// Stderr gets Vault's own log. Nil means none.
	Stderr io.Writer
}

// Server is a running Vault.
type Server struct {
	core   *vault.Core
	http   *http.Server
	ready  Ready
	file   string
	unlock func()
	served chan error
}

// New initialises Vault on its first start, unseals it, serves, and writes the ready file. The context bounds the start;
// the server lives on until Close.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	listener, scheme, err := listen(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = listener.Close()
		}
	}()

	// A ready file of an earlier run would name an address nobody serves any more.
	if err := removeReady(cfg.ReadyFile); err != nil {
		return nil, err
	}
	unlock, err := lock(cfg.Storage)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()

	logger := newLogger(cfg)
	backend, err := newStorage(cfg.Storage, logger)
	if err != nil {
		return nil, err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           backend,
		StorageType:        storageType(cfg.Storage),
		LogicalBackends:    secrets,
		CredentialBackends: credentials,
		BuiltinRegistry:    registry{},
		DisableMlock:       true,
		Logger:             logger,
		ClusterName:        "devvault",
	})
	if err != nil {
		return nil, fmt.Errorf("starting Vault's core: %w", err)
	}
	s := &Server{core: core, file: cfg.ReadyFile, unlock: unlock, served: make(chan error, 1)}
	defer func() {
		if err != nil {
			_ = core.Shutdown()
		}
	}()

	keys, err := initialise(namespace.RootContext(ctx), core, cfg.Storage)
	if err != nil {
		return nil, err
	}
	if !cfg.Sealed {
		if err := unseal(core, keys.UnsealKeys); err != nil {
			return nil, err
		}
	}

	s.ready = Ready{Address: scheme + "://" + listener.Addr().String(), Keys: keys}
	s.http = &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: listener.Addr().String(), TLSDisable: cfg.TLSCert == ""},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          logger.Named("http").StandardLogger(nil),
	}
	go func() { s.served <- s.http.Serve(listener) }()
	if err := writeReady(cfg.ReadyFile, s.ready); err != nil {
		_ = s.http.Close()
		return nil, err
	}
	return s, nil
}

// Ready says where the server answers and how to command it.
func (s *Server) Ready() Ready { return s.ready }

// Wait serves until the context ends, then closes. It returns an error if serving ended by itself.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-s.served:
		return errors.Join(fmt.Errorf("serving: %w", err), s.Close())
	}
}

// Close seals Vault, stops serving and removes the ready file.
func (s *Server) Close() error {
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.http.Shutdown(stop)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	err = errors.Join(err, s.core.Shutdown(), removeReady(s.file))
	s.unlock()
	return err
}

// initialise returns the keys of an initialised core, and initialises it the first time.
func initialise(ctx context.Context, core *vault.Core, storage string) (Keys, error) {
	done, err := core.Initialized(ctx)
	if err != nil {
		return Keys{}, fmt.Errorf("reading the storage: %w", err)
	}
	if done {
		return readKeys(storage)
	}
	res, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	if err != nil {
		return Keys{}, fmt.Errorf("initialising Vault: %w", err)
	}
	keys := Keys{RootToken: res.RootToken}
	for _, share := range res.SecretShares {
		keys.UnsealKeys = append(keys.UnsealKeys, hex.EncodeToString(share))
	}
	return keys, writeKeys(storage, keys)
}

func unseal(core *vault.Core, shares []string) error {
	for _, share := range shares {
		key, err := hex.DecodeString(share)
		if err != nil {
			return errors.New("an unseal key on file is not hexadecimal: remove the storage directory to start anew")
		}
		open, err := core.Unseal(key)
		if err != nil {
			return fmt.Errorf("unsealing: %w", err)
		}
		if open {
			return nil
		}
	}
	return errors.New("the unseal keys on file don't open this storage: remove the storage directory to start anew")
}

func newLogger(cfg Config) log.Logger {
	level := log.Error
	if cfg.LogLevel != "" {
		level = log.LevelFromString(cfg.LogLevel)
	}
	out := cfg.Stderr
	if out == nil {
		out = io.Discard
	}
	return log.New(&log.LoggerOptions{Name: "vault", Level: level, Output: out})
}
