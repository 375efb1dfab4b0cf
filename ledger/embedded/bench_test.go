package embedded

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/trillian"
)

// entry is as long as the broker's most frequent one.
func entry(i int64) []byte {
	h := sha256.Sum256(fmt.Append(nil, i))
	return fmt.Appendf(nil, "regard/disclosure@v1\nepoch 812\ncommitment %s\n", base64.StdEncoding.EncodeToString(h[:]))
}

func batch(from, n int64) []*trillian.LogLeaf {
	leaves := make([]*trillian.LogLeaf, n)
	for i := range leaves {
		id := make([]byte, 32)
		_, _ = rand.Read(id)
		leaves[i] = &trillian.LogLeaf{LeafValue: entry(from + int64(i)), LeafIdentityHash: id, LeafIndex: from + int64(i)}
	}
	return leaves
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAddIntegrate is what the sequencer does with a batch: through the
// client, on a real disk, with both fsyncs. CPU time is the whole process's, the
// garbage collector's included.
func BenchmarkAddIntegrate(b *testing.B) {
	for _, size := range []int64{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			l, err := Open(b.Context(), Config{Path: filepath.Join(b.TempDir(), "log.db")})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			var used, elapsed time.Duration
			next := int64(0)
			for b.Loop() {
				leaves := batch(next, size)
				start, before := time.Now(), cpu()
				if _, err := l.Client().AddSequencedLeaves(b.Context(), &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: leaves}); err != nil {
					b.Fatal(err)
				}
				if err := l.Integrate(b.Context()); err != nil {
					b.Fatal(err)
				}
				used += cpu() - before
				elapsed += time.Since(start)
				next += size
			}
			b.ReportMetric(float64(next)/elapsed.Seconds(), "leaves/s")
			b.ReportMetric(float64(used.Microseconds())/float64(next), "cpu-µs/leaf")
		})
	}
}
