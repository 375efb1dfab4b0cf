package keys

import (
	"sync"
	"time"
)

const (
	maxPending    = 1 << 13
	maxPendingAge = 10 * time.Minute
)

// cache is a bounded LRU of keys with an age; it clears what it drops. Callers get copies, so clearing never pulls a key from under a caller.
type cache struct {
	now func() time.Time
	max int
	age time.Duration

	mu     sync.Mutex
	gen    uint64 // counts erasures, see put
	byID   map[KeyID]*cached
	newest map[Owner]*cached
	front  cached // sentinel of the ring list: next is the most recently used
}

type cached struct {
	key        Key
	until      time.Time
	prev, next *cached
}

func newCache(max int, age time.Duration, now func() time.Time) *cache {
	c := &cache{now: now, max: max, age: age, byID: map[KeyID]*cached{}, newest: map[Owner]*cached{}}
	c.front.prev, c.front.next = &c.front, &c.front
	return c
}

// generation is to be read before the store is asked for the key that will be put.
func (c *cache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// put adds a key that was read from the store since gen was current. It returns false and does nothing if somebody was erased since: the key may be gone.
func (c *cache) put(k *Key, gen uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen {
		return false
	}
	if e := c.byID[k.id]; e != nil {
		e.until = c.now().Add(c.age)
		c.touch(e)
		return true
	}
	e := &cached{key: *k, until: c.now().Add(c.age)}
	c.byID[k.id] = e
	if n := c.newest[k.owner]; n == nil || string(n.key.id[:]) < string(k.id[:]) {
		c.newest[k.owner] = e
	}
	c.link(e)
	for len(c.byID) > c.max {
		c.drop(c.front.prev)
	}
	return true
}

func (c *cache) get(id KeyID) (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.use(c.byID[id])
}

// getNewest returns the newest cached key of an owner; any of an owner's keys may seal.
func (c *cache) getNewest(o Owner) (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.use(c.newest[o])
}

func (c *cache) use(e *cached) (Key, bool) {
	if e == nil {
		return Key{}, false
	}
	if c.now().After(e.until) {
		c.drop(e)
		return Key{}, false
	}
	c.touch(e)
	return e.key, true
}

// take removes a key and returns it.
func (c *cache) take(id KeyID) (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil {
		return Key{}, false
	}
	k := e.key
	c.drop(e)
	return k, true
}

// forgetOwner drops all keys of an owner and fails puts of keys that were read before.
func (c *cache) forgetOwner(o Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, e := range c.byID {
		if e.key.owner == o {
			c.drop(e)
		}
	}
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, e := range c.byID {
		c.drop(e)
	}
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID)
}

func (c *cache) link(e *cached) {
	e.prev, e.next = &c.front, c.front.next
	e.prev.next, e.next.prev = e, e
}

func (c *cache) unlink(e *cached) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

func (c *cache) touch(e *cached) {
	c.unlink(e)
	c.link(e)
}

func (c *cache) drop(e *cached) {
	c.unlink(e)
	delete(c.byID, e.key.id)
	if c.newest[e.key.owner] == e {
		delete(c.newest, e.key.owner)
	}
	e.key.Clear()
}
