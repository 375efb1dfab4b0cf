package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// The time that may go by between when an epoch is due to close and when a history has it: half an epoch, for it has to be closed, published and witnessed, and clocks differ.
const (
	minLate = proof.Time(time.Minute / time.Millisecond)
	maxLate = proof.Time(12 * time.Hour / time.Millisecond)
)

// clockSlack is how much the clock of a device may be behind.
const clockSlack = proof.Time(time.Hour / time.Millisecond)

// late reports whether a history should have had another epoch by a time.
func late(v *proof.HistoryVerdict, by proof.Time) bool {
	return by > v.Due+min(max((v.Due-v.Closed)/2, minLate), maxLate)
}

// auditTime is how long auditors have to count again what was closed, by the time of the history itself: without them nobody but the log's users confirms that it is whole.
const auditTime = proof.Time(7 * 24 * time.Hour / time.Millisecond)

// lacking are the limits of a history that was just fetched and begins or ends within what was asked for.
func (in Input) lacking() (out []Limit) {
	l, v := in.Lang, in.Verdict
	if !in.Fresh {
		return nil
	}
	if in.Now != 0 && in.Now+clockSlack < v.Closed {
		out = append(out, Limit{
			fmt.Sprintf(l.pick("L'horloge de cet appareil indique le %s, et l'historique va jusqu'au %s : ce qui manquerait depuis ne peut être vu.", "The clock of this device says %s, and the history goes up to %s: what might be missing since then can't be noticed."), l.when(in.Now), l.when(v.Closed)),
			l.pick("Réglez l'horloge de cet appareil, et rechargez la page.", "Set the clock of this device, and load the page again."), Worrying,
		})
	}
	// A whole history has all epochs of the log, those of which nothing is kept any more as well: they are said to be over, and not left out.
	begun, to := v.Epochs.From == 0 || !in.Whole, in.Now
	if in.Asked != nil {
		var from proof.Time
		from, to = in.Asked.span(in.Now)
		begun, to = v.Epochs.From == 0 || v.Opened <= from, min(to, in.Now)
	}
	if !begun {
		missing := l.pick("des journées demandées y manquent", "days that were asked for are missing from it")
		if in.Asked == nil {
			missing = l.pick("les journées d'avant y manquent, et le registre les a", "the days before are missing, and the log has them")
		}
		out = append(out, Limit{
			fmt.Sprintf(l.pick("L'historique ne commence que le %s : %s.", "The history begins on %s only: %s."), l.when(v.Opened), missing),
			l.pick("Demandez-le de nouveau. S'il commence au même jour, demandez-en la raison à l'exploitant, puis à la CNIL.",
				"Ask for it again. If it begins on the same day, ask the operator for the reason, then the data protection authority."),
			Worrying,
		})
	}
	if !late(v, to) {
		return out
	}
	return append(out, Limit{
		fmt.Sprintf(l.pick("L'historique s'arrête le %s. La période suivante devait se clore le %s : des journées closes y manquent, ou le registre s'est arrêté.",
			"The history ends on %s. The next period was due to close on %s: closed days are missing from it, or the log stands still."), l.when(v.Closed), l.when(v.Due)),
		fmt.Sprintf(l.pick("L'horloge de cet appareil indique le %s : si c'est faux, réglez-la. ", "This device takes it to be %s: if that is wrong, set its clock. "), l.when(in.Now)) +
			l.pick("Demandez un historique jusqu'à aujourd'hui. S'il s'arrête au même jour, quelque chose vous est peut-être caché : demandez-en la raison à l'exploitant, puis à la CNIL.",
				"Ask for a history up to today. If it ends on the same day, something may be kept from you: ask the operator for the reason, then the data protection authority."),
		Worrying,
	})
}

// limits are what this history doesn't prove and could, in words for people: what is to be looked into first.
func limits(v *proof.HistoryVerdict, l Lang) []Limit {
	var out []Limit
	limit := func(k LimitKind, fr, en, liftFR, liftEN string, args []any) {
		out = append(out, Limit{fmt.Sprintf(l.pick(fr, en), args...), l.pick(liftFR, liftEN), k})
	}
	add := func(fr, en, liftFR, liftEN string, args ...any) { limit(Standing, fr, en, liftFR, liftEN, args) }
	worry := func(fr, en, liftFR, liftEN string, args ...any) { limit(Worrying, fr, en, liftFR, liftEN, args) }
	one, more := period(v, l)
	const askFR, askEN = "Demandez-en la raison à l'exploitant, par écrit.", "Ask the operator for the reason, in writing."
	if n := v.Deferrals.Pending; n > 0 {
		what := form(l, n, l.pick("accès est différé", "request is delayed"), l.pick("accès sont différés", "requests are delayed"))
		add("%d %s par la loi, peut-être à propos de quelqu'un d'autre que vous.", "%d %s by law, and may be about somebody else than you.",
			"Revenez plus tard : chacun s'ouvre au plus tard au mois inscrit dans le registre.", "Come back later: each is revealed by the month that stands in the log.", n, what)
	}
	if n := v.Deferrals.Overdue; n > 0 {
		worry("Accès différés par la loi et en retard sur le mois inscrit dans le registre : %d.", "Requests delayed by law that are later than the month that stands in the log: %d.", askFR, askEN, n)
	}
	if n := v.Deferrals.Lost; n > 0 {
		worry("Accès différés par la loi et dont les détails ont été perdus : %d.", "Requests delayed by law with details that were lost: %d.", askFR, askEN, n)
	}
	if _, late := v.Delays(); late > 0 {
		worry("Accès qui ne vous ont été dits qu'après le mois inscrit dans le registre : %d.", "Requests that you were told of only after the month that stands in the log: %d.", askFR, askEN, late)
	}
	if !v.Deferrals.Counted {
		add("Le nombre d'accès différés par la loi repose sur la parole de l'exploitant.", "The number of requests delayed by law is the operator's word.",
			"Demandez un historique depuis le premier jour du registre : il prouve ce nombre.", "Ask for a history from the log's first day on: it proves the number.")
	}
	switch n, since := v.Unaudited, v.UnauditedSince; {
	case since != 0 && max(v.RootTime, v.Closed) > since+auditTime:
		worry("Pour %d %s, depuis ce qui fut clos le %s, aucun auditeur n'a refait le compte : que rien n'y manque repose sur les seuls contrôles des administrations.",
			"For %d %s, from what was closed on %s on, no auditor has counted again: that nothing is missing there rests on the checks of agencies and providers alone.",
			"Les auditeurs le font d'ordinaire en quelques jours : demandez-en la raison à l'exploitant, par écrit.", "Auditors usually do so within days: ask the operator for the reason, in writing.",
			n, form(l, n, one, more), l.when(since))
	case n > 0:
		add("Pour %d %s, aucun auditeur n'a encore refait le compte : que rien n'y manque repose sur les contrôles des administrations.",
			"For %d %s no auditor has counted again yet: that nothing is missing there rests on the checks of agencies and providers.",
			"Les auditeurs le font après coup : vérifiez de nouveau plus tard.", "Auditors do so afterwards: check again later.", n, form(l, n, one, more))
	}
	if len(v.Ended) > 0 {
		var n uint64
		for _, r := range v.Ended {
			n += uint64(r.To-r.From) + 1
		}
		add("De %d %s plus rien n'est conservé : la durée promise est passée.", "Of %d %s nothing is kept any more: the promised time is over.",
			"Un historique que vous avez téléchargé avant reste vérifiable.", "A history that you downloaded before can still be checked.", n, form(l, n, one, more))
	}
	if n := v.LostRolls; n > 0 {
		worry("Listes vous concernant dont le contenu a été perdu avec une sauvegarde restaurée : %d.", "Lists about you whose contents were lost with a restored backup: %d.", askFR, askEN, n)
	}
	if n := v.LostEntries; n > 0 {
		worry("Les détails de %d accès au plus ont été perdus ; chacun peut concerner n'importe qui.", "The details of %d requests at most were lost; each may be about anybody.", askFR, askEN, n)
	}
	if n := v.Count(proof.RecordErasing); n > 0 {
		add("Accès effacés il y a peu, dont l'effacement n'est pas encore dans une période close : %d.", "Requests erased lately, whose erasure doesn't stand in a closed period yet: %d.",
			"Vérifiez de nouveau dans quelques jours.", "Check again in a few days.", n)
	}
	if n := v.Count(proof.RecordLost); n > 0 {
		worry("Accès dont le contenu a été perdu : %d.", "Requests whose contents were lost: %d.", askFR, askEN, n)
	}
	if n := v.Count(proof.RecordUnknown); n > 0 {
		worry("Accès d'un type que cette version ne connaît pas : %d.", "Requests of a type that this version doesn't know: %d.", "Utilisez une version plus récente de regard-audit.", "Use a newer version of regard-audit.", n)
	}
	if n, fields := v.Withheld(); n > 0 {
		worry("Champs que vous avez le droit de lire et qui sont cachés : %d, dans %d accès.", "Fields that you may read and that are hidden: %d, in requests: %d.", "Demandez un historique fait pour vous.", "Ask for a history that was made for yourself.", fields, n)
	}
	if n := v.Count(proof.RecordRetired); n > 0 && !v.KeysCounted {
		add("Accès dont la fin de conservation repose sur la parole de l'exploitant : %d.", "Requests whose end of retention is the operator's word: %d.",
			"Demandez un historique depuis le premier jour du registre.", "Ask for a history from the log's first day on.", n)
	}
	slices.SortStableFunc(out, func(a, b Limit) int { return strings.Compare(string(b.Kind), string(a.Kind)) })
	return out
}

// scope is what no history can show, in words for people.
func scope(v *proof.HistoryVerdict, l Lang, now proof.Time) []Limit {
	end := Limit{Kind: Standing, Text: fmt.Sprintf(l.pick("De ce qui est venu après le %s, rien n'est prouvé.", "Of what came after %s nothing is proven."), l.when(v.Closed))}
	if now == 0 || now <= v.Due {
		end.Lift = fmt.Sprintf(l.pick("La période suivante doit se clore le %s : revenez ensuite.", "The next period is due to close on %s: come back then."), l.when(v.Due))
	}
	out := []Limit{end}
	if v.Epochs.From > 0 {
		out = append(out, Limit{fmt.Sprintf(l.pick("Rien n'est dit d'avant le %s.", "Nothing is said about the time before %s."), l.when(v.Opened)), l.pick("Demandez un historique plus long.", "Ask for a longer history."), Standing})
	}
	out = append(out, Limit{
		l.pick("Les demandes faites sous d'autres identifiants, ou avec une partie de votre identité, n'y sont pas.", "Requests under other identifiers, or with a part of your identity, aren't in it."),
		l.pick("Ajoutez vos autres identifiants à votre compte.", "Add your other identifiers to your account."),
		Standing,
	})
	if slices.ContainsFunc(v.Subjects, func(s proof.Subject) bool { return s.Type() == proof.TypePerson }) {
		out = append(out, Limit{l.pick("Ce qui est classé sous vos nom, prénoms, sexe et date de naissance, sans lieu de naissance, concerne peut-être un homonyme.", "What is filed under your names, sex and birth date, without place of birth, may concern a namesake."), "", Standing})
	}
	return append(out, Limit{l.pick("Des données transmises sans passer par ce registre n'y laissent pas de trace.", "Data that were given without this log leave no trace in it."), "", Standing})
}
