// Package walfile has SQLite write each commit to the write-ahead log in one piece.
//
// SQLite writes a page of a commit with two system calls, one for 24 bytes and one for the page, and a commit has dozens of pages. The VFS of this package keeps what is
// written to a write-ahead log, as long as one piece follows the other, and hands it on when it is synced. It is the system's own VFS in everything else: files, locks and
// shared memory, so connections with and without it work on the same database.
//
// What it guarantees. Everything that was written to the log before a sync is handed to the system before that sync, in order, and what is read is what was written. A write
// that fails is reported by the sync (or the read, or the write) that caused it, so the commit fails.
//
// What it needs. Every commit is synced: synchronous=FULL, or EXTRA. Otherwise readers would be sent to pages that aren't in the file yet.
package walfile

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// maxPiece is what one system call writes. SQLite's unix VFS takes less than 128 KiB: it keeps the lowest 17 bits of a length.
	maxPiece = 96 << 10
	// maxKept bounds what is kept of a large transaction.
	maxKept = 1 << 20
)

// The function pointers of C, as modernc.org/sqlite has them.
type (
	openFunc     = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32
	closeFunc    = func(tls *libc.TLS, file uintptr) int32
	readFunc     = func(tls *libc.TLS, file, buf uintptr, n int32, offset int64) int32
	writeFunc    = func(tls *libc.TLS, file, buf uintptr, n int32, offset int64) int32
	truncateFunc = func(tls *libc.TLS, file uintptr, size int64) int32
	syncFunc     = func(tls *libc.TLS, file uintptr, flags int32) int32
	sizeFunc     = func(tls *libc.TLS, file, size uintptr) int32
)

// vfs stands before another VFS.
type vfs struct {
	open openFunc
	// files are the open write-ahead logs by the address of SQLite's structure for each. One connection has it, which does one thing at a time.
	files sync.Map // uintptr to *file

	once   sync.Once // the system's functions are known from the first file that it opens
	table  *sqlite3.Tsqlite3_io_methods
	system sqlite3.Tsqlite3_io_methods
	keep   []any // C memory doesn't keep functions alive
}

// file is what was written to a write-ahead log and not handed on.
type file struct {
	offset int64
	data   []byte
}

var registered struct {
	sync.Mutex
	names map[string]string
}

// VFS returns the name of the VFS that stands before the one named below, "" for the system's. It is what a connection's vfs parameter takes.
func VFS(below string) (string, error) {
	registered.Lock()
	defer registered.Unlock()
	if name, ok := registered.names[below]; ok {
		return name, nil
	}
	tls := libc.NewTLS() // lives as long as the VFS
	if rc := sqlite3.Xsqlite3_initialize(tls); rc != sqlite3.SQLITE_OK {
		return "", fmt.Errorf("walfile: starting SQLite: error %d", rc)
	}
	var cBelow uintptr
	if below != "" {
		var err error
		if cBelow, err = libc.CString(below); err != nil {
			return "", fmt.Errorf("walfile: %w", err)
		}
		defer libc.Xfree(tls, cBelow)
	}
	found := sqlite3.Xsqlite3_vfs_find(tls, cBelow)
	if found == 0 {
		return "", fmt.Errorf("walfile: there is no VFS %q", below)
	}
	name := "regard-wal" + below
	cName, err := libc.CString(name)
	if err != nil {
		return "", fmt.Errorf("walfile: %w", err)
	}
	c, err := calloc[sqlite3.Tsqlite3_vfs](tls)
	if err != nil {
		return "", err
	}
	*c = *at[sqlite3.Tsqlite3_vfs](found)
	v := &vfs{}
	v.open = function[openFunc](c.FxOpen)
	c.FxOpen = pointer(v, v.openFile)
	c.FpNext, c.FzName = 0, cName
	if rc := sqlite3.Xsqlite3_vfs_register(tls, uintptr(unsafe.Pointer(c)), 0); rc != sqlite3.SQLITE_OK { // #nosec G103 -- C memory that is never freed
		return "", fmt.Errorf("walfile: registering: error %d", rc)
	}
	if registered.names == nil {
		registered.names = map[string]string{}
	}
	registered.names[below] = name
	all = append(all, v)
	return name, nil
}

var all []*vfs // never freed: SQLite has their addresses

func (v *vfs) openFile(tls *libc.TLS, self, name, address uintptr, flags int32, outFlags uintptr) int32 {
	rc := v.open(tls, self, name, address, flags, outFlags)
	f := at[sqlite3.Tsqlite3_file](address)
	if rc != sqlite3.SQLITE_OK || flags&sqlite3.SQLITE_OPEN_WAL == 0 || f.FpMethods == 0 {
		return rc
	}
	v.once.Do(func() { v.wrap(tls, at[sqlite3.Tsqlite3_io_methods](f.FpMethods)) })
	if v.table == nil {
		return rc // no memory: the system's own functions do
	}
	v.files.Store(address, &file{})
	f.FpMethods = uintptr(unsafe.Pointer(v.table)) // #nosec G103 -- C memory that is never freed
	return rc
}

// wrap makes the table of functions of write-ahead logs.
func (v *vfs) wrap(tls *libc.TLS, system *sqlite3.Tsqlite3_io_methods) {
	t, err := calloc[sqlite3.Tsqlite3_io_methods](tls)
	if err != nil {
		return
	}
	v.system = *system
	*t = *system
	closeFile, read, write := function[closeFunc](system.FxClose), function[readFunc](system.FxRead), function[writeFunc](system.FxWrite)
	truncate, syncFile, size := function[truncateFunc](system.FxTruncate), function[syncFunc](system.FxSync), function[sizeFunc](system.FxFileSize)

	// flush hands on what is kept. If that fails it is gone: whoever is told of the error gives up the transaction.
	flush := func(tls *libc.TLS, address uintptr, f *file) int32 {
		rc := int32(sqlite3.SQLITE_OK)
		for piece := range slices.Chunk(f.data, maxPiece) {
			if rc = write(tls, address, uintptr(unsafe.Pointer(unsafe.SliceData(piece))), int32(len(piece)), f.offset); rc != sqlite3.SQLITE_OK { // #nosec G103 G115 -- the bytes stay until after the loop, and are at most maxPiece
				break
			}
			f.offset += int64(len(piece))
		}
		runtime.KeepAlive(f.data)
		f.data = f.data[:0]
		return rc
	}
	t.FxWrite = pointer(v, func(tls *libc.TLS, address, buf uintptr, n int32, offset int64) int32 {
		f := v.file(address)
		if offset != f.offset+int64(len(f.data)) || len(f.data)+int(n) > maxKept {
			if rc := flush(tls, address, f); rc != sqlite3.SQLITE_OK {
				return rc
			}
		}
		if len(f.data) == 0 {
			f.offset = offset
		}
		f.data = append(f.data, unsafe.Slice(at[byte](buf), n)...) // #nosec G103 -- n bytes of C memory, as SQLite says
		return sqlite3.SQLITE_OK
	})
	t.FxRead = pointer(v, func(tls *libc.TLS, address, buf uintptr, n int32, offset int64) int32 {
		if rc := flush(tls, address, v.file(address)); rc != sqlite3.SQLITE_OK {
			return rc
		}
		return read(tls, address, buf, n, offset)
	})
	t.FxTruncate = pointer(v, func(tls *libc.TLS, address uintptr, to int64) int32 {
		if rc := flush(tls, address, v.file(address)); rc != sqlite3.SQLITE_OK {
			return rc
		}
		return truncate(tls, address, to)
	})
	t.FxSync = pointer(v, func(tls *libc.TLS, address uintptr, flags int32) int32 {
		if rc := flush(tls, address, v.file(address)); rc != sqlite3.SQLITE_OK {
			return rc
		}
		return syncFile(tls, address, flags)
	})
	t.FxFileSize = pointer(v, func(tls *libc.TLS, address, to uintptr) int32 {
		if rc := flush(tls, address, v.file(address)); rc != sqlite3.SQLITE_OK {
			return rc
		}
		return size(tls, address, to)
	})
	t.FxClose = pointer(v, func(tls *libc.TLS, address uintptr) int32 {
		// What no sync asked for is part of no commit.
		v.files.Delete(address)
		return closeFile(tls, address)
	})
	v.table = t
}

func (v *vfs) file(address uintptr) *file {
	f, _ := v.files.Load(address)
	return f.(*file)
}

// pointer is how the generated code holds a C function pointer to a Go function, which v keeps alive; function is its inverse.
func pointer(v *vfs, f any) uintptr {
	v.keep = append(v.keep, f)
	type iface [2]uintptr
	return (*iface)(unsafe.Pointer(&f))[1] // #nosec G103 -- see above
}

func function[F any](pointer uintptr) F {
	return *(*F)(unsafe.Pointer(&struct{ uintptr }{pointer})) // #nosec G103 -- see above
}

// at is the object at an address of C memory.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) } // #nosec G103 -- see above

// calloc gets memory that the garbage collector neither frees nor moves.
func calloc[T any](tls *libc.TLS) (*T, error) {
	p := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(*new(T))))
	if p == 0 {
		return nil, fmt.Errorf("walfile: out of memory")
	}
	return at[T](p), nil
}
