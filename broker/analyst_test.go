package broker_test

import (
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/analyst"
)

// TestAnalystLearnsNothing is G4: who holds the public log, and all that one agency has, links nobody's entries; the same program finds everything that a leaky operator would give away.
func TestAnalystLearnsNothing(t *testing.T) {
	t.Parallel()
	c := season{households: 60, epochs: 3, requests: 80, accesses: 6, erasures: 3, delays: 40, atOnce: 32, hold: 4 * time.Millisecond}
	s := newScene(t, c)
	s.play(c)
	const effort = 50_000
	v, truth := s.copies()
	learnsNothing(t, v, truth, effort)
	findsLeaks(t, v, truth, effort)
}

func learnsNothing(t *testing.T, v *analyst.View, truth *analyst.Truth, effort int) {
	t.Helper()
	start := time.Now()
	results := analyst.Link(v, truth, 3)
	t.Logf("linked in %v", time.Since(start))
	for _, r := range results {
		t.Logf("%-70s %5d pairs  AUC %.3f  z %+.2f", r.Linker, r.Pairs, r.AUC, r.Z)
		if r.Found() {
			t.Errorf("%s: pairs that belong together score otherwise than by chance: AUC %.3f, z %+.1f", r.Linker, r.AUC, r.Z)
		}
	}
	start = time.Now()
	for _, h := range analyst.Guess(v, analystAgencies, effort) {
		t.Errorf("found by recomputing: %s (entry %d, roll %d, from receipt %d)", h.Guess, h.Entry, h.Item, h.From)
	}
	t.Logf("guessed in %v", time.Since(start))
}
