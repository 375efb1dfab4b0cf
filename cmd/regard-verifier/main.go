//go:build js && wasm

// Command regard-verifier is what checks a person's history in their own browser: the code of regard-audit verify-history, as WebAssembly, in a worker.
//
// It sets one function of the worker, regardVerify(file, policy, page, options, progress):
//
//	file      Uint8Array: the history (*.regard.json)
//	policy    string: the log's key and the witnesses (c2sp.org/tlog-policy)
//	page      object: what the page shows (verdict.Page)
//	options   object: lang ("fr" or "en"), now and maxAge in milliseconds, asked (verdict.Days): the days for which it was asked; null if up to now; and seen (verdict.Seen): what this browser remembers; null if nothing
//	progress  function(done, of): epochs verified
//
// It returns an object: report (verdict.Report) and whose (of verdict.Fact): whose history it is, which the report doesn't say; and seen: what to remember. What can't be checked is a report, too; only a fault of the program returns nothing.
package main

import (
	"crypto/sha256"
	"reflect"
	"syscall/js"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

func main() {
	js.Global().Set("regardVerify", js.FuncOf(verify))
	select {} // as long as the worker lives
}

func verify(_ js.Value, args []js.Value) any {
	file := make([]byte, args[0].Length())
	js.CopyBytesToGo(file, args[0])
	options, progress := args[3], args[4]
	now := proof.Time(options.Get("now").Float())
	c := checked{Input: verdict.Input{Lang: verdict.Lang(options.Get("lang").String()), Digest: sha256.Sum256(file), Now: now, Fresh: true}, seen: readSeen(options.Get("seen"))}
	if x := options.Get("asked"); x.IsNull() {
		c.Whole = true
	} else {
		c.Asked = &verdict.Days{From: x.Get("du").String(), To: x.Get("au").String()}
	}
	c.check(file, args[1].String(), readPage(args[2]), proof.HistoryOptions{
		Now:              now,
		MaxAge:           time.Duration(options.Get("maxAge").Float()) * time.Millisecond,
		AllowProvisional: true, // it is called so
		Progress:         func(done, of int) { progress.Invoke(done, of) },
	})
	return map[string]any{"report": value(reflect.ValueOf(c.report)), "whose": value(reflect.ValueOf(c.whose)), "seen": value(reflect.ValueOf(c.seen))}
}

// checked is a history with what came of its check.
type checked struct {
	verdict.Input
	report *verdict.Report
	whose  []verdict.Fact
	seen   verdict.Seen // before the check what was, after it what is to be remembered
}

func (c *checked) check(file []byte, policy string, page verdict.Page, opt proof.HistoryOptions) {
	var err error
	if c.Policy, err = proof.ParsePolicy([]byte(policy)); err != nil {
		c.report = verdict.NotVerified(verdict.CauseServer, c.Lang)
		return
	}
	if c.History, err = proof.ParseHistory(file); err != nil {
		c.report = verdict.New(c.Input)
		return
	}
	v, err := c.History.Verify(c.Policy, opt)
	c.Verdict, c.Err = &v, err
	c.report = verdict.New(c.Input)
	c.report.ComparePage(page, c.Input)
	c.seen = c.report.CompareSeen(c.seen, []byte(policy), c.Input)
	c.whose = verdict.Whose(c.report, c.Input)
}

// readSeen reads what this browser remembers; of another form it is nothing.
func readSeen(v js.Value) (s verdict.Seen) {
	if v.IsNull() {
		return s
	}
	whole := func(name string) uint64 {
		if x := v.Get(name); x.Type() == js.TypeNumber && x.Float() >= 0 && x.Float() < 1<<53 {
			return uint64(x.Float())
		}
		return 0
	}
	if v.Get("policy").Type() == js.TypeString && v.Get("checkpoint").Type() == js.TypeString {
		s = verdict.Seen{Policy: v.Get("policy").String(), Checkpoint: v.Get("checkpoint").String(), At: proof.Time(whole("at")), Changed: proof.Time(whole("changed"))}
	}
	return s
}

// readPage reads what verify.js found on the page.
func readPage(v js.Value) verdict.Page {
	index := func(v js.Value) *proof.Index {
		if v.IsNull() {
			return nil
		}
		i := proof.Index(v.Float())
		return &i
	}
	p := verdict.Page{Lang: verdict.Lang(v.Get("lang").String()), Names: v.Get("names").String(), Marker: index(v.Get("marker")), Strange: v.Get("strange").Int(), Of: v.Get("of").String()}
	if r := v.Get("record"); r.Truthy() {
		p.Record = readRecord(r)
		return p
	}
	if x := v.Get("view"); !x.IsNull() {
		text := func(name string) string { return x.Get(name).String() }
		p.View = &verdict.View{
			Agency: text("agence"), Service: text("donnee"), Outcome: text("issue"), Search: text("q"), From: text("du"), To: text("au"), Page: text("page"), Density: text("vue"), Unclear: x.Get("unclear").Bool(),
		}
	}
	for i := range v.Get("heads").Length() {
		p.Heads = append(p.Heads, texts(v.Get("heads").Index(i)))
	}
	rows := v.Get("rows")
	for i := range rows.Length() {
		r := rows.Index(i)
		p.Rows = append(p.Rows, verdict.Row{
			Index: index(r.Get("index")), Agency: r.Get("agency").String(), Service: r.Get("service").String(), Outcome: r.Get("outcome").String(), At: r.Get("at").String(),
			Day: r.Get("day").String(), Open: r.Get("open").Bool(), Cells: texts(r.Get("cells")), Links: texts(r.Get("links")), Hidden: r.Get("hidden").Bool(), Strange: r.Get("strange").Bool(),
		})
	}
	return p
}

// readRecord reads what verify.js found on the page of one access.
func readRecord(v js.Value) *verdict.Record {
	text := func(v js.Value, name string) string { return v.Get(name).String() }
	out := &verdict.Record{Index: proof.Index(v.Get("index").Float()), Agency: text(v, "agency"), Service: text(v, "service"), Outcome: text(v, "outcome"), Receipt: text(v, "receipt")}
	for n := range v.Get("facts").Length() {
		f := v.Get("facts").Index(n)
		out.Facts = append(out.Facts, verdict.ShownFact{Key: text(f, "key"), Label: text(f, "label"), Text: text(f, "text"), Link: text(f, "link"), Folded: f.Get("folded").Bool(), Hidden: f.Get("hidden").Bool()})
	}
	for n := range v.Get("ways").Length() {
		w := v.Get("ways").Index(n)
		out.Ways = append(out.Ways, verdict.Way{ID: text(w, "id"), Drawn: texts(w.Get("drawn")), Table: texts(w.Get("table"))})
	}
	return out
}

// texts reads a list of strings.
func texts(v js.Value) (out []string) {
	for i := range v.Length() {
		out = append(out, v.Index(i).String())
	}
	return out
}
