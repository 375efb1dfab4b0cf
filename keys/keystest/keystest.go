// Package keystest gives other packages what they need to test with keys: an in-memory KeyStore, a cheap Custodian (the real embedded keystore, with a key file instead
// of a slow passphrase), a Ring of both, and the suite that every Custodian must pass.
//
// Nothing here is for production: the Store forgets everything when the process ends.
package keystest

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystore"
)

// NewCustodian returns an open embedded keystore in a directory of the test. It closes itself.
func NewCustodian(tb testing.TB) *keystore.Keystore {
	tb.Helper()
	dir := tb.TempDir()
	cfg := keystore.Config{Path: filepath.Join(dir, "keystore"), KeyFile: filepath.Join(dir, "key")}
	if err := keystore.CreateKeyFile(cfg.KeyFile); err != nil {
		tb.Fatal(err)
	}
	if err := keystore.Create(cfg); err != nil {
		tb.Fatal(err)
	}
	k, err := keystore.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = k.Close() })
	return k
}

// NewRing returns a Ring over a new Custodian and Store, with cfg's other fields; fields that cfg sets are kept.
func NewRing(tb testing.TB, cfg keys.Config) *keys.Ring {
	tb.Helper()
	if cfg.Custodian == nil {
		cfg.Custodian = NewCustodian(tb)
	}
	if cfg.Store == nil {
		cfg.Store = NewStore()
	}
	r, err := keys.New(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// Store is a KeyStore in memory.
type Store struct {
	mu   sync.Mutex
	fail func(op string, done bool) error
	rows map[keys.KeyID]keys.StoredKey
}

var _ keys.KeyStore = (*Store)(nil)

// NewStore returns an empty store.
func NewStore() *Store { return &Store{rows: map[keys.KeyID]keys.StoredKey{}} }

// SetFail sets what is asked before (done false) and after (done true) each operation, which is named like its method; an error becomes the operation's. So a write that fails,
// and a write that fails but persists, can both be had. Nil: nothing fails.
func (s *Store) SetFail(f func(op string, done bool) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Rows returns a copy of all rows by increasing ID.
func (s *Store) Rows() []keys.StoredKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list(func(*keys.StoredKey) bool { return true })
}

// Bytes returns everything that the store holds, as a thief of its disk would find it.
func (s *Store) Bytes() []byte {
	var b bytes.Buffer
	for _, k := range s.Rows() {
		fmt.Fprintf(&b, "%s|%s|%x|%s|", k.ID, k.Kind, k.Owner[:], k.Period)
		b.Write(k.Wrapped)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Put stores rows as they are, without asking anything: for tests that alter or restore.
func (s *Store) Put(rows ...keys.StoredKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range rows {
		s.rows[k.ID] = copyRow(k)
	}
}

// SaveFresh saves a row of SubjectKey as a caller's own transaction would; nil is no error.
func (s *Store) SaveFresh(fresh ...*keys.StoredKey) error {
	for _, k := range fresh {
		if k == nil {
			continue
		}
		if err := s.SaveKeys(context.Background(), []keys.StoredKey{*k}); err != nil {
			return err
		}
	}
	return nil
}

func copyRow(k keys.StoredKey) keys.StoredKey {
	k.Wrapped = bytes.Clone(k.Wrapped)
	return k
}

func (s *Store) list(want func(*keys.StoredKey) bool) []keys.StoredKey {
	var out []keys.StoredKey
	for _, k := range s.rows {
		if want(&k) {
			out = append(out, copyRow(k))
		}
	}
	slices.SortFunc(out, func(a, b keys.StoredKey) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// do asks fail outside the lock, so that it may use the store.
func (s *Store) do(ctx context.Context, op string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(op, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if err == nil && fail != nil {
		err = fail(op, true)
	}
	return err
}

// LoadKeys implements keys.KeyStore.
func (s *Store) LoadKeys(ctx context.Context, kind keys.Kind, owner keys.Owner, period string) (out []keys.StoredKey, err error) {
	err = s.do(ctx, "LoadKeys", func() error {
		out = s.list(func(k *keys.StoredKey) bool { return k.Kind == kind && k.Owner == owner && k.Period == period })
		return nil
	})
	return out, err
}

// FindKeys implements keys.KeyStore.
func (s *Store) FindKeys(ctx context.Context, ids []keys.KeyID) (out []keys.StoredKey, err error) {
	err = s.do(ctx, "FindKeys", func() error {
		for _, id := range ids {
			if k, ok := s.rows[id]; ok {
				out = append(out, copyRow(k))
			}
		}
		return nil
	})
	return out, err
}

// ListKeys implements keys.KeyStore.
func (s *Store) ListKeys(ctx context.Context, kind keys.Kind, after keys.KeyID, limit int) (out []keys.StoredKey, err error) {
	err = s.do(ctx, "ListKeys", func() error {
		out = s.list(func(k *keys.StoredKey) bool {
			return (kind == "" || k.Kind == kind) && bytes.Compare(k.ID[:], after[:]) > 0
		})
		out = out[:min(len(out), limit)]
		return nil
	})
	return out, err
}

// SaveKeys implements keys.KeyStore.
func (s *Store) SaveKeys(ctx context.Context, ks []keys.StoredKey) error {
	return s.do(ctx, "SaveKeys", func() error {
		for i := range ks {
			if _, ok := s.rows[ks[i].ID]; ok {
				return fmt.Errorf("keystest: key %s is stored already", ks[i].ID)
			}
			if !ks[i].Owner.IsZero() {
				continue
			}
			for _, k := range s.rows {
				if k.Owner.IsZero() && k.Kind == ks[i].Kind && k.Period == ks[i].Period {
					return fmt.Errorf("keystest: %w", keys.ErrKeyExists)
				}
			}
		}
		for i := range ks {
			s.rows[ks[i].ID] = copyRow(ks[i])
		}
		return nil
	})
}

// ReplaceKeys implements keys.KeyStore.
func (s *Store) ReplaceKeys(ctx context.Context, ks []keys.StoredKey) error {
	return s.do(ctx, "ReplaceKeys", func() error {
		for i := range ks {
			if k, ok := s.rows[ks[i].ID]; ok {
				k.Wrapped = bytes.Clone(ks[i].Wrapped)
				s.rows[k.ID] = k
			}
		}
		return nil
	})
}

// DestroyKeys implements keys.KeyStore.
func (s *Store) DestroyKeys(ctx context.Context, ids []keys.KeyID) error {
	return s.do(ctx, "DestroyKeys", func() error {
		for _, id := range ids {
			delete(s.rows, id)
		}
		return nil
	})
}
