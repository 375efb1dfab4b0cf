package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Intents by which the broker announces each question to its provider (docs/design.md, "Receipt holders check"). The key is a data key that the custodian wraps: signing costs no call to it.

// intentExpiry is how long a provider may take to see an intent, in seconds. It is signed right before it is sent.
const intentExpiry = 60

// intentSigners sign with every version of the intent key that is in force and that the log knows, newest first.
type intentSigners []note.Signer

func intentKeyEntry(k *keys.IntentKey, state proof.Status) proof.KeyChanged {
	return proof.KeyChanged{Key: fmt.Sprintf("intent.%d", k.Version), Use: proof.UseIntent, State: state, Public: proof.Hash(k.Public())}
}

// logIntentKeys tells the log of the versions of the intent key, and signs with them from then on: a provider must be able to find the key there.
func (b *Broker) logIntentKeys(ctx context.Context) error {
	ks, err := b.ring.IntentKeys(ctx)
	if err != nil {
		return err
	}
	var signers intentSigners
	for _, k := range ks {
		retired, err := b.store.Noted(ctx, keyNote(intentKeyEntry(k, proof.Retired)))
		if err != nil {
			return err
		}
		if retired { // a crash came between the entry and the end of the key
			if err := b.ring.DestroyIntentKey(ctx, k); err != nil {
				return err
			}
			continue
		}
		if err := b.logKey(ctx, intentKeyEntry(k, proof.Active), nil); err != nil {
			return err
		}
		signers = append(signers, k.Signer(proof.IntentKeyName(b.cfg.Origin, fmt.Sprintf("intent.%d", k.Version))))
	}
	b.intents.Store(&signers)
	return nil
}

// knowIntentKeys is for a broker that follows: it signs intents, too.
func (b *Broker) knowIntentKeys(ctx context.Context) error {
	b.telling.Lock()
	defer b.telling.Unlock()
	return b.logIntentKeys(ctx)
}

var errNoIntentKey = errors.New("no key for intents is in force, or the log can't be told of it")

// announce signs the intent for one question of a disclosure, which is durable by then.
func (d *disclosure) announce(method, target string) (string, error) {
	signers := d.b.intents.Load()
	if signers == nil || len(*signers) == 0 {
		return "", errNoIntentKey
	}
	def := d.plan.service.def
	return proof.Intent{
		Origin: d.b.cfg.Origin, Disclosure: uuid.UUID(d.id).String(), Provider: string(def.Provider.ID), Service: def.Ref(),
		Requested: d.rec.RequestedDigest(), Question: proof.QuestionDigest(method, target, nil),
		Issued: proof.TimeOf(d.b.now()), Expires: intentExpiry,
	}.Sign(*signers...)
}

// IntentKeys lists the versions of the intent key in force, newest first.
func (b *Broker) IntentKeys(ctx context.Context) ([]*keys.IntentKey, error) {
	ks, err := b.ring.IntentKeys(ctx)
	if err != nil {
		return nil, keysProblem(err)
	}
	return ks, nil
}

// RotateIntentKey adds a version of the intent key and returns its number: it signs beside the older ones, once the log knows it.
func (b *Broker) RotateIntentKey(ctx context.Context) (int, error) {
	done, err := b.governing(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if ks, err := b.IntentKeys(ctx); err != nil {
		return 0, err
	} else if len(ks) >= keys.MaxIntentKeys {
		return 0, conflict("keys.many", fmt.Sprintf("%d versions of the intent key are in force, which is as many as can be.", len(ks)), "End older ones first (regard keys retire intent).")
	}
	k, err := b.ring.RotateIntentKey(ctx)
	if err != nil {
		return 0, keysProblem(err)
	}
	b.log.Info("rotated the intent key", "version", k.Version)
	if err := b.logKeys(ctx); err != nil { // the sweeper does it again
		b.log.Warn("a rotation isn't in the log yet", "error", err)
	}
	return k.Version, nil
}

// RetireIntentKey ends a version of the intent key and those below it: the log says so, and they are destroyed.
func (b *Broker) RetireIntentKey(ctx context.Context, version int) error {
	done, err := b.governing(ctx)
	if err != nil {
		return err
	}
	defer done()
	ks, err := b.ring.IntentKeys(ctx)
	if err != nil {
		return keysProblem(err)
	}
	last := ks[len(ks)-1].Version
	switch {
	case version >= ks[0].Version:
		return lastVersion("intent", version, ks[0].Version)
	case version < last:
		return conflict("keys.retired", "This version is not in force any more.", "regard keys list shows those that are.")
	}
	if err := b.logKeys(ctx); err != nil { // the newer version before the end of the older one
		return err
	}
	for _, k := range ks {
		if k.Version > version {
			continue
		}
		e := intentKeyEntry(k, proof.Retired)
		if _, err := b.append(ctx, ledger.Group{Entries: []proof.Entry{e}, Attach: &store.Note{Name: keyNote(e)}}); err != nil {
			return err
		}
	}
	return b.logKeys(ctx) // it destroys them
}
