package broker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
)

// A Mailer hands a mail over. When Send returns nil, the mail was taken; mail.ErrRefused says that the address gets no mail, mail.ErrDown that nobody does now, every other error that it may be tried again. All methods may be called concurrently.
type Mailer interface {
	Send(context.Context, *mail.Message) error
}

const (
	mailsARound = 32
	// mailTries bounds how often a mail is tried: with the pauses of mailPause, for about four days.
	mailTries = 20
	// maxBounces is after how many refusals, one after the other, an address gets nothing more.
	maxBounces = 3
)

// mailPause is the pause after so many tries that failed.
func mailPause(tries int64) time.Duration {
	return min(time.Minute<<min(tries, 16), 6*time.Hour)
}

type mailStats struct{ sent, failed, refused, dropped atomic.Int64 }

// Mails counts what became of mails since the start.
type Mails struct {
	Sent    int64
	Failed  int64 // attempts
	Refused int64 // by the address's own server, for good
	Dropped int64 // given up
	Waiting int64
}

// Mails counts.
func (b *Broker) Mails(ctx context.Context) (Mails, error) {
	m := Mails{Sent: b.mails.sent.Load(), Failed: b.mails.failed.Load(), Refused: b.mails.refused.Load(), Dropped: b.mails.dropped.Load()}
	var err error
	m.Waiting, err = b.store.Waiting(ctx)
	return m, err
}

// sendMails sends what is in the outbox until the broker stops. A mail server that is slow or down holds up nothing else.
func (b *Broker) sendMails(ctx context.Context) {
	defer b.work.Done()
	if b.cfg.Mail == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { <-b.stopping; cancel() }()
	t := time.NewTicker(b.cfg.SweepEvery)
	defer t.Stop()
	for {
		select {
		case <-b.stopping:
			return
		case <-t.C:
		}
		if !b.leads() {
			continue
		}
		if err := b.sendDue(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("sending mails", "error", err)
		}
	}
}

// sendDue sends what is due. After a failure that isn't one letter's own, the rest waits for the next round: a server that hangs costs no more than one letter's time, and one try of one letter.
func (b *Broker) sendDue(ctx context.Context) error {
	for {
		n, err := b.store.Digests(ctx, b.now(), 100)
		if err != nil {
			return err
		}
		if n < 100 {
			break
		}
	}
	for {
		letters, err := b.store.Letters(ctx, b.now(), mailsARound)
		if err != nil || len(letters) == 0 {
			return err
		}
		for i := range letters {
			if down, err := b.sendLetter(ctx, &letters[i]); down || err != nil {
				return err
			}
		}
	}
}

// sendLetter sends one, and notes what became of it; down: no other would be taken now.
func (b *Broker) sendLetter(ctx context.Context, l *store.Letter) (down bool, err error) {
	m, err := b.write(ctx, l)
	if unreadable(err) || errors.Is(err, mail.ErrInvalid) { // others can be written
		b.mails.failed.Add(1)
		b.log.Error("a mail can't be written: what is stored for it is damaged", "kind", string(l.Kind), "agency", l.Agency, "error", err)
		return false, b.again(ctx, l)
	}
	if err != nil {
		return false, err
	}
	if m == nil { // nobody to send it to any more
		return false, b.store.Sent(ctx, l.ID)
	}
	err = b.cfg.Mail.Send(ctx, m)
	if ctx.Err() != nil {
		return false, ctx.Err() // it may have been taken: it is sent again, under the same id
	}
	return errors.Is(err, mail.ErrDown), b.noteLetter(ctx, l, err)
}

// noteLetter keeps what came of sending one.
func (b *Broker) noteLetter(ctx context.Context, l *store.Letter, err error) error {
	person := !l.Account.IsZero()
	switch {
	case err == nil:
		b.mails.sent.Add(1)
		if person {
			return b.store.Delivered(ctx, l)
		}
		return b.store.Sent(ctx, l.ID)
	case errors.Is(err, mail.ErrRefused) && person:
		b.mails.refused.Add(1)
		return b.store.Bounced(ctx, l, maxBounces)
	case errors.Is(err, mail.ErrRefused):
		b.mails.refused.Add(1)
		b.log.Error("an agency's address gets no mail: correct it (regard agency set)", "agency", l.Agency, "address", l.Role)
	default:
		b.mails.failed.Add(1)
		b.log.Warn("a mail was not taken; it is tried again", "kind", string(l.Kind), "tries", l.Tries+1, "error", err)
	}
	return b.again(ctx, l)
}

// again has one tried again, or given up.
func (b *Broker) again(ctx context.Context, l *store.Letter) error {
	if l.Tries+1 >= mailTries {
		b.mails.dropped.Add(1)
		b.log.Error("a mail is given up", "kind", string(l.Kind), "agency", l.Agency)
		return b.store.Sent(ctx, l.ID)
	}
	return b.store.Retry(ctx, l.ID, b.now().Add(mailPause(l.Tries)))
}

// write makes the mail; nil if there is nobody to send it to.
func (b *Broker) write(ctx context.Context, l *store.Letter) (*mail.Message, error) {
	id, err := b.ring.Digest("mail id", fmt.Appendf(nil, "%d %d", l.ID, l.Created.UnixMilli()))
	if err != nil {
		return nil, keysProblem(err)
	}
	m := &mail.Message{ID: hex.EncodeToString(id[:16]), Date: l.Created, Lang: "fr"}
	if l.Account.IsZero() {
		return b.writeAgency(ctx, l, m)
	}
	c, err := b.store.Citizen(ctx, l.Account)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.Lang = c.Lang
	if l.Kind == store.LetterConfirm {
		if m.To, err = b.address(ctx, c.Account, c.Pending); err != nil || m.To.IsZero() {
			return nil, err
		}
		token, err := b.token(useConfirm, c.Confirm)
		m.Subject, m.Body = mail.Confirm(c.Lang, mail.Link(b.cfg.Portal, mail.PageConfirm, token), int(confirmFor.Hours()))
		return m, err
	}
	if m.To, err = b.address(ctx, c.Account, c.Address); err != nil || m.To.IsZero() || c.Mail == 0 {
		return nil, err
	}
	token, err := b.token(useUnsubscribe, c.Unsubscribe)
	m.Unsubscribe = mail.Link(b.cfg.Portal, mail.PageUnsubscribe, token)
	m.Subject, m.Body = mail.News(c.Lang, mail.Link(b.cfg.Portal, mail.PageNotices, ""), m.Unsubscribe)
	return m, err
}

// writeAgency makes one about a contest, unless that has ended meanwhile.
func (b *Broker) writeAgency(ctx context.Context, l *store.Letter, m *mail.Message) (*mail.Message, error) {
	a, ok := b.registry.Load().agencies[l.Agency]
	address := map[string]string{store.RoleContact: a.Contact, store.RoleDPO: a.DPO}[l.Role]
	if !ok || address == "" {
		return nil, nil
	}
	c, err := b.store.Contest(ctx, l.Ref, l.Agency, keys.Owner{})
	if errors.Is(err, store.ErrNotFound) || err == nil && c.State != store.ContestOpen {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if m.To, err = mail.ParseAddress(address); err != nil {
		return nil, err
	}
	m.Subject, m.Body = mail.Contest(uuid.UUID(c.ID).String(), c.Due, l.Kind == store.LetterOverdue)
	return m, nil
}

func randomID() (id store.ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// token names something in a link: its id and a keyed digest, so that the store alone can't make one, and nobody can guess one.
func (b *Broker) token(use string, id store.ID) (string, error) {
	mac, err := b.ring.Digest(use, id[:])
	return base64.RawURLEncoding.EncodeToString(append(id[:], mac[:]...)), err
}

func errBadToken() *Problem {
	return &Problem{Status: 404, Code: "token.invalid", Title: "This link is not valid, or not any more.", Detail: "Sign in to ask for another."}
}

func (b *Broker) readToken(use, token string) (id store.ID, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(token) > 128 || len(raw) != len(id)+32 {
		return id, errBadToken()
	}
	copy(id[:], raw)
	mac, err := b.ring.Digest(use, id[:])
	if err != nil {
		return id, keysProblem(err)
	}
	if !hmac.Equal(mac[:], raw[len(id):]) {
		return id, errBadToken()
	}
	return id, nil
}
