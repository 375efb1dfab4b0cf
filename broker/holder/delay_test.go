package holder_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
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

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// delaying puts an agreement with a lawful delay in force, and returns a question under it.
func (w *world) delaying() []byte {
	w.t.Helper()
	if _, err := w.b.PutAgreement(w.t.Context(), policy.Agreement{
		ID: "enquete", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"enquete"}, LegalBases: []policy.LegalBasis{"cpp-60-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Deferral: &policy.Deferral{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Reference: "2026/118", Days: 30},
	}); err != nil {
		w.t.Fatal(err)
	}
	return []byte(strings.NewReplacer(`"purpose":"cantine"`, `"purpose":"enquete","agreement":"enquete"`, "crpa-l114-8", "cpp-60-1").Replace(question))
}

func (w *world) end(id string) {
	w.t.Helper()
	if _, err := w.b.EndDeferral(w.t.Context(), store.ID(uuid.MustParse(id)), "lifted"); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) alarmCodes() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var codes []string
	for _, a := range w.alarms {
		codes = append(codes, a.Code)
	}
	return strings.Join(codes, " ")
}

// TestDelay: agency and provider have the receipts of a delayed disclosure at once, wait for its end, demand it when the month is over, and settle by the entry that ends it.
func TestDelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	// A long tolerance: the guard's clock will be months ahead of the broker's. Nobody asks then.
	w.protect(func(c *holder.GuardConfig) { c.Now, c.Times.SettleAge = now, 200*24*time.Hour })
	k := w.keeper(t, t.TempDir(), func(c *holder.KeeperConfig) { c.Now, c.Times.SettleAge = now, 200*24*time.Hour })
	defer k.Close()
	ask := w.delaying()
	res, err := w.newClient().Disclose(t.Context(), ask, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(res); err != nil {
		t.Fatal(err)
	}
	first, err := proof.ParseReceipt(res.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	d, ok := first.Entry().(proof.Deferred)
	if !ok {
		t.Fatalf("%T", first.Entry())
	}
	status := map[string]func() (holder.Status, error){
		"agency": func() (holder.Status, error) {
			if _, _, err := k.Upgrade(t.Context()); err != nil {
				return holder.Status{}, err
			}
			return k.Status(t.Context())
		},
		"provider": func() (holder.Status, error) { return w.guard.Load().Status(t.Context()) },
	}
	each := func(what string, so func(holder.Status) bool) {
		t.Helper()
		for who, f := range status {
			eventually(t, what+", "+who, func() error {
				s, err := f()
				if err == nil && !so(s) {
					err = fmt.Errorf("%+v, alarms %s", s, w.alarmCodes())
				}
				return err
			})
		}
	}
	each("waiting", func(s holder.Status) bool {
		return s.Counts[holder.Signed] == 1 && s.OldestDelay.Equal(d.End().Time()) && s.OldestUnsettled.IsZero() && s.OldestUnproven.IsZero()
	})
	// Long after the time in which others have to settle, nothing is missing; the month isn't over.
	ahead.Store(int64(time.Until(d.End().Time().Add(-time.Hour))))
	each("before the month is over", func(s holder.Status) bool { return s.Overdue(holder.Times{SettleAge: time.Hour}, now()) == "" })
	ahead.Store(int64(time.Until(d.End().Time().Add(time.Hour))))
	each("overdue", func(s holder.Status) bool { return s.Overdue(holder.Times{}, now()) == holder.AlarmDelayed })
	eventually(t, "the alarms", func() error {
		_, _, err := k.Upgrade(t.Context())
		if strings.Count(w.alarmCodes(), holder.AlarmDelayed) != 2 {
			err = errors.Join(err, errors.New(w.alarmCodes()))
		}
		return err
	})
	if code := w.guard.Load().Refusing(); code != holder.AlarmDelayed {
		t.Errorf("the guard goes on: %q", code)
	}
	w.reconciled(k, "delay.overdue", d.End().Time().Before(time.Now()))

	w.end(res.ID)
	each("settled", func(s holder.Status) bool { return s.Counts[holder.Settled] == 1 && s.OldestDelay.IsZero() })
	eventually(t, "the alarms are over", func() error {
		if strings.Count(w.alarmCodes(), holder.AlarmOver) != 2 {
			return errors.New(w.alarmCodes())
		}
		return nil
	})
	var out bytes.Buffer
	if err := k.Store().Export(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var line struct{ Receipts []string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || len(line.Receipts) != 2 {
		t.Fatalf("%v, %s", err, &out)
	}
	last, err := proof.ParseReceipt([]byte(line.Receipts[1]))
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := last.Entry().(proof.Opened); !ok || o.Deferred != first.Index() || last.Settlement() == nil {
		t.Errorf("%+v", last.Entry())
	}
	w.reconciled(k, "", true)
}

// reconciled has regard-audit compare what an agency holds; code is what it has to find, if it must.
func (w *world) reconciled(k *holder.Keeper, code string, must bool) {
	w.t.Helper()
	var held, out, errs bytes.Buffer
	if err := k.Store().Export(w.t.Context(), &held); err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.t.TempDir(), "held")
	if err := os.WriteFile(file, held.Bytes(), 0o600); err != nil {
		w.t.Fatal(err)
	}
	vkeys, err := w.b.LogKeys(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	got := audit.Main([]string{"reconcile", "--json", "--log-key", vkeys[0], "--log", w.b.PublicDir(), file}, nil, &out, &errs)
	if want := must && code != ""; (got != audit.Proven) != want || want && !strings.Contains(out.String(), code) {
		w.t.Errorf("exit code %d, want to find %q: %v\n%s%s", got, code, want, &out, &errs)
	}
}

// TestDelayRefuted: what ends a delay has to be of the entry that began it, and there is no way back.
func TestDelayRefuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	ask := w.delaying()
	cl := w.newClient()
	one, err := cl.Disclose(t.Context(), ask, "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := cl.Disclose(t.Context(), ask, "")
	if err != nil {
		t.Fatal(err)
	}
	deferred := one.Receipt
	w.end(one.ID)
	w.end(two.ID)
	opened, err := cl.Disclosure(t.Context(), one.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		first, then []byte
		want        string
	}{
		"its end":             {deferred, opened.Receipt, ""},
		"back to the delay":   {opened.Receipt, deferred, "receipt.changed"},
		"another one's end":   {two.Receipt, opened.Receipt, "receipt.foreign"},
		"the same once more":  {deferred, deferred, ""},
		"its end once more":   {opened.Receipt, opened.Receipt, ""},
		"of another one's id": {opened.Receipt, two.Receipt, "receipt.foreign"},
	} {
		k := w.keeper(t, t.TempDir(), nil)
		first, then := *one, *one
		first.Receipt, first.Data, then.Receipt, then.Data = c.first, nil, c.then, nil
		if name == "another one's end" {
			first.ID, then.ID = two.ID, two.ID
		}
		if err := k.Keep(&first); err != nil {
			t.Fatal(err)
		}
		err := k.Keep(&then)
		var wrong *holder.Refutation
		if errors.As(err, &wrong); (c.want == "") != (err == nil) || c.want != "" && wrong.Code != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProviderSeesTheEnd: a broker that shows the provider another record at the end of a delay is refuted.
func TestProviderSeesTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	ask := w.delaying()
	cl := w.newClient()
	one, err := cl.Disclose(t.Context(), ask, "")
	if err != nil {
		t.Fatal(err)
	}
	w.counts(map[holder.State]int64{holder.Signed: 1})
	// The entries of the asked and the other person change their places: each is the end of the other's delay.
	var second atomic.Pointer[string]
	swap := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if id := second.Load(); id != nil && r.URL.Path == "/v1/provider/receipts" {
			rec := &recorder{header: http.Header{}}
			next.ServeHTTP(rec, r)
			var body struct {
				Disclosures []map[string]any `json:"disclosures"`
			}
			if json.Unmarshal(rec.body.Bytes(), &body) == nil {
				for _, d := range body.Disclosures {
					if list, ok := d["receipts"].([]any); ok && len(list) == 2 {
						d["receipts"] = list[:1] // one of the two entries isn't opened for the provider
					}
				}
			}
			text, _ := json.Marshal(body)
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(rec.status)
			_, _ = rw.Write(text)
			return
		}
		next.ServeHTTP(rw, r)
	}
	w.tamper.Store(&swap)
	w.end(one.ID)
	second.Store(&one.ID)
	eventually(t, "the refutation", func() error {
		found, err := w.guard.Load().Store().Evidence(t.Context())
		if err == nil && (len(found) == 0 || found[0].Refutation.Code != "receipt.changed" && found[0].Refutation.Code != "entry.missing") {
			err = fmt.Errorf("%+v", found)
		}
		return err
	})
}

type recorder struct {
	header http.Header
	body   bytes.Buffer
	status int
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = 200
	}
	return r.body.Write(b)
}

// TestStoreOfBefore: one that was made before there were delays goes on.
func TestStoreOfBefore(t *testing.T) {
	dir := t.TempDir()
	s, err := holder.OpenStore(t.Context(), dir, holder.RoleAgency)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "receipts.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"DROP INDEX held_since", "ALTER TABLE held DROP COLUMN until", "ALTER TABLE held DROP COLUMN opened", "INSERT INTO held (id, at, service, state, due) VALUES ('x', 1000, 's', 2, 0)"} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = holder.OpenStore(t.Context(), dir, holder.RoleAgency); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Status(t.Context())
	if err != nil || !st.OldestUnsettled.Equal(time.UnixMilli(1000)) || !st.OldestDelay.IsZero() || st.Counts[holder.Witnessed] != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// erasing has the broker's API hide in every receipt what an erasure hides, and claim one, of entries of some kind.
func (w *world) erasing(kind proof.Kind) {
	keep := slices.DeleteFunc(proof.SchemaDisclosure.Fields(), func(f proof.FieldInfo) bool { return f.Person })
	var fields []proof.Field
	for _, f := range keep {
		fields = append(fields, f.Field)
	}
	hide := func(text any) any {
		r, err := proof.ParseReceipt([]byte(fmt.Sprint(text)))
		if err != nil || r.Entry().Kind() != kind {
			return text
		}
		hidden, err := w.b.Log().Receipt(context.Background(), r.Index(), r.Opening().Only(fields...))
		if err != nil {
			w.t.Error(err)
			return text
		}
		b, err := hidden.AppendText(nil)
		if err != nil {
			w.t.Error(err)
		}
		return string(b)
	}
	f := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		var body map[string]any
		if json.Unmarshal(rec.body.Bytes(), &body) == nil {
			if text, ok := body["receipt"]; ok {
				if body["receipt"] = hide(text); body["receipt"] != text {
					delete(body, "data") // nobody gets any after an erasure
				}
			}
			list, _ := body["disclosures"].([]any)
			for _, d := range list {
				d := d.(map[string]any)
				receipts, _ := d["receipts"].([]any)
				for i := range receipts {
					receipts[i], d["erased"] = hide(receipts[i]), true
				}
			}
		}
		text, _ := json.Marshal(body)
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(rec.status)
		_, _ = rw.Write(text)
	}
	w.tamper.Store(&f)
}

// TestErasedDuringADelay: no erasure reaches what is deferred, so a broker that claims one is refuted, by agency and provider. Afterwards it does, and what shows that the delay ended is kept.
func TestErasedDuringADelay(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name  string
		kind  proof.Kind
		state holder.State
	}{{"before its end", proof.KindDeferred, holder.Refuted}, {"after it", proof.KindOpened, holder.Accepted}} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, time.Hour)
			w.protect(nil)
			k := w.keeper(t, t.TempDir(), nil)
			defer k.Close()
			c, question := w.newClient(), w.delaying()
			res, err := c.Disclose(t.Context(), question, "once")
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Keep(res); err != nil {
				t.Fatal(err)
			}
			w.counts(map[holder.State]int64{holder.Signed: 1})
			w.erasing(x.kind)
			if again, err := c.Disclose(t.Context(), question, "once"); x.kind == proof.KindDeferred && (!errors.Is(err, client.ErrReceipt) || !strings.Contains(err.Error(), "before the delay ends") || again.Data != nil) {
				t.Errorf("a repeat: %+v, %v", again, err)
			}
			if x.kind == proof.KindOpened {
				w.end(res.ID)
			}
			w.counts(map[holder.State]int64{x.state: 1})
			eventually(t, "the agency", func() error {
				if _, _, err := k.Upgrade(t.Context()); err != nil {
					return err
				}
				s, err := k.Status(t.Context())
				if err == nil && s.Counts[x.state] != 1 {
					err = fmt.Errorf("%v", s.Counts)
				}
				return err
			})
			for who, s := range map[string]*holder.Store{"agency": k.Store(), "provider": w.guard.Load().Store()} {
				evidence, err := s.Evidence(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				if err := s.Export(t.Context(), &out); err != nil {
					t.Fatal(err)
				}
				var line holder.Exported
				if err := json.Unmarshal(out.Bytes(), &line); err != nil {
					t.Fatal(err)
				}
				ended := 0
				for _, text := range line.Receipts {
					r, err := proof.ParseReceipt([]byte(text))
					if err != nil {
						t.Fatal(err)
					}
					if r.Entry().Kind() == proof.KindOpened {
						ended++
					}
				}
				switch {
				case x.state == holder.Refuted && (len(evidence) == 0 || evidence[0].Refutation.Code != "subject.hidden" || len(line.Erased) != 0):
					t.Errorf("%s: %+v, %v", who, evidence, line.Erased)
				case x.state == holder.Accepted && (len(evidence) != 0 || len(line.Erased) == 0 || ended != len(line.Erased)):
					t.Errorf("%s: %+v; %d of %v are shown to have ended", who, evidence, ended, line.Erased)
				}
			}
		})
	}
}

// TestAlike: what the broker shows of one disclosure is told in one way.
func TestAlike(t *testing.T) {
	d := proof.Deferred{Authority: "a", Article: "b", Month: "2027-01", Commitment: proof.Commitment{1}}
	with := func(change func(*proof.Deferred)) proof.Deferred {
		x := d
		x.Commitment = proof.Commitment{2}
		change(&x)
		return x
	}
	for name, c := range map[string]struct {
		entries []proof.Entry
		ok      bool
	}{
		"one":               {[]proof.Entry{d}, true},
		"delayed alike":     {[]proof.Entry{d, with(func(*proof.Deferred) {})}, true},
		"ended":             {[]proof.Entry{proof.Opened{Deferred: 1}, proof.Opened{Deferred: 2}}, true},
		"at once":           {[]proof.Entry{proof.Disclosure{}, proof.Disclosure{}}, true},
		"one at once":       {[]proof.Entry{proof.Disclosure{}, d}, false},
		"one ended":         {[]proof.Entry{d, proof.Opened{Deferred: 2}}, false},
		"another month":     {[]proof.Entry{d, with(func(x *proof.Deferred) { x.Month = "2028-01" })}, false},
		"another authority": {[]proof.Entry{d, with(func(x *proof.Deferred) { x.Authority = "c" })}, false},
		"another article":   {[]proof.Entry{d, with(func(x *proof.Deferred) { x.Article = "c" })}, false},
	} {
		err := holder.Alike(c.entries...)
		var wrong *holder.Refutation
		if (err == nil) != c.ok || err != nil && (!errors.As(err, &wrong) || wrong.Code != "delay.mixed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDelayEndsForAll: a broker that shows a provider the end of one entry's delay, and not that of another of the same disclosure, is refuted.
func TestDelayEndsForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	res, err := w.newClient().Disclose(t.Context(), w.delaying(), "")
	if err != nil {
		t.Fatal(err)
	}
	var first atomic.Pointer[any]
	mix := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		var body struct {
			Disclosures []map[string]any `json:"disclosures"`
		}
		if r.URL.Path == "/v1/provider/receipts" && json.Unmarshal(rec.body.Bytes(), &body) == nil {
			for _, d := range body.Disclosures {
				if list, ok := d["receipts"].([]any); ok && len(list) == 2 {
					if was := first.Load(); was != nil {
						list[1] = *was
					} else {
						first.Store(&list[1])
					}
				}
			}
			rec.body.Reset()
			_ = json.NewEncoder(&rec.body).Encode(body)
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(rec.status)
		_, _ = rw.Write(rec.body.Bytes())
	}
	w.tamper.Store(&mix)
	w.counts(map[holder.State]int64{holder.Signed: 1})
	w.end(res.ID)
	w.counts(map[holder.State]int64{holder.Refuted: 1})
	if found, err := w.guard.Load().Store().Evidence(t.Context()); err != nil || len(found) == 0 || found[0].Refutation.Code != "delay.mixed" {
		t.Errorf("%+v, %v", found, err)
	}
}
