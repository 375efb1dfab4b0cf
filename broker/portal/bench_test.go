package portal_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// crowd makes n entries about Camille, of several agencies, purposes and outcomes.
func crowd(t testing.TB, w *world, n int) {
	t.Helper()
	for i := range 8 {
		id := fmt.Sprintf("agence-%d", i)
		w.agency(id, fmt.Sprintf("Agence d'Exemple n° %d", i))
		w.agree("accord-"+id, id, "quotient-familial", "bourse", "quotient")
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				req := canteen(camille)
				req.Scopes, req.Purpose = []string{"quotient"}, "bourse"
				if i%7 == 0 {
					req.Purpose = "publicite"
				}
				if _, err := w.b.Disclose(t.Context(), w.agencies[fmt.Sprintf("agence-%d", i%8)], req); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkHistoryPage asks for pages of a person with 10,000 entries over 64 connections, each as soon as the last one is there: other pages, filters and searches each time. It reports the time in the handler, the session
// and the look for new entries included, and the size of a page as it is sent.
func BenchmarkHistoryPage(b *testing.B) {
	const entries, connections = 10_000, 64
	w := newWorld(b, nil)
	w.signIn("camille", camille)
	crowd(b, w, entries)
	var mu sync.Mutex
	var took []time.Duration
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w.p.ServeHTTP(rw, r)
		d := time.Since(start)
		mu.Lock()
		took = append(took, d)
		mu.Unlock()
	}))
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}}
	var size atomic.Int64
	get := func(path string) {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			b.Error(err)
			return
		}
		r.AddCookie(&http.Cookie{Name: "who", Value: "camille"})
		r.Header.Set("Accept-Encoding", "gzip")
		res, err := client.Do(r)
		if err != nil {
			b.Error(err)
			return
		}
		defer res.Body.Close()
		n, err := io.Copy(io.Discard, res.Body)
		if err != nil || res.StatusCode != http.StatusOK {
			b.Errorf("%s: %s, %v", path, res.Status, err)
		}
		size.Store(max(size.Load(), n))
	}
	begin := time.Now()
	get("/historique")
	b.ReportMetric(float64(time.Since(begin).Milliseconds()), "first-ms")
	took = nil
	b.ResetTimer()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range connections {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				switch rand.IntN(4) {
				case 0:
					get("/historique")
				case 1:
					get(fmt.Sprintf("/historique?page=%d", 1+rand.IntN(entries/25)))
				case 2:
					get(fmt.Sprintf("/historique?agence=agence-%d&issue=denied&page=%d", rand.IntN(8), 1+rand.IntN(5)))
				default:
					get(fmt.Sprintf("/historique?q=exemple+%d", rand.IntN(8)))
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(size.Load()), "page-B")
}

// TestTenThousandEntries: every entry is on exactly one page, in order, and no page is large.
func TestTenThousandEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand disclosures")
	}
	w := newWorld(t, nil)
	w.signIn("camille", camille)
	const n = 10_000
	crowd(t, w, n)
	seen := map[proof.Index]bool{}
	pages, last := 0, time.Now().AddDate(1, 0, 0)
	for path := "/historique?vue=dense"; path != ""; pages++ {
		a := w.page("camille", path)
		for _, r := range a.rows() {
			i := attr(r, "data-index")
			var index proof.Index
			if _, err := fmt.Sscan(i, &index); err != nil || seen[index] {
				t.Fatalf("entry %s is there twice, or isn't a number", i)
			}
			seen[index] = true
		}
		times := a.tag("time")
		for _, x := range times {
			if at, err := time.Parse(time.RFC3339, attr(x, "datetime")); err == nil && attr(x.Parent, "class") == "time" {
				if at.After(last) {
					t.Fatalf("%s comes after %s", at, last)
				}
				last = at
			}
		}
		path = ""
		for _, x := range a.tag("a") {
			if attr(x, "rel") == "next" {
				path = attr(x, "href")
			}
		}
		if pages == 0 && !strings.Contains(a.text(), "10\u202f000 accès") {
			t.Errorf("the count isn't said: %s", a.text()[:300])
		}
	}
	if len(seen) != n || pages != n/100 {
		t.Errorf("%d entries on %d pages", len(seen), pages)
	}
	zipped := w.get("camille", "/historique?vue=dense&page=7", "Accept-Encoding", "gzip")
	plain := w.get("camille", "/historique?page=7")
	if len(zipped.body) > 60<<10 || len(plain.body) > 60<<10 {
		t.Errorf("a dense page is sent in %d bytes, an airy one has %d", len(zipped.body), len(plain.body))
	}
}
