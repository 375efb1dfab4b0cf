package store

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/regard-broker/regard/keys"
)

// owners tells of most people who have no subject's key that they have none, without a look into the database: a Bloom filter. Owners are keyed pseudonyms, so their bytes are as
// good as hashes. Every owner of a stored subject's key is in it, and who has keys of deferred records alone isn't: it is filled when the store opens, and this process is the only one that writes: it is SQLite's alone. Nobody is taken out of it: for
// those whose keys were destroyed, and for few others, the database is asked in vain.
type owners struct {
	words []atomic.Uint64
	mask  uint64 // of the number of a bit
}

// ownerBits is how many bits there are for each owner that had a key when the store was opened, at least; with ownerLeast in all. With 4 probes one look in 1000 is in vain at 20 bits, one in 40 at 8.
const (
	ownerBits  = 32
	ownerLeast = 1 << 23 // 1 MB
)

func newOwners(n uint64) *owners {
	size := uint64(1) << bits.Len64(max(n*ownerBits, ownerLeast)-1)
	return &owners{words: make([]atomic.Uint64, size/64), mask: size - 1}
}

// probes are the numbers of an owner's bits: h1 + i × h2, with an odd h2.
func (s *owners) probes(o keys.Owner) (at, step uint64) {
	return binary.LittleEndian.Uint64(o[:8]), binary.LittleEndian.Uint64(o[8:]) | 1
}

const ownerProbes = 4

func (s *owners) add(o keys.Owner) {
	at, step := s.probes(o)
	for range ownerProbes {
		bit := at & s.mask
		s.words[bit/64].Or(1 << (bit % 64))
		at += step
	}
}

// may reports whether the owner may have a key.
func (s *owners) may(o keys.Owner) bool {
	at, step := s.probes(o)
	for range ownerProbes {
		bit := at & s.mask
		if s.words[bit/64].Load()&(1<<(bit%64)) == 0 {
			return false
		}
		at += step
	}
	return true
}

// load reads the owners of all subjects' keys.
func (s *owners) load(c *conn) error {
	var n int64
	if err := c.row("SELECT count(*) FROM keys WHERE kind = 'subject'").Scan(&n); err != nil {
		return err
	}
	*s = *newOwners(uint64(n)) // #nosec G115 -- a count
	return c.rows("SELECT owner FROM keys WHERE kind = 'subject'", func(r row) error {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return err
		}
		var o keys.Owner
		copy(o[:], b)
		s.add(o)
		return nil
	})
}
