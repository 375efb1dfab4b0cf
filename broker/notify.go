package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	noticesPage = 50
	maxNotices  = 200
	// tellScan is how many log indexes one step looks at, tellRound how long a round goes on.
	tellScan  = 4096
	tellRound = 2 * time.Second
	// confirmFor is how long the link in a mail that asks for a confirmation is good, confirmsADay how many such mails an account may have sent.
	confirmFor   = 48 * time.Hour
	confirmsADay = 5
)

// Uses of the digests that make tokens of links.
const (
	useConfirm     = "mail confirm"
	useUnsubscribe = "mail unsubscribe"
)

// A Profile is how an account's person wants to be told.
type Profile struct {
	Page, Mail []store.NoticeKind
	// Address that is confirmed, and one that waits for it; zero: none. Failing: mails to the confirmed one came back.
	Address, Pending mail.Address
	Failing          bool
	// Mailing: this broker sends mails at all.
	Mailing bool
}

// Enrol is for each sign-in: from now on the account is told of new entries under its identifiers, and no more under those that it doesn't have any more. Nothing is told of what was before the first.
func (b *Broker) Enrol(ctx context.Context, a Account) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	return storeProblem(b.store.Enrol(ctx, p.owner, p.lang, p.enrolled()))
}

// citizen finds the account's row, which Enrol made.
func (b *Broker) citizen(ctx context.Context, p *person) (*store.Citizen, error) {
	c, err := b.store.Citizen(ctx, p.owner)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoAccount()
	}
	return &c, storeProblem(err)
}

func errNoAccount() *Problem {
	return &Problem{Status: 404, Code: "account.unknown", Title: "There is no such account.", Detail: "Sign in first; after an erasure, sign in anew."}
}

// Profile shows it.
func (b *Broker) Profile(ctx context.Context, a Account) (*Profile, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	c, err := b.citizen(ctx, p)
	if err != nil {
		return nil, err
	}
	out := &Profile{Page: kindsOf(c.Page), Mail: kindsOf(c.Mail), Failing: c.Failures > 0, Mailing: b.cfg.Mail != nil}
	if out.Address, err = b.address(ctx, c.Account, c.Address); err != nil {
		return nil, err
	}
	if b.now().Before(c.Until) {
		out.Pending, err = b.address(ctx, c.Account, c.Pending)
	}
	return out, err
}

// address opens one; zero if there is none, or the person was erased in this instant.
func (b *Broker) address(ctx context.Context, account keys.Owner, sealed []byte) (mail.Address, error) {
	if len(sealed) == 0 {
		return mail.Address{}, nil
	}
	plain, err := b.openBeside(ctx, account, "address", store.ID(account), sealed)
	if errors.Is(err, keys.ErrNoKey) {
		return mail.Address{}, nil
	}
	if err != nil {
		return mail.Address{}, keysProblem(err)
	}
	return mail.ParseAddress(string(plain))
}

func kindsOf(bits int64) []store.NoticeKind {
	out := []store.NoticeKind{}
	for _, k := range store.NoticeKinds {
		if bits&k.Bit() != 0 {
			out = append(out, k)
		}
	}
	return out
}

// SetKinds says of which kinds the account is told in the page and by mail; all others are off.
func (b *Broker) SetKinds(ctx context.Context, a Account, page, mail []store.NoticeKind) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	var bits [2]int64
	for i, list := range [][]store.NoticeKind{page, mail} {
		for _, k := range list {
			if k.Bit() == 0 {
				return invalid("/kinds", "There is no such kind of notice.", "Choose among those that are shown.")
			}
			bits[i] |= k.Bit()
		}
	}
	if err := b.store.SetKinds(ctx, p.owner, bits[0], bits[1]); errors.Is(err, store.ErrNotFound) {
		return errNoAccount()
	} else if err != nil {
		return storeProblem(err)
	}
	return nil
}

// SetAddress has a mail sent to an address, with a link that confirms it for two days. Until then the confirmed one stays in force.
func (b *Broker) SetAddress(ctx context.Context, a Account, address string) error {
	if b.cfg.Mail == nil {
		return conflict("mail.none", "This service sends no mails.", "Look at the page instead.")
	}
	to, err := mail.ParseAddress(address)
	if err != nil {
		return invalid("/address", "This is not an address of mail that can be used.", "Write it as name@domain.example.")
	}
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	if _, err := b.citizen(ctx, p); err != nil {
		return err
	}
	now := b.now()
	err = b.keepBeside(ctx, []beside{{p.owner, "address", store.ID(p.owner), []byte(to.Text())}}, func(s []*store.Sealed) error {
		return b.store.SetAddress(ctx, p.owner, s[0], randomID(), now, now.Add(confirmFor), confirmsADay)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return errNoAccount()
	case errors.Is(err, store.ErrTooMany):
		return tooMany("Too many mails were asked for today.", time.Hour)
	}
	return storeProblem(err)
}

// ConfirmAddress puts the address in force to which the token was sent. It needs no session: who has the token reads that address's mails.
func (b *Broker) ConfirmAddress(ctx context.Context, token string) error {
	id, err := b.readToken(useConfirm, token)
	if err != nil {
		return err
	}
	if err := b.store.ConfirmAddress(ctx, id, randomID(), b.now()); errors.Is(err, store.ErrNotFound) {
		return errBadToken()
	} else if err != nil {
		return storeProblem(err)
	}
	return nil
}

// DropAddress forgets the account's addresses.
func (b *Broker) DropAddress(ctx context.Context, a Account) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	return storeProblem(b.store.DropAddress(ctx, p.owner))
}

// Unsubscribe ends all mails to the address to which the token was sent (RFC 8058). It needs no session, and may be repeated.
func (b *Broker) Unsubscribe(ctx context.Context, token string) error {
	id, err := b.readToken(useUnsubscribe, token)
	if err != nil {
		return err
	}
	if err := b.store.Unsubscribe(ctx, id); errors.Is(err, store.ErrNotFound) {
		return errBadToken()
	} else if err != nil {
		return storeProblem(err)
	}
	return nil
}

// A NoticePage is a part of an account's notices, newest first.
type NoticePage struct {
	Notices []store.Notice
	Next    int64 // before of the next page; 0 if there is none
	Unread  int64
}

// Notices lists them, those below before (0: from the newest). limit 0 means 50.
func (b *Broker) Notices(ctx context.Context, a Account, before int64, limit int) (*NoticePage, error) {
	if limit == 0 {
		limit = noticesPage
	}
	if limit < 0 || limit > maxNotices || before < 0 {
		return nil, invalid("/limit", fmt.Sprintf("The limit is not between 1 and %d.", maxNotices), "Ask for the next page with next.")
	}
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	list, err := b.store.Notices(ctx, p.owner, before, limit+1)
	if err != nil {
		return nil, storeProblem(err)
	}
	page := &NoticePage{Notices: list}
	if len(list) > limit {
		page.Notices, page.Next = list[:limit], list[limit-1].ID
	}
	page.Unread, err = b.store.Unread(ctx, p.owner)
	return page, storeProblem(err)
}

// Unread counts those that weren't read: for the number that stands on every page.
func (b *Broker) Unread(ctx context.Context, a Account) (int64, error) {
	p, err := b.person(&a)
	if err != nil {
		return 0, err
	}
	n, err := b.store.Unread(ctx, p.owner)
	return n, storeProblem(err)
}

// MarkRead marks the account's notices as read, up to one of them.
func (b *Broker) MarkRead(ctx context.Context, a Account, upto int64) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	return storeProblem(b.store.MarkRead(ctx, p.owner, upto, b.now()))
}

// tell follows the log and tells accounts of entries under their identifiers: never earlier than a signed checkpoint has them, and of a delayed one when it is opened.
func (b *Broker) tell(ctx context.Context) error {
	for end := time.Now().Add(tellRound); time.Now().Before(end); {
		found, from, next, err := b.store.Watched(ctx, proof.Index(b.ledger().Checkpoint().Size()), tellScan)
		if err != nil || next == from {
			return err
		}
		now := b.now()
		notices := make([]store.Notice, len(found))
		for i := range found {
			n := store.Notice{Account: found[i].Account, At: now, Index: found[i].Index, Entry: true}
			if n.Kind, n.Event, err = b.noticeOf(ctx, &found[i]); err != nil {
				return err
			}
			if found[i].Type != proof.TypePerson {
				n.Ref = found[i].Disclosure
			}
			notices[i] = n
		}
		if err := b.store.Told(ctx, from, next, notices); err != nil {
			return err
		}
	}
	return nil
}

// noticeOf says what an entry is to the person. Of what may be a namesake's it says no more than that there is an entry: neither its outcome nor, see tell, which disclosure it is of.
func (b *Broker) noticeOf(ctx context.Context, w *store.WatchedEntry) (store.NoticeKind, string, error) {
	switch w.Kind {
	case proof.KindAccess:
		return store.NoticeAccess, store.EventRead, nil
	case proof.KindOpened:
		return store.NoticeDelay, "opened", nil
	}
	if w.Type == proof.TypePerson {
		return store.NoticeAccess, "asked", nil
	}
	admin, err := b.ring.OpenAdmin(ctx, nil, w.Admin)
	if err != nil {
		if unreadable(err) { // its page says so
			return store.NoticeAccess, "asked", nil
		}
		return "", "", keysProblem(err)
	}
	rec, err := proof.OpenParts(nil, admin)
	if err == nil && rec.Schema() == proof.SchemaDisclosure && rec.Open(proof.ReaderPerson).Text(proof.DisclosureOutcome) == proof.OutcomeDenied {
		return store.NoticeRefusal, "refused", nil
	}
	return store.NoticeAccess, "asked", nil
}

// remind has those told who let a deadline pass, and drops what has ended long ago.
func (b *Broker) remind(ctx context.Context) error {
	now := b.overBy()
	for _, step := range []func(limit int) (int64, error){
		func(limit int) (int64, error) {
			n, err := b.store.RemindContests(ctx, now, limit)
			return int64(n), err
		},
		func(limit int) (int64, error) { return b.store.DropContests(ctx, now.Add(-b.cfg.Retention), limit) },
		func(limit int) (int64, error) { return b.store.DropErasureRequests(ctx, now.Add(-erasureShown), limit) },
		func(limit int) (int64, error) { return b.store.DropDelegations(ctx, now.Add(-b.cfg.Retention), limit) },
	} {
		if err := inPages(100, step); err != nil {
			return err
		}
	}
	return nil
}
