package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
)

// resident is the process's memory in bytes: SQLite's is not in Go's heap.
func resident(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("needs Linux's /proc: ", err)
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(b)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// The process does not grow with the log, nor do the files beside it. How many
// leaves are added is REGARD_TEST_LEAVES, 200,000 by default; a million passes.
func TestMemoryIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("adds 200,000 leaves")
	}
	total := int64(200_000)
	if v := os.Getenv("REGARD_TEST_LEAVES"); v != "" {
		var err error
		if total, err = strconv.ParseInt(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "log.db")
	l := open(t, path)
	const size, warm = 256, 60_000 // by then the caches are full
	var before int64
	for next := int64(0); next < total; next += size {
		if next >= warm && before == 0 {
			before = resident(t)
		}
		mustAdd(t, l, knownLeaves(next, size), codes.OK)
		mustIntegrate(t, l)
	}
	after := resident(t)
	t.Logf("%d leaves: %d MiB resident, %d MiB at %d leaves", total, after>>20, before>>20, warm)
	if grown := after - before; grown > 32<<20 {
		t.Errorf("the process grew by %d MiB between %d and %d leaves", grown>>20, warm, total)
	}
	var db, wal int64
	for name, to := range map[string]*int64{path: &db, path + "-wal": &wal} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		*to = fi.Size()
	}
	t.Logf("%d bytes a leaf on disk, WAL of %d MiB", db/total, wal>>20)
	if wal > 64<<20 {
		t.Errorf("the WAL has grown to %d MiB", wal>>20)
	}
	if perLeaf := db / total; perLeaf > 400 {
		t.Errorf("%d bytes a leaf: something else is growing", perLeaf)
	}
}
