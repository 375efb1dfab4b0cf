package ledger_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedfile"
)

// BenchmarkAppend appends groups of one entry with 256 callers. "memory" has everything in memory and measures the ledger alone with this package's Trillian;
// "embedded" has the real Trillian on SQLite and the real checkpoint file, so that three of the four fsyncs of a round are real.
func BenchmarkAppend(b *testing.B) {
	b.Run("memory", func(b *testing.B) { benchAppend(b, ledgertest.NewInMemory(b)) })
	b.Run("memory, slow disk", func(b *testing.B) { // rounds as large as they are on a real disk
		env := ledgertest.NewInMemory(b)
		env.Faults.Hook = func(call string, after bool) {
			if !after && (call == ledgertest.CallCommit || call == ledgertest.CallIntegrate) {
				time.Sleep(5 * time.Millisecond)
			}
		}
		benchAppend(b, env)
	})
	b.Run("embedded", func(b *testing.B) {
		env := ledgertest.New(b)
		s, err := signedfile.Open(context.Background(), filepath.Join(b.TempDir(), "signed.db"))
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		env.SignedStore = s
		benchAppend(b, env)
	})
}

func benchAppend(b *testing.B, env *ledgertest.Env) {
	cfg := env.Config()
	cfg.PublishEvery, cfg.FileEvery = time.Second, time.Second
	l := env.OpenWith(cfg)
	subjects := make([]proof.Subject, 1000)
	for i := range subjects {
		subjects[i] = ledgertest.Person(i)
	}
	var seq atomic.Int64
	before := cpu()
	m0 := l.Metrics()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for {
				n := seq.Add(1)
				if n > int64(b.N) {
					return
				}
				c := proof.Commitment{1, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
				g := ledger.Group{Entries: []proof.Entry{proof.Disclosure{Commitment: c}}, Attach: ledgertest.Subjects{subjects[n%1000]}}
				if _, err := l.Append(context.Background(), g); err != nil {
					b.Errorf("append: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	m := l.Metrics()
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(cpu()-before)/n/1e3, "cpu-µs/entry")
	b.ReportMetric(float64(m.Entries-m0.Entries)/float64(m.Rounds-m0.Rounds), "entries/round")
	b.ReportMetric(float64(m.Add-m0.Add+m.Integrate-m0.Integrate)/n/1e3, "trillian-µs/entry")
	b.ReportMetric(float64(m.Sign-m0.Sign)/float64(m.Rounds-m0.Rounds)/1e3, "sign-µs/round")
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReceipt makes a settled receipt from tiles.
func BenchmarkReceipt(b *testing.B) {
	env := ledgertest.NewInMemory(b)
	l := env.Open()
	g, o := ledgertest.Disclosure(ledgertest.Person(1))
	a, err := l.Append(context.Background(), g)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 300 {
		appendN(b, l, i, 1)
	}
	env.Clock.Set(l.OpenEpoch().Until)
	appendN(b, l, 0, 1)
	env.Wait(l)
	b.ResetTimer()
	for range b.N {
		r, err := l.Receipt(context.Background(), a.Entries[0].Index, o[0])
		if err != nil || r.Settlement() == nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCloseEpoch closes an epoch of 100,000 entries about 30,000 people that are labelled already.
func BenchmarkCloseEpoch(b *testing.B) {
	for range b.N {
		b.StopTimer()
		env := ledgertest.NewInMemory(b)
		cfg := env.Config()
		cfg.MaxBatch = 8192
		l := env.OpenWith(cfg)
		var wg sync.WaitGroup
		for c := range 10 {
			wg.Go(func() {
				for k := range 20 {
					var g ledger.Group
					var subjects ledgertest.Subjects
					for i := range 500 {
						n := (c*20+k)*500 + i
						g.Entries = append(g.Entries, proof.Disclosure{Commitment: proof.Commitment{1, byte(n), byte(n >> 8), byte(n >> 16)}})
						subjects = append(subjects, ledgertest.Person(n%30_000))
					}
					g.Attach = subjects
					if _, err := l.Append(context.Background(), g); err != nil {
						b.Errorf("append: %v", err)
					}
				}
			})
		}
		wg.Wait()
		for l.Metrics().Unfiled > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		env.Clock.Set(l.OpenEpoch().Until)
		b.StartTimer()
		appendN(b, l, 0, 1)
		b.StopTimer()
		b.ReportMetric(float64(l.Metrics().LastClose.Milliseconds()), "close-ms")
		env.Close(l)
	}
}
