package broker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// Administration: every change is one group of governance entries with its rows in the same transaction, and is in force when the call returns. One at a time.

func notFound(what, id string) *Problem {
	return &Problem{Status: 404, Code: what + ".unknown", Title: fmt.Sprintf("There is no %s %q.", what, id)}
}

func conflict(code, title, detail string) *Problem {
	return &Problem{Status: 409, Code: code, Title: title, Detail: detail}
}

// turns is a lock, of capacity 1, that is waited for as long as a context allows.
type turns chan struct{}

func (t turns) begin(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turns) end() { <-t }

// alone keeps others from doing the same at once, in this broker and in those that share its store.
func (b *Broker) alone(ctx context.Context, here turns, what string) (done func(), err error) {
	if err := here.begin(ctx); err != nil {
		return nil, unavailable("store.unavailable", "Somebody else is changing the same at this broker.", err)
	}
	if b.member == nil {
		return here.end, nil
	}
	there, err := b.member.Exclusive(ctx, what)
	if err != nil {
		here.end()
		return nil, unavailable("store.unavailable", "The other brokers can't be kept from changing the same now.", err)
	}
	return func() { there(); here.end() }, nil
}

// governing begins a change of the registry, from what it is now: another broker may have changed it.
func (b *Broker) governing(ctx context.Context) (done func(), err error) {
	if done, err = b.alone(ctx, b.admin, "registry"); err != nil || b.member == nil {
		return done, err
	}
	if err := b.refresh(ctx); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// govern logs entries with what is attached to them and puts the registry that follows in force.
func (b *Broker) govern(ctx context.Context, attach store.Attachment, entries ...proof.Entry) error {
	ctx = context.WithoutCancel(ctx)
	_, err := b.append(ctx, ledger.Group{Entries: entries, Attach: attach})
	// Also after an error: the change may be stored, and what stands in the log must be in force.
	if rerr := b.refresh(ctx); err == nil {
		err = rerr
	}
	return err
}

// agencyKeyEntry is the public trace of a certificate: its key's digest under the agency's name.
func agencyKeyEntry(id string, k store.AgencyKey) proof.Entry {
	return proof.KeyChanged{Key: "agency." + id, Use: proof.UseAgency, State: proof.Status(k.State), Public: k.SPKI}
}

func keyOf(cert *x509.Certificate) store.AgencyKey {
	return store.AgencyKey{SPKI: sha256.Sum256(cert.RawSubjectPublicKeyInfo), NotAfter: cert.NotAfter.UTC(), State: store.Active}
}

// AddAgency registers an agency with its first client certificate.
func (b *Broker) AddAgency(ctx context.Context, id, name, siret string, cert *x509.Certificate) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	switch {
	case !proof.IsToken(id) || len("agency."+id) > 64:
		return invalid("/id", "This can't be the id of an agency.", "Use lower-case letters, digits, '.', '_' and '-', at most 57.")
	case !readable(name) || len(name) > 200:
		return invalid("/name", "The agency has no name, or one of over 200 characters.", "Give its official name.")
	case proof.SIRET(siret) != nil:
		return invalid("/siret", "This is not a SIRET.", "Give the 14 digits; the check digit must be right.")
	}
	reg := b.registry.Load()
	if _, ok := reg.agencies[id]; ok {
		return conflict("agency.exists", fmt.Sprintf("There is an agency %q already.", id), "Use regard agency rotate for a new certificate.")
	}
	k, err := b.newKey(reg, cert)
	if err != nil {
		return err
	}
	a := store.Agency{ID: id, Name: name, SIRET: siret, State: store.Active, Keys: []store.AgencyKey{k}}
	return b.govern(ctx, &store.AgencyChange{Agency: a}, agencyKeyEntry(id, k))
}

func errKeyExists() *Problem {
	return conflict("certificate.key.exists", "This certificate's key is registered already, or was revoked.", "Make a new key for each certificate.")
}

// newKey is that of a certificate which nobody has used yet, agency or auditor.
func (b *Broker) newKey(reg *registry, cert *x509.Certificate) (store.AgencyKey, error) {
	if cert == nil {
		return store.AgencyKey{}, invalid("/certificate", "No certificate.", "Give the client certificate (PEM).")
	}
	k := keyOf(cert)
	if !b.now().Before(k.NotAfter) {
		return k, invalid("/certificate", "The certificate has expired.", "Give one that is valid.")
	}
	for _, a := range reg.agencies {
		if slices.ContainsFunc(a.Keys, func(old store.AgencyKey) bool { return old.SPKI == k.SPKI }) {
			return k, errKeyExists()
		}
	}
	for _, a := range reg.auditors {
		if slices.ContainsFunc(a.Certificates, func(old store.AgencyKey) bool { return old.SPKI == k.SPKI }) {
			return k, errKeyExists()
		}
	}
	return k, nil
}

// RotateAgency registers a new certificate and retires the earlier ones, at once or, with keepOld, not yet.
func (b *Broker) RotateAgency(ctx context.Context, id string, cert *x509.Certificate, keepOld bool) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	reg := b.registry.Load()
	a, ok := reg.agencies[id]
	if !ok {
		return notFound("agency", id)
	}
	if a.State != store.Active {
		return conflict("agency.revoked", "The agency is revoked.", "Register it anew under another id.")
	}
	k, err := b.newKey(reg, cert)
	if err != nil {
		return err
	}
	change := a
	change.Keys = []store.AgencyKey{k}
	entries := []proof.Entry{agencyKeyEntry(id, k)}
	for _, old := range a.Keys {
		if !keepOld && old.State == store.Active {
			old.State = store.Retired
			change.Keys = append(change.Keys, old)
			entries = append(entries, agencyKeyEntry(id, old))
		}
	}
	return b.govern(ctx, &store.AgencyChange{Agency: change}, entries...)
}

// RevokeAgency ends all that an agency may do.
func (b *Broker) RevokeAgency(ctx context.Context, id string) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	a, ok := b.registry.Load().agencies[id]
	if !ok {
		return notFound("agency", id)
	}
	if a.State == store.Revoked {
		return nil
	}
	change := a
	change.State, change.Keys = store.Revoked, nil
	var entries []proof.Entry
	for _, k := range a.Keys {
		if k.State != store.Revoked {
			k.State = store.Revoked
			change.Keys = append(change.Keys, k)
			entries = append(entries, agencyKeyEntry(id, k))
		}
	}
	return b.govern(ctx, &store.AgencyChange{Agency: change}, entries...)
}

// SetAgencyAddresses says where mails about contests go: a contact of the agency and its data protection officer; empty: nowhere. They are no part of the log: who may ask doesn't depend on them.
func (b *Broker) SetAgencyAddresses(ctx context.Context, id, contact, dpo string) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	a, ok := b.registry.Load().agencies[id]
	if !ok {
		return notFound("agency", id)
	}
	if a.State != store.Active {
		return conflict("agency.revoked", "The agency is revoked.", "Register it anew under another id.")
	}
	for parameter, s := range map[string]string{"/contact": contact, "/dpo": dpo} {
		if s == "" {
			continue
		}
		if _, err := mail.ParseAddress(s); err != nil {
			return invalid(parameter, "This is not an address of mail.", "Give a role's address such as dpo@ville.example.")
		}
	}
	if err := b.store.SetAgencyAddresses(ctx, id, contact, dpo); err != nil {
		return storeProblem(err)
	}
	return b.refresh(ctx)
}

// Agencies lists the agencies by id.
func (b *Broker) Agencies() []store.Agency {
	reg := b.registry.Load()
	out := make([]store.Agency, 0, len(reg.agencies))
	for _, a := range reg.agencies {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y store.Agency) int { return strings.Compare(x.ID, y.ID) })
	return out
}

// retentionMargin is how long before the end of its retention a delay has to be over.
const retentionMargin = 31 * 24 * time.Hour

// PutAgreement puts an agreement in force and returns its version: 1, or one more than the last of that id. The version and state of a are ignored.
func (b *Broker) PutAgreement(ctx context.Context, a policy.Agreement) (int64, error) {
	done, err := b.governing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	reg := b.registry.Load()
	a.Version, a.State = 1, policy.AgreementActive
	if old := reg.byID[a.ID]; old != nil {
		if old.agreement.Agency != a.Agency || old.agreement.Service != a.Service {
			return 0, conflict("agreement.exists", fmt.Sprintf("Agreement %q is between another agency and service.", a.ID), "Choose another id.")
		}
		a.Version = old.agreement.Version + 1
	}
	if _, ok := reg.agencies[string(a.Agency)]; !ok {
		return 0, notFound("agency", string(a.Agency))
	}
	s := reg.services[string(a.Service)]
	if s == nil {
		return 0, notFound("service", string(a.Service))
	}
	for _, o := range a.Obligations {
		// Fail closed: what this broker can't fulfil isn't promised.
		switch {
		case o == policy.ObligationNotifyPerson:
			return 0, invalid("/obligations", fmt.Sprintf("This broker can't fulfil %q: it can tell only people who have an account.", o), "Leave it out, or wait for a version that can.")
		case o == policy.ObligationWaitForWitnesses && b.witnesses == nil:
			return 0, invalid("/obligations", fmt.Sprintf("This broker can't fulfil %q: it has no witnesses.", o), "Configure witnesses, or leave it out.")
		}
	}
	if d := a.Deferral; d != nil {
		for _, t := range []struct{ at, value string }{{"/deferral/authority", d.Authority}, {"/deferral/article", d.Article}, {"/deferral/reference", d.Reference}} {
			if t.value != "" && !readable(t.value) {
				return 0, invalid(t.at, "There is nothing that can be read.", "Say in words who orders the delay, under which article, and where that is written: the person reads the first two.")
			}
		}
		// What is delayed is opened while its month is kept: retention counts from the end of a month, and a month is there to open it.
		if slices.Contains(a.Obligations, policy.ObligationNotifyPerson) {
			return 0, invalid("/deferral", "The person can't be told at once and later.", "Leave out notify_person, or the deferral.")
		}
		if longest := int64((b.cfg.Retention - retentionMargin) / (24 * time.Hour)); d.Days > longest {
			return 0, invalid("/deferral/days", "The delay is longer than records can be kept closed.", fmt.Sprintf("Give at most %d days: the retention, less a month to open them in.", max(longest, 0)))
		}
	}
	for _, scope := range a.Scopes {
		if _, ok := s.scopes[scope]; !ok {
			return 0, invalid("/scopes", fmt.Sprintf("The service has no scope %q.", scope), "regard service list shows its scopes.")
		}
	}
	return a.Version, b.putAgreement(ctx, &a)
}

func (b *Broker) putAgreement(ctx context.Context, a *policy.Agreement) error {
	text, err := a.Canonical()
	if err != nil {
		return &Problem{Status: 400, Code: "agreement.invalid", Title: "The agreement is not valid.", Detail: err.Error(), err: err}
	}
	digest := sha256.Sum256(text)
	if _, err := b.ledger().PutBlob(ctx, text); err != nil {
		return unavailable("log.unavailable", "The agreement can't be published now.", err)
	}
	return b.govern(ctx,
		&store.AgreementChange{Agreement: store.Agreement{ID: string(a.ID), Version: a.Version, Agency: string(a.Agency), Service: string(a.Service), State: string(a.State), JSON: text, Digest: digest}},
		proof.AgreementChanged{Agreement: string(a.ID), Version: uint64(a.Version), State: proof.Status(a.State), Digest: digest})
}

// RevokeAgreement ends an agreement: a new version of it that is revoked.
func (b *Broker) RevokeAgreement(ctx context.Context, id string) (int64, error) {
	done, err := b.governing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	old := b.registry.Load().byID[policy.AgreementID(id)]
	if old == nil {
		return 0, notFound("agreement", id)
	}
	if old.agreement.State == policy.AgreementRevoked {
		return old.agreement.Version, nil
	}
	a := *old.agreement
	a.Version, a.State = a.Version+1, policy.AgreementRevoked
	return a.Version, b.putAgreement(ctx, &a)
}

// Agreements lists the newest version of each agreement by id.
func (b *Broker) Agreements() []policy.Agreement {
	reg := b.registry.Load()
	out := make([]policy.Agreement, 0, len(reg.byID))
	for _, e := range reg.byID {
		out = append(out, *e.agreement)
	}
	slices.SortFunc(out, func(x, y policy.Agreement) int { return strings.Compare(string(x.ID), string(y.ID)) })
	return out
}

// readableTitles says whether there is something to see in all that pages show of a definition.
func readableTitles(def *service.Definition) bool {
	shown := []string{def.Title.FR, def.Title.EN, def.Provider.Name}
	for _, g := range def.Scopes {
		shown = append(shown, g.Title.FR, g.Title.EN)
	}
	return !slices.ContainsFunc(shown, func(s string) bool { return !readable(s) })
}

// PutService puts a service definition in force. The same file again changes nothing; a changed one needs a greater version.
func (b *Broker) PutService(ctx context.Context, yaml []byte) (*service.Definition, error) {
	done, err := b.governing(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	def, err := service.Parse(yaml)
	if err != nil {
		return nil, &Problem{Status: 400, Code: "service.invalid", Title: "The service definition is not valid.", Detail: err.Error(), err: err}
	}
	if def.Development() && !b.cfg.Development {
		return nil, &Problem{Status: 400, Code: "service.insecure", Title: "The service's endpoint is not https.", Detail: "Plain http is for development brokers."}
	}
	if def.Release == service.ReleaseWitnessed && b.witnesses == nil {
		return nil, &Problem{Status: 400, Code: "service.witnesses", Title: "The service is released on witnessed receipts only (release: witnessed), and this broker has no witnesses.", Detail: "Configure witnesses, or choose release: signed."}
	}
	digest := def.Digest()
	if old, ok := b.registry.Load().latest[string(def.ID)]; ok {
		if old.Digest == digest && old.State == store.Active {
			return def, nil
		}
		if def.Version < old.Version || def.Version == old.Version && old.Digest != digest {
			return nil, conflict("service.version", fmt.Sprintf("Version %d of service %s stands in the log with another content.", old.Version, def.ID), "Increase the version of the changed definition.")
		}
	}
	if !readableTitles(def) {
		return nil, &Problem{Status: 400, Code: "service.invalid", Title: "The service definition is not valid.", Detail: "A title, or the name of the provider, holds nothing that can be read."}
	}
	if _, err := b.ledger().PutBlob(ctx, yaml); err != nil {
		return nil, unavailable("log.unavailable", "The definition can't be published now.", err)
	}
	return def, b.govern(ctx,
		&store.ServiceChange{Service: store.Service{ID: string(def.ID), Version: def.Version, State: store.Active, YAML: yaml, Digest: digest}},
		proof.ServiceChanged{Service: string(def.ID), Version: uint64(def.Version), State: proof.Active, Digest: digest})
}

// WithdrawService ends a service.
func (b *Broker) WithdrawService(ctx context.Context, id string) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	old := b.registry.Load().services[id]
	if old == nil {
		return notFound("service", id)
	}
	row := old.row
	row.State = store.Withdrawn
	return b.govern(ctx, &store.ServiceChange{Service: row},
		proof.ServiceChanged{Service: id, Version: uint64(row.Version), State: proof.Withdrawn, Digest: row.Digest})
}

// Definitions lists the services in force by id.
func (b *Broker) Definitions() []*service.Definition {
	reg := b.registry.Load()
	out := make([]*service.Definition, 0, len(reg.services))
	for _, s := range reg.services {
		out = append(out, s.def)
	}
	slices.SortFunc(out, func(x, y *service.Definition) int { return strings.Compare(string(x.ID), string(y.ID)) })
	return out
}

// activate logs a policy bundle before the first decision under it; the one that was in force last needs no new entry.
func (b *Broker) activate(ctx context.Context, a policy.Activation) error {
	last, err := b.store.LastBundle(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && last.Digest == a.Digest {
		return nil
	}
	if _, err := b.ledger().PutBlob(ctx, a.Bytes); err != nil {
		return fmt.Errorf("publishing the bundle: %w", err)
	}
	_, err = b.append(ctx, ledger.Group{
		Entries: []proof.Entry{proof.PolicyActivated{Revision: a.Revision, Bundle: proof.Hash(a.Digest)}},
		Attach:  &store.BundleActivation{Bundle: store.Bundle{Digest: a.Digest, Revision: a.Revision, Bytes: a.Bytes}},
	})
	if err != nil {
		// It may be stored all the same, and then it is in the log: the bundle has to be in force.
		if last, lerr := b.store.LastBundle(context.WithoutCancel(ctx)); lerr == nil && last.Digest == a.Digest {
			return nil
		}
	}
	return err
}

// ReloadPolicy reads the policy bundle anew. If it can't be used, the one in force stays; if it only couldn't be recorded, it is tried again until it can. Once begun, it doesn't depend on the caller any
// more: an entry that waits for its place comes into the log all the same, and what stands there must be in force.
func (b *Broker) ReloadPolicy(ctx context.Context) error {
	ctx, cancel := b.untilStopping(context.WithoutCancel(ctx))
	defer cancel()
	return b.engine.Reload(ctx)
}

// PolicyStatus tells which bundle is in force.
func (b *Broker) PolicyStatus() policy.Status { return b.engine.Status() }
