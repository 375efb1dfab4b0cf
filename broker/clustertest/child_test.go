package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/api"
	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/keys/vault"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signer"
)

// childEnv makes this test binary a broker or a signer: its configuration as JSON.
const childEnv = "REGARD_TEST_CHILD"

// child is one of the two.
type child struct {
	Broker *brokerChild
	Signer *signerChild
}

type brokerChild struct {
	Name                  string
	Store, Keeper, Signed string
	PublicDir             string
	Trillian              []string
	Keystore              string       // its directory, or
	Vault                 *vaultClient // in a Vault
	Witnesses             string       // their policy; empty: none
	Cert, Key             string       // of the server
	Listen, Ops           string
}

// vaultClient is what of vault.Config can be handed over.
type vaultClient struct {
	Address, TransitMount, AppRoleMount, WrapKey, CheckpointKey, RoleIDFile, SecretIDFile string
}

type signerChild struct {
	DSN, Listen, Ops string
	Late             time.Duration // how far the clock is behind
}

func TestMain(m *testing.M) {
	text := os.Getenv(childEnv)
	if text == "" {
		pgtest.Main(m)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c child
	err := json.Unmarshal([]byte(text), &c)
	switch {
	case err != nil:
	case c.Broker != nil:
		err = c.Broker.run(ctx)
	case c.Signer != nil:
		err = c.Signer.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ended:", err)
		os.Exit(1)
	}
}

func childLogger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

func (c *brokerChild) custodian(ctx context.Context, log *slog.Logger) (keys.Custodian, error) {
	if c.Vault != nil {
		v := c.Vault
		return vault.Open(ctx, vault.Config{Address: v.Address, TransitMount: v.TransitMount, AppRoleMount: v.AppRoleMount, WrapKey: v.WrapKey, CheckpointKey: v.CheckpointKey, RoleIDFile: v.RoleIDFile, SecretIDFile: v.SecretIDFile, Logger: log})
	}
	return keystore.Open(inDir(c.Keystore))
}

func inDir(dir string) keystore.Config {
	return keystore.Config{Path: filepath.Join(dir, "keystore"), KeyFile: filepath.Join(dir, "key")}
}

// run is regard serve without what doesn't matter here, until SIGTERM.
func (c *brokerChild) run(ctx context.Context) error {
	log := childLogger()
	custodian, err := c.custodian(ctx, log)
	if err != nil {
		return err
	}
	var witnesses *broker.Witnesses
	if c.Witnesses != "" {
		witnesses = &broker.Witnesses{Policy: []byte(c.Witnesses), Deadline: 300 * time.Millisecond, Timeout: 5 * time.Second}
	}
	b, err := broker.New(ctx, broker.Config{
		Shared: &broker.Shared{
			Store: c.Store, Keeper: c.Keeper, Signed: c.Signed, PublicDir: c.PublicDir, Name: c.Name,
			Trillian: func(ctx context.Context) (broker.Tree, error) {
				return remote.Open(ctx, remote.Config{Addresses: c.Trillian})
			},
		},
		Origin: origin, Custodian: custodian, Development: true, Providers: provider.Config{Development: true}, SweepEvery: time.Second, Witnesses: witnesses, Logger: log,
	})
	if err != nil {
		return err
	}
	certs, err := api.LoadCertificates(c.Cert, c.Key)
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{Broker: b, Logger: log, Version: "test", Rate: 10000, Burst: 10000})
	if err != nil {
		return err
	}
	ln, err := a.Listen(c.Listen, 256, certs)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s := status{Leads: b.Leads(), Size: b.Log().Checkpoint().Size()}
		if err := b.Ready(r.Context()); err != nil {
			s.NotReady = err.Error()
		}
		if s.LogKeys, err = b.LogKeys(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("POST /register", func(w http.ResponseWriter, r *http.Request) {
		if err := register(r, b); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /keys", func(w http.ResponseWriter, r *http.Request) {
		if err := changeKeys(r, b); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	ops := &http.Server{Addr: c.Ops, Handler: mux, ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 2)
	go func() { failed <- ops.ListenAndServe() }()
	go func() { failed <- ln.Serve() }()
	select {
	case err := <-failed:
		return errors.Join(err, b.Close(context.Background()))
	case <-ctx.Done():
	}
	b.Drain()
	time.Sleep(200 * time.Millisecond) // limits.linger
	drain, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(ln.Shutdown(drain), b.Close(drain), ops.Close())
}

// status is what a broker says of itself.
type status struct {
	Leads    bool
	Size     uint64
	NotReady string
	LogKeys  []string
}

func (c *signerChild) run(ctx context.Context) error {
	s, err := signer.Start(ctx, signer.Config{DSN: c.DSN, Listen: c.Listen, Logger: childLogger(), Clock: func() time.Time { return time.Now().Add(-c.Late) }})
	if err != nil {
		return err
	}
	ops := &http.Server{Addr: c.Ops, Handler: s.Ops(), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- ops.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(s.Stop(stop), ops.Close())
}
