package proof

import (
	"encoding/base64"
	"testing"
)

// Signature lines name a key by name and id, of 32 bits: a second key that has both would have its signatures checked under the first.
func TestPolicyKeysHaveLinesOfTheirOwn(t *testing.T) {
	vkey := func(name, id string, b byte) string {
		return name + "+" + id + "+" + base64.StdEncoding.EncodeToString([]byte{algCosignatureEd25519, b})
	}
	p := policyParser{keys: map[string]bool{}, lines: map[string]bool{}}
	for _, c := range []struct {
		vkey string
		want bool
	}{
		{vkey("w", "0000000a", 1), true}, {vkey("w", "0000000a", 2), false}, {vkey("w", "0000000A", 2), false}, {vkey("w", "0000000b", 2), true},
		{vkey("v", "0000000a", 3), true}, {vkey("v", "0000000c", 3), false},
	} {
		if got := p.fresh(c.vkey); got != c.want {
			t.Errorf("%s: %v", c.vkey, got)
		}
	}
}
