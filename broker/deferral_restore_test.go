package broker_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// sizeOf reads how many entries a checkpoint covers.
func sizeOf(t testing.TB, checkpoint []byte) uint64 {
	t.Helper()
	size, err := strconv.ParseUint(strings.Split(string(checkpoint), "\n")[1], 10, 63)
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// entriesIn are the entries of a published log.
func entriesIn(t testing.TB, public string) []proof.Entry {
	t.Helper()
	cp, err := os.ReadFile(filepath.Join(public, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	size := sizeOf(t, cp)
	tree := tiles.Tree{Dir: public, Size: size}
	var out []proof.Entry
	for i := range size {
		b, err := tree.Entry(i)
		if err != nil {
			t.Fatal(err)
		}
		e, err := proof.ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// late asks under the delay about somebody of their own.
func late(name string) *broker.Request {
	r := secretly()
	r.Subject.Pivot, r.Object, r.IdempotencyKey = killPivot(name), name, "late-"+strings.ReplaceAll(name, " ", "-")
	return r
}

// TestDelaysAfterRestore: what the log says was opened isn't opened again; what it lost isn't opened at all; what is left goes on, and an erasure that the backup didn't know of doesn't reach it.
func TestDelaysAfterRestore(t *testing.T) {
	var ahead atomic.Int64
	w := newWatched(t, func(c *broker.Config) {
		c.Epoch, c.SweepEvery, c.Clock = 12*time.Hour, time.Hour, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	if _, err := w.b.PutAgreement(t.Context(), enquete()); err != nil {
		t.Fatal(err)
	}
	w.provider.answer = couple
	p := &past{watched: w, backup: filepath.Join(t.TempDir(), "backup")}
	opened, erased := w.disclose(late("TUE OUVERT")), w.disclose(late("TUE EFFACE"))
	w.disclose(openly(asker("TUE EFFACE")))
	if _, err := w.b.Backup(t.Context(), p.backup); err != nil {
		t.Fatal(err)
	}
	w.end(opened.ID)
	lost := w.disclose(late("TUE PERDU"))
	if _, err := w.b.Erase(t.Context(), subjectOf(t, killPivot("TUE EFFACE")), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	before := w.entries()
	w.close()
	if _, err := p.restore(); err != nil {
		t.Fatal(err)
	}
	w.open()
	list, _, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Disclosure != erased.ID {
		t.Fatalf("pending: %+v, %v", list, err)
	}
	for name, c := range map[string]struct {
		id   store.ID
		code string
	}{"opened": {opened.ID, "disclosure.lost"}, "lost": {lost.ID, "disclosure.unknown"}} {
		if _, err := w.b.EndDeferral(t.Context(), c.id, "again"); codeOf(err) != "deferral.unknown" {
			t.Errorf("%s is ended again: %v", name, err)
		}
		if _, err := w.b.Disclosure(t.Context(), w.caller, c.id); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if n := w.end(erased.ID); n != 2 {
		t.Errorf("%d opened", n)
	}
	// The erasure came before: it can be read, and stands after the reach.
	got, err := w.b.Disclosure(t.Context(), w.caller, erased.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receiptOf(t, got.Receipt).Opening().Subject(); err != nil {
		t.Errorf("the erasure reached a deferred record: %v", err)
	}
	now := w.entries()
	if d := cmp.Diff(before, now[:len(before)]); d != "" {
		t.Errorf("the log is another one:\n%s", d)
	}
	ends, delays := map[proof.Index]int{}, 0
	for _, e := range now {
		switch e := e.(type) {
		case proof.Deferred:
			delays++
		case proof.Opened:
			ends[e.Deferred]++
		}
	}
	if delays != 6 || len(ends) != 4 {
		t.Errorf("%d delays, %d of them ended", delays, len(ends))
	}
	for i, n := range ends {
		if n != 1 {
			t.Errorf("entry %d was opened %d times", i, n)
		}
	}
	// Everybody's history still holds, with what is lost counted.
	was := w.b.Log().OpenEpoch().Number
	ahead.Add(int64(13 * time.Hour))
	w.waitFor("the epoch closes", func() bool {
		_, _ = w.b.Disclose(t.Context(), w.caller, asker("TUE AUTRE"))
		return w.b.Log().OpenEpoch().Number > was
	})
	if _, err := w.b.Log().AwaitPublished(t.Context(), w.b.Log().OpenEpoch().Marker); err != nil {
		t.Fatal(err)
	}
	v := w.historyFile([]proof.Subject{subjectOf(t, killPivot("TUE RIEN"))}, allEpochs)
	if v.Deferrals.Pending != 2 || v.Deferrals.Lost != 2 || !v.Deferrals.Counted || v.LostEntries == 0 {
		t.Errorf("%+v", v.Deferrals)
	}
}

// TestInterruptedDelay: a request under a delay that a crash interrupted is recorded as deferred, whatever the agreement says by then.
func TestInterruptedDelay(t *testing.T) {
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
	if _, err := w.b.PutAgreement(t.Context(), enquete()); err != nil {
		t.Fatal(err)
	}
	w.provider.answer = couple
	leave = true
	a, err := w.b.Disclose(t.Context(), w.caller, late("TUE OUVERT"))
	w.nothing("the interrupted one", a, err)
	f.up()
	leave = false
	if _, err := w.b.RevokeAgreement(t.Context(), "enquete"); err != nil {
		t.Fatal(err)
	}
	// Its person is erased meanwhile: neither waits for the other.
	if _, err := w.b.Erase(t.Context(), subjectOf(t, killPivot("TUE OUVERT")), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	w.close()
	w.open()
	list, _, err := w.b.Deferrals(t.Context(), 0)
	if err != nil || len(list) != 1 || list[0].Entries != 1 || list[0].Authority != enquete().Deferral.Authority || !list[0].Until.Equal(list[0].AskedAt.AddDate(0, 0, 40)) {
		t.Fatalf("%+v, %v", list, err)
	}
	if n := w.end(list[0].Disclosure); n != 1 {
		t.Errorf("%d opened", n)
	}
	h := w.history(subjectOf(t, killPivot("TUE OUVERT")), broker.HistoryPage{Kind: proof.KindOpened})
	if len(h.Entries) != 1 || h.Entries[0].Disclosure == nil || h.Entries[0].Disclosure.Cause != "interrupted" {
		t.Errorf("%+v", h.Entries)
	}
}

// TestDelayIsPrivate: nobody can read in the files of the log or of the broker whom a delay concerns, and what the person is shown doesn't change with it, in form, size or length.
func TestDelayIsPrivate(t *testing.T) {
	var logs *watched
	w, ahead := investigating(t, func(c *broker.Config) { logs, c.SweepEvery = heard(c), time.Hour })
	w.provider.mu.Lock()
	w.provider.answer = secretAnswer
	w.provider.mu.Unlock()
	req := secretRequest()
	concerned, err := req.Subject.Pivot.Subject()
	if err != nil {
		t.Fatal(err)
	}
	other := req.Subject.Pivot
	other.BirthName = "Marqueurautre-d'Éclair" // as long
	nobody, err := other.Subject()
	if err != nil {
		t.Fatal(err)
	}
	w.turn(ahead)
	req.Agreement, req.Purpose, req.LegalBasis = "enquete", "enquete", "cpp-60-1"
	a := w.disclose(req)
	cour := w.auditor("cour")
	w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{indexOf(t, a)}})
	w.turn(ahead)
	w.turn(ahead)
	n := secretNeedles()
	n.inTree(t, w.cfg.DataDir)
	n.in(t, "the broker's log", []byte(logs.text()))
	// Whom it concerns and whom nothing concerns are shown the same: but for keys and proofs, byte by byte as long.
	shape := func(s proof.Subject) map[string]int {
		f, err := w.b.HistoryFile(t.Context(), []proof.Subject{s}, allEpochs)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int{"entries": len(f.History.Entries), "markers": len(f.History.Markers), "logged": f.Logged, "nodes": len(f.History.Nodes)}
		for i := range f.History.Epochs {
			e := &f.History.Epochs[i]
			for r := range e.Rolls {
				out["leaves"] += len(e.Rolls[r].Leaves)
			}
		}
		v := w.checked(f)
		out["verified"], out["pending"] = len(v.Entries), int(v.Deferrals.Pending)
		return out
	}
	if d := cmp.Diff(shape(nobody), shape(concerned)); d != "" {
		t.Errorf("the person's history tells of the delay:\n%s", d)
	}
	if shape(concerned)["verified"] != 0 {
		t.Error("the delay is in the person's history")
	}
	// The person's pages come from a table in which a delay isn't: they take no longer because of it.
	for _, s := range []proof.Subject{concerned, nobody} {
		if h, err := w.b.History(t.Context(), s, broker.AccessBy{Reader: "uid-1", Role: proof.RoleOperator, Reason: "x"}, broker.HistoryPage{}); err != nil || len(h.Entries) != 0 || h.Logged != 0 || h.Next != 0 {
			t.Errorf("%+v, %v", h, err)
		}
	}
}
