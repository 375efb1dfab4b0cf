package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// TestUnreadableEntryIsSkipped: one person part that couldn't be read stopped all filing, and from the end of its epoch on the whole log, without a way out. The operator's word, which the log
// repeats, is one: everybody else's entries are in their rolls then, and the epoch closes.
func TestUnreadableEntryIsSkipped(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"person part": "UPDATE records SET person = " + altered("person") + " WHERE log_index = ?",
		"header":      "UPDATE records SET person = x'0102' WHERE log_index = ?",
		"owner":       "UPDATE records SET owner = x'01' WHERE log_index = ?",
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			w := newTraveller(t, &ahead, 0, nil)
			var answers []*broker.Answer
			for i := range 3 {
				req := request()
				req.Subject.Pivot.BirthName = "TUE " + letters(int64(i+1))
				answers = append(answers, w.disclose(req))
			}
			r, err := proof.ParseReceipt(answers[1].Receipt)
			if err != nil {
				t.Fatal(err)
			}
			bad := r.Index()
			for deadline := time.Now().Add(patience); w.count("SELECT count(*) FROM epochs WHERE filed_upto > ?", int64(bad)) == 0; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing is filed")
				}
			}
			w.close()
			// As if nothing had been filed yet.
			w.tamper("DELETE FROM filings")
			w.tamper("UPDATE epochs SET filed_upto = marker")
			w.tamper(damage, int64(bad))
			w.open()
			ahead.Store(int64(25 * time.Hour)) // the epoch is due
			late := request()
			late.IdempotencyKey = "late"
			if _, err := w.b.Disclose(t.Context(), w.caller, late); err == nil || broker.AsProblem(err).Status != 503 {
				t.Fatalf("an epoch was closed without one of its entries: %v", err)
			}
			w.close()
			w.open() // the operator's commands must be there, though the log can't even take the interrupted request
			wants := func(what string, index proof.Index, reason, code string) {
				t.Helper()
				if err := w.b.Skip(t.Context(), index, reason); err == nil || broker.AsProblem(err).Code != code {
					t.Errorf("%s: %v, want %s", what, err, code)
				}
			}
			wants("no reason", bad, "Disk fault", "request.invalid")
			var p *broker.Problem
			for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
				// What comes before it is filed first, by itself.
				err := w.b.Skip(t.Context(), bad, "disk-fault")
				if err == nil || broker.AsProblem(err).Title == "The entry is given up, and the log can't say so yet." {
					break
				}
				if !errors.As(err, &p) || p.Code != "log.readable" && p.Code != "log.not_next" || time.Now().After(deadline) {
					t.Fatalf("%v\n%s", err, w.logs)
				}
			}
			for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
				settled := 0
				for _, i := range []int{0, 2} {
					if got, err := w.b.Disclosure(t.Context(), w.caller, answers[i].ID); err == nil && got.Settled && w.verify(got.Receipt).InRoll {
						settled++
					}
				}
				if settled == 2 && w.restarts() == fmt.Sprintf("unreadable.disk-fault %d-%d ", bad, bad) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d settled, declared %q\n%s", settled, w.restarts(), w.logs)
				}
			}
			wants("again", bad, "disk-fault", "log.readable")
			if got, err := w.b.Disclosure(t.Context(), w.caller, answers[1].ID); err == nil && got.Settled {
				t.Error("the entry that was given up is settled")
			}
			if _, err := w.b.Erase(t.Context(), subjectOf(t, late.Subject.Pivot), "rgpd-17"); err != nil {
				t.Errorf("erasing somebody: %v", err)
			}
			if strings.Contains(w.logs.String(), "TUE") {
				t.Errorf("the log speaks of persons:\n%s", w.logs)
			}
		})
	}
}

// TestOnlyDamageIsSkipped: keys that are out of reach for the moment are no reason to give up an entry.
func TestOnlyDamageIsSkipped(t *testing.T) {
	for err, want := range map[error]bool{
		keys.ErrUnavailable: false, keys.ErrSealed: false, keys.ErrDenied: false, keys.ErrClosed: false, store.ErrFull: false, context.Canceled: false,
		keys.ErrAltered: true, keys.ErrNoKey: true, proof.ErrFormat: true, proof.ErrUnproven: true, proof.ErrSubject: true, store.ErrCorrupt: true,
	} {
		if got := broker.Unreadable(fmt.Errorf("opening record 7: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// restarts are the log's restart entries: reason and lost entries, each with a space after it.
func (w *world) restarts() string {
	w.t.Helper()
	cp, err := w.b.Log().AwaitPublished(w.t.Context(), proof.Index(w.b.Log().Checkpoint().Size()-1))
	if err != nil {
		w.t.Fatal(err)
	}
	var out strings.Builder
	tree := tiles.Tree{Dir: w.b.PublicDir(), Size: cp.Size(), Root: cp.Root()}
	for i := range cp.Size() {
		text, err := tree.Entry(i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			w.t.Fatal(err)
		}
		if r, ok := e.(proof.Restart); ok {
			fmt.Fprintf(&out, "%s %d-%d ", r.Reason, r.Lost.From, r.Lost.To)
		}
	}
	return out.String()
}
