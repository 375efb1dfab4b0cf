package verdict

// Around are the words that a page needs around a report, also while there is none.
type Around struct {
	Checking  string `json:"checking"` // while it is verified
	Download  string `json:"download"`
	Received  string `json:"received"` // while it comes, with {got} and {of}
	Coming    string `json:"coming"`   // the same if nobody knows how much it is, with {got}
	Progress  string `json:"progress"` // with {done} and {of}
	Retry     string `json:"retry"`
	Save      string `json:"save"`
	Saved     string `json:"saved"`
	Tell      string `json:"tell"`
	Reference string `json:"reference"`
	Limits    string `json:"limits"` // with {n}
	Worry     string `json:"worry"`  // before a limit that isn't one of sound histories
	Scope     string `json:"scope"`
	Checks    string `json:"checks"`
	Evidence  string `json:"evidence"`
	Times     string `json:"times"` // said where evidence is shown
	Keys      string `json:"keys"`
	Of        string `json:"of"`      // before the first identifier of whom the history is
	Whose     string `json:"whose"`   // that the reader has to compare all of them
	Compare   string `json:"compare"` // what to do with the fingerprints
	// Worth is the question to which Independent is the answer, in a few words.
	Worth string `json:"worth"`
	// Independent says what this check is worth, and what is worth more.
	Independent string `json:"independent"`
	// The ends of checks, by code.
	Held       string `json:"held"`
	Partly     string `json:"partly"`
	Failed     string `json:"failed"`
	NotReached string `json:"not_reached"`
	// Causes are reports for what ends before there is one.
	Causes map[Cause]*Report `json:"causes"`
}

// NewAround returns them in a language.
func NewAround(l Lang) Around {
	a := Around{
		Checking:    l.pick("Votre navigateur vérifie…", "Your browser is checking…"),
		Download:    l.pick("Téléchargement des preuves…", "Downloading the proofs…"),
		Received:    l.pick("Téléchargement des preuves : {got} sur {of}", "Downloading the proofs: {got} of {of}"),
		Coming:      l.pick("Téléchargement des preuves : {got}", "Downloading the proofs: {got}"),
		Progress:    l.pick("{done} périodes vérifiées sur {of}", "{done} of {of} periods verified"),
		Retry:       l.pick("Réessayer", "Try again"),
		Save:        l.pick("Enregistrer les preuves", "Save the evidence"),
		Saved:       l.pick("Preuves enregistrées.", "Evidence saved."),
		Tell:        l.pick("Qui prévenir", "Whom to tell"),
		Reference:   l.pick("Référence à citer :", "Reference to quote:"),
		Limits:      l.pick("Ce qui n'est pas prouvé, et comment lever ces limites ({n})", "What isn't proven, and how to lift these limits ({n})"),
		Worry:       l.pick("À éclaircir :", "To look into:"),
		Scope:       l.pick("Ce que cette vérification ne dit pas", "What this check doesn't say"),
		Checks:      l.pick("Ce qui a été vérifié", "What was checked"),
		Evidence:    l.pick("Éléments de preuve", "Evidence"),
		Times:       l.pick("Heures de Paris dans les phrases, UTC dans les preuves.", "Times of Paris in sentences, UTC in proofs."),
		Keys:        l.pick("Clés et empreintes", "Keys and fingerprints"),
		Of:          l.pick("Historique de :", "History of:"),
		Whose:       l.pick("De qui est cet historique. Si ce n'est pas exactement vous, ce verdict ne dit rien de vous :", "Whose history this is. If it isn't exactly you, this verdict says nothing about you:"),
		Compare:     l.pick("Comparez ces empreintes (SHA-256 de la clé) avec celles que publient l'autorité de contrôle, les témoins ou vos proches.", "Compare these fingerprints (SHA-256 of the key) with those that the supervisory authority, the witnesses or people you know have."),
		Worth:       l.pick("Une commodité : pour ne pas dépendre de ce site, vérifiez avec un autre outil", "A convenience: to be independent of this site, check with another tool"),
		Independent: l.pick("Cette vérification est une commodité : le programme vient de ce serveur. L'outil séparé, regard-audit, ne dépend pas de lui et donne le même verdict sur le fichier téléchargé.", "This check is a convenience: the program comes from this server. The separate tool, regard-audit, is independent of it and gives the same verdict on the downloaded file."),
		Held:        l.pick("vérifié", "verified"),
		Partly:      l.pick("vérifié en partie", "verified in part"),
		Failed:      l.pick("réfuté", "refuted"),
		NotReached:  l.pick("pas atteint", "not reached"),
		Causes:      map[Cause]*Report{},
	}
	for _, c := range Causes() {
		a.Causes[c] = NotVerified(c, l)
	}
	return a
}
