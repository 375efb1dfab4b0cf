package keys

import (
	"sync"
	"time"
)

// unsaved are keys that are wrapped, or about to be, and of which it isn't known yet whether they are stored. Until then a version of the wrap key may be needed that no stored key needs any more.
type unsaved struct {
	mu sync.Mutex
	at map[KeyID]time.Time // since when
}

// unsavedAge is after how long nobody is taken to store a key any more: whoever made it gave up without a word.
const unsavedAge = maxPendingAge

func (u *unsaved) add(id KeyID, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = map[KeyID]time.Time{}
	}
	u.at[id] = now
	if len(u.at)%maxPending == 0 { // those without a word, now and then
		for id, at := range u.at {
			if now.Sub(at) > unsavedAge {
				delete(u.at, id)
			}
		}
	}
}

func (u *unsaved) done(id KeyID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.at, id)
}

// Settled returns what says whether of all keys that were being made when Settled was called it is known by now whether they are stored: what was wrapped before is then either in the store, or will never be. More
// may be made all the time. It forgets what was prepared.
func (r *Ring) Settled() func() bool {
	r.DropPrepared()
	u := &r.unsaved
	u.mu.Lock()
	defer u.mu.Unlock()
	var ids []KeyID
	for id := range u.at {
		ids = append(ids, id)
	}
	return func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		for len(ids) > 0 {
			if at, ok := u.at[ids[0]]; ok && r.now().Sub(at) <= unsavedAge {
				return false
			}
			ids = ids[1:]
		}
		return true
	}
}
