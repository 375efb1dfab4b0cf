package portal

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// maxMaking bounds the history files that are made at once: each takes up to seconds of a processor, and megabytes.
const maxMaking = 2

// makingWait is how long somebody waits for a place: a page of a history has its file made when it is opened, so several at once are nothing unusual.
const makingWait = 10 * time.Second

// makeHistory makes a history file and has it used, one of a few at a time, and of one account one at a time: nobody takes all places. What use does costs as much as the making.
func (p *Portal) makeHistory(r *request, s *Session, file func() (*broker.HistoryFile, error), use func(*proof.History) error) error {
	late := time.NewTimer(p.wait)
	defer late.Stop()
	done, err := p.turns.take(r.Context(), s.Account, late.C)
	if err != nil {
		return err
	}
	defer done()
	select {
	case p.making <- struct{}{}:
		defer func() { <-p.making }()
	case <-late.C:
		return errBusy
	case <-r.Context().Done():
		return r.Context().Err()
	}
	f, err := file()
	if err != nil {
		return err
	}
	return use(f.History)
}

// ownFile makes the file of the person who reads it.
func (p *Portal) ownFile(r *request, s *Session, epochs proof.EpochRange) func() (*broker.HistoryFile, error) {
	return func() (*broker.HistoryFile, error) { return p.cfg.Broker.HistoryFile(r.Context(), s.Subjects, epochs) }
}

// turns let through one of an account at a time. The zero value is ready.
type turns struct {
	mu sync.Mutex
	by map[string]*turn // of accounts that have one, or wait; no others
}

type turn struct {
	taken chan struct{}
	here  int // guarded by turns.mu
}

// take waits for an account's turn, which the caller gives back; errBusy when it is too late.
func (t *turns) take(ctx context.Context, account string, late <-chan time.Time) (done func(), err error) {
	t.mu.Lock()
	x := t.by[account]
	if x == nil {
		if t.by == nil {
			t.by = map[string]*turn{}
		}
		x = &turn{taken: make(chan struct{}, 1)}
		t.by[account] = x
	}
	x.here++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if x.here--; x.here == 0 {
			delete(t.by, account)
		}
	}
	select {
	case x.taken <- struct{}{}:
		return func() { <-x.taken; leave() }, nil
	case <-late:
		err = errBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	leave()
	return nil, err
}

// downloadsPage offers what there is.
type downloadsPage struct {
	Entries     int
	Identifiers []string
	Closed      bool // an epoch is closed, so there is something to prove
}

func (p *Portal) downloads(r *request, s *Session) error {
	j, err := p.journals.of(r.Context(), s)
	if err != nil {
		return err
	}
	data := &downloadsPage{Entries: len(j.entries), Closed: p.cfg.Broker.Standing().Open.Number > 0}
	for _, x := range s.Subjects {
		data.Identifiers = append(data.Identifiers, string(x.Type()))
	}
	return r.render(http.StatusOK, "downloads", "downloads.title", data)
}

// historyFile hands out the complete history, all of it or the epochs that the query names: what the browser checks, and what regard-audit verify-history does.
func (p *Portal) historyFile(r *request, s *Session) error {
	epochs := proof.EpochRange{To: ledger.NewestEpoch}
	if v := r.URL.Query().Get("epoques"); v != "" {
		var ok bool
		if epochs, ok = parseEpochs(v); !ok {
			return &broker.Problem{Status: http.StatusBadRequest, Code: "epochs.wrong"}
		}
	}
	var text []byte
	err := p.makeHistory(r, s, p.ownFile(r, s, epochs), func(h *proof.History) (err error) {
		text, err = h.AppendText(nil)
		return err
	})
	if err != nil {
		return err
	}
	r.download("historique.regard.json", "application/json")
	r.write(http.StatusOK, text)
	return nil
}

// parseEpochs reads FIRST-LAST in decimal.
func parseEpochs(s string) (proof.EpochRange, bool) {
	from, to, ok := strings.Cut(s, "-")
	a, err := strconv.ParseUint(from, 10, 63)
	b, err2 := strconv.ParseUint(to, 10, 63)
	return proof.EpochRange{From: proof.Epoch(a), To: proof.Epoch(b)}, ok && err == nil && err2 == nil && a <= b
}

// csv hands out the outline of the history, filtered as the page is, for a spreadsheet. In French these want semicolons, and both want to be told of UTF-8.
func (p *Portal) csv(r *request, s *Session) error {
	j, err := p.journals.of(r.Context(), s)
	if err != nil {
		return err
	}
	f, n := p.readFilter(r.URL.Query()), p.namer(r.lang)
	if len(f.mistakes) > 0 {
		return &broker.Problem{Status: http.StatusBadRequest, Code: "filter.wrong"}
	}
	var out strings.Builder
	out.WriteString("\ufeff")
	comma := ","
	if r.lang.code == defaultLang {
		comma = ";"
	}
	head := []string{}
	for _, c := range []string{"date", "time", "status", "revealed", "who", "what", "from", "why", "law", "reason", "index"} {
		head = append(head, r.lang.fixed["csv."+c])
	}
	writeLine(&out, comma, head)
	for _, i := range f.of(j, n) {
		e := &j.entries[i]
		x := p.row(e, n)
		day, hour := "", ""
		if !x.At.IsZero() {
			day, hour = x.At.Format(time.DateOnly), x.At.Format("15:04:05")
		}
		revealed := ""
		if !x.Revealed.IsZero() {
			revealed = x.Revealed.Format(time.DateTime)
		}
		line := []string{day, hour, r.lang.fixed["status."+x.Status], revealed, x.Who, x.What, x.From, x.Why, n.law(e.LegalBasis), x.Reason, e.Index.String()}
		writeLine(&out, comma, line)
	}
	r.download("historique.csv", "text/csv; charset=utf-8")
	r.write(http.StatusOK, []byte(out.String()))
	return nil
}

// writeLine writes a line of CSV (RFC 4180, section 2) with all cells in quotes, as encoding/csv does only where this comma demands it: a spreadsheet may split at others as well.
func writeLine(out *strings.Builder, comma string, cells []string) {
	for k, cell := range cells {
		if k > 0 {
			out.WriteString(comma)
		}
		out.WriteString(`"` + strings.ReplaceAll(harmless(cell), `"`, `""`) + `"`)
	}
	out.WriteString("\r\n")
}

// formula is how one begins: in a cell, or in what a spreadsheet that splits at another separator, quotes or not, takes for the next cell.
var formula = regexp.MustCompile(`(^|[;,])(\s*)([-=+@|%\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}])`)

// harmless keeps a spreadsheet from reading a cell, or a part of it, as a formula (OWASP, CSV Injection). A tab, which is a separator, too, isn't there any more.
func harmless(cell string) string { return formula.ReplaceAllString(clean(cell), "$1$2'$3") }

// statementPage is what is printed: a list made from a history that was verified here, with the checkpoint under which it stands and a code by which the paper is compared with the file.
type statementPage struct {
	Names       string // address of the words in the rows
	Of          string // whose page it is, for the check
	From, To    time.Time
	Fields      []field
	Mistakes    []mistake
	Nothing     bool // no closed epoch in that time
	TooMany     bool
	Made        time.Time
	Epochs      proof.EpochRange
	Opened      time.Time
	Closed      time.Time
	Days        []day
	Count       int
	Code        string
	Origin      string
	Size        uint64
	Root        string
	RootTime    time.Time
	Witnessed   bool
	Witnesses   []string
	Complete    bool
	Pending     uint64
	Identifiers []string
	File        string
}

// period is the days, both included, of which a form asks for the history: up to today, and a year, unless it says otherwise; verdict.Days are the same.
type period struct {
	from, to time.Time
	mistakes []mistake
}

func (p *Portal) period(form url.Values) *period {
	f := p.readFilter(url.Values{"du": form["du"], "au": form["au"]})
	now := p.now().In(p.zone)
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, p.zone)
	out := &period{f.from, f.to, f.mistakes}
	if out.to.IsZero() {
		out.to = today
	}
	if out.from.IsZero() || out.to.Before(out.from) {
		out.from = out.to.AddDate(-1, 0, 0)
	}
	return out
}

func (x *period) fields() []field {
	out := []field{
		{Name: "du", Type: "date", Label: "filter.from", Hint: "filter.date.hint", Value: x.from.Format(time.DateOnly)},
		{Name: "au", Type: "date", Label: "filter.to", Value: x.to.Format(time.DateOnly)},
	}
	marked(out, x.mistakes)
	return out
}

// maxStatement bounds the rows of a statement: more are for the file.
const maxStatement = 1000

func (p *Portal) statement(r *request, s *Session) error {
	of := p.period(r.URL.Query())
	now := p.now().In(p.zone)
	data := &statementPage{From: of.from, To: of.to, Made: now, Fields: of.fields(), Mistakes: of.mistakes}
	if len(of.mistakes) > 0 {
		return r.render(http.StatusBadRequest, "statement", "statement.title", data)
	}
	epochs, ok, err := p.cfg.Broker.EpochsBetween(r.Context(), data.From, data.To.AddDate(0, 0, 1))
	if err != nil {
		return err
	}
	if !ok {
		data.Nothing = true
		return r.render(http.StatusOK, "statement", "statement.title", data)
	}
	logPolicy, err := p.cfg.Broker.LogPolicy(r.Context())
	if err != nil {
		return err
	}
	var v proof.HistoryVerdict
	err = p.makeHistory(r, s, p.ownFile(r, s, epochs), func(h *proof.History) error {
		var err error
		if v, err = h.Verify(logPolicy, proof.HistoryOptions{Now: proof.TimeOf(now), AllowProvisional: true}); err != nil {
			p.log.Error("a person's history is refuted by its own log", "error", err)
			return &broker.Problem{Status: http.StatusInternalServerError, Code: "history.refuted"}
		}
		return nil
	})
	if isCode(err, "history.open") { // closed in this instant, and not published yet
		data.Nothing = true
		return r.render(http.StatusOK, "statement", "statement.title", data)
	}
	if err != nil {
		return err
	}
	n := p.namer(r.lang)
	data.Of = verdict.Of(s.Subjects)
	if data.Names, err = p.namesOf(n); err != nil {
		return err
	}
	j, err := p.journals.of(r.Context(), s)
	if err != nil {
		return err
	}
	p.fillStatement(data, n, &v, j)
	return r.render(http.StatusOK, "statement", "statement.title", data)
}

// fillStatement lists what was verified. When a delayed request could be seen stands in no record, only in the store: it is as the history page says it.
func (p *Portal) fillStatement(data *statementPage, n *namer, v *proof.HistoryVerdict, j *journal) {
	data.Epochs, data.Opened, data.Closed = v.Epochs, v.Opened.Time().In(p.zone), v.Closed.Time().In(p.zone)
	data.Origin, data.Size, data.Root, data.RootTime = v.Origin, v.Size, v.Root.String(), v.RootTime.Time().In(p.zone)
	data.Witnessed, data.Complete, data.Pending = v.State >= proof.Witnessed, v.Complete(), v.Deferrals.Pending
	data.Code, data.Count = v.StatementCode(), len(v.Entries)
	data.File = "/historique/fichier?epoques=" + v.Epochs.From.String() + "-" + v.Epochs.To.String()
	for _, w := range v.Witnesses {
		data.Witnesses = append(data.Witnesses, w.Name)
	}
	for _, x := range v.Subjects {
		data.Identifiers = append(data.Identifiers, string(x.Type()))
	}
	if data.TooMany = len(v.Entries) > maxStatement; data.TooMany {
		return
	}
	delays := map[proof.Index]*broker.DelaySeen{}
	for i := range j.entries {
		if d := j.entries[i].Delay; d != nil {
			delays[j.entries[i].Index] = d
		}
	}
	rows := make([]row, len(v.Entries))
	for i := range v.Entries {
		x := &v.Entries[i]
		e := n.Outline(*x, v.Subjects[x.Subject].Type(), stateOf(x))
		e.Delay = delays[x.Index]
		rows[i] = p.row(&e, n)
	}
	slices.SortFunc(rows, func(a, b row) int { return verdict.Newer(timeOf(a.At), a.Index, timeOf(b.At), b.Index) })
	list := &historyPage{}
	for _, x := range rows {
		list.add(x)
	}
	data.Days = list.Days
}

// stateOf says of a verified entry what the history page would.
func stateOf(e *proof.VerifiedEntry) broker.HistoryState {
	switch e.State {
	case proof.RecordOpen:
		return broker.HistoryOpen
	case proof.RecordErased, proof.RecordErasing:
		if e.Kind == proof.KindErasure {
			return broker.HistoryOpen
		}
		return broker.HistoryErased
	case proof.RecordRetired:
		return broker.HistoryRetired
	}
	return lost // or of a schema that this version doesn't know
}

// lost is the state of a record whose details were lost, as the log says: in a list of the broker's records it isn't.
const lost broker.HistoryState = "lost"

func isCode(err error, code string) bool {
	var p *broker.Problem
	return errors.As(err, &p) && p.Code == code
}
