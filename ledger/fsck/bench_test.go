package fsck_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// BenchmarkFsck checks whole logs over HTTP, ten epochs each, every entry in a roll of its own, and prints how time and memory grow.
func BenchmarkFsck(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if testing.Short() && n > 100_000 {
				b.Skip("short")
			}
			p := ledgertest.NewPublished(b)
			p.Govern()
			for range 10 {
				p.Disclose(n / 10)
				p.Turn()
			}
			cp := p.Sign()
			s := httptest.NewServer(tiles.Handler(p.Dir))
			defer s.Close()
			src, err := reader.Open(s.URL, reader.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for b.Loop() {
				peak := watchHeap()
				r, err := fsck.Check(b.Context(), fsck.Config{Source: src, Policy: p.Policy})
				if err != nil || !r.Complete || r.Faults > 0 || r.Size != cp.Size() || r.Kinds[proof.KindDisclosure] != uint64(n) {
					b.Fatalf("%+v, %v", r, err)
				}
				b.ReportMetric(float64(peak())/(1<<20), "MiB-heap")
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// watchHeap returns a function that ends watching and returns the largest heap seen.
func watchHeap() func() uint64 {
	var most uint64
	stop, done := make(chan struct{}), new(sync.WaitGroup)
	done.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() uint64 { close(stop); done.Wait(); return most }
}

func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
