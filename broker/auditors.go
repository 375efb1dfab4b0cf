package broker

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// auditorKeyEntry is the public trace of an auditor: the digest of the key with which they cosign. With a new certificate alone the key in force is stated once more, so that no change is without an entry.
func auditorKeyEntry(id string, k store.AuditorKey) proof.Entry {
	return proof.KeyChanged{Key: "auditor." + id, Use: proof.UseAuditor, State: proof.Status(k.State), Public: proof.AuditorKey(k.VKey)}
}

// AddAuditor registers an accredited auditor with their client certificate and the Ed25519 key with which they cosign indexes, in the text form of signed notes.
func (b *Broker) AddAuditor(ctx context.Context, id, name string, cert *x509.Certificate, vkey string) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case !proof.IsToken(id) || len("auditor."+id) > 64:
		return invalid("/id", "This can't be the id of an auditor.", "Use lower-case letters, digits, '.', '_' and '-', at most 56.")
	case !readable(name) || len(name) > 200:
		return invalid("/name", "The auditor has no name, or one of over 200 characters.", "Give the official name of the body.")
	}
	reg := b.registry.Load()
	if _, ok := reg.auditors[id]; ok {
		return conflict("auditor.exists", fmt.Sprintf("There is an auditor %q already.", id), "Use regard auditor rotate for a new certificate or key.")
	}
	c, err := b.newKey(reg, cert)
	if err != nil {
		return err
	}
	k, err := b.newAuditorKey(ctx, reg, vkey)
	if err != nil {
		return err
	}
	if err := b.publishKey(ctx, vkey); err != nil {
		return err
	}
	a := store.Auditor{ID: id, Name: name, State: store.Active, Certificates: []store.AgencyKey{c}, Keys: []store.AuditorKey{k}}
	return b.govern(ctx, &store.AuditorChange{Auditor: a}, auditorKeyEntry(id, k))
}

// publishKey puts a verification key where its digest in the log leads: whoever checks a statement finds it there.
func (b *Broker) publishKey(ctx context.Context, vkey string) error {
	if _, err := b.ledger().PutBlob(ctx, []byte(vkey)); err != nil {
		return unavailable("log.unavailable", "The key can't be published now.", err)
	}
	return nil
}

func (b *Broker) newAuditorKey(ctx context.Context, reg *registry, vkey string) (store.AuditorKey, error) {
	k := store.AuditorKey{VKey: vkey, State: store.Active}
	p, err := b.logPolicy(ctx)
	if err != nil {
		return k, unavailable("keys.unavailable", "The log's keys, with which this one is compared, can't be read now.", err)
	}
	const own = "Give the key that the auditor made for this (regard-audit keygen)."
	if name, _, _ := strings.Cut(vkey, "+"); name == b.cfg.Origin || slices.ContainsFunc(p.LogKeys(), func(log string) bool { return sameKey(log, vkey) }) {
		return k, invalid("/key", "This is a key of the log, or has its name: what it signs is no word of an auditor.", own)
	}
	if slices.ContainsFunc(p.Witnesses(), func(w proof.Witness) bool { return sameKey(w.VKey, vkey) }) {
		return k, invalid("/key", "This is the key of a witness: who cosigns the log has another key as an auditor.", own)
	}
	if _, err := note.NewVerifier(vkey); err != nil || len(vkey) > 512 {
		return k, invalid("/key", "This is not a verification key.", "Give the Ed25519 key in the text form of signed notes (name+id+base64), as regard-audit keygen prints it.")
	}
	for _, a := range reg.auditors {
		if slices.ContainsFunc(a.Keys, func(old store.AuditorKey) bool { return old.VKey == vkey }) {
			return k, conflict("auditor.key.exists", "This verification key is registered already, or was ended.", "Make a new key (regard-audit keygen).")
		}
	}
	return k, nil
}

// sameKey reports whether two verification keys have the same public key, under whatever name and for whatever sort of signature.
func sameKey(x, y string) bool {
	k := publicKey(x)
	return k != "" && k == publicKey(y)
}

// publicKey is the last part of a verification key (name+id+base64), without the byte that says its sort; empty if there is none.
func publicKey(vkey string) string {
	parts := strings.SplitN(vkey, "+", 3)
	b, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 || len(b) < 2 {
		return ""
	}
	return string(b[1:])
}

// RotateAuditor registers a new certificate, a new key or both (nil and empty: none) and retires the earlier ones of the same sort, at once or, with keepOld, not yet.
func (b *Broker) RotateAuditor(ctx context.Context, id string, cert *x509.Certificate, vkey string, keepOld bool) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	reg := b.registry.Load()
	a, ok := reg.auditors[id]
	switch {
	case !ok:
		return notFound("auditor", id)
	case a.State != store.Active:
		return conflict("auditor.revoked", "The auditor is revoked.", "Register them anew under another id.")
	case cert == nil && vkey == "":
		return invalid("/certificate", "There is neither a certificate nor a key.", "Give one of them, or both.")
	}
	change := a
	change.Certificates, change.Keys = nil, nil
	var entries []proof.Entry
	if cert != nil {
		c, err := b.newKey(reg, cert)
		if err != nil {
			return err
		}
		change.Certificates = append(change.Certificates, c)
		for _, old := range a.Certificates {
			if !keepOld && old.State == store.Active {
				old.State = store.Retired
				change.Certificates = append(change.Certificates, old)
			}
		}
	}
	if vkey != "" {
		k, err := b.newAuditorKey(ctx, reg, vkey)
		if err != nil {
			return err
		}
		if err := b.publishKey(ctx, vkey); err != nil {
			return err
		}
		change.Keys = append(change.Keys, k)
		entries = append(entries, auditorKeyEntry(id, k))
		for _, old := range a.Keys {
			if !keepOld && old.State == store.Active {
				old.State = store.Retired
				change.Keys = append(change.Keys, old)
				entries = append(entries, auditorKeyEntry(id, old))
			}
		}
	}
	if entries == nil {
		for _, k := range a.Keys {
			if k.State == store.Active {
				entries = append(entries, auditorKeyEntry(id, k))
			}
		}
	}
	if entries == nil {
		return invalid("/key", "The auditor has no key in force.", "A backup was restored that didn't have it: give their key, too.")
	}
	return b.govern(ctx, &store.AuditorChange{Auditor: change}, entries...)
}

// RevokeAuditor ends all that an auditor may do. What they cosigned stands.
func (b *Broker) RevokeAuditor(ctx context.Context, id string) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	a, ok := b.registry.Load().auditors[id]
	if !ok {
		return notFound("auditor", id)
	}
	if a.State == store.Revoked {
		return nil
	}
	change := a
	change.State, change.Certificates, change.Keys = store.Revoked, nil, nil
	var entries []proof.Entry
	for _, c := range a.Certificates {
		c.State = store.Revoked
		change.Certificates = append(change.Certificates, c)
	}
	for _, k := range a.Keys {
		k.State = store.Revoked
		change.Keys = append(change.Keys, k)
		entries = append(entries, auditorKeyEntry(id, k))
	}
	return b.govern(ctx, &store.AuditorChange{Auditor: change}, entries...)
}

// Auditors lists the auditors by id.
func (b *Broker) Auditors() []store.Auditor {
	reg := b.registry.Load()
	out := make([]store.Auditor, 0, len(reg.auditors))
	for _, a := range reg.auditors {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y store.Auditor) int { return strings.Compare(x.ID, y.ID) })
	return out
}
