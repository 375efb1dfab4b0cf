package broker_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedfile"
)

// TestDiskFull fills the file system of each part, one after the other: requests fail clearly, and when there is room again all goes on by itself, and what was recorded is there.
//
// A file system of its own takes root, or a name space in which one is root. TestFileLimit shows the same to everybody, of all parts at once.
func TestDiskFull(t *testing.T) {
	t.Parallel() // it waits most of the time
	const inside = "REGARD_TEST_IN_NAMESPACE"
	if err := tryMount(t); err != nil && os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			t.Errorf("in a name space: %v\n%s", err, out)
		} else if err != nil {
			t.Logf("no file system and no name space can be had here (%v): see TestFileLimit", err)
		}
		return
	} else if err != nil {
		t.Logf("no file system can be had here, not in a name space either (%v): see TestFileLimit", err)
		return
	}
	for _, part := range []string{"store", "log", "signed", "public"} {
		t.Run(part, func(t *testing.T) {
			data := t.TempDir()
			dir := filepath.Join(data, part)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			filler := filepath.Join(dir, "filler")
			testNoRoom(t, data, part == "public", func(*watched) { fill(t, filler) }, func() {
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func tryMount(t *testing.T) error {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	return syscall.Unmount(dir, 0)
}

// TestFileLimit lets no file of the broker grow any more, in a process of its own: nothing can be written, as on a full disk.
func TestFileLimit(t *testing.T) {
	const inside = "REGARD_TEST_FILE_LIMIT"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFileLimit$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestFileLimit")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ) // so that the write fails instead
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	limit := func(t *testing.T, n uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
	}
	for name, more := range map[string]int64{"soon": 128 << 10, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			full := func(w *watched) {
				fi, err := os.Stat(filepath.Join(w.cfg.DataDir, "store", "store.db-wal"))
				if err != nil {
					t.Fatal(err)
				}
				if more == 0 {
					limit(t, 4096)
					return
				}
				limit(t, uint64(fi.Size()+more)) // #nosec G115 -- a size
			}
			t.Cleanup(func() { limit(t, before.Cur) })
			testNoRoom(t, t.TempDir(), false, full, func() { limit(t, before.Cur) })
		})
	}
}

// testNoRoom runs a broker on data while full leaves no room in it, until room is called. If slow, it takes a while until that is noticed.
func testNoRoom(t *testing.T, data string, slow bool, full func(*watched), room func()) {
	t.Helper()
	w := newWatched(t, func(c *broker.Config) { c.DataDir, c.SweepEvery = data, 100*time.Millisecond })
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("nomNaissance")
		fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":77012},"membres":[{"nom":%q,"prenoms":"NOE"}],"adresse":%q}}`, name+" ENFANT", strings.Repeat("x", 30_000))
	}
	before := w.disclose(asker("TUE AVANT"))
	full(w)
	var failed []*broker.Request
	var good []*broker.Answer
	for i := 0; len(failed) < 3; i++ {
		if i == 5000 {
			t.Fatal("the full disk was never noticed")
		}
		req := asker("TUE " + letters(int64(i+1)))
		a, err := w.b.Disclose(t.Context(), w.caller, req)
		if err == nil && a.Outcome == broker.Released {
			good = append(good, a)
			if slow {
				time.Sleep(100 * time.Millisecond) // publication may be behind for ten seconds
			}
			continue
		}
		w.nothing("disk full", a, err)
		failed = append(failed, req)
	}
	room()
	for _, req := range failed {
		switch a := w.finally(req); {
		case a.Outcome == broker.Released && a.Data != nil, a.Outcome == broker.Failed && a.Data == nil:
		default:
			t.Errorf("a request that met the full disk: %+v", a)
		}
	}
	if a := w.finally(asker("TUE APRES")); a.Outcome != broker.Released {
		t.Errorf("%+v", a)
	}
	asked := map[string]int{}
	for _, r := range w.provider.requests() {
		asked[r.Header.Get("X-Request-Id")]++
	}
	w.close()
	w.open()
	for _, a := range append(good, before) {
		w.verify(a.Receipt)
		if got, err := w.b.Disclosure(t.Context(), w.caller, a.ID); err != nil || got.Outcome != a.Outcome {
			t.Errorf("recorded before the disk was full: %+v, %v", got, err)
		}
	}
	// Whatever reached the provider is recorded.
	for id, n := range asked {
		u, err := uuid.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := w.b.Disclosure(t.Context(), w.caller, store.ID(u)); err != nil || n != 1 {
			t.Errorf("a question that reached the provider %d times: %+v, %v", n, a, err)
		} else {
			w.verify(a.Receipt)
		}
	}
	t.Logf("%d answers before it was noticed; %d questions", len(good), len(asked))
}

// fill leaves no block free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// copyTree copies what a backup, or a thief, would find.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput() // with the modes, which are checked
	if err != nil && bytes.Contains(out, []byte("/.new-")) {        // a file that was being written has its name by now
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		out, err = exec.Command("cp", "-a", from, to).CombinedOutput()
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestRestoredBackups puts older copies back in place: nothing is signed that forks the log, and the refusal explains itself.
func TestRestoredBackups(t *testing.T) {
	t.Parallel()
	for name, parts := range map[string][]string{
		"store":                   {"store"},
		"log":                     {"log"},
		"store and log":           {"store", "log"},
		"all but the signed":      {"store", "log", "public"},
		"all but the published":   {"store", "log", "signed"},
		"the signed alone":        {"signed"},
		"the published alone":     {"public"},
		"signed and published":    {"signed", "public"},
		"no store":                {"-store"},
		"no log":                  {"-log"},
		"no signed, older others": {"store", "log", "-signed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t, nil)
			w.provider.answer = couple
			w.disclose(asker("TUE AVANT"))
			w.close()
			backup := filepath.Join(t.TempDir(), "backup")
			copyTree(t, w.cfg.DataDir, backup)
			w.open()
			var last *broker.Answer
			for i := range 3 {
				last = w.disclose(asker("TUE " + letters(int64(i+1))))
			}
			w.close()
			keep := filepath.Join(t.TempDir(), "keep")
			copyTree(t, w.cfg.DataDir, keep)
			signed, published := w.signatures()
			for _, part := range parts {
				gone := strings.TrimPrefix(part, "-")
				if err := os.RemoveAll(filepath.Join(w.cfg.DataDir, gone)); err != nil {
					t.Fatal(err)
				}
				if gone == part {
					copyTree(t, filepath.Join(backup, part), filepath.Join(w.cfg.DataDir, part))
				}
			}
			b, err := broker.New(t.Context(), w.cfg)
			if err == nil {
				w.b = b
				// It may go on where nothing was lost that can't be made again: then everything is as it was.
				tree := name == "log" || name == "no log" // the store has it all
				if !tree && (strings.Contains(name, "store") || strings.Contains(name, "log") || strings.HasPrefix(name, "all")) {
					t.Fatal("the broker works on a restored backup")
				}
				w.verify(last.Receipt)
				if a := w.finally(asker("TUE " + letters(3))); !a.Repeated || !bytes.Equal(a.Data, last.Data) {
					t.Errorf("%+v", a)
				}
				w.extends(last)
				return
			}
			if !errors.Is(err, ledger.ErrHalted) && !errors.Is(err, ledger.ErrUnavailable) {
				t.Errorf("refused by %v", err)
			}
			if text := err.Error(); !strings.Contains(text, "estore") && !strings.Contains(text, "bring") {
				t.Errorf("the refusal doesn't say what to do: %v", err)
			}
			t.Logf("refused: %v", err)
			signedNow, publishedNow := w.signatures()
			inBackup := func(part string) bool { return slices.Contains(parts, part) || slices.Contains(parts, "-"+part) }
			if !inBackup("signed") && signedNow != signed || !inBackup("public") && publishedNow != published {
				t.Error("something was signed or published")
			}
			// With the right files it goes on as if nothing had been.
			if err := os.RemoveAll(w.cfg.DataDir); err != nil {
				t.Fatal(err)
			}
			copyTree(t, keep, w.cfg.DataDir)
			w.open()
			if a := w.finally(asker("TUE " + letters(3))); !a.Repeated || !bytes.Equal(a.Data, last.Data) {
				t.Errorf("%+v", a)
			}
			w.extends(last)
		})
	}
}

// signatures returns the last signed and the published checkpoint.
func (w *watched) signatures() (signed, published string) {
	w.t.Helper()
	cp, err := os.ReadFile(filepath.Join(w.cfg.DataDir, "public", "checkpoint"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	s, err := signedfile.Open(w.t.Context(), filepath.Join(w.cfg.DataDir, "signed", "signed.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	last, err := s.Last(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return string(last), string(cp)
}

// extends wants the log of now to hold what an older receipt shows, at its place.
func (w *world) extends(a *broker.Answer) {
	w.t.Helper()
	old, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		w.t.Fatal(err)
	}
	now, err := w.b.Disclosure(w.t.Context(), w.caller, a.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.verify(now.Receipt)
	r, err := proof.ParseReceipt(now.Receipt)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.Index() != old.Index() || !bytes.Equal(r.EntryText(), old.EntryText()) {
		w.t.Errorf("entry %d is another one now", old.Index())
	}
}

// TestDamagedFiles flips bytes in copies of the databases. Whatever comes of it is an error or the truth: never another answer, and never a receipt that doesn't hold.
func TestDamagedFiles(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWatched(t, nil)
	w.provider.answer = couple
	var answers []*broker.Answer
	var reqs []*broker.Request
	for i := range 12 {
		req := asker("TUE " + letters(int64(i+1)))
		reqs, answers = append(reqs, req), append(answers, w.disclose(req))
	}
	w.close()
	whole := filepath.Join(t.TempDir(), "whole")
	copyTree(t, w.cfg.DataDir, whole)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	refused, errs, right := 0, 0, 0
	for i := range 40 {
		file := []string{"store/store.db", "store/store.db", "store/store.db", "log/trillian.db", "signed/signed.db"}[i%5]
		w.cfg.DataDir = filepath.Join(t.TempDir(), "damaged")
		copyTree(t, whole, w.cfg.DataDir)
		flip(t, random, filepath.Join(w.cfg.DataDir, file), 1+random.IntN(30))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		b, err := broker.New(ctx, w.cfg)
		if err != nil {
			cancel()
			refused++
			continue
		}
		w.b = b
		for j, req := range reqs {
			if got, err := b.Disclosure(ctx, w.caller, answers[j].ID); err != nil {
				errs++
			} else if w.verify(got.Receipt); got.Outcome != broker.Released || !sameEntry(t, got.Receipt, answers[j].Receipt) {
				t.Errorf("%s: disclosure %d is another one: %+v", file, j, got)
			}
			a, err := b.Disclose(ctx, w.caller, req)
			switch {
			case err != nil:
				errs++
			case a.Data != nil && !bytes.Equal(a.Data, answers[j].Data):
				t.Errorf("%s: released %s instead of %s", file, a.Data, answers[j].Data)
			case a.Data != nil:
				w.verify(a.Receipt)
				right++
			}
		}
		_ = b.Close(ctx)
		w.b = nil
		cancel()
	}
	t.Logf("%d starts refused, %d errors, %d right answers", refused, errs, right)
	if refused == 0 || errs == 0 || right == 0 {
		t.Error("this shows too little")
	}
}

// TestDamagedFileSaysSo: a database whose file isn't one any more refuses the start, and the refusal names the file and what it is. With the right file all is as it was.
func TestDamagedFileSaysSo(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	before := w.disclose(asker("TUE AVANT"))
	w.close()
	for _, file := range []string{"store/store.db", "log/trillian.db", "signed/signed.db"} {
		path := filepath.Join(w.cfg.DataDir, file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string][]byte{"no database": []byte(strings.Repeat("TUE AVANT ", 1000)), "cut": good[:len(good)/2/4096*4096+100]} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := broker.New(t.Context(), w.cfg)
			if err == nil {
				_ = b.Close(t.Context())
				t.Errorf("%s, %s: the broker works on it", file, what)
			} else if text := err.Error(); !strings.Contains(text, "damaged") && !strings.Contains(text, "malformed") && !strings.Contains(text, "not a database") || !strings.Contains(text, file) {
				t.Errorf("%s, %s: the refusal doesn't say so: %v", file, what, err)
			} else if strings.Contains(text, "TUE") {
				t.Errorf("%s, %s: the refusal repeats it: %v", file, what, err)
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	if a := w.finally(asker("TUE AVANT")); !a.Repeated || !bytes.Equal(a.Data, before.Data) {
		t.Errorf("with the right files: %+v", a)
	}
	// Of the last signed checkpoint there is another copy, the published one.
	w.close()
	if err := os.Rename(filepath.Join(w.cfg.DataDir, "signed"), filepath.Join(t.TempDir(), "signed")); err != nil {
		t.Fatal(err)
	}
	w.open()
	if a := w.finally(asker("TUE SANS")); a.Outcome != broker.Released {
		t.Errorf("without the signed one: %+v", a)
	}
	w.extends(before)
}

// A damaged store lost the record of the asked entry, and the agency was given the receipt of the child's instead, which says who that is.
func TestLostAskedRecord(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	req := asker("TUE UN")
	a := w.disclose(req)
	w.close()
	db, err := sql.Open("sqlite", filepath.Join(w.cfg.DataDir, "store", "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.ExecContext(t.Context(), "DELETE FROM records WHERE position = 0 AND disclosure IS NOT NULL")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); n != 1 || err != nil {
		t.Fatalf("%d records, %v", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got, err := w.b.Disclosure(t.Context(), w.caller, a.ID); !errors.Is(err, keys.ErrAltered) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := w.b.Disclose(t.Context(), w.caller, req); !errors.Is(err, keys.ErrAltered) {
		t.Errorf("%+v, %v", got, err)
	}
}

func flip(t *testing.T, random *rand.Rand, path string, n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		data[random.IntN(len(data))] ^= byte(1 + random.IntN(255))
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sameEntry(t *testing.T, a, b []byte) bool {
	t.Helper()
	x, err1 := proof.ParseReceipt(a)
	y, err2 := proof.ParseReceipt(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return x.Index() == y.Index() && bytes.Equal(x.EntryText(), y.EntryText())
}
