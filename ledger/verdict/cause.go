package verdict

import (
	"errors"
	"fmt"

	"github.com/regard-broker/regard/ledger/proof"
)

// Cause is why something could not be verified.
type Cause string

// The causes. The first six are found where a file is checked, the others by a page that tries to.
const (
	CauseFormat    Cause = "format"
	CauseSignature Cause = "signature"
	CauseStale     Cause = "stale"
	CauseClock     Cause = "clock" // of the reader, or of the log
	CauseSubject   Cause = "subject"
	CauseBehind    Cause = "behind" // the history ends before the page does

	CauseOffline  Cause = "offline"
	CauseServer   Cause = "server"
	CauseSession  Cause = "session"
	CauseOthers   Cause = "others" // the history is of other identifiers than the page
	CauseBrowser  Cause = "browser"
	CauseVerifier Cause = "verifier"
	CauseMissing  Cause = "missing"
)

// Causes lists all of them.
func Causes() []Cause {
	return []Cause{CauseFormat, CauseSignature, CauseStale, CauseClock, CauseSubject, CauseBehind, CauseOffline, CauseServer, CauseSession, CauseOthers, CauseBrowser, CauseVerifier, CauseMissing}
}

// Text is the cause as it stands in the verdict; Advice what to do about it.
func (c Cause) Text(l Lang) string {
	switch c {
	case CauseFormat:
		return l.pick("le fichier reçu n'est pas un historique, ou n'est pas entier", "the file that came is no history, or isn't whole")
	case CauseSignature:
		return l.pick("le fichier n'est pas signé par les clés attendues", "the file isn't signed by the keys that were expected")
	case CauseStale:
		return l.pick("l'état du registre que le serveur montre est trop ancien", "the state of the log that the server shows is too old")
	case CauseClock:
		return l.pick("l'horloge de cet appareil retarde d'un jour ou plus sur celle du registre", "the clock of this device is a day or more behind that of the log")
	case CauseSubject:
		return l.pick("les deux historiques ne sont pas de la même personne, ou pas du même registre", "the two histories aren't of the same person, or not of the same log")
	case CauseBehind:
		return l.pick("le fichier reçu s'arrête avant ce que la page montre : des journées closes y manquent", "the file that came ends before what the page shows: closed days are missing from it")
	case CauseOffline:
		return l.pick("le serveur n'a pas pu être joint", "the server could not be reached")
	case CauseServer:
		return l.pick("le serveur n'a pas pu donner le fichier", "the server could not give the file")
	case CauseSession:
		return l.pick("votre session est terminée", "your session is over")
	case CauseOthers:
		return l.pick("la page et le fichier ne sont pas des mêmes identifiants", "the page and the file aren't of the same identifiers")
	case CauseBrowser:
		return l.pick("ce navigateur ne sait pas exécuter le vérificateur", "this browser can't run the verifier")
	case CauseMissing:
		return l.pick("ce serveur n'a pas de vérificateur", "this server has no verifier")
	}
	return l.pick("le vérificateur s'est arrêté", "the verifier stopped")
}

// Advice says what to do about the cause.
func (c Cause) Advice(l Lang) string {
	elsewhere := l.pick("téléchargez le fichier et vérifiez-le avec l'outil séparé (regard-audit verify-history)", "download the file and check it with the separate tool (regard-audit verify-history)")
	switch c {
	case CauseSession:
		return l.pick("Connectez-vous de nouveau.", "Sign in again.")
	case CauseOthers:
		return l.pick("Un identifiant a été ajouté ou retiré, ou quelqu'un d'autre s'est connecté : rechargez la page.", "An identifier was added or removed, or somebody else signed in: load the page again.")
	case CauseSignature:
		return l.pick("Comparez les empreintes des clés avec celles publiées ailleurs. Si elles sont les mêmes et que cela dure, prévenez la CNIL ; ", "Compare the fingerprints of the keys with those published elsewhere. If they are the same and this stays, tell the data protection authority; ") + elsewhere + "."
	case CauseStale:
		return l.pick("Vérifiez l'horloge de cet appareil, et réessayez plus tard. Si cela dure plus d'une journée, quelque chose vous est peut-être caché : demandez à l'exploitant, puis à la CNIL.", "Check the clock of this device, and try again later. If it takes longer than a day, something may be kept from you: ask the operator, then the data protection authority.")
	case CauseClock:
		return l.pick("Réglez l'horloge de cet appareil, et rechargez la page. Si elle était juste, c'est le registre qui se date dans l'avenir : prévenez la CNIL ; ", "Set the clock of this device, and load the page again. If it was right, it is the log that dates itself in the future: tell the data protection authority; ") + elsewhere + "."
	case CauseBehind:
		return l.pick("Les témoins confirment d'ordinaire une journée quelques minutes après sa fin : réessayez. Si cela dure plus d'une journée, quelque chose vous est peut-être caché : demandez à l'exploitant, puis à la CNIL.",
			"Witnesses usually confirm a day within minutes after its end: try again. If it takes longer than a day, something may be kept from you: ask the operator, then the data protection authority.")
	case CauseBrowser, CauseMissing:
		return l.pick("Vous pouvez vérifier autrement : ", "You can check in another way: ") + elsewhere + "."
	}
	return l.pick("Réessayez ; si cela ne change rien, ", "Try again; if that doesn't help, ") + elsewhere + "."
}

// Sentence is the verdict of what could not be verified.
func (c Cause) Sentence(l Lang) string {
	return fmt.Sprintf(l.pick("La vérification n'a pas pu se faire : %s.", "It could not be verified: %s."), c.Text(l))
}

func (r *Report) unverified(l Lang, c Cause) {
	r.State, r.Cause, r.Sentence, r.Next = Unverified, c, c.Sentence(l), []string{c.Advice(l)}
}

// NotVerified is the report of whoever could not even begin.
func NotVerified(c Cause, l Lang) *Report {
	r := &Report{Title: Title(Unverified, l)}
	r.unverified(l, c)
	return r
}

// comparedWithAnother reports whether the older history is another person's, or another log's.
func comparedWithAnother(err error) bool {
	var at *proof.HistoryError
	return errors.Is(err, proof.ErrSubject) && errors.As(err, &at) && at.Step == proof.StepCompare
}

// Problem says for the command line why a history is not proven, and whether it is only unusable: nothing in it is known to be wrong.
func Problem(err error, l Lang) (text string, unusable bool) {
	say := func(fr, en string) string { return fmt.Sprintf(l.pick(fr, en), err) }
	switch {
	case errors.Is(err, proof.ErrFork):
		return say("Le registre a deux histoires (%v). Gardez les deux fichiers : ils sont une preuve contre qui les a signés.", "The log has two histories (%v). Keep both files: they are evidence against whoever signed them."), false
	case errors.Is(err, proof.ErrNotWitnessed):
		return l.pick("L'historique est provisoire : le quorum des témoins manque. Redemandez-le, ou donnez --allow-provisional.", "The history is provisional: the quorum of witnesses is missing. Fetch it again, or give --allow-provisional."), true
	case errors.Is(err, proof.ErrAhead):
		return say("Le registre est en avance sur l'horloge de cette machine (%v). Réglez-la, et vérifiez de nouveau ; si elle était juste, c'est celle du registre qui est fausse : prévenez la CNIL.", "The log is ahead of the clock of this machine (%v). Set it, and verify again; if it was right, the log's is wrong: tell the data protection authority."), true
	case errors.Is(err, proof.ErrStale):
		return say("La racine est plus ancienne que vous ne l'acceptez (%v). Redemandez l'historique ; si elle reste ancienne, quelque chose vous est caché.", "The root is older than you accept (%v). Fetch the history again; if it stays old, something is kept from you."), true
	case errors.Is(err, proof.ErrOtherLog):
		return say("Il n'est pas du registre dont vous avez donné la clé (%v). Est-ce la clé du registre ?", "It is not of the log whose key you gave (%v). Is this the log's key?"), true
	case comparedWithAnother(err):
		return say("Comparaison impossible (%v).", "It can't be compared (%v)."), true
	}
	return say("Ce qu'il affirme n'est pas prouvé (%v). Gardez-le : c'est une preuve contre qui l'a fait.", "What it claims is not proven (%v). Keep it: it is evidence against whoever made it."), false
}
