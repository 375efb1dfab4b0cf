package portal

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

const (
	// maxOpen bounds the rows of the open epoch: more are listed when it is closed, and in the spreadsheet.
	maxOpen   = 200
	maxSearch = verdict.MaxSearch // characters
)

// statuses are what an entry can be, in the order of the filter; each has an icon and a word (status.<code>).
var statuses = []string{"released", "empty", "denied", "failed", "opened", "access", "erasure", "erased", "homonym", "retired", "lost", "damaged"}

// statusOf is what the reader has to know first about an entry.
func statusOf(e *broker.OwnEntry) string {
	switch {
	case e.State == broker.HistoryDamaged:
		return "damaged"
	case e.State == broker.HistoryRetired:
		return "retired"
	case e.State == lost:
		return "lost"
	case e.Kind == proof.KindErasure:
		return "erasure"
	case e.State == broker.HistoryErased:
		return "erased"
	case e.Namesake:
		return "homonym"
	case e.Kind == proof.KindAccess:
		return "access"
	case e.Kind == proof.KindOpened:
		return "opened"
	case slices.Contains(statuses[:4], e.Outcome):
		return e.Outcome
	}
	return "damaged"
}

// serviceID is the id in token@version.
func serviceID(ref string) string {
	id, _, _ := strings.Cut(ref, "@")
	return id
}

// namer shows tokens of records by their names, as text of whoever named them.
type namer struct {
	broker.Directory
	words *Words
	lang  *language
}

func (p *Portal) namer(l *language) *namer {
	return &namer{p.cfg.Broker.Directory(), p.cfg.Words, l}
}

func (n *namer) in(t service.Text) string { return titleIn(t, n.lang.code) }

// titleIn is what a definition calls something, in a language of the catalogue.
func titleIn(t service.Text, lang string) string {
	if lang == "en" {
		return t.EN
	}
	return verdict.Typeset(t.FR)
}

func or(name, token string) string {
	if name == "" {
		return token
	}
	return name
}

func (n *namer) agency(id string) string   { return or(n.Agencies[id].Name, id) }
func (n *namer) provider(id string) string { return or(n.Providers[id], id) }
func (n *namer) purpose(id string) string  { return or(n.words.Purposes[id].In(n.lang.code), id) }
func (n *namer) law(id string) string      { return or(n.words.LegalBases[id].In(n.lang.code), id) }

func (n *namer) service(ref string) string {
	id := serviceID(ref)
	if d := n.Services[id]; d != nil {
		return or(n.in(d.Title), id)
	}
	return id
}

// data names what was asked for: the groups of fields, or the service as a whole if they aren't known.
func (n *namer) data(e *broker.OwnEntry) string {
	d := n.Services[serviceID(e.Service)]
	if d == nil || len(e.Scopes) == 0 {
		return n.service(e.Service)
	}
	var b strings.Builder
	for i, s := range e.Scopes {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(or(n.in(d.Scopes[s].Title), string(s)))
	}
	return b.String()
}

// reader says who opened a record, and in which role: an auditor by the name in the registry, others by the token that the record has.
func (n *namer) reader(e *broker.OwnEntry) string {
	id := e.Reader
	switch e.ReaderRole {
	case proof.RoleAuditor:
		id = or(n.Auditors[e.Reader].Name, e.Reader)
	case proof.RoleOperator:
		id = strings.TrimPrefix(id, "uid-") // the number of their account, without the system's word for it
	}
	s, err := n.lang.text("reader."+e.ReaderRole, "id", id)
	if err != nil {
		return id // a role that came later
	}
	return s
}

// reason is why somebody opened a record: their own words, or for a delegate what the delegation is.
func (n *namer) reason(e *broker.OwnEntry) string {
	if key := "reason." + e.Reason; e.ReaderRole == proof.RoleDelegate && n.lang.has(key) {
		return n.lang.fixed[key]
	}
	return e.Reason
}

// filter is what a reader wants to see of the history.
type filter struct {
	agency, data, status string
	from, to             time.Time // days, both included; zero: open
	search               string
	page                 int // from 1
	dense                bool
	mistakes             []mistake
}

// mistake is one in a form: which field, and a message of the catalogue.
type mistake struct{ Field, Key string }

// readFilter takes what can be used of a query and notes what can't.
func (p *Portal) readFilter(q url.Values) *filter {
	f := &filter{agency: q.Get("agence"), data: q.Get("donnee"), status: q.Get("issue"), search: strings.TrimSpace(clean(q.Get("q"))), page: 1, dense: q.Get("vue") == "dense"}
	for _, token := range []*string{&f.agency, &f.data} {
		if *token != "" && !proof.IsToken(*token) {
			*token = ""
		}
	}
	if !slices.Contains(statuses, f.status) {
		f.status = ""
	}
	if !utf8.ValidString(f.search) || utf8.RuneCountInString(f.search) > maxSearch {
		f.mistakes = append(f.mistakes, mistake{"q", "filter.search.long"})
		f.search = ""
	}
	for _, d := range []struct {
		name string
		at   *time.Time
	}{{"du", &f.from}, {"au", &f.to}} {
		v := q.Get(d.name)
		if v == "" {
			continue
		}
		t, err := time.ParseInLocation(time.DateOnly, v, p.zone)
		if err != nil {
			f.mistakes = append(f.mistakes, mistake{d.name, "filter.date.wrong"})
			continue
		}
		*d.at = t
	}
	if !f.from.IsZero() && !f.to.IsZero() && f.to.Before(f.from) {
		f.mistakes = append(f.mistakes, mistake{"au", "filter.date.order"})
		f.from, f.to = time.Time{}, time.Time{}
	}
	if n, err := strconv.Atoi(q.Get("page")); err == nil && n > 0 {
		f.page = n
	}
	return f
}

func (f *filter) set() bool {
	return f.agency != "" || f.data != "" || f.status != "" || f.search != "" || !f.from.IsZero() || !f.to.IsZero()
}

// query is the filter as a link, with one part changed; an empty value leaves the part out.
func (f *filter) query(name, value string) string {
	q := url.Values{}
	day := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.DateOnly)
	}
	dense := ""
	if f.dense {
		dense = "dense"
	}
	for k, v := range map[string]string{"agence": f.agency, "donnee": f.data, "issue": f.status, "q": f.search, "du": day(f.from), "au": day(f.to), "vue": dense, name: value} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if len(q) == 0 {
		return "/historique"
	}
	return "/historique?" + q.Encode()
}

// of is the part of a history that a filter lets through, by position.
func (f *filter) of(j *journal, n *namer) []int32 {
	want := fold(f.search)
	through := make([]bool, len(j.forms))
	for i, e := range j.forms {
		through[i] = (f.agency == "" || e.Agency == f.agency) && (f.data == "" || serviceID(e.Service) == f.data) && (f.status == "" || statusOf(e) == f.status) && (want == "" || n.mentions(e, want))
	}
	to := f.to
	if !to.IsZero() {
		to = to.AddDate(0, 0, 1) // the day is included
	}
	out := make([]int32, 0, len(j.entries))
	within := func(at time.Time) bool {
		return (f.from.IsZero() || !at.Before(f.from)) && (to.IsZero() || !at.IsZero() && at.Before(to))
	}
	dated := !f.from.IsZero() || !to.IsZero()
	for i, form := range j.form {
		if through[form] && (!dated || within(j.entries[i].At)) {
			out = append(out, int32(i)) // #nosec G115 -- at most maxJournal
		}
	}
	return out
}

// mentions looks for folded text in the names of an entry.
func (n *namer) mentions(e *broker.OwnEntry, want string) bool {
	names := []string{n.agency(e.Agency), n.provider(e.Provider), n.purpose(e.Purpose)}
	if e.Service != "" {
		names = append(names, n.service(e.Service), n.data(e))
	}
	if e.Reader != "" {
		names = append(names, n.reader(e), n.reason(e))
	}
	for i := range names {
		names[i] = clean(names[i])
	}
	return strings.Contains(fold(strings.Join(names, "\n")), want)
}

// fold makes text comparable: without case, marks and ligatures.
func fold(s string) string { return proof.FoldName(s) }

// day is a day of the history.
type day struct {
	At   time.Time // zero: not known
	Rows []row
}

func (p *Portal) row(e *broker.OwnEntry, n *namer) row {
	r := row{Index: e.Index, Kind: e.Kind, Epoch: e.Epoch, At: e.At.In(p.zone), Status: statusOf(e), Agency: or(e.Agency, e.Reader), Service: e.Service, Outcome: markOf(e), Target: e.Target}
	if e.At.IsZero() {
		r.At = time.Time{}
	}
	if e.LegalBasis != "" {
		r.Law, r.LawURL = n.law(e.LegalBasis), n.words.LegalBases[e.LegalBasis].URL
	}
	switch {
	case e.Agency != "":
		r.Who, r.What = n.agency(e.Agency), n.data(e)
		if e.Provider != "" {
			r.From = n.provider(e.Provider)
		}
		if e.Purpose != "" {
			r.Why = n.purpose(e.Purpose)
		}
	case e.Reader != "":
		r.Who, r.Reason = n.reader(e), n.reason(e)
	}
	if e.Delay != nil && !e.Delay.OpenedAt.IsZero() {
		r.Revealed = e.Delay.OpenedAt.In(p.zone)
	}
	return r
}

// markOf is an outcome as the check in the browser compares it; empty: it isn't compared. Whether an erasure covers a record for good is only known when its day is closed.
func markOf(e *broker.OwnEntry) string {
	switch s := statusOf(e); s {
	case "erased", "homonym", "damaged":
		return ""
	default:
		return s
	}
}

// historyPage is what the template shows.
type historyPage struct {
	Open         []row // of the epoch that isn't closed
	OpenSince    time.Time
	OpenUntil    time.Time
	Days         []day
	Total, Count int // entries in all, and that the filter lets through
	First, Last  int // of these on this page
	Filtered     bool
	Marker       proof.Index // of the open epoch
	More         int         // entries of the open epoch that aren't on this page
	Cut          bool
	Lost         bool
	Fields       []field
	Mistakes     []mistake
	Links        []filterLink
	Older, Newer string // links
	Page, Pages  int
	Dense        string // link to the other view
	IsDense      bool
	Identifiers  []string // types, for the catalogue
	Clear        string
	CSV          string
	Names        string // address of the words in the rows
	Of           string // whose page it is, for the check
}

// filterLink is a filter as a link that can be kept.
type filterLink struct {
	Group, Label, Href string
	Current            bool
}

func (p *Portal) history(r *request, s *Session) error {
	standing := p.cfg.Broker.Standing() // before the list is read: what comes meanwhile is of an epoch that counts as open
	j, err := p.journals.of(r.Context(), s)
	if err != nil {
		return err
	}
	f, n := p.readFilter(r.URL.Query()), p.namer(r.lang)
	found := f.of(j, n)
	// What is of the open epoch can't be verified, nor how many there are: it stands on the first page, and pages count what comes after it.
	open, closed := split(found, func(i int32) bool { return j.entries[i].Index >= standing.Open.Marker })
	size := verdict.PageRows
	if f.dense {
		size = verdict.DenseRows
	}
	pages := max(1, (len(closed)+size-1)/size)
	f.page = min(f.page, pages)
	first := (f.page - 1) * size
	last := min(first+size, len(closed))
	data := &historyPage{
		Total: len(j.entries), Count: len(found), First: len(open) + first + 1, Last: len(open) + last, Filtered: f.set(), Marker: standing.Open.Marker, Cut: j.cut, Lost: j.lost,
		OpenSince: standing.Open.Opened.In(p.zone), OpenUntil: standing.Open.Until.In(p.zone),
		Mistakes: f.mistakes, Page: f.page, Pages: pages, IsDense: f.dense, Clear: "/historique", CSV: strings.Replace(f.query("vue", ""), "/historique", "/telecharger/historique.csv", 1),
	}
	if f.page == 1 {
		data.First = 1
		data.More = max(0, len(open)-maxOpen)
		for _, i := range open[:len(open)-data.More] {
			data.Open = append(data.Open, p.row(&j.entries[i], n))
		}
	}
	for _, i := range closed[first:last] {
		data.add(p.row(&j.entries[i], n))
	}
	if f.page > 1 {
		data.Newer = f.query("page", strconv.Itoa(f.page-1))
	}
	if f.page < pages {
		data.Older = f.query("page", strconv.Itoa(f.page+1))
	}
	data.Dense = f.query("vue", map[bool]string{false: "dense"}[f.dense])
	for _, x := range s.Subjects {
		data.Identifiers = append(data.Identifiers, string(x.Type()))
	}
	data.Of = verdict.Of(s.Subjects)
	if data.Names, err = p.namesOf(n); err != nil {
		return err
	}
	data.Links = f.links(j, n, r.lang)
	data.Fields = f.fields(j, n, r.lang)
	status := 200
	if len(f.mistakes) > 0 {
		status = 400
	}
	return r.render(status, "history", "history.title", data)
}

// split takes a list apart, in its order.
func split(all []int32, is func(int32) bool) (those, others []int32) {
	others = make([]int32, 0, len(all))
	for _, i := range all {
		if is(i) {
			those = append(those, i)
		} else {
			others = append(others, i)
		}
	}
	return those, others
}

// add puts a row into its day; rows come by decreasing time.
func (h *historyPage) add(r row) {
	if n := len(h.Days); n > 0 && sameDay(h.Days[n-1].At, r.At) {
		h.Days[n-1].Rows = append(h.Days[n-1].Rows, r)
		return
	}
	h.Days = append(h.Days, day{r.At, []row{r}})
}

func sameDay(a, b time.Time) bool {
	y, m, d := a.Date()
	v, w, x := b.Date()
	return y == v && m == w && d == x
}

// named are options by their names.
func named(tokens []string, name func(string) string) []option {
	out := make([]option, len(tokens))
	for i, v := range tokens {
		out[i] = option{Value: v, Label: clean(name(v))}
	}
	slices.SortFunc(out, func(a, b option) int { return strings.Compare(fold(a.Label), fold(b.Label)) })
	return out
}

// maxLinks bounds the filters that are shown as links; the form has all.
const maxLinks = 8

// links are the usual filters, each a link.
func (f *filter) links(j *journal, n *namer, l *language) []filterLink {
	var out []filterLink
	for _, g := range []struct {
		group, name, current string
		options              []option
	}{{"filter.agency", "agence", f.agency, named(j.agencies, n.agency)}, {"filter.data", "donnee", f.data, named(j.services, n.service)}, {"filter.outcome", "issue", f.status, outcomes(j, l)}} {
		if len(g.options) < 2 {
			continue // nothing to choose from
		}
		for i, o := range g.options {
			if i == maxLinks {
				break
			}
			link := filterLink{Group: g.group, Label: o.Label, Current: o.Value == g.current, Href: f.query(g.name, o.Value)}
			if link.Current {
				link.Href = f.query(g.name, "")
			}
			out = append(out, link)
		}
	}
	return out
}

// outcomes that the history has, in the order of the catalogue.
func outcomes(j *journal, l *language) (out []option) {
	for _, s := range statuses {
		if slices.Contains(j.statuses, s) {
			out = append(out, option{Value: s, Label: l.fixed["status."+s]})
		}
	}
	return out
}

// fields of the filter's form.
func (f *filter) fields(j *journal, n *namer, l *language) []field {
	day := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.DateOnly)
	}
	all := func(key string, options []option) []option {
		return append([]option{{Label: l.fixed[key]}}, options...)
	}
	out := []field{
		{Name: "q", Type: "search", Label: "filter.search", Value: f.search, MaxLength: maxSearch},
		{Name: "agence", Type: "select", Label: "filter.agency", Value: f.agency, Options: all("filter.all", named(j.agencies, n.agency))},
		{Name: "donnee", Type: "select", Label: "filter.data", Value: f.data, Options: all("filter.all", named(j.services, n.service))},
		{Name: "issue", Type: "select", Label: "filter.outcome", Value: f.status, Options: all("filter.all", outcomes(j, l))},
		{Name: "du", Type: "date", Label: "filter.from", Hint: "filter.date.hint", Value: day(f.from)},
		{Name: "au", Type: "date", Label: "filter.to", Value: day(f.to)},
	}
	if f.dense {
		out = append(out, field{Name: "vue", Type: "hidden", Value: "dense"})
	}
	marked(out, f.mistakes)
	return out
}

// marked puts mistakes at their fields.
func marked(fields []field, mistakes []mistake) {
	for i := range fields {
		for _, m := range mistakes {
			if m.Field == fields[i].Name {
				fields[i].Mistake = m.Key
			}
		}
	}
}

// field of a form, shown by the component field. Label, Hint and Mistake are keys of the catalogue; the rest is text.
type field struct {
	Name, Type   string // text, search, email, date, textarea, checkbox, select, hidden
	Label, Hint  string
	Value        string
	Options      []option // of a select
	Required     bool
	MaxLength    int
	Autocomplete string
	Mistake      string
	Checked      bool
}

// option of a select.
type option struct{ Value, Label string }
