package store_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// BenchmarkDisclosures is what the store does for disclosures about new persons, 64 at a time: a look for the owner's keys, the intent with a new key, the order of a batch
// with its outcomes, and labels a few times a second. Sizes are those of the broker's benchmark. CPU time is the whole process's.
func BenchmarkDisclosures(b *testing.B) { store.EachEngineB(b, benchmarkDisclosures) }

func benchmarkDisclosures(b *testing.B, open store.Opener) {
	s := open(b, b.TempDir())
	o := store.Order{Store: s}
	ctx := b.Context()
	if err := o.Commit(ctx, &ledger.Batch{
		Opens:  &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"},
		Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Kind: proof.KindEpoch, Text: []byte("marker")}}}},
	}); err != nil {
		b.Fatal(err)
	}

	type waiting struct {
		out  *store.Outcome
		done chan error
	}
	queue := make(chan waiting, 64)
	ordered := make(chan struct{})
	go func() { // as the log does it: all that waits is one batch
		defer close(ordered)
		next := proof.Index(1)
		for w := range queue {
			batch, ws := &ledger.Batch{First: next}, []waiting{w}
			for more := true; more; {
				select {
				case w, ok := <-queue:
					if more = ok; ok {
						ws = append(ws, w)
					}
				default:
					more = false
				}
			}
			for _, w := range ws {
				l := ledger.Leaf{Index: next, Kind: proof.KindDisclosure, Text: make([]byte, 106)}
				_, _ = rand.Read(l.Identity[:])
				batch.Groups = append(batch.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{l}, Attach: w.out})
				next++
			}
			err := o.Commit(ctx, batch)
			for _, w := range ws {
				w.done <- err
			}
		}
	}()
	filing, filed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(filed)
		for last := false; !last; {
			select {
			case <-filing:
				last = true
			case <-time.After(250 * time.Millisecond):
			}
			for {
				rows, err := o.UnfiledRows(ctx, 0, 512)
				if err != nil {
					b.Error(err)
					return
				}
				if len(rows) == 0 {
					break
				}
				filings := make([]ledger.Filing, len(rows))
				for i, r := range rows {
					filings[i].Index = r.Index
					_, _ = rand.Read(filings[i].Label[:])
				}
				if err := o.File(ctx, 0, filings); err != nil {
					b.Error(err)
					return
				}
			}
		}
	}()

	one := func(n int64) error {
		in := &store.Intent{Agency: "agency-00123", Body: make([]byte, 32), AskedAt: time.Now(), Person: make([]byte, 266), Admin: make([]byte, 3600)}
		binary.BigEndian.PutUint64(in.ID[:], uint64(n))
		_, _ = rand.Read(in.Owner[:])
		key := keys.StoredKey{Kind: keys.KindSubject, Owner: in.Owner, Wrapped: make([]byte, 65), Created: in.AskedAt}
		copy(key.ID[:], in.ID[:8]) // ids of keys increase with time, too
		_, _ = rand.Read(in.Admin)
		in.Key, in.Fresh = key.ID, []*keys.StoredKey{&key}
		if found, err := s.LoadKeys(ctx, keys.KindSubject, in.Owner, ""); err != nil || len(found) > 0 {
			return err
		}
		d, _, err := s.Begin(ctx, in)
		if err != nil {
			return err
		}
		w := waiting{&store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: in.Owner, Person: in.Person, Admin: make([]byte, 4436)}}}, make(chan error, 1)}
		queue <- w
		return <-w.done
	}
	var n atomic.Int64
	commits, before, server := s.Stats().Commits.Load(), cpu(), serverCPU(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				if err := one(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(queue)
	<-ordered
	close(filing)
	<-filed
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/disclosure")
	reportServer(b, server)
	b.ReportMetric(float64(b.N)/float64(s.Stats().Commits.Load()-commits), "disclosures/commit")
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is what the processes of the PostgreSQL server that this process started have used.
func serverCPU(b *testing.B) (sum time.Duration) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	parent, used := map[int]int{}, map[int]time.Duration{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third field of proc(5) on
		parent[pid], _ = strconv.Atoi(f[1])
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		used[pid] = time.Duration(user+system) * 10 * time.Millisecond // by a clock of 100 Hz
	}
	for pid := range parent {
		if me := os.Getpid(); parent[pid] == me || parent[parent[pid]] == me {
			sum += used[pid]
		}
	}
	return sum
}

func reportServer(b *testing.B, before time.Duration) {
	if used := serverCPU(b) - before; used > 0 {
		b.ReportMetric(float64(used.Microseconds())/float64(b.N), "server-cpu-µs/disclosure")
	}
}

// BenchmarkRollsOnDisk measures what the rolls of an epoch cost on disk, in bytes for each person with one entry: labels arrive a few thousand at a time. With the index's tiles
// (ledger.BenchmarkEpochProof) the aim is 130.
func BenchmarkRollsOnDisk(b *testing.B) {
	const persons, batch = 1_000_000, 4_000
	for b.Loop() {
		dir := b.TempDir()
		s, err := store.Open(b.Context(), store.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		o := store.Order{Store: s}
		if err := o.Commit(b.Context(), &ledger.Batch{
			Opens:  &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"},
			Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Kind: proof.KindEpoch, Text: []byte("marker")}}}},
		}); err != nil {
			b.Fatal(err)
		}
		size := func() int64 {
			if err := s.Close(); err != nil { // what is in the write-ahead log goes into the file
				b.Fatal(err)
			}
			info, err := os.Stat(store.FileIn(dir))
			if err != nil {
				b.Fatal(err)
			}
			return info.Size()
		}
		filings := make([]ledger.Filing, batch)
		for i := 0; i < persons; i += batch {
			for k := range filings {
				filings[k].Index = proof.Index(1 + i + k)
				_, _ = rand.Read(filings[k].Label[:])
			}
			if err := o.File(b.Context(), 0, filings); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(size())/persons, "B/person")
	}
}

// callers runs f b.N times, 64 at once.
func callers(b *testing.B, f func(n int64) error) {
	b.Helper()
	var n atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		wg.Go(func() {
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchIntent(n int64) *store.Intent {
	in := &store.Intent{Agency: "agency-00123", Body: make([]byte, 32), Idem: make([]byte, 32), AskedAt: time.Now(), Person: make([]byte, 266), Admin: make([]byte, 3600)}
	binary.BigEndian.PutUint64(in.ID[:], uint64(n)) // #nosec G115 -- counted from one
	_, _ = rand.Read(in.Owner[:])
	_, _ = rand.Read(in.Idem)
	_, _ = rand.Read(in.Admin)
	key := keys.StoredKey{Kind: keys.KindSubject, Owner: in.Owner, Wrapped: make([]byte, 65), Created: in.AskedAt}
	copy(key.ID[:], in.ID[:8])
	in.Key, in.Fresh = key.ID, []*keys.StoredKey{&key}
	return in
}

// BenchmarkBegin is intents about new persons, 64 callers.
func BenchmarkBegin(b *testing.B) {
	store.EachEngineB(b, func(b *testing.B, open store.Opener) {
		s := open(b, b.TempDir())
		server := serverCPU(b)
		callers(b, func(n int64) error {
			_, _, err := s.Begin(b.Context(), benchIntent(n))
			return err
		})
		reportServer(b, server)
	})
}

// BenchmarkCommit is outcomes, in batches of 64 as the log makes them of as many callers.
func BenchmarkCommit(b *testing.B) {
	store.EachEngineB(b, func(b *testing.B, open store.Opener) {
		s := open(b, b.TempDir())
		o := store.Order{Store: s}
		if err := o.Commit(b.Context(), &ledger.Batch{
			Opens:  &ledger.OpenEpoch{Text: []byte("marker"), Opened: time.UnixMilli(1), Until: time.UnixMilli(2), LabelKey: "k"},
			Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{{Kind: proof.KindEpoch, Text: []byte("marker")}}}},
		}); err != nil {
			b.Fatal(err)
		}
		begun := make([]store.Disclosure, b.N)
		callers(b, func(n int64) (err error) {
			begun[n-1], _, err = s.Begin(b.Context(), benchIntent(n))
			return err
		})
		b.ResetTimer()
		for next := proof.Index(1); len(begun) > 0; {
			n := min(64, len(begun))
			batch := &ledger.Batch{First: next}
			for _, d := range begun[:n] {
				l := ledger.Leaf{Index: next, Kind: proof.KindDisclosure, Text: make([]byte, 106)}
				_, _ = rand.Read(l.Identity[:])
				r := store.Record{Owner: d.Owner, Person: make([]byte, 266), Admin: make([]byte, 4436)}
				_, _ = rand.Read(r.Admin)
				batch.Groups = append(batch.Groups, ledger.PlacedGroup{Leaves: []ledger.Leaf{l}, Attach: &store.Outcome{Disclosure: d.Seq, Records: []store.Record{r}}})
				next++
			}
			if err := o.Commit(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			begun = begun[n:]
		}
	})
}
