package verdict

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Record is what the page of one access shows of it, as its markup says (docs/verifier.md).
type Record struct {
	Index   proof.Index `json:"index"`
	Agency  string      `json:"agency"`
	Service string      `json:"service"`
	Outcome string      `json:"outcome"`
	Facts   []ShownFact `json:"facts"`
	// Receipt is the file with the proof that the page draws; "": it shows no proof.
	Receipt string `json:"receipt"`
	Ways    []Way  `json:"ways"`
}

// ShownFact is one fact on a page, in the order of the page.
type ShownFact struct {
	Key    string `json:"key"`
	Label  string `json:"label"` // the term before it
	Text   string `json:"text"`
	Link   string `json:"link"`
	Folded bool   `json:"folded"` // in a fold: read by whoever opens it
	Hidden bool   `json:"hidden"` // by a style, so that nobody reads it
}

// Way is the drawing of a path of hashes, as the words in it, and the table with the same.
type Way struct {
	ID    string   `json:"id"`
	Drawn []string `json:"drawn"`
	Table []string `json:"table"` // the cells, line by line
}

// Path is a way from a leaf up to a root; hashes are hexadecimal.
type Path struct {
	ID         string // log, roll, index
	Start, End string
	Steps      []Step
}

// Step is one hash that is joined on the way.
type Step struct {
	Left bool // it stands at the left of ours
	Hash string
}

// Paths are the ways by which a receipt, of which v was verified, proves its entry: to the root of the log, and if its epoch is closed to the person's roll and from there to the index of the epoch.
func Paths(r *proof.Receipt, v *proof.Verdict) ([]Path, error) {
	e := r.Proven()
	leaf := proof.LeafHash(e.Text)
	out := []Path{{"log", fmt.Sprintf("%x", leaf[:]), fmt.Sprintf("%x", v.Root[:]), steps(uint64(e.Index), v.Size, e.Path)}}
	s := r.Settlement()
	if s == nil || !v.InRoll {
		return out, nil
	}
	root, err := s.Leaf.Root(e.Index)
	if err != nil {
		return nil, err
	}
	out = append(out, Path{"roll", fmt.Sprintf("%x", s.Leaf.Salt[:]), fmt.Sprintf("%x", root[:]), steps(s.Leaf.Position, s.Leaf.Size, s.Leaf.Path)})
	if m := marker(s.Marker.Text); m.Closed != nil {
		out = append(out, Path{"index", fmt.Sprintf("%x", root[:]), fmt.Sprintf("%x", m.Closed.Index[:]), steps(s.Bucket.Number, 1<<m.Closed.Bits, s.BucketPath)})
	}
	return out, nil
}

// steps says of each hash of an inclusion path on which side it stands (RFC 6962, section 2.1.1).
func steps(index, size uint64, hashes []proof.Hash) []Step {
	out := make([]Step, 0, len(hashes))
	last := size - 1
	for _, h := range hashes {
		for index == last && index&1 == 0 && last > 0 { // without a sibling at this level
			index, last = index>>1, last>>1
		}
		out = append(out, Step{index&1 == 1, fmt.Sprintf("%x", h[:])})
		index, last = index>>1, last>>1
	}
	return out
}

// way is what an honest page shows of a path.
func (p Path) way(l Lang) Way {
	w := func(key string) string { return l.word(key) }
	out := Way{ID: p.ID, Table: []string{w("proof.start"), "–", p.Start}}
	for i, s := range p.Steps {
		side := w("proof.right")
		if s.Left {
			side = w("proof.left")
		}
		out.Table = append(out.Table, fmt.Sprint(i+1), side, s.Hash)
		out.Drawn = append(out.Drawn, s.Hash[:8])
	}
	out.Table = append(out.Table, w("proof.end"), "–", p.End)
	out.Drawn = append(out.Drawn, w("path."+p.ID+".start"))
	for i := 1; i < len(p.Steps); i++ {
		out.Drawn = append(out.Drawn, fmt.Sprint(i))
	}
	if len(p.Steps) > 0 {
		out.Drawn = append(out.Drawn, w("path."+p.ID+".end"))
	}
	return out
}

func (l Lang) word(key string) string { return l.pick(recordWords[key][0], recordWords[key][1]) }

// wanted is a fact as an honest page shows it.
type wanted struct {
	key, text, link string
	// labelled: it stands behind its term. folded: it may stand in a fold. loose: nothing in the log says it, so that its place and its term are compared alone. optional: it may be left out.
	labelled, folded, loose, optional bool
}

// recordFacts collects what the page of an entry shows.
type recordFacts struct {
	*Names
	lang Lang
	list []wanted
}

// add takes out of a value what portals take out: control characters and marks of direction.
func (f *recordFacts) add(w wanted) {
	if !strings.HasPrefix(w.key, "proof.") { // those are of more than one line
		w.text = Clean(w.text)
	}
	f.list = append(f.list, w)
}

// fact is in a list of terms; nothing if it has no text.
func (f *recordFacts) fact(key, text, link string) {
	if text != "" {
		f.add(wanted{key: key, text: text, link: link, labelled: true})
	}
}

func (f *recordFacts) detail(key, text string) {
	if text != "" {
		f.add(wanted{key: key, text: text, labelled: true, folded: true})
	}
}

func (f *recordFacts) at(key string, o proof.Opening, field proof.Field) {
	if t, ok := o.TimeOf(field); ok {
		f.fact(key, f.lang.moment(t), "")
	}
}

// moment is a date with the time of day.
func (l Lang) moment(at proof.Time) string {
	return l.weekday(at) + ", " + paris(at.Time()).Format("15:04")
}

// law is the name of a legal basis and where its text is.
func (f *recordFacts) law(token string) (name, link string) {
	return f.or("law."+f.lang.pick("fr", "en"), token), f.by["law.url "+token]
}

func (n *Names) service(ref string, l Lang) string {
	id, _, _ := strings.Cut(ref, "@")
	if id == "" {
		return ""
	}
	return n.or("service."+l.pick("fr", "en"), id)
}

// facts are what an honest page shows of an entry, in its order: but for the proof, which comes after the fields.
func (n *Names) facts(e *proof.VerifiedEntry, t proof.SubjectType, l Lang) (shown, details []wanted) {
	o := e.Opening
	f := &recordFacts{Names: n, lang: l}
	status := statusOf(e, t == proof.TypePerson && e.Kind != proof.KindErasure)
	var title, who string
	switch {
	case o.Schema() == proof.SchemaDisclosure && o.Text(proof.DisclosureAgency) != "":
		title, who = n.data(o, l), n.or("agency", o.Text(proof.DisclosureAgency))
	case o.Schema() == proof.SchemaAccess && o.Text(proof.AccessReader) != "":
		who, _ = n.reader(o, l)
	}
	if title == "" {
		title = fmt.Sprintf("%s %d", l.word("row.entry"), e.Index)
		if status == "access" || status == "erasure" {
			title = l.word("record." + status)
		}
	}
	f.add(wanted{key: "title", text: title})
	said := Outcome(status, l)
	if who != "" {
		said += " · " + who
	}
	f.add(wanted{key: "status", text: said})
	switch o.Schema() {
	case proof.SchemaDisclosure:
		f.disclosure(o)
	case proof.SchemaAccess:
		f.access(o)
	case proof.SchemaErasure:
		f.at("fact.erasure_asked_at", o, proof.ErasureAskedAt)
		f.at("fact.erased_at", o, proof.ErasureErasedAt)
		if g := o.Text(proof.ErasureGround); g != "" {
			name, link := f.law(g)
			f.fact("fact.ground", name, link)
		}
	}
	if d := e.Deferred; d != nil {
		f.add(wanted{key: "fact.revealed_at", labelled: true, loose: true, optional: true})
		if code := o.Text(proof.DisclosureOutcome); o.Schema() == proof.SchemaDisclosure && code != "" {
			f.fact("fact.outcome", Outcome(code, l), "")
		}
		f.fact("fact.delayed_by", d.Authority, "")
		f.fact("fact.delayed_under", d.Article, "")
	}
	if o.Schema() == proof.SchemaDisclosure && (t != proof.TypePerson || e.Kind == proof.KindErasure) {
		f.why(o)
		f.fields(o)
	}
	return f.list, n.details(e, l)
}

func (f *recordFacts) disclosure(o proof.Opening) {
	f.at("fact.asked_at", o, proof.DisclosureAskedAt)
	if a := o.Text(proof.DisclosureAgency); a != "" {
		f.fact("fact.agency", f.or("agency", a), "")
	}
	f.fact("fact.service", f.service(o.Text(proof.DisclosureService), f.lang), "")
	if p := o.Text(proof.DisclosureProvider); p != "" {
		f.fact("fact.provider", f.or("provider", p), "")
	}
	if p := o.Text(proof.DisclosurePurpose); p != "" {
		f.fact("fact.purpose", f.or("purpose."+f.lang.pick("fr", "en"), p), "")
	}
	if b := o.Text(proof.DisclosureLegalBasis); b != "" {
		name, link := f.law(b)
		f.fact("fact.law", name, link)
	}
	f.fact("fact.context", o.Text(proof.DisclosureContext), "")
	f.fact("fact.object", o.Text(proof.DisclosureObject), "")
	if c := o.Text(proof.DisclosureCause); c != "" {
		f.fact("fact.cause", f.lang.word(causeWord(c)), "")
	}
}

// causeWord says why something wasn't completed.
func causeWord(cause string) string {
	head, _, _ := strings.Cut(cause, "/")
	if _, known := recordWords["cause."+head]; known {
		return "cause." + head
	}
	return "cause.other"
}

func (f *recordFacts) access(o proof.Opening) {
	f.at("fact.at", o, proof.AccessAt)
	who, why := f.reader(o, f.lang)
	f.fact("fact.reader", who, "")
	f.fact("fact.reason", why, "")
	if o.Text(proof.AccessRole) == proof.RoleDelegate {
		f.add(wanted{key: "fact.mandate", link: "/mandats", labelled: true, loose: true, optional: true})
	}
	if i := o.Text(proof.AccessTarget); i != "" && i != "0" {
		f.fact("fact.target", i, "/acces/"+i)
	}
}

// why is the recorded decision: the rule and the agreement that allowed the request, or the reasons that refused it, which the rule has in words.
func (f *recordFacts) why(o proof.Opening) {
	if o.Text(proof.DisclosureRole) != proof.RoleAsked {
		return // the decision was about somebody else's request
	}
	if o.Text(proof.DisclosureOutcome) != proof.OutcomeDenied {
		f.add(wanted{key: "why.granted", text: strings.ReplaceAll(f.lang.word("why.granted"), "{{.agency}}", f.or("agency", o.Text(proof.DisclosureAgency)))})
	} else {
		f.add(wanted{key: "why.refused", text: f.lang.word("why.refused")})
		for _, code := range o.List(proof.DisclosureReasons) {
			f.add(wanted{key: "why.reason", text: code, loose: true, optional: true})
		}
	}
	if b := o.Text(proof.DisclosureLegalBasis); b != "" {
		name, link := f.law(b)
		f.add(wanted{key: "why.law", text: f.lang.word("why.law") + " " + name, link: link})
	}
	if a := o.Text(proof.DisclosureAgreement); a != "" {
		f.add(wanted{key: "why.agreement", text: a})
	} else {
		f.add(wanted{key: "why.agreement", text: f.lang.word("why.no_agreement")})
	}
}

// fields are those that were asked for and what became of them, by their groups and one by one.
func (f *recordFacts) fields(o proof.Opening) {
	id, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@")
	for _, x := range []struct {
		key   string
		field proof.Field
	}{{"fields.requested", proof.DisclosureRequested}, {"fields.obtained", proof.DisclosureObtained}, {"fields.released", proof.DisclosureReleased}} {
		v, there := o.Value(x.field)
		if there != proof.Present {
			continue
		}
		f.add(wanted{key: x.key, text: f.lang.word(x.key)})
		var list, groups []string
		if len(v) > 0 {
			list = o.List(x.field)
		}
		for key, of := range f.Names.fields {
			if scope, ok := strings.CutPrefix(key, "field "+id+" "); ok && slices.ContainsFunc(of, func(p string) bool { return slices.Contains(list, p) }) {
				groups = append(groups, f.or("scope."+f.lang.pick("fr", "en"), id, scope))
			}
		}
		slices.Sort(groups)
		switch {
		case len(groups) > 0:
			f.add(wanted{key: "fields.groups", text: strings.Join(groups, ", ")})
		case len(list) == 0:
			f.add(wanted{key: "fields.groups", text: f.lang.word("fields.none")})
		}
		for _, p := range list {
			f.add(wanted{key: "fields.field", text: p, folded: true})
		}
	}
}

// Detail is a field of a record that stands below its page as it was recorded, for machines.
type Detail struct {
	Key   string // of the catalogue
	field proof.Field
	in    func(proof.Opening, proof.Field) string // writes it; empty: there is none
}

// In is the field as it was recorded; empty if it isn't open or has no value.
func (d Detail) In(o proof.Opening) string { return d.in(o, d.field) }

func asText(o proof.Opening, f proof.Field) string { return o.Text(f) }
func asList(o proof.Opening, f proof.Field) string { return strings.Join(o.List(f), ", ") }
func asTime(o proof.Opening, f proof.Field) string {
	t, ok := o.TimeOf(f)
	if !ok {
		return ""
	}
	return t.Time().UTC().Format("2006-01-02T15:04:05.000Z")
}

var details = map[proof.Schema][]Detail{
	proof.SchemaDisclosure: {
		{"detail.disclosure", proof.DisclosureID, asText},
		{SIRETAfter, proof.DisclosureAgency, asText},
		{"detail.recipient", proof.DisclosureRecipient, asText},
		{"detail.provider", proof.DisclosureProvider, asText},
		{"detail.service", proof.DisclosureService, asText},
		{"detail.purpose", proof.DisclosurePurpose, asText},
		{"detail.law", proof.DisclosureLegalBasis, asText},
		{"detail.agreement", proof.DisclosureAgreement, asText},
		{"detail.policy", proof.DisclosurePolicy, asText},
		{"detail.outcome", proof.DisclosureOutcome, asText},
		{"detail.reasons", proof.DisclosureReasons, asList},
		{"detail.cause", proof.DisclosureCause, asText},
		{"detail.trace", proof.DisclosureTraceID, asText},
		{"detail.role", proof.DisclosureRole, asText},
		{"detail.asked_at", proof.DisclosureAskedAt, asTime},
		{"detail.answered_at", proof.DisclosureAnsweredAt, asTime},
	},
	proof.SchemaAccess: {
		{"detail.access", proof.AccessID, asText},
		{"detail.reader", proof.AccessReader, asText},
		{"detail.fields", proof.AccessFields, asList},
	},
	proof.SchemaErasure: {
		{"detail.erasure", proof.ErasureID, asText},
		{"detail.reach", proof.ErasureReach, asText},
	},
}

// SIRETAfter is the detail after which a page may have the agency's SIRET, which the record has not.
const SIRETAfter = "detail.agency"

// Details are those of a record, in the order of its page.
func Details(s proof.Schema) []Detail { return details[s] }

// details are what stands below the page.
func (n *Names) details(e *proof.VerifiedEntry, l Lang) []wanted {
	f := &recordFacts{Names: n, lang: l}
	for _, d := range Details(e.Opening.Schema()) {
		f.detail(d.Key, d.In(e.Opening))
		if d.Key == SIRETAfter {
			f.add(wanted{key: "detail.siret", labelled: true, folded: true, loose: true, optional: true})
		}
	}
	if d := e.Deferred; d != nil {
		f.detail("detail.deferred", e.Began.String())
		f.detail("detail.deferred_month", d.Month)
	}
	return f.list
}

// proven are the facts of a proof.
func (l Lang) proven(r *proof.Receipt, v *proof.Verdict) []wanted {
	f := &recordFacts{lang: l}
	f.detail("proof.index", strings.NewReplacer("{{.index}}", v.Index.String(), "{{.size}}", l.Number(v.Size)).Replace(l.word("proof.index_of")))
	f.detail("proof.log", v.Origin)
	f.detail("proof.commitment", v.Commitment.String())
	f.detail("proof.root", groups(v.Root[:]))
	names, last := make([]string, len(v.Witnesses)), int64(0)
	for i, w := range v.Witnesses {
		names[i] = w.Name
		if w.Unix < 1<<40 {
			last = max(last, int64(w.Unix)) // #nosec G115 -- bounded
		}
	}
	by := strings.Join(names, ", ")
	if len(names) == 0 {
		by = l.word("proof.no_witness")
	} else if last > 0 {
		by += " · " + l.moment(proof.TimeOf(time.Unix(last, 0)))
	}
	f.detail("proof.witnesses", by)
	if v.InRoll {
		f.add(wanted{key: "proof.roll", labelled: true, folded: true, loose: true})
		f.detail("proof.closed", l.moment(v.Closed))
	}
	f.add(wanted{key: "proof.entry", text: string(r.EntryText()), folded: true})
	f.add(wanted{key: "proof.checkpoint", text: string(r.Checkpoint()), folded: true})
	return f.list
}

// Number writes a number of five digits or more with a narrow space, or a comma, between thousands: the portal's pages and what they are compared with write it alike.
func (l Lang) Number(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	if len(digits) < 5 {
		return digits
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + l.pick("\u202f", ",") + digits[i:]
	}
	return digits
}

// compareRecord compares the page of one access with the history of its epoch, and with the proof that the page draws.
func (r *Report) compareRecord(p Page, in Input) {
	l, v, shown := in.Lang, in.Verdict, p.Record
	names, err := ParseNames([]byte(p.Names))
	if err != nil {
		*r = *NotVerified(CauseServer, l)
		return
	}
	digest := sha256.Sum256([]byte(p.Names))
	r.Keys = append(r.Keys, Key{l.pick("noms affichés", "names shown"), l.pick("annuaire de ce portail", "directory of this portal"), groups(digest[:])})
	r.Quiet = ""
	if shown.Index > closer(in.History) {
		r.undecided(in)
		return
	}
	if in.ended(shown.Index) {
		r.over(in, Limit{l.pick("La clé qui prouvait votre liste de cette période est détruite.", "The key that proved your list of this period is destroyed."),
			l.pick("Un historique que vous avez téléchargé avant reste vérifiable.", "A history that you downloaded before can still be checked."), Standing})
		return
	}
	var what string
	if p.Strange > 0 {
		what = l.pick("la page contient ce qu'une page d'accès n'a pas", "the page has what that of a request hasn't")
	}
	at := slices.IndexFunc(v.Entries, func(e proof.VerifiedEntry) bool { return e.Index == shown.Index })
	if what != "" {
	} else if at < 0 {
		what = l.pick("la page montre un accès qui n'est pas dans votre liste", "the page shows a request that is not in your list")
	} else if part := in.recordDiffers(names, p.Lang, shown, &v.Entries[at]); part != "" {
		if v.Entries[at].State == proof.RecordRetired { // the page may have been made a moment before
			r.over(in, Limit{l.pick("Cette page montre encore des détails de cet accès.", "This page still shows details of this request."),
				l.pick("Rechargez la page. Si cela dure, demandez-en la raison à l'exploitant, puis à la CNIL.", "Load the page again. If it stays so, ask the operator for the reason, then the data protection authority."), Worrying})
			return
		}
		what = fmt.Sprintf(l.pick("la page montre un accès autrement qu'il a été enregistré (%s)", "the page shows a request otherwise than it was recorded (%s)"), part)
	}
	if what != "" {
		wrong := &Refutation{What: what, Entry: &shown.Index, Detail: fmt.Sprintf("the page: entry %d", shown.Index), Reference: Reference(in.Digest), When: all(in.History, l)}
		if e, ok := in.epochOf(shown.Index); ok {
			wrong.Epoch, wrong.When = &e.Epoch, l.span(e.Opened, e.closed)
		}
		r.refuted(wrong, l)
		r.Sentence = fmt.Sprintf(l.pick("Cette page ne correspond pas au registre public : %s, %s.", "This page doesn't agree with the public log: %s, %s."), wrong.What, wrong.When)
		r.Rows = []RowMark{{RowWrong, l.pick("Le registre dit autre chose", "The log says something else")}}
		r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Failed, Not: []string{wrong.What + ", " + wrong.When + "."}})
		return
	}
	r.Rows = []RowMark{{RowVerified, l.pick("Vérifié", "Verified")}}
	// Only what is about this entry limits what is said of it.
	one := *v
	one.Entries, one.Ended, one.LostRolls, one.LostEntries, one.Deferrals = v.Entries[at:at+1], nil, 0, 0, proof.Deferrals{Counted: true}
	r.Scope = []Limit{{l.pick("Les noms, les explications, le SIRET, la validité et les finalités d'une habilitation et le jour où un délai a pris fin sont la parole de ce portail.",
		"Names, explanations, the SIRET, the validity and purposes of an agreement, and the day on which a delay ended are this portal's word."), "", Standing}}
	r.Checks = append(r.Checks, Check{Code: "page", Title: pageTitle(l), State: Held, Evidence: []Fact{{l.pick("faits affichés et comparés", "facts shown and compared"), fmt.Sprint(len(shown.Facts))}}})
	r.Limits = nil
	if r.State == Provisional {
		return
	}
	r.State, r.Title, r.Limits = Proven, Title(Proven, l), limits(&one, l)
	r.limited(l)
	r.Sentence = l.pick("Cet accès est dans votre liste au registre, et cette page le montre tel qu'il a été enregistré.", "This request is in your list in the log, and this page shows it as it was recorded.")
}

// recordGrace is how long after an epoch was due to close a page may still say that the epoch is open.
const recordGrace = 24 * time.Hour

// undecided is the report about an entry of an epoch that isn't closed, if it can still be open.
func (r *Report) undecided(in Input) {
	l, v := in.Lang, in.Verdict
	if in.Now > v.Due+proof.Time(recordGrace.Milliseconds()) {
		r.unverified(l, CauseStale)
		r.Title, r.Limits, r.Covers = Title(Unverified, l), nil, ""
		return
	}
	r.State, r.Title, r.Limits, r.Scope = Provisional, Title(Provisional, l), nil, nil
	r.Rows = []RowMark{{RowOpen, l.pick("Provisoire", "Provisional")}}
	r.Sentence = l.pick("Cet accès est de la période en cours, qui n'est pas close : rien de ce que dit cette page n'est encore prouvé.", "This request is of the current period, which isn't closed: nothing that this page says is proven yet.")
	r.Next = []string{fmt.Sprintf(l.pick("Elle doit se clore le %s : revenez ensuite.", "It is due to close on %s: come back then."), l.when(v.Due))}
}

// recordDiffers names what a page says otherwise than an entry is recorded, in the reader's language; "" if nothing.
func (in Input) recordDiffers(names *Names, l Lang, shown *Record, e *proof.VerifiedEntry) string {
	t := in.Verdict.Subjects[e.Subject].Type()
	want, details := names.facts(e, t, l)
	x := names.line(e, t, l)
	if x.outcome == "lost" && shown.Outcome == "" { // the broker couldn't read it before the log said that it is lost
		x.outcome, want[1].text = "", Outcome("damaged", l)
	}
	if shown.Agency != x.agency || shown.Service != x.service || shown.Outcome != x.outcome {
		return in.Lang.pick("ses attributs", "its attributes")
	}
	drawing := in.Lang.pick("le dessin de la preuve", "the drawing of the proof")
	if shown.Receipt == "" && len(shown.Ways) > 0 {
		return drawing
	}
	if shown.Receipt != "" {
		receipt, err := proof.ParseReceipt([]byte(shown.Receipt))
		if err != nil {
			return drawing
		}
		v, err := receipt.Verify(in.Policy, proof.VerifyOptions{AllowProvisional: true})
		if err != nil || v.Index != e.Index || v.Kind != e.Kind || v.Commitment != e.Opening.Commitment() {
			return drawing
		}
		paths, err := Paths(receipt, &v)
		if err != nil || !slices.EqualFunc(shown.Ways, paths, func(w Way, p Path) bool {
			x := p.way(l)
			return w.ID == x.ID && slices.EqualFunc(w.Drawn, x.Drawn, reads) && slices.EqualFunc(w.Table, x.Table, reads)
		}) {
			return drawing
		}
		want = append(want, l.proven(receipt, &v)...)
	}
	return factsDiffer(shown.Facts, append(want, details...), l, in.Lang)
}

// factsDiffer names the first fact that isn't as it should be: by its term in the language of the page, or else by its key.
func factsDiffer(shown []ShownFact, want []wanted, page, reader Lang) string {
	name := func(key string) string {
		if w, ok := recordWords[key]; ok && !strings.Contains(w[0], "{{") {
			return strings.TrimRight(reader.pick(w[0], w[1]), " \u00a0:")
		}
		return key
	}
	for _, w := range want {
		if len(shown) == 0 || shown[0].Key != w.key {
			if w.optional {
				continue
			}
			return name(w.key)
		}
		s := shown[0]
		shown = shown[1:]
		label := ""
		if w.labelled {
			label = page.word(w.key)
		}
		if s.Hidden || s.Folded && !w.folded || !reads(s.Label, label) || s.Link != w.link || !w.loose && !reads(s.Text, w.text) {
			return name(w.key)
		}
	}
	if len(shown) > 0 {
		return fmt.Sprintf(reader.pick("de trop : %s", "one too many: %s"), name(shown[0].Key))
	}
	return ""
}
