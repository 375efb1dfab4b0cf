package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// States of registry rows.
const (
	Active    = "active"
	Retired   = "retired"
	Revoked   = "revoked"
	Withdrawn = "withdrawn"
)

// An Agency is a public body that may ask.
type Agency struct {
	ID, Name, SIRET, State string
	Keys                   []AgencyKey
	// Contact and DPO are where mails about contests go; empty: nowhere. They aren't in the log, and no AgencyChange changes them.
	Contact, DPO string
}

// An AgencyKey is a client certificate's key by the SHA-256 of its SubjectPublicKeyInfo.
type AgencyKey struct {
	SPKI     [32]byte
	NotAfter time.Time
	State    string
}

// An Agreement is one version of an agreement: its canonical JSON with what it is looked up by.
type Agreement struct {
	ID      string
	Version int64
	Agency  string
	Service string
	State   string
	JSON    []byte
	Digest  [32]byte
}

// A Service is one version of a service definition.
type Service struct {
	ID      string
	Version int64
	State   string
	YAML    []byte
	Digest  [32]byte
}

// A Bundle is a policy bundle that was in force.
type Bundle struct {
	Digest   [32]byte
	Revision string
	Bytes    []byte
}

// AgencyChange adds or replaces an agency and its keys; it is attached to the first of its key@v1 entries.
type AgencyChange struct{ Agency Agency }

func (c *AgencyChange) apply(t *tx, _ []ledger.Leaf) error {
	t.changed(changedRegistry)
	a := &c.Agency
	now := time.Now().UnixMilli()
	if _, err := t.exec("INSERT INTO agencies (id, name, siret, state, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, siret = excluded.siret, state = excluded.state",
		a.ID, a.Name, a.SIRET, a.State, now); err != nil {
		return err
	}
	for i := range a.Keys {
		k := &a.Keys[i]
		var owner string
		err := classify(t.row("SELECT agency FROM agency_keys WHERE spki = ?", k.SPKI[:]).Scan(&owner))
		if err == nil && owner != a.ID {
			return fmt.Errorf("%w: this certificate's key belongs to another agency", ErrExists)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if _, err := t.exec("INSERT INTO agency_keys (spki, agency, not_after, state, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT (spki) DO UPDATE SET state = excluded.state, not_after = excluded.not_after",
			k.SPKI[:], a.ID, k.NotAfter.UnixMilli(), k.State, now); err != nil {
			return err
		}
	}
	return nil
}

// AgreementChange adds a version of an agreement; it is attached to its agreement@v1 entry.
type AgreementChange struct{ Agreement Agreement }

func (c *AgreementChange) apply(t *tx, leaves []ledger.Leaf) error {
	t.changed(changedRegistry)
	a := &c.Agreement
	_, err := t.exec("INSERT INTO agreements (id, version, agency, service, state, json, digest, log_index) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		a.ID, a.Version, a.Agency, a.Service, a.State, a.JSON, a.Digest[:], int64(leaves[0].Index))
	return err
}

// ServiceChange adds a version of a service; it is attached to its service@v1 entry.
type ServiceChange struct{ Service Service }

func (c *ServiceChange) apply(t *tx, leaves []ledger.Leaf) error {
	t.changed(changedRegistry)
	v := &c.Service
	_, err := t.exec("INSERT INTO services (id, version, state, yaml, digest, log_index) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id, version) DO UPDATE SET state = excluded.state, log_index = excluded.log_index",
		v.ID, v.Version, v.State, v.YAML, v.Digest[:], int64(leaves[0].Index))
	return err
}

// BundleActivation keeps the bundle that a policy@v1 entry names.
type BundleActivation struct{ Bundle Bundle }

func (c *BundleActivation) apply(t *tx, leaves []ledger.Leaf) error {
	t.changed(changedRegistry)
	b := &c.Bundle
	_, err := t.exec("INSERT INTO bundles (digest, revision, bytes, log_index) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET log_index = excluded.log_index",
		b.Digest[:], b.Revision, b.Bytes, int64(leaves[0].Index))
	return err
}

// A Registry is everything that decides who may ask for what, as it stands now.
type Registry struct {
	Agencies   []Agency
	Auditors   []Auditor
	Agreements []Agreement // the newest version of each
	Services   []Service   // the newest version of each
}

// Registry reads the whole registry as of one moment: another broker may be changing it.
func (s *Store) Registry(ctx context.Context) (*Registry, error) {
	snapshot, err := s.r.snapshot(ctx)
	if err != nil {
		return nil, classify(err)
	}
	defer snapshot.Rollback() //nolint:errcheck // it only read
	var reg Registry
	at := map[string]int{}
	err = each(ctx, snapshot, "SELECT id, name, siret, state, contact, dpo FROM agencies ORDER BY id", func(scan func(...any) error) error {
		var a Agency
		err := scan(&a.ID, &a.Name, &a.SIRET, &a.State, &a.Contact, &a.DPO)
		at[a.ID] = len(reg.Agencies)
		reg.Agencies = append(reg.Agencies, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the agencies: %w", err)
	}
	err = each(ctx, snapshot, "SELECT spki, agency, not_after, state FROM agency_keys ORDER BY created, spki", func(scan func(...any) error) error {
		var k AgencyKey
		var spki []byte
		var agency string
		var notAfter int64
		if err := scan(&spki, &agency, &notAfter, &k.State); err != nil {
			return err
		}
		copy(k.SPKI[:], spki)
		k.NotAfter = time.UnixMilli(notAfter).UTC()
		i, ok := at[agency]
		if !ok {
			return fmt.Errorf("%w: a certificate of agency %q, which isn't registered", ErrCorrupt, agency)
		}
		reg.Agencies[i].Keys = append(reg.Agencies[i].Keys, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the agencies' keys: %w", err)
	}
	if reg.Auditors, err = auditors(ctx, snapshot); err != nil {
		return nil, err
	}
	err = each(ctx, snapshot, "SELECT id, version, agency, service, state, json, digest FROM agreements a WHERE version = (SELECT max(version) FROM agreements WHERE id = a.id) ORDER BY id", func(scan func(...any) error) error {
		var a Agreement
		var digest []byte
		err := scan(&a.ID, &a.Version, &a.Agency, &a.Service, &a.State, &a.JSON, &digest)
		copy(a.Digest[:], digest)
		reg.Agreements = append(reg.Agreements, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the agreements: %w", err)
	}
	err = each(ctx, snapshot, "SELECT id, version, state, yaml, digest FROM services s WHERE version = (SELECT max(version) FROM services WHERE id = s.id) ORDER BY id", func(scan func(...any) error) error {
		var v Service
		var digest []byte
		err := scan(&v.ID, &v.Version, &v.State, &v.YAML, &digest)
		copy(v.Digest[:], digest)
		reg.Services = append(reg.Services, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the services: %w", err)
	}
	return &reg, nil
}

// Bundle returns a policy bundle by its digest.
func (s *Store) Bundle(ctx context.Context, digest [32]byte) (Bundle, error) {
	b := Bundle{Digest: digest}
	err := s.r.QueryRowContext(ctx, "SELECT revision, bytes FROM bundles WHERE digest = ?", digest[:]).Scan(&b.Revision, &b.Bytes)
	return b, classify(err)
}

// LastBundle returns the bundle that was activated last, ErrNotFound if there was none.
func (s *Store) LastBundle(ctx context.Context) (Bundle, error) {
	var b Bundle
	var digest []byte
	err := s.r.QueryRowContext(ctx, "SELECT digest, revision, bytes FROM bundles ORDER BY log_index DESC LIMIT 1").Scan(&digest, &b.Revision, &b.Bytes)
	copy(b.Digest[:], digest)
	return b, classify(err)
}

func (s *Store) each(ctx context.Context, query string, fn func(scan func(...any) error) error, args ...any) error {
	return each(ctx, s.r, query, fn, args...)
}

// each calls fn for each row of a query.
func each(ctx context.Context, from interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, query string, fn func(scan func(...any) error) error, args ...any) error {
	rows, err := from.QueryContext(ctx, query, args...)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return classify(err)
		}
	}
	return classify(rows.Err())
}

// A Note remembers that something was logged; it is attached to the entry that says so. ErrExists: it was, perhaps by another broker.
type Note struct{ Name string }

func (n *Note) apply(t *tx, leaves []ledger.Leaf) error {
	t.changed(changedKeys) // what is noted is of keys
	rows, err := t.exec("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", n.Name, leaves[0].Index.String())
	if err == nil && rows != 1 {
		err = fmt.Errorf("%w: it is noted already: %s", ErrExists, n.Name)
	}
	return err
}

// NotedAt returns the log index of the entry to which a note was attached; false if there is no such note.
func (s *Store) NotedAt(ctx context.Context, name string) (proof.Index, bool, error) {
	var value string
	err := classify(s.r.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = ?", name).Scan(&value))
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("%w: the note %q is malformed", ErrCorrupt, name)
	}
	return proof.Index(n), true, nil
}

// Noted says whether a note of this name was stored.
func (s *Store) Noted(ctx context.Context, name string) (bool, error) {
	var n int
	err := s.r.QueryRowContext(ctx, "SELECT count(*) FROM meta WHERE name = ?", name).Scan(&n)
	return n > 0, classify(err)
}
