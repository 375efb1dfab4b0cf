package holder_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/proof"
)

const question = `{"service":"household","scopes":["quotient"],"purpose":"cantine","legal_basis":"crpa-l114-8","recipient":"21750001600019","context":"Cantine","object":"dossier",
"subject":{"type":"pivot","birth_name":"Exemple","given_names":["Zoé"],"birth_date":"1984-02-29","sex":"F","birth_place":"75056","birth_country":"99100"}}`

func (w *world) keeper(t *testing.T, dir string, change func(*holder.KeeperConfig)) *holder.Keeper {
	t.Helper()
	cfg := holder.KeeperConfig{
		Dir: dir, Client: w.newClient(), Policy: w.policy(), AcceptSigned: true,
		Times: holder.Times{Poll: 20 * time.Millisecond, SettleEvery: 100 * time.Millisecond},
		Alarm: func(a holder.Alarm) { w.mu.Lock(); w.alarms = append(w.alarms, a); w.mu.Unlock() },
	}
	if change != nil {
		change(&cfg)
	}
	k, err := holder.NewKeeper(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func counts(t *testing.T, k *holder.Keeper, want map[holder.State]int64) {
	t.Helper()
	eventually(t, fmt.Sprint(want), func() error {
		s, err := k.Status(context.Background())
		if err != nil {
			return err
		}
		for state, n := range s.Counts {
			if n != want[holder.State(state)] {
				return fmt.Errorf("%v", s.Counts)
			}
		}
		return nil
	})
}

// TestSignedIsEnough: under a policy that demands no witnesses nothing is called witnessed, by whoever reads the store either, and nothing is missing before the epoch's close.
func TestSignedIsEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.protect(nil)
	dir := t.TempDir()
	k := w.keeper(t, dir, nil)
	res, err := w.newClient().Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(res); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts(t, k, map[holder.State]int64{holder.Signed: 1})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	w.counts(map[holder.State]int64{holder.Signed: 1})
	s, err := holder.OpenStore(t.Context(), dir, holder.RoleAgency)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Status(t.Context())
	if err != nil || st.Counts[holder.Signed] != 1 || !st.OldestUnproven.IsZero() || st.Overdue(holder.Times{}, time.Now().Add(time.Hour)) != "" {
		t.Errorf("%+v, %v", st, err)
	}
	var exported bytes.Buffer
	if err := s.Export(t.Context(), &exported); err != nil || !strings.Contains(exported.String(), `"state":"signed"`) {
		t.Fatalf("%v %.300s", err, &exported)
	}
	held := filepath.Join(t.TempDir(), "held.jsonl")
	if err := os.WriteFile(held, exported.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := audit.Main([]string{"reconcile", held, "--log-key", vkeys[0], "--json"}, nil, &out, &errs); code != audit.Proven || !strings.Contains(out.String(), `"witnessed": 0`) || !strings.Contains(out.String(), `"entries": 1`) {
		t.Errorf("%d %s%s", code, &out, &errs)
	}
}

// TestKeeper: an agency's receipts settle by themselves, through a restart and an outage of the broker's API; limits are respected.
func TestKeeper(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	dir := t.TempDir()
	k := w.keeper(t, dir, nil)
	res, err := w.newClient().Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(res); err != nil {
		t.Fatal(err)
	}
	counts(t, k, map[holder.State]int64{holder.Signed: 1})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	limited := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.HasPrefix(r.URL.Path, "/v1/disclosures/") {
			next.ServeHTTP(rw, r)
			return
		}
		calls.Add(1)
		rw.Header().Set("Retry-After", "1")
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(429)
		_, _ = io.WriteString(rw, `{"status":429,"code":"rate.exceeded"}`)
	}
	w.tamper.Store(&limited)
	k = w.keeper(t, dir, nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	begin := time.Now()
	go func() { k.Run(ctx); close(ended) }()
	eventually(t, "it to ask four times", func() error {
		if n := calls.Load(); n < 4 {
			return fmt.Errorf("asked %d times", n)
		}
		return nil
	})
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("asked four times in %v, with Retry-After: 1", took)
	}
	w.tamper.Store(nil)
	counts(t, k, map[holder.State]int64{holder.Settled: 1})
	stop()
	<-ended
	var out bytes.Buffer
	if err := k.Store().Export(t.Context(), &out); err != nil || !strings.Contains(out.String(), `"state":"settled"`) || !strings.Contains(out.String(), res.ID) {
		t.Errorf("%v %.300s", err, &out)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if role, err := holder.ReadRole(t.Context(), dir); err != nil || role != holder.RoleAgency {
		t.Error(role, err)
	}
	if s, err := holder.OpenStore(t.Context(), dir, holder.RoleProvider); err == nil {
		_ = s.Close()
		t.Error("an agency's store was opened as a provider's")
	}
}

// TestKeeperRefutes: other data, a receipt of something else, and a receipt that changes later.
func TestKeeperRefutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	c := w.newClient()
	first, err := c.Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	var wrong *holder.Refutation
	k := w.keeper(t, t.TempDir(), nil)
	defer k.Close()
	bad := *first
	bad.Data = []byte(`{}`)
	if err := k.Keep(&bad); !errors.As(err, &wrong) || wrong.Code != "payload.other" {
		t.Errorf("other data: %v", err)
	}
	bad = *first
	bad.Receipt = second.Receipt
	if err := k.Keep(&bad); !errors.As(err, &wrong) || wrong.Code != "receipt.foreign" {
		t.Errorf("a foreign receipt: %v", err)
	}
	// One that hides whom it is about proves nothing, as long as none is kept that shows it.
	bad = *first
	bad.Data = nil
	r, err := proof.ParseReceipt(first.Receipt)
	if err == nil {
		r, err = r.Narrow(proof.ReaderAuditor)
	}
	if err == nil {
		bad.Receipt, err = r.AppendText(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(&bad); !errors.Is(err, holder.ErrHidden) {
		t.Errorf("a receipt of nobody: %v", err)
	}
	if err := k.Keep(first); err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(&bad); err != nil {
		t.Errorf("the same beside one that shows it: %v", err)
	}
	// The broker shows another entry for the same disclosure: here, another disclosure's under the same id.
	swapped := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		r2 := r.Clone(r.Context())
		r2.URL.Path = strings.Replace(r.URL.Path, first.ID, second.ID, 1)
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r2)
		rw.WriteHeader(rec.Code)
		_, _ = io.WriteString(rw, strings.Replace(rec.Body.String(), `"id":"`+second.ID, `"id":"`+first.ID, 1))
	}
	w.tamper.Store(&swapped)
	eventually(t, "the look", func() error {
		if _, _, err := k.Upgrade(t.Context()); err != nil {
			return err
		}
		s, err := k.Status(t.Context())
		if err == nil && s.Counts[holder.Refuted] == 0 {
			err = fmt.Errorf("%v", s.Counts)
		}
		return err
	})
	evidence, err := k.Store().Evidence(t.Context())
	if err != nil || len(evidence) != 3 || !bytes.Contains(evidence[2].Shown, []byte("regard/receipt@v1")) {
		t.Errorf("%v, %d", err, len(evidence))
	}
	w.alarm(holder.AlarmRefuted)
}

func TestKeeperConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	witnessed, err := proof.ParsePolicy([]byte(witnessPolicy(t, w)))
	if err != nil {
		t.Fatal(err)
	}
	good := holder.KeeperConfig{Dir: t.TempDir(), Client: w.newClient(), Policy: w.policy(), AcceptSigned: true}
	for name, change := range map[string]func(*holder.KeeperConfig){
		"no directory": func(c *holder.KeeperConfig) { c.Dir = "" }, "no client": func(c *holder.KeeperConfig) { c.Client = nil }, "no policy": func(c *holder.KeeperConfig) { c.Policy = nil },
		"no witnesses, and not said": func(c *holder.KeeperConfig) { c.AcceptSigned = false }, "less than the policy demands": func(c *holder.KeeperConfig) { c.Policy = witnessed },
		"negative": func(c *holder.KeeperConfig) { c.Times.MaxAge = -1 },
	} {
		cfg := good
		change(&cfg)
		if k, err := holder.NewKeeper(t.Context(), cfg); err == nil {
			_ = k.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestKeptAgain: a receipt that is given again neither takes the place of a better one, nor may be of another entry.
func TestKeptAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	w.protect(nil)
	c := w.newClient()
	first, err := c.Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	k := w.keeper(t, dir, nil)
	defer k.Close()
	if err := k.Keep(first); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the settled form", func() error {
		if _, _, err := k.Upgrade(t.Context()); err != nil {
			return err
		}
		s, err := k.Status(t.Context())
		if err == nil && s.Counts[holder.Settled] == 0 {
			err = fmt.Errorf("%v", s.Counts)
		}
		return err
	})
	export := func() string {
		t.Helper()
		var out bytes.Buffer
		if err := k.Store().Export(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	settled := export()
	if err := k.Keep(first); err != nil {
		t.Fatal(err)
	}
	if export() != settled {
		t.Error("a settled receipt was replaced by the one that was given first")
	}
	// Here the store has another disclosure's entry, as it would be if the broker had logged two under one id.
	second, err := c.Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "receipts.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE receipts SET text = ?, log_index = ?", second.Receipt, int64(second.Verdict.Index)); err != nil {
		t.Fatal(err)
	}
	var wrong *holder.Refutation
	if err := k.Keep(first); !errors.As(err, &wrong) || wrong.Code != "receipt.changed" {
		t.Errorf("two entries of one disclosure: %v", err)
	}
	counts(t, k, map[holder.State]int64{holder.Refuted: 1})
}

// TestForget: old disclosures whose proof is complete go, with all that names people; what isn't finished, is young or is evidence stays.
func TestForget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := holder.OpenStore(t.Context(), dir, holder.RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "receipts.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	want := 0
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for state := holder.Waiting; state <= holder.Refuted; state++ {
		for i := range 1200 {
			at := now.Add(-48 * time.Hour)
			if i%2 == 0 {
				at = now.Add(-30 * time.Hour)
			} else if state == holder.Settled || state == holder.Accepted {
				want++
			}
			id := fmt.Sprintf("%d-%d", state, i)
			for _, q := range []struct {
				sql  string
				args []any
			}{
				{"INSERT INTO held (id, at, service, state, due) VALUES (?, ?, 's', ?, 0)", []any{id, at.UnixMilli(), int(state)}},
				{"INSERT INTO answers VALUES (?, x'00', 0, '{}')", []any{id}}, {"INSERT INTO receipts VALUES (?, 1, 'r')", []any{id}}, {"INSERT INTO evidence VALUES (NULL, ?, 0, 'c', 'd', 'e')", []any{id}},
			} {
				if _, err := tx.Exec(q.sql, q.args...); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Forget(t.Context(), now.Add(-time.Hour)); err == nil {
		t.Error("an intent that was used can be forgotten while it is valid")
	}
	n, err := s.Forget(t.Context(), now.Add(-40*time.Hour))
	if err != nil || n != int64(want) || want != 1200 {
		t.Errorf("%d forgotten, want %d: %v", n, want, err)
	}
	for table, want := range map[string]int{"held": 6000, "answers": 6000, "receipts": 6000, "evidence": 7200} {
		var got int
		if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %d left, want %d: %v", table, got, want, err)
		}
	}
	if err := db.QueryRow("SELECT count(*) FROM held WHERE state IN (3, 4) AND at < ?", now.Add(-40*time.Hour).UnixMilli()).Scan(&want); err != nil || want != 0 {
		t.Errorf("%d are left: %v", want, err)
	}
}

// TestKeeperOverdue: a receipt that doesn't settle is told once, and when it is over.
func TestKeeperOverdue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Second)
	w.protect(nil)
	res, err := w.newClient().Disclose(t.Context(), []byte(question), "")
	if err != nil {
		t.Fatal(err)
	}
	slow := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.HasPrefix(r.URL.Path, "/v1/disclosures/") {
			next.ServeHTTP(rw, r)
			return
		}
		rw.WriteHeader(409)
		_, _ = io.WriteString(rw, `{"status":409,"code":"disclosure.in_progress"}`)
	}
	w.tamper.Store(&slow)
	k := w.keeper(t, t.TempDir(), func(c *holder.KeeperConfig) { c.Times.SettleAge = 200 * time.Millisecond })
	defer k.Close()
	if err := k.Keep(res); err != nil {
		t.Fatal(err)
	}
	upgraded := func(alarms int) {
		t.Helper()
		eventually(t, "the alarm", func() error {
			if _, _, err := k.Upgrade(t.Context()); err != nil {
				return err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.alarms) < alarms {
				return fmt.Errorf("%v", w.alarms)
			}
			return nil
		})
	}
	upgraded(1)
	w.tamper.Store(nil)
	upgraded(2)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.alarms) != 2 || w.alarms[0].Code != holder.AlarmUnsettled || w.alarms[1].Code != holder.AlarmOver {
		t.Errorf("%+v", w.alarms)
	}
}
