package broker_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/analyst"
	"github.com/regard-broker/regard/ledger/proof"
)

// timed is a row of the table of docs/threat-model.md: what is said there, and what was measured.
type timed struct {
	what      string
	measured  float64
	tolerance float64
}

// requestsInBatch are the rows: from so many requests in a batch to so many.
var requestsInBatch = [][2]int{{1, 1}, {2, 2}, {3, 8}, {9, 32}}

// TestTimingIsAsDocumented measures what time gives away, which TestAnalystLearnsNothing leaves out, and holds the documentation to it.
func TestTimingIsAsDocumented(t *testing.T) {
	sum := make([]analyst.Batch, len(requestsInBatch))
	var counts []int
	looks, single := 0, 0
	var asked, ended [2]int // batches, and those of one request
	for _, atOnce := range []int{1, 4, 24} {
		c := season{households: 60, epochs: 1, requests: 40 + 5*atOnce, accesses: 5, delays: 10, atOnce: atOnce, hold: 4 * time.Millisecond}
		s := newScene(t, c)
		s.play(c)
		v, truth := s.copies()
		for n, b := range analyst.Batches(v, truth) {
			for k, r := range requestsInBatch {
				if n >= r[0] && n <= r[1] {
					x := &sum[k]
					x.Batches, x.Requests, x.Several, x.Right, x.Pairs = x.Batches+b.Batches, x.Requests+b.Requests, x.Several+b.Several, x.Right+b.Right, x.Pairs+b.Pairs
				}
			}
		}
		n, one := analyst.Looks(v, truth)
		looks, single = looks+n, single+one
		for kind, sum := range map[proof.Kind]*[2]int{proof.KindDeferred: &asked, proof.KindOpened: &ended} {
			n, one := analyst.Delays(v, truth, kind)
			sum[0], sum[1] = sum[0]+n, sum[1]+one
		}
		of := map[int]int{}
		for _, it := range truth.Item {
			if it >= 0 {
				of[it]++
			}
		}
		for _, n := range of {
			counts = append(counts, n)
		}
		s.close()
	}
	var rows []timed
	for k, r := range requestsInBatch {
		if sum[k].Pairs == 0 {
			t.Errorf("no batch of %d to %d requests: nothing was measured", r[0], r[1])
		}
		what := fmt.Sprintf("%d to %d requests in the batch", r[0], r[1])
		if r[0] == r[1] {
			what = strings.ReplaceAll(fmt.Sprintf("%d requests in the batch", r[0]), "1 requests", "1 request")
		}
		// A range holds more of the small batches on one machine than on another.
		rows = append(rows, timed{what, 100 * sum[k].Chance(), 3 + 50*sum[k].Chance()})
	}
	rows[0].tolerance = 0
	rows = append(rows, timed{"a look by the help desk is seen alone", 100 * float64(single) / float64(max(1, looks)), 30})
	for what, n := range map[string][2]int{"a delayed request is seen alone": asked, "the end of a delay is seen alone": ended} {
		rows = append(rows, timed{what, 100 * float64(n[1]) / float64(max(1, n[0])), 40})
	}
	sizes := analyst.RollSizes(counts)
	rows = append(rows, timed{"a settled receipt says \"from 1 to 4\"", 100 * sizes.Padded, 10})
	// Of a few hundred rolls: what is shown must be a small part of what there is to know.
	if sizes.Shown > 0.5*sizes.Exact {
		t.Errorf("roll sizes show %.2f of %.2f bits", sizes.Shown, sizes.Exact)
	}
	t.Logf("%d batches with looks, %d of them of one; delays %v, ends %v; %+v; %+v", looks, single, asked, ended, sum, sizes)
	text, err := os.ReadFile("../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		said, ok := documented(text, r.what)
		if !ok || math.Abs(said-r.measured) > r.tolerance {
			t.Errorf("docs/threat-model.md should say of \"%s\": %.0f %% (it says %.0f %%)", r.what, r.measured, said)
		}
	}
}

// documented finds "| what | n % |" in a table.
func documented(text []byte, what string) (float64, bool) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("| "+what+" | ")); ok {
			n, err := strconv.ParseFloat(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" % |"))), 64)
			return n, err == nil
		}
	}
	return 0, false
}
