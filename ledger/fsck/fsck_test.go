package fsck_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

func check(t testing.TB, dir string, p *proof.Policy, change ...func(*fsck.Config)) fsck.Report {
	t.Helper()
	src, err := reader.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := fsck.Config{Source: src, Policy: p}
	for _, c := range change {
		c(&cfg)
	}
	r, err := fsck.Check(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// codes returns which codes were found, sorted.
func codes(r fsck.Report) []fsck.Code {
	var out []fsck.Code
	for c := range r.Count {
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}

// fill writes a log of all that may stand in one: two closed epochs of 300 entries and more, governance, deferrals.
func fill(p *ledgertest.Published) {
	p.Govern()
	p.Disclose(300)
	d := p.Append(proof.Deferred{Authority: "parquet", Article: "11 CPP", Month: "2026-03", Commitment: proof.Commitment{7}})
	p.Turn()
	p.Disclose(400)
	p.Append(proof.Opened{Deferred: d, Commitment: proof.Commitment{7}})
	p.Append(proof.Access{Commitment: proof.Commitment{8}})
	p.Append(proof.Erasure{Commitment: proof.Commitment{9}})
	p.Append(proof.KeyChanged{Key: "agency.mairie", Use: proof.UseAgency, State: proof.Active, Public: proof.Hash{1}})
	p.Append(proof.KeyChanged{Key: "agency.mairie", Use: proof.UseAgency, State: proof.Retired, Public: proof.Hash{1}})
	p.Append(proof.ServiceChanged{Service: "revenu", Version: 1, State: proof.Withdrawn, Digest: p.Blob([]byte("a service"))})
	p.Append(proof.ServiceChanged{Service: "revenu", Version: 1, State: proof.Active, Digest: p.Blob([]byte("a service"))})
	p.Append(proof.AgreementChanged{Agreement: "cantine", Version: 2, State: proof.Revoked, Digest: p.Blob([]byte("revoked"))})
	m := p.Turn()
	p.Append(proof.Audit{Auditor: "cour", From: 0, To: m.Closed.First - 1, Reason: "yearly"})
	p.Append(proof.Audit{Auditor: "cour", From: m.Closed.First, To: m.At() - 1, Reason: "yearly"})
	p.Disclose(5)
}

// A log that keeps all rules has no finding, from a directory and over HTTP, however many read at once.
func TestClean(t *testing.T) {
	p := ledgertest.NewPublished(t)
	fill(p)
	p.Turn() // one of few entries
	p.Turn() // one of none
	cp := p.Sign()
	for _, workers := range []int{1, 8} {
		r := check(t, p.Dir, p.Policy, func(c *fsck.Config) { c.Workers = workers })
		if len(r.Findings) > 0 || r.Faults != 0 || !r.Complete || !r.Witnessed || r.Epochs != 4 || r.Size != cp.Size() || r.Pending != 0 {
			t.Errorf("%+v", r)
		}
		if r.Kinds[proof.KindDisclosure] != 705 || r.Kinds[proof.KindEpoch] != 5 {
			t.Errorf("%v", r.Kinds)
		}
	}
}

// otherKey is a key of labels that no log tells of.
func otherKey(t *testing.T) proof.LabelPublicKey {
	t.Helper()
	k, err := proof.NewLabelKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// A log that the real ledger wrote has none either, at every size on its way.
func TestRealLog(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.New(t)
	env.Clock.Early()
	l := env.Open()
	h, err := l.PutBlob(ctx, []byte("a bundle"))
	if err != nil {
		t.Fatal(err)
	}
	told, err := env.Labeler.Told(env.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, ledger.Group{Entries: []proof.Entry{told, proof.PolicyActivated{Revision: "r1", Bundle: h}}}); err != nil {
		t.Fatal(err)
	}
	for e := range 3 {
		for i := range 40 {
			g, _ := ledgertest.Disclosure(ledgertest.Person(i/2), ledgertest.Person(e))
			if _, err := l.Append(ctx, g); err != nil {
				t.Fatal(err)
			}
		}
		env.Wait(l)
		if r := check(t, env.Dir, env.Policy); len(r.Findings) > 0 || !r.Complete || r.Epochs != uint64(e) {
			t.Fatalf("%+v", r)
		}
		env.Clock.Set(l.OpenEpoch().Until)
	}
}

// Each way in which a log can break its rules is found, under the code that is documented for it, and nothing else is said of it.
func TestRules(t *testing.T) {
	fired := map[fsck.Code]bool{}
	raw := func(text string, args ...any) func(*testing.T, *ledgertest.Published) {
		return func(_ *testing.T, p *ledgertest.Published) { p.Raw(fmt.Appendf(nil, text, args...)) }
	}
	mark := func(change func(*proof.Marker)) func(*testing.T, *ledgertest.Published) {
		return func(_ *testing.T, p *ledgertest.Published) {
			p.Mark = change
			p.Turn()
			p.Mark = nil
		}
	}
	entries := func(list ...proof.Entry) func(*testing.T, *ledgertest.Published) {
		return func(_ *testing.T, p *ledgertest.Published) {
			for _, e := range list {
				p.Append(e)
			}
		}
	}
	bucket := func(change func(leaf []byte) []byte) func(*testing.T, *ledgertest.Published) {
		return func(_ *testing.T, p *ledgertest.Published) {
			p.Leaf = func(_ proof.Epoch, n uint64, leaf []byte) []byte {
				if n == 1 {
					leaf = change(leaf)
				}
				return leaf
			}
			p.Disclose(100)
			p.Turn()
			p.Leaf = nil
		}
	}
	const head = len("regard/bucket/v1\x00") + 8 + 1 + 8
	until := proof.TimeOf(ledgertest.Month.AddDate(1, 1, 0))
	key := func(state proof.Status, until proof.Time) proof.Entry {
		return proof.KeyChanged{Key: "record.2026-03", Use: proof.UseRecord, State: state, Until: until}
	}
	for name, tt := range map[string]struct {
		do   func(*testing.T, *ledgertest.Published)
		want []fsck.Code
	}{
		"no entry":                    {raw("hello"), []fsck.Code{fsck.EntryMalformed}},
		"not canonical":               {raw("regard/disclosure@v1\nepoch 2\ncommitment %s\n", strings.Repeat("A", 43)+"="), []fsck.Code{fsck.EntryMalformed}},
		"too long":                    {raw("regard/disclosure@v1\nepoch 2\ncommitment %s\n", strings.Repeat("A", 1000)), []fsck.Code{fsck.EntryMalformed}},
		"a type of later":             {raw("regard/later@v1\nepoch 2\nx y\n"), []fsck.Code{fsck.EntryUnknown}},
		"back-dated":                  {raw("regard/disclosure@v1\nepoch 1\ncommitment %s\n", proof.Hash{5}), []fsck.Code{fsck.EntryEpoch}},
		"post-dated":                  {raw("regard/disclosure@v1\nepoch 3\ncommitment %s\n", proof.Hash{5}), []fsck.Code{fsck.EntryEpoch}},
		"a type of later, back-dated": {raw("regard/later@v1\nepoch 1\n"), []fsck.Code{fsck.EntryEpoch, fsck.EntryUnknown}},
		"an epoch is skipped":         {mark(func(m *proof.Marker) { m.Epoch++ }), []fsck.Code{fsck.IndexMissing, fsck.MarkerOrder}},
		"an epoch has two markers":    {mark(func(m *proof.Marker) { m.Epoch-- }), []fsck.Code{fsck.IndexMissing, fsck.MarkerOrder}},
		"epoch 0 again":               {mark(func(m *proof.Marker) { m.Epoch, m.Closed = 0, nil }), []fsck.Code{fsck.MarkerOrder}},
		"it begins elsewhere":         {mark(func(m *proof.Marker) { m.Closed.First-- }), []fsck.Code{fsck.MarkerPlace}},
		"it ends elsewhere":           {mark(func(m *proof.Marker) { m.Closed.Size++; m.Closed.Counts[1].N++ }), []fsck.Code{fsck.MarkerCounts, fsck.MarkerPlace}},
		"another chain":               {mark(func(m *proof.Marker) { m.Closed.Previous[0] ^= 1 }), []fsck.Code{fsck.MarkerPrevious}},
		"one is counted as another":   {mark(func(m *proof.Marker) { m.Closed.Counts[0].Kind = proof.KindAgreement }), []fsck.Code{fsck.MarkerCounts}},
		"it closes before it opened":  {func(_ *testing.T, p *ledgertest.Published) { p.TurnAt(p.Open().Opened - 1) }, []fsck.Code{fsck.MarkerTime}},
		"a roll fewer": {func(t *testing.T, p *ledgertest.Published) {
			p.Disclose(95)
			mark(func(m *proof.Marker) { m.Closed.Items-- })(t, p)
		}, []fsck.Code{fsck.IndexItems}},
		"another index":             {mark(func(m *proof.Marker) { m.Closed.Index[0] ^= 1 }), []fsck.Code{fsck.IndexRoot}},
		"a bucket of another epoch": {bucket(func(b []byte) []byte { b[len("regard/bucket/v1\x00")+7] ^= 1; return b }), []fsck.Code{fsck.IndexBucket}},
		"a bucket out of order":     {bucket(func(b []byte) []byte { return append(b, b[head:head+64]...) }), []fsck.Code{fsck.IndexBucket}},
		"a bucket without one roll": {bucket(func(b []byte) []byte { return b[:len(b)-64] }), []fsck.Code{fsck.IndexItems}},
		"no bucket":                 {bucket(func([]byte) []byte { return []byte("x") }), []fsck.Code{fsck.IndexBucket}},
		"an agreement goes back":    {entries(proof.AgreementChanged{Agreement: "cantine", Version: 2, State: proof.Active, Digest: proof.Hash{1}}), []fsck.Code{fsck.GovernanceBlob, fsck.GovernanceVersion}},
		"a service says two things": {func(_ *testing.T, p *ledgertest.Published) {
			p.Append(proof.ServiceChanged{Service: "revenu", Version: 1, State: proof.Active, Digest: p.Blob([]byte("other"))})
		}, []fsck.Code{fsck.GovernanceVersion}},
		"a policy that nobody can read": {entries(proof.PolicyActivated{Revision: "r2", Bundle: proof.Hash{1}}), []fsck.Code{fsck.GovernanceBlob}},
		"another policy is served": {func(t *testing.T, p *ledgertest.Published) {
			h := p.Blob([]byte("good"))
			if err := tiles.WriteFile(p.Dir, fsck.BlobName(h), []byte("bad")); err != nil {
				t.Fatal(err)
			}
			p.Append(proof.PolicyActivated{Revision: "r2", Bundle: h})
		}, []fsck.Code{fsck.GovernanceBlob}},
		"labels by a key that nobody was told of": {func(t *testing.T, p *ledgertest.Published) {
			mark(func(m *proof.Marker) { m.VRF = otherKey(t) })(t, p)
			p.Turn()
		}, []fsck.Code{fsck.MarkerKey}},
		"by one that is told too late": {func(t *testing.T, p *ledgertest.Published) {
			other := otherKey(t)
			mark(func(m *proof.Marker) { m.VRF = other })(t, p)
			p.TurnAt(p.Open().Opened + 3_600_000)
			p.Append(proof.KeyChanged{Key: "label.2026-03", Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(other), Until: until})
		}, []fsck.Code{fsck.MarkerKey}},
		"by one that is told in time": {func(t *testing.T, p *ledgertest.Published) {
			other := otherKey(t)
			mark(func(m *proof.Marker) { m.VRF = other })(t, p)
			p.TurnAt(p.Open().Opened + 3_599_999)
			p.Append(proof.KeyChanged{Key: "label.2026-03", Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(other), Until: until})
			p.Turn()
		}, nil},
		"by one that is destroyed": {func(t *testing.T, p *ledgertest.Published) {
			other := otherKey(t)
			label := proof.KeyChanged{Key: "label.2026-03", Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(other), Until: until}
			p.Append(label)
			p.TurnAt(until)
			label.State = proof.Destroyed
			p.Append(label)
			mark(func(m *proof.Marker) { m.VRF = other })(t, p)
		}, []fsck.Code{fsck.MarkerKey}},
		"by one that is destroyed meanwhile": {func(t *testing.T, p *ledgertest.Published) {
			p.TurnAt(proof.TimeOf(ledgertest.Month.AddDate(4, 0, 0)))
			p.Append(proof.KeyChanged{Key: "label.2026-03", Use: proof.UseLabel, State: proof.Destroyed, Public: proof.Hash(p.Open().VRF), Until: proof.TimeOf(ledgertest.Month.AddDate(4, 0, 0))})
		}, []fsck.Code{fsck.MarkerKey}},
		"a key comes back":          {entries(proof.KeyChanged{Key: "agency.mairie", Use: proof.UseAgency, State: proof.Active, Public: proof.Hash{1}}), []fsck.Code{fsck.KeyState}},
		"a key that never was":      {entries(proof.KeyChanged{Key: "agency.autre", Use: proof.UseAgency, State: proof.Revoked, Public: proof.Hash{1}}), []fsck.Code{fsck.KeyState}},
		"retention ends early":      {entries(key(proof.Destroyed, until)), []fsck.Code{fsck.KeyPromise}},
		"retention is shortened":    {entries(key(proof.Active, 1), key(proof.Destroyed, 1)), []fsck.Code{fsck.KeyPromise}},
		"no retention was promised": {entries(proof.KeyChanged{Key: "record.2026-02", Use: proof.UseRecord, State: proof.Active}, proof.KeyChanged{Key: "record.2026-02", Use: proof.UseRecord, State: proof.Destroyed}), []fsck.Code{fsck.KeyPromise}},
		"after it was destroyed": {func(_ *testing.T, p *ledgertest.Published) {
			p.TurnAt(until)
			p.Append(key(proof.Destroyed, until))
			p.Append(key(proof.Retired, until))
		}, []fsck.Code{fsck.KeyState}},
		"retention ends in its time": {func(_ *testing.T, p *ledgertest.Published) { p.TurnAt(until); p.Append(key(proof.Destroyed, until)) }, nil},
		"a restart": {func(_ *testing.T, p *ledgertest.Published) {
			cp := p.Sign()
			p.Append(proof.Restart{Reason: "restored", Size: cp.Size(), Root: cp.Root(), Lost: proof.Lost{From: 3, To: 4}})
		}, []fsck.Code{fsck.RestartSeen}},
		"a restart from nowhere":      {entries(proof.Restart{Reason: "restored", Size: 500, Root: proof.Hash{1}}), []fsck.Code{fsck.RestartRoot, fsck.RestartSeen}},
		"a restart from the future":   {entries(proof.Restart{Reason: "restored", Size: 50_000, Root: proof.Hash{1}}), []fsck.Code{fsck.RestartRoot, fsck.RestartSeen}},
		"a delay ends that never was": {entries(proof.Opened{Deferred: 3, Commitment: proof.Commitment{7}}), []fsck.Code{fsck.OpenedReference}},
		"a delay ends twice":          {entries(proof.Opened{Deferred: 305, Commitment: proof.Commitment{7}}), []fsck.Code{fsck.OpenedReference}},
		"a delay ends with another": {func(_ *testing.T, p *ledgertest.Published) {
			d := p.Append(deferred("2026-03"))
			p.Append(proof.Opened{Deferred: d, Commitment: proof.Commitment{8}})
		}, []fsck.Code{fsck.OpenedReference}},
		"a delay is pending": {entries(deferred("2026-03")), nil},
		"a delay is overdue": {entries(deferred("2026-02")), []fsck.Code{fsck.DeferredOverdue}},
		"a delay ended late": {func(_ *testing.T, p *ledgertest.Published) {
			d := p.Append(deferred("2026-02"))
			p.Append(proof.Opened{Deferred: d, Commitment: proof.Commitment{6}})
		}, []fsck.Code{fsck.DeferredOverdue}},
		"an overdue delay is lost": {func(_ *testing.T, p *ledgertest.Published) {
			d := p.Append(deferred("2026-02"))
			cp := p.Sign()
			p.Append(proof.Restart{Reason: "restored", Size: cp.Size(), Root: cp.Root(), Lost: proof.Lost{From: d, To: d}})
		}, []fsck.Code{fsck.RestartSeen}},
		"an audit from within an epoch": {entries(proof.Audit{Auditor: "cour", From: 5, To: 305, Reason: "x"}), []fsck.Code{fsck.AuditRange}},
		"an audit to within an epoch":   {entries(proof.Audit{Auditor: "cour", From: 0, To: 17, Reason: "x"}), []fsck.Code{fsck.AuditRange}},
		"an audit of what isn't there":  {entries(proof.Audit{Auditor: "cour", From: 0, To: 10_000, Reason: "x"}), []fsck.Code{fsck.AuditRange}},
		"an audit of the open epoch's end": {func(_ *testing.T, p *ledgertest.Published) {
			p.Append(proof.Audit{Auditor: "cour", From: 0, To: proof.Index(p.Size()) - 1, Reason: "x"})
		}, []fsck.Code{fsck.AuditRange}},
	} {
		t.Run(name, func(t *testing.T) {
			p := ledgertest.NewPublished(t)
			fill(p)
			tt.do(t, p)
			p.Sign()
			r := check(t, p.Dir, p.Policy)
			slices.Sort(tt.want)
			if got := codes(r); !slices.Equal(got, tt.want) || !r.Complete {
				t.Errorf("found %v, want %v: %+v", got, tt.want, r.Findings)
			}
			for _, c := range codes(r) {
				fired[c] = true
			}
			for _, f := range r.Findings {
				if f.Place == "" || f.Text == "" || f.Severity != fsck.Codes[f.Code].Severity {
					t.Errorf("%+v", f)
				}
			}
		})
	}
	for c := range fsck.Codes {
		if s := string(c); !fired[c] && !strings.HasPrefix(s, "tile.") && !strings.HasPrefix(s, "bundle.") && !strings.HasPrefix(s, "checkpoint.") && c != fsck.RootMismatch && c != fsck.EntryMismatch &&
			c != fsck.IndexTree && c != fsck.AuditStatement && c != fsck.AuditUnverified && c != fsck.MarkerMissing {
			t.Errorf("no test makes %s fire", c)
		}
	}
}

func deferred(month string) proof.Deferred {
	return proof.Deferred{Authority: "parquet", Article: "11 CPP", Month: month, Commitment: proof.Commitment{6}}
}

// A log that doesn't begin with the marker of epoch 0 says so, once.
func TestNoMarker(t *testing.T) {
	p := ledgertest.NewPublished(t)
	dir := t.TempDir()
	w := tiles.Create(dir)
	for i := range 3 {
		text, err := proof.EntryText(proof.Disclosure{Commitment: proof.Commitment{byte(i + 1)}})
		if err == nil {
			err = w.Append(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(), tiles.WriteFile(dir, "checkpoint", p.Checkpoint(3, w.Root(), p.Witnesses...))); err != nil {
		t.Fatal(err)
	}
	if r := check(t, dir, p.Policy); !slices.Equal(codes(r), []fsck.Code{fsck.MarkerMissing}) || r.Count[fsck.MarkerMissing] != 1 {
		t.Errorf("%+v", r.Findings)
	}
}

// Every damaged file is found, as the file that it is, and by one finding: the rest of the log is still checked.
func TestFiles(t *testing.T) {
	p := ledgertest.NewPublished(t)
	fill(p)
	p.Disclose(66_000)
	p.Turn()
	p.Disclose(300)
	p.Sign()
	if r := check(t, p.Dir, p.Policy); len(r.Findings) > 0 {
		t.Fatal(r.Findings)
	}
	n := p.Size() / 256
	last, width := fmt.Sprintf("%03d.p/%d", n, p.Size()%256), int(p.Size()%256)
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	long := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
	huge := func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 300_000)...) }
	if width == 0 {
		t.Fatal("the log ends with a full tile: no partial one is tested")
	}
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte // nil: remove it
		want   fsck.Code
	}{
		{"tile/0/001", flip, fsck.TileMismatch}, {"tile/0/001", nil, fsck.TileMissing}, {"tile/0/001", cut, fsck.TileMismatch}, {"tile/0/001", long, fsck.TileMismatch}, {"tile/0/001", huge, fsck.TileMismatch},
		{"tile/0/" + last, flip, fsck.TileMismatch}, {"tile/0/" + last, nil, fsck.TileMissing}, {"tile/0/" + last, cut, fsck.TileMismatch},
		{"tile/1/000", flip, fsck.TileMismatch}, {"tile/1/000", nil, fsck.TileMissing}, {"tile/1/001.p/5", flip, fsck.TileMismatch}, {"tile/2/000.p/1", nil, fsck.TileMissing}, {"tile/2/000.p/1", flip, fsck.TileMismatch},
		{"tile/entries/001", flip, fsck.EntryMismatch}, {"tile/entries/001", nil, fsck.BundleMissing}, {"tile/entries/001", cut, fsck.BundleMalformed}, {"tile/entries/001", long, fsck.BundleMalformed}, {"tile/entries/001", huge, fsck.BundleMalformed},
		{"tile/entries/" + last, flip, fsck.EntryMismatch}, {"tile/entries/" + last, nil, fsck.BundleMissing}, {"tile/entries/" + last, long, fsck.BundleMalformed},
		{"index/0/tile/0/000.p/128", flip, fsck.IndexTree}, {"index/0/tile/0/000.p/128", nil, fsck.IndexMissing}, {"index/0/tile/entries/000.p/128", nil, fsck.IndexMissing}, {"index/0/tile/entries/000.p/128", flip, fsck.IndexTree},
		{"index/2/tile/1/000.p/128", flip, fsck.IndexTree}, {"index/2/tile/0/001", flip, fsck.IndexTree}, {"index/2/tile/entries/003", cut, fsck.IndexBucket},
	} {
		file := filepath.Join(p.Dir, filepath.FromSlash(tt.name))
		good, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if tt.change == nil {
			err = os.Remove(file)
		} else {
			err = os.WriteFile(file, tt.change(good), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		r := check(t, p.Dir, p.Policy)
		if !slices.Equal(codes(r), []fsck.Code{tt.want}) || r.Count[tt.want] != 1 || !r.Complete {
			t.Errorf("%s, want %s: %+v", tt.name, tt.want, r.Findings)
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// When nothing stands in for what is missing, the check says where it ended.
func TestLost(t *testing.T) {
	p := ledgertest.NewPublished(t)
	fill(p)
	p.Sign()
	for _, name := range []string{"tile/0/001", "tile/entries/001", "tile/1/000.p/2"} {
		if err := os.Remove(filepath.Join(p.Dir, filepath.FromSlash(name))); err != nil {
			t.Fatal(err)
		}
	}
	r := check(t, p.Dir, p.Policy)
	if r.Complete || !slices.Equal(codes(r), []fsck.Code{fsck.BundleMissing, fsck.TileMissing}) {
		t.Errorf("%+v", r)
	}
}

// The entries hold together and are not what was signed.
func TestAnotherTree(t *testing.T) {
	p, q := ledgertest.NewPublished(t), ledgertest.NewPublished(t)
	fill(p)
	fill(q)
	cp := p.Sign()
	q.Sign()
	if err := tiles.WriteFile(q.Dir, "checkpoint", cp.Note()); err != nil {
		t.Fatal(err)
	}
	r := check(t, q.Dir, p.Policy)
	if !slices.Contains(codes(r), fsck.RootMismatch) || r.Faults == 0 {
		t.Errorf("%+v", r.Findings)
	}
}

func TestUnwitnessed(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.SignWith(p.Witnesses[0])
	if r := check(t, p.Dir, p.Policy); !slices.Equal(codes(r), []fsck.Code{fsck.CheckpointUnwitnessed}) {
		t.Errorf("%+v", r.Findings)
	}
	if r := check(t, p.Dir, p.Policy, func(c *fsck.Config) { c.AllowProvisional = true }); len(r.Findings) > 0 {
		t.Errorf("%+v", r.Findings)
	}
}

// A checkpoint that was kept must be of the same history.
func TestEarlier(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Disclose(300)
	early := p.Sign()
	p.Turn()
	p.Disclose(300)
	now := p.Sign()
	for name, tt := range map[string]struct {
		note []byte
		want []fsck.Code
	}{
		"an earlier one":    {early.Note(), nil},
		"the same":          {now.Note(), nil},
		"the empty tree":    {p.Checkpoint(0, sha256.Sum256(nil)), nil},
		"another branch":    {p.Checkpoint(early.Size(), proof.Hash{1}), []fsck.Code{fsck.CheckpointHistory}},
		"another beginning": {p.Checkpoint(0, proof.Hash{1}), []fsck.Code{fsck.CheckpointHistory}},
		"another, as long":  {p.Checkpoint(now.Size(), proof.Hash{1}), []fsck.Code{fsck.CheckpointHistory}},
		"a later one":       {p.Checkpoint(now.Size()+1, proof.Hash{1}), []fsck.Code{fsck.CheckpointOlder}},
	} {
		r := check(t, p.Dir, p.Policy, func(c *fsck.Config) { c.Earlier = [][]byte{tt.note} })
		if !slices.Equal(codes(r), tt.want) || r.Complete != (tt.want == nil) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	src, err := reader.Dir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fsck.Check(t.Context(), fsck.Config{Source: src, Policy: p.Policy, Earlier: [][]byte{[]byte("x")}}); err == nil {
		t.Error("what is no checkpoint is taken for one")
	}
}

// A run goes on where the last one ended, at any size, and refuses another history.
func TestResume(t *testing.T) {
	p := ledgertest.NewPublished(t)
	state := func(c *fsck.Config) { c.State = filepath.Join(p.Dir, "state.json") }
	p.Govern()
	p.Sign()
	from := uint64(0)
	for _, n := range []int{1, 255, 256, 700} {
		r := check(t, p.Dir, p.Policy, state)
		if len(r.Findings) > 0 || r.From != from || !r.Complete {
			t.Fatalf("%+v", r)
		}
		from = r.Size
		p.Disclose(n)
		p.Turn()
		p.Sign()
	}
	p.Raw([]byte("regard/disclosure@v1\nepoch 7\n")) // what was found once is said again
	p.Sign()
	for range 2 {
		r := check(t, p.Dir, p.Policy, state)
		if r.Count[fsck.EntryMalformed] != 1 || r.Count[fsck.EntryEpoch] != 1 || len(r.Findings) != 2 {
			t.Fatalf("%+v", r.Findings)
		}
	}
	// Another history under the same key: both ways.
	q := ledgertest.NewPublished(t)
	q.Signer, q.Policy, q.Witnesses = p.Signer, p.Policy, p.Witnesses
	q.Disclose(int(p.Size()) + 10)
	q.Sign()
	for _, more := range []int{0, 2000} {
		r := check(t, q.Dir, p.Policy, state)
		if !slices.Contains(codes(r), fsck.CheckpointHistory) || r.Complete {
			t.Errorf("%d: %+v", more, r.Findings)
		}
		q.Disclose(more)
		q.Sign()
	}
	// A state that is damaged, or another log's.
	good, err := os.ReadFile(filepath.Join(p.Dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := reader.Dir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"cut": good[:len(good)/2], "empty": {}, "another log": bytes.Replace(good, []byte(ledgertest.Origin), []byte("other.example"), 1),
		"another place": bytes.Replace(good, []byte(`"next":`), []byte(`"next":1`), 1), "another version": bytes.Replace(good, []byte("@v1"), []byte("@v2"), 1),
	} {
		if err := os.WriteFile(filepath.Join(p.Dir, "state.json"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := fsck.Check(t.Context(), fsck.Config{Source: src, Policy: p.Policy, State: filepath.Join(p.Dir, "state.json")}); err == nil {
			t.Errorf("%s: it is used", name)
		}
	}
}

// A run that is cut off in the middle leaves a state from which the next goes on.
func TestCutOff(t *testing.T) {
	p := ledgertest.NewPublished(t)
	p.Disclose(80_000)
	p.Turn()
	p.Sign()
	ctx, cancel := context.WithCancel(t.Context())
	src, err := reader.Dir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := fsck.Config{Source: src, Policy: p.Policy, State: filepath.Join(t.TempDir(), "state"), Progress: func(done, _ uint64) {
		if done > 70_000 {
			cancel()
		}
	}}
	if r, err := fsck.Check(ctx, cfg); !errors.Is(err, context.Canceled) || r.Complete {
		t.Fatalf("%v", err)
	}
	cfg.Progress = nil
	r, err := fsck.Check(t.Context(), cfg)
	if err != nil || r.From < 1<<16 || r.From > 70_000 || !r.Complete || len(r.Findings) > 0 || r.Kinds[proof.KindDisclosure] != 80_000 {
		t.Errorf("%+v %v", r, err)
	}
}

// What auditors state about indexes is verified: by keys that the log publishes, and by keys that are given.
func TestAuditStatements(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change  func(*proof.IndexAudit)
		given   []string
		publish bool
		want    []fsck.Code
	}{
		"a published key":         {publish: true},
		"a given key":             {given: []string{vkey}},
		"no key":                  {want: []fsck.Code{fsck.AuditUnverified}},
		"another index":           {publish: true, change: func(a *proof.IndexAudit) { a.Root[0] ^= 1 }, want: []fsck.Code{fsck.AuditStatement}},
		"another log":             {publish: true, change: func(a *proof.IndexAudit) { a.Origin = "other.example" }, want: []fsck.Code{fsck.AuditStatement}},
		"another number of rolls": {publish: true, change: func(a *proof.IndexAudit) { a.Items-- }, want: []fsck.Code{fsck.AuditStatement}},
	} {
		p := ledgertest.NewPublished(t)
		p.Append(proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
		p.Disclose(10)
		m := p.Turn()
		if tt.publish {
			p.Blob([]byte(vkey))
		}
		a := proof.IndexAudit{Origin: ledgertest.Origin, Epoch: 0, Marker: m.At(), Root: m.Closed.Index, Items: m.Closed.Items, Entries: m.Closed.Items}
		if tt.change != nil {
			tt.change(&a)
		}
		text, err := a.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
		if err == nil {
			err = tiles.WriteFile(p.Dir, "audit/0/cour", signed)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.Sign()
		r := check(t, p.Dir, p.Policy, func(c *fsck.Config) { c.AuditorKeys = tt.given })
		if !slices.Equal(codes(r), tt.want) || (r.Audited == 1) != (tt.want == nil) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A server that serves nothing, or says that it has an endless log, ends the check soon: by an error or a finding, in little memory.
func TestHostileServer(t *testing.T) {
	p := ledgertest.NewPublished(t)
	fill(p)
	p.Sign()
	endless := p.Checkpoint(1<<61, proof.Hash{1}, p.Witnesses...)
	for name, tt := range map[string]struct {
		serve func(w http.ResponseWriter, r *http.Request, next http.Handler)
		err   bool
	}{
		"down": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}, true},
		"no tiles": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path != "/checkpoint" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, r)
		}, true},
		"an endless log": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == "/checkpoint" {
				w.Write(endless)
				return
			}
			next.ServeHTTP(w, r)
		}, false},
		"endless tiles": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == "/checkpoint" {
				w.Write(endless)
				return
			}
			for b := make([]byte, 1<<16); r.Context().Err() == nil; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			src, err := reader.Open(serve(t, func(w http.ResponseWriter, r *http.Request) { tt.serve(w, r, tiles.Handler(p.Dir)) }), reader.Options{Timeout: time.Second, Attempts: 2, Pause: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := fsck.Check(t.Context(), fsck.Config{Source: src, Policy: p.Policy})
			runtime.ReadMemStats(&after)
			if (err != nil) != tt.err || !tt.err && (r.Faults == 0 || r.Complete) || tt.err && !errors.Is(err, reader.ErrUnavailable) {
				t.Errorf("%+v %v", r, err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
				t.Errorf("it used %d MiB", used>>20)
			}
		})
	}
}

// Findings are bounded, and all are counted.
func TestManyFindings(t *testing.T) {
	p := ledgertest.NewPublished(t)
	for range 1000 {
		p.Raw([]byte("x"))
	}
	p.Sign()
	r := check(t, p.Dir, p.Policy)
	if r.Count[fsck.EntryMalformed] != 1000 || len(r.Findings) != 100 || r.Omitted != 900 || r.Faults != 1000 {
		t.Errorf("%d %d %d", len(r.Findings), r.Omitted, r.Faults)
	}
}

// FuzzRules steps over whatever entries: no panic, and what is followed survives JSON.
func FuzzRules(f *testing.F) {
	p := ledgertest.NewPublished(f)
	fill(p)
	p.Sign()
	src, err := reader.Dir(p.Dir)
	if err != nil {
		f.Fatal(err)
	}
	cp, err := reader.Checkpoint(f.Context(), src, p.Policy)
	if err != nil {
		f.Fatal(err)
	}
	tr, err := reader.OpenTree(f.Context(), src, "", cp.Size(), cp.Root())
	if err != nil {
		f.Fatal(err)
	}
	var all []byte
	for b, err := range tr.Bundles(f.Context(), 0, 1) {
		if err != nil {
			f.Fatal(err)
		}
		for i, e := range b.Entries {
			if i%9 == 0 || bytes.Contains(e, []byte("epoch@v1")) {
				all = append(append(all, e...), 0)
			}
		}
	}
	f.Add(all)
	f.Add([]byte("regard/opened@v1\nepoch 0\ndeferred 0\ncommitment AAAA\n\x00x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r fsck.Rules
		for _, text := range bytes.Split(in, []byte{0}) {
			r.Step(proof.LeafHash(text), fsck.Parse(text), func(x fsck.Finding) {
				if _, ok := fsck.Codes[x.Code]; !ok {
					t.Fatalf("code %s", x.Code)
				}
			}, func(fsck.Claim) {})
			if len(text)%7 == 0 {
				r.Skip(1)
			}
		}
		b, err := json.Marshal(r)
		var back fsck.Rules
		if err != nil || json.Unmarshal(b, &back) != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if again, _ := json.Marshal(back); !bytes.Equal(again, b) {
			t.Fatalf("%s\n%s", b, again)
		}
		r.Overdue(1 << 60)
	})
}

// Auditors come after an epoch's end, and a nightly run may have been there before: what they said is looked at by the next, for the epochs of the last weeks.
func TestLateStatement(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	p := ledgertest.NewPublished(t)
	p.Append(proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
	p.Blob([]byte(vkey))
	p.Disclose(10)
	m := p.Turn()
	p.Sign()
	src, err := reader.Dir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := fsck.Config{Source: src, Policy: p.Policy, State: filepath.Join(t.TempDir(), "state")}
	look := func(audited, faults uint64) {
		t.Helper()
		r, err := fsck.Check(t.Context(), cfg)
		if err != nil || !r.Complete || r.Audited != audited || r.Faults != faults {
			t.Errorf("%+v, %v", r, err)
		}
	}
	look(0, 0)
	state := func(items uint64) {
		t.Helper()
		a := proof.IndexAudit{Origin: ledgertest.Origin, Epoch: 0, Marker: m.At(), Root: m.Closed.Index, Items: items, Entries: m.Closed.Items}
		text, err := a.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if err := tiles.WriteFile(p.Dir, fsck.AuditName(0, "cour"), signed); err != nil {
			t.Fatal(err)
		}
	}
	state(m.Closed.Items - 1)
	look(0, 1)
	look(0, 1) // it is there as long as the statement is
	p.Disclose(1)
	p.Sign()
	state(m.Closed.Items)
	look(1, 0)
	for range fsck.RecentEpochs {
		p.Turn()
	}
	p.Sign()
	look(1, 0)
	look(0, 0)
}
