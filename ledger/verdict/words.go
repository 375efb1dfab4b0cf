package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// words are the statements about a verdict, by the check that they belong to. They hold the types of the subjects and
// nothing else about the person.
type words struct {
	v         *proof.HistoryVerdict
	lang      Lang
	at        checkCode
	says, not [checkCodes][]string
}

// Words says what was proven, and what wasn't, one statement a line.
func Words(v *proof.HistoryVerdict, lang Lang) (says, not []string) {
	if v.State == 0 {
		return nil, []string{lang.pick("quoi que ce soit.", "anything.")}
	}
	w := newWords(v, lang)
	return slices.Concat(w.says[:]...), slices.Concat(w.not[:]...)
}

func newWords(v *proof.HistoryVerdict, lang Lang) *words {
	w := &words{v: v, lang: lang}
	w.signed()
	w.older()
	w.requests()
	w.states()
	w.delays()
	w.auditors()
	w.scope()
	return w
}

// say and deny take the sentence in French and English, and the arguments of both.
func (w *words) say(fr, en string, args ...any) {
	w.says[w.at] = append(w.says[w.at], fmt.Sprintf(w.lang.pick(fr, en), args...))
}

func (w *words) deny(fr, en string, args ...any) {
	w.not[w.at] = append(w.not[w.at], fmt.Sprintf(w.lang.pick(fr, en), args...))
}

// utc is how times are written in proofs.
func utc(t proof.Time) string { return t.Time().Format(time.RFC3339) }

// form chooses between singular and plural: nought is singular in French and plural in English.
func form[N int | uint64](lang Lang, n N, one, more string) string {
	if n == 1 || n == 0 && lang == French {
		return one
	}
	return more
}

// many writes a number with a word in singular or plural, in the reader's language.
func many[N int | uint64](w *words, n N, oneFR, moreFR, oneEN, moreEN string) string {
	return fmt.Sprintf("%d %s", n, form(w.lang, n, w.lang.pick(oneFR, oneEN), w.lang.pick(moreFR, moreEN)))
}

// epochs writes "epoch 4", or "epochs" and ranges; of many only the first ones.
func (w *words) epochs(r []proof.EpochRange) string {
	const shown = 5
	var parts []string
	for i, x := range r {
		if i == shown {
			parts = append(parts, fmt.Sprintf(w.lang.pick("et %d autres suites", "and %d more stretches"), len(r)-shown))
			break
		}
		if x.From == x.To {
			parts = append(parts, x.From.String())
		} else {
			parts = append(parts, fmt.Sprintf(w.lang.pick("%d à %d", "%d to %d"), x.From, x.To))
		}
	}
	if len(r) == 1 && r[0].From == r[0].To {
		return w.lang.pick("période ", "epoch ") + parts[0]
	}
	return w.lang.pick("périodes ", "epochs ") + strings.Join(parts, ", ")
}

func (w *words) signed() {
	v := w.v
	w.at = checkSignature
	w.say("Le registre %s a signé un arbre de %d entrées ; tout ce qui est dit ci-dessous s'y trouve.", "The log %s signed a tree of %d entries; all that is said below stands in it.", v.Origin, v.Size)
	if v.State == proof.Witnessed {
		var names []string
		for _, c := range v.Witnesses {
			names = append(names, c.Name)
		}
		w.say("Le quorum des témoins a vu cet arbre, pas avant le %s : %s.", "The quorum of witnesses saw this tree, not before %s: %s.", utc(v.RootTime), strings.Join(names, ", "))
	} else {
		w.deny("que d'autres aient vu le même arbre : sans le quorum des témoins, tout repose sur la seule signature du registre.",
			"that others were shown the same tree: without the quorum of witnesses all of this rests on the log's own signature.")
	}
	for _, name := range v.Unverified {
		w.deny("la ligne de signature de %q : votre politique ne connaît pas sa clé.", "the signature line of %q: your policy doesn't know its key.", name)
	}
}

func (w *words) older() {
	v := w.v
	w.at = checkOlder
	if v.Extends {
		w.say("Il prolonge l'historique plus ancien : rien de ce qui était montré n'a disparu ni changé.", "It goes on from the older history: nothing that was shown is gone or is something else.")
	} else if v.Compared {
		if len(v.Common) > 0 {
			w.say("Rien de ce que l'historique plus ancien montre n'a disparu ni changé (%s).", "In %s nothing that the older history shows is gone or is something else.", w.epochs(v.Common))
		} else {
			w.deny("que quoi que ce soit de l'historique plus ancien y soit encore : aucune période n'est dans les deux.", "that anything of the older history is still there: no epoch is in both.")
		}
		w.deny("que l'arbre plus ancien soit le début de celui-ci : demandez la preuve de cohérence au registre, à un témoin ou à un miroir.",
			"that the older tree is the beginning of this one: ask the log, a witness or a mirror for the proof of consistency.")
	}
}

// identifiers lists the types of the subjects.
func identifiers(v *proof.HistoryVerdict) string {
	var types []string
	for _, s := range v.Subjects {
		types = append(types, string(s.Type()))
	}
	return strings.Join(slices.Compact(types), ", ")
}

func (w *words) requests() {
	v := w.v
	w.at = checkComplete
	span := fmt.Sprintf(w.lang.pick("périodes %d à %d, du %s au %s", "epochs %d to %d, from %s to %s"), v.Epochs.From, v.Epochs.To, utc(v.Opened), utc(v.Closed))
	if v.Epochs.From == v.Epochs.To {
		span = fmt.Sprintf(w.lang.pick("période %d, du %s au %s", "epoch %d, from %s to %s"), v.Epochs.From, utc(v.Opened), utc(v.Closed))
	}
	n := many(w, len(v.Entries), "entrée", "entrées", "entry", "entries")
	if v.Complete() {
		w.say("Ce sont toutes les demandes enregistrées qui vous concernent sous ces identifiants (%s), %s : %s.", "These are all recorded requests about you under these identifiers (%s) in %s: %s.", identifiers(v), span, n)
	} else {
		w.say("Ce sont des demandes enregistrées qui vous concernent sous ces identifiants (%s), %s, pour autant qu'elles puissent encore être montrées : %s.",
			"These are recorded requests about you under these identifiers (%s) in %s, as far as they can still be shown: %s.", identifiers(v), span, n)
	}
	type what struct {
		kind   proof.Kind
		schema proof.Schema // of what was delayed; 0: of that nothing can be shown
	}
	kinds := map[what]int{}
	for i := range v.Entries {
		k := what{kind: v.Entries[i].Kind}
		if k.kind == proof.KindOpened {
			k.schema = v.Entries[i].Opening.Schema()
		}
		kinds[k]++
	}
	for _, k := range []struct {
		what
		oneFR, moreFR, oneEN, moreEN string
	}{
		{what{proof.KindDisclosure, 0}, "demande de données", "demandes de données", "data request", "data requests"},
		{what{proof.KindOpened, proof.SchemaDisclosure}, "demande de données différée par la loi", "demandes de données différées par la loi",
			"data request that was delayed by law", "data requests that were delayed by law"},
		{what{proof.KindOpened, proof.SchemaAccess}, "ouverture de la fiche d'une telle demande, différée avec elle", "ouvertures de fiches de telles demandes, différées avec elles",
			"opening of the record of such a request, delayed with it", "openings of records of such requests, delayed with them"},
		{what{proof.KindOpened, 0}, "entrée différée par la loi et dont rien n'est ouvert", "entrées différées par la loi et dont rien n'est ouvert",
			"entry that was delayed by law and of which nothing is open", "entries that were delayed by law and of which nothing is open"},
		{what{proof.KindAccess, 0}, "ouverture d'une fiche par quelqu'un", "ouvertures de fiches par quelqu'un", "opening of a record by somebody", "openings of records by somebody"},
		{what{proof.KindErasure, 0}, "effacement", "effacements", "erasure", "erasures"},
	} {
		if n := kinds[k.what]; n > 0 {
			w.say("Parmi elles : %s.", "Among them: %s.", many(w, n, k.oneFR, k.moreFR, k.oneEN, k.moreEN))
		}
	}
	if len(v.Ended) > 0 {
		w.deny("quoi que ce soit sur : %s. La durée de conservation est passée, comme le registre l'avait promis, et la clé des étiquettes est détruite.",
			"anything about %s: the retention is over, as the log promised, and the key of the labels was destroyed.", w.epochs(v.Ended))
	}
	if v.LostRolls > 0 {
		w.deny("le contenu de %s : le registre dit que des détails ont été perdus avec une sauvegarde restaurée. Que vous les avez est prouvé.",
			"what is in %s of yours: the log says that details were lost with a restored backup. That you have them is proven.", many(w, v.LostRolls, "de vos listes", "de vos listes", "roll", "rolls"))
	}
	if v.LostEntries > 0 {
		w.deny("que ce soient toutes : les détails de %s au plus ont été perdus, comme le registre le dit, et chacune peut concerner n'importe qui, vous aussi.",
			"that these are all: of %s at most the details were lost, as the log says, and each may be about anybody, you too.", many(w, v.LostEntries, "entrée", "entrées", "entry", "entries"))
	}
}

func (w *words) states() {
	v := w.v
	w.at = checkRecords
	if n := v.Count(proof.RecordOpen); n > 0 {
		w.say("%s : le registre s'est engagé sur chaque champ.", "%s recorded: the log committed to every field.",
			many(w, n, "fiche est montrée telle qu'enregistrée", "fiches sont montrées telles qu'enregistrées", "record is shown as it was", "records are shown as they were"))
	}
	if n, fields := v.Withheld(); n > 0 {
		w.deny("le contenu de %s dans %s : vous avez le droit de les lire, et le fichier les cache. Demandez un historique fait pour vous.",
			"what %s in %s: you may read them, and the file hides them. Ask for a history that was made for yourself.",
			many(w, fields, "champ", "champs", "field says", "fields say"), many(w, n, "fiche", "fiches", "record", "records"))
	}
	if n := v.Count(proof.RecordErased); n > 0 {
		w.say("%s, et un effacement dans votre propre liste rend compte de chacune.", "%s erased, and an erasure in your own roll accounts for each.",
			many(w, n, "fiche a été effacée", "fiches ont été effacées", "record was", "records were"))
		w.deny("qui a vu la partie administrative des fiches effacées : le registre le dit pour des périodes entières (audit@v1), car nul ne peut dire à qui elles sont.",
			"who was shown the administrative parts of erased records: the log tells it of whole epochs (audit@v1), for nobody can tell whose they are.")
	}
	if n := v.Count(proof.RecordErasing); n > 0 {
		w.deny("que %s à votre demande : l'effacement est après ces périodes, ou ses détails ont été perdus, et à qui il est repose sur la parole de l'exploitant. Vérifiez de nouveau quand sa période sera close.",
			"that %s erased at your demand: the erasure stands after these epochs, or its details were lost, and whose it is is the operator's word. Check again when its epoch is closed.",
			many(w, n, "fiche a été effacée", "fiches ont été effacées", "record was", "records were"))
	}
	if n := v.Count(proof.RecordRetired); n > 0 {
		w.say("%s : la durée de conservation promise par le registre est passée.", "%s no longer kept: the retention that the log had promised is over.",
			many(w, n, "fiche n'est plus conservée", "fiches ne sont plus conservées", "record is", "records are"))
		if !v.KeysCounted {
			w.deny("qu'aucune durée plus longue n'ait été promise pour elles : qu'aucune entrée de ce genre n'ait été omise repose sur la parole de l'exploitant.",
				"that no longer retention was promised for them: that no such entry was left out is the operator's word.")
		}
	}
	if n := v.Count(proof.RecordLost); n > 0 {
		w.deny("le contenu de %s : les détails ont été perdus, et le registre le dit. Que ces fiches existent est prouvé.", "what is in %s: the details were lost, and the log says so. That they exist is proven.",
			many(w, n, "fiche", "fiches", "record", "records"))
	}
	if n := v.Count(proof.RecordUnknown); n > 0 {
		w.deny("le contenu de %s : le type est plus récent que ce programme.", "what %s says: the type is newer than this program.", many(w, n, "entrée", "entrées", "entry", "entries"))
	}
}

func (w *words) delays() {
	d := w.v.Deferrals
	w.at = checkDelays
	w.ended()
	if d.Pending == 0 && d.Counted {
		w.say("Aucune communication, sur qui que ce soit, n'est gardée secrète en ce moment.", "No disclosure about anybody is kept secret for the time being.")
		return
	}
	by := w.lang.pick("selon l'exploitant ; seul un historique depuis la période 0 prouve leur nombre", "as the operator says; only a history from epoch 0 on proves their number")
	if d.Counted {
		by = w.lang.pick("et les bornes du registre prouvent qu'il n'y en a pas d'autres", "and the log's markers prove that there are no more")
	}
	w.deny("si vous êtes concerné par %s, %s.", "whether you are concerned by %s, %s.", many(w, d.Pending,
		"entrée que la loi permet de dire plus tard", "entrées que la loi permet de dire plus tard", "entry that a law allows to tell later", "entries that a law allows to tell later"), by)
	if d.Overdue > 0 {
		w.deny("pourquoi %s en retard : d'après leur mois, les personnes devraient déjà savoir.", "why %s overdue: by their month, the persons should know by now.",
			many(w, d.Overdue, "d'entre elles est", "d'entre elles sont", "of these is", "of these are"))
	}
	if d.Lost > 0 {
		w.deny("ce que devient le secret de %s dont les détails ont été perdus.", "what becomes of %s whose details were lost.", many(w, d.Lost, "d'entre elles", "d'entre elles", "of these", "of these"))
	}
}

// ended says of what was told later when it was asked and told; of many only the first ones.
func (w *words) ended() {
	const shown = 20
	n := 0
	for i := range w.v.Entries {
		e := &w.v.Entries[i]
		if e.Deferred == nil {
			continue
		}
		if n++; n > shown {
			continue
		}
		asked := w.lang.pick("à un moment qui n'est pas ouvert", "at a time that is not open")
		if t, ok := e.AskedAt(); ok {
			asked = w.lang.pick("le ", "on ") + utc(t)
		}
		late := ""
		if e.Late {
			late = w.lang.pick(" : après son mois", ": after its month")
		}
		w.say("L'entrée %d a été faite %s, et vous a été dite au plus tard le %s. %s, par %s, permettait de la différer jusqu'à la fin du mois %s%s.",
			"Entry %d was made %s and told to you by %s. %s, by %s, allowed to delay that until the end of %s%s.", e.Index, asked, utc(e.Told), e.Deferred.Article, e.Deferred.Authority, e.Deferred.Month, late)
	}
	if n > shown {
		w.say("%s de même.", "%s delayed likewise.", many(w, n-shown, "autre entrée a été différée", "autres entrées ont été différées", "more entry was", "more entries were"))
	}
	untold, late := w.v.Delays()
	if untold > 0 {
		w.deny("qu'une loi différait %s comme convenu : ce à quoi le comparer est caché, n'est pas dans cet historique, ou a une autre forme.",
			"that a law delayed %s as agreed: what that could be compared with is hidden, not in this history, or of another form.", many(w, untold, "entrée", "entrées", "entry", "entries"))
	}
	if late > 0 {
		w.deny("pourquoi %s après le mois où vous deviez l'apprendre.", "why %s told to you after the month in which you should have been.",
			many(w, late, "entrée vous a été dite", "entrées vous ont été dites", "entry was", "entries were"))
	}
}

func (w *words) auditors() {
	v := w.v
	w.at = checkAudits
	for _, a := range v.Audits {
		if len(a.Epochs) > 0 {
			w.say("L'auditeur %s (%s) a trouvé chaque entrée classée dans une liste : %s.", "Auditor %s (%s) found every filed entry in a roll in %s.", a.Auditor, a.Key, w.epochs(a.Epochs))
		}
	}
	if v.Unaudited < uint64(v.Epochs.To-v.Epochs.From)+1 {
		w.deny("que les clés de ces auditeurs n'aient pas été révoquées plus tard : qu'aucune entrée de ce genre n'ait été omise repose sur la parole de l'exploitant.",
			"that the keys of these auditors were not revoked later: that no such entry was left out is the operator's word.")
	}
	if v.Unaudited > 0 {
		w.deny("que chaque entrée soit dans une liste, pour %s : aucun auditeur n'a cosigné l'index. Cela repose sur les contrôles des administrations et fournisseurs qui détiennent des reçus.",
			"that every entry is in a roll, in %s: no auditor cosigned the index. It rests on the checks of agencies and providers that hold receipts.", many(w, v.Unaudited, "période", "périodes", "epoch", "epochs"))
	}
}

func (w *words) scope() {
	v := w.v
	w.at = checkScope
	w.deny("quoi que ce soit après le %s, quand la période %d a été close. La suivante devait l'être le %s.", "anything after %s, when epoch %d was closed. The next one was due to close at %s.", utc(v.Closed), v.Epochs.To, utc(v.Due))
	if v.Epochs.From > 0 {
		w.deny("quoi que ce soit avant la période %d.", "anything before epoch %d.", v.Epochs.From)
	}
	w.deny("quoi que ce soit sur des demandes sous des identifiants qui ne sont pas nommés ici, ou faites avec une partie de votre identité : elles sont classées comme elles ont été faites, et ne peuvent être montrées à personne.",
		"anything about requests under identifiers that aren't named here, or that were made with a part of your identity: these are filed as they were asked, and can't be shown to anybody.")
	for _, s := range v.Subjects {
		switch p, pivot := s.Pivot(); {
		case s.Type() == proof.TypePerson:
			w.deny("que ce qui est classé sous person vous concerne : d'autres peuvent avoir les mêmes noms, date et sexe.", "that what is filed under person is about you: others may have the same names, date and sex.")
		case pivot && !p.Complete():
			w.deny("que ce qui est classé sous ce pivot vous concerne : c'est une partie d'identité.", "that what is filed under this pivot is about you: it is a part of an identity.")
		}
	}
	w.deny("que le registre tienne ses règles là où ce fichier ne le montre pas, et qu'aucune période n'ait une seconde borne montrée à quelqu'un d'autre : qui lit tout le registre le voit (regard-audit fsck et monitor).",
		"that the log keeps its rules where this file doesn't show it, so that no epoch has a second marker that somebody else is shown: whoever reads the whole log sees that (regard-audit fsck and monitor).")
	w.deny("quoi que ce soit sur des données données hors de ce registre.", "anything about data that were given outside of this log.")
}
