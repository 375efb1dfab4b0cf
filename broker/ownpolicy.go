package broker

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ownPolicy is how the log knows its own checkpoints. They carry the signatures of the versions of the key that were in force then, and the custodian may have retired all of these since, without
// the broker or while it was down: so the versions that the log itself told of (key@v1) count, too. Nobody signs with them any more, and a checkpoint is adopted only if store and tree extend it.
type ownPolicy struct {
	mu     sync.Mutex
	vkeys  []string // in force when it was made
	policy *proof.Policy
}

// checkpointNote begins the notes about versions of the checkpoint key; see keyNote.
const checkpointNote = "key checkpoint."

func (b *Broker) logPolicy(ctx context.Context) (*proof.Policy, error) {
	vkeys, err := b.LogKeys(ctx)
	if err != nil {
		return nil, err
	}
	o := &b.own
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.policy != nil && slices.Equal(o.vkeys, vkeys) {
		return o.policy, nil
	}
	notes, err := b.store.Notes(ctx, checkpointNote)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(vkeys)
	for _, n := range notes {
		told, err := parseKeyNote(n)
		if err != nil {
			return nil, err
		}
		vkey, err := note.NewEd25519VerifierKey(b.cfg.Origin, ed25519.PublicKey(told.Public[:]))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(all, vkey) {
			all = append(all, vkey)
		}
	}
	p, err := b.policyOf(all)
	if err != nil {
		return nil, err
	}
	o.vkeys, o.policy = vkeys, p
	return p, nil
}

// policyOf is the policy of the witnesses, if there are some, for a log with these keys.
func (b *Broker) policyOf(vkeys []string) (*proof.Policy, error) {
	if b.cfg.Witnesses == nil {
		return policyOf(vkeys)
	}
	p, err := proof.ParseWitnesses(b.cfg.Witnesses.Policy, vkeys...)
	if err != nil {
		return nil, fmt.Errorf("the policy of the witnesses: %w", err)
	}
	return p, nil
}

// policyOf accepts the signature of any of these keys.
func policyOf(vkeys []string) (*proof.Policy, error) {
	var text strings.Builder
	for _, k := range vkeys {
		fmt.Fprintf(&text, "log %s\n", k)
	}
	text.WriteString("quorum none\n")
	return proof.ParsePolicy([]byte(text.String()))
}

// leaving is how far a part in the log is with that it goes on under a key in force.
type leaving struct {
	mu    sync.Mutex
	begun bool // the entry is given to the log, perhaps
	done  bool
}

// leaveWait is how long a start waits for the log to sign under the keys in force.
const leaveWait = 5 * time.Second

// leaveRetired logs restart@v1 if the last checkpoint has no signature of a key in force: readers who know only those get one, and are told that the operator changed the keys while nobody signed.
// Until that is done, the sweeper tries again.
func (b *Broker) leaveRetired(ctx context.Context) error {
	log := b.part.Load()
	if !log.keys.mu.TryLock() {
		return nil // somebody is at it
	}
	defer log.keys.mu.Unlock()
	if log.keys.done {
		return nil
	}
	vkeys, err := b.LogKeys(ctx)
	if err != nil {
		return err
	}
	p, err := policyOf(vkeys)
	if err != nil {
		return err
	}
	cp := log.Checkpoint()
	if _, err := proof.VerifyCheckpoint(cp.Note(), p); err == nil {
		log.keys.done = true
		return nil
	}
	last, _, err := b.store.LastIndex(ctx)
	if err != nil {
		return err
	}
	if log.keys.begun && uint64(last) >= cp.Size() {
		return nil // it may be among what waits to be signed
	}
	log.keys.begun = true
	b.log.Warn("the key that signed the last checkpoint is retired; the log goes on under the keys in force", "size", cp.Size())
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	a, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{proof.Restart{Reason: "key.retired", Size: cp.Size(), Root: cp.Root()}}})
	if err != nil {
		return err
	}
	log.keys.done = true
	// Receipts are upgraded by what is published.
	if _, err := b.ledger().AwaitPublished(ctx, a.Entries[0].Index); err != nil {
		return unavailable("log.unavailable", "The log can't publish this now.", err)
	}
	return nil
}
