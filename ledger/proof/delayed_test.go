package proof_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// newDelayedWorld is a log in which an auditor opened the record of a disclosure
// that was delayed: the access was delayed and opened with it.
func newDelayedWorld() (w *historyWorld, request, access filed) {
	w = &historyWorld{world: emptyWorld("delayed world")}
	w.open()
	request = w.file(proof.KindDeferred, w.alice)
	r := w.access(request.index)
	access = filed{w.add(proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11", Commitment: r.Commitment()}), w.alice, r}
	w.open()
	request, access = w.opened(request), w.opened(access)
	w.open()
	return w, request, access
}

// access is the record of an access to alice's record behind an entry.
func (w *historyWorld) access(target proof.Index) *proof.Record {
	r := w.record(proof.KindAccess, w.alice)
	if err := r.SetIndex(proof.AccessTarget, target); err != nil {
		panic(err)
	}
	return r
}

func TestDelayedAccess(t *testing.T) {
	w, request, access := newDelayedWorld()
	v := verify(t, w, w.history(0, 1, w.alice), proof.HistoryOptions{})
	if len(v.Entries) != 2 || !v.Complete() || v.Deferrals != (proof.Deferrals{Counted: true}) {
		t.Fatalf("%+v", v)
	}
	for i, f := range []filed{request, access} {
		e := v.Entries[i]
		if e.Index != f.index || e.Kind != proof.KindOpened || e.State != proof.RecordOpen || e.Deferred == nil || e.Opening.Schema() != f.record.Schema() || e.Withheld != 0 {
			t.Errorf("%+v", e)
		}
	}
	// While it lasts nothing is in the roll, and both are counted.
	if v := verify(t, w, w.history(0, 0, w.alice), proof.HistoryOptions{}); len(v.Entries) != 0 || v.Deferrals.Pending != 2 {
		t.Errorf("%+v", v)
	}
	// Each opens what was committed to, and not the other.
	h := w.history(0, 1, w.alice)
	x, y := entry(h, request.index), entry(h, access.index)
	x.Opening, y.Opening = y.Opening, x.Opening
	if _, err := h.Verify(w.policy, proof.HistoryOptions{}); !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), "another record") {
		t.Errorf("swapped: %v", err)
	}
	settled := w.receipt(access, proof.ReaderPerson, []int{0, 1}, true)
	if v, err := settled.Verify(w.policy, proof.VerifyOptions{}); err != nil || v.State != proof.Settled || v.Kind != proof.KindOpened {
		t.Errorf("%+v, %v", v, err)
	}
	if again, err := proof.ParseReceipt(text(t, settled)); err != nil || again.Opening().Text(proof.AccessReader) != "auditor-7" {
		t.Errorf("%v", err)
	}
}

func TestKindTakes(t *testing.T) {
	for _, k := range proof.Kinds() {
		for s := range proof.Schema(5) {
			want := map[proof.Kind]bool{
				proof.KindDisclosure: s == proof.SchemaDisclosure, proof.KindAccess: s == proof.SchemaAccess, proof.KindErasure: s == proof.SchemaErasure,
				proof.KindDeferred: s == proof.SchemaDisclosure || s == proof.SchemaAccess, proof.KindOpened: s == proof.SchemaDisclosure || s == proof.SchemaAccess,
			}[k]
			if k.Takes(s) != want {
				t.Errorf("%s, schema %d: %v", k, s, !want)
			}
		}
	}
	// An erasure is never delayed.
	w, request, _ := newDelayedWorld()
	r := w.record(proof.KindErasure, w.alice)
	i := w.add(proof.Deferred{Authority: "a", Article: "b", Month: "2027-11", Commitment: r.Commitment()})
	if _, err := proof.NewReceipt(w.proven(i, len(w.texts)), r.Open(proof.ReaderPerson), w.checkpoint(len(w.texts)), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("an erasure that is delayed: %v", err)
	}
	if _, err := proof.NewReceipt(w.proven(request.index, len(w.texts)), r.Open(proof.ReaderPerson), w.checkpoint(len(w.texts)), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("an erasure that was delayed: %v", err)
	}
}

// input is a decision input as far as it speaks of a delay.
func input(deferral string) string {
	if deferral != "" {
		deferral = `"deferral":` + deferral + `,`
	}
	return `{"agreement":{` + deferral + `"id":"enquete"},"schema":"regard/input@v1"}`
}

const lyon = `{"article":"CPP art. 60-1","authority":"Tribunal judiciaire de Lyon","days":730,"reference":"2026/118"}` // of what the records of these tests were asked: until 2025-11 and 730 days

// TestDelayAsAgreed: the person's own check compares a delay with the agreement that the record names, and an access's with that of what was opened.
func TestDelayAsAgreed(t *testing.T) {
	plain := proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11"}
	with := func(change func(*proof.Deferred)) proof.Deferred {
		d := plain
		change(&d)
		return d
	}
	for name, c := range map[string]struct {
		input  string
		entry  proof.Deferred
		agreed bool
		want   string // of the error
	}{
		"as agreed":         {input(lyon), plain, true, ""},
		"another month":     {input(lyon), with(func(d *proof.Deferred) { d.Month = "2027-12" }), false, "its agreement has another delay"},
		"another authority": {input(lyon), with(func(d *proof.Deferred) { d.Authority = "whoever" }), false, "its agreement has another delay"},
		"another article":   {input(lyon), with(func(d *proof.Deferred) { d.Article = "none" }), false, "its agreement has another delay"},
		"no delay agreed":   {input(""), plain, false, "names no agreement that has a delay"},
		"no agreement":      {`{"schema":"regard/input@v1"}`, plain, false, "names no agreement that has a delay"},
		"another form":      {`{"schema":"regard/input@v2"}`, plain, false, ""},
	} {
		w := &historyWorld{world: emptyWorld("agreed")}
		w.open()
		r := w.record(proof.KindDeferred, w.alice)
		if err := r.SetText(proof.DisclosureInput, c.input); err != nil {
			t.Fatal(err)
		}
		c.entry.Commitment = r.Commitment()
		d := filed{w.add(c.entry), w.alice, r}
		w.open()
		w.opened(d)
		w.open()
		v, err := w.history(0, 1, w.alice).Verify(w.policy, proof.HistoryOptions{})
		if c.want != "" {
			if !errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || len(v.Entries) != 1 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		untold, late := v.Delays()
		asked, ok := v.Entries[0].AskedAt()
		if e := v.Entries[0]; e.Agreed != c.agreed || (untold == 0) != c.agreed || late != 0 || e.Late || e.Began != d.index || !ok || asked != 1_764_000_001_000 || e.Told != v.Closed {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestDelayedAccessAsItsTarget(t *testing.T) {
	plain := proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11"}
	for name, c := range map[string]struct {
		play func(w *historyWorld, access func(target proof.Index, d proof.Deferred) filed)
		want string
	}{
		"to what isn't delayed": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) {
			f := w.file(proof.KindDisclosure, w.alice)
			d := access(f.index, plain)
			w.open()
			w.opened(d)
		}, "which isn't, or is of later"},
		"to itself": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) {
			d := access(1, plain)
			w.open()
			w.opened(d)
		}, "which isn't, or is of later"},
		"until another month": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) {
			f := w.file(proof.KindDeferred, w.alice)
			other := plain
			other.Month = "2028-11"
			d := access(f.index, other)
			w.open()
			w.opened(f)
			w.opened(d)
		}, "otherwise than entry"},
		"told before it": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) {
			f := w.file(proof.KindDeferred, w.alice)
			d := access(f.index, plain)
			w.open()
			w.opened(d)
		}, "told before entry"},
		"told an epoch before it": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) {
			f := w.file(proof.KindDeferred, w.alice)
			d := access(f.index, plain)
			w.open()
			w.opened(d)
			w.open()
			w.opened(f)
		}, "told before entry"},
		"told before it in one epoch": {func(w *historyWorld, access func(proof.Index, proof.Deferred) filed) { // entries of a group are shuffled
			f := w.file(proof.KindDeferred, w.alice)
			d := access(f.index, plain)
			w.open()
			w.opened(d)
			w.opened(f)
		}, ""},
	} {
		w := &historyWorld{world: emptyWorld("accesses")}
		w.open()
		c.play(w, func(target proof.Index, d proof.Deferred) filed {
			r := w.access(target)
			d.Commitment = r.Commitment()
			return filed{w.add(d), w.alice, r}
		})
		w.open()
		_, err := w.history(0, len(w.epochs)-2, w.alice).Verify(w.policy, proof.HistoryOptions{})
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestDelayEndedLate(t *testing.T) {
	w := &historyWorld{world: emptyWorld("late")}
	w.open()
	r := w.record(proof.KindDeferred, w.alice)
	d := filed{w.add(proof.Deferred{Authority: "a", Article: "b", Month: "2025-01", Commitment: r.Commitment()}), w.alice, r}
	w.open()
	w.opened(d)
	w.open()
	v := verify(t, w, w.history(0, 1, w.alice), proof.HistoryOptions{})
	if untold, late := v.Delays(); untold != 1 || late != 1 || !v.Entries[0].Late {
		t.Errorf("%d, %d, %+v", untold, late, v.Entries[0])
	}
}

func FuzzDelayIn(f *testing.F) {
	for _, s := range []string{input(lyon), input(""), `{"schema":"regard/input@v1"}`, strings.Replace(input(lyon), `"days":730`, `"days":0`, 1), input(`null`), input(`{}`), `{"agreement":"x","schema":"regard/input@v1"}`, "", "[]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := proof.DelayIn(b)
		if err != nil {
			if d != nil || !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrUnknown) {
				t.Errorf("%v, %v", d, err)
			}
			return
		}
		if d != nil && (d.Days < 1 || d.Days > 36_500 || !proof.IsCanonicalJSON(b)) {
			t.Errorf("%+v of %q", d, b)
		}
	})
}

// TestReceiptDelay: whoever holds a receipt that shows the agreement can tell whether the delay is its.
func TestReceiptDelay(t *testing.T) {
	plain := proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11"}
	other := plain
	other.Month = "2031-01"
	for name, c := range map[string]struct {
		input  string
		entry  proof.Entry
		reader proof.Reader
		agreed bool
		want   string
	}{
		"as agreed":                  {input(lyon), plain, proof.ReaderAgency, true, ""},
		"longer than agreed":         {input(lyon), other, proof.ReaderAgency, false, "its agreement has another delay"},
		"without an agreement":       {input(""), plain, proof.ReaderAgency, false, "names no agreement that has a delay"},
		"at once":                    {input(lyon), proof.Disclosure{}, proof.ReaderAgency, false, "told at once"},
		"at once, as agreed":         {input(""), proof.Disclosure{}, proof.ReaderAgency, true, ""},
		"the provider can't tell":    {input(lyon), other, proof.ReaderProvider, false, ""},
		"nor at once":                {input(lyon), proof.Disclosure{}, proof.ReaderProvider, false, ""},
		"of a form that isn't known": {`{}`, other, proof.ReaderAgency, false, ""},
	} {
		w := &historyWorld{world: emptyWorld("receipts of delays")}
		w.open()
		r := w.record(proof.KindDeferred, w.alice)
		if err := r.SetText(proof.DisclosureInput, c.input); err != nil {
			t.Fatal(err)
		}
		switch e := c.entry.(type) {
		case proof.Deferred:
			e.Commitment = r.Commitment()
			c.entry = e
		case proof.Disclosure:
			c.entry = proof.Disclosure{Commitment: r.Commitment()}
		}
		receipt := w.receipt(filed{w.add(c.entry), w.alice, r}, c.reader, nil, false)
		agreed, err := receipt.CheckDelay()
		if agreed != c.agreed || (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, proof.ErrUnproven) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v; want %q", name, agreed, err, c.want)
		}
	}
}
