package portal_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/portal"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// crowd makes n entries about Camille, of several agencies, purposes and outcomes.
func crowd(t testing.TB, w *world, n int) {
	t.Helper()
	for i := range 8 {
		id := fmt.Sprintf("agence-%d", i)
		if w.agencies[id].ID != "" {
			continue
		}
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
// and the look for new entries included, and the size of a page as it is sent; then the same while a month's retention ends, of which 300 of these entries are.
func BenchmarkHistoryPage(b *testing.B) {
	const ended = 300
	m := &monthEnds{}
	w := newWorld(b, func(_ *broker.Config, c *portal.Config) { c.Broker = m })
	m.Broker = w.b
	w.signIn("camille", camille)
	crowd(b, w, ended)
	for range 2 { // a month at once isn't believed
		w.ahead.Add(int64(20 * 24 * time.Hour))
		w.turn()
	}
	crowd(b, w, benchEntries-ended)
	old, _, err := w.b.OwnEntries(b.Context(), w.sessions.by["camille"].Subjects[0], ended, 1)
	if err != nil || len(old) != 1 {
		b.Fatal(err, old)
	}
	w.turn() // nobody has thousands on one day
	first := func() time.Duration {
		begin := time.Now()
		w.get("camille", "/historique")
		return time.Since(begin)
	}
	made := first()
	b.Run("quiet", func(b *testing.B) { pages(b, w, made) })
	m.under.Store(&old[0].Under)
	again := first()
	b.Run("a month ends", func(b *testing.B) { pages(b, w, again) })
}

const benchEntries = 10_000

// monthEnds is a broker that has told the end of a month's retention, and can't go on: its details are all there.
type monthEnds struct {
	portal.Broker
	under atomic.Pointer[keys.KeyID]
}

func (m *monthEnds) Endings(ctx context.Context) (store.Endings, error) {
	e, err := m.Broker.Endings(ctx)
	if m.under.Load() != nil {
		e.Told, e.Underway = e.Told+1, true
	}
	return e, err
}

func (m *monthEnds) Lasting(ctx context.Context, of []keys.KeyID) (map[keys.KeyID]bool, error) {
	out, err := m.Broker.Lasting(ctx, of)
	if under := m.under.Load(); under != nil {
		delete(out, *under)
	}
	return out, err
}

// pages asks for pages, one after the other over each connection; the first of all took that long.
func pages(b *testing.B, w *world, first time.Duration) {
	const connections = 64
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
	used := processorTime(b)
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
					get(fmt.Sprintf("/historique?page=%d", 1+rand.IntN(benchEntries/25)))
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
	b.ReportMetric(float64((processorTime(b)-used).Microseconds())/float64(b.N), "cpu-µs/page")
	b.ReportMetric(float64(first.Milliseconds()), "first-ms")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(size.Load()), "page-B")
}

// processorTime is what this process has used, its clients' work included.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// many is a broker with a person who has very many entries: one real one, told again under every index.
type many struct {
	portal.Broker
	first broker.OwnEntry
	n     int
	open  int // of the open epoch: that many of the newest
}

func (m *many) Standing() broker.Standing {
	s := m.Broker.Standing()
	s.Open.Marker = proof.Index(m.n - m.open + 1) // #nosec G115 -- small
	return s
}

func (m *many) NewestOwn(context.Context, proof.Subject) (proof.Index, error) {
	return proof.Index(m.n), nil
}

func (m *many) OwnEntries(_ context.Context, s proof.Subject, before proof.Index, limit int) (page []broker.OwnEntry, next proof.Index, err error) {
	if s.Type() != proof.TypePivot {
		return nil, 0, nil
	}
	for i := proof.Index(m.n); i > 0; i-- {
		if before > 0 && i >= before {
			continue
		}
		if len(page) == limit {
			return page, i + 1, nil
		}
		e := m.first
		e.Index, e.At = i, m.first.At.Add(-time.Duration(m.n-int(i))*17*time.Minute) // #nosec G115 -- small
		page = append(page, e)
	}
	return page, 0, nil
}

// TestTenThousandEntries: every entry is on exactly one page, in order, of the open day or not; no page is large, and together the pages say that they show all.
func TestTenThousandEntries(t *testing.T) {
	m := &many{n: 10_000}
	w := newWorld(t, func(_ *broker.Config, c *portal.Config) { c.Broker = m })
	m.Broker = w.b
	w.signIn("camille", camille)
	w.disclose("mairie", canteen(camille))
	own, _, err := w.b.OwnEntries(t.Context(), w.sessions.by["camille"].Subjects[0], 0, 1)
	if err != nil || len(own) != 1 {
		t.Fatal(err)
	}
	m.first = own[0]
	w.turn()
	m.open = 30
	for _, query := range []string{"?vue=dense", "?issue=released&vue=dense"} {
		seen := map[proof.Index]bool{}
		pages, last := 0, time.Now().AddDate(1, 0, 0)
		for path := "/historique" + query; path != ""; pages++ {
			a := w.page("camille", path)
			for _, i := range a.indexes() {
				if seen[i] {
					t.Fatalf("entry %d is there twice", i)
				}
				seen[i] = true
			}
			for _, x := range a.tag("time") {
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
			if pages == 0 && !strings.Contains(a.text(), "10 000 inscriptions") {
				t.Errorf("the count isn't said: %s", a.text())
			}
		}
		if len(seen) != m.n || pages != m.n/100 {
			t.Errorf("%s: %d entries on %d pages", query, len(seen), pages)
		}
	}
	zipped := w.get("camille", "/historique?vue=dense&page=7", "Accept-Encoding", "gzip")
	plain := w.get("camille", "/historique?page=7")
	if len(zipped.body) > 60<<10 || len(plain.body) > 60<<10 {
		t.Errorf("a dense page is sent in %d bytes, an airy one has %d", len(zipped.body), len(plain.body))
	}
	m.open = 300
	if a := w.page("camille", "/historique"); len(a.rows()) != 200+25 || !strings.Contains(a.text(), "100 accès plus anciens de la journée en cours ne sont pas sur cette page") {
		t.Errorf("of an open day with 300 entries and one page of others there are %d rows", len(a.rows()))
	}
	for _, page := range []string{"388", "401", "9999999999"} {
		if a := w.page("camille", "/historique?page="+page); len(a.rows()) != 25 {
			t.Errorf("page %s has %d rows", page, len(a.rows()))
		}
	}
}
