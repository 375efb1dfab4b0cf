package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Rotation of the root keys. The wrap key: rotate, rewrap, retire. The checkpoint key: rotate (from then on checkpoints carry the signatures of both versions), publish the new verification key, and
// when every reader has it, retire the older one.

// rootProblem says what the operator can do.
func rootProblem(title string, err error) error {
	if errors.Is(err, keys.ErrDenied) {
		return &Problem{Status: 403, Code: "keys.denied", Title: title, err: err,
			Detail: "The keys' custodian refused. In Vault the broker's own role may neither rotate nor retire: that is the operator's role (give its credentials with --role-id-file and --secret-id-file, or see deploy/vault/README.md)."}
	}
	return keysProblem(err)
}

func rootKey(root keys.RootKey) error {
	if root != keys.RootWrap && root != keys.RootCheckpoint {
		return invalid("/root", "There is no such root key.", "The root keys are wrap and checkpoint.")
	}
	return nil
}

// CheckpointKeys lists the versions of the checkpoint key in force, newest first. One that was added in the custodian itself signs from now on.
func (b *Broker) CheckpointKeys(ctx context.Context) ([]keys.PublicKey, error) {
	if err := b.ring.RefreshCheckpointKeys(ctx); err != nil {
		return nil, keysProblem(err)
	}
	ks, err := b.cfg.Custodian.PublicKeys(ctx)
	if err != nil {
		return nil, keysProblem(err)
	}
	return ks, nil
}

// RotateKey adds a version of a root key and returns its number. A new checkpoint key signs from the next checkpoint on, beside the older, and is told in the log.
func (b *Broker) RotateKey(ctx context.Context, root keys.RootKey) (int, error) {
	if err := rootKey(root); err != nil {
		return 0, err
	}
	done, err := b.governing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	version, err := b.cfg.Custodian.Rotate(ctx, root)
	if err != nil {
		return 0, rootProblem("The key can't be rotated.", err)
	}
	b.log.Info("rotated a root key", "key", string(root), "version", version)
	if err := b.ring.RefreshCheckpointKeys(ctx); err != nil {
		b.log.Warn("a rotation shows within a minute only", "error", err)
	} else if err := b.logKeys(ctx); err != nil { // the sweeper does it again
		b.log.Warn("a rotation isn't in the log yet", "error", err)
	}
	return version, nil
}

// RewrapKeys brings all data keys under the newest version of the wrap key, and returns how many it changed.
func (b *Broker) RewrapKeys(ctx context.Context, progress func(seen int)) (int, error) {
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	n, err := b.ring.Rewrap(ctx, progress)
	if err != nil {
		return n, &Problem{Status: 503, Code: "keys.rewrap", Title: "Not all keys could be rewrapped; it can be repeated.", Detail: err.Error(), err: err}
	}
	b.log.Info("rewrapped data keys", "changed", n)
	return n, nil
}

func (b *Broker) untilStopping(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-b.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// RetireKey ends the use of a version of a root key, and of those below it. For the checkpoint key the log says so first. With prepare, it does all but the last step, which is then up to the caller: for
// custodians that don't let the broker do it.
func (b *Broker) RetireKey(ctx context.Context, root keys.RootKey, version int, prepare bool) error {
	if err := rootKey(root); err != nil {
		return err
	}
	if version < 1 {
		return invalid("/version", "There is no such version.", "Versions are numbered from 1.")
	}
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	check := b.wrapUnused
	if root == keys.RootCheckpoint {
		check = b.endCheckpointKey
	}
	if err := check(ctx, version); err != nil || prepare {
		return err
	}
	if err := b.cfg.Custodian.Retire(ctx, root, version+1); err != nil {
		if !errors.Is(err, keys.ErrDenied) && !errors.Is(err, keys.ErrUnavailable) {
			return &Problem{Status: 409, Code: "keys.version", Title: "The version can't be retired.", Detail: err.Error(), err: err}
		}
		return rootProblem("The version can't be retired.", err)
	}
	b.log.Info("retired versions of a root key", "key", string(root), "upto", version)
	return nil
}

// wrapUnused makes sure that no data key needs a version: a pass that finds nothing to rewrap shows that all are under the newest, which the custodian doesn't retire. A request that was under way
// when the key was rotated may hold a key under the older version that it hasn't saved yet, at any broker: what has begun ends first.
func (b *Broker) wrapUnused(ctx context.Context, _ int) error {
	if err := b.landed(ctx); err != nil {
		return err
	}
	n, err := b.RewrapKeys(ctx, nil)
	if err != nil {
		return err
	}
	if n > 0 {
		return conflict("keys.in_use", fmt.Sprintf("%d data keys were still under an older version; they are rewrapped now.", n), "Repeat the command: it retires the version once nothing needs it.")
	}
	return nil
}

// landWait is how long a command waits for the end of what is under way.
const landWait = time.Minute

// landed waits until all keys that are being made now are stored, or never will be: here, at the other brokers, and on their way to the one that leads.
func (b *Broker) landed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, landWait)
	defer cancel()
	waits := []string{"requests at this broker"}
	settled := b.ring.Settled()
	passed := func(context.Context) ([]string, error) { return nil, nil }
	var err error
	if b.member != nil {
		passed, err = b.member.Barrier(ctx)
	}
	if err == nil {
		err = b.until(ctx, func() (bool, error) {
			if !settled() {
				return false, nil
			}
			now, err := passed(ctx)
			if err == nil {
				waits = now
			}
			return err == nil && len(now) == 0, err
		})
	}
	if err != nil {
		return &Problem{Status: 503, Code: "keys.in_flight", Title: "Requests that began before this command are still under way.",
			Detail: fmt.Sprintf("They may need the version: repeat the command when they have ended. It waits for %s. A broker that died is waited for until it hasn't been seen for an hour: it may only be paused.", strings.Join(waits, ", ")), err: err}
	}
	return nil
}

// endCheckpointKey logs the end of the versions up to the given one, if what was signed last can be verified without them.
func (b *Broker) endCheckpointKey(ctx context.Context, version int) error {
	publics, err := b.CheckpointKeys(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(publics, func(k keys.PublicKey) bool { return k.Version <= version })
	switch {
	case at == 0:
		return lastVersion(string(keys.RootCheckpoint), version, publics[0].Version)
	case at < 0:
		return conflict("keys.retired", "This version is not in force any more.", "regard keys list shows those that are.")
	}
	tooEarly := func(err error) error {
		return &Problem{Status: 409, Code: "keys.too_early", Title: "Checkpoints aren't signed by the newer version yet.", Detail: "The broker signs with a new version within seconds: repeat the command then.", err: err}
	}
	newest, err := note.NewEd25519VerifierKey(b.cfg.Origin, publics[0].Key)
	if err != nil {
		return err
	}
	if vkeys, err := b.LogKeys(ctx); err != nil || !slices.Contains(vkeys, newest) {
		return tooEarly(err)
	}
	if err := b.logKeys(ctx); err != nil { // the newer version before the end of the older one
		return err
	}
	last := proof.Index(0)
	for _, k := range publics[at:] {
		e := proof.KeyChanged{Key: fmt.Sprintf("checkpoint.%d", k.Version), Use: proof.UseCheckpoint, State: proof.Retired, Public: proof.Hash(k.Key)}
		if noted, err := b.store.Noted(ctx, keyNote(e)); err != nil {
			return err
		} else if noted {
			continue
		}
		a, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{e}, Attach: &store.Note{Name: keyNote(e)}})
		if err != nil {
			return err
		}
		last = a.Entries[0].Index
	}
	// Readers have to see it under the old signature.
	if _, err := b.ledger().AwaitPublished(ctx, last); err != nil {
		return unavailable("log.unavailable", "The end of the version is in the log and not published yet; repeat the command.", err)
	}
	if err := b.verifiesUnder(ctx, publics[:at]); err != nil {
		return tooEarly(err)
	}
	// From here on it isn't asked for: the custodian may refuse it at any time.
	if err := b.ring.EndCheckpointKeys(ctx, version+1); err != nil {
		return keysProblem(err)
	}
	return nil
}

// lastVersion says that no version would be left, or that there is none such.
func lastVersion(key string, version, newest int) error {
	if version > newest {
		return conflict("keys.version", fmt.Sprintf("There is no version %d of the %s key: the newest is %d.", version, key, newest), "regard keys list shows those that are in force.")
	}
	return conflict("keys.last", fmt.Sprintf("This is the newest version of the %s key.", key), fmt.Sprintf("Rotate it first (regard keys rotate %s).", key))
}

// verifiesUnder checks that the stored and the published checkpoint are good under these keys alone: after the others are gone the log must still know them as its own.
func (b *Broker) verifiesUnder(ctx context.Context, publics []keys.PublicKey) error {
	var vkeys []string
	for _, k := range publics {
		vkey, err := note.NewEd25519VerifierKey(b.cfg.Origin, k.Key)
		if err != nil {
			return err
		}
		vkeys = append(vkeys, vkey)
	}
	policy, err := policyOf(vkeys)
	if err != nil {
		return err
	}
	last, err := b.signed.Last(ctx)
	if err != nil {
		return err
	}
	published, err := os.ReadFile(filepath.Join(b.PublicDir(), "checkpoint"))
	if err != nil {
		return fmt.Errorf("reading the published checkpoint: %w", err)
	}
	for _, n := range [][]byte{last, published} {
		if _, err := proof.VerifyCheckpoint(n, policy); err != nil {
			return err
		}
	}
	return nil
}
