package mail

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// What the mails say. They are read by whoever reads over somebody's shoulder, so they hold no name, no agency, no kind of data: that there is something, and where to read it.

// Pages of the portal that mails lead to, under its base URL.
const (
	PageNotices     = "/notifications"
	PageConfirm     = "/notifications/confirmer" // ?jeton=
	PageUnsubscribe = "/notifications/desabonner"
)

// Link joins a page and a token to the portal's base URL.
func Link(portal, page, token string) string {
	u := strings.TrimRight(portal, "/") + page
	if token != "" {
		u += "?jeton=" + url.QueryEscape(token)
	}
	return u
}

// Confirm asks whoever has an address whether they asked for mails.
func Confirm(lang, link string, hours int) (subject, body string) {
	if lang == "en" {
		return "Confirm this address", fmt.Sprintf(`Hello,

Somebody has asked to be told at this address when a public body asks for their data. If it was you, confirm it within %d hours:

%s

If it was not you, do nothing: no other mail will come.
`, hours, link)
	}
	return "Confirmez cette adresse", fmt.Sprintf(`Bonjour,

Quelqu'un a demandé à être prévenu à cette adresse lorsqu'un organisme public demande ses données. Si c'est vous, confirmez-la dans les %d heures :

%s

Si ce n'est pas vous, ne faites rien : aucun autre message ne viendra.
`, hours, link)
}

// News says that there is something new.
func News(lang, notices, unsubscribe string) (subject, body string) {
	if lang == "en" {
		return "There is something new in your account", fmt.Sprintf(`Hello,

There is something new about your data. Sign in to read it:

%s

For your safety this message says no more. We never ask for a password or a code by mail.

No more messages: %s
`, notices, unsubscribe)
	}
	return "Du nouveau dans votre espace", fmt.Sprintf(`Bonjour,

Il y a du nouveau concernant vos données. Connectez-vous pour le lire :

%s

Pour votre sécurité, ce message n'en dit pas plus. Nous ne demandons jamais de mot de passe ni de code par courriel.

Ne plus recevoir de messages : %s
`, notices, unsubscribe)
}

// Contest tells an agency that somebody contests a disclosure, or that its deadline has passed. French first, for it goes to bodies and not to a person whose language is known.
func Contest(reference string, due time.Time, overdue bool) (subject, body string) {
	day := due.UTC().Format("2006-01-02 15:04 UTC")
	address := "GET /v1/contests/" + reference
	if overdue {
		return "Contestation en retard / overdue contest " + reference, fmt.Sprintf(`Bonjour,

Le délai pour répondre à la contestation %[1]s est passé depuis le %[2]s (RGPD, article 12, paragraphe 3). Répondez sans attendre, par l'interface du courtier :

%[3]s

---

The time to answer the contest %[1]s ended on %[2]s (GDPR, article 12(3)). Answer it now, through the broker's interface:

%[3]s
`, reference, day, address)
	}
	return "Contestation / contest " + reference, fmt.Sprintf(`Bonjour,

Une personne conteste une demande de données de votre organisme. Référence : %[1]s. Réponse attendue au plus tard le %[2]s (RGPD, article 12, paragraphe 3). Lisez-la et répondez par l'interface du courtier :

%[3]s

Ce message ne contient aucune donnée personnelle ; ne répondez pas par courriel.

---

A person contests a request of your organisation for data. Reference: %[1]s. Answer by %[2]s at the latest (GDPR, article 12(3)). Read and answer it through the broker's interface:

%[3]s

This message holds no personal data; don't answer by mail.
`, reference, day, address)
}
