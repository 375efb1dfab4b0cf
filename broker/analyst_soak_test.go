//go:build soak

package broker_test

import (
	"testing"
	"time"
)

// TestSoakAnalyst is TestAnalystLearnsNothing with ten times the people and entries, so that a tenth of the advantage shows.
func TestSoakAnalyst(t *testing.T) {
	c := season{households: 600, epochs: 8, requests: 1000, accesses: 60, erasures: 20, delays: 80, atOnce: 64, hold: 4 * time.Millisecond}
	s := newScene(t, c)
	s.play(c)
	const effort = 20_000_000
	v, truth := s.copies()
	learnsNothing(t, v, truth, effort)
	findsLeaks(t, v, truth, effort)
}
