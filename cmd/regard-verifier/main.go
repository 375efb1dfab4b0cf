//go:build js && wasm

// Command regard-verifier is what checks a person's history in their own browser: the code of regard-audit verify-history, as WebAssembly, in a worker.
//
// It sets one function of the worker, regardVerify(file, policy, page, options, progress):
//
//	file      Uint8Array: the history (*.regard.json)
//	policy    string: the log's key and the witnesses (c2sp.org/tlog-policy)
//	page      object: what the page shows (verdict.Page); null if there is nothing to compare
//	options   object: lang ("fr" or "en"), now and maxAge in milliseconds (0: not judged)
//	progress  function(done, of): epochs verified
//
// It returns an object: report (verdict.Report) and whose (of verdict.Fact): whose history it is, which the report doesn't say. What can't be checked is a report, too; only a fault of the program returns nothing.
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
	in := verdict.Input{Lang: verdict.Lang(options.Get("lang").String()), Digest: sha256.Sum256(file)}
	in.Now = proof.Time(options.Get("now").Float())
	report, whose := check(in, file, args[1].String(), readPage(args[2]), proof.HistoryOptions{
		Now:              in.Now,
		MaxAge:           time.Duration(options.Get("maxAge").Float()) * time.Millisecond,
		AllowProvisional: true, // it is called so
		Progress:         func(done, of int) { progress.Invoke(done, of) },
	})
	return map[string]any{"report": value(reflect.ValueOf(report)), "whose": value(reflect.ValueOf(whose))}
}

func check(in verdict.Input, file []byte, policy string, page *verdict.Page, opt proof.HistoryOptions) (*verdict.Report, []verdict.Fact) {
	var err error
	if in.Policy, err = proof.ParsePolicy([]byte(policy)); err != nil {
		return verdict.NotVerified(verdict.CauseServer, in.Lang), nil
	}
	if in.History, err = proof.ParseHistory(file); err != nil {
		return verdict.New(in), nil
	}
	v, err := in.History.Verify(in.Policy, opt)
	in.Verdict, in.Err = &v, err
	r := verdict.New(in)
	if page != nil {
		r.ComparePage(*page, in)
	}
	return r, verdict.Whose(r, in)
}

// readPage reads what verify.js found on the page.
func readPage(v js.Value) *verdict.Page {
	if v.IsNull() {
		return nil
	}
	index := func(v js.Value) proof.Index { return proof.Index(v.Float()) }
	p := &verdict.Page{Lang: verdict.Lang(v.Get("lang").String()), Names: v.Get("names").String(), Full: v.Get("full").Bool(), From: index(v.Get("from")), To: index(v.Get("to"))}
	if r := v.Get("record"); r.Truthy() {
		p.Record = readRecord(r)
		return p
	}
	rows := v.Get("rows")
	for i := range rows.Length() {
		r := rows.Index(i)
		row := verdict.Row{
			Agency: r.Get("agency").String(), Service: r.Get("service").String(), Outcome: r.Get("outcome").String(), At: r.Get("at").String(), Day: r.Get("day").String(), Open: r.Get("open").Bool(),
		}
		for n := range r.Get("cells").Length() {
			row.Cells = append(row.Cells, r.Get("cells").Index(n).String())
		}
		for n := range r.Get("index").Length() {
			row.Index = append(row.Index, index(r.Get("index").Index(n)))
		}
		p.Rows = append(p.Rows, row)
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
	texts := func(v js.Value) (out []string) {
		for n := range v.Length() {
			out = append(out, v.Index(n).String())
		}
		return out
	}
	for n := range v.Get("ways").Length() {
		w := v.Get("ways").Index(n)
		out.Ways = append(out.Ways, verdict.Way{ID: text(w, "id"), Drawn: texts(w.Get("drawn")), Table: texts(w.Get("table"))})
	}
	return out
}
