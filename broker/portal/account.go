package portal

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Acts are what people do with their account beside reading. *broker.Broker satisfies it.
//
// What an account doesn't have is unknown (404) in the same words as what isn't there. A write that returned nil is durable.
type Acts interface {
	// Enrol says under which identifiers an account is known from now on.
	Enrol(ctx context.Context, a broker.Account) error

	// CoolOff is for how long an erasure can be undone.
	CoolOff() time.Duration
	RequestErasure(ctx context.Context, a broker.Account, subjects []proof.Subject, signedIn time.Time) error
	ErasureRequests(ctx context.Context, a broker.Account) ([]broker.ErasureRequest, error)
	UndoErasure(ctx context.Context, a broker.Account, request store.ID) error

	DelegationsOf(ctx context.Context, a broker.Account) ([]broker.Delegation, error)
	RevokeDelegation(ctx context.Context, a broker.Account, id store.ID) error
	// DelegatedHistory logs an access to each record before it opens it.
	DelegatedHistory(ctx context.Context, a broker.Account, id store.ID, subject proof.Subject, page broker.HistoryPage) (*broker.History, error)
	// DelegatedFile does the same for each record of a history with its proofs.
	DelegatedFile(ctx context.Context, a broker.Account, id store.ID, epochs proof.EpochRange) (*broker.HistoryFile, error)
}

// known answers somebody who is signed in, as the identity service knows them.
type known func(*request, *Session, *identity.Session) error

// accountRoutes are the pages on which people act. Where nobody can show who they are, there are none.
func (p *Portal) accountRoutes(mux *http.ServeMux) {
	if p.cfg.Identity == nil {
		return
	}
	act := func(pattern string, h known) { mux.Handle(pattern, p.handle(p.signedIn(h.personal))) }
	change := func(pattern string, h known) { mux.Handle(pattern, p.handle(p.posted(p.signedIn(h.personal)))) }
	// Whoever left a browser open an hour ago isn't asked by these: they are sent to the identity provider, and come back.
	fresh := func(pattern string, h handler) { mux.Handle(pattern, p.around(p.cfg.Identity.Fresh(p.handle(h)))) }
	act("GET /effacer", p.erasures)
	change("POST /effacer/{id}/annuler", p.undoErasure)
	fresh("GET /effacer/demande", p.signedIn(known(p.askErasure).personal))
	fresh("POST /effacer/demande", p.posted(p.signedIn(known(p.requestErasure).personal)))

	act("GET /mandats", p.delegations)
	change("POST /mandats/{id}/revoquer", p.revokeDelegation)
	fresh("GET /mandats/{id}", p.signedIn(known(p.delegated).personal))
	fresh("POST /mandats/{id}", p.posted(p.signedIn(known(p.readDelegated).personal)))
	// Whoever was asked who they are, for what they sent to it, comes back to this address.
	act("GET /mandats/{id}/fichier", func(r *request, _ *Session, _ *identity.Session) error {
		r.seeOther("/mandats/" + url.PathEscape(r.PathValue("id")))
		return nil
	})
	fresh("POST /mandats/{id}/fichier", p.posted(p.signedIn(p.bounded(known(p.delegatedFile).personal))))

	act("GET /identifiants", p.identifiers)
	change("POST /identifiants", p.attach)
	change("POST /identifiants/retirer", p.detach)
}

func (h known) personal(r *request, s *Session) error {
	who, ok := identity.From(r.Context())
	if !ok {
		return r.ended()
	}
	return h(r, s, who)
}

// ended tells somebody whose session is over that what they sent wasn't done. They come back to the form: it is at the address to which it was sent, or on the page of its section.
func (r *request) ended() error {
	back := r.URL.RequestURI()
	if section := r.section(); slices.Contains(accountSections, section) {
		back = "/" + section
	}
	n := Notice{Code: "ended", Status: http.StatusUnauthorized, Return: back}
	if r.section() == "contester" {
		n.Written = r.PostForm.Get("texte") // hours of work, perhaps; a session that isn't used lasts for minutes
	}
	r.p.Tell(r.w, r.Request, n)
	return nil
}

// section is the first part of the path.
func (r *request) section() string {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return first
}

// accountSections are those of the pages on which people act.
var accountSections = []string{"identifiants", "mandats", "effacer"}

// knownAs is the person as the broker knows them, under these identifiers; the first is the pivot identity.
func (r *request) knownAs(subjects []proof.Subject) broker.Account {
	return broker.Account{Pivot: subjects[0], Subjects: subjects, Lang: r.lang.code}
}

// mark names an identifier in the forms of one session, without saying it.
func mark(s *Session, x proof.Subject) string {
	h := hmac.New(sha256.New, s.Forms[:])
	for _, part := range []string{"identifier", string(x.Type()), x.Value()} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// markedSubject finds the identifier that a form names.
func markedSubject(s *Session, subjects []proof.Subject, v string) (proof.Subject, bool) {
	for _, x := range subjects {
		if mark(s, x) == v {
			return x, true
		}
	}
	return proof.Subject{}, false
}

// identifier is one as pages show it.
type identifier struct {
	Type  string // for the catalogue
	Value string // as much of it as tells it from others; empty for names
	Mark  string
}

func showIdentifier(s *Session, x proof.Subject) identifier {
	out := identifier{Type: string(x.Type()), Mark: mark(s, x)}
	switch v := x.Value(); x.Type() {
	case proof.TypePivot, proof.TypePerson:
	case proof.TypeSIREN:
		out.Value = v // public
	default: // a screen has more readers than one
		out.Value = "…" + v[max(0, len(v)-4):]
	}
	return out
}

// ordered are identifiers as people know them best: the full identity first, what may be a namesake's last.
func ordered(subjects []proof.Subject) []proof.Subject {
	types := []proof.SubjectType{proof.TypePivot, proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail, proof.TypeSIREN, proof.TypePerson}
	return slices.SortedStableFunc(slices.Values(subjects), func(a, b proof.Subject) int {
		return cmp.Or(cmp.Compare(slices.Index(types, a.Type()), slices.Index(types, b.Type())), strings.Compare(a.Value(), b.Value()))
	})
}

// nameOf is the name in a pivot identity, in its canonical spelling; empty for other identifiers.
func nameOf(x proof.Subject) string {
	p, ok := x.Pivot()
	if !ok {
		return ""
	}
	return p.GivenNames + " " + p.BirthName
}
