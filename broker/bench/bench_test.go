package bench

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestMain lets the whole run start its roles from the test's own program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == RoleArg {
		if err := Role(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A run with small numbers does all that a large one does. It says nothing about speed.
func TestRun(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts eight processes")
	}
	o := Options{
		Duration: 400 * time.Millisecond, Turns: 1, Connections: []int{4}, Persons: 300, Agreements: 12, Agencies: 4, Services: 3, Preload: 500, Close: 400,
		Single: 200 * time.Millisecond, Dir: t.TempDir(), CPUProfile: t.TempDir(), JSON: true,
	}
	var out, progress bytes.Buffer
	if err := Run(t.Context(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Verified.Receipts == 0 || r.Verified.Bad != 0 || r.Verified.Samples == 0 {
		t.Errorf("verified %d receipts and %d samples, %d bad: %s", r.Verified.Receipts, r.Verified.Samples, r.Verified.Bad, r.Verified.First)
	}
	if f := r.failures(); f != "" {
		t.Errorf("errors among the answers: %s", f)
	}
	for name, s := range map[string]*series{"single": &r.Single.Broker, "4": &r.Loads[0].Broker, "proxy": &r.Loads[0].Proxy, "full": &r.Full.Broker, "beside": &r.Full.Beside} {
		if s.Answers == 0 || s.CPU == 0 || s.P50 == 0 || s.Bytes < 1900 {
			t.Errorf("%s: nothing was measured: %+v", name, s)
		}
	}
	if r.Full.Records != 500 || r.Full.Peak == 0 || r.Policy.Agreements != 12 || r.Syncs.Rounds == 0 {
		t.Errorf("parts of the report are missing: %+v, %+v, %+v", r.Full, r.Policy, r.Syncs)
	}
	if c := &r.Closed; c.Persons < 360 || c.Persons > 400 || c.Pause == 0 || c.Before.N == 0 || c.During.N == 0 || c.IndexBytes == 0 || c.FilingBytes == 0 || c.Presence.N == 0 || c.Absence.N == 0 {
		t.Errorf("the close of an epoch wasn't measured: %+v", c)
	}
	var table bytes.Buffer
	if err := r.write(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rate at 4 connections", "fsyncs a batch", "receipts verified after the run", "broker with records", "closing an epoch of", "a release waited"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
	left, err := os.ReadDir(o.Dir)
	if err != nil || len(left) != 0 {
		t.Errorf("the run left %v behind (%v)", left, err)
	}
}

// Everybody asked about is somebody else, and is filed under exactly what was asked: one entry an answer.
func TestPopulation(t *testing.T) {
	def, err := service.Parse(definition(serviceID(0), "https://127.0.0.1:1"+answerPath))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := service.NewPlan(def, def.Fields())
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	provider := newPopulation(n)
	seen := map[string]bool{}
	w := newWalk(n)
	for k := range int64(n) {
		who := pivot(w.at(k))
		asked, err := service.NewAsked("pivot", "", who)
		if err != nil {
			t.Fatalf("%d: %v", k, err)
		}
		if seen[asked.Subject().Value()] {
			t.Fatalf("%d is somebody who was asked about before", k)
		}
		seen[asked.Subject().Value()] = true
		req, err := plan.Request(asked, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(req.URL())
		if err != nil {
			t.Fatal(err)
		}
		if got := string(target(nil, &who)); got != u.RequestURI() {
			t.Fatalf("the proxy is asked %s, the provider by the broker %s", got, u.RequestURI())
		}
		rec := httptest.NewRecorder()
		provider.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, u.RequestURI(), nil))
		if rec.Code != 200 || rec.Body.Len() < 1900 || rec.Body.Len() > 2150 {
			t.Fatalf("status %d, %d bytes, want about 2000", rec.Code, rec.Body.Len())
		}
		left, err := plan.Filter(rec.Body.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if f := left.File(asked); len(f) != 1 || !f[0].Subject.Equal(asked.Subject()) || left.Undeclared() != 0 {
			t.Fatalf("%d entries, %d undeclared members", len(f), left.Undeclared())
		}
	}
	rec := httptest.NewRecorder()
	provider.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, answerPath+"?nomNaissance=NOBODY", nil))
	if v := def.Judge(rec.Code, rec.Body.Bytes()); v.Outcome != service.OutcomeEmpty {
		t.Errorf("somebody unknown is judged %v", v.Outcome)
	}
}

func TestNamesAndSIRETs(t *testing.T) {
	seen := map[string]bool{}
	for i := range 300_000 {
		n := birthName(i)
		if seen[n] {
			t.Fatalf("the name of %d was given before", i)
		}
		seen[n] = true
	}
	for i := range 10_000 {
		if err := proof.SIRET(siret(i)); err != nil {
			t.Fatalf("%s: %v", siret(i), err)
		}
	}
	for _, n := range []int{1, 2, 3, 10, 61803, 100_000} {
		w, at := newWalk(n), map[int]bool{}
		for k := range int64(n) {
			at[w.at(k)] = true
		}
		if len(at) != n {
			t.Errorf("of %d people, the walk visits %d", n, len(at))
		}
	}
}

func TestHistogram(t *testing.T) {
	var h, other histogram
	for i := 1; i <= 1000; i++ {
		if i%2 == 0 {
			h.add(time.Duration(i) * 100 * time.Microsecond)
		} else {
			other.add(time.Duration(i) * 100 * time.Microsecond)
		}
	}
	h.merge(&other)
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 50 * time.Millisecond}, {0.99, 99 * time.Millisecond}, {1, 100 * time.Millisecond}, {0, 100 * time.Microsecond}} {
		if got := h.quantile(tt.q); got < tt.want*96/100 || got > tt.want*104/100 {
			t.Errorf("quantile %v is %v, want %v within 4 %%", tt.q, got, tt.want)
		}
	}
	for i := range buckets - 1 {
		if floorOf(i+1) <= floorOf(i) || bucketOf(floorOf(i)) != i || bucketOf(floorOf(i+1)-time.Nanosecond) != i {
			t.Fatalf("bucket %d begins at %v and doesn't hold it alone", i, floorOf(i))
		}
	}
	if new(histogram).quantile(0.5) != 0 {
		t.Error("the median of nothing isn't 0")
	}
}

func TestReceiptOf(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{`{"id":"1","receipt":"a\nb\n","data":{"x":1}}`, `"a\nb\n"`},
		{`{"id":"1","data":{}}`, ""},
		{`{"receipt":"","data":{}}`, ""},
		{`{"receipt":"a\"b"}`, ""},
		{`{"receipt":"a`, ""},
	} {
		got, err := receiptOf([]byte(tt.body))
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.body, got, err)
		}
	}
}

func TestCountSyncs(t *testing.T) {
	s := newSyncCounter("/d/first")
	for _, line := range []string{
		`[pid 1] pwrite64(8</d/first/store/store.db-wal>, ""..., 24, 4152) = 24`,
		`[pid 1] pwrite64(8</d/first/store/store.db-wal>, ""..., 4096, 4176) = 4096`,
		`[pid 1] fsync(8</d/first/store/store.db-wal>) = 0`,
		`[pid 1] pwrite64(9</d/first/log/trillian.db-wal>, ""..., 4096, 32 <unfinished ...>`,
		`[pid 1] fdatasync(9</d/first/log/trillian.db-wal> <unfinished ...>`,
		`[pid 1] <... fdatasync resumed>) = 0`,
		`[pid 1] fsync(9</d/first/log/trillian.db-wal>) = 0`, // it is folded into the database
		`[pid 1] fsync(9</d/first/log/trillian.db>) = 0`,
		`[pid 1] pwrite64(9</d/first/log/trillian.db-wal>, ""..., 32, 0) = 32`, // and begins anew
		`[pid 1] pwrite64(8</d/first/store/store.db-wal>, ""..., 4096, 8272) = 4096`,
		`[pid 2] fdatasync(7</d/first/store/store.db-wal>) = 0`, // folded beside the writer, whose commit is still to be synced
		`[pid 1] fdatasync(8</d/first/store/store.db-wal>) = 0`,
		`[pid 2] fdatasync(7</d/first/store/store.db-wal>) = 0`, // the next pass
		`[pid 2] fsync(6</d/first/store/store.db>) = 0`,
		`[pid 1] fsync(9</d/first/log/trillian.db-wal>) = 0`, // its head
		`[pid 1] pwrite64(9</d/first/log/trillian.db-wal>, ""..., 4096, 56) = 4096`,
		`[pid 1] fsync(9</d/first/log/trillian.db-wal>) = 0`, // a commit
		`[pid 1] pwrite64(9</d/first/log/trillian.db>, ""..., 32, 0) = 32`,
		`[pid 1] pwrite64(8</d/first/store/store.db-wal>, ""..., 32, 0 <unfinished ...>`,
		`[pid 1] fsync(8</d/first/store/store.db-wal>) = 0`,
		`[pid 1] fsync(9</d/first/public/checkpoint>) = 0`,
		`[pid 1] fsync(9</d/first/log>) = 0`,
		`strace: Process 12 attached`,
	} {
		s.count(line)
	}
	for role, want := range map[string]int64{"store": 2, "trillian": 2, "fold": 7, "publication": 1, "other": 1} {
		if s.syncs[role] != want {
			t.Errorf("%s: %d, want %d", role, s.syncs[role], want)
		}
	}
}

// A verifier that accepts anything would make every run a success.
func TestVerifierRefuses(t *testing.T) {
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(verifyConfig{[]string{vkey}})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := startVerify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	name := t.TempDir() + "/receipts"
	if err := os.WriteFile(name, []byte("\"regard/receipt@v1\\n\"\nnot json\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := c.(*verifier).all(toVerify{Receipts: name, Samples: name + ".none"})
	if err != nil || res.Bad != 2 || res.Receipts != 0 || res.First == "" {
		t.Errorf("%+v, %v: want two bad receipts", res, err)
	}
}

func TestVerdicts(t *testing.T) {
	r := Report{Loads: []*pair{{series{Connections: 64, Rate: 199, CPU: time.Millisecond}, series{Connections: 64, Rate: 1000}}, {series{Connections: 256, Rate: 300}, series{Connections: 256, Rate: 1000}}}}
	r.Full = full{Records: 10, Broker: series{Rate: 81}, Beside: series{Rate: 100}, Proxy: series{Rate: 500}, Peak: 399 << 20}
	r.Verified.Receipts = 1
	r.judge()
	got := map[string]string{}
	for _, g := range r.Targets {
		got[g.What] = map[bool]string{true: "met", false: "missed"}[g.Met]
		if g.Unknown {
			got[g.What] = "not known"
		}
	}
	for what, want := range map[string]string{
		"rate at 64 connections, beside the proxy's":    "missed",
		"rate at 256 connections, beside the proxy's":   "met",
		"broker's CPU for a disclosure, 64 connections": "missed",
		"fsyncs a batch": "not known",
		"rate with 10 records, beside that without":      "met",
		"VmHWM with 10 records":                          "met",
		"receipts verified after the run":                "met",
		"broker's CPU for a disclosure, 256 connections": "met",
	} {
		if got[what] != want {
			t.Errorf("%s: %q, want %q", what, got[what], want)
		}
	}
}
