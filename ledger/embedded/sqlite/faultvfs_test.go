package sqlite

import (
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// A VFS between SQLite and the operating system: it counts what is synced and
// written, and makes the n-th write or sync fail, before or after doing it. It is
// the system's own VFS with three functions replaced.

type faults struct {
	walSyncs, dbSyncs, walWrites, dbWrites atomic.Int64

	// failAt makes the n-th operation from now fail (1 is the next), and every
	// one after it while sticky.
	failAt atomic.Int64
	sticky atomic.Bool
	// persist does the operation and then reports failure.
	persist atomic.Bool
	code    atomic.Int32
	failed  atomic.Int64
}

const faultVFS = "regard-faults"

var (
	theFaults   faults
	faultsOnce  sync.Once
	faultsMutex sync.Mutex // one test at a time
	realOpen    uintptr
	walMethods  = methods{writes: &theFaults.walWrites, syncs: &theFaults.walSyncs}
	dbMethods   = methods{writes: &theFaults.dbWrites, syncs: &theFaults.dbSyncs}
)

// methods is what an open file can do; SQLite has a table of them for each kind
// of file, reachable only through an open one.
type methods struct {
	once          sync.Once
	table         *sqlite3.Tsqlite3_io_methods
	writes, syncs *atomic.Int64
}

func (m *methods) replace(tls *libc.TLS, f *sqlite3.Tsqlite3_file) {
	m.once.Do(func() {
		m.table = calloc[sqlite3.Tsqlite3_io_methods](tls)
		*m.table = *at[sqlite3.Tsqlite3_io_methods](f.FpMethods)
		w, s := callWrite(m.writes, m.table.FxWrite), callSync(m.syncs, m.table.FxSync)
		keep = append(keep, w, s)
		m.table.FxWrite, m.table.FxSync = funcPointer(w), funcPointer(s)
	})
	f.FpMethods = uintptr(unsafe.Pointer(m.table))
}

// funcPointer and the casts below are how the generated code represents C's
// function pointers.
func funcPointer(f any) uintptr {
	type iface [2]uintptr
	return (*iface)(unsafe.Pointer(&f))[1]
}

type (
	openFunc  = func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32
	writeFunc = func(*libc.TLS, uintptr, uintptr, int32, int64) int32
	syncFunc  = func(*libc.TLS, uintptr, int32) int32
)

func (f *faults) next() (fail, persist bool) {
	n := f.failAt.Load()
	if n == 0 {
		return false, false
	}
	if n > 1 {
		f.failAt.Store(n - 1)
		return false, false
	}
	if !f.sticky.Load() {
		f.failAt.Store(0)
	}
	f.failed.Add(1)
	return true, f.persist.Load()
}

func callWrite(count *atomic.Int64, original uintptr) writeFunc {
	return func(tls *libc.TLS, file, buf uintptr, n int32, offset int64) int32 {
		count.Add(1)
		fail, persist := theFaults.next()
		rc := int32(sqlite3.SQLITE_OK)
		if !fail || persist {
			rc = (*(*writeFunc)(unsafe.Pointer(&struct{ uintptr }{original})))(tls, file, buf, n, offset)
		}
		if fail {
			return theFaults.code.Load()
		}
		return rc
	}
}

func callSync(count *atomic.Int64, original uintptr) syncFunc {
	return func(tls *libc.TLS, file uintptr, flags int32) int32 {
		count.Add(1)
		fail, persist := theFaults.next()
		rc := int32(sqlite3.SQLITE_OK)
		if !fail || persist {
			rc = (*(*syncFunc)(unsafe.Pointer(&struct{ uintptr }{original})))(tls, file, flags)
		}
		if fail {
			return theFaults.code.Load()
		}
		return rc
	}
}

func callOpen(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32 {
	rc := (*(*openFunc)(unsafe.Pointer(&struct{ uintptr }{realOpen})))(tls, vfs, name, file, flags, out)
	f := at[sqlite3.Tsqlite3_file](file)
	if rc != sqlite3.SQLITE_OK || f.FpMethods == 0 {
		return rc
	}
	switch {
	case flags&sqlite3.SQLITE_OPEN_WAL != 0:
		walMethods.replace(tls, f)
	case flags&sqlite3.SQLITE_OPEN_MAIN_DB != 0:
		dbMethods.replace(tls, f)
	}
	return rc
}

// at is the object at an address of C memory.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// calloc gets memory that the garbage collector neither frees nor moves.
func calloc[T any](tls *libc.TLS) *T {
	p := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(*new(T))))
	if p == 0 {
		panic("out of memory")
	}
	return at[T](p)
}

// Functions stay referenced here, C memory doesn't keep them alive.
var keep []any

func withFaults(t testing.TB) (*faults, func(*Config)) {
	t.Helper()
	faultsOnce.Do(func() {
		tls := libc.NewTLS()
		if rc := sqlite3.Xsqlite3_initialize(tls); rc != sqlite3.SQLITE_OK {
			t.Fatalf("sqlite3_initialize: %d", rc)
		}
		def := at[sqlite3.Tsqlite3_vfs](sqlite3.Xsqlite3_vfs_find(tls, 0))

		vfs := calloc[sqlite3.Tsqlite3_vfs](tls)
		*vfs = *def
		vfs.FpNext = 0
		name, err := libc.CString(faultVFS)
		if err != nil {
			t.Fatal(err)
		}
		vfs.FzName = name
		realOpen = def.FxOpen
		o := openFunc(callOpen)
		keep = append(keep, o)
		vfs.FxOpen = funcPointer(o)
		if rc := sqlite3.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(vfs)), 0); rc != sqlite3.SQLITE_OK {
			t.Fatalf("registering the VFS: %d", rc)
		}
	})
	faultsMutex.Lock()
	reset := func() {
		theFaults.failAt.Store(0)
		theFaults.sticky.Store(false)
		theFaults.persist.Store(false)
		theFaults.code.Store(sqlite3.SQLITE_IOERR_WRITE)
		theFaults.failed.Store(0)
	}
	reset()
	t.Cleanup(func() { reset(); faultsMutex.Unlock() })
	return &theFaults, func(c *Config) { c.vfs = faultVFS }
}
