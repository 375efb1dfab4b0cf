package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(3, time.Minute, func() time.Time { return now })
	key := func(n byte) *Key {
		return &Key{id: KeyID{n}, kind: KindSubject, owner: Owner{n}, secret: [32]byte{n, n}}
	}
	for n := byte(1); n <= 3; n++ {
		c.put(key(n), c.gen)
	}
	if _, ok := c.get(KeyID{1}); !ok { // 1 is used, so 2 is the oldest
		t.Fatal("1 isn't there")
	}
	two := c.byID[KeyID{2}]
	for n := byte(4); n <= 100; n++ {
		c.put(key(n), c.gen)
		if c.len() != 3 || len(c.newest) != 3 {
			t.Fatalf("%d keys, %d owners, want 3", c.len(), len(c.newest))
		}
		if n == 4 {
			if _, ok := c.get(KeyID{1}); !ok {
				t.Error("the least recently used wasn't the one to go")
			}
		}
	}
	if two.key.secret != [32]byte{} {
		t.Error("the key that was dropped isn't cleared")
	}
	if k, ok := c.getNewest(Owner{100}); !ok || k.secret != key(100).secret {
		t.Error("the newest isn't there")
	}
	last := c.byID[KeyID{100}]
	now = now.Add(time.Minute + 1)
	if _, ok := c.get(KeyID{100}); ok || last.key.secret != [32]byte{} {
		t.Error("a key outlives its age")
	}
	// Two keys of an owner: the newest seals, and both go.
	a, b := key(1), key(2)
	b.owner = a.owner
	c.put(b, c.gen)
	c.put(a, c.gen)
	if k, _ := c.getNewest(a.owner); k.id != b.id {
		t.Error("the older key seals")
	}
	gen := c.generation()
	c.forgetOwner(a.owner)
	if _, ok := c.get(a.id); ok {
		t.Error("a forgotten key is there")
	}
	if _, ok := c.getNewest(a.owner); ok {
		t.Error("a forgotten owner is there")
	}
	if c.put(a, gen) {
		t.Error("a key that was read before an erasure was cached after it")
	}
	c.clear()
	if c.len() != 0 || c.front.next != &c.front {
		t.Error("it isn't empty")
	}
}

func TestBatcher(t *testing.T) {
	var mu sync.Mutex
	calls, items := 0, 0
	var carried atomic.Int64
	hold := make(chan struct{})
	b := newBatcher(time.Minute, func(_ context.Context, in []int) ([]int, error) {
		carried.Add(int64(len(in)))
		<-hold
		mu.Lock()
		defer mu.Unlock()
		calls++
		items += len(in)
		out := make([]int, len(in))
		bad := &BatchError{Items: map[int]error{}, Size: len(in)}
		for i, n := range in {
			if out[i] = n * 2; n%10 == 0 {
				bad.Items[i] = ErrAltered
			}
		}
		if len(bad.Items) > 0 {
			return out, bad
		}
		return out, nil
	}, nil, func(n *int) { *n = 0 })
	var wg sync.WaitGroup
	for n := 1; n <= 300; n++ {
		wg.Go(func() {
			got, err := b.call(context.Background(), n)
			if n%10 == 0 {
				if !errors.Is(err, ErrAltered) || got != 0 {
					t.Errorf("item %d: %d, %v; want ErrAltered", n, got, err)
				}
			} else if err != nil || got != 2*n {
				t.Errorf("item %d: %d, %v; want %d", n, got, err, 2*n)
			}
		})
	}
	// One who leaves doesn't take the others along.
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if _, err := b.call(ctx, 301); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled call: %v", err)
		}
		close(hold)
	})
	for waiting := 0; waiting < 301; runtime.Gosched() { // until all are under way or wait
		b.mu.Lock()
		waiting = len(b.queue) + int(carried.Load())
		b.mu.Unlock()
	}
	cancel()
	wg.Wait()
	if calls > 301/5 {
		t.Errorf("%d calls for %d items: they weren't joined", calls, items)
	}
	short := newBatcher(time.Minute, func(context.Context, []int) ([]int, error) { return nil, nil }, nil, nil)
	if _, err := short.call(context.Background(), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("an answer without items: %v", err)
	}
	slow := newBatcher(time.Millisecond, func(ctx context.Context, _ []int) ([]int, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("asking: %w", ctx.Err())
	}, nil, nil)
	if _, err := slow.call(context.Background(), 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no answer: %v", err)
	}
}

func TestKeyIDs(t *testing.T) {
	var g ids
	now := time.UnixMilli(1764000000000)
	var last KeyID
	seen := map[KeyID]bool{}
	for i := range 20000 {
		at := now
		switch {
		case i%1000 == 999:
			now = now.Add(time.Millisecond)
		case i%777 == 0:
			at = now.Add(-time.Hour) // a clock that steps back
		}
		id, err := g.next(at, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Compare(id[:], last[:]) <= 0 || seen[id] {
			t.Fatalf("id %d: %s doesn't follow %s", i, id, last)
		}
		if id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Fatalf("%s is no UUIDv7", id)
		}
		if got, err := ParseKeyID(id.String()); err != nil || got != id {
			t.Fatalf("%s parses to %s, %v", id, got, err)
		}
		last, seen[id] = id, true
	}
	if _, err := g.next(now, bytes.NewReader(nil)); err == nil {
		t.Error("an id without randomness")
	}
}

func FuzzParseKeyID(f *testing.F) {
	f.Add("01933333-3333-7333-8333-333333333333")
	f.Add("01933333-3333-7333-8333-33333333333")
	f.Add("0193333333333-7333-8333-3333333333333")
	f.Add("01933333-3333-7333-8333-33333333333A")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseKeyID(s); err == nil && id.String() != s {
			t.Fatalf("%q parses to %s", s, id)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	k := Key{id: KeyID{1}, kind: KindSubject, owner: Owner{1}}
	// The fuzzer's processes must agree on what was sealed.
	r := &Ring{rand: bytes.NewReader(make([]byte, 24))}
	blob, err := r.seal(&k, usePerson, nil, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:Overhead-1])
	f.Add(bytes.Repeat([]byte{1}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrAltered) {
				t.Fatalf("%v, want ErrAltered", err)
			}
			return
		}
		if again := append([]byte{blobVersion, h.use}, h.key[:]...); !bytes.Equal(again, b[:headerSize]) {
			t.Fatal("the header has two forms")
		}
		if _, err := r.open(&k, nil, b); err == nil && !bytes.Equal(b, blob) {
			t.Fatal("it opened what wasn't sealed")
		}
	})
}
