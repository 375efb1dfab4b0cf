//go:build soak

package broker_test

import (
	"testing"
	"time"
)

// TestSoakKill kills the broker from outside at random times, while it recovers, while it works and while it closes an epoch: 200 times on one directory.
func TestSoakKill(t *testing.T) {
	c := newCampaign(t)
	c.round("release 5", 0) // the first start sets up what the requests need, and isn't killed
	for i := range 200 {
		after := time.Duration(c.random.Int64N(int64(1500 * time.Millisecond)))
		c.round("", after)
		if (i+1)%20 == 0 {
			t.Logf("%d kills, %d questions at the provider", i+1, len(c.provider.log()))
		}
	}
	c.finish()
}
