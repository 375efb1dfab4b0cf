package portal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Telling is how people are told that something happened.
type Telling interface {
	// Notices lists those below an id (0: the newest first), at most limit (up to 200).
	Notices(ctx context.Context, a broker.Account, before int64, limit int) (*broker.NoticePage, error)
	// Unread counts those that weren't read. It is called for each page, and is cheap.
	Unread(ctx context.Context, a broker.Account) (int64, error)
	// MarkRead marks all up to one as read.
	MarkRead(ctx context.Context, a broker.Account, upto int64) error
	// Profile says what the person is told, and where.
	Profile(ctx context.Context, a broker.Account) (*broker.Profile, error)
	SetKinds(ctx context.Context, a broker.Account, page, mail []store.NoticeKind) error
	// SetAddress has a mail sent to an address that confirms it.
	SetAddress(ctx context.Context, a broker.Account, address string) error
	DropAddress(ctx context.Context, a broker.Account) error
	// ConfirmAddress and Unsubscribe are for whoever has a token that was mailed.
	ConfirmAddress(ctx context.Context, token string) error
	Unsubscribe(ctx context.Context, token string) error
}

// Pages of notices beside those that mails lead to.
const (
	pageKinds   = "/notifications/reglages"
	pageAddress = "/notifications/adresse"
	pageSilence = "/notifications/taire"

	noticesOfPage = 25
)

// noticeWords are keys of the catalogue by kind and event.
var noticeWords = map[store.NoticeKind]map[string]string{
	store.NoticeAccess:  {"asked": "news.asked", store.EventRead: "news.read"},
	store.NoticeRefusal: {"refused": "news.refused"},
	store.NoticeDelay:   {"opened": "news.opened"},
	store.NoticeContest: {"acknowledged": "news.acknowledged", "extended": "news.extended", store.ContestAnswered: "news.answered", store.ContestOverdue: "news.overdue"},
	store.NoticeErasure: {
		"asked": "news.erasure_asked", store.ErasureUndone: "news.erasure_undone", store.ErasureDetached: "news.erasure_detached", "blocked." + store.BlockedByHold: "news.erasure_held", "blocked." + store.BlockedByContest: "news.erasure_contested",
		"begun": "news.erasure_begun", "done": "news.erasure_done", "restored": "news.erasure_restored", store.ErasureForgotten: "news.erasure_forgotten",
	},
	store.NoticeDelegation: {"granted": "news.granted", "revoked": "news.revoked"},
}

// kindWords are keys of the catalogue for what people choose among.
var kindWords = map[store.NoticeKind]string{
	store.NoticeAccess: "kind.access", store.NoticeRefusal: "kind.refusal", store.NoticeContest: "kind.contest", store.NoticeErasure: "kind.erasure", store.NoticeDelegation: "kind.delegation", store.NoticeDelay: "kind.delay",
}

// kindOf is the kind of notice by which somebody was told of an entry; empty: of none.
func kindOf(e *broker.OwnEntry) store.NoticeKind {
	switch {
	case e.Kind == proof.KindOpened:
		return store.NoticeDelay
	case e.Kind == proof.KindErasure || e.Kind == "":
		return ""
	case e.Outcome == proof.OutcomeDenied:
		return store.NoticeRefusal
	}
	return store.NoticeAccess
}

// noticesPage lists what there is to know, newest first.
type noticesPage struct {
	Notices      []noticeShown
	Unread       int
	Upto         int64 // the newest on this page
	Newer, Older string
}

type noticeShown struct {
	Key, Href string
	Row       *row // of the entry, if the history has it
	At        time.Time
	Count     int
	Read      bool
}

func (p *Portal) notices(r *request, s *Session) error {
	before, err := strconv.ParseInt(or(r.URL.Query().Get("avant"), "0"), 10, 64)
	if err != nil || before < 0 {
		return errUnknownPage
	}
	list, err := p.cfg.Broker.Notices(r.Context(), r.knownAs(s.Subjects), before, noticesOfPage)
	if err != nil {
		return err
	}
	j, err := p.journals.of(r.Context(), s)
	if err != nil {
		return err
	}
	data, n := &noticesPage{Unread: int(list.Unread)}, p.namer(r.lang)
	if before > 0 {
		data.Newer = mail.PageNotices
	}
	if list.Next > 0 {
		data.Older = mail.PageNotices + "?avant=" + strconv.FormatInt(list.Next, 10)
	}
	for i := range list.Notices {
		x := &list.Notices[i]
		data.Upto = max(data.Upto, x.ID)
		shown := noticeShown{Key: noticeWords[x.Kind][x.Event], At: x.At.In(p.zone), Count: int(x.Count), Read: x.Read}
		if shown.Key == "" {
			return fmt.Errorf("a notice is %s.%s, for which there are no words", x.Kind, x.Event)
		}
		switch x.Kind {
		case store.NoticeContest:
			shown.Href = "/contestations/" + contestID(x.Ref)
		case store.NoticeErasure:
			shown.Href = "/effacer"
		case store.NoticeDelegation:
			shown.Href = "/mandats"
		default:
			p.noticeOfEntry(&shown, x, j, n)
		}
		data.Notices = append(data.Notices, shown)
	}
	return r.render(http.StatusOK, "notices", "notices.title", data)
}

// noticeOfEntry leads to the entry, and says of one that may be a namesake's that it may be. One that the history doesn't show, as of an identifier that was given up, has no page.
func (p *Portal) noticeOfEntry(shown *noticeShown, x *store.Notice, j *journal, n *namer) {
	at := slices.IndexFunc(j.entries, func(e broker.OwnEntry) bool { return e.Index == x.Index })
	switch {
	case !x.Entry:
	case at >= 0:
		line := p.row(&j.entries[at], n)
		shown.Row, shown.Href = &line, "/acces/"+x.Index.String()
		if j.entries[at].Namesake && x.Event == "asked" {
			shown.Key = "news.homonym"
		}
	case x.Kind == store.NoticeRefusal:
		shown.Key = noticeWords[store.NoticeAccess]["asked"]
	}
}

func (p *Portal) markRead(r *request, s *Session) error {
	upto, err := strconv.ParseInt(r.PostForm.Get("jusqu"), 10, 64)
	if err != nil || upto < 1 {
		return errForm(nil)
	}
	if err := p.cfg.Broker.MarkRead(r.Context(), r.knownAs(s.Subjects), upto); err != nil {
		return err
	}
	return r.done("flash.read", mail.PageNotices)
}

// kindsPage is a choice of what to be told, and where.
type kindsPage struct {
	Kinds   []kindFields
	Mailing bool
	Address bool // one is confirmed
}

// kindFields are the channels of one kind.
type kindFields struct {
	Key    string
	Fields []field
}

func (p *Portal) kinds(r *request, s *Session) error {
	profile, err := p.cfg.Broker.Profile(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data := &kindsPage{Mailing: profile.Mailing, Address: !profile.Address.IsZero()}
	for _, k := range store.NoticeKinds {
		x := kindFields{Key: kindWords[k], Fields: []field{{Name: "site." + string(k), Type: "checkbox", Label: "kinds.page", Checked: slices.Contains(profile.Page, k)}}}
		if profile.Mailing {
			x.Fields = append(x.Fields, field{Name: "courriel." + string(k), Type: "checkbox", Label: "kinds.mail", Checked: slices.Contains(profile.Mail, k)})
		}
		data.Kinds = append(data.Kinds, x)
	}
	return r.render(http.StatusOK, "kinds", "kinds.title", data)
}

func (p *Portal) setKinds(r *request, s *Session) error {
	profile, err := p.cfg.Broker.Profile(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	var page, mailed []store.NoticeKind
	for _, k := range store.NoticeKinds {
		if r.PostForm.Has("site." + string(k)) {
			page = append(page, k)
		}
		if r.PostForm.Has("courriel." + string(k)) {
			mailed = append(mailed, k)
		}
	}
	if !profile.Mailing {
		mailed = profile.Mail // the form didn't show them
	}
	if err := p.cfg.Broker.SetKinds(r.Context(), r.knownAs(s.Subjects), page, mailed); err != nil {
		return err
	}
	return r.done("flash.kinds", pageKinds)
}

// silencePage says what it means not to be told any more.
type silencePage struct {
	Kind, Key, Entry, Back string
}

// silenced is what a link or form names.
func (p *Portal) silenced(q url.Values) (*silencePage, bool) {
	x := &silencePage{Kind: q.Get("type"), Entry: q.Get("acces"), Back: pageKinds}
	x.Key = kindWords[store.NoticeKind(x.Kind)]
	if x.Entry != "" {
		if _, ok := entryID(x.Entry); !ok {
			return nil, false
		}
		x.Back = "/acces/" + x.Entry
	}
	return x, x.Key != ""
}

func (p *Portal) silenceForm(r *request, _ *Session) error {
	x, ok := p.silenced(r.URL.Query())
	if !ok {
		return errUnknownPage
	}
	return r.render(http.StatusOK, "silence", "silence.title", x)
}

func (p *Portal) silence(r *request, s *Session) error {
	x, ok := p.silenced(r.PostForm)
	if !ok {
		return errForm(nil)
	}
	profile, err := p.cfg.Broker.Profile(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	is := func(k store.NoticeKind) bool { return string(k) == x.Kind }
	if err := p.cfg.Broker.SetKinds(r.Context(), r.knownAs(s.Subjects), slices.DeleteFunc(profile.Page, is), slices.DeleteFunc(profile.Mail, is)); err != nil {
		return err
	}
	return r.done("flash.silenced", x.Back)
}

// addressPage is where mails go.
type addressPage struct {
	Mailing, Failing bool
	Address, Pending string
	Fields           []field
	Mistakes         []mistake
}

func (p *Portal) address(r *request, s *Session) error {
	return p.showAddress(r, s, http.StatusOK, "")
}

func (p *Portal) showAddress(r *request, s *Session, status int, typed string, mistakes ...mistake) error {
	profile, err := p.cfg.Broker.Profile(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data := &addressPage{
		Mailing: profile.Mailing, Failing: profile.Failing, Mistakes: mistakes,
		Fields: []field{{Name: "adresse", Type: "email", Label: "address.field", Hint: "address.field_hint", Value: typed, Required: true, MaxLength: 254, Autocomplete: "email"}},
	}
	if !profile.Address.IsZero() {
		data.Address = profile.Address.Text()
	}
	if !profile.Pending.IsZero() {
		data.Pending = profile.Pending.Text()
	}
	marked(data.Fields, mistakes)
	return r.render(status, "address", "address.title", data)
}

// setAddress has an address confirmed, or forgets those that there are.
func (p *Portal) setAddress(r *request, s *Session) error {
	if r.PostForm.Has("oublier") {
		if err := p.cfg.Broker.DropAddress(r.Context(), r.knownAs(s.Subjects)); err != nil {
			return err
		}
		return r.done("flash.address_dropped", pageAddress)
	}
	typed := r.PostForm.Get("adresse")
	err := p.cfg.Broker.SetAddress(r.Context(), r.knownAs(s.Subjects), typed)
	var problem *broker.Problem
	if errors.As(err, &problem) && problem.Parameter == "/address" {
		return p.showAddress(r, s, http.StatusBadRequest, typed, mistake{"adresse", "address.wrong"})
	}
	if err != nil {
		return err
	}
	return r.done("flash.address_sent", pageAddress)
}

// tokenPage is what a link in a mail leads to. Programs that look at mails follow their links, so only its button does something.
type tokenPage struct {
	tokenWords
	Action string // where the button leads; empty: it is done
}

// tokenWords are keys of the catalogue.
type tokenWords struct{ Title, Lead, Do, Done, After string }

var (
	confirmWords     = tokenWords{"confirm.title", "confirm.lead", "confirm.do", "confirm.done", "confirm.after"}
	unsubscribeWords = tokenWords{"unsubscribe.title", "unsubscribe.lead", "unsubscribe.do", "unsubscribe.done", "unsubscribe.after"}
)

func (p *Portal) tokenForm(words tokenWords) handler {
	return func(r *request) error {
		return r.render(http.StatusOK, "token", words.Title, &tokenPage{words, r.URL.RequestURI()})
	}
}

// tokenUsed needs no session: whoever has the token reads that address's mails. It answers with a page and no redirect, which programs that unsubscribe at a click don't follow (RFC 8058, section 3.1).
func (p *Portal) tokenUsed(words tokenWords, use func(ctx context.Context, token string) error) handler {
	return func(r *request) error {
		if err := use(r.Context(), r.URL.Query().Get("jeton")); err != nil {
			return err
		}
		return r.render(http.StatusOK, "token", words.Title, &tokenPage{tokenWords: words})
	}
}
