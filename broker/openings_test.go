package broker_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// auditor is one with their certificate's caller and their key.
type auditor struct {
	broker.Caller
	skey, vkey string
}

func newAuditorKey(t testing.TB, name string) (skey, vkey string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return skey, vkey
}

func (w *world) auditor(id string) auditor {
	w.t.Helper()
	a := auditor{}
	a.skey, a.vkey = newAuditorKey(w.t, id+".example")
	cert := newCert(w.t, 100*24*time.Hour)
	if err := w.b.AddAuditor(w.t.Context(), id, "Cour d'Exemple", cert, a.vkey); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if a.Caller, err = w.b.Authenticate(cert); err != nil {
		w.t.Fatal(err)
	}
	return a
}

// clocked is a world whose epochs of ten minutes end when the test says so.
func clocked(t testing.TB, change func(*broker.Config)) (*world, *atomic.Int64) {
	t.Helper()
	ahead := new(atomic.Int64)
	return newWorld(t, func(c *broker.Config) {
		c.Epoch, c.Clock = 10*time.Minute, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		if change != nil {
			change(c)
		}
	}), ahead
}

// turn ends the open epoch, and returns its number when its marker is published.
func (w *world) turn(ahead *atomic.Int64) proof.Epoch {
	w.t.Helper()
	was := w.b.Log().OpenEpoch().Number
	ahead.Add(int64(11 * time.Minute))
	// Any entry tells the log the time; this one is nobody's.
	if err := w.b.AddAgency(w.t.Context(), "passage-"+was.String(), "Passage", mairie, newCert(w.t, time.Hour)); err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); w.b.Log().OpenEpoch().Number == was; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("epoch %d doesn't end\n%s", was, w.logs)
		}
	}
	if _, err := w.b.Log().AwaitPublished(w.t.Context(), w.b.Log().OpenEpoch().Marker); err != nil {
		w.t.Fatal(err)
	}
	return was
}

func indexOf(t testing.TB, a *broker.Answer) proof.Index {
	t.Helper()
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	return r.Index()
}

func (w *world) openings(a auditor, req broker.OpeningsRequest) *broker.Openings {
	w.t.Helper()
	if req.Reason == "" {
		req.Reason = "control 7"
	}
	// On a machine that is busy, publication may take longer than a request waits; nothing is logged then.
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		o, err := w.b.Openings(w.t.Context(), a.Caller, &req)
		if err == nil {
			return o
		}
		if codeOf(err) != "log.unavailable" || time.Now().After(deadline) {
			w.t.Fatalf("openings: %v\n%s", err, w.logs)
		}
	}
}

func statesOf(o *broker.Openings) string {
	var out []string
	for _, e := range o.Entries {
		out = append(out, fmt.Sprintf("%d %s", e.Index, e.State))
	}
	return strings.Join(out, ", ")
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return broker.AsProblem(err).Code
}

// entries are the published log's entries.
func (w *world) entries() []proof.Entry {
	w.t.Helper()
	var out []proof.Entry
	size := w.b.Log().Checkpoint().Size()
	if _, err := w.b.Log().AwaitPublished(w.t.Context(), proof.Index(size-1)); err != nil {
		w.t.Fatal(err)
	}
	tree := tiles.Tree{Dir: w.b.PublicDir(), Size: size}
	for i := range size {
		b, err := tree.Entry(i)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := proof.ParseEntry(b)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// TestNoAuditorsKey: what the log or a witness signs with, under whatever name, is no auditor's key.
func TestNoAuditorsKey(t *testing.T) {
	t.Parallel()
	w := newWitnessedWorld(t, 1, 2, nil)
	ctx := t.Context()
	if _, err := w.b.RotateKey(ctx, keys.RootCheckpoint); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{}
	logKeys, err := w.b.LogKeys(ctx)
	if err != nil || len(logKeys) < 2 {
		t.Fatal(logKeys, err)
	}
	for i, k := range append(logKeys, w.stands[1].w.VKey()) {
		refused[fmt.Sprintf("key %d", i)] = k
		raw, err := base64.StdEncoding.DecodeString(strings.SplitN(k, "+", 3)[2])
		if err != nil {
			t.Fatal(err)
		}
		if refused[fmt.Sprintf("key %d, renamed", i)], err = note.NewEd25519VerifierKey("cour.example", raw[1:]); err != nil {
			t.Fatal(err)
		}
	}
	_, refused["the origin"] = newAuditorKey(t, w.cfg.Origin)
	a := w.world.auditor("cour")
	for name, key := range refused {
		for what, err := range map[string]error{"adding": w.b.AddAuditor(ctx, "autre", "Cour", newCert(t, time.Hour), key), "rotating": w.b.RotateAuditor(ctx, "cour", nil, key, false)} {
			var p *broker.Problem
			if !errors.As(err, &p) || p.Code != "request.invalid" || !strings.Contains(p.Detail, "made for this") {
				t.Errorf("%s with %s: %v", what, name, err)
			}
		}
	}
	if got := w.b.Auditors(); len(got) != 1 || len(got[0].Keys) != 1 || got[0].Keys[0].VKey != a.vkey {
		t.Errorf("%+v", got)
	}
}

func TestAuditorsAreRegistered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx := t.Context()
	_, key := newAuditorKey(t, "cour.example")
	cert := newCert(t, time.Hour)
	for name, c := range map[string]struct {
		id, name, key, code string
	}{
		"id": {"Cour", "Cour", key, "request.invalid"}, "a long id": {strings.Repeat("a", 57), "Cour", key, "request.invalid"}, "no name": {"cour", " ", key, "request.invalid"}, "a name unseen": {"cour", "\u0301", key, "request.invalid"},
		"no key": {"cour", "Cour", "", "request.invalid"}, "not a key": {"cour", "Cour", "cour+12345678+AAAA", "request.invalid"},
	} {
		if err := w.b.AddAuditor(ctx, c.id, c.name, cert, c.key); codeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.b.AddAuditor(ctx, "cour", "Cour", w.cert, key); codeOf(err) != "certificate.key.exists" {
		t.Errorf("an agency's certificate: %v", err)
	}
	// An auditor may have the id of an agency: they are apart.
	if err := w.b.AddAuditor(ctx, "mairie", "Cour", cert, key); err != nil {
		t.Fatal(err)
	}
	if err := w.b.AddAuditor(ctx, "mairie", "Cour", newCert(t, time.Hour), key); codeOf(err) != "auditor.exists" {
		t.Errorf("twice: %v", err)
	}
	if err := w.b.AddAuditor(ctx, "autre", "Cour", newCert(t, time.Hour), key); codeOf(err) != "auditor.key.exists" {
		t.Errorf("another's key: %v", err)
	}
	if err := w.b.AddAgency(ctx, "prefecture", "Préfecture", mairie, cert); codeOf(err) != "certificate.key.exists" {
		t.Errorf("an agency with an auditor's certificate: %v", err)
	}
	if c, err := w.b.Authenticate(cert); err != nil || c != (broker.Caller{ID: "mairie", Name: "Cour", Auditor: true}) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := w.b.Authenticate(w.cert); err != nil || c.Auditor {
		t.Errorf("the agency: %+v, %v", c, err)
	}

	// A new certificate is in force at once and the old one isn't; the log states the key once more.
	next, key2 := newCert(t, time.Hour), ""
	if err := w.b.RotateAuditor(ctx, "mairie", next, "", false); err != nil {
		t.Fatal(err)
	}
	_, err := w.b.Authenticate(cert)
	if _, ok := w.b.Authenticate(next); codeOf(err) != "certificate.unknown" || ok != nil {
		t.Errorf("%v, %v", err, ok)
	}
	_, key2 = newAuditorKey(t, "cour.example")
	if err := w.b.RotateAuditor(ctx, "mairie", nil, key2, false); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"nothing": w.b.RotateAuditor(ctx, "mairie", nil, "", false), "nobody": w.b.RotateAuditor(ctx, "personne", next, "", false), "the same": w.b.RotateAuditor(ctx, "mairie", next, "", false),
		"a key of old": w.b.RotateAuditor(ctx, "mairie", nil, key, false), "revoking nobody": w.b.RevokeAuditor(ctx, "personne"),
	} {
		want := map[string]string{"nothing": "request.invalid", "nobody": "auditor.unknown", "the same": "certificate.key.exists", "a key of old": "auditor.key.exists", "revoking nobody": "auditor.unknown"}[name]
		if codeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.close()
	w.open()
	if c, err := w.b.Authenticate(next); err != nil || !c.Auditor {
		t.Errorf("after a restart: %v", err)
	}
	for range 2 {
		if err := w.b.RevokeAuditor(ctx, "mairie"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.b.Authenticate(next); codeOf(err) != "certificate.unknown" {
		t.Errorf("revoked: %v", err)
	}
	if err := w.b.RotateAuditor(ctx, "mairie", newCert(t, time.Hour), "", false); codeOf(err) != "auditor.revoked" {
		t.Errorf("rotating one that is revoked: %v", err)
	}
	var told []string
	for _, e := range w.entries() {
		if k, ok := e.(proof.KeyChanged); ok && k.Use == proof.UseAuditor {
			told = append(told, fmt.Sprint(k.Key, k.State, k.Public == proof.AuditorKey(key), k.Public == proof.AuditorKey(key2)))
		}
	}
	slices.Sort(told[2:4]) // entries of a group are in random order
	slices.Sort(told[4:])
	if d := cmp.Diff([]string{
		"auditor.mairieactivetrue false", "auditor.mairieactivetrue false", "auditor.mairieactivefalse true", "auditor.mairieretiredtrue false", "auditor.mairierevokedfalse true", "auditor.mairierevokedtrue false",
	}, told); d != "" {
		t.Error(d)
	}
}

// TestOpenings: an auditor sees their fields and no others, and each person finds in their own history who looked.
func TestOpenings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	cour := w.auditor("cour")
	other := request()
	other.Subject.Pivot.BirthName = "Autre"
	first, second := indexOf(t, w.disclose(request())), indexOf(t, w.disclose(other))
	size := w.b.Log().Checkpoint().Size()
	o := w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{second, 0, first}})
	if want := fmt.Sprintf("%d open, 0 none, %d open", second, first); statesOf(o) != want {
		t.Fatalf("%s, want %s", statesOf(o), want)
	}
	if got := w.b.Log().Checkpoint().Size(); got != size+2 {
		t.Errorf("the log grew by %d entries, want 2", got-size)
	}
	for _, e := range o.Entries {
		if e.State != broker.OpeningOpen {
			if e.Receipt != nil || e.Access != 0 {
				t.Errorf("%+v", e)
			}
			continue
		}
		r, err := proof.ParseReceipt(e.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		w.verify(e.Receipt)
		for _, f := range proof.SchemaDisclosure.Fields() {
			_, p := r.Opening().Value(f.Field)
			if (p == proof.Hidden) == proof.ReaderAuditor.Sees(proof.SchemaDisclosure, f.Field) {
				t.Errorf("field %s: %v", f.Name, p)
			}
		}
		if r.Index() != e.Index || r.Opening().Text(proof.DisclosureOfficial) != "agent-7" {
			t.Errorf("entry %d: %q", e.Index, r.Opening().Text(proof.DisclosureOfficial))
		}
	}
	h := w.history(subjectOf(t, marie), broker.HistoryPage{Kind: proof.KindAccess})
	if len(h.Entries) != 1 || h.Entries[0].Index != o.Entries[2].Access {
		t.Fatalf("%+v", h)
	}
	var names []string
	for _, f := range proof.SchemaDisclosure.Fields() {
		if f.Readers&proof.ReaderAuditor != 0 {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	access := *h.Entries[0].Access
	access.At = time.Time{}
	if d := cmp.Diff(broker.AccessSeen{Reader: "cour", Role: proof.RoleAuditor, Reason: "control 7", Target: first, Fields: names}, access); d != "" {
		t.Error(d)
	}
	if h := w.history(subjectOf(t, other.Subject.Pivot), broker.HistoryPage{Kind: proof.KindAccess}); len(h.Entries) != 1 || h.Entries[0].Access.Target != second {
		t.Errorf("the other person: %+v", h)
	}
	// An access is a record like any other.
	if o := w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{o.Entries[0].Access}}); statesOf(o) != fmt.Sprintf("%d open", o.Entries[0].Index) {
		t.Errorf("an access: %s", statesOf(o))
	}
	if strings.Contains(w.logs.String(), "control 7") || strings.Contains(string(w.published()), "control 7") {
		t.Error("the reason came out")
	}
}

func TestOpeningsInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	cour := w.auditor("cour")
	var want []proof.Index
	for i := range 7 {
		req := request()
		if i%2 == 0 {
			req.Scopes = []string{"quotient", "members"} // two more people
		}
		want = append(want, indexOf(t, w.disclose(req)))
	}
	a, err := w.b.Disclose(t.Context(), w.caller, request())
	if err != nil {
		t.Fatal(err)
	}
	if o := w.openings(cour, broker.OpeningsRequest{Disclosure: a.ID}); len(o.Entries) == 0 || o.Entries[0].Index != indexOf(t, a) {
		t.Errorf("by disclosure: %s", statesOf(o))
	}
	from, to := proof.Index(0), want[len(want)-1]
	seen := map[proof.Index]int{}
	last := proof.Index(0)
	for page, next := 0, &from; next != nil; page++ {
		o := w.openings(cour, broker.OpeningsRequest{From: next, To: &to, Limit: 3})
		if len(o.Entries) > 3 || page > 20 {
			t.Fatal(statesOf(o))
		}
		for _, e := range o.Entries {
			seen[e.Index]++
			if e.State != broker.OpeningOpen || e.Index < last {
				t.Errorf("%+v", e)
			}
			last = e.Index
		}
		next = &o.Next
		if o.Next == 0 {
			next = nil
		}
	}
	for _, i := range want {
		if seen[i] != 1 {
			t.Errorf("entry %d was shown %d times", i, seen[i])
		}
	}
	size := proof.Index(w.b.Log().Checkpoint().Size())
	many := make([]proof.Index, broker.MaxOpenings+1)
	for i := range many {
		many[i] = proof.Index(i)
	}
	none, twice := store.ID{1}, to+1
	for name, req := range map[string]broker.OpeningsRequest{
		"nothing": {}, "two forms": {Indexes: []proof.Index{1}, Disclosure: a.ID}, "twice": {Indexes: []proof.Index{1, 1}}, "beyond the log": {Indexes: []proof.Index{size + 10}}, "far beyond": {Indexes: []proof.Index{1 << 63}},
		"too many": {Indexes: many}, "no to": {From: &from}, "no from": {To: &to}, "backwards": {From: &twice, To: &to}, "a range beyond": {From: &from, To: ptr(size + 10)}, "limit": {From: &from, To: &to, Limit: 65},
		"limit without range": {Indexes: []proof.Index{1}, Limit: 3}, "no reason": {Indexes: []proof.Index{1}, Reason: " "}, "long reason": {Indexes: []proof.Index{1}, Reason: strings.Repeat("é", 201)},
		"unknown": {Disclosure: none},
	} {
		if req.Reason == "" {
			req.Reason = "r"
		}
		_, err := w.b.Openings(t.Context(), cour.Caller, &req)
		if want := map[bool]string{true: "disclosure.unknown", false: "request.invalid"}[name == "unknown"]; codeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := proof.Index(w.b.Log().Checkpoint().Size()); got != size {
		t.Errorf("requests that are refused left %d entries", got-size)
	}
}

func ptr[T any](v T) *T { return &v }

// TestOnlyAuditorsOpen: an agency is refused before anything else.
func TestOnlyAuditorsOpen(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	i := indexOf(t, w.disclose(request()))
	e := w.turn(ahead)
	size := w.b.Log().Checkpoint().Size()
	ctx := t.Context()
	_, err1 := w.b.Openings(ctx, w.caller, &broker.OpeningsRequest{Indexes: []proof.Index{i}, Reason: "r"})
	_, err2 := w.b.Erased(ctx, w.caller, &broker.ErasedRequest{From: e, To: e, Reason: "r"})
	_, err3 := w.b.ErasedPage(ctx, w.caller, i, i)
	_, err4 := w.b.Rolls(ctx, w.caller, e, nil)
	for n, err := range []error{err1, err2, err3, err4, w.b.PutStatement(ctx, w.caller, e, nil)} {
		if p := broker.AsProblem(err); p.Status != 403 || p.Code != "caller.agency" {
			t.Errorf("%d: %v", n, err)
		}
	}
	if w.b.Log().Checkpoint().Size() != size {
		t.Error("the log grew")
	}
}

// TestOpeningsAreLoggedFirst: while the log can't sign nothing is opened, not even a key of the record's month.
func TestOpeningsAreLoggedFirst(t *testing.T) {
	t.Parallel()
	custodian := &counting{faulty: newFaulty(t)}
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Custodian, c.SweepEvery = custodian, time.Hour
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	i := indexOf(t, w.disclose(request()))
	w.travel(&ahead)
	w.close()
	w.open()
	cour := w.auditor("cour")
	if a := w.disclose(request()); a.Outcome != broker.Denied { // the person's key and this month's are in the cache
		t.Fatalf("%+v", a)
	}
	w.published()
	before, accesses := custodian.unwrapped.Load(), w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'")
	custodian.down("Sign", errors.New("down"))
	req := &broker.OpeningsRequest{Indexes: []proof.Index{i}, Reason: "control"}
	o, err := w.b.Openings(t.Context(), cour.Caller, req)
	if o != nil || codeOf(err) != "log.unavailable" {
		t.Fatalf("the log can't sign: %+v, %v", o, err)
	}
	if n := custodian.unwrapped.Load() - before; n != 0 {
		t.Errorf("%d keys were unwrapped for records whose access isn't logged", n)
	}
	if n := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'") - accesses; n != 1 {
		t.Errorf("%d accesses in the order, want 1: rather too much than too little", n)
	}
	custodian.up()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if o, err = w.b.Openings(t.Context(), cour.Caller, req); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if custodian.unwrapped.Load() == before || o.Entries[0].State != broker.OpeningOpen {
		t.Errorf("%s; this test shows nothing", statesOf(o))
	}
}

// TestRepeatedAuditsAreLoggedFirst: an access, or an audit@v1, that is in the order and under no signed checkpoint opens nothing, with the same Idempotency-Key neither.
func TestRepeatedAuditsAreLoggedFirst(t *testing.T) {
	t.Parallel()
	custodian := newFaulty(t)
	w, ahead := clocked(t, func(c *broker.Config) { c.Custodian, c.SweepEvery = custodian, time.Hour })
	cour := w.auditor("cour")
	i := indexOf(t, w.disclose(request()))
	if _, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	epoch := w.turn(ahead)
	other := request()
	other.Subject.Pivot.BirthName = "Autre"
	j := indexOf(t, w.disclose(other))
	w.published()
	opened := &broker.OpeningsRequest{Indexes: []proof.Index{j}, Reason: "control", IdempotencyKey: "o"}
	erased := &broker.ErasedRequest{From: epoch, To: epoch, Reason: "control", IdempotencyKey: "e"}
	custodian.down("Sign", errors.New("down"))
	var audit proof.Index
	soon := func() context.Context { // nothing comes of waiting
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	for n := range 2 {
		if o, err := w.b.Openings(soon(), cour.Caller, opened); o != nil || codeOf(err) != "log.unavailable" {
			t.Errorf("openings, call %d: opened: %v, %v", n, o != nil, err)
		}
		if o, err := w.b.Erased(soon(), cour.Caller, erased); o != nil || codeOf(err) != "log.unavailable" {
			t.Errorf("erased, call %d: opened: %v, %v", n, o != nil, err)
		}
		audit = proof.Index(w.count("SELECT max(log_index) FROM erased_audits"))
	}
	if o, err := w.b.ErasedPage(soon(), cour.Caller, audit, i); o != nil || codeOf(err) != "log.unavailable" {
		t.Errorf("a page: opened: %v, %v", o != nil, err)
	}
	custodian.up()
	o := w.openings(cour, *opened)
	e, err := w.b.Erased(t.Context(), cour.Caller, erased)
	if err != nil || e.Audit != audit || o.Entries[0].State != broker.OpeningOpen || len(e.Entries) != 2 {
		t.Fatalf("%s, %v; this test shows nothing", statesOf(o), err)
	}
	if n := w.count("SELECT count(*) FROM leaves WHERE kind IN ('access@v1', 'audit@v1')"); n != 2 {
		t.Errorf("%d entries, want one access and one audit", n)
	}
}

// TestOpeningsWaitForTheCheckpoint: a broker that dies here has the access in its order, and nobody has seen anything.
func TestOpeningsWaitForTheCheckpoint(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	held, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *broker.Config) {
		c.SetAt(func(stage string) {
			if stage == "sign" && armed.CompareAndSwap(true, false) {
				close(held)
				<-release
			}
		})
	})
	cour := w.auditor("cour")
	i := indexOf(t, w.disclose(request()))
	w.published()
	before := w.rows("records")
	armed.Store(true)
	type result struct {
		o   *broker.Openings
		err error
	}
	out := make(chan result, 1)
	go func() {
		o, err := w.b.Openings(t.Context(), cour.Caller, &broker.OpeningsRequest{Indexes: []proof.Index{i}, Reason: "control"})
		out <- result{o, err}
	}()
	<-held
	if n := w.rows("records"); n != before+1 {
		t.Errorf("%d records before the checkpoint, want %d", n, before+1)
	}
	select {
	case r := <-out:
		t.Errorf("something is opened before the checkpoint: %+v", r)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if r := <-out; r.err != nil || r.o.Entries[0].State != broker.OpeningOpen {
		t.Errorf("%+v", r)
	}
}

func TestOpeningsAreIdempotent(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	cour, autre := w.auditor("cour"), w.auditor("autre")
	i, j := indexOf(t, w.disclose(request())), indexOf(t, w.disclose(request()))
	req := broker.OpeningsRequest{Indexes: []proof.Index{i, j}, IdempotencyKey: "k1"}
	first := w.openings(cour, req)
	size := w.b.Log().Checkpoint().Size()
	again := w.openings(cour, req)
	for n := range again.Entries {
		if again.Entries[n].Access == 0 || again.Entries[n].Access != first.Entries[n].Access || again.Entries[n].State != broker.OpeningOpen {
			t.Errorf("again: %+v, first %+v", again.Entries[n], first.Entries[n])
		}
	}
	if w.b.Log().Checkpoint().Size() != size {
		t.Error("a repeat left an entry")
	}
	_, err := w.b.Openings(t.Context(), cour.Caller, &broker.OpeningsRequest{Indexes: []proof.Index{i}, Reason: "control 7", IdempotencyKey: "k1"})
	if codeOf(err) != "idempotency.conflict" {
		t.Errorf("another request: %v", err)
	}
	// The keys are one auditor's alone, and for a day; without one each call is an access.
	for name, f := range map[string]func(){
		"another's": func() { w.openings(autre, req) },
		"without":   func() { w.openings(cour, broker.OpeningsRequest{Indexes: []proof.Index{i, j}}) },
		"next day":  func() { ahead.Add(int64(25 * time.Hour)); w.openings(cour, req) },
	} {
		before := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'")
		f()
		if n := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'") - before; n != 2 {
			t.Errorf("%s: %d accesses, want 2", name, n)
		}
	}
	// At once: one of them logs.
	before := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := w.b.Openings(context.Background(), cour.Caller, &broker.OpeningsRequest{Indexes: []proof.Index{i, j}, Reason: "r", IdempotencyKey: "k2"})
			if c := codeOf(err); c != "" && c != "idempotency.in_progress" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'") - before; n != 2 {
		t.Errorf("%d accesses, want 2", n)
	}
}

// TestOpeningsTellWhatIsMissing: every entry is stated, whatever became of its record, and none of these leaves an entry.
func TestOpeningsTellWhatIsMissing(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	w := newWorld(t, func(c *broker.Config) {
		c.Retention, c.SweepEvery, c.CacheKeys = 24*time.Hour, 50*time.Millisecond, 1
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	cour := w.auditor("cour")
	retired := indexOf(t, w.disclose(request()))
	w.travel(&ahead)
	ask := func(name string) proof.Index {
		req := request()
		req.Subject.Pivot.BirthName = name
		return indexOf(t, w.disclose(req))
	}
	erased, damaged, gone, foreign, lost, good := ask("Efface"), ask("Abime"), ask("Perdu"), ask("Etranger"), ask("Oublie"), ask("Garde")
	e, err := w.b.Erase(t.Context(), subjectOf(t, pivotNamed("Efface")), "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	w.tamper("UPDATE records SET admin = "+altered("admin")+" WHERE log_index = ?", int64(damaged))
	w.tamper("DELETE FROM records WHERE log_index = ?", int64(gone))
	w.tamper("UPDATE records SET owner = (SELECT owner FROM records WHERE log_index = ?1) WHERE log_index = ?2", int64(good), int64(foreign))
	w.tamper("INSERT INTO meta (name, value) VALUES (?, ?)", fmt.Sprintf("lost %d", lost), fmt.Sprint(lost+1))
	all := []proof.Index{retired, erased, e.Index, damaged, gone, foreign, lost, 0, good}
	want := fmt.Sprintf("%d retired, %d erased, %d erased, %d damaged, %d damaged, %d damaged, %d lost, 0 none, %d open", retired, erased, e.Index, damaged, gone, foreign, lost, good)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		before := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'")
		o := w.openings(cour, broker.OpeningsRequest{Indexes: all})
		logged := w.count("SELECT count(*) FROM leaves WHERE kind = 'access@v1'") - before
		for _, e := range o.Entries {
			if (e.Receipt != nil) != (e.State == broker.OpeningOpen) {
				t.Errorf("%+v", e)
			}
		}
		// Of the damaged one it turns out when it is opened. A key that is destroyed in this very instant leaves an access, too: then the next call has to be right.
		if statesOf(o) == want && logged == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s, %d accesses\nwant %s, 2 accesses", statesOf(o), logged, want)
		}
	}
}

func pivotNamed(name string) proof.Pivot {
	p := marie
	p.BirthName = name
	return p
}

// TestErasedInBulk: what is left of erased records is opened for whole closed epochs, after the log has said so, and nothing else is.
func TestErasedInBulk(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	cour, autre := w.auditor("cour"), w.auditor("autre")
	erased := []proof.Index{indexOf(t, w.disclose(request())), indexOf(t, w.disclose(request()))}
	other := request()
	other.Subject.Pivot.BirthName = "Autre"
	kept := indexOf(t, w.disclose(other))
	req := broker.ErasedRequest{From: 0, To: 0, Reason: "controle-2026", IdempotencyKey: "k"}
	if _, err := w.b.Erased(t.Context(), cour.Caller, &req); codeOf(err) != "epoch.open" {
		t.Errorf("an open epoch: %v", err)
	}
	epoch := w.turn(ahead)
	e, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	last := w.turn(ahead)
	req.From, req.To = epoch, last
	size := w.b.Log().Checkpoint().Size()
	o, err := w.b.Erased(t.Context(), cour.Caller, &req)
	if err != nil {
		t.Fatal(err)
	}
	filed := 0
	for _, x := range w.entries()[o.From : o.To+1] {
		if x.Kind().Filed() {
			filed++
		}
	}
	if want := fmt.Sprintf("%d open, %d open, %d open", erased[0], erased[1], e.Index); statesOf(o) != want || o.Next != 0 || o.Closed != filed-3 {
		t.Errorf("%s, %d closed, want %s and %d closed", statesOf(o), o.Closed, want, filed-3)
	}
	for _, x := range o.Entries {
		r, err := proof.ParseReceipt(x.Receipt)
		if err != nil || x.Access != 0 {
			t.Fatalf("%+v, %v", x, err)
		}
		w.verify(x.Receipt)
		if _, err := r.Opening().Subject(); !errors.Is(err, proof.ErrHidden) {
			t.Errorf("entry %d: %v", x.Index, err)
		}
	}
	if got := w.b.Log().Checkpoint().Size(); got != size+1 || o.Audit != proof.Index(size) {
		t.Errorf("the log grew by %d, the audit is %d", got-size, o.Audit)
	}
	all := w.entries()
	a, ok := all[o.Audit].(proof.Audit)
	_, opener := all[a.From].(proof.Marker)
	_, closer := all[a.To+1].(proof.Marker)
	if !ok || a.Auditor != "cour" || a.Reason != "controle-2026" || !opener || !closer || a.From != o.From || a.To != o.To || a.From > erased[0] || a.To < e.Index {
		t.Errorf("%+v", a)
	}
	again, err := w.b.Erased(t.Context(), cour.Caller, &req)
	if err != nil || again.Audit != o.Audit || statesOf(again) != statesOf(o) || w.b.Log().Checkpoint().Size() != size+1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	page, err := w.b.ErasedPage(t.Context(), cour.Caller, o.Audit, erased[1])
	if want := fmt.Sprintf("%d open, %d open", erased[1], e.Index); err != nil || statesOf(page) != want {
		t.Errorf("a page: %+v, %v", page, err)
	}
	for name, c := range map[string]struct {
		who         broker.Caller
		audit, from proof.Index
		code        string
	}{
		"another's": {autre.Caller, o.Audit, o.From, "audit.unknown"}, "none": {cour.Caller, o.Audit + 1, o.From, "audit.unknown"}, "huge": {cour.Caller, 1 << 63, 0, "audit.unknown"}, "beyond": {cour.Caller, o.Audit, o.To + 1, "request.invalid"},
	} {
		if _, err := w.b.ErasedPage(t.Context(), c.who, c.audit, c.from); codeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]broker.ErasedRequest{"backwards": {From: last, To: epoch, Reason: "r"}, "no token": {From: epoch, To: epoch, Reason: "Contrôle"}, "another request": {From: epoch, To: epoch, Reason: "r", IdempotencyKey: "k"}} {
		want := map[bool]string{true: "idempotency.conflict", false: "request.invalid"}[name == "another request"]
		if _, err := w.b.Erased(t.Context(), cour.Caller, &r); codeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A key that is gone without an erasure is damage, and stays closed; so does what isn't what its entry commits to.
	w.tamper("DELETE FROM keys WHERE id = (SELECT substr(person, 3, 16) FROM records WHERE log_index = ?)", int64(kept))
	w.tamper("UPDATE records SET admin = "+altered("admin")+" WHERE log_index = ?", int64(erased[1]))
	page, err = w.b.ErasedPage(t.Context(), cour.Caller, o.Audit, o.From)
	if want := fmt.Sprintf("%d open, %d damaged, %d damaged, %d open", erased[0], erased[1], kept, e.Index); err != nil || statesOf(page) != want {
		t.Errorf("%s, want %s (%v)", statesOf(page), want, err)
	}
	ahead.Add(int64(25 * time.Hour))
	if _, err := w.b.ErasedPage(t.Context(), cour.Caller, o.Audit, o.From); codeOf(err) != "audit.expired" {
		t.Errorf("a day later: %v", err)
	}
}

// TestErasedInPages: a page ends at its bound, and the next goes on there.
func TestErasedInPages(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	cour := w.auditor("cour")
	var want []proof.Index
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range broker.MaxOpenings + 9 {
		wg.Go(func() {
			a, err := w.b.Disclose(context.Background(), w.caller, request())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			want = append(want, indexOf(t, a))
		})
	}
	wg.Wait()
	epoch := w.turn(ahead)
	if _, err := w.b.Erase(t.Context(), subjectOf(t, marie), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	o, err := w.b.Erased(t.Context(), cour.Caller, &broker.ErasedRequest{From: epoch, To: epoch, Reason: "r"})
	if err != nil || len(o.Entries) != broker.MaxOpenings || o.Next == 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	rest, err := w.b.ErasedPage(t.Context(), cour.Caller, o.Audit, o.Next)
	if err != nil || rest.Next != 0 {
		t.Fatalf("%+v, %v", rest, err)
	}
	var got []proof.Index
	for _, e := range append(o.Entries, rest.Entries...) {
		got = append(got, e.Index)
	}
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestRollsAreOpened: what an auditor is shown is all of the epoch, and gives the index that the marker states.
func TestRollsAreOpened(t *testing.T) {
	t.Parallel()
	w, ahead := clocked(t, nil)
	cour := w.auditor("cour")
	for i := range 5 {
		req := request()
		req.Subject.Pivot.BirthName = fmt.Sprintf("Personne %s", letters(int64(i/2)))
		w.disclose(req)
	}
	if _, err := w.b.Rolls(t.Context(), cour.Caller, 0, nil); codeOf(err) != "epoch.open" {
		t.Errorf("an open epoch: %v", err)
	}
	epoch := w.turn(ahead)
	text, err := w.b.Rolls(t.Context(), cour.Caller, epoch, nil)
	if err != nil {
		t.Fatal(err)
	}
	items := map[proof.Label]proof.Hash{}
	var labels []proof.Label
	var got []proof.Index
	page, err := proof.ReadRolls(bytes.NewReader(text), func(r proof.OpenRoll) error {
		root, indexes, err := proof.CheckRoll(r.Leaves)
		items[r.Label], labels, got = root, append(labels, r.Label), append(got, indexes...)
		return err
	})
	if err != nil || page.More || page.Epoch != epoch {
		t.Fatalf("%+v, %v", page, err)
	}
	all := w.entries()
	var want []proof.Index
	for i, e := range all[:page.Marker] {
		if e.Kind().Filed() {
			want = append(want, proof.Index(i))
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	marker := all[page.Marker].(proof.Marker)
	sum, err := proof.BuildIndex(epoch, uint64(len(labels)), func(yield func(proof.Label, proof.Hash) bool) {
		for _, z := range labels {
			if !yield(z, items[z]) {
				return
			}
		}
	}, nil)
	if err != nil || sum.Root != marker.Closed.Index {
		t.Errorf("%+v, %v; the marker says %+v", sum, err, marker.Closed)
	}
	// Behind a label come the others, behind the last none.
	for n, z := range labels {
		rest := 0
		text, err := w.b.Rolls(t.Context(), cour.Caller, epoch, &z)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := proof.ReadRolls(bytes.NewReader(text), func(proof.OpenRoll) error { rest++; return nil }); err != nil || rest != len(labels)-n-1 {
			t.Errorf("%d rolls behind label %d of %d (%v)", rest, n, len(labels), err)
		}
	}

	// The statement.
	a := proof.IndexAudit{Origin: w.cfg.Origin, Epoch: epoch, Marker: page.Marker, Root: sum.Root, Items: sum.Items, Entries: uint64(len(want))}
	sign := func(a proof.IndexAudit, skey string) []byte {
		t.Helper()
		text, err := a.AppendText(nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := note.NewSigner(skey)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: string(text)}, s)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	good := sign(a, cour.skey)
	other, _ := newAuditorKey(t, "cour.example")
	wrong := a
	wrong.Root[0] ^= 1
	fewer, another := a, a
	fewer.Entries-- // not below the rolls
	another.Origin = "another.example/log"
	path := filepath.Join(w.b.PublicDir(), "audit", epoch.String(), "cour")
	for name, c := range map[string]struct {
		epoch  proof.Epoch
		signed []byte
		code   string
	}{
		"another's key": {epoch, sign(a, other), "statement.invalid"}, "nothing": {epoch, nil, "statement.invalid"}, "cut": {epoch, good[:len(good)-1], "statement.invalid"}, "huge": {epoch, append(slices.Clone(good), make([]byte, 5000)...), "statement.invalid"},
		"another root": {epoch, sign(wrong, cour.skey), "statement.differs"}, "fewer entries": {epoch, sign(fewer, cour.skey), "statement.differs"}, "another log": {epoch, sign(another, cour.skey), "statement.differs"},
		"an open epoch": {epoch + 1, good, "epoch.open"}, "a huge epoch": {1 << 63, good, "epoch.open"},
	} {
		if err := w.b.PutStatement(t.Context(), cour.Caller, c.epoch, c.signed); codeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Fatalf("%s: it is published", name)
		}
	}
	for range 2 {
		if err := w.b.PutStatement(t.Context(), cour.Caller, epoch, good); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, good) {
		t.Errorf("published: %q, %v", b, err)
	}
	skey, vkey := newAuditorKey(t, "cour2.example")
	if err := w.b.RotateAuditor(t.Context(), "cour", nil, vkey, false); err != nil {
		t.Fatal(err)
	}
	if err := w.b.PutStatement(t.Context(), cour.Caller, epoch, sign(a, skey)); codeOf(err) != "statement.exists" {
		t.Errorf("another statement: %v", err)
	}
	if err := w.b.PutStatement(t.Context(), cour.Caller, epoch, good); codeOf(err) != "statement.invalid" {
		t.Errorf("by a key that was retired: %v", err)
	}

	// With a filing missing there is none: what is left would look like all.
	w.tamper("DELETE FROM filings WHERE log_index = ?", int64(want[0]))
	if _, err := w.b.Rolls(t.Context(), cour.Caller, epoch, nil); codeOf(err) != "rolls.lost" {
		t.Errorf("with a filing missing: %v", err)
	}
}

// TestAuditorsAfterARestoration: a certificate that was replaced and an auditor who was revoked don't come back with a backup.
func TestAuditorsAfterARestoration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	stays, replaced, revoked := newCert(t, time.Hour), newCert(t, time.Hour), newCert(t, time.Hour)
	for id, cert := range map[string]int{"reste": 0, "change": 1, "fini": 2} {
		_, key := newAuditorKey(t, id+".example")
		if err := w.b.AddAuditor(t.Context(), id, id, []*x509.Certificate{stays, replaced, revoked}[cert], key); err != nil {
			t.Fatal(err)
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := w.b.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	next := newCert(t, time.Hour)
	if err := w.b.RotateAuditor(t.Context(), "change", next, "", false); err != nil {
		t.Fatal(err)
	}
	if err := w.b.RevokeAuditor(t.Context(), "fini"); err != nil {
		t.Fatal(err)
	}
	w.published()
	w.close()
	r, err := broker.Restore(t.Context(), w.cfg, backup)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Missing) != 1 || !strings.HasPrefix(r.Missing[0], "auditor change: ") {
		t.Errorf("missing: %v", r.Missing)
	}
	w.open()
	if _, err := w.b.Authenticate(stays); err != nil {
		t.Errorf("the one of whom nothing was said: %v", err)
	}
	for name, cert := range map[string]*x509.Certificate{"replaced": replaced, "revoked": revoked, "new": next} {
		if _, err := w.b.Authenticate(cert); codeOf(err) != "certificate.unknown" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.b.RotateAuditor(t.Context(), "change", next, "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Authenticate(next); err != nil {
		t.Error(err)
	}
	if err := w.b.RotateAuditor(t.Context(), "fini", newCert(t, time.Hour), "", false); codeOf(err) != "auditor.revoked" {
		t.Errorf("the revoked one: %v", err)
	}
}
