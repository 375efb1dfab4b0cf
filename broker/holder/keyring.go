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
	keysAge   = time.Hour        // keys of the log are fetched anew after it: retired ones go then
	keysPause = 2 * time.Second  // between two fetches
	keysWait  = 10 * time.Second // for one fetch
)

// keyring knows the keys of intents: pinned ones, or those of the log. A fetch goes on by itself, one at a time: nobody waits for it whose intent a known key has signed.
type keyring struct {
	g      *Guard
	pinned bool
	wait   time.Duration
	ctx    context.Context // of the fetches
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	keys     []note.Verifier
	origins  []string
	fetched  time.Time
	tried    time.Time
	fetching chan struct{} // closed when the fetch under way ends; nil: none is
}

func newKeyring(g *Guard) (*keyring, error) {
	k := &keyring{g: g, pinned: len(g.cfg.Keys) > 0, wait: keysWait}
	k.ctx, k.stop = context.WithCancel(context.Background())
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

// close ends the fetch under way.
func (k *keyring) close() {
	k.stop()
	k.work.Wait()
}

// verify verifies an intent. If no known key signed it, the log may have a new one: it is asked, at most every few seconds.
func (k *keyring) verify(ctx context.Context, header string) (proof.Intent, error) {
	keys, stale := k.known()
	i, err := proof.VerifyIntent(header, keys)
	switch {
	case errors.Is(err, proof.ErrFormat), k.pinned:
		return i, err
	case errors.Is(err, proof.ErrSignature):
		if done := k.refresh(); done != nil {
			select {
			case <-done:
			case <-ctx.Done():
			}
		}
		if keys, _ = k.known(); len(keys) == 0 {
			return proof.Intent{}, errNoKeys
		}
		return proof.VerifyIntent(header, keys)
	case stale:
		k.refresh()
	}
	return i, err
}

// renew has keys that are known fetched anew when they are old, so that a retired one is not accepted for want of questions.
func (k *keyring) renew() {
	if keys, stale := k.known(); stale && len(keys) > 0 {
		k.refresh()
	}
}

// known are the keys to verify with now, and whether they should be fetched anew.
func (k *keyring) known() (keys []note.Verifier, stale bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := k.g.cfg.Now().Sub(k.fetched)
	// What can't be fetched anew for a day is forgotten: the log may have ended it.
	if !k.pinned && age > 24*keysAge {
		k.keys, k.origins = nil, nil
	}
	return k.keys, !k.pinned && age > keysAge
}

// refresh fetches the keys, unless that was just tried. What it returns is closed when the fetch under way has ended; nil: there is none.
func (k *keyring) refresh() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.g.cfg.Now()
	if k.fetching != nil || now.Sub(k.tried) < keysPause {
		return k.fetching
	}
	k.tried = now
	done := make(chan struct{})
	k.fetching = done
	k.work.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(k.ctx, k.wait)
		defer cancel()
		keys, origins, err := k.fetch(ctx)
		if err != nil {
			k.g.log.Warn("the broker's intent keys can't be fetched", "error", err)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.fetching = nil; err == nil {
			k.keys, k.origins, k.fetched = keys, origins, now
		}
	})
	return done
}

// fetch asks the broker for the keys in force; the log's word counts, not the broker's.
func (k *keyring) fetch(ctx context.Context) (keys []note.Verifier, origins []string, err error) {
	var in struct {
		Keys []struct{ Entry, Proof string }
	}
	if _, err := k.g.call(ctx, http.MethodGet, "/v1/provider/keys", nil, &in); err != nil {
		return nil, nil, err
	}
	for _, x := range in.Keys {
		e, _, cp, err := proof.VerifyTLogProof([]byte(x.Entry), []byte(x.Proof), k.g.cfg.Policy)
		if err != nil {
			return nil, nil, fmt.Errorf("the proof of an intent key: %w", err)
		}
		entry, ok := e.(proof.KeyChanged)
		if !ok {
			return nil, nil, errors.New("an entry that is not about a key")
		}
		if !cp.Witnessed() && !k.g.cfg.AcceptSigned {
			continue // not yet: a new one is in a moment
		}
		v, err := proof.NewIntentVerifier(cp.Origin(), entry)
		if err != nil {
			return nil, nil, err
		}
		keys, origins = append(keys, v), append(origins, cp.Origin())
	}
	if len(keys) == 0 {
		return nil, nil, errors.New("none of them is proven")
	}
	return keys, origins, nil
}
