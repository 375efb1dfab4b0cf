package broker_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

var allEpochs = proof.EpochRange{To: ledger.NewestEpoch}

// both are the identifiers of marie: what was asked, and what answers say of the household.
func both(t testing.TB) []proof.Subject {
	t.Helper()
	person, err := marie.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	return []proof.Subject{subjectOf(t, marie), person}
}

// checked verifies a history as somebody else would: from its bytes and the log's key.
func (w *world) checked(f *broker.HistoryFile) proof.HistoryVerdict {
	w.t.Helper()
	text, err := f.History.AppendText(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := proof.ParseHistory(text)
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now
	if w.cfg.Clock != nil { // whoever verifies lives in the same time
		now = w.cfg.Clock
	}
	v, err := h.Verify(w.policy(), proof.HistoryOptions{Now: proof.TimeOf(now()), AllowProvisional: true})
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.logs)
	}
	return v
}

func (w *world) historyFile(subjects []proof.Subject, epochs proof.EpochRange) proof.HistoryVerdict {
	w.t.Helper()
	f, err := w.b.HistoryFile(w.t.Context(), subjects, epochs)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.logs)
	}
	return w.checked(f)
}

func TestHistoryFile(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	subjects := both(t)
	_, err := w.b.HistoryFile(t.Context(), subjects, allEpochs)
	if p := broker.AsProblem(err); p.Code != "history.open" || p.Title != "No epoch is closed yet." || !strings.Contains(p.Detail, " UTC (regard status)") || errors.Unwrap(p) != nil {
		t.Errorf("before any epoch is closed: %+v", p)
	}
	if _, err := w.b.HistoryFile(t.Context(), nil, allEpochs); codeOf(err) != "request.invalid" {
		t.Errorf("nobody: %v", err)
	}
	other := request()
	other.Subject.Pivot.BirthName = "Quelqu'un d'autre"
	var want []proof.Index
	for i := range 3 {
		for range i + 1 {
			want = append(want, indexOf(t, w.disclose(request())))
			w.disclose(other)
		}
		w.turn(ahead)
	}
	w.disclose(request()) // of the open epoch
	size := w.b.Log().Checkpoint().Size()
	v := w.historyFile(subjects, allEpochs)
	if w.b.Log().Checkpoint().Size() != size {
		t.Error("the person's own look was logged")
	}
	var got []proof.Index
	persons := 0
	for _, e := range v.Entries {
		pivot := v.Subjects[e.Subject].Type() == proof.TypePivot
		if e.State != proof.RecordOpen || e.Withheld != 0 || e.Kind != proof.KindDisclosure || (e.Opening.Text(proof.DisclosureContext) != "") != pivot || e.Opening.Text(proof.DisclosureAgency) != "mairie" {
			t.Errorf("%+v", e)
		}
		if _, p := e.Opening.Value(proof.DisclosureOfficial); p != proof.Hidden {
			t.Error("the agency's agent is shown")
		}
		if pivot {
			got = append(got, e.Index)
			continue
		}
		persons++ // in the answers about somebody else's household: a homonym, for all that the log knows
		for _, f := range proof.SchemaDisclosure.Fields() {
			shown := slices.Contains([]string{"subject_type", "subject", "agency", "service", "asked_at"}, f.Name)
			if _, p := e.Opening.Value(f.Field); (p != proof.Hidden) != shown {
				t.Errorf("of what may be a namesake's, %s is shown: %v", f.Name, p != proof.Hidden)
			}
		}
	}
	if !slices.Equal(got, want) || persons != 6 || !v.Complete() || v.Epochs != (proof.EpochRange{From: 0, To: 2}) || !v.Deferrals.Counted {
		t.Errorf("entries %d, want %d; %+v", got, want, v)
	}
	if v := w.historyFile(subjects, proof.EpochRange{From: 1, To: 1}); len(v.Entries) != 4 {
		t.Errorf("epoch 1: %+v", v)
	}
	nobody := marie
	nobody.BirthName = "Personne"
	if v := w.historyFile([]proof.Subject{subjectOf(t, nobody)}, allEpochs); len(v.Entries) != 0 || !v.Complete() {
		t.Errorf("%+v", v)
	}
	if _, err := w.b.HistoryFile(t.Context(), subjects, proof.EpochRange{From: 7, To: ledger.NewestEpoch}); codeOf(err) != "history.open" || !strings.Contains(err.Error(), "from epoch 7 on; epoch ") {
		t.Errorf("from an epoch that isn't there: %v", err)
	}
	if _, err := w.b.HistoryFile(t.Context(), subjects, proof.EpochRange{From: 7, To: 9}); codeOf(err) != "history.open" {
		t.Error(err)
	}
	if strings.Contains(w.logs.String(), "EXEMPLE") {
		t.Error("the broker's log speaks of a person")
	}
}

// TestHistoryFileInPages: more entries than a page has.
func TestHistoryFileInPages(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	w.disclose(request())
	for range 3 { // each reading of a page of 200 adds as many entries
		for next := proof.Index(0); ; {
			h := w.history(subjectOf(t, marie), broker.HistoryPage{Limit: 200, Before: next})
			if next = h.Next; next == 0 {
				break
			}
		}
	}
	for range 6 {
		w.history(subjectOf(t, marie), broker.HistoryPage{Limit: 200})
	}
	w.turn(ahead)
	v := w.historyFile(both(t), allEpochs)
	if len(v.Entries) < 250 || v.Count(proof.RecordOpen) != len(v.Entries) {
		t.Errorf("%d entries, %d open", len(v.Entries), v.Count(proof.RecordOpen))
	}
}

// TestHistoryFileForTheHelpDesk: every record has its access in the log before it is opened, and only what the access names is open.
func TestHistoryFileForTheHelpDesk(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	for range 3 {
		w.disclose(request())
	}
	w.turn(ahead)
	w.disclose(request()) // of the open epoch: not in the file, not opened
	if _, err := w.b.HistoryFileBy(t.Context(), both(t), allEpochs, broker.AccessBy{Reader: "uid-1", Role: "operator"}); codeOf(err) != "request.invalid" {
		t.Errorf("without a reason: %v", err)
	}
	f, err := w.b.HistoryFileBy(t.Context(), both(t), allEpochs, helpDesk)
	if err != nil {
		t.Fatal(err)
	}
	v := w.checked(f)
	if len(v.Entries) != 3 || f.Logged != 3 {
		t.Fatalf("%d entries, %d logged", len(v.Entries), f.Logged)
	}
	names := map[string]bool{"subject": true, "subject_type": true}
	for _, e := range w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindAccess}).Entries {
		if e.Access == nil || e.Access.Reason != helpDesk.Reason {
			t.Errorf("%+v", e)
			continue
		}
		if slices.Contains(e.Access.Fields, "subject") {
			for _, n := range e.Access.Fields {
				names[n] = true
			}
		}
	}
	for _, e := range v.Entries {
		if e.Withheld == 0 {
			t.Error("the file doesn't say that it hides something from the person")
		}
		for _, f := range proof.SchemaDisclosure.Fields() {
			if _, p := e.Opening.Value(f.Field); (p != proof.Hidden) != names[f.Name] {
				t.Errorf("field %s: open %v, in the access %v", f.Name, p != proof.Hidden, names[f.Name])
			}
		}
	}
	if len(names) < 10 {
		t.Errorf("the accesses name %v", names)
	}
}

// TestHistoryFileOfAnErasedPerson: what an erasure took is accounted for by it, before and after its epoch is closed, and the help desk sees nothing of what is left.
func TestHistoryFileOfAnErasedPerson(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, func(c *broker.Config) { c.CacheKeys = 1 })
	for range 2 {
		w.disclose(request())
	}
	w.turn(ahead)
	e, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Log().AwaitPublished(t.Context(), e.Index); err != nil {
		t.Fatal(err)
	}
	v := w.historyFile(both(t), allEpochs)
	if len(v.Entries) != 2 || v.Count(proof.RecordErasing) != 2 {
		t.Errorf("the erasure's epoch is open: %+v", v)
	}
	w.turn(ahead)
	v = w.historyFile(both(t), allEpochs)
	if len(v.Entries) != 3 || v.Count(proof.RecordErased) != 3 || !v.Complete() {
		t.Errorf("%+v", v)
	}
	for _, x := range v.Entries {
		if x.Kind == proof.KindDisclosure && x.Opening.Text(proof.DisclosureAgency) != "mairie" {
			t.Error("the person isn't shown what is left")
		}
	}
	// A part of the time, in which the erasure isn't.
	if v := w.historyFile(both(t), proof.EpochRange{}); v.Count(proof.RecordErasing) != 2 {
		t.Errorf("%+v", v)
	}
	f, err := w.b.HistoryFileBy(t.Context(), both(t), allEpochs, helpDesk)
	if err != nil {
		t.Fatal(err)
	}
	v = w.checked(f)
	if f.Logged != 1 || v.Count(proof.RecordErased) != 3 {
		t.Errorf("%d logged; %+v", f.Logged, v)
	}
	for _, x := range v.Entries {
		if x.Kind != proof.KindDisclosure {
			continue
		}
		for _, fi := range proof.SchemaDisclosure.Fields() {
			if _, p := x.Opening.Value(fi.Field); p != proof.Hidden {
				t.Errorf("the help desk is shown %s of an erased record", fi.Name)
			}
		}
	}
}

// TestHistoryFileOfDamage: what the log doesn't account for is handed out as it stands, and refuted.
func TestHistoryFileOfDamage(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	bad := indexOf(t, w.disclose(request()))
	w.disclose(request())
	w.turn(ahead)
	w.tamper("UPDATE records SET admin = "+altered("admin")+" WHERE log_index = ?", int64(bad))
	f, err := w.b.HistoryFile(t.Context(), both(t), allEpochs)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.History.Verify(w.policy(), proof.HistoryOptions{AllowProvisional: true})
	if err == nil || !strings.Contains(err.Error(), "entry "+bad.String()+" (epoch 0): its record is not open") {
		t.Error(err)
	}
	// A row that is gone is missed as well.
	w.tamper("DELETE FROM records WHERE log_index = ?", int64(bad))
	if f, err = w.b.HistoryFile(t.Context(), both(t), allEpochs); err != nil {
		t.Fatal(err)
	}
	if _, err = f.History.Verify(w.policy(), proof.HistoryOptions{AllowProvisional: true}); err == nil || !strings.Contains(err.Error(), "entry "+bad.String()) {
		t.Error(err)
	}
	// An entry that isn't what was signed proves nothing.
	w.tamper("UPDATE leaves SET text = (SELECT text FROM leaves WHERE kind = 'disclosure@v1' ORDER BY log_index DESC LIMIT 1) WHERE log_index = ?", int64(bad))
	if _, err = w.b.HistoryFile(t.Context(), both(t), allEpochs); codeOf(err) != "history.unavailable" {
		t.Error(err)
	}
}

// TestHistoryFileAfterRetention: the log's promise and its end account for epochs of which nothing can be shown any more.
func TestHistoryFileAfterRetention(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newTraveller(t, &ahead, day, nil)
	w.disclose(request())
	w.travel(&ahead)
	w.disclose(request())
	w.endRetention()
	w.travel(&ahead)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := w.b.Log().AwaitPublished(ctx, w.b.Log().OpenEpoch().Marker); err != nil {
		t.Fatalf("%v\n%s", err, w.logs)
	}
	// Of epoch 0 alone: a later month may have passed here before its promise was logged, and then nothing accounts for it.
	v := w.historyFile(both(t), proof.EpochRange{})
	if v.Complete() || !slices.Equal(v.Ended, []proof.EpochRange{{}}) || len(v.Entries) != 0 {
		t.Errorf("%+v", v)
	}
	says, not := verdict.Words(&v, verdict.English)
	if all := strings.Join(append(says, not...), "\n"); !strings.Contains(all, "the retention is over, as the log promised") {
		t.Error(all)
	}
}

// states has an auditor state what the marker says of a closed epoch, and returns it.
func (w *world) states(a auditor, epoch proof.Epoch) []byte {
	t := w.t
	t.Helper()
	var closing proof.Marker
	for _, e := range w.entries() {
		if m, ok := e.(proof.Marker); ok && m.Epoch == epoch+1 {
			closing = m
		}
	}
	if closing.Closed == nil {
		t.Fatalf("epoch %d isn't closed", epoch)
	}
	var filed uint64
	for _, c := range closing.Closed.Counts {
		if c.Kind.Filed() {
			filed += c.N
		}
	}
	text, err := proof.IndexAudit{Origin: w.cfg.Origin, Epoch: epoch, Marker: closing.At(), Root: closing.Closed.Index, Items: closing.Closed.Items, Entries: filed}.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(a.skey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.PutStatement(t.Context(), a.Caller, epoch, signed); err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestHistoryFileNamesAuditors: what they stated is in the file, and whoever verifies it names them.
func TestHistoryFileNamesAuditors(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	a := w.auditor("cour")
	w.disclose(request())
	epoch := w.turn(ahead)
	w.turn(ahead)
	signed := w.states(a, epoch)
	v := w.historyFile(both(t), allEpochs)
	if len(v.Audits) != 1 || v.Audits[0].Auditor != "cour" || !slices.Equal(v.Audits[0].Epochs, []proof.EpochRange{{From: epoch, To: epoch}}) || v.Unaudited != 1 {
		t.Errorf("%+v", v.Audits)
	}
	// A published file that isn't a statement is left out.
	path := filepath.Join(w.b.PublicDir(), "audit", epoch.String(), "cour")
	if err := os.WriteFile(path, bytes.Replace(signed, []byte("items"), []byte("Items"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := w.historyFile(both(t), allEpochs); len(v.Audits) != 0 || v.Unaudited != 2 {
		t.Errorf("%+v", v.Audits)
	}
}

// TestHistoryFileAfterRestore: a roll that can't be made again is said to be lost, and the log explains that; who isn't concerned is shown everything.
func TestHistoryFileAfterRestore(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newWatched(t, func(c *broker.Config) {
		c.Epoch, c.SweepEvery, c.Clock = 12*time.Hour, time.Hour, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	w.provider.answer = couple
	p := &past{watched: w, backup: filepath.Join(t.TempDir(), "backup")}
	w.disclose(asker("TUE DEUXFOIS"))
	w.disclose(asker("TUE UNEFOIS"))
	w.disclose(asker("TUE EFFACE"))
	if _, err := w.b.Backup(t.Context(), p.backup); err != nil {
		t.Fatal(err)
	}
	again := asker("TUE DEUXFOIS")
	again.IdempotencyKey = "again"
	w.disclose(again)
	subject := func(name string) []proof.Subject { return []proof.Subject{subjectOf(t, killPivot(name))} }
	if _, err := w.b.Erase(t.Context(), subject("TUE EFFACE")[0], "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	next := func() {
		t.Helper()
		was := w.b.Log().OpenEpoch().Number
		ahead.Add(int64(13 * time.Hour))
		for deadline := time.Now().Add(patience); w.b.Log().OpenEpoch().Number == was; time.Sleep(20 * time.Millisecond) {
			_, _ = w.b.Disclose(t.Context(), w.caller, asker("TUE AUTRE")) // any entry tells the log the time
			if time.Now().After(deadline) {
				t.Fatal("the epoch doesn't close")
			}
		}
		if _, err := w.b.Log().AwaitPublished(t.Context(), w.b.Log().OpenEpoch().Marker); err != nil {
			t.Fatal(err)
		}
	}
	next()
	w.close()
	if _, err := p.restore(); err != nil {
		t.Fatal(err)
	}
	w.open()
	next()
	v := w.historyFile(subject("TUE DEUXFOIS"), proof.EpochRange{})
	if v.LostRolls != 1 || v.Complete() || len(v.Entries) != 0 {
		t.Errorf("asked about before and after the backup: %+v", v)
	}
	v = w.historyFile(subject("TUE UNEFOIS"), proof.EpochRange{})
	if !v.Complete() || v.Count(proof.RecordOpen) != 1 {
		t.Errorf("asked about before the backup alone: %+v", v)
	}
	v = w.historyFile(subject("TUE UNEFOIS"), allEpochs)
	if v.Complete() || v.LostEntries == 0 || v.Count(proof.RecordOpen) != 1 {
		t.Errorf("an epoch with lost entries: %+v", v)
	}
	// The roll of the erased person, with its lost erasure, can't be made again either.
	if v = w.historyFile(subject("TUE EFFACE"), allEpochs); v.LostRolls != 1 || v.Complete() {
		t.Errorf("erased after the backup: %+v", v)
	}
}

// TestHistoryFileOfALostErasure: the erasure, in the epoch that was open when its record was lost, is in nobody's roll; the operator's word and the log's account for what it took.
func TestHistoryFileOfALostErasure(t *testing.T) {
	t.Parallel()
	p := newPast(t, 0)
	if _, err := p.restore(); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	p.cfg.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	p.open()
	for deadline := time.Now().Add(patience); p.b.Log().OpenEpoch().Number == 0; time.Sleep(20 * time.Millisecond) {
		ahead.Store(int64(25 * time.Hour))
		_, _ = p.b.Disclose(t.Context(), p.caller, asker("TUE AUTRE")) // any entry tells the log the time
		if time.Now().After(deadline) {
			t.Fatal("the epoch doesn't close")
		}
	}
	if _, err := p.b.Log().AwaitPublished(t.Context(), p.b.Log().OpenEpoch().Marker); err != nil {
		t.Fatal(err)
	}
	v := p.historyFile([]proof.Subject{subjectOf(t, killPivot("TUE EFFACE"))}, allEpochs)
	if v.Count(proof.RecordErasing) != 1 || v.Complete() {
		t.Errorf("%+v", v)
	}
	if v = p.historyFile([]proof.Subject{subjectOf(t, killPivot("TUE GARDE"))}, allEpochs); v.Count(proof.RecordOpen) != 1 || v.LostEntries == 0 {
		t.Errorf("%+v", v)
	}
}
