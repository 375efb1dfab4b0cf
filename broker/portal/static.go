package portal

import (
	"net/http"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// homePage says what this is, and where the log stands.
type homePage struct {
	Origin    string
	Size      uint64
	Witnessed bool
	Witnesses int
	At        time.Time
}

func (p *Portal) home(r *request) error {
	s := p.cfg.Broker.Standing()
	data := &homePage{Origin: s.Origin, Size: s.Published.Size()}
	if !s.Witnessed.IsZero() {
		data.Witnessed, data.Size, data.Witnesses, data.At = true, s.Witnessed.Size(), len(s.Witnessed.Witnesses()), s.Witnessed.WitnessedAt().Time().In(p.zone)
	}
	return r.render(http.StatusOK, "home", "home.title", data)
}

// static serves a page whose words are all in the catalogue.
func (p *Portal) static(name string) handler {
	return func(r *request) error { return r.render(http.StatusOK, name, name+".title", nil) }
}

// cookieShown is a cookie, what it is for and how long it stays; the latter are keys of the catalogue.
type cookieShown struct{ Name, For, Life string }

// privacy lists the cookies by the names that a browser shows.
func (p *Portal) privacy(r *request) error {
	var list []cookieShown
	if p.cfg.Identity != nil {
		list = []cookieShown{
			{"__Host-regard", "privacy.cookie_session", "privacy.cookie_session_life"},
			{"__Host-regard-connexion", "privacy.cookie_sign_in", "privacy.cookie_ten"},
			{"__Host-regard-deconnexion", "privacy.cookie_sign_out", "privacy.cookie_ten"},
		}
	}
	list = append(list,
		cookieShown{p.cookie(languageCookie, "", 0).Name, "privacy.cookie_language", "privacy.cookie_language_life"},
		cookieShown{p.cookie(messageCookie, "", 0).Name, "privacy.cookie_message", "privacy.cookie_message_life"},
	)
	return r.render(http.StatusOK, "privacy", "privacy.title", list)
}

// verifierPage says with what histories are checked, so that it can be compared with what others say.
type verifierPage struct {
	Origin    string
	Keys      []namedKey
	Witnesses []namedKey
	Log       string
	Names     string // address of the names that pages show
	NamesHash string
}

type namedKey struct{ Name, Key, Fingerprint string }

func (p *Portal) verifierPage(r *request) error {
	text, err := p.cfg.Broker.PolicyText(r.Context())
	if err != nil {
		return err
	}
	data := &verifierPage{Origin: p.cfg.Broker.Standing().Origin, Log: p.cfg.Log}
	d, err := p.named.of(p.namer(r.lang))
	if err != nil {
		return err
	}
	data.Names, data.NamesHash = d.path(), d.digest
	logPolicy, err := proof.ParsePolicy(text)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if w := strings.Fields(line); len(w) >= 2 && w[0] == "log" {
			data.Keys = append(data.Keys, namedKey{data.Origin, w[1], fingerprint([]byte(w[1]))})
		}
	}
	for _, w := range logPolicy.Witnesses() {
		data.Witnesses = append(data.Witnesses, namedKey{w.Name, w.VKey, fingerprint([]byte(w.VKey))})
	}
	return r.render(http.StatusOK, "verifier", "verifier.title", data)
}

func (p *Portal) policyFile(r *request) error {
	text, err := p.cfg.Broker.PolicyText(r.Context())
	if err != nil {
		return err
	}
	r.download("politique.txt", "text/plain; charset=utf-8")
	r.write(http.StatusOK, text)
	return nil
}
