package holder

import (
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// SetKeysWait bounds a fetch of the intent keys; before the first request.
func (g *Guard) SetKeysWait(d time.Duration) { g.keys.wait = d }

// Alike refutes entries of one disclosure that are told in different ways.
func Alike(entries ...proof.Entry) error { return alike(entries) }
