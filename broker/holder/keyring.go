package holder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// errNoKeys: the broker's intent keys can't be had and proven now.
var errNoKeys = errors.New("holder: no key for intents is known")

const (
	keysAge   = time.Hour       // keys of the log are fetched anew after it: retired ones go then
	keysPause = 2 * time.Second // between two fetches
)

// keyring knows the keys of intents: pinned ones, or those of the log.
type keyring struct {
	g      *Guard
	pinned bool

	mu      sync.Mutex
	keys    []note.Verifier
	origins []string
	fetched time.Time
	tried   time.Time
}

func newKeyring(g *Guard) (*keyring, error) {
	k := &keyring{g: g, pinned: len(g.cfg.Keys) > 0}
	for _, text := range g.cfg.Keys {
		v, err := note.NewVerifier(text)
		if err != nil {
			return nil, errors.New("holder: an intent key is not a verification key (name+id+key)")
		}
		origin, name, ok := cutLast(v.Name(), "/")
		if !ok || !strings.HasPrefix(name, "intent.") {
			return nil, errors.New("holder: the name of an intent key is the log's origin, a slash and intent.<version>")
		}
		k.keys, k.origins = append(k.keys, v), append(k.origins, origin)
	}
	return k, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// isOrigin: intents of these logs are accepted.
func (k *keyring) isOrigin(origin string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range k.origins {
		if o == origin {
			return true
		}
	}
	return false
}

// verify verifies an intent. If no known key signed it, the log may have a new one: it is asked, at most every few seconds.
func (k *keyring) verify(ctx context.Context, header string) (proof.Intent, error) {
	keys, known := k.current(ctx, false)
	i, err := proof.VerifyIntent(header, keys)
	if errors.Is(err, proof.ErrSignature) && !k.pinned {
		if keys, known = k.current(ctx, true); known {
			i, err = proof.VerifyIntent(header, keys)
		}
	}
	if !known && !errors.Is(err, proof.ErrFormat) {
		return proof.Intent{}, errNoKeys
	}
	return i, err
}

func (k *keyring) current(ctx context.Context, anew bool) (keys []note.Verifier, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.g.cfg.Now()
	stale := !k.pinned && (anew || len(k.keys) == 0 || now.Sub(k.fetched) > keysAge)
	if stale && now.Sub(k.tried) >= keysPause {
		k.tried = now
		if err := k.fetch(ctx); err != nil {
			k.g.log.Warn("the broker's intent keys can't be fetched", "error", err)
		} else {
			k.fetched = now
		}
	}
	// What can't be fetched anew for a day is forgotten: the log may have ended it.
	if !k.pinned && now.Sub(k.fetched) > 24*keysAge {
		k.keys, k.origins = nil, nil
	}
	return k.keys, len(k.keys) > 0
}

// fetch asks the broker for the keys in force; the log's word counts, not the broker's.
func (k *keyring) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // for all who wait
	defer cancel()
	var in struct {
		Keys []struct{ Entry, Proof string }
	}
	if _, err := k.g.call(ctx, http.MethodGet, "/v1/provider/keys", nil, &in); err != nil {
		return err
	}
	var keys []note.Verifier
	var origins []string
	for _, x := range in.Keys {
		e, _, cp, err := proof.VerifyTLogProof([]byte(x.Entry), []byte(x.Proof), k.g.cfg.Policy)
		if err != nil {
			return fmt.Errorf("the proof of an intent key: %w", err)
		}
		entry, ok := e.(proof.KeyChanged)
		if !ok {
			return errors.New("an entry that is not about a key")
		}
		if !cp.Witnessed() && !k.g.cfg.AcceptSigned {
			continue // not yet: a new one is in a moment
		}
		v, err := proof.NewIntentVerifier(cp.Origin(), entry)
		if err != nil {
			return err
		}
		keys, origins = append(keys, v), append(origins, cp.Origin())
	}
	if len(keys) == 0 {
		return errors.New("none of them is proven")
	}
	k.keys, k.origins = keys, origins
	return nil
}
