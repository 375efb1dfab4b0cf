package broker

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// What providers get: the receipts of the questions that they were asked, to check that the log says what they were asked and answered (docs/design.md, "Receipt holders check").

// AuthenticateProvider finds the providers to which a client certificate belongs, by its public key, which TLS has shown the caller to hold and their service definitions name: at least one. It must not be changed.
func (b *Broker) AuthenticateProvider(cert *x509.Certificate) ([]string, error) {
	if cert == nil {
		return nil, &Problem{Status: 401, Code: "certificate.missing", Title: "No client certificate was presented.",
			Detail: "Providers identify themselves with a client certificate whose key stands in their service definitions."}
	}
	ids, ok := b.registry.Load().providers[sha256.Sum256(cert.RawSubjectPublicKeyInfo)]
	if !ok {
		return nil, &Problem{Status: 401, Code: "certificate.unknown", Title: "This client certificate is not registered.",
			Detail: "Use one whose key stands in your service definitions (provider.keys), or have the operator put a version with it in force."}
	}
	if now := b.now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, &Problem{Status: 401, Code: "certificate.expired", Title: "This client certificate is not valid now.", Detail: "Renew the certificate; with the same key nothing has to be registered."}
	}
	return ids, nil
}

// Receipts are those of all entries of one disclosure, as its provider may see them. Problem is set instead if there are none yet, or none for this provider.
type Receipts struct {
	ID       store.ID
	Receipts [][]byte // the asked entry's first
	// Erased: somebody's keys were destroyed since, so their receipt names no subject and can't settle.
	Erased  bool
	Problem *Problem
}

// errPending: the log hasn't published the entries yet.
func errPending() *Problem {
	return &Problem{Status: 409, Code: "receipt.pending", Title: "The entries are not published yet.", Detail: "Ask again shortly.", RetryAfter: time.Second}
}

// errInProgress: the request is under way.
func errInProgress() *Problem {
	return &Problem{Status: 409, Code: "disclosure.in_progress", Title: "This disclosure has no outcome yet.", Detail: "Ask again shortly.", RetryAfter: time.Second}
}

// ownerTag is how many bytes at the end of a disclosure's id tell the provider that it is about.
const ownerTag = 4

// newID makes the id of a disclosure. It is a UUIDv7 of which the last 32 bits are random to everybody else, and tell the broker whose it is also before there is a record, and when none can be read any more.
func (b *Broker) newID(provider string) (store.ID, error) {
	v7, err := uuid.NewV7()
	if err != nil {
		return store.ID{}, fmt.Errorf("making an id: %w", err)
	}
	id := store.ID(v7)
	tag, err := b.tagOf(id, provider)
	copy(id[len(id)-ownerTag:], tag[:])
	return id, err
}

func (b *Broker) tagOf(id store.ID, provider string) (tag [ownerTag]byte, err error) {
	sum, err := b.ring.Digest("provider of a disclosure", append(id[:len(id)-ownerTag:len(id)-ownerTag], provider...))
	if err != nil {
		return tag, keysProblem(err)
	}
	copy(tag[:], sum[:])
	return tag, nil
}

// isOf reports whether an id may be one of a disclosure about some of these providers. One in 2^32 of others seems to be.
func (b *Broker) isOf(id store.ID, providers []string) (bool, error) {
	is := 0
	for _, p := range providers {
		tag, err := b.tagOf(id, p)
		if err != nil {
			return false, err
		}
		is |= subtle.ConstantTimeCompare(tag[:], id[len(id)-ownerTag:])
	}
	return is == 1, nil
}

// ProviderReceipts returns, for each id, the receipts of all its entries at their best by now, narrowed to what a provider sees. Ids that never were, those of other providers, and those for which nobody
// was asked have one form; the first two are told by the id alone, so that nothing is looked up. An error concerns all of them.
func (b *Broker) ProviderReceipts(ctx context.Context, providers []string, ids []store.ID) ([]Receipts, error) {
	policy, err := b.logPolicy(ctx)
	if err != nil {
		return nil, keysProblem(err)
	}
	out := make([]Receipts, len(ids))
	rows := make([][]store.PlacedRecord, len(ids))
	var parts []keys.PersonPart
	for i, id := range ids {
		out[i].ID = id
		if mine, err := b.isOf(id, providers); err != nil {
			return nil, err
		} else if !mine {
			out[i].Problem = errNoDisclosure()
			continue
		}
		if rows[i], err = b.recordsFor(ctx, id); err != nil {
			out[i].Problem = AsProblem(err)
			continue
		}
		for k := range rows[i] {
			if r := &rows[i][k]; len(r.Person) > 0 {
				parts = append(parts, keys.PersonPart{Owner: r.Owner, AD: r.Owner[:], Blob: r.Person})
			}
		}
	}
	// One call to the custodian for all keys; what is wrong with a single record is found again below.
	persons, _, err := b.ring.OpenPersons(ctx, parts)
	if err != nil {
		return nil, keysProblem(err)
	}
	for _, p := range persons {
		clear(p)
	}
	for i := range out {
		if out[i].Problem != nil {
			continue
		}
		if err := b.receiptsFrom(ctx, providers, policy, rows[i], &out[i]); err != nil {
			out[i].Receipts, out[i].Problem = nil, AsProblem(err)
			if out[i].Problem.Status >= 500 {
				b.log.Error("no receipts for a provider", "disclosure", uuid.UUID(ids[i]), "providers", providers, "error", err)
			}
		}
	}
	return out, nil
}

// recordsFor reads the records of a disclosure that has an outcome and is published.
func (b *Broker) recordsFor(ctx context.Context, id store.ID) ([]store.PlacedRecord, error) {
	d, err := b.store.Disclosure(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoDisclosure()
	}
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	if !d.Done {
		if b.damage.has(d.Seq) {
			return nil, damagedProblem()
		}
		return nil, errInProgress()
	}
	rows, err := b.store.Records(ctx, d.Seq)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	if len(rows) == 0 {
		return nil, errNoDisclosure()
	}
	return rows, nil
}

// receiptsFrom makes the receipts from rows that were read a moment ago, and from others if a delay ended since.
func (b *Broker) receiptsFrom(ctx context.Context, providers []string, policy *proof.Policy, rows []store.PlacedRecord, to *Receipts) error {
	err := b.receiptsFor(ctx, providers, policy, rows, to)
	if errors.Is(err, errDelayEnded) {
		if rows, err = b.recordsFor(ctx, to.ID); err == nil {
			err = b.receiptsFor(ctx, providers, policy, rows, to)
		}
	}
	return err
}

func (b *Broker) receiptsFor(ctx context.Context, providers []string, policy *proof.Policy, rows []store.PlacedRecord, to *Receipts) error {
	to.Receipts, to.Erased = nil, false
	last := slices.MaxFunc(rows, func(x, y store.PlacedRecord) int { return int(x.Index) - int(y.Index) }).Index
	for i := range rows {
		rec, err := b.openEntry(ctx, &rows[i])
		if errors.Is(err, keys.ErrNoKey) {
			return &Problem{Status: 410, Code: "disclosure.retired", Title: "The retention of this disclosure has ended.", Detail: "Its details were destroyed; your receipts remain valid."}
		}
		if err != nil {
			return keysProblem(err)
		}
		o := rec.Open(proof.ReaderProvider)
		if !slices.Contains(providers, o.Text(proof.DisclosureProvider)) || o.Text(proof.DisclosureOutcome) == proof.OutcomeDenied {
			return errNoDisclosure()
		}
		if o.Text(proof.DisclosureID) != uuid.UUID(to.ID).String() || (o.Text(proof.DisclosureRole) == proof.RoleAsked) != (i == 0) {
			return fmt.Errorf("record %d is not one of disclosure %v: %w", rows[i].Index, uuid.UUID(to.ID), keys.ErrAltered)
		}
		if cp, ok := b.ledger().Published(); !ok || uint64(last) >= cp.Size() {
			return errPending()
		}
		to.Erased = to.Erased || rec.Erased()
		receipt, err := b.ledger().Receipt(ctx, rows[i].Index, o)
		if err != nil {
			return unavailable("log.unavailable", "The log can't give the receipts now.", err)
		}
		// What is handed out is verified first.
		if _, err := receipt.Verify(policy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
			return unavailable("log.unproven", "The log gave no valid receipt.", err)
		}
		text, err := receipt.AppendText(nil)
		if err != nil {
			return err
		}
		to.Receipts = append(to.Receipts, text)
	}
	return nil
}

// A KeyProof shows that the log has a key@v1 entry.
type KeyProof struct {
	Entry     []byte // its text
	TLogProof []byte // c2sp.org/tlog-proof@v1
}

// IntentProofs returns the key@v1 entries of the intent keys in force, newest first, each with its proof: providers verify the log's word, not ours.
func (b *Broker) IntentProofs(ctx context.Context) ([]KeyProof, error) {
	ks, err := b.IntentKeys(ctx)
	if err != nil {
		return nil, err
	}
	var indexes []proof.Index
	for _, k := range ks {
		at, ok, err := b.store.NotedAt(ctx, keyNote(intentKeyEntry(k, proof.Active)))
		if err != nil {
			return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
		}
		if ok {
			indexes = append(indexes, at)
		}
	}
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	proven, err := b.ledger().Prove(wait, indexes)
	if err != nil {
		return nil, unavailable("log.unavailable", "The log can't prove the keys now.", err)
	}
	out := make([]KeyProof, len(proven.Entries))
	for i, p := range proven.Entries {
		out[i] = KeyProof{Entry: p.Text, TLogProof: proof.AppendTLogProof(nil, p, proven.Checkpoint.Note())}
	}
	return out, nil
}
