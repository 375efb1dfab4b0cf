package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// line is what an honest page shows of an entry: the tokens of its markup, and its words.
type line struct {
	agency, service, outcome, at string
	day                          string
	cells                        [6]string // time, who, what, from whom, why and by which law, outcome
	links                        [6]string
	kind                         proof.Kind
	lang                         Lang
}

// outcomes in words, by what a page calls them.
var outcomes = map[string][2]string{
	proof.OutcomeReleased: {"Transmis", "Released"},
	proof.OutcomeEmpty:    {"Demandé, rien trouvé", "Asked, nothing found"},
	proof.OutcomeDenied:   {"Refusé par la règle", "Refused by policy"},
	proof.OutcomeFailed:   {"Non abouti", "Not completed"},
	"opened":              {"Accès différé par la loi", "Delayed by law"},
	"access":              {"Votre dossier a été ouvert", "Your record was opened"},
	"erasure":             {"Effacement", "Erasure"},
	"erased":              {"Détails effacés à votre demande", "Details erased at your request"},
	"homonym":             {"Concerne peut-être un homonyme", "May concern a namesake"},
	"retired":             {"Détails effacés à la fin de leur conservation", "Details erased at the end of their retention"},
	"lost":                {"Détails perdus", "Details lost"},
	"damaged":             {"Illisible", "Can't be read"},
}

// Outcome is the word of an outcome, by what the markup of pages calls it; "" if there is none.
func Outcome(code string, l Lang) string { return l.pick(outcomes[code][0], outcomes[code][1]) }

// untold are outcomes that stand in the words of a line alone: a namesake isn't told the outcome, and whether an erasure is for good is known when its epoch is closed.
var untold = []string{"erased", "homonym", "damaged"}

// line puts an entry into words, as the record has it and as its tokens are named.
func (n *Names) line(e *proof.VerifiedEntry, t proof.SubjectType, l Lang) line {
	namesake := t == proof.TypePerson && e.Kind != proof.KindErasure
	status := statusOf(e, namesake)
	x := line{kind: e.Kind, lang: l}
	o := e.Opening
	at := timeOf(e)
	who, what, from, why, law := "–", fmt.Sprintf("%s %d", l.pick("Inscription n°", "Entry no."), e.Index), "", "", ""
	if status == "erasure" {
		who, what = l.pick("Vous", "You"), l.pick("Effacement de vos détails", "Erasure of your details")
	}
	switch {
	case o.IsZero():
	case o.Schema() == proof.SchemaDisclosure:
		x.agency, x.service = o.Text(proof.DisclosureAgency), o.Text(proof.DisclosureService)
		if x.agency != "" {
			who, what = n.or("agency", x.agency), n.data(o, l)
			if p := o.Text(proof.DisclosureProvider); p != "" {
				from = n.or("provider", p)
			}
			if p := o.Text(proof.DisclosurePurpose); p != "" {
				why = n.or("purpose."+l.pick("fr", "en"), p)
			}
			if p := o.Text(proof.DisclosureLegalBasis); p != "" {
				law, x.links[4] = n.or("law."+l.pick("fr", "en"), p), n.by["law.url "+p]
			}
		}
	case o.Schema() == proof.SchemaAccess:
		x.agency = o.Text(proof.AccessReader)
		if x.agency != "" {
			who, why = n.reader(o, l)
		}
		if status == "access" || o.Text(proof.AccessTarget) != "" {
			what = l.pick("Votre enregistrement", "Your record")
		}
	}
	if !slices.Contains(untold, status) {
		x.outcome = status
	}
	labelled := func(label, value string) string {
		if value == "" {
			return ""
		}
		return label + " " + value
	}
	x.day = l.pick("Date inconnue", "Date unknown")
	clock := "–"
	if at != 0 {
		x.at, x.day, clock = utc(at), l.weekday(at), paris(at.Time()).Format("15:04")
	}
	columns := Columns(l)
	x.cells = [6]string{clock, who, what, labelled(columns[3], from), labelled(columns[4], why) + " " + law, Outcome(status, l)}
	for i := range x.cells {
		x.cells[i] = Clean(x.cells[i]) // as portals do
	}
	x.links[2] = EntryPath + e.Index.String()
	return x
}

// statusOf is what a page says first about an entry.
func statusOf(e *proof.VerifiedEntry, namesake bool) string {
	switch e.State {
	case proof.RecordOpen:
	case proof.RecordErased, proof.RecordErasing:
		if e.Kind != proof.KindErasure {
			return "erased"
		}
	case proof.RecordRetired:
		return "retired"
	default:
		return "lost"
	}
	outcome := e.Opening.Text(proof.DisclosureOutcome)
	switch _, known := outcomes[outcome]; {
	case e.Kind == proof.KindErasure:
		return "erasure"
	case namesake:
		return "homonym"
	case e.Kind == proof.KindAccess:
		return "access"
	case e.Kind == proof.KindOpened:
		return "opened"
	case known:
		return outcome
	}
	return "damaged"
}

// data names what was asked for or given: the groups of fields, or the service as a whole if they aren't known.
func (n *Names) data(o proof.Opening, l Lang) string {
	id, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@")
	lang := l.pick("fr", "en")
	var scopes []string
	if o.Text(proof.DisclosureRole) == proof.RoleAsked && o.Text(proof.DisclosureOutcome) != proof.OutcomeReleased {
		scopes = askedScopes(o)
	} else {
		fields := o.List(proof.DisclosureReleased)
		if len(fields) == 0 {
			fields = o.List(proof.DisclosureRequested)
		}
		for key, of := range n.fields {
			if scope, ok := strings.CutPrefix(key, "field "+id+" "); ok && slices.ContainsFunc(of, func(f string) bool { _, ok := slices.BinarySearch(fields, f); return ok }) {
				scopes = append(scopes, scope)
			}
		}
		slices.Sort(scopes)
	}
	if _, known := n.by["service."+lang+" "+id]; !known || len(scopes) == 0 {
		return n.or("service."+lang, id)
	}
	for i, s := range scopes {
		scopes[i] = n.or("scope."+lang, id, s)
	}
	return strings.Join(scopes, ", ")
}

// askedScopes are those of the recorded decision: the member after the schema (docs/formats.md, section 9). No string of canonical JSON can hold a quotation mark that isn't escaped.
func askedScopes(o proof.Opening) []string {
	_, list, ok := strings.Cut(o.Text(proof.DisclosureInput), `,"schema":"regard/input@v1","scopes":["`)
	list, _, end := strings.Cut(list, `"]`)
	if !ok || !end {
		return nil
	}
	return strings.Split(list, `","`)
}

// reader says who opened a record, and why.
func (n *Names) reader(o proof.Opening, l Lang) (who, why string) {
	who, why = o.Text(proof.AccessReader), o.Text(proof.AccessReason)
	switch o.Text(proof.AccessRole) {
	case proof.RoleOperator:
		who = fmt.Sprintf(l.pick("Service d'assistance, agent %s", "Help desk, agent %s"), strings.TrimPrefix(who, "uid-"))
	case proof.RoleCourt:
		who = fmt.Sprintf(l.pick("Autorité judiciaire (%s)", "Judicial authority (%s)"), who)
	case proof.RoleAuditor:
		who = fmt.Sprintf(l.pick("%s, auditeur accrédité", "%s, accredited auditor"), n.or("auditor", who))
	case proof.RoleDelegate:
		who = l.pick("Une personne qui a un mandat", "Somebody who has a delegation")
		switch why {
		case "guardian":
			why = l.pick("Représentant légal", "Legal representative")
		case "representative":
			why = l.pick("Représentant de l'entreprise", "Representative of the business")
		}
	}
	return who, why
}

var weekdays = map[Lang][7]string{
	French:  {"dimanche", "lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi"},
	English: {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"},
}

// weekday is a date in words with its day of the week.
func (l Lang) weekday(at proof.Time) string {
	t := paris(at.Time())
	return weekdays[l.orEnglish()][t.Weekday()] + " " + l.date(t)
}

// A rowPart is one in French and English; empty: none.
type rowPart [2]string

// cellParts are in the order of the cells.
var cellParts = [6]rowPart{{"heure", "time"}, {"qui a demandé", "who asked"}, {"quoi", "what"}, {"auprès de qui", "from whom"}, {"pourquoi", "why"}, {"résultat", "outcome"}}

// differs names the first part of a row that isn't as it was recorded. today: the row stands under the heading of the open epoch, which has no date. told: while the epoch of the entry was open.
func (x line) differs(row Row, today bool, told [2]proof.Time) rowPart {
	last := len(x.cells) - 1
	if x.outcome == "lost" && row.Outcome == "" { // the broker couldn't read it before the log said that it is lost
		x.outcome, x.cells[last] = "", Outcome("damaged", x.lang)
	}
	if row.Agency != x.agency || row.Service != x.service || row.Outcome != x.outcome || row.At != x.at {
		return rowPart{"ses attributs", "its attributes"}
	}
	if len(row.Cells) != len(x.cells) {
		return rowPart{"ses cases", "its cells"}
	}
	if !today && !reads(row.Day, x.day) {
		return rowPart{"le jour", "the day"}
	}
	if !slices.Equal(row.Links, x.links[:]) {
		return rowPart{"où mènent ses liens", "where its links lead"}
	}
	for i, want := range x.cells {
		got := row.Cells[i]
		if i == last && x.kind == proof.KindOpened {
			got = withoutReveal(got, told, x.lang)
		}
		if !reads(got, want) {
			return cellParts[i]
		}
	}
	return rowPart{}
}

// maxTold bounds the days of an epoch that are tried.
const maxTold = 40

// withoutReveal takes away on which day a delay ended, if it was while the epoch of the entry was open: the log knows no more of it.
func withoutReveal(text string, told [2]proof.Time, l Lang) string {
	text = plain(text)
	for at, n := told[0], 0; n < maxTold; n++ {
		if rest, ok := strings.CutSuffix(text, plain(l.pick(" Révélé le ", " Revealed on ")+l.weekday(at))); ok {
			return rest
		}
		if at >= told[1] {
			break
		}
		at = min(at+proof.Time((24*time.Hour).Milliseconds()), told[1])
	}
	return text
}

// reads reports whether two texts read alike.
func reads(a, b string) bool { return plain(a) == plain(b) }

// plain is text with one space for each stretch of white space, and without the marks that isolate what somebody else wrote (Unicode Standard Annex #9: FSI, PDI).
func plain(s string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("\u2068", "", "\u2069", "").Replace(s)), " ")
}
