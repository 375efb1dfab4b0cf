// Package verdict says in words, French or English, what package proof found about a person's history. The browser and regard-audit both speak with it,
// so the same file gets the same verdict in the same words wherever it is checked.
//
// What it guarantees. A report that says "proven" is made only of a verdict that [proof.History.Verify] returned without an error and under the quorum of
// witnesses; whatever else happened has another state, and only what contradicts the log is called refuted. It is pure: no clock, no network. Reports hold
// types of identifiers, numbers, times, hashes and names of keys; nothing else about the person.
//
// What it doesn't. It verifies nothing itself but what a page shows ([ComparePage]), and it knows only of recorded requests under the identifiers of the
// history: never of all accesses in the world.
package verdict

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// State is the verdict in one word.
type State string

// The states.
const (
	Proven      State = "proven"      // at most with the limits that sound histories have, too
	Limited     State = "limited"     // proven, but for what one should look into
	Provisional State = "provisional" // all of it holds, under the log's signature alone
	Unverified  State = "unverified"  // it could not be checked, and nothing is known to be wrong
	Refuted     State = "refuted"     // it contradicts the log
)

// Input is a history that was checked, and what came of it.
type Input struct {
	Lang   Lang
	Policy *proof.Policy
	// Digest is the SHA-256 of the file, from which the reference of a refutation is made.
	Digest [32]byte
	// History and Verdict are what was read and what Verify returned; History is nil if it could not be read.
	History *proof.History
	Verdict *proof.HistoryVerdict
	Err     error
	// Now is when it was checked, by which it is judged how old a page may be; 0: that isn't judged.
	Now proof.Time
	// Fresh: it was fetched just now, so that it has to end with the newest closed epoch. What it was asked for says where it has to begin: Whole with the log's first epoch, and Asked with that of its first day; it ends with that of the last
	// one then. Neither: whoever reads it doesn't know for what it was asked, and its beginning isn't judged.
	Fresh bool
	Whole bool
	Asked *Days
}

// Report is a verdict in words.
type Report struct {
	State    State  `json:"state"`
	Title    string `json:"title"`    // one word or two, beside an icon
	Sentence string `json:"sentence"` // the verdict
	Covers   string `json:"covers,omitempty"`
	Quiet    string `json:"quiet,omitempty"` // how long nobody asked anything
	Cause    Cause  `json:"cause,omitempty"` // why it could not be verified
	// Next is what to do: wait, retry, or tell somebody.
	Next []string `json:"next,omitempty"`
	// Limits could be lifted; Scope is what no history can show.
	Limits  []Limit     `json:"limits,omitempty"`
	Scope   []Limit     `json:"scope,omitempty"`
	Checks  []Check     `json:"checks,omitempty"`
	Keys    []Key       `json:"keys,omitempty"`
	Refuted *Refutation `json:"refuted,omitempty"`
	Smaller bool        `json:"smaller,omitempty"` // than what was seen before, see CompareSeen
	Rows    []RowMark   `json:"rows,omitempty"`    // of the page, see ComparePage
}

// Limit is something that isn't proven, and how it could be.
type Limit struct {
	Text string    `json:"text"`
	Lift string    `json:"lift,omitempty"`
	Kind LimitKind `json:"kind"`
}

// LimitKind says what a limit means to whoever reads the verdict.
type LimitKind string

// The kinds of limits.
const (
	Standing LimitKind = "standing" // sound histories have it, too: nothing is wrong
	Worrying LimitKind = "worrying" // something is lost, hidden, late or left out
)

// limited turns what is proven into what is proven with limits, if one of them is worrying.
func (r *Report) limited(l Lang) {
	if r.State == Proven && slices.ContainsFunc(r.Limits, func(x Limit) bool { return x.Kind != Standing }) {
		r.State, r.Title = Limited, Title(Limited, l)
	}
}

// Refutation is what somebody else needs to look into it.
type Refutation struct {
	What string `json:"what"`
	When string `json:"when"`
	// Epoch and Entry are the numbers in question, if it can be told.
	Epoch *proof.Epoch `json:"epoch,omitempty"`
	Entry *proof.Index `json:"entry,omitempty"`
	// Detail is what the program that checked says, in English.
	Detail string `json:"detail"`
	// Reference names the file, whoever has it: the beginning of its SHA-256.
	Reference string   `json:"reference"`
	Keep      string   `json:"keep"`
	Tell      []string `json:"tell"`
}

// New puts a verdict into words.
func New(in Input) *Report {
	r := &Report{Keys: Keys(in.Policy, in.Lang)}
	v := in.Verdict
	switch err := in.Err; {
	case in.History == nil || err == nil && (v == nil || v.State == 0):
		r.unverified(in.Lang, CauseFormat)
	case err == nil || errors.Is(err, proof.ErrNotWitnessed):
		r.held(in)
	case errors.Is(err, proof.ErrAhead):
		r.unverified(in.Lang, CauseClock)
		r.Next = slices.Insert(r.Next, 0, fmt.Sprintf(in.Lang.pick("Cet appareil indique le %s.", "This device takes it to be %s."), in.Lang.when(in.Now)))
	case errors.Is(err, proof.ErrStale):
		r.unverified(in.Lang, CauseStale)
	case errors.Is(err, proof.ErrFork):
		r.refute(in)
	case errors.Is(err, proof.ErrOtherLog):
		r.unverified(in.Lang, CauseSignature)
	case comparedWithAnother(err):
		r.unverified(in.Lang, CauseSubject)
	default:
		r.refute(in)
	}
	r.Title = Title(r.State, in.Lang)
	return r
}

// Title names a state.
func Title(s State, l Lang) string {
	switch s {
	case Proven:
		return l.pick("Prouvé", "Proven")
	case Limited:
		return l.pick("Prouvé, avec des limites", "Proven, with limits")
	case Provisional:
		return l.pick("Provisoire", "Provisional")
	case Refuted:
		return l.pick("Réfuté", "Refuted")
	}
	return l.pick("Non vérifié", "Not verified")
}

// held is for histories in which everything holds.
func (r *Report) held(in Input) {
	l, v := in.Lang, in.Verdict
	r.Covers = fmt.Sprintf(l.pick("Identifiants couverts : %s.", "Identifiers covered: %s."), strings.Join(identifierNames(v, l), l.pick(" ; ", "; ")))
	r.Checks = checks(in, 0)
	r.Scope = scope(v, l, in.Now)
	if v.State != proof.Witnessed {
		r.State, r.Limits = Provisional, in.lacking()
		r.Sentence = l.pick("Enregistré, pas encore confirmé par les témoins.", "Recorded, not yet confirmed by the witnesses.")
		if in.Policy.Demands() {
			r.Next = []string{l.pick("Les témoins confirment d'ordinaire en quelques minutes. Rechargez la page plus tard ; si cela dure plus d'une journée, demandez pourquoi à l'exploitant.",
				"Witnesses usually confirm within minutes. Reload the page later; if it takes longer than a day, ask the operator why.")}
		} else {
			r.Next = []string{l.pick("Aucun témoin n'est exigé pour ce registre : personne d'autre que l'exploitant n'atteste que tout le monde voit la même liste.",
				"No witness is demanded for this log: nobody but the operator attests that everybody sees the same list.")}
		}
		return
	}
	r.Limits = append(in.lacking(), limits(v, l)...)
	r.State = Proven
	r.limited(l)
	r.Sentence = sentence(v, l, false) // of a list only ComparePage can speak
	r.Quiet = quiet(v, l)
}

// sentence is the verdict of what is proven: of a list that is whole, or of a history of which a list shows a part.
func sentence(v *proof.HistoryVerdict, l Lang, whole bool) string {
	list := l.pick("l'historique vérifié", "the history that was verified")
	if whole {
		list = l.pick("cette liste", "this list")
	}
	from, to := l.when(v.Opened), l.when(v.Closed)
	if v.Complete() {
		return fmt.Sprintf(l.pick("Tous les accès enregistrés à vos données sous ces identifiants, du %s au %s, sont dans %s, et rien n'y a été changé.",
			"All recorded requests about you under these identifiers, from %s to %s, are in %s, and nothing in it was changed."), from, to, list)
	}
	return fmt.Sprintf(l.pick("Du %s au %s, tout ce qui peut encore être montré des accès enregistrés à vos données sous ces identifiants est dans %s, et rien n'y a été changé.",
		"From %s to %s, all that can still be shown of the recorded requests about you under these identifiers is in %s, and nothing in it was changed."), from, to, list)
}

// quiet says in how many epochs nobody asked anything.
func quiet(v *proof.HistoryVerdict, l Lang) string {
	busy := map[proof.Epoch]bool{}
	for i := range v.Entries {
		busy[v.Entries[i].Epoch] = true
	}
	n := uint64(v.Epochs.To-v.Epochs.From) + 1 - uint64(len(busy))
	if !v.Complete() || n == 0 {
		return ""
	}
	one, more := period(v, l)
	if len(busy) > 0 { // than those that are in the list
		one, more = l.pick("autre ", "other ")+one, l.pick("autres ", "other ")+more
	}
	return fmt.Sprintf(l.pick("Aucun accès pendant %d %s, et c'est prouvé.", "No request in %d %s, and that is proven."), n, form(l, n, one, more))
}

// period is what people call an epoch: a day, if that is what it is.
func period(v *proof.HistoryVerdict, l Lang) (one, more string) {
	const day = 24 * 60 * 60 * 1000
	mean := int64(v.Closed-v.Opened) / int64(v.Epochs.To-v.Epochs.From+1)
	if mean > day*3/4 && mean < day*5/4 {
		return l.pick("jour", "day"), l.pick("jours", "days")
	}
	return l.pick("période", "period"), l.pick("périodes", "periods")
}

// identifierNames lists what people call the types.
func identifierNames(v *proof.HistoryVerdict, l Lang) []string {
	var out []string
	for _, s := range v.Subjects {
		out = append(out, identifierName(s.Type(), l))
	}
	return slices.Compact(out)
}

func identifierName(t proof.SubjectType, l Lang) string {
	names := map[proof.SubjectType]string{
		proof.TypePivot:  l.pick("identité complète", "full identity"),
		proof.TypePerson: l.pick("nom, prénoms, sexe et date de naissance, sans lieu de naissance", "names, sex and birth date, without place of birth"),
		proof.TypeNIR:    l.pick("numéro de sécurité sociale (NIR)", "social security number (NIR)"),
		proof.TypeINE:    l.pick("identifiant étudiant (INE)", "student number (INE)"),
		proof.TypeSIREN:  "SIREN",
	}
	if name, ok := names[t]; ok {
		return name
	}
	return strings.ReplaceAll(string(t), "_", " ")
}

// Whose says of whom a history is that holds, for the person's own eyes: a server could show the history of somebody whom nobody ever asked about. It is nil of one that doesn't hold.
func Whose(r *Report, in Input) []Fact {
	if r.State != Proven && r.State != Limited && r.State != Provisional {
		return nil
	}
	l := in.Lang
	var out []Fact
	for _, s := range in.Verdict.Subjects {
		name := identifierName(s.Type(), l)
		if p, ok := s.Pivot(); ok {
			out = slices.Insert(out, 0, Fact{name, l.person(p)}) // what everybody knows of themself
			continue
		}
		value := s.Value()
		if f := strings.Split(value, "|"); s.Type() == proof.TypePerson && len(f) == 4 {
			value = l.person(proof.Pivot{BirthName: f[0], GivenNames: f[1], BirthDate: f[2], Sex: f[3]})
		}
		out = append(out, Fact{name, value})
	}
	return out
}

// person names somebody by an identity, as far as it is known.
func (l Lang) person(p proof.Pivot) string {
	out := strings.Join(strings.Fields(p.GivenNames+" "+p.BirthName), " ")
	born := map[string]string{"F": l.pick("née", "born"), "M": l.pick("né", "born")}[p.Sex]
	if born == "" {
		born = l.pick("né(e)", "born")
	}
	if at, err := time.Parse(time.DateOnly, p.BirthDate); err == nil {
		out += fmt.Sprintf(l.pick(", %s le %s", ", %s on %s"), born, l.date(at))
	} else if p.BirthDate != "" {
		out += fmt.Sprintf(l.pick(", %s en %s", ", %s in %s"), born, p.BirthDate)
	}
	if p.BirthPlace != "" {
		out += " (commune " + p.BirthPlace + ")"
	} else if p.BirthCountry != "" {
		out += fmt.Sprintf(l.pick(" (pays %s)", " (country %s)"), p.BirthCountry)
	}
	return out
}

// refute is for what contradicts the log.
func (r *Report) refute(in Input) {
	l := in.Lang
	at := &proof.HistoryError{}
	_ = errors.As(in.Err, &at) // without a place it is about all of it
	x := &Refutation{What: what(at.Step, l), Epoch: at.Epoch, Entry: at.Entry, Detail: in.Err.Error(), Reference: Reference(in.Digest)}
	if errors.Is(in.Err, proof.ErrFork) {
		x.What = l.pick("le registre a montré deux histoires différentes", "the log has shown two different histories")
	}
	if errors.Is(in.Err, proof.ErrSignature) {
		x.What = l.pick("une signature est fausse", "a signature is false")
	}
	switch {
	case at.Opened != 0 && at.Closed > at.Opened:
		x.When = l.span(at.Opened, at.Closed)
	case at.Opened != 0:
		x.When = fmt.Sprintf(l.pick("à partir du %s", "from %s on"), l.when(at.Opened))
	default:
		x.When = all(in.History, l)
	}
	r.refuted(x, l)
	r.Checks = checks(in, at.Step)
}

// refuted fills in what is the same for all refutations.
func (r *Report) refuted(x *Refutation, l Lang) {
	x.Keep = l.pick("Enregistrez d'abord les preuves : un seul fichier, que d'autres peuvent vérifier sans ce site.", "First save the evidence: one file that others can check without this site.")
	x.Tell = []string{
		l.pick("la CNIL, autorité de protection des données (cnil.fr, « Adresser une plainte »)", "the CNIL, the data protection authority (cnil.fr, “Adresser une plainte”)"),
		l.pick("le Défenseur des droits (defenseurdesdroits.fr)", "the Défenseur des droits, the ombudsman (defenseurdesdroits.fr)"),
		l.pick("le délégué à la protection des données de l'exploitant, après les deux autres", "the operator's data protection officer, after the other two"),
	}
	r.State, r.Refuted, r.Limits, r.Quiet, r.Next = Refuted, x, nil, "", nil
	r.Title = Title(Refuted, l)
	r.Sentence = fmt.Sprintf(l.pick("Cette liste ne correspond pas au registre public : %s, %s.", "This list doesn't agree with the public log: %s, %s."), x.What, x.When)
}

// what says which part of a history contradicts the log.
func what(s proof.HistoryStep, l Lang) string {
	switch s {
	case proof.StepMarkers:
		return l.pick("la suite des jours est rompue", "the chain of days is broken")
	case proof.StepTree:
		return l.pick("ce qui est montré n'est pas dans le registre", "what is shown is not in the log")
	case proof.StepRolls:
		return l.pick("la liste de vos accès n'est pas celle que le registre contient", "the list of requests about you is not the one that the log holds")
	case proof.StepEntries:
		return l.pick("un accès manque, ou est de trop", "a request is missing, or is one too many")
	case proof.StepRecords:
		return l.pick("un accès n'est pas montré tel qu'il a été enregistré", "a request isn't shown as it was recorded")
	case proof.StepDeferrals:
		return l.pick("le nombre d'accès différés est faux", "the number of delayed requests is wrong")
	case proof.StepAudits:
		return l.pick("une attestation d'auditeur est fausse", "an auditor's statement is false")
	}
	return l.pick("ce qui est montré se contredit", "what is shown contradicts itself")
}

// all names the time that a history claims to be about.
func all(h *proof.History, l Lang) string {
	var at []proof.Time
	for _, i := range []int{0, len(h.Markers) - 1} {
		if i >= 0 && i < len(h.Markers) {
			if e, err := proof.ParseEntry(h.Markers[i]); err == nil {
				if m, ok := e.(proof.Marker); ok {
					at = append(at, m.Opened)
				}
			}
		}
	}
	if len(at) < 2 || at[1] <= at[0] {
		return l.pick("à une date que rien ne prouve", "at a date that nothing proves")
	}
	return fmt.Sprintf(l.pick("entre le %s et le %s", "between %s and %s"), l.when(at[0]), l.when(at[1]))
}

// Reference names a file by its SHA-256, short enough to be read out.
func Reference(digest [32]byte) string { return groups(digest[:10]) }

// groups writes hex in groups of four digits.
func groups(b []byte) string {
	var out []string
	for c := range slices.Chunk(b, 2) {
		out = append(out, fmt.Sprintf("%x", c))
	}
	return strings.Join(out, " ")
}
