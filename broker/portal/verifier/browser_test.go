package verifier_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/portal/verifier"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// vectors are the published histories, good and bad.
type vectors struct {
	Common struct {
		Policy string
	}
	Good []struct {
		Text, State, Note string
		Entries           []struct{ Index uint64 }
	}
	Bad []struct {
		Of    int
		Hunks []struct {
			At, Cut int
			Put     string
		}
		Reason string
	}
}

func load(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("../../../ledger/proof/testdata/history.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil || len(v.Good) < 3 || len(v.Bad) < 10 {
		t.Fatal("no vectors: ", err)
	}
	return v
}

func (v *vectors) bad(n int) string {
	text := v.Good[v.Bad[n].Of].Text
	for _, h := range slices.Backward(v.Bad[n].Hunks) {
		text = text[:h.At] + h.Put + text[h.At+h.Cut:]
	}
	return text
}

// csp is what the portal sends with its pages.
const csp = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// site is a portal of one page.
type site struct {
	*httptest.Server
	mu     sync.Mutex
	lang   verdict.Lang
	rows   string
	list   string // what the page says where its rows are
	policy *proof.Policy
	bundle http.HandlerFunc

	change  func(page string) string // on its way; nil: it stays as it is
	later   string                   // what comes in the place of LATER, once until reports true or after a while
	until   func() bool
	fetched atomic.Int64 // bundles
	shown   atomic.Int64 // pages
}

func newSite(t testing.TB, v *verifier.Verifier, policy string) *site {
	t.Helper()
	s := &site{lang: verdict.French, list: "acces", policy: must(proof.ParsePolicy([]byte(policy)))}
	mux := http.NewServeMux()
	mux.Handle(verifier.Path, v)
	mux.HandleFunc("/historique/fichier", func(w http.ResponseWriter, r *http.Request) {
		s.fetched.Add(1)
		s.mu.Lock()
		h := s.bundle
		s.mu.Unlock()
		h(w, r)
	})
	css, err := os.ReadFile("../assets/style.css")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a benchmark that runs elsewhere measures no looks
		t.Fatal(err)
	}
	mux.HandleFunc("/style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css")
		_, _ = w.Write(css)
	})
	mux.HandleFunc(namesAt, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, names) })
	shows := func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		e, err := v.HTML(verifier.Element{Lang: s.lang, Bundle: "/historique/fichier", MaxAge: 100 * 365 * 24 * 3600e9, List: s.list, Names: namesAt})
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", csp)
		s.shown.Add(1)
		var b strings.Builder
		err = page.Execute(&b, struct {
			Lang    verdict.Lang
			Verdict template.HTML
			Rows    template.HTML
		}{s.lang, e, template.HTML(s.rows)})
		if err != nil {
			t.Error(err)
		}
		text := b.String()
		if s.change != nil {
			text = s.change(text)
		}
		first, rest, parts := strings.Cut(text, "LATER")
		_, _ = io.WriteString(w, first)
		if parts {
			_ = http.NewResponseController(w).Flush()
			s.mu.Unlock()
			for end := time.Now().Add(3 * time.Second); !s.until() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			}
			s.mu.Lock()
			_, _ = io.WriteString(w, s.later+rest)
		}
	}
	for _, path := range []string{"/{$}", "/releve", "/historique", "/acces/{index}"} {
		mux.HandleFunc(path, shows)
	}
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

var page = template.Must(template.New("").Parse(`<!doctype html><html lang="{{.Lang}}"><head><meta charset="utf-8"><title>Historique</title><meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"><link rel="icon" href="data:,"></head>
<body><main><h1>Historique</h1><h2>Verdict</h2>{{.Verdict}}<h2>Accès</h2>{{.Rows}}</main></body></html>`))

// set says what the site serves from now on. No rows: those that an honest page shows.
func (s *site) set(lang verdict.Lang, bundle, rows string) {
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Sec-Fetch-Site") != "same-origin" {
			http.Error(w, "cross-site", http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(bundle))
	})
	if rows == "" {
		list, _, _ := shown(s.policy, bundle) // of what isn't a history there are none
		if rows = markup("", list); lang == verdict.English {
			rows = inEnglish.Replace(rows)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lang, s.rows = lang, rows
}

func (s *site) serve(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = h
}

const finished = `!["unverified", "checking"].includes(document.querySelector("#verdict").dataset.state)`

func state(p *browsertest.Page) string {
	return browsertest.Eval[string](p, `document.querySelector("#verdict").dataset.state`)
}

// visit opens the page in a browser that remembers nothing: the published histories are of several states of one log.
func (s *site) visit(p *browsertest.Page, path string) {
	browsertest.Eval[bool](p, `(location.origin === "null" || localStorage.clear(), true)`)
	p.Goto(s.URL + path)
}

// audited is what regard-audit verify-history says about a file, and its exit code.
func audited(t *testing.T, policy, file string, lang verdict.Lang, flags ...string) (*verdict.Report, int) {
	t.Helper()
	dir := t.TempDir()
	name, keys := filepath.Join(dir, "x.regard.json"), filepath.Join(dir, "log.policy")
	for path, text := range map[string]string{name: file, keys: policy} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	code := audit.Main(append([]string{"verify-history", "--policy", keys, "--allow-provisional", "--lang", string(lang), "--json", name}, flags...), nil, &out, &errs)
	var found []struct{ Verdict *verdict.Report }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || len(found) != 1 || found[0].Verdict == nil {
		t.Fatal(err, errs.String())
	}
	return found[0].Verdict, code
}

func open(t *testing.T) (*site, *vectors, *browsertest.Page) {
	t.Helper()
	v := load(t)
	b, err := verifier.Load(browsertest.Verifier(t), []byte(v.Common.Policy))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, b, v.Common.Policy)
	return s, &v, browsertest.Open(t, s.URL)
}

// ofDays is the address of a page of the days that the published histories are about: one up to now has to have more.
const ofDays = "/releve?du=2025-11-24&au=2025-11-27"

// TestGood: each published history has the verdict that the same code gives outside of the browser, in both languages.
func TestGood(t *testing.T) {
	s, v, p := open(t)
	for i, g := range v.Good {
		for _, lang := range []verdict.Lang{verdict.French, verdict.English} {
			want, code := audited(t, v.Common.Policy, g.Text, lang)
			if code != audit.Proven {
				t.Errorf("%d: exit code %d", i, code)
			}
			s.set(lang, g.Text, "")
			h, err := proof.ParseHistory([]byte(g.Text))
			if err != nil {
				t.Fatal(err)
			}
			opened := func(marker []byte) time.Time { return must(proof.ParseEntry(marker)).(proof.Marker).Opened.Time() }
			first, last := opened(h.Markers[0]).AddDate(0, 0, 1), opened(h.Markers[len(h.Markers)-1]) // its first day isn't whole
			s.visit(p, "/releve?du="+first.Format(time.DateOnly)+"&au="+last.Format(time.DateOnly))
			p.Wait(finished)
			if got := state(p); got != string(want.State) || (g.State == "provisional") != (want.State == verdict.Provisional) {
				t.Errorf("%d (%s): %s, want %s", i, g.Note, got, want.State)
			}
			text := browsertest.Eval[string](p, `[...document.querySelectorAll("details")].forEach((d) => d.open = true), document.querySelector("#verdict").innerText`)
			all := []string{want.Title, strings.NewReplacer("dans l'historique vérifié", "dans cette liste", "in the history that was verified", "in this list").Replace(want.Sentence), want.Covers}
			for _, k := range want.Keys {
				all = append(all, k.Fingerprint)
			}
			for _, c := range want.Checks {
				all = append(append(append(all, c.Title), c.Says...), c.Not...)
				for _, f := range c.Evidence {
					all = append(all, f.Name, f.Value)
				}
			}
			for _, l := range slices.Concat(want.Limits, want.Scope) {
				all = append(all, l.Text, l.Lift)
			}
			for _, line := range all {
				if !strings.Contains(text, line) {
					t.Errorf("%d (%s): the page doesn't say %q:\n%s", i, g.Note, line, text)
				}
			}
			for _, s := range h.Subjects {
				value := strings.ReplaceAll(s.Value(), "|", " · ")
				if _, pivot := s.Pivot(); pivot {
					value = "ANNE ELISE LEFEVRE OEUVRARD"
				}
				if !strings.Contains(text, verdict.NewAround(lang).Whose) || !strings.Contains(text, value) {
					t.Errorf("%d (%s): whose history it is isn't said:\n%s", i, g.Note, text)
				}
			}
			if i < 2 {
				p.Axe()
			}
		}
	}
}

// TestAsked: of a file of chosen days, and of one that isn't whole, browsers say what regard-audit says that is told for what it was asked.
func TestAsked(t *testing.T) {
	s, v, p := open(t)
	for _, i := range []int{0, 3} { // of the first three days, and of the fifth alone
		for asked, path := range map[string]string{
			"whole": "/", "2025-11-29..2025-11-29": "/releve?du=2025-11-29&au=2025-11-29", "2025-11-28..2025-11-29": "/releve?du=2025-11-28&au=2025-11-29", "2025-11-25..2025-11-27": "/releve?du=2025-11-25&au=2025-11-27",
		} {
			want, code := audited(t, v.Common.Policy, v.Good[i].Text, verdict.French, "--max-age", "876000h", "--asked", asked)
			s.set(verdict.French, v.Good[i].Text, "")
			s.visit(p, path)
			p.Wait(finished)
			if got := state(p); code != audit.Proven || got != string(want.State) {
				t.Errorf("%d, asked for %s: %s, want %s (exit code %d)", i, asked, got, want.State, code)
			}
			text := browsertest.Eval[string](p, `[...document.querySelectorAll("details")].forEach((d) => d.open = true), document.querySelector("#verdict").innerText`)
			if n := browsertest.Eval[int](p, `document.querySelectorAll("#verdict .verdict-limits > li").length`); n != len(want.Limits) {
				t.Errorf("%d, asked for %s: %d limits, want %+v", i, asked, n, want.Limits)
			}
			for _, l := range want.Limits {
				if !strings.Contains(text, l.Text) {
					t.Errorf("%d, asked for %s: the page doesn't say %q:\n%s", i, asked, l.Text, text)
				}
			}
		}
	}
}

// TestBad: each published history that proves nothing is refuted with what and when, or not verified if it is no history; never proven.
func TestBad(t *testing.T) {
	s, v, p := open(t)
	days := 0
	for i, b := range v.Bad {
		text := v.bad(i)
		want, code := audited(t, v.Common.Policy, text, verdict.French)
		s.set(verdict.French, text, "")
		s.visit(p, ofDays)
		p.Wait(`!["checking"].includes(document.querySelector("#verdict").dataset.state) && document.querySelector("#verdict svg")`)
		got := state(p)
		if got != string(want.State) || got != "refuted" && got != "unverified" {
			t.Errorf("%s: %s, want %s", b.Reason, got, want.State)
		}
		if exit := map[string]int{"refuted": audit.Refused, "unverified": audit.Input}[got]; code != exit {
			t.Errorf("%s: exit code %d for %s", b.Reason, code, got)
		}
		if strings.Contains(p.Text("#verdict"), "LEFEVRE") {
			t.Errorf("%s: a name is in what isn't proven", b.Reason)
		}
		sentence := p.Text("#verdict [role=status]")
		if sentence != want.Sentence {
			t.Errorf("%s: %q, want %q", b.Reason, sentence, want.Sentence)
		}
		if r := want.Refuted; r != nil && !strings.Contains(p.Text("#verdict"), r.Reference) {
			t.Errorf("%s: no reference %s", b.Reason, r.Reference)
		}
		if got == "refuted" && strings.Contains(sentence, "novembre 2025") {
			days++
		}
	}
	if days < 15 {
		t.Errorf("a day is named in %d refutations", days)
	}
}

// TestEvidence: nothing invites to try again before the evidence is saved, which is one file with all of it.
func TestEvidence(t *testing.T) {
	s, v, p := open(t)
	bad := v.bad(0)
	s.set(verdict.French, bad, "")
	p.Goto(s.URL + ofDays)
	p.Wait(finished)
	if n := browsertest.Eval[int](p, `document.querySelectorAll("#verdict button").length`); n != 1 || p.Text("#verdict button") != "Enregistrer les preuves" {
		t.Fatalf("%d buttons: %s", n, p.Text("#verdict button"))
	}
	p.Axe()
	text := save(p)
	var e struct {
		Schema, Policy, History string
		Report                  struct {
			State   string
			Refuted struct{ Reference, What, When string }
		}
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Schema != "regard/evidence@v1" || e.History != bad || e.Policy != v.Common.Policy || e.Report.State != "refuted" {
		t.Errorf("%v %+v", err, e)
	}
	if !strings.Contains(p.Text("#verdict"), e.Report.Refuted.Reference) {
		t.Error("the reference isn't on the page")
	}
	if r, code := audited(t, v.Common.Policy, text, verdict.French); code != audit.Refused || r.Refuted == nil || r.Refuted.Reference != e.Report.Refuted.Reference || r.Refuted.When != e.Report.Refuted.When {
		t.Errorf("regard-audit says of the evidence: %d, %+v", code, r)
	}
	p.Wait(`[...document.querySelectorAll("#verdict button")].some((b) => b.textContent === "Réessayer")`)
}

// save clicks on the button, and returns the file as a person would get it.
func save(p *browsertest.Page) string {
	browsertest.Eval[bool](p, `(globalThis.saved = new Promise((got) => {
		const make = URL.createObjectURL;
		URL.createObjectURL = (blob) => { blob.text().then(got); return make.call(URL, blob); };
	}), document.querySelector("#verdict button.verdict-save").click(), true)`)
	return browsertest.Eval[string](p, "saved")
}

// TestCauses: what can't be verified isn't red, says why, and can be tried again.
func TestCauses(t *testing.T) {
	s, v, p := open(t)
	p.Allow("Failed to load resource")
	p.Allow("net::ERR_")
	good := v.Good[0].Text
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		cause verdict.Cause
	}{
		"the server has none":   {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }, verdict.CauseServer},
		"signed out":            {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusSeeOther) }, verdict.CauseSession},
		"not signed in":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, verdict.CauseSession},
		"the connection breaks": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, verdict.CauseOffline},
		"half of it": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			_, _ = w.Write([]byte(good[:len(good)/2]))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, verdict.CauseOffline},
		"something else": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, verdict.CauseFormat},
		"nothing":        {func(http.ResponseWriter, *http.Request) {}, verdict.CauseFormat},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			for range proof.MaxHistory>>20 + 1 {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
					return
				}
			}
		}, verdict.CauseFormat},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(verdict.French, good, "")
			s.serve(c.serve)
			p.Goto(s.URL + ofDays)
			p.Wait(`document.querySelector("#verdict").dataset.state === "unverified" && document.querySelector("#verdict button")`)
			if got, want := p.Text("#verdict [role=status]"), c.cause.Sentence(verdict.French); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			s.set(verdict.French, good, "")
			before := s.shown.Load()
			browsertest.Eval[bool](p, `(document.querySelector("#verdict button").click(), true)`)
			p.Wait(finished)
			if got := state(p); got != "proven" || s.shown.Load() != before+1 {
				t.Errorf("after another try: %s, %d pages", got, s.shown.Load()-before)
			}
		})
	}
	// A browser that can't.
	s.set(verdict.French, good, "")
	browsertest.Eval[bool](p, `(delete WebAssembly.instantiateStreaming, document.querySelector("#verdict").dataset.state = "", true)`)
	browsertest.Eval[bool](p, `import(document.querySelector("script[type=module]").src + "?again").then(() => true)`)
	p.Wait(`document.querySelector("#verdict").dataset.state === "unverified"`)
	if got, want := p.Text("#verdict [role=status]"), verdict.CauseBrowser.Sentence(verdict.French); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestClock: a device whose clock is wrong, in either direction, is told so and never sees red; what is wrong with a page it sees all the same.
func TestClock(t *testing.T) {
	s, v, p := open(t)
	good := v.Good[4].Text
	h := must(proof.ParseHistory([]byte(good)))
	newest := must(proof.ParseEntry(h.Markers[len(h.Markers)-1])).(proof.Marker).Opened.Time()
	if _, err := chromedp.Call(p.Context, cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: `const shown = Number(new URLSearchParams(location.search).get("clock")); Date.now = () => shown;`}); err != nil {
		t.Fatal(err)
	}
	list, _, err := shown(s.policy, good)
	if err != nil || len(list) < 2 {
		t.Fatal(len(list), err)
	}
	for _, c := range []struct {
		off   time.Duration
		rows  []row
		state verdict.State
		says  string
	}{
		{-23 * time.Hour, list, verdict.Proven, ""},
		{-25 * time.Hour, list, verdict.Unverified, verdict.CauseClock.Sentence(verdict.French)},
		{-72 * time.Hour, list, verdict.Unverified, verdict.CauseClock.Sentence(verdict.French)},
		{-10 * 366 * 24 * time.Hour, list, verdict.Unverified, verdict.CauseClock.Sentence(verdict.French)},
		{-72 * time.Hour, list[1:], verdict.Refuted, "la page cache un accès enregistré"},
		{72 * time.Hour, list, verdict.Proven, ""},
		{150 * 366 * 24 * time.Hour, list, verdict.Unverified, verdict.CauseStale.Sentence(verdict.French)},
	} {
		s.set(verdict.French, good, markup("", c.rows))
		s.visit(p, fmt.Sprintf("%s&clock=%d", ofDays, newest.Add(c.off).UnixMilli()))
		p.Wait(`!["checking"].includes(document.querySelector("#verdict").dataset.state) && document.querySelector("#verdict svg")`)
		got, sentence := state(p), p.Text("#verdict [role=status]")
		if got == string(verdict.Limited) && c.off < 0 { // that the clock is behind by hours is said
			got = string(verdict.Proven)
		}
		if got != string(c.state) || !strings.Contains(sentence, c.says) {
			t.Errorf("a clock that is off by %s: %s, %q", c.off, got, sentence)
		}
		if retry := browsertest.Eval[bool](p, `[...document.querySelectorAll("#verdict button")].some((b) => b.textContent === "Réessayer")`); retry != (c.state == verdict.Unverified) {
			t.Errorf("a clock that is off by %s: to try again is offered: %t", c.off, retry)
		}
		if marks := browsertest.Eval[int](p, `document.querySelectorAll("[data-verified]").length`); (marks > 0) != (c.state != verdict.Unverified) {
			t.Errorf("a clock that is off by %s: %d rows have marks", c.off, marks)
		}
	}
}

// TestDownload: while the file comes the page says in words how much of it has come, and of how much if the server says so; nothing is red or green meanwhile.
func TestDownload(t *testing.T) {
	s, v, p := open(t)
	good := []byte(v.Good[0].Text)
	half := len(good) / 2
	kilobytes := func(n int) string { return fmt.Sprintf("%d ko", (n+999)/1000) }
	for name, c := range map[string]struct {
		header func(http.Header)
		packed bool
		says   string
		bar    string // value and end of the bar
	}{
		"packed, and how much it is": {func(h http.Header) { h.Set("Regard-Size", fmt.Sprint(len(good))) }, true, "Téléchargement des preuves : " + kilobytes(half) + " sur " + kilobytes(len(good)), fmt.Sprint(half, "/", len(good))},
		"not packed":                 {func(h http.Header) { h.Set("Content-Length", fmt.Sprint(len(good))) }, false, "Téléchargement des preuves : " + kilobytes(half) + " sur " + kilobytes(len(good)), fmt.Sprint(half, "/", len(good))},
		"nobody knows how much":      {func(http.Header) {}, false, "Téléchargement des preuves : " + kilobytes(half), ""},
		"less than comes":            {func(h http.Header) { h.Set("Regard-Size", "7") }, true, "Téléchargement des preuves : " + kilobytes(half), ""},
	} {
		t.Run(name, func(t *testing.T) {
			rest := make(chan struct{})
			s.set(verdict.French, string(good), "")
			s.serve(func(w http.ResponseWriter, r *http.Request) {
				c.header(w.Header())
				var out io.Writer = w
				flush := func() error { return nil }
				if c.packed {
					w.Header().Set("Content-Encoding", "gzip")
					z := gzip.NewWriter(w)
					defer func() { _ = z.Close() }()
					out, flush = z, z.Flush
				}
				_, _ = out.Write(good[:half])
				_ = flush()
				_ = http.NewResponseController(w).Flush()
				select {
				case <-rest:
				case <-r.Context().Done():
				}
				_, _ = out.Write(good[half:])
			})
			p.Goto(s.URL + ofDays)
			p.Wait(fmt.Sprintf(`document.querySelector(".verdict-progress")?.textContent.replace(/\s/g, " ") === %q`, c.says))
			if got := browsertest.Eval[string](p, `((b) => b.hasAttribute("value") ? b.value + "/" + b.max : "")(document.querySelector("#verdict progress"))`); got != c.bar || state(p) != "checking" {
				t.Errorf("%s, the bar at %q, want %q", state(p), got, c.bar)
			}
			p.Axe()
			close(rest)
			p.Wait(finished)
			if got := state(p); got != "proven" {
				t.Errorf("in the end: %s", got)
			}
		})
	}
}

// TestWithoutScript: what the server says by itself claims nothing.
func TestWithoutScript(t *testing.T) {
	v := load(t)
	b, err := verifier.Load(browsertest.Verifier(t), []byte(v.Common.Policy))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v     *verifier.Verifier
		cause verdict.Cause
	}{{b, verdict.CauseBrowser}, {nil, verdict.CauseMissing}} {
		e, err := c.v.HTML(verifier.Element{Lang: verdict.English, Bundle: `/x"><script>`})
		text := string(e)
		if err != nil || !strings.Contains(text, `data-state="unverified"`) || !strings.Contains(text, template.HTMLEscapeString(c.cause.Sentence(verdict.English))) || !strings.Contains(text, "regard-audit verify-history") ||
			strings.Contains(text, `"><script>`) || (c.v == nil) == strings.Contains(text, "<script type") {
			t.Errorf("%v %s", err, text)
		}
	}
}
