package broker_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// history makes a log in which much happens after the backup, and stops the broker. What is erased is the person of the first answer.
type past struct {
	*watched
	backup, later         string // of before and after the erasure
	early                 string // copy of the data directory, of before the erasure
	manifest              *broker.Manifest
	lostCert              *x509.Certificate // of the agency that was registered after the backup
	erased, kept, after   *broker.Answer
	erasedReq, keptReq    *broker.Request
	signed, publishedThen string
}

func newPast(t *testing.T, epoch time.Duration) *past {
	t.Helper()
	w := newWatched(t, func(c *broker.Config) { c.Epoch, c.SweepEvery = epoch, 100*time.Millisecond })
	w.provider.answer = couple
	p := &past{watched: w, backup: filepath.Join(t.TempDir(), "backup"), erasedReq: asker("TUE EFFACE"), keptReq: asker("TUE GARDE")}
	p.erased, p.kept = w.disclose(p.erasedReq), w.disclose(p.keptReq)
	var err error
	if p.manifest, err = w.b.Backup(t.Context(), p.backup); err != nil {
		t.Fatal(err)
	}
	p.early = filepath.Join(t.TempDir(), "early")
	copyTree(t, w.cfg.DataDir, p.early)
	subject, err := p.erasedReq.Subject.Pivot.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	p.lostCert = newCert(t, time.Hour)
	if err := w.b.AddAgency(t.Context(), "prefecture", "Préfecture", mairie, p.lostCert); err != nil {
		t.Fatal(err)
	}
	if err := w.b.AddAgency(t.Context(), "passage", "Passage", mairie, newCert(t, time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RevokeAgency(t.Context(), "passage"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		p.after = w.disclose(asker("TUE " + letters(int64(i+1))))
		if epoch > 0 {
			time.Sleep(epoch)
		}
	}
	if _, err := w.b.RevokeAgreement(t.Context(), "cantine"); err != nil {
		t.Fatal(err)
	}
	p.later = filepath.Join(t.TempDir(), "later")
	if _, err := w.b.Backup(t.Context(), p.later); err != nil {
		t.Fatal(err)
	}
	w.close()
	p.signed, p.publishedThen = w.signatures()
	return p
}

func (p *past) restore() (*broker.Restored, error) {
	return broker.Restore(p.t.Context(), p.cfg, p.backup)
}

// TestRestore: the log goes on without a fork, erased people stay so, and what was lost is there as entries.
func TestRestore(t *testing.T) {
	t.Parallel()
	for name, epoch := range map[string]time.Duration{"one epoch": 0, "epochs closed since": 400 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			p := newPast(t, epoch)
			r, err := p.restore()
			if err != nil {
				t.Fatal(err)
			}
			if r.Lost == 0 || r.Erased != 1 || len(r.Missing) != 1 || len(r.Aside) != 2 {
				t.Fatalf("restored: %+v", r)
			}
			if want := fmt.Sprintf("agency prefecture: a certificate whose key has the SHA-256 %x was registered", sha256.Sum256(p.lostCert.RawSubjectPublicKeyInfo)); !strings.HasPrefix(r.Missing[0], want) {
				t.Errorf("to be registered again: %q, want %q", r.Missing[0], want)
			}
			if signed, published := p.signatures(); signed != p.signed || published != p.publishedThen {
				t.Error("restoring signed or published something")
			}
			p.open()
			// Nobody may ask any more: the agreement was revoked after the backup.
			if _, err := p.b.Disclose(t.Context(), p.caller, asker("TUE REVOQUE")); err == nil {
				if a, _ := p.b.Disclose(t.Context(), p.caller, asker("TUE REVOQUE")); a.Outcome != broker.Denied {
					t.Errorf("a revoked agreement is in force again: %s", a.Outcome)
				}
			}
			p.verify(p.erased.Receipt)
			p.verify(p.after.Receipt)
			p.extends(p.erased)
			p.extends(p.kept)
			if !p.hidden(p.erased) {
				t.Error("the erased person can be read again")
			}
			if p.hidden(p.kept) {
				t.Error("a person who wasn't erased can't be read")
			}
			// The log explains why, by the erasure whose own record is lost, and nobody is told that there is nothing else.
			h := p.history(subjectOf(t, killPivot("TUE EFFACE")), broker.HistoryPage{})
			if len(h.Entries) != 1 || h.Entries[0].State != broker.HistoryErased {
				t.Errorf("history of the erased person: %+v", h.Entries)
			}
			if want := []store.Range{{From: proof.Index(p.manifest.Size), To: proof.Index(r.Size)}}; !cmp.Equal(h.Lost, want) {
				t.Errorf("the history says that %v are lost, want %v", h.Lost, want)
			}
			if _, err := p.b.Disclosure(t.Context(), p.caller, p.after.ID); broker.AsProblem(err).Status != 404 {
				t.Errorf("a lost record: %v", err)
			}
			lost, err := p.b.LostRanges(t.Context())
			if want := (store.Range{From: proof.Index(p.manifest.Size), To: proof.Index(r.Size)}); err != nil || len(lost) != 1 || lost[0] != want {
				t.Errorf("lost: %v, want %v, %v", lost, want, err)
			}
			// restart@v1 is the first entry after the checkpoint, and the tree under it extends that checkpoint.
			after, err := proof.ParseReceipt(p.after.Receipt)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.b.Log().AwaitPublished(t.Context(), proof.Index(r.Size)); err != nil {
				t.Fatal(err)
			}
			cp, _ := p.b.Log().Published()
			tree := tiles.Tree{Dir: p.b.PublicDir(), Size: cp.Size(), Root: cp.Root()}
			text, err := tree.Entry(r.Size)
			if err != nil {
				t.Fatal(err)
			}
			e, err := proof.ParseEntry(text)
			if restart, ok := e.(proof.Restart); err != nil || !ok || restart.Size != r.Size || restart.Reason != "restored" || restart.Lost != (proof.Lost{From: proof.Index(r.Size - r.Lost), To: proof.Index(r.Size - 1)}) {
				t.Errorf("first entry after the restoration: %+v, %v", e, err)
			}
			path, err := tree.Inclusion(uint64(after.Index()))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := proof.VerifyEntry(cp, proof.Proven{Index: after.Index(), Text: after.EntryText(), Path: path}); err != nil {
				t.Errorf("an entry of which a receipt is out isn't in the log any more: %v", err)
			}
			// The epoch with lost entries closes.
			if epoch > 0 {
				first := p.b.Log().OpenEpoch().Number
				for deadline := time.Now().Add(patience); p.b.Log().OpenEpoch().Number < first+2; time.Sleep(50 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("no epoch closes after the restoration\n%s", p.text())
					}
				}
			}
			// Once more from the same backup, on top of it.
			p.close()
			if again, err := p.restore(); err != nil || again.Lost <= r.Lost || again.Erased != 1 {
				t.Errorf("restored again: %+v, %v", again, err)
			}
			p.open()
			if !p.hidden(p.erased) || p.hidden(p.kept) {
				t.Error("after the second restoration")
			}
		})
	}
}

// TestReceiptsAfterRestore: the published roll of somebody who was asked about before and after the backup can't be made again, so the receipts of before don't settle; they used to be refused for ever.
func TestReceiptsAfterRestore(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newWatched(t, func(c *broker.Config) {
		c.Epoch, c.SweepEvery, c.Clock = 12*time.Hour, time.Hour, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	p := &past{watched: w, backup: filepath.Join(t.TempDir(), "backup")}
	twice, once := asker("TUE DEUXFOIS"), asker("TUE UNEFOIS")
	first, only := w.disclose(twice), w.disclose(once)
	if _, err := w.b.Backup(t.Context(), p.backup); err != nil {
		t.Fatal(err)
	}
	again := asker("TUE DEUXFOIS")
	again.IdempotencyKey = "again"
	w.disclose(again)
	ahead.Store(int64(13 * time.Hour))
	for deadline := time.Now().Add(patience); w.b.Log().OpenEpoch().Number == 0; time.Sleep(20 * time.Millisecond) {
		_, _ = w.b.Disclose(t.Context(), w.caller, asker("TUE AUTRE")) // any entry tells the log the time
		if time.Now().After(deadline) {
			t.Fatal("the epoch doesn't close")
		}
	}
	w.until("the receipt to settle before the restoration", func() bool {
		got, err := w.b.Disclosure(t.Context(), w.caller, first.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.Settled
	})
	w.close()
	if _, err := p.restore(); err != nil {
		t.Fatal(err)
	}
	w.open()
	for range 2 {
		got, err := w.b.Disclosure(t.Context(), w.caller, first.ID)
		if err != nil || got.Settled || w.verify(got.Receipt).InRoll {
			t.Fatalf("asked about before and after the backup: %+v, %v", got, err)
		}
	}
	ahead.Store(0) // back to the day on which the agreement is valid
	if got := w.disclose(twice); !got.Repeated || got.ID != first.ID || got.Settled {
		t.Errorf("the repeat: %v, %+v", got.Outcome, got.Problem)
	}
	if got, err := w.b.Disclosure(t.Context(), w.caller, only.ID); err != nil || !got.Settled || !w.verify(got.Receipt).InRoll {
		t.Errorf("asked about before the backup alone: %+v, %v", got, err)
	}
	if n, logs := w.b.Log().Metrics().Unsettled, w.text(); n != 3 || strings.Count(logs, "can't be settled") != 1 || strings.Contains(logs, "DEUXFOIS") {
		t.Errorf("%d unsettled receipts counted; the log:\n%s", n, logs)
	}
}

// TestOpenWhenRestored: what was open in a backup has its outcome among the lost entries, nearly always. It used to become a second entry that claimed an interruption.
func TestOpenWhenRestored(t *testing.T) {
	t.Parallel()
	for want, lost := range map[string]bool{"restored": true, "interrupted": false} {
		t.Run(want, func(t *testing.T) {
			f := newFaulty(t)
			leave := false
			w := newWatched(t, func(c *broker.Config) {
				c.Custodian, c.SweepEvery = f, time.Hour
				c.SetAt(func(s string) {
					if leave && s == "provider" {
						f.down("Wrap", keys.ErrUnavailable)
					}
				})
			})
			w.provider.answer = couple
			w.disclose(asker("TUE AVANT"))
			interrupt := func(name string) {
				leave = true
				a, err := w.b.Disclose(t.Context(), w.caller, asker(name))
				w.nothing(name, a, err)
				f.up()
				leave = false
			}
			interrupt("TUE OUVERT")
			p := &past{watched: w, backup: filepath.Join(t.TempDir(), "backup")}
			if _, err := w.b.Backup(t.Context(), p.backup); err != nil {
				t.Fatal(err)
			}
			w.close()
			if lost {
				w.open() // it is recorded
				w.close()
			}
			if r, err := p.restore(); err != nil || (r.Lost > 0) != lost {
				t.Fatalf("%+v, %v", r, err)
			}
			w.open()
			if a := w.finally(asker("TUE OUVERT")); a.Outcome != broker.Failed || a.Problem.Code != want || a.Problem.Status != 503 || !a.Repeated {
				t.Errorf("open in the backup: %s, %+v", a.Outcome, a.Problem)
			}
			interrupt("TUE DEPUIS")
			w.close()
			w.open()
			if a := w.finally(asker("TUE DEPUIS")); a.Outcome != broker.Failed || a.Problem.Code != "interrupted" {
				t.Errorf("interrupted after the restoration: %s, %+v", a.Outcome, a.Problem)
			}
		})
	}
}

// TestRestoreOntoNothing: the store and Trillian are gone altogether; the published files and signed/ survived.
func TestRestoreOntoNothing(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	for _, d := range []string{"store", "log"} {
		if err := os.RemoveAll(filepath.Join(p.cfg.DataDir, d)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := p.restore()
	if err != nil || r.Lost == 0 || len(r.Aside) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	p.open()
	p.extends(p.kept)
	if !p.hidden(p.erased) {
		t.Error("the erased person can be read again")
	}
}

// TestRestoreRefuses: where it can't be proven that the log continues, or that nobody who was erased comes back, nothing changes.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*past)
		want   string
		is     error
	}{
		"no tiles, no Trillian": {func(p *past) {
			p.remove("public/tile", "log")
		}, "bring back a newer backup, or the published files", ledger.ErrHalted},
		"nothing was signed": {func(p *past) { p.remove("public", "signed") }, "no checkpoint is known", ledger.ErrNotFound},
		"no journal of erasures": {func(p *past) {
			p.remove("signed/erasures.db", "signed/erasures.db-wal", "signed/erasures.db-shm")
		}, "the journal of erasures doesn't know", nil},
		"signed and public of before the erasure": {func(p *past) {
			p.putBack(p.early, "public", "signed/signed.db")
		}, "the journal of erasures names entry", nil},
		"signed and public older than the backup": {func(p *past) {
			p.putBack(p.early, "public", "signed/signed.db")
			p.remove("signed/erasures.db", "signed/erasures.db-wal", "signed/erasures.db-shm")
			p.backup = p.later
		}, "they are older copies", ledger.ErrHalted},
		"signed and public older than a mirror": {func(p *past) {
			public := filepath.Join(p.t.TempDir(), "public")
			copyTree(p.t, filepath.Join(p.cfg.DataDir, "public"), public)
			p.cfg.Mirrors, p.cfg.IgnoreMirrors = []string{mirror(p.t, tiles.Handler(public))}, true
			p.putBack(p.early, "public", "signed/signed.db")
			p.remove("signed/erasures.db", "signed/erasures.db-wal", "signed/erasures.db-shm")
		}, "they are older copies", ledger.ErrHalted},
		"the mirror is down": {func(p *past) {
			p.cfg.Mirrors = []string{mirror(p.t, http.HandlerFunc(unavailable))}
		}, "no mirror says where the log stands", nil},
		"the journal of another log": {func(p *past) {
			p.remove("signed/erasures.db", "signed/erasures.db-wal", "signed/erasures.db-shm")
			if err := broker.WriteJournal(p.t.Context(), p.cfg.DataDir, 3); err != nil {
				p.t.Fatal(err)
			}
		}, "belongs to another log", nil},
		"a published entry was changed": {func(p *past) {
			p.remove("log")
			p.flipBundle()
		}, "Nothing is signed", ledger.ErrHalted},
		"another log":      {func(p *past) { p.cfg.Origin = "regard.example/other" }, "not of regard.example/other", nil},
		"a damaged backup": {func(p *past) { p.append(filepath.Join(p.backup, "store.db")) }, "damaged", nil},
		"an unfinished one": {func(p *past) {
			if err := os.Remove(filepath.Join(p.backup, "manifest.json")); err != nil {
				p.t.Fatal(err)
			}
		}, "unfinished", nil},
		"a running broker": {func(p *past) { p.open() }, "stop it first", store.ErrLocked},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPast(t, 0)
			c.change(p)
			r, err := p.restore()
			if err == nil {
				t.Fatalf("it was restored: %+v", r)
			}
			if !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("refused by %v", err)
			}
			list, err := filepath.Glob(filepath.Join(p.cfg.DataDir, "*-*"))
			if err != nil || len(list) != 0 {
				t.Errorf("it left %v, %v", list, err)
			}
			if signed, _ := p.signatures(); signed != p.signed && name != "nothing was signed" && !strings.HasPrefix(name, "signed and public") && name != "a running broker" {
				t.Error("something was signed")
			}
		})
	}
}

func (p *past) remove(names ...string) {
	p.t.Helper()
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(p.cfg.DataDir, n)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// putBack puts old copies in the place of what is there.
func (p *past) putBack(from string, names ...string) {
	p.t.Helper()
	for _, n := range names {
		p.remove(n, n+"-wal", n+"-shm")
		for _, f := range []string{n, n + "-wal", n + "-shm"} {
			if _, err := os.Stat(filepath.Join(from, f)); err == nil {
				copyTree(p.t, filepath.Join(from, f), filepath.Join(p.cfg.DataDir, f))
			}
		}
	}
}

func (p *past) append(path string) {
	p.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, 0), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// flipBundle changes a commitment in the last published entries.
func (p *past) flipBundle() {
	p.t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(p.cfg.DataDir, "public", "tile", "entries"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := strings.LastIndex(string(b), "\ncommitment ") + len("\ncommitment ")
		if b[at] == 'A' {
			b[at] = 'B'
		} else {
			b[at] = 'A'
		}
		n++
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || n == 0 {
		p.t.Fatalf("%d files changed, %v", n, err)
	}
}

// TestRestoreSaysThatTheTreeIsAhead: signed/ and public/ are of before, Trillian's tree is not. Nobody can tell that from a crash between tree and signature, so the operator is told.
func TestRestoreSaysThatTheTreeIsAhead(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	p.putBack(p.early, "public", "signed/signed.db")
	p.remove("signed/erasures.db", "signed/erasures.db-wal", "signed/erasures.db-shm")
	p.cfg.Mirrors, p.cfg.IgnoreMirrors = []string{mirror(t, http.HandlerFunc(unavailable))}, true
	if r, err := p.restore(); err != nil || r.Unsigned == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBackupModes: nobody else can read a backup, and none is overwritten.
func TestBackupModes(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	w.disclose(asker("TUE PRIVE"))
	dir := filepath.Join(t.TempDir(), "b")
	m, err := w.b.Backup(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := broker.ReadBackup(dir); err != nil || got.Size != m.Size || got.Origin != w.cfg.Origin || got.Checkpoint == "" {
		t.Errorf("%+v, %v", got, err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), "TUE") {
			t.Errorf("%s holds a name in clear", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Backup(t.Context(), dir); broker.AsProblem(err).Status != 409 {
		t.Errorf("over a backup: %v", err)
	}
	if _, err := broker.ReadBackup(dir); err != nil {
		t.Errorf("the refused second backup damaged the first: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(w.b.PublicDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{w.b.PublicDir(), w.cfg.DataDir, filepath.Join(w.cfg.DataDir, "signed"), link} {
		if _, err := w.b.Backup(t.Context(), filepath.Join(in, "b")); broker.AsProblem(err).Status != 400 {
			t.Errorf("into %s: %v", in, err)
		}
	}
	if _, err := w.b.Backup(t.Context(), filepath.Join(t.TempDir(), "none", "b")); broker.AsProblem(err).Code != "backup.failed" {
		t.Errorf("where there is no directory: %v", err)
	}
}

// TestBackupHoldsStatements: what auditors stated is in a backup, and is published again with it.
func TestBackupHoldsStatements(t *testing.T) {
	w, ahead := clocked(t, nil)
	a := w.auditor("cour")
	w.disclose(request())
	epoch := w.turn(ahead)
	signed := w.states(a, epoch)
	dir := filepath.Join(t.TempDir(), "b")
	m, err := w.b.Backup(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	name := "audit/" + epoch.String() + "/cour"
	if !slices.ContainsFunc(m.Files, func(f broker.BackupFile) bool { return f.Name == name }) {
		t.Fatalf("the backup has %+v", m.Files)
	}
	public := filepath.Join(w.b.PublicDir(), "audit")
	w.close()
	if err := os.RemoveAll(public); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Restore(t.Context(), w.cfg, dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(public, epoch.String(), "cour")); err != nil || !bytes.Equal(got, signed) {
		t.Errorf("%q, %v", got, err)
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.WriteFile(path, signed[:len(signed)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.ReadBackup(dir); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a damaged statement: %v", err)
	}
	for _, other := range []string{"audit/x/cour", "audit/0/../cour", "audit/0/../../../x", "audit/cour", "x"} {
		text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		bad := t.TempDir()
		if err := os.CopyFS(bad, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bad, "manifest.json"), bytes.Replace(text, []byte(name), []byte(other), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := broker.ReadBackup(bad); err == nil || !strings.Contains(err.Error(), "names a file that no backup has") {
			t.Errorf("%s: %v", other, err)
		}
	}
}

// TestErasureJournalEnds: what was erased in a month whose retention is over is forgotten, and a backup of before is refused; a later erasure stays.
func TestErasureJournalEnds(t *testing.T) {
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, nil)
	w.disclose(request())
	backup := filepath.Join(t.TempDir(), "b")
	if _, err := w.b.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	erase := func() {
		t.Helper()
		if _, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17"); err != nil {
			t.Fatal(err)
		}
	}
	erase()
	journal := func(want int) []store.Erased {
		t.Helper()
		rows, err := broker.Journal(t.Context(), w.cfg.DataDir)
		if err != nil || len(rows) != want {
			t.Fatalf("%d erasures in the journal, want %d: %v", len(rows), want, err)
		}
		return rows
	}
	first := journal(1)[0]
	w.endRetention()
	journal(1)
	w.travel(&ahead)
	erase()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		rows, err := broker.Journal(t.Context(), w.cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 1 && rows[0].ID != first.ID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d erasures in the journal", len(rows))
		}
	}
	w.close()
	if r, err := broker.Restore(t.Context(), w.cfg, backup); err == nil || !strings.Contains(err.Error(), "restore a newer backup") {
		t.Errorf("a backup of before: %+v, %v", r, err)
	}
}

// TestErasureJournal: whose erasure is logged stands beside the signed checkpoint, outside every backup, before a key is destroyed. Nothing wrote it but a test, once.
func TestErasureJournal(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SweepEvery = 50 * time.Millisecond })
	w.provider.answer = couple
	a := w.disclose(asker("TUE EFFACE"))
	subject := subjectOf(t, killPivot("TUE EFFACE"))

	// A directory in its place: it can't be written, so nothing is logged and nothing destroyed.
	path := broker.ErasuresPath(w.cfg.DataDir)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); broker.AsProblem(err).Code != "erasure.journal" {
		t.Fatalf("erased without a journal: %v", err)
	}
	if w.hidden(a) {
		t.Error("the keys are gone, and the journal doesn't know")
	}
	if strings.Contains(string(w.published()), "regard/erasure@v1") {
		t.Error("the erasure is logged, and the journal doesn't know")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !w.hidden(a); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the erasure was never carried through")
		}
	}
	index := strings.Index(string(w.published()), "regard/erasure@v1")
	journal, err := broker.Journal(t.Context(), w.cfg.DataDir)
	if err != nil || len(journal) != 1 || !journal[0].Logged || index < 0 {
		t.Fatalf("journal: %d rows, %v", len(journal), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v, %v", info.Mode(), err)
	}
	e, err := w.b.Erase(t.Context(), subject, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	if journal, err = broker.Journal(t.Context(), w.cfg.DataDir); err != nil || len(journal) != 2 || journal[0].Index != e.Index && journal[1].Index != e.Index {
		t.Errorf("journal: %d rows, %v", len(journal), err)
	}
}

// TestBackupOfRestored: a backup of a restored broker knows what was erased, so it can be restored in its turn.
func TestBackupOfRestored(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	if _, err := p.restore(); err != nil {
		t.Fatal(err)
	}
	p.open()
	p.backup = filepath.Join(t.TempDir(), "second")
	if _, err := p.b.Backup(t.Context(), p.backup); err != nil {
		t.Fatal(err)
	}
	p.close()
	// One that was killed left a copy with everybody in it.
	left := filepath.Join(p.cfg.DataDir, "restoring-20260101T000000.000Z")
	if err := os.MkdirAll(filepath.Join(left, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := p.restore()
	if err != nil || r.Erased != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a killed restoration left is still there")
	}
	p.open()
	if !p.hidden(p.erased) || p.hidden(p.kept) {
		t.Error("after the second restoration")
	}
}

// TestBackupHoldsNoAnswers: a backup held the sealed answers of the last quarter of an hour, and their keys, for as long as it was kept. A repeat of a request of before it gets the receipt, and no provider is asked again.
func TestBackupHoldsNoAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	req := request()
	req.IdempotencyKey = "k1"
	first := w.disclose(req)
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := w.b.Backup(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "store.db")+"?mode=ro&immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var answers, keys, digests int
	if err := db.QueryRow("SELECT (SELECT count(*) FROM payloads), (SELECT count(*) FROM keys WHERE kind = 'payload'), (SELECT count(*) FROM disclosures WHERE body IS NOT NULL)").Scan(&answers, &keys, &digests); err != nil {
		t.Fatal(err)
	}
	if answers+keys+digests > 0 {
		t.Errorf("it holds %d answers, %d keys of answers and %d digests of requests", answers, keys, digests)
	}
	if again := w.disclose(req); again.Gone || string(again.Data) != string(first.Data) {
		t.Errorf("a repeat at the broker that goes on: %+v", again)
	}
	w.close()
	if _, err := broker.Restore(t.Context(), w.cfg, dir); err != nil {
		t.Fatal(err)
	}
	w.open()
	again := w.disclose(req)
	if again.ID != first.ID || !again.Repeated || !again.Gone || again.Data != nil || again.Problem == nil || again.Problem.Code != "idempotency.expired" {
		t.Errorf("a repeat after the restoration: %+v", again)
	}
	w.verify(again.Receipt)
	if n := len(w.provider.requests()); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}
