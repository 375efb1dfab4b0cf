package portal

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// recordPage is what the template of one entry shows. Texts that others wrote are shown by bdi.
type recordPage struct {
	Names       string // address of the words in the facts
	Of          string // whose page it is, for the check
	Bundle      string // address of the history with which the page is compared: of the epoch of the entry, or if that is open of the last closed one; empty: none is closed
	Row         row
	State       broker.HistoryState
	Namesake    bool
	Erasure     *erasure
	Provisional bool // the epoch is open, or there is no quorum
	Published   bool // there is a receipt
	Settled     bool
	Witnessed   bool
	Facts       []fact
	Fields      []fieldNames // what was asked, obtained, released
	Why         *why
	Proof       *proofShown
	Details     []fact // one fold below: ids, digests, times in UTC
	Subject     string // type of the identifier, for the catalogue
	Contestable bool
	Silence     string // link by which one isn't told of such entries any more; empty: one never was
}

type erasure struct{ Reach proof.Index }

// fact is a name of the catalogue with a value that somebody else wrote, or with one of ours.
type fact struct {
	Key   string
	Value string
	Own   string
	At    time.Time
	Link  string
	Code  bool // a value for machines: in fixed width
}

// fieldNames are groups of fields by their titles.
type fieldNames struct {
	Key    string
	Names  []string
	Fields []string // JSON pointers
}

// why says why the agency was allowed to ask, or wasn't.
type why struct {
	Granted   bool
	Agency    string
	Agreement string
	From, To  time.Time
	Purposes  []string
	Law       string
	LawURL    string
	Reasons   []string
	Codes     []string
}

// entryID reads the log index in a path: its one decimal form.
func entryID(s string) (proof.Index, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return proof.Index(n), true
}

// own finds a record of the person, or says that there is none: in the same words for another's, and for what isn't a number.
func (p *Portal) own(r *request, s *Session) (*broker.OwnRecord, error) {
	index, ok := entryID(r.PathValue("id"))
	if !ok {
		return nil, &broker.Problem{Status: 404, Code: "record.unknown"}
	}
	return p.cfg.Broker.OwnRecord(r.Context(), s.Subjects, index)
}

func (p *Portal) record(r *request, s *Session) error {
	rec, err := p.own(r, s)
	if err != nil {
		return err
	}
	n := p.namer(r.lang)
	standing := p.cfg.Broker.Standing()
	data := &recordPage{
		Row: p.row(&rec.OwnEntry, n), State: rec.State, Namesake: rec.Namesake, Subject: string(rec.Subject.Type()),
		Published: rec.Receipt != nil, Settled: rec.Verdict.InRoll, Witnessed: rec.Verdict.State >= proof.Witnessed,
	}
	data.Of = verdict.Of(s.Subjects)
	if data.Names, err = p.namesOf(n); err != nil {
		return err
	}
	if standing.Open.Number > 0 {
		last := min(rec.Epoch, standing.Open.Number-1).String()
		data.Bundle = "/historique/fichier?epoques=" + last + "-" + last
	}
	data.Contestable = contestable(rec)
	if k := kindOf(&rec.OwnEntry); k != "" {
		data.Silence = pageSilence + "?type=" + string(k) + "&acces=" + rec.Index.String()
	}
	data.Provisional = rec.Index >= standing.Open.Marker || !data.Witnessed
	if rec.Kind == proof.KindErasure {
		data.Erasure = &erasure{rec.Reach}
	}
	o := rec.Opening
	if !o.IsZero() {
		p.facts(data, rec, n)
		if o.Schema() == proof.SchemaDisclosure && !rec.Namesake {
			data.Fields = fieldsOf(rec, n)
			data.Why = p.why(rec, n)
		}
	}
	p.delay(data, rec)
	if rec.Receipt != nil {
		if data.Proof, err = p.showProof(r.lang, rec); err != nil {
			return err
		}
	}
	return r.render(200, "record", "record.title", data)
}

// facts fills the list of what is known about an entry, and the fold below it.
func (p *Portal) facts(data *recordPage, rec *broker.OwnRecord, n *namer) {
	o := rec.Opening
	text := func(key string, f proof.Field) {
		if v := o.Text(f); v != "" {
			data.Facts = append(data.Facts, fact{Key: key, Value: v})
		}
	}
	at := func(key string, f proof.Field) {
		if t, ok := o.TimeOf(f); ok {
			data.Facts = append(data.Facts, fact{Key: key, At: t.Time().In(p.zone)})
		}
	}
	switch o.Schema() {
	case proof.SchemaDisclosure:
		at("fact.asked_at", proof.DisclosureAskedAt)
		if a := o.Text(proof.DisclosureAgency); a != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.agency", Value: n.agency(a)})
		}
		if v := o.Text(proof.DisclosureService); v != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.service", Value: n.service(v)})
		}
		if v := o.Text(proof.DisclosureProvider); v != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.provider", Value: n.provider(v)})
		}
		if v := o.Text(proof.DisclosurePurpose); v != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.purpose", Value: n.purpose(v)})
		}
		if v := o.Text(proof.DisclosureLegalBasis); v != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.law", Value: n.law(v), Link: n.words.LegalBases[v].URL})
		}
		text("fact.context", proof.DisclosureContext)
		text("fact.object", proof.DisclosureObject)
		if c := o.Text(proof.DisclosureCause); c != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.cause", Own: causeKey(c)})
		}
	case proof.SchemaAccess:
		at("fact.at", proof.AccessAt)
		data.Facts = append(data.Facts, fact{Key: "fact.reader", Value: n.reader(&rec.OwnEntry)})
		if v := n.reason(&rec.OwnEntry); v != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.reason", Value: v})
		}
		if rec.ReaderRole == proof.RoleDelegate && p.cfg.Identity != nil {
			data.Facts = append(data.Facts, fact{Key: "fact.mandate", Own: "nav.delegations", Link: "/mandats"})
		}
		if rec.Target != 0 {
			data.Facts = append(data.Facts, fact{Key: "fact.target", Value: rec.Target.String(), Link: "/acces/" + rec.Target.String()})
		}
	case proof.SchemaErasure:
		at("fact.erasure_asked_at", proof.ErasureAskedAt)
		at("fact.erased_at", proof.ErasureErasedAt)
		if g := o.Text(proof.ErasureGround); g != "" {
			data.Facts = append(data.Facts, fact{Key: "fact.ground", Value: n.law(g), Link: n.words.LegalBases[g].URL})
		}
	}
	for _, d := range verdict.Details(o.Schema()) {
		if v := d.In(o); v != "" {
			data.Details = append(data.Details, fact{Key: d.Key, Value: v, Code: true})
		}
		if a := n.Agencies[o.Text(proof.DisclosureAgency)]; d.Key == verdict.SIRETAfter && a.SIRET != "" {
			data.Details = append(data.Details, fact{Key: "detail.siret", Value: a.SIRET, Code: true})
		}
	}
}

// delay says how long the person wasn't told, and by whose order.
func (p *Portal) delay(data *recordPage, rec *broker.OwnRecord) {
	d := rec.Delay
	if d == nil {
		return
	}
	if !d.OpenedAt.IsZero() {
		data.Facts = append(data.Facts, fact{Key: "fact.revealed_at", At: d.OpenedAt.In(p.zone)})
	}
	if rec.Outcome != "" { // the status of the page is that it was delayed
		data.Facts = append(data.Facts, fact{Key: "fact.outcome", Own: "status." + rec.Outcome})
	}
	data.Facts = append(data.Facts, fact{Key: "fact.delayed_by", Value: d.Authority}, fact{Key: "fact.delayed_under", Value: d.Article})
	data.Details = append(data.Details, fact{Key: "detail.deferred", Value: d.Deferred.String(), Code: true}, fact{Key: "detail.deferred_month", Value: d.Month, Code: true})
}

// causeKey is the message that says why something wasn't completed.
func causeKey(cause string) string {
	head, _, _ := strings.Cut(cause, "/")
	if slices.Contains([]string{"interrupted", "restored", "provider", "broker"}, head) {
		return "cause." + head
	}
	return "cause.other"
}

// fieldsOf are the groups of fields that were asked for and what became of them.
func fieldsOf(rec *broker.OwnRecord, n *namer) []fieldNames {
	var out []fieldNames
	d := n.Services[serviceID(rec.Service)]
	for _, x := range []struct {
		key string
		f   proof.Field
	}{{"fields.requested", proof.DisclosureRequested}, {"fields.obtained", proof.DisclosureObtained}, {"fields.released", proof.DisclosureReleased}} {
		v, present := rec.Opening.Value(x.f)
		if present != proof.Present {
			continue
		}
		names := fieldNames{Key: x.key}
		if len(v) > 0 {
			names.Fields = rec.Opening.List(x.f)
		}
		if d != nil {
			for scope, g := range d.Scopes {
				if slices.ContainsFunc(d.ScopeFields(scope), func(p service.Pointer) bool { return slices.Contains(names.Fields, string(p)) }) {
					names.Names = append(names.Names, or(n.in(g.Title), string(scope)))
				}
			}
			slices.Sort(names.Names)
		}
		out = append(out, names)
	}
	return out
}

// why reads the recorded decision: the rule and the agreement that allowed the request, or the reasons that refused it.
func (p *Portal) why(rec *broker.OwnRecord, n *namer) *why {
	o := rec.Opening
	if rec.Role != proof.RoleAsked {
		return nil // the decision was about somebody else's request
	}
	basis := o.Text(proof.DisclosureLegalBasis)
	w := &why{Agency: n.agency(rec.Agency), Granted: rec.Outcome != proof.OutcomeDenied, Agreement: o.Text(proof.DisclosureAgreement), Law: n.law(basis), LawURL: n.words.LegalBases[basis].URL, Codes: o.List(proof.DisclosureReasons)}
	if w.Law == "" {
		w.Law = basis
	}
	for _, r := range rec.Reasons {
		if n.lang.code == "en" {
			w.Reasons = append(w.Reasons, r.EN)
		} else {
			w.Reasons = append(w.Reasons, verdict.Typeset(r.FR))
		}
	}
	if len(w.Reasons) > 0 {
		w.Codes = nil
	}
	if a := rec.Agreement; a != nil {
		w.From, w.To = a.NotBefore.In(p.zone), a.NotAfter.In(p.zone)
		for _, x := range a.Purposes {
			w.Purposes = append(w.Purposes, n.purpose(string(x)))
		}
	}
	return w
}

// receipt hands out the proof of one entry as a file.
func (p *Portal) receipt(r *request, s *Session) error {
	rec, err := p.own(r, s)
	if err != nil {
		return err
	}
	if rec.Receipt == nil {
		return &broker.Problem{Status: 404, Code: "receipt.none"}
	}
	text, err := rec.Receipt.AppendText(nil)
	if err != nil {
		return err
	}
	r.download("preuve-"+rec.Index.String()+".regard", "text/plain; charset=utf-8")
	r.write(200, text)
	return nil
}

// fingerprint is the SHA-256 of a text in hexadecimal.
func fingerprint(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
